import Foundation
import MsctlCore
import Support
import Synchronization
import Testing

/// The Swift code of the documentation's landing page: compiled here, run on real services, and compared with the page. Its addresses and
/// names are variables here.
@Suite("The landing page", .serialized)
struct LandingPageTests {
  @Test("shows the code that the tests run")
  func same() throws {
    let page = try String(contentsOfFile: Self.page, encoding: .utf8)
    let tests = try String(contentsOfFile: #filePath, encoding: .utf8)
    let shown = Self.blocks(of: page, from: "```swift", to: "```")
    let run = Self.blocks(of: tests, from: "// The page:", to: "// To here.").map { block in
      Self.literals.reduce(block) { $0.replacingOccurrences(of: $1.variable, with: $1.literal) }
    }
    #expect(!shown.isEmpty && Set(shown) == Set(run))
  }

  @Test("calls, registers and discovers")
  func services() async throws {
    try await withService { userService in
      let server = try TestServer { request in .ok(request.target == "/users/42" ? #"{"name":"Ada"}"# : "{}") }
      try await Services.register(userService, server.port, as: "one")
      let (consulURL, id) = (Services.consul, 42)
      // The page:
      let services = try ServiceClient(consul: consulURL)
      let user = try await services.call(userService, path: "/users/\(id)").validated().json()
      let name = user["name"]?.string
      // To here.
      #expect(name == "Ada")
      // The page:
      try await services.call(
        userService, .post, path: "/users", body: .json(#"{"name":"Ada"}"#), idempotencyKey: "user-1")
      // To here.
      #expect(server.requests.last?.header("idempotency-key") == "user-1")
      try await withService { orderService in try await registers(services, orderService, server.port) }
    }
  }

  private func registers(_ services: ServiceClient, _ orderService: String, _ port: Int) async throws {
    @Sendable func serve() async throws {
      try await eventually("it is registered") { try await !services.discover(orderService).isEmpty }
      // The page:
      for instance in try await services.discover(orderService) {
        print(instance.url)
      }
      // To here.
    }
    // The page:
    try await services.register(orderService, port: port, address: "127.0.0.1") {
      try await serve()
    }
    // To here.
    #expect(try await services.discover(orderService).isEmpty)
  }

  @Test("publishes, one by one and many at once, and consumes")
  func messages() async throws {
    try await withQueue { orders in
      let brokerURI = Services.broker
      // The page:
      let broker = try await Broker.connect(to: brokerURI)
      try await broker.declareQueue(orders)
      try await broker.publish(#"{"id":1}"#, to: orders)
      // To here.
      // The page:
      try await withThrowingTaskGroup { group in
        for id in 2...100 {
          group.addTask { try await broker.publish(#"{"id":\#(id)}"#, to: orders) }
        }
        try await group.waitForAll()
      }
      // To here.
      let handled = Handled()
      @Sendable func handle(_ id: Int64?) { handled.insert(id) }
      let consuming = Task {
        // The page:
        for try await message in broker.messages(of: orders) {
          let order = try JSONValue(parsing: message.body)
          handle(order["id"]?.integer)
          try await message.acknowledge()
        }
        // To here.
      }
      try await eventually("all are handled") { handled.all == Set(1...100) }
      try await eventually("all are acknowledged") { try await Services.messages(in: orders).isEmpty }
      consuming.cancel()
      _ = await consuming.result
      // The page:
      do {
        try await broker.publish(#"{"id":1}"#, to: "no-such-queue")
      } catch let failure as Failure where failure.code == .notDelivered {
        print("no queue has the message: \(failure)")
      }
      // To here.
    }
  }

  // MARK: Comparing

  private static let page = ShellTests.root + "/Sources/MsctlCore/MsctlCore.docc/MsctlCore.md"
  /// What the page writes out.
  private static let literals: [(variable: String, literal: String)] = [
    ("consulURL", #""http://127.0.0.1:8500""#), ("(userService,", #"("user-service","#),
    ("  userService,", #"  "user-service","#), ("(orderService", #"("order-service""#), ("port: port", "port: 3000"),
    ("brokerURI", #""amqp://localhost""#), ("to: orders", #"to: "orders""#), ("of: orders", #"of: "orders""#),
    ("(orders)", #"("orders")"#),
  ]

  /// The lines between such lines, without what all of them are indented by.
  private static func blocks(of text: String, from begin: String, to end: String) -> [String] {
    var blocks: [[Substring]] = []
    var isInside = false
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      let words = line.trimmingCharacters(in: .whitespaces)
      if words == end {
        isInside = false
      } else if words == begin {
        isInside = true
        blocks.append([])
      } else if isInside {
        blocks[blocks.count - 1].append(line)
      }
    }
    return blocks.map { lines in
      let indent = lines.filter { !$0.isEmpty }.map { $0.prefix { $0 == " " }.count }.min() ?? 0
      return lines.map { String($0.dropFirst(indent)) }.joined(separator: "\n")
    }
  }
}

/// What the code of the page was given.
private final class Handled: Sendable {
  private let ids = Mutex<Set<Int64>>([])
  var all: Set<Int64> { ids.withLock { $0 } }
  func insert(_ id: Int64?) { if let id { _ = ids.withLock { $0.insert(id) } } }
}
