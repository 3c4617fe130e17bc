import Foundation
import Support
import Testing

@Suite("A stream's place in a file", .serialized)
struct StreamPlaceTests {
  private func withStream(_ body: (_ stream: String, _ file: String) async throws -> Void) async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { queue in
      let file = FileManager.default.temporaryDirectory.appendingPathComponent(queue).path
      defer { try? FileManager.default.removeItem(atPath: file) }
      #expect(try await Tool.shell("seq 10 | msctl publish \(queue) --passive -q").status == 0)
      try await body(queue, file)
    }
  }

  private func offset(_ file: String) throws -> Int? {
    let object = try JSONSerialization.jsonObject(with: Data(contentsOf: URL(fileURLWithPath: file)))
    return (object as? [String: Any])?["offset"] as? Int
  }

  @Test("is that after the last message that was handled: the next run begins there, with --resume")
  func resume() async throws {
    try await withStream { stream, file in
      // Without a file, from the first message; a run that nothing ends, too.
      let first = try Tool.start("consume", stream, "--stream", "--resume", file)
      try await eventually("all have come") { first.out.hasSuffix("\n10\n") }
      first.signal(SIGTERM)
      #expect(try await first.end().lines == (1...10).map(String.init))
      #expect(try String(contentsOfFile: file, encoding: .utf8) == "{\"queue\":\"\(stream)\",\"offset\":10}\n")
      try Data("{\"offset\":3,\"queue\":\"\(stream)\"}".utf8).write(to: URL(fileURLWithPath: file))
      let some = try await Tool.run("consume", stream, "--stream", "--resume", file, "--count", "2", "--offset", "0")
      #expect(some.status == 0 && some.lines == ["4", "5"], "\(some)")
      #expect(try offset(file) == 5)
      // What failed is not handled, nor what comes after it.
      let failed = try await Tool.run(
        "consume", stream, "--stream", "--resume", file, "--count", "5", "--parallel", "3", "--on-error", "stop",
        "--exec",
        "read x; test $x != 7 && echo $x")
      #expect(failed.status == 1, "\(failed)")
      #expect(try offset(file) == 6)
      let skipped = try await Tool.run(
        "consume", stream, "--stream", "--resume", file, "--count", "2", "--on-error", "reject", "--exec",
        "read x; test $x != 7 && echo $x")
      #expect(skipped.status == 1 && skipped.lines == ["8"], "\(skipped)")
      let through = try await Tool.run(
        "consume", stream, "--stream", "--resume", file, "--count", "2", "--through", "cat")
      #expect(through.status == 0 && through.lines == ["9", "10"], "\(through)")
      #expect(try offset(file) == 10)
    }
  }

  @Test("begins at --offset where there is no file yet, and is nothing where nothing was handled")
  func begin() async throws {
    try await withStream { stream, file in
      let none = try await Tool.run(
        "consume", stream, "--stream", "--resume", file, "--count", "1", "--exec", "exit 3", "--on-error", "stop")
      #expect(none.status == 3)
      #expect(try !FileManager.default.fileExists(atPath: file) || offset(file) == 0)
      try? FileManager.default.removeItem(atPath: file)
      let some = try await Tool.run("consume", stream, "--stream", "--resume", file, "--offset", "8", "--count", "1")
      #expect(some.lines == ["9"])
      let rest = try await Tool.run("consume", stream, "--stream", "--resume", file, "--offset", "8", "--count", "1")
      #expect(rest.lines == ["10"])
    }
  }

  @Test("loses nothing when the run is killed: what is kept as handled was written")
  func kills() async throws {
    try await withStream { stream, file in
      #expect(try await Tool.shell("seq 11 3000 | msctl publish \(stream) --passive -q").status == 0)
      var lines: [String] = []
      for _ in 0..<5 {
        let run = try Tool.start("consume", stream, "--stream", "--resume", file)
        // On a busy machine an earlier run may have come to the end.
        try await eventually("something has come") { !run.out.isEmpty || (try? offset(file)) == 3000 }
        run.signal(SIGKILL)
        lines += try await run.end().lines
      }
      // Killed before it had handled any, it has not made the file.
      let left = 3000 - ((try? offset(file)) ?? 0)
      if left > 0 {
        let last = try await Tool.run("consume", stream, "--stream", "--resume", file, "--count", "\(left)")
        #expect(last.status == 0, "\(last.err)")
        lines += last.lines
      }
      #expect(Set(lines) == Set((1...3000).map(String.init)))
      #expect(try offset(file) == 3000)
    }
  }

  @Test(
    "is refused where the file is not one, or of another stream, and the file is left as it is",
    arguments: [
      ("", "it is not JSON"), ("{\"queue\":\"STREAM\",\"off", "it is not JSON"), ("[1]", "has no 'queue' and 'offset'"),
      ("{\"queue\":\"STREAM\",\"offset\":-1}", "has no 'queue' and 'offset'"),
      ("{\"queue\":\"STREAM\",\"offset\":1.5}", "has no 'queue' and 'offset'"),
      ("{\"queue\":\"STREAM\",\"offset\":99999999999999999999}", "has no 'queue' and 'offset'"),
      ("{\"queue\":\"other\",\"offset\":1}", "it is of the stream 'other'"),
    ])
  func foreign(_ text: String, _ reason: String) async throws {
    try await withStream { stream, file in
      let text = text.replacingOccurrences(of: "STREAM", with: stream)
      try Data(text.utf8).write(to: URL(fileURLWithPath: file))
      let output = try await Tool.run("consume", stream, "--stream", "--resume", file, "--count", "1")
      #expect(output.status == 9 && output.out == "" && output.err.contains(reason), "\(output)")
      #expect(try String(contentsOfFile: file, encoding: .utf8) == text)
    }
  }

  @Test("is not kept in what is no regular file, and a file that cannot be written ends the run")
  func unwritable() async throws {
    try await withStream { stream, _ in
      for path in ["/dev/null", "/"] {
        let output = try await Tool.run("consume", stream, "--stream", "--resume", path, "--count", "1")
        #expect(output.status == 9 && output.err.contains("it is not a regular file"), "\(output)")
      }
      // Before any message is taken.
      let output = try await Tool.run("consume", stream, "--stream", "--resume", "/no/such/folder", "--count", "1")
      #expect(output.status == 1 && output.out == "", "\(output)")
      #expect(output.err.showsOnly("unwritableFile", with: ["path": "/no/such/folder"]), "\(output)")
      #expect(try await Tool.run("consume", stream, "--stream", "--resume", "").status == 2)
      #expect(try await Tool.run("consume", stream, "--resume", "f").status == 2)
    }
  }

  @Test("is read to its end, although a broker may send more of it at a time than the prefetch allows")
  func wholeChunks() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { stream in
      #expect(try await Tool.shell("seq 3000 | msctl publish \(stream) --passive -q --window 3000").status == 0)
      let output = try await Tool.run("consume", stream, "--stream", "--prefetch", "1", "--count", "3000")
      #expect(output.status == 0 && output.lines.count == 3000, "\(output.err)")
    }
  }

  @Test("--consumer-argument x-stream-filter leaves out chunks without the value, where the broker filters")
  func filter() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { stream in
      guard Services.promises.filtersStreams else { return }
      for (value, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
        #expect(
          try await Tool.run("publish", stream, text, "--passive", "-q", "-H", "x-stream-filter-value=\(value)").status
            == 0)
      }
      let output = try await Tool.run(
        "consume", stream, "--stream", "--consumer-argument", "x-stream-filter=a", "--count", "2")
      #expect(output.lines == ["1", "3"], "\(output)")
    }
  }
}

@Suite("Looking at a queue", .serialized)
struct LookingTests {
  @Test("--stat counts what is ready and who consumes, and takes nothing")
  func stat() async throws {
    try await withQueue(arguments: "{}") { queue in
      #expect(try await Tool.run("consume", queue, "--stat", "--require").status == 3)
      #expect(try await Tool.run("publish", queue, "-q", input: "1 2 3").status == 0)
      let output = try await Tool.run("consume", queue, "--stat")
      #expect(output.status == 0 && output.err == "")
      #expect(output.out == "{\"queue\":\"\(queue)\",\"messages\":3,\"consumers\":0}\n")
      let consumer = try Tool.start("consume", queue, "--prefetch", "2", "--exec", "sleep 1000")
      let there = #"{"queue":"\#(queue)","messages":1,"consumers":1,"unacknowledged":2}"# + "\n"
      try await eventually("what is under way is counted") {
        try await Tool.run(
          "consume", queue, "--stat", "--require", environment: ["MSCTL_MANAGEMENT_URL": Services.managementAPI]
        ).out == there
      }
      consumer.signal(SIGKILL)
      _ = try await consumer.end()
      try await eventually("all are ready again") { try await Services.messages(in: queue).count == 3 }
      let away = try await Tool.run(
        "consume", queue, "--stat", environment: ["MSCTL_MANAGEMENT_URL": "http://127.0.0.1:1/api"])
      #expect(away.status == 0 && away.lines.count == 1 && away.err.shows("note managementUnusable"), "\(away)")
    }
    let none = try await Tool.run("consume", Services.uniqueName("none"), "--stat")
    #expect(none.status == 3 && none.out == "", "\(none)")
    #expect(try await Tool.run("consume", "q", "--stat", "--drain").status == 2)
  }

  @Test(
    "--sample takes each Nth message, from a queue of its own or a stream, and never from the queue that it looks at")
  func sample() async throws {
    try await withQueue(arguments: "{}") { queue in
      _ = try await Services.management(
        "POST", "/bindings/%2F/e/amq.topic/q/\(queue)", body: #"{"routing_key":"\#(queue).#"}"#)
      let consumer = try Tool.start("consume", "-x", "amq.topic", "-b", "\(queue).#", "--sample", "5", "--count", "3")
      // From when on its own queue is bound cannot be seen from outside: its consumer can.
      try await eventually("it consumes") {
        try await Services.management("GET", "/exchanges/%2F/amq.topic/bindings/source").components(
          separatedBy: "\"routing_key\":\"\(queue).#\""
        ).count == 3
      }
      #expect(
        try await Tool.run(
          "publish", "-x", "amq.topic", "-k", "\(queue).a", "-q",
          input: (1...20).map(String.init).joined(separator: " ")
        ).status == 0)
      let output = try await consumer.end()
      #expect(output.status == 0 && output.lines == ["5", "10", "15"], "\(output)")
      #expect(try await Services.messages(in: queue).count == 20)
      let wrong = try await Tool.run("consume", queue, "--sample", "5")
      #expect(wrong.status == 2)
      #expect(try await Tool.run("consume", queue, "-x", "amq.topic", "-b", "k", "--sample", "5").status == 2)
    }
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { stream in
      #expect(try await Tool.shell("seq 2000 | msctl publish \(stream) --passive -q").status == 0)
      let output = try await Tool.run("consume", stream, "--stream", "--sample", "500", "--count", "4")
      #expect(output.lines == ["500", "1000", "1500", "2000"], "\(output)")
    }
  }
}
