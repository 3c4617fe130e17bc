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
    #expect(!shown.isEmpty && shown == run)
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
