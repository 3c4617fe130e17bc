import Foundation
import Glibc
import Support
import Testing

@Suite("A command for a batch of messages", .serialized)
struct BatchTests {
  private func bodies(in queue: String) async throws -> [String] {
    try await Services.messages(in: queue).compactMap { $0["payload"] as? String }
  }

  /// One line for each batch.
  private static let lines = "echo $(cat)"
  /// A batch that is not full waits for longer than any test.
  private static let slow = ["--batch-time", "10h"]

  private func file(_ name: String, of process: RunningProcess) -> URL {
    URL(fileURLWithPath: process.outputPath).deletingLastPathComponent().appendingPathComponent(name)
  }

  @Test(
    "begins when it has so many, or where no more is expected, and the others stay",
    arguments: [(["--drain"], 10), (["--count", "10"], 12), (["--idle", "2s"], 10)])
  func ends(_ end: [String], _ total: Int) async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq \(total) | msctl publish \(queue) -q")
      let output = try await RunningProcess(
        Tool.binary, ["consume", queue, "--batch", "4", "--exec", Self.lines] + Self.slow + end
      ).end()
      #expect(output.status == 0 && output.lines == ["1 2 3 4", "5 6 7 8", "9 10"], "\(output)")
      let rest = try await Services.messages(in: queue)
      #expect(rest.count == total - 10 && rest.allSatisfy { $0["redelivered"] as? Bool == false })
    }
  }

  @Test(
    "begins some time after its first message, by --batch-time or by default",
    arguments: [["--batch-time", "100ms"], []])
  func time(_ words: [String]) async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) -q")
      let consumer = try RunningProcess(
        Tool.binary, ["consume", queue, "--batch", "9", "--exec", "cat"] + words)
      try await eventually("it has begun") { consumer.out == "1\n2\n3\n" }
      consumer.signal(SIGTERM)
      let output = try await consumer.end()
      #expect(output.status == 128 + SIGTERM, "\(output)")
      #expect(try await bodies(in: queue).isEmpty)
    }
  }

  @Test("the attempts of many messages are known, however large the batches")
  func manyAttempts() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 12000 | msctl publish \(queue) -q")
      let output = try await RunningProcess(
        Tool.binary,
        ["consume", queue, "--drain", "--batch", "6000", "--parallel", "2", "--max-attempts", "2", "-q"] + Self.slow
          + ["--exec", "cat >/dev/null; echo attempt $MSCTL_ATTEMPT >&2; exit 1"]
      ).end()
      #expect(output.status == 1, "\(output)")
      let attempts = output.err.split(separator: "\n").filter { $0.hasPrefix("attempt ") }
      #expect(Set(attempts) == ["attempt 1", "attempt 2"], "\(output)")
      #expect(try await bodies(in: queue).isEmpty)
    }
  }

  @Test("has each message as a line of JSON, or as an envelope, and its number in the environment")
  func form() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, "--message-id", "m1", input: "{\"a\": 1.10,\n \"b\":2}")
      _ = try await Tool.run("publish", queue, "--text", "two\nlines", "--message-id", "m2")
      _ = try await Tool.run("publish", queue, "3", "--message-id", "m3")
      let variables = "$MSCTL_BATCH $MSCTL_ATTEMPT ${MSCTL_MESSAGE_ID-none} ${MSCTL_ROUTING_KEY-none}"
      let words = ["consume", queue, "--drain", "--batch", "3", "--on-error", "stop", "--exec"]
      let failed = try await RunningProcess(
        Tool.binary, words + ["jq .properties.messageId >&2; exit 3", "--envelope"]
      ).end()
      #expect(failed.status == 3 && failed.err.hasPrefix("\"m1\"\n\"m2\"\n\"m3\"\n"), "\(failed)")
      #expect(failed.err.shows("exec ended stopped 2", ["id": "m1"]), "\(failed)")
      let output = try await RunningProcess(
        Tool.binary, words + ["cat; echo \(variables)"], environment: ["MSCTL_MESSAGE_ID": "around"]
      ).end()
      #expect(output.status == 0, "\(output)")
      #expect(output.lines == [#"{"a":1.10,"b":2}"#, #""two\nlines""#, "3", "3 1 none none"], "\(output)")
    }
  }

  @Test("is rejected as one after so many failures of each message, and tried again before that")
  func attempts() async throws {
    try await withDeadLetters { queue, dead in
      _ = try await Tool.shell("seq 4 | msctl publish \(queue) --passive -q")
      let output = try await Tool.run(
        "consume", queue, "--drain", "--batch", "2", "--max-attempts", "2", "--exec",
        "echo $(cat) >> $HOME/tried; ! grep -q 3 $HOME/tried")
      #expect(output.status == 1 && output.err.shows("consume rejected", ["3": "2"]), "\(output)")
      try await eventually("both are dead") { try await Set(bodies(in: dead)) == ["3", "4"] }
      #expect(try await bodies(in: queue).isEmpty)
    }
  }

  @Test("by --reject-exit, one exit code rejects all of it at once")
  func rejectExit() async throws {
    try await withDeadLetters { queue, dead in
      _ = try await Tool.shell("seq 5 | msctl publish \(queue) --passive -q")
      let output = try await Tool.run(
        "consume", queue, "--drain", "--batch", "3", "--reject-exit", "4", "--exec", "grep -q 1 && exit 4; exit 0")
      #expect(output.status == 1 && output.err.shows("consume rejected"), "\(output)")
      try await eventually("all are dead") { try await Set(bodies(in: dead)) == ["1", "2", "3"] }
    }
  }

  @Test("goes back where it has not begun at a signal")
  func unbegun() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) -q")
      let consumer = try RunningProcess(
        Tool.binary, ["consume", queue, "--batch", "9", "--exec", "cat", "-v"] + Self.slow)
      try await eventually("they are there") { consumer.err.contains("basic.deliver 3") }
      consumer.signal(SIGTERM)
      let output = try await consumer.end()
      #expect(output.status == 128 + SIGTERM && output.out.isEmpty, "\(output)")
      try await eventually("all are back") { try await bodies(in: queue).count == 3 }
    }
  }

  @Test("goes back where it has not begun at the end of --for")
  func late() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) -q")
      let output = try await RunningProcess(
        Tool.binary, ["consume", queue, "--batch", "9", "--batch-time", "10h", "--exec", "cat", "--for", "2s"]
      ).end()
      #expect(output.status == 0 && output.out.isEmpty, "\(output)")
      try await eventually("all are back") { try await bodies(in: queue).count == 3 }
    }
  }

  @Test("that runs at a signal may end, and is acknowledged; what was gathered beside it goes back")
  func underWay() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 5 | msctl publish \(queue) -q")
      let consumer = try RunningProcess(
        Tool.binary,
        [
          "consume", queue, "--batch", "3", "--parallel", "2", "-v", "--exec",
          "cat; touch $HOME/begun; until test -e $HOME/go; do sleep 0.05; done",
        ] + Self.slow)
      try await eventually("one runs, and others wait") {
        consumer.err.contains("basic.deliver 5")
          && FileManager.default.fileExists(atPath: file("begun", of: consumer).path)
      }
      consumer.signal(SIGTERM)
      try await eventually("it is told") { consumer.err.contains("basic.cancel") }
      try Data().write(to: file("go", of: consumer))
      let output = try await consumer.end()
      #expect(output.status == 128 + SIGTERM && output.lines == ["1", "2", "3"], "\(output)")
      try await eventually("the others are back") { try await Set(bodies(in: queue)) == ["4", "5"] }
    }
  }

  @Test("that runs while the connection breaks is acknowledged when its messages come again, and not run again")
  func lostConnection() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 5 | msctl publish \(queue) -q")
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let consumer = try RunningProcess(
        Tool.binary,
        [
          "consume", queue, "--count", "5", "--batch", "3", "--exec",
          "cat; touch $HOME/begun; until test -e $HOME/go; do sleep 0.05; done",
        ] + Self.slow,
        environment: ["AMQP_URL": "amqp://guest:guest@127.0.0.1:\(proxy.port)"])
      try await eventually("it runs") { FileManager.default.fileExists(atPath: file("begun", of: consumer).path) }
      proxy.cutAll()
      try await eventually("the loss is seen") { consumer.err.contains("connecting again") }
      try Data().write(to: file("go", of: consumer))
      let output = try await consumer.end()
      #expect(output.status == 0 && output.lines.sorted() == (1...5).map(String.init), "\(output)")
      #expect(try await bodies(in: queue).isEmpty)
    }
  }

  @Test("runs beside others by --parallel")
  func parallel() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 6 | msctl publish \(queue) -q")
      // Each waits for the other.
      let output = try await Tool.run(
        "consume", queue, "--drain", "--batch", "3", "--parallel", "2", "--exec",
        "echo $(cat); echo >> $HOME/n; until test $(wc -l < $HOME/n) = 2; do sleep 0.05; done")
      #expect(output.status == 0 && Set(output.lines) == ["1 2 3", "4 5 6"], "\(output)")
    }
  }

  @Test("of a stream that fails is tried again before what comes after it, in order")
  func stream() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { queue in
      _ = try await Tool.shell("seq 7 | msctl publish \(queue) --passive -q")
      let output = try await Tool.run(
        "consume", queue, "--stream", "--count", "7", "--batch", "3", "--exec",
        "echo $(cat) | tee -a $HOME/tried; test $(grep -c 4 $HOME/tried) != 1")
      #expect(output.status == 0 && output.lines == ["1 2 3", "4 5 6", "7"], "\(output)")
    }
  }

  @Test(
    "cannot be combined with what is about one message, or with less room than it needs",
    arguments: [
      ["--batch", "2"], ["--batch", "2", "--through", "cat"], ["--batch", "2", "--exec", "cat", "--reply"],
      ["--batch-time", "1s", "--exec", "cat"], ["--batch", "5", "--exec", "cat", "--prefetch", "4"],
      ["--batch", "10000", "--exec", "cat", "--parallel", "7"], ["--batch", "0", "--exec", "cat"],
    ])
  func usage(_ words: [String]) async throws {
    #expect(try await RunningProcess(Tool.binary, ["consume", "q"] + words).end().status == 2)
  }
}
