import Foundation
import Support
import Testing

/// Waits for the end of a process that may never come to one.
private func end(of process: RunningProcess) async throws -> Output {
  try await eventually("it ends") { kill(process.pid, 0) != 0 }
  return try await process.end()
}

@Suite("Standard streams as some parents leave them", .serialized)
struct HostileStreamTests {
  /// A program that makes descriptors non-blocking, then becomes msctl.
  private static let nonBlocking =
    #"python3 -c 'import os, sys; [os.set_blocking(int(n), False) for n in sys.argv[1]]; os.execvp("msctl", ["msctl"] + sys.argv[2:])'"#

  @Test("non-blocking input loses nothing, in any verb")
  func input() async throws {
    try await withQueue { queue in
      let published = try await Tool.shell(
        "(sleep 0.5; echo 1; sleep 0.5; echo 2) | \(Self.nonBlocking) 0 publish \(queue)")
      #expect(published.status == 0 && published.err.shows("note confirmed", ["3": "2"]), "\(published)")
      let dry = try await Tool.shell(
        "(sleep 0.5; echo 1; sleep 0.5; echo 2) | \(Self.nonBlocking) 0 publish \(queue) --dry-run")
      #expect(dry.status == 0 && dry.lines.count == 2, "\(dry)")
    }
    let server = try TestServer { .kept("[\($0.body)]") }
    let each = try await Tool.shell(
      "(sleep 0.5; echo 1; sleep 0.5; echo 2) | \(Self.nonBlocking) 0 call \(server.url) --each")
    #expect(each.out == "[1]\n[2]\n", "\(each)")
    let data = try await Tool.shell(
      "(sleep 0.5; printf 1; sleep 0.5; printf 2) | \(Self.nonBlocking) 0 call \(server.url) --data -")
    #expect(data.out == "[12]\n", "\(data)")
    let definition = try await Tool.shell(
      "(sleep 0.5; echo '{\"service\":'; sleep 0.5; echo '{\"name\":\"s\",\"port\":1}}') | \(Self.nonBlocking) 0 register --file - --dry-run"
    )
    #expect(definition.status == 0 && definition.lines.count == 1, "\(definition)")
  }

  @Test("non-blocking output loses nothing, in any verb")
  func output() async throws {
    let long = String(repeating: "y", count: 300_000)
    let server = try TestServer { _ in .ok("\"\(long)\"") }
    let slow = "(sleep 1; wc -c)"
    let call = try await Tool.shell("\(Self.nonBlocking) 1 call \(server.url) | \(slow); echo ${PIPESTATUS[0]}")
    #expect(call.out == "300003\n0\n", "\(call.err)")
    try await withQueue { queue in
      let tee = try await Tool.shell(
        "seq 30000 | \(Self.nonBlocking) 1 publish \(queue) -q --tee | \(slow); echo ${PIPESTATUS[1]}")
      #expect(tee.out == "168894\n0\n", "\(tee.err)")
      let consume = try await Tool.shell(
        "\(Self.nonBlocking) 1 consume \(queue) --drain | \(slow); echo ${PIPESTATUS[0]}")
      #expect(consume.out == "168894\n0\n", "\(consume.err)")
    }
  }

  @Test("non-blocking standard error loses nothing while nothing is owed")
  func errors() async throws {
    let output = try await Tool.shell(
      """
      seq 3000 | \(Self.nonBlocking) 2 call ':1/{id}' --each --keep-going 2>&1 >/dev/null | (sleep 1; grep -c "has no field")
      """)
    #expect(output.out == "3000\n")
  }

  @Test("a blocked standard error costs a held service nothing, and its end has a bound")
  func blockedErrors() async throws {
    let agent = try FakeAgent { _ in FakeAgent.answer("") }
    // Standard error is a pipe that is full, and that nobody reads.
    let full =
      """
      import os, sys
      r, w = os.pipe(); os.set_inheritable(r, True); os.set_blocking(w, False)
      try:
        while True: os.write(w, b"x" * 4096)
      except BlockingIOError: pass
      os.set_blocking(w, True); os.dup2(w, 2)
      os.execvp("msctl", ["msctl"] + sys.argv[1:])
      """
    let held = try RunningProcess(
      "/usr/bin/env",
      [
        "python3", "-c", full, "register", "s", "-p", "0", "--check", "ttl=1s", "-v", "--", "sh", "-c",
        "exec python3 -m http.server $PORT --bind 127.0.0.1 2>/dev/null",
      ], environment: agent.environment)
    defer { held.signal(SIGKILL) }
    // It goes on to keep its check alive.
    try await eventually("it beats") { agent.requests.count { $0.target.contains("/check/pass/") } >= 5 }
    held.signal(SIGTERM)
    #expect(try await end(of: held).status == 128 + SIGTERM)
    #expect(agent.requests.last?.target.contains("/service/deregister/") == true)
  }

  @Test("what a blocked standard error did not take is dropped beyond a bound, and counted")
  func dropped() async throws {
    let begun = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("begun"))
    defer { try? FileManager.default.removeItem(at: begun) }
    try await withQueue { queue in
      _ = try await Tool.shell("seq 12 | msctl publish \(queue) -q")
      let script = try RunningProcess(
        "/bin/bash",
        [
          "-c",
          """
          mkfifo $HOME/e; exec 3<>$HOME/e
          msctl consume \(queue) --on-error reject --exec 'echo >> \(begun.path); head -c 60000 /dev/zero | tr "\\0" y; exit 1' 2>&3 &
          echo $!; read go; cat <&3
          """,
        ], input: nil)
      // By then eleven times as much as a pipe takes has been written.
      try await eventually("the last is begun") { (try? Data(contentsOf: begun).count) == 12 }
      try script.write("go\n")
      try await eventually("it is told how many were dropped") {
        script.out.contains(" dropped, since standard error was blocked\n")
      }
      #expect(script.out.contains("; rejected\n") || script.out.contains("(attempt 1)"))
      let consumer = try #require(script.out.split(separator: "\n").first.flatMap { pid_t($0) })
      kill(consumer, SIGTERM)
      script.signal(SIGKILL)
    }
  }

  @Test("errors still come out, in order, where standard error is a pipe or a file")
  func ordinary() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2")
      let command = "consume \(queue) --drain --on-error reject --exec 'exit 4'"
      let piped = try await Tool.shell("msctl \(command) 2>&1 | cat")
      #expect(piped.lines.count == 3 && piped.lines.last == "msctl: 2 messages rejected", "\(piped)")
    }
  }

  @Test("a pipe without a reader as the file of --output is waited for, and a signal ends that")
  func pipes() async throws {
    let server = try TestServer { _ in .ok("{}") }
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.path + "/fifo"
    mkfifo(path, 0o600)
    let alone = try Tool.start("call", server.url, "-o", path)
    try await eventually("the response has come") { server.requests.count == 1 }
    try await Task.sleep(for: .milliseconds(300))
    alone.signal(SIGTERM)
    #expect(try await end(of: alone).status == 128 + SIGTERM)
    let read = try Tool.start("call", server.url, "-o", path)
    try await eventually("the response has come") { server.requests.count == 2 }
    let reader = try await Tool.shell("cat \(path)")
    #expect(reader.out == "{}")
    #expect(try await end(of: read).status == 0)
  }

  @Test(
    "a response for which there is no memory ends a call with a sentence and no trap",
    arguments: ["--envelope", "--each <<< '{}'", "--color always", ""])
  func responseMemory(_ words: String) async throws {
    // In pieces that share their memory: a test that makes such a text at once keeps its client waiting.
    let (piece, count) = (String(repeating: "x", count: 1 << 20), 200)
    let server = try TestServer { _ in
      .init(
        ["HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: \((count << 20) + 2)\r\n\r\n\""]
          + Array(repeating: piece, count: count) + ["\""])
    }
    let output = try await Tool.shell(
      "ulimit -v 500000; msctl call GET \(server.url) \(words) | wc -c; exit ${PIPESTATUS[0]}")
    // By itself it is passed on as it comes.
    #expect(output.status == (words.isEmpty ? 0 : 1), "\(output)")
    #expect(output.err.shows("noMemory", hint: false) == !words.isEmpty, "\(output)")
  }

  @Test("input that is too large, or for which there is no memory, ends with a sentence and no trap")
  func memory() async throws {
    try await withQueue { queue in
      let whole = try await Tool.shell("head -c 300000000 /dev/zero | msctl publish \(queue) --raw")
      #expect(whole.status == 9)
      #expect(whole.err.shows("tooLarge", ["input": "the message of standard input", "64": "256"]))
      let line = try await Tool.shell("head -c 300000000 /dev/zero | msctl publish \(queue) --lines")
      #expect(line.status == 9 && line.err.shows("tooLarge", ["input": "a line of standard input", "64": "256"]))
      for source in [
        "head -c 200000000 /dev/zero | msctl publish \(queue) --raw",
        "head -c 200000000 /dev/zero | msctl publish \(queue) --lines",
        "(printf '\"'; head -c 200000000 /dev/zero | tr '\\0' x; printf '\"') | msctl publish \(queue)",
        "head -c 200000000 /dev/zero | msctl call :1/ --data -",
        "head -c 200000000 /dev/zero > $HOME/f; msctl call :1/ --data @$HOME/f",
      ] {
        let output = try await Tool.shell("ulimit -v 500000; \(source)")
        #expect(output.status == 1, "\(source): \(output)")
        #expect(output.err.shows("noMemory"), "\(source): \(output.err)")
      }
    }
  }
}
