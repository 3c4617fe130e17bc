// swift-tools-version: 6.2
import Foundation
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]

let package = Package(
  name: "msctl",
  products: [
    .executable(name: "msctl", targets: ["msctl"]),
    .library(name: "MsctlCore", targets: ["MsctlCore"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-collections", from: "1.1.0"),
    .package(url: "https://github.com/apple/swift-system", from: "1.7.0"),
  ],
  targets: [
    .systemLibrary(name: "CCurl", pkgConfig: "libcurl", providers: [.apt(["libcurl4-openssl-dev"])]),
    .systemLibrary(name: "CPosix"),
    .systemLibrary(name: "CRabbitMQ", pkgConfig: "librabbitmq", providers: [.apt(["librabbitmq-dev"])]),
    .target(name: "CommandTable", swiftSettings: strict),
    .target(
      name: "MsctlCore",
      dependencies: [
        "CCurl", "CPosix", "CRabbitMQ",
        .product(name: "DequeModule", package: "swift-collections"),
        .product(name: "SystemPackage", package: "swift-system"),
      ],
      swiftSettings: strict),
    .target(
      name: "MsctlCommands",
      dependencies: [
        "CommandTable", "CPosix", "MsctlCore", .product(name: "DequeModule", package: "swift-collections"),
        .product(name: "HeapModule", package: "swift-collections"),
      ],
      swiftSettings: strict),
    .executableTarget(name: "msctl", dependencies: ["MsctlCommands"], swiftSettings: strict),
    .target(name: "Support", dependencies: ["MsctlCore"], path: "Tests/Support", swiftSettings: strict),
    .target(
      name: "Simulation",
      dependencies: ["MsctlCore", .product(name: "DequeModule", package: "swift-collections")],
      path: "Tests/SimulationTests/Simulation", swiftSettings: strict),
    .executableTarget(
      name: "Simulate", dependencies: ["Simulation", "MsctlCore"], path: "Tests/SimulationTests/Simulate",
      swiftSettings: strict),
    .testTarget(
      name: "SimulationTests", dependencies: ["Simulation", "MsctlCore"], path: "Tests/SimulationTests",
      exclude: ["Simulation", "Simulate", "mutants.toml"], swiftSettings: strict),
    .testTarget(name: "CommandTableTests", dependencies: ["CommandTable"], swiftSettings: strict),
    .testTarget(name: "MsctlCoreTests", dependencies: ["MsctlCore"], swiftSettings: strict),
    .testTarget(
      name: "MsctlCommandsTests", dependencies: ["MsctlCommands"], exclude: ["wording.txt"], swiftSettings: strict),
    .testTarget(
      name: "IntegrationTests", dependencies: ["Support", "MsctlCore", "MsctlCommands", "msctl"], swiftSettings: strict),
  ],
  swiftLanguageModes: [.v6]
)

// Part of the bench, and of nothing else.
if ProcessInfo.processInfo.environment["MSCTL_BENCH"] != nil {
  package.products.append(.executable(name: "JSONPipe", targets: ["JSONPipe"]))
  package.targets.append(
    .executableTarget(
      name: "JSONPipe", dependencies: ["MsctlCore"], path: "Tests/Bench/JSONPipe", swiftSettings: strict))
}

// The fuzz target has no main of its own and needs the sanitizer's; Scripts/fuzz asks for it.
if ProcessInfo.processInfo.environment["MSCTL_FUZZ"] != nil {
  package.products.append(.executable(name: "Fuzz", targets: ["Fuzz"]))
  package.targets.append(
    .executableTarget(
      name: "Fuzz", dependencies: ["CRabbitMQ", "CommandTable", "MsctlCore", "MsctlCommands"], path: "Tests/Fuzz",
      // The default linker stumbles over the sanitizers' sections.
      linkerSettings: [.unsafeFlags(["-use-ld=lld"])]))
}
