# What can be done here. Every target works from a fresh clone.
.PHONY: setup services-setup bench-setup shop-setup build test options bench bench-quick shop shop-test faults compat chaos fuzz simulate simulate-mutants sanitize documents docs format lint demo install uninstall deb test-deb test-shared dist

# The optimised binary: one static executable that needs no library of the machine it runs on, made of Debian's own static
# libraries (CONTRIBUTING.md says why at a fixed address). LINK=shared makes one that is linked with the libraries of this machine (the runtimes of Swift
# and C++ are inside all the same): for distributions, and for a machine without the static libraries.
LINK ?= static
# Where swift builds it: the other kind may stand beside it.
SCRATCH ?= .build
# The last switch: types are found by functions that the compiler has linked, not by names that are read and searched for at run
# time, which is a third of what a short command computes.
RELEASE = -c release --static-swift-stdlib -Xswiftc -enforce-exclusivity=unchecked -Xlinker -s $(RELEASE_$(LINK)) \
  -Xswiftc -Xfrontend -Xswiftc -disable-concrete-type-metadata-mangled-name-accessors
# In one group, since each refers to others.
RELEASE_static = --disable-local-rpath -Xswiftc -static-executable -Xswiftc -use-ld=lld \
  -Xlinker --gc-sections -Xlinker $(CURDIR)/.build/static/absent.o -Xlinker --start-group \
  $(foreach library,curl rabbitmq nghttp2 psl idn2 unistring zstd brotlidec brotlicommon ssl crypto z,-Xlinker -l$(library)) \
  -Xlinker --end-group
# Loading the C++ runtime takes a millisecond, which is why no symbols are exported either.
RELEASE_shared = -Xlinker --no-export-dynamic -Xlinker -L$(CURDIR)/.build/static -Xswiftc -Xclang-linker -Xswiftc -static-libgcc

setup:
	@Scripts/setup build

services-setup: setup
	@Scripts/setup services

# SwiftPM does not know this file.
.build/static/absent.o: Sources/CCurl/absent.c
	@mkdir -p .build/static && rm -f .build/release/msctl
	clang -O2 -Wall -Werror -c $< -o $@

build: setup .build/static/absent.o
	@mkdir -p .build/static && ln -sf "$$(clang -print-file-name=libstdc++.a)" .build/static
	swift build $(RELEASE) --scratch-path $(SCRATCH) --product msctl

# Where things go: make install PREFIX=/usr DESTDIR=/tmp/stage
PREFIX ?= /usr/local
INSTALLED = $(DESTDIR)$(PREFIX)
MAN = $(INSTALLED)/share/man/man1
BASH_COMPLETIONS = $(INSTALLED)/share/bash-completion/completions
# Debian's zsh looks there; others have site-functions under their own prefix.
ZSH_COMPLETIONS = $(INSTALLED)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
FISH_COMPLETIONS = $(INSTALLED)/share/fish/vendor_completions.d
DOC = $(INSTALLED)/share/doc/msctl

install:
	@test -x .build/release/msctl || { echo "run 'make build' first" >&2; exit 1; }
	install -D -m 755 .build/release/msctl "$(INSTALLED)/bin/msctl"
	install -d "$(MAN)"
	install -m 644 man/*.1 "$(MAN)"
	install -D -m 644 completions/msctl.bash "$(BASH_COMPLETIONS)/msctl"
	install -D -m 644 completions/_msctl "$(ZSH_COMPLETIONS)/_msctl"
	install -D -m 644 completions/msctl.fish "$(FISH_COMPLETIONS)/msctl.fish"
	install -d "$(DOC)"
	Scripts/licences >"$(DOC)/licences.txt"

uninstall:
	rm -rf "$(DOC)"
	rm -f "$(INSTALLED)/bin/msctl" $(patsubst man/%,"$(MAN)/%",$(wildcard man/*.1))
	rm -f "$(BASH_COMPLETIONS)/msctl" "$(ZSH_COMPLETIONS)/_msctl" "$(FISH_COMPLETIONS)/msctl.fish"

# A Debian package and a tarball, in .build/packages.
deb: build
	Scripts/deb .build/packages

test-deb: build services-setup
	Scripts/test-deb

# The file with its man pages, completions and licences, to unpack anywhere, and a checksum.
dist: build
	Scripts/dist .build/packages

# Unit tests, and integration tests of the release binary on private RabbitMQ and Consul.
test: build services-setup
	swift build --build-tests
	MSCTL_TEST_BINARY="$(CURDIR)/.build/release/msctl" Scripts/services run -- swift test --skip-build

# The machines of the core in a simulated world, without real time: SEEDS schedules from FIRST on; SEED=n runs one again, and shows what
# happens in the shortest that breaks the same rule. WORLD=name runs one world alone.
simulate:
	swift build -c release --product Simulate --scratch-path .build/simulate
	@SEEDS="$(SEEDS)" SEED="$(SEED)" FIRST="$(FIRST)" WORLD="$(WORLD)" THREADS="$(THREADS)" .build/simulate/release/Simulate

# Small breaks of the machines on purpose: each must be found by the simulated world.
simulate-mutants:
	@SEEDS="$(SEEDS)" Scripts/mutants

# That the executable of LINK=shared runs, too, with the libraries of this machine.
test-shared: services-setup
	@$(MAKE) --no-print-directory build LINK=shared SCRATCH=.build/shared
	Scripts/services run -- Scripts/test-shared .build/shared/release/msctl

# That each option has a test which fails where the option does nothing. VERB=call: those of one verb.
options: services-setup
	swift build --build-tests
	Scripts/services run -- Scripts/options $(VERB)

# Faults of network and broker, with a table of what was lost: nothing.
faults: build services-setup
	swift build --build-tests
	MSCTL_TEST_BINARY="$(CURDIR)/.build/release/msctl" Scripts/services run -- Scripts/faults

# Messages, pipes, recovery, tutorials and faults on RabbitMQ 4.0 and 4.3, and msctl built and tested with the libraries of Debian 13 and
# of unstable; ends with a table. Root only, since both come in chroots.
compat: build services-setup
	swift build --build-tests
	MSCTL_TEST_BINARY="$(CURDIR)/.build/release/msctl" Scripts/compat
	Scripts/services run -- Scripts/libraries trixie test
	Scripts/services run -- Scripts/libraries sid test

# Everything around publishers and consumers is broken, by SEED, for MINUTES; nothing may be lost. RABBITMQ chooses the broker.
MINUTES ?= 2
chaos: build services-setup
	MSCTL_TEST_BINARY="$(CURDIR)/.build/release/msctl" Scripts/services run -- Scripts/chaos $(or $(SEED),1) $(MINUTES)

# msctl beside what people use today, with medians, ratios, goals and plots: BENCHMARKS.md and Tests/Bench/plots. bench-quick: less
# of all, in a few minutes.
BENCH = Scripts/services run -- Scripts/bench
bench: bench-setup
	$(BENCH) BENCHMARKS.md

bench-quick: bench-setup
	$(BENCH) --quick .build/bench/quick.md

bench-setup: build services-setup
	@Scripts/setup bench
	@mkdir -p .build/bench
	@# As it is installed: a file that was copied is loaded in larger pieces than the one that the linker has left.
	install -m 755 .build/release/msctl .build/bench/msctl
	clang -O2 -o .build/bench/measure Tests/Bench/measure.c
	clang -O2 -Wno-deprecated-declarations -o .build/bench/loop Tests/Bench/loop.c -lrabbitmq
	MSCTL_BENCH=1 swift build $(RELEASE) --scratch-path .build/bench/swift --product JSONPipe
	ln -sf swift/release/JSONPipe .build/bench/JSONPipe

# The system in Examples/shop: to look at, and as the end-to-end test.
shop: shop-setup
	@Scripts/services run -- Examples/shop/shop run

ORDERS ?= 1000
shop-test: shop-setup
	Scripts/services run -- Examples/shop/shop test $(ORDERS)

shop-setup: build services-setup
	@Scripts/setup shop
	swift build --package-path Examples/shop

# The man pages and completions, from the command table.
documents: setup
	swift build --build-tests
	-MSCTL_RECORD=1 swift test --skip-build --filter "DocumentTests|WordingTests" >/dev/null 2>&1
	swift test --skip-build --filter "DocumentTests|WordingTests"

# The integration tests with a binary that watches its own memory (SANITIZER=thread: its threads). Left out is what limits memory itself.
SANITIZER ?= address
sanitize: services-setup
	swift build --sanitize=$(SANITIZER) --scratch-path .build-$(SANITIZER) --product msctl
	swift build --build-tests
	MSCTL_TEST_BINARY="$(CURDIR)/.build-$(SANITIZER)/debug/msctl" Scripts/services run -- \
	  swift test --skip-build --filter IntegrationTests --skip decompressionBomb

SWIFT_FILES = Sources Tests Package.swift Examples/shop/Sources Examples/shop/Package.swift
format:
	swift format -i -r -p $(SWIFT_FILES)

lint:
	@Scripts/setup lint
	Scripts/lint-text
	swift format lint --strict -r -p $(SWIFT_FILES)
	shellcheck .ci/run Scripts/setup Scripts/services Scripts/debian Scripts/libraries Scripts/compat Scripts/test-setup Scripts/demo Scripts/deb Scripts/dist Scripts/licences Scripts/test-deb Scripts/test-roots Scripts/test-shared Scripts/faults Scripts/fuzz Scripts/docs Examples/shop/shop
	.build/lint/bin/ruff check -q --no-cache --config Scripts/ruff.toml Scripts/chaos Scripts/bench Scripts/lint-text Scripts/mutants Scripts/options Scripts/demo-service Tests/Bench
	@# The plots that BENCHMARKS.md shows are there, and are XML.
	@grep -oE 'Tests/Bench/plots/[a-z-]+\.svg' BENCHMARKS.md | xargs python3 -c 'import sys, xml.dom.minidom; [xml.dom.minidom.parse(file) for file in sys.argv[1:]]'

# The documentation of MsctlCore, for Swift programs: a site in .build/docs/site.
docs: setup
	Scripts/docs

# Random input for the readers, for SECONDS.
SECONDS ?= 60
fuzz: setup
	Scripts/fuzz $(SECONDS)

# The five verbs on real services.
demo: build services-setup
	@Scripts/services run -- Scripts/demo "$(CURDIR)/.build/release"
