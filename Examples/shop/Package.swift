// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]

// FlyingFox, and not Hummingbird, since these services need routes and JSON and nothing else, and it builds in a minute where
// SwiftNIO takes four.
let package = Package(
  name: "shop",
  dependencies: [
    .package(name: "msctl", path: "../.."),
    .package(url: "https://github.com/swhitty/FlyingFox", from: "0.27.1"),
    .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
  ],
  targets: [
    .target(
      name: "ShopKit",
      dependencies: [
        .product(name: "MsctlCore", package: "msctl"),
        "FlyingFox",
        .product(name: "GRDB", package: "GRDB.swift"),
      ],
      swiftSettings: strict),
    .executableTarget(
      name: "user-service", dependencies: ["ShopKit"], path: "Sources/UserService", swiftSettings: strict),
    .executableTarget(
      name: "order-service", dependencies: ["ShopKit"], path: "Sources/OrderService", swiftSettings: strict),
    .executableTarget(
      name: "pay-service", dependencies: ["ShopKit"], path: "Sources/PayService", swiftSettings: strict),
    .executableTarget(
      name: "notif-service", dependencies: ["ShopKit"], path: "Sources/NotifService", swiftSettings: strict),
  ],
  swiftLanguageModes: [.v6]
)
