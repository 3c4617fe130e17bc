# What can be done here. Every target works from a fresh clone.
.PHONY: setup services-setup build test faults fuzz documents format lint demo

# The optimised binary: the Swift runtime inside, symbols stripped, so that it runs where no Swift is.
RELEASE = -c release --static-swift-stdlib -Xlinker -s

setup:
	@Scripts/setup build

services-setup: setup
	@Scripts/setup services

build: setup
	swift build $(RELEASE) --product msctl

# Unit tests, and integration tests of the release binary on private RabbitMQ and Consul.
test: build services-setup
	swift build --build-tests
	MSCTL_TEST_BINARY="$(CURDIR)/.build/release/msctl" Scripts/services run -- swift test --skip-build

# Faults of network and broker, with a table of what was lost: nothing.
faults: build services-setup
	swift build --build-tests
	MSCTL_TEST_BINARY="$(CURDIR)/.build/release/msctl" Scripts/services run -- Scripts/faults

# The man pages and completions, from the command table.
documents: setup
	swift build --build-tests
	-MSCTL_RECORD=1 swift test --skip-build --filter DocumentTests >/dev/null 2>&1
	swift test --skip-build --filter DocumentTests

format:
	swift format -i -r -p Sources Tests Package.swift

lint:
	@Scripts/setup lint
	swift format lint --strict -r -p Sources Tests Package.swift
	shellcheck .ci/run Scripts/setup Scripts/services Scripts/demo Scripts/faults Scripts/fuzz

# Random input for the readers, for SECONDS.
SECONDS ?= 60
fuzz: setup
	Scripts/fuzz $(SECONDS)

# The five verbs on real services.
demo: build services-setup
	@Scripts/services run -- Scripts/demo "$(CURDIR)/.build/release"
