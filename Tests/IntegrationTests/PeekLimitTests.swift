import Foundation
import Support
import Testing

/// RabbitMQ 4.0 to 4.2 count each return to a quorum queue, and drop a message at the 21st.
@Suite("--peek where each return counts", .serialized)
struct PeekLimitTests {
  private static let quorum = #"{"x-queue-type":"quorum"}"#

  /// Takes the first messages of a queue, and returns them.
  private func returned(_ queue: String, count: Int = 1, times: Int = 1) async throws {
    for _ in 0..<times {
      _ = try await Services.management(
        "POST", "/queues/%2F/\(queue)/get",
        body: #"{"count":\#(count),"ackmode":"ack_requeue_true","encoding":"auto"}"#)
    }
  }

  /// A queue of 1, 2 and then 3, of which 3 came back 19 times.
  private func withSpentLast(_ body: (String) async throws -> Void) async throws {
    try await withQueue(arguments: Self.quorum) { queue in
      _ = try await Tool.run("publish", queue, "--passive", "3")
      try await returned(queue, times: 18)
      let holder = try Tool.start("consume", queue, "--prefetch", "1", "--exec", "echo held >&2; exec sleep 300")
      try await eventually("3 is held") { holder.err.contains("held") }
      // What came back comes first, in the order in which it came back.
      _ = try await Tool.run("publish", queue, "--passive", input: "1 2")
      try await returned(queue, count: 2)
      holder.signal(SIGKILL)
      _ = try await holder.end()
      try await eventually("all are there") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains(#""messages_ready":3"#)
      }
      try await body(queue)
    }
  }

  @Test("a message behind others has its last return looked at, too", arguments: [[], ["-n", "2"]])
  func unequal(_ words: [String]) async throws {
    guard Services.promises.countsReturns else { return }
    try await withSpentLast { queue in
      var statuses: Set<Int32> = []
      for _ in 1...4 {
        let output = try await RunningProcess(Tool.binary, ["consume", queue, "--peek"] + words).end()
        statuses.insert(output.status)
        if output.status == 1 {
          #expect(output.err.contains("the broker drops it after 20 (delivery limit)"), "\(output.err)")
          #expect(output.err.contains("It was published again, to the end of the queue."))
        }
      }
      #expect(statuses.contains(1))
      #expect(Set(try await Tool.run("consume", queue, "--drain").lines) == ["1", "2", "3"])
    }
  }

  @Test("a limit that the queue was declared with is found out")
  func declaredLimit() async throws {
    // Also before 4.0 each return counts, if there is a limit.
    guard Services.promises.countsReturns || !Services.promises.limitsDeliveries else { return }
    try await withQueue(arguments: #"{"x-queue-type":"quorum","x-delivery-limit":3}"#) { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) --passive -q")
      var statuses: Set<Int32> = []
      for _ in 1...7 {
        let output = try await Tool.run("consume", queue, "--peek")
        statuses.insert(output.status)
        if output.status == 1 { #expect(output.err.contains("drops it after 3 (delivery limit)"), "\(output.err)") }
      }
      #expect(statuses == [0, 1])
      #expect(try await Tool.run("consume", queue, "--drain").lines.sorted() == ["1", "2", "3"])
    }
  }

  @Test("several that have no return left are all published again")
  func several() async throws {
    guard Services.promises.countsReturns else { return }
    try await withQueue(arguments: Self.quorum) { queue in
      _ = try await Tool.shell("seq 5 | msctl publish \(queue) --passive -q")
      try await returned(queue, count: 5, times: 19)
      var statuses: [Int32] = []
      for _ in 1...8 { statuses.append(try await Tool.run("consume", queue, "--peek").status) }
      #expect(statuses[0] == 1)
      #expect(statuses.last == 0)
      #expect(try await Tool.run("consume", queue, "--drain").lines.sorted() == ["1", "2", "3", "4", "5"])
    }
  }

  @Test("a message that bears the name of another user is not lost")
  func otherUser() async throws {
    guard Services.promises.countsReturns else { return }
    try await withUser(writes: true) { uri, name in
      try await withQueue(arguments: Self.quorum) { queue in
        let published = try await Tool.run(
          "publish", queue, "--passive", "1", "--user-id", name, "--type", "t", environment: ["AMQP_URL": uri])
        #expect(published.status == 0, "\(published.err)")
        try await returned(queue, times: 19)
        let output = try await Tool.run("consume", queue, "--peek")
        #expect(output.status == 1)
        #expect(output.err.contains("1 without user_id, which only that user may set."), "\(output.err)")
        for _ in 1...3 { #expect(try await Tool.run("consume", queue, "--peek").out == "1\n") }
        let rest = try await Tool.run("consume", queue, "--drain", "--envelope")
        #expect(rest.out.contains(#""body":1,"#) && rest.out.contains(#""type":"t""#), "\(rest.out)")
      }
    }
  }

  @Test("a message that cannot be published again is requeued, and named")
  func full() async throws {
    guard Services.promises.countsReturns else { return }
    let full = #"{"x-queue-type":"quorum","x-max-length":1,"x-overflow":"reject-publish"}"#
    try await withQueue(arguments: full) { queue in
      _ = try await Tool.run("publish", queue, "--passive", "1", "--message-id", "m")
      // A quorum queue may take one more than its limit.
      _ = try await Tool.run("publish", queue, "--passive", "2")
      try await returned(queue, times: 19)
      let output = try await Tool.run("consume", queue, "--peek")
      #expect(output.status == 1)
      #expect(output.err.contains("message m came back 19 times"), "\(output.err)")
      #expect(Set(try await Tool.run("consume", queue, "--drain").lines).isSuperset(of: ["1"]))
    }
  }

  @Test("a signal is heard while the broker does not let in the connection for copies")
  func silentBroker() async throws {
    guard Services.promises.countsReturns || !Services.promises.limitsDeliveries else { return }
    let proxy = try FaultProxy(to: brokerPort) { $0 == 0 ? .none : .stall(.down, after: 0) }
    try await withQueue(arguments: #"{"x-queue-type":"quorum","x-delivery-limit":3}"#) { queue in
      _ = try await Tool.run("publish", queue, "--passive", "1")
      // Nothing but the signal ends it for the time of this test.
      let uri = "amqp://127.0.0.1:\(proxy.port)?connection_timeout=600000"
      let peek = try Tool.start("consume", queue, "--peek", environment: ["AMQP_URL": uri])
      try await eventually("the second connection is tried") { proxy.connections == 2 }
      peek.signal(SIGTERM)
      #expect(try await peek.end().status == 128 + SIGTERM)
      #expect(try await Tool.run("consume", queue, "--drain").out == "1\n")
    }
  }

  @Test("a user who may not publish does not peek there")
  func readOnly() async throws {
    guard Services.promises.countsReturns else { return }
    try await withUser(writes: false) { uri, name in
      try await withQueue(arguments: Self.quorum) { queue in
        _ = try await Tool.run("publish", queue, "--passive", "1")
        for _ in 1...22 {
          let output = try await Tool.run("consume", queue, "--peek", environment: ["AMQP_URL": uri])
          #expect(output.status == 6)
          #expect(output.err.contains("cannot peek at '\(queue)': the broker counts each return"), "\(output.err)")
        }
        #expect(try await Tool.run("consume", queue, "--drain").out == "1\n")
      }
    }
  }
}
