import Foundation
import MsctlCore
import Support
import Testing

/// The bodies in a queue, as its witness has them.
private func bodies(in queue: String) async throws -> [String] {
  try await Services.messages(in: queue).compactMap { $0["payload"] as? String }
}

@Suite("Filters that choose", .serialized)
struct FilterTests {
  private static let select = "jq -c --unbuffered 'select(. > 5)'"

  @Test(
    "without an envelope, one that leaves out lines fails and acknowledges nothing",
    arguments: [["--drain"], ["--count", "10"], ["--idle", "5s"], ["--drain", "--restart"]])
  func leavesOut(_ end: [String]) async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) --message-id m -q")
      let output = try await RunningProcess(
        Tool.binary, ["consume", queue, "--through", Self.select] + end
      ).end()
      #expect(output.status == 1)
      #expect(output.lines == ["6", "7", "8", "9", "10"])
      #expect(
        output.err.contains(
          "exited with 0, with 5 messages unprocessed\n       10 messages are requeued, from message 1 (m) on"),
        "\(output)")
      #expect(try await bodies(in: queue) == (1...10).map(String.init))
    }
  }

  @Test("one that leaves out lines of a run without an end acknowledges nothing wrong, and is told at the end")
  func leavesOutEndlessly() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) -q")
      let consumer = try Tool.start("consume", queue, "--through", Self.select)
      try await eventually("the lines are out") { consumer.out == "6\n7\n8\n9\n10\n" }
      consumer.signal(SIGTERM)
      let output = try await consumer.end()
      #expect(output.status == 1 && output.err.contains("10 messages are requeued, from message 1 ("), "\(output)")
      #expect(try await bodies(in: queue) == (1...10).map(String.init))
    }
  }

  @Test("one that writes too many lines fails, and a run that ends by itself acknowledges nothing")
  func addsLines() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) --message-id m -q")
      let output = try await Tool.run("consume", queue, "--drain", "--through", "sed -u p")
      #expect(output.status == 1)
      #expect(output.err.shows("filter tooManyLines 3", ["1": "1", "command": "sed -u p", "id": "m"]), "\(output)")
      #expect(try await bodies(in: queue) == (1...10).map(String.init))
    }
  }

  @Test("more messages than are held at a time pass a filter that answers each")
  func many() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 1000 | msctl publish \(queue) -q")
      let output = try await Tool.run("consume", queue, "--drain", "--prefetch", "30", "--through", "cat")
      #expect(output.status == 0 && output.lines == (1...1000).map(String.init), "\(output.err)")
      #expect(try await bodies(in: queue).isEmpty)
    }
  }

  @Test("one that leaves out lines of more messages than are held at a time sees them all, fails, and loses none")
  func leavesOutMany() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 250 | msctl publish \(queue) --message-id m -q")
      let output = try await RunningProcess(Tool.binary, ["consume", queue, "--drain", "--through", Self.select]).end()
      #expect(output.status == 1 && output.lines == (6...250).map(String.init), "\(output)")
      #expect(output.err.contains("250 messages are requeued, from message 1 (m) on"), "\(output)")
      try await eventually("all are back") { try await bodies(in: queue).count == 250 }
    }
  }

  @Test("one that answers at the end of its input gets more messages than are held at a time")
  func collects() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 250 | msctl publish \(queue) -q")
      let output = try await RunningProcess(Tool.binary, ["consume", queue, "--drain", "--through", "tac"]).end()
      #expect(output.status == 0 && output.lines == (1...250).reversed().map(String.init), "\(output)")
      #expect(try await bodies(in: queue).isEmpty)
    }
  }

  @Test("one that waits for more messages than --prefetch allows is told of")
  func full() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 20 | msctl publish \(queue) -q")
      let consumer = try Tool.start("consume", queue, "--drain", "--prefetch", "10", "--through", "tac")
      try await eventually("it is told") { consumer.err.shows("filter note silent 2", ["2": "10"]) }
      consumer.signal(SIGTERM)
      let output = try await consumer.end()
      #expect(output.status == 128 + SIGTERM && output.lines == (1...10).reversed().map(String.init), "\(output)")
      #expect(try await bodies(in: queue) == (11...20).map(String.init))
    }
  }

  @Test("one that chooses and is terminated at its work has nothing acknowledged in a run that ends by itself")
  func terminated() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 20 | msctl publish \(queue) -q")
      let consumer = try Tool.start(
        "consume", queue, "--drain", "--through",
        "while read x; do test $((x % 2)) = 1 || echo $x; test $x != 20 || exec sleep 100000; done")
      try await eventually("it is at work") { consumer.out.hasSuffix("\n20\n") }
      consumer.signal(SIGTERM)
      let output = try await consumer.end()
      #expect(output.status != 0 && output.err.contains("20 messages are requeued, from message 1 ("), "\(output)")
      #expect(try await bodies(in: queue) == (1...20).map(String.init))
    }
  }

  @Test("the bodies of answered messages are not held for a count")
  func countOfLargeOnes() async throws {
    try await withQueue { queue in
      let published = try await Tool.shell(
        #"for i in $(seq 60); do printf '"%08000000d"\n' $i; done | msctl publish \#(queue) -q"#)
      #expect(published.status == 0, "\(published)")
      let output = try await Tool.shell(
        "ulimit -v 400000; msctl consume \(queue) --count 60 --through cat | wc -lc | xargs; exit ${PIPESTATUS[0]}")
      #expect(output.status == 0 && output.out == "60 \(60 * 8_000_003)\n", "\(output)")
      #expect(try await bodies(in: queue).isEmpty)
    }
  }

  @Test("half a line at the end is a failure, and its message goes back", arguments: [["--envelope"], []])
  func halfLine(_ words: [String]) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let output = try await RunningProcess(
        Tool.binary, ["consume", queue, "--drain", "--through", "cat | head -c -1"] + words
      ).end()
      #expect(output.status == 1 && output.err.contains("half a line"), "\(output)")
      #expect(try await bodies(in: queue).count == (words.isEmpty ? 3 : 1))
    }
  }

  /// Envelopes with ids, without, and with one that all share.
  private static let properties = [#"{"messageId":"m\(.)"}"#, "{}", #"{"messageId":"same"}"#]

  @Test("a move by filter moves what it chooses, and leaves the rest", arguments: properties)
  func move(_ properties: String) async throws {
    try await withQueue(arguments: "{}") { archive in
      try await withQueue(arguments: "{}") { queue in
        let published = try await Tool.shell(
          #"seq 10 | jq -c '{body:{total:.},properties:\#(properties)}' | msctl publish \#(queue) --envelope -q"#)
        #expect(published.status == 0, "\(published)")
        let output = try await Tool.run(
          "consume", queue, "--drain", "--envelope", "--through",
          "jq -c --unbuffered 'select(.body.total>5)' | msctl publish \(archive) --envelope --tee -q")
        #expect(output.status == 0 && output.lines.count == 5, "\(output)")
        #expect(output.err.showsOnly("filter note leftOut", with: ["3": "5"]), "\(output.err)")
        #expect(try await bodies(in: archive) == (6...10).map { #"{"total":\#($0)}"# })
        #expect(Set(try await bodies(in: queue)) == Set((1...5).map { #"{"total":\#($0)}"# }))
      }
    }
  }

  @Test("what is chosen may come in any order, at the end of the input too, and many at once")
  func anyOrder() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"quorum"}"#) { queue in
      _ = try await Tool.shell("seq 500 | msctl publish \(queue) --passive -q")
      let output = try await Tool.run(
        "consume", queue, "--drain", "--envelope", "--through", "tac | jq -c 'select(.body%2==0) | .properties'")
      #expect(output.status == 0 && output.lines.count == 250, "\(output.err)")
      #expect(output.err.showsOnly("filter note leftOut", with: ["3": "250"]), "\(output.err)")
      let rest = try await Tool.run("consume", queue, "--drain")
      #expect(Set(rest.lines) == Set((1...500).filter { $0 % 2 == 1 }.map(String.init)))
    }
  }

  @Test("--count is the number of messages that it looks at")
  func count() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) -q")
      let output = try await Tool.run(
        "consume", queue, "--count", "8", "--envelope", "--through", "jq -c 'select(.body>5)'")
      #expect(output.status == 0 && output.lines.count == 3, "\(output)")
      #expect(Set(try await bodies(in: queue)) == ["1", "2", "3", "4", "5", "9", "10"])
    }
  }

  @Test(
    "a line that does not name its message fails, and what was not named before goes back",
    arguments: [
      ("sed -u 's/.*/{}/'", "filter unnamedLine"), ("echo '{\"deliveryTag\":9}'; cat", "filter unknownMessage"),
      ("sed -u p", "filter unknownMessage"),
    ])
  func wrongLines(_ filter: String, _ entry: String) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let output = try await Tool.run("consume", queue, "--drain", "--envelope", "--through", filter)
      #expect(output.status == 1 && output.err.shows(entry), "\(output)")
      #expect(try await bodies(in: queue).count == 3 - output.lines.count)
    }
  }

  @Test(
    "one that ends before the run does has failed, though it owes no line",
    arguments: [["--drain"], ["--count", "10"], ["--drain", "--envelope"]])
  func endsEarly(_ words: [String]) async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) -q")
      let output = try await RunningProcess(Tool.binary, ["consume", queue, "--through", "true"] + words).end()
      #expect(output.status == 1 && output.err.contains("the filter 'true' exited with 0"), "\(output)")
      #expect(try await bodies(in: queue) == (1...10).map(String.init))
    }
  }

  @Test("one that has not read everything has not looked at it: exit 0 of a pipe with a dead stage is a failure")
  func deadStage() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      // One that has ended before the first message comes has left none out: then it is none that was wanted.
      let output = try await Tool.run(
        "consume", queue, "--drain", "--require", "--envelope", "--through", "false | cat")
      #expect(output.status != 0, "\(output)")
      #expect(try await bodies(in: queue) == ["1", "2", "3"])
    }
  }

  @Test("a move whose processes are killed at any moment has every message where it belongs in the end")
  func kills() async throws {
    let seed = UInt64.random(in: .min ... .max)
    var generator = SplitMix(seed: seed)
    try await withQueue(arguments: "{}") { archive in
      try await withQueue(arguments: "{}") { queue in
        let total = 1000
        _ = try await Tool.shell("seq \(total) | msctl publish \(queue) -q")
        let words = [
          "consume", queue, "--drain", "--envelope", "--through",
          "jq -c --unbuffered 'select(.body%3==0)' | msctl publish \(archive) --envelope --tee -q",
        ]
        for _ in 0..<10 {
          let run = try RunningProcess(Tool.binary, words)
          try await Task.sleep(for: .milliseconds(Int.random(in: 0..<300, using: &generator)))
          let victim = ["consume \(queue)", "publish \(archive)", "sh -c .*\(archive)"].randomElement(using: &generator)
          _ = try await RunningProcess("/usr/bin/pkill", ["-KILL", "-f", "-o", victim ?? ""]).end()
          _ = try await run.end()
        }
        try await eventually("the broker has noticed the end of the last one") {
          try await Tool.run("consume", queue, "--stat").out.contains(#""consumers":0"#)
        }
        let last = try await RunningProcess(Tool.binary, words).end()
        #expect(last.status == 0, "seed \(seed): \(last.err)")
        let moved = try await Tool.run("consume", archive, "--drain").lines
        let left = try await Tool.run("consume", queue, "--drain").lines
        #expect(Set(moved) == Set((1...total).filter { $0 % 3 == 0 }.map(String.init)), "seed \(seed)")
        #expect(left.count == Set(left).count, "seed \(seed)")
        #expect(Set(left) == Set((1...total).filter { $0 % 3 != 0 }.map(String.init)), "seed \(seed)")
      }
    }
  }
}
