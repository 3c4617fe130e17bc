import Foundation
import MsctlCore
import Support
import Testing

@Suite("A redrive", .serialized)
struct RedriveTests {
  private static let redrive = ["--envelope", "--origin", "--through", "msctl publish --envelope --tee -q"]

  private func consume(_ queue: String, _ words: String...) async throws -> Output {
    try await RunningProcess(Tool.binary, ["consume", queue] + words + Self.redrive).end()
  }

  /// Envelopes without the mark that they have come before.
  private func messages(_ lines: [String]) throws -> [NSDictionary] {
    try lines.map { line in
      var envelope = try #require(JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
      envelope["redelivered"] = nil
      return envelope as NSDictionary
    }
  }

  /// A queue that takes its messages from a topic exchange, and whose dead letters go over a second queue, where they expire, to a
  /// third.
  private func withTwoDeaths(
    _ arguments: String, _ body: (_ queue: String, _ dead: String) async throws -> Void
  ) async throws {
    try await withDeadLetters([#""x-message-ttl":50"#, arguments]) { retry, dead in
      try await withQueue(
        arguments: #"{"x-dead-letter-exchange":"","x-dead-letter-routing-key":"\#(retry)",\#(arguments)}"#
      ) { queue in
        _ = try await Services.management(
          "POST", "/bindings/%2F/e/amq.topic/q/\(queue)", body: #"{"routing_key":"\#(queue).#"}"#)
        try await body(queue, dead)
      }
    }
  }

  /// Rejects all messages, and waits until they are dead.
  private func reject(_ count: Int, _ queue: String, _ dead: String) async throws {
    let rejected = try await Tool.run(
      "consume", queue, "--count", "\(count)", "--exec", "exit 1", "--on-error", "reject", "-q")
    #expect(rejected.status == 1, "\(rejected)")
    try await eventually("all are dead") { try await Services.messages(in: dead).count == count }
  }

  @Test(
    "takes dead letters to where they were first published, as they were, by --origin",
    arguments: [
      #""x-queue-type":"classic""#, #""x-queue-type":"quorum""#,
      #""x-queue-type":"quorum","x-dead-letter-strategy":"at-least-once","x-overflow":"reject-publish""#,
    ])
  func origin(_ arguments: String) async throws {
    try await withTwoDeaths(arguments) { queue, dead in
      let envelopes = (1...3).map {
        #"{"body":{"n": \#($0)},"exchange":"amq.topic","routingKey":"\#(queue).k\#($0)","properties":{"messageId":"m\#($0)","deliveryMode":2,"headers":{"CC":["\#(queue).copy"],"n":\#($0)}}}"#
      }
      #expect(try await Tool.run("publish", "-e", "-q", input: envelopes.joined(separator: "\n")).status == 0)
      try await reject(3, queue, dead)
      let shown = try await Tool.run("consume", dead, "--peek", "--envelope", "--origin")
      let published = try messages(envelopes)
      #expect(try messages(shown.lines) == published, "\(shown)")
      // A command of each message knows them, too.
      let known = try await Tool.run(
        "consume", dead, "--count", "1", "--origin", "--exec", "echo $MSCTL_EXCHANGE $MSCTL_ROUTING_KEY; exit 9",
        "--on-error", "stop")
      #expect(known.status == 9 && known.err.contains("amq.topic \(queue).k1\n"), "\(known)")
      let moved = try await consume(dead, "--drain")
      #expect(moved.status == 0 && moved.lines.count == 3, "\(moved)")
      #expect(try await Services.messages(in: dead).isEmpty)
      let back = try await Tool.run("consume", queue, "--drain", "--envelope")
      #expect(try messages(back.lines) == published, "\(back)")
    }
  }

  @Test("counts the attempts of a message also when it comes again after a break while its command runs")
  func renewed() async throws {
    let target = try #require(Services.broker.split(separator: ":").last.flatMap { Int($0) })
    try await withTwoDeaths(#""x-queue-type":"classic""#) { queue, dead in
      #expect(try await Tool.run("publish", "-x", "amq.topic", "-k", queue, "1", "-q").status == 0)
      try await reject(1, queue, dead)
      let proxy = try FaultProxy(to: target) { _ in .none }
      let consumer = try Tool.start(
        "consume", dead, "--count", "1", "--origin", "--max-attempts", "2", "-v", "--exec",
        "until test -e $HOME/go; do sleep 0.05; done; echo $MSCTL_EXCHANGE $MSCTL_ROUTING_KEY; exit 1",
        environment: ["AMQP_URL": "amqp://guest:guest@127.0.0.1:\(proxy.port)"])
      func count(_ text: String) -> Int { consumer.err.components(separatedBy: text).count - 1 }
      try await eventually("the message is there") { count("< basic.deliver") == 1 }
      proxy.cutAll()
      try await eventually("it has come again") { count("< basic.deliver") == 2 }
      let go = URL(fileURLWithPath: consumer.outputPath).deletingLastPathComponent().appendingPathComponent("go")
      try Data().write(to: go)
      #expect(try await consumer.end().status == 1)
      #expect(count("amq.topic \(queue)\n") == 2, "\(consumer.err)")
    }
  }

  @Test("does not make a broker take the next death for a cycle, in which it would drop the message")
  func cycle() async throws {
    try await withDeadLetters([#""x-message-ttl":50"#]) { queue, dead in
      #expect(try await Tool.run("publish", queue, "1", "-q").status == 0)
      for _ in 1...3 {
        try await eventually("it is dead") { try await Services.messages(in: dead).count == 1 }
        let moved = try await consume(dead, "--count", "1")
        #expect(moved.status == 0, "\(moved)")
      }
      try await eventually("it is dead again") { try await Services.messages(in: dead).count == 1 }
    }
  }

  @Test("ends at a message that is no dead letter, which stays, and what came before it is moved")
  func noDeadLetter() async throws {
    try await withTwoDeaths(#""x-queue-type":"classic""#) { queue, dead in
      #expect(try await Tool.run("publish", "-x", "amq.topic", "-k", queue, "1", "-q").status == 0)
      try await reject(1, queue, dead)
      #expect(try await Tool.run("publish", dead, "2", "--passive", "--message-id", "m2", "-q").status == 0)
      let moved = try await consume(dead, "--drain")
      #expect(moved.status == 9 && moved.err.showsOnly("notDeadLettered", with: ["id": "m2"]), "\(moved)")
      #expect(try await Services.messages(in: dead).map { $0["payload"] as? String } == ["2"])
      #expect(try await Services.messages(in: queue).map { $0["payload"] as? String } == ["1"])
      let shown = try await Tool.run("consume", dead, "--peek", "--envelope", "--origin")
      #expect(shown.status == 9 && shown.out == "", "\(shown)")
      #expect(try await Services.messages(in: dead).count == 1)
      let wrong = try await Tool.run("consume", dead, "--drain", "--origin")
      #expect(wrong.status == 2, "\(wrong)")
    }
  }

  @Test("loses no message, though any process of it is killed at any moment")
  func kills() async throws {
    let seed = UInt64.random(in: .min ... .max)
    var generator = SplitMix(seed: seed)
    try await withTwoDeaths(#""x-queue-type":"quorum""#) { queue, dead in
      let total = 300
      let keys = "-x amq.topic -k \(queue).k -q"
      #expect(try await Tool.shell("seq \(total) | msctl publish \(keys)").status == 0)
      try await reject(total, queue, dead)
      for _ in 0..<10 {
        let run = try RunningProcess(Tool.binary, ["consume", dead, "--drain", "--prefetch", "20"] + Self.redrive)
        try await Task.sleep(for: .milliseconds(Int.random(in: 0..<200, using: &generator)))
        let victim = ["consume \(dead)", "publish --envelope --tee -q$"].randomElement(using: &generator) ?? ""
        let words =
          victim.hasPrefix("consume") ? ["-KILL", "-f", "-o", victim] : ["-KILL", "-f", "-P", "\(run.pid)", victim]
        _ = try await RunningProcess("/usr/bin/pkill", words).end()
        _ = try await run.end()
      }
      var back: Set<String> = []
      // What the last one held is in the queue again once the broker has noticed its end.
      try await eventually("all are back (seed \(seed))") {
        let last = try await consume(dead, "--drain")
        #expect(last.status == 0, "seed \(seed): \(last)")
        back.formUnion(try await Tool.run("consume", queue, "--drain").lines)
        return back.count >= total
      }
      #expect(back == Set((1...total).map(String.init)), "seed \(seed)")
      try await eventually("none is dead") { try await Services.messages(in: dead).isEmpty }
    }
  }
}
