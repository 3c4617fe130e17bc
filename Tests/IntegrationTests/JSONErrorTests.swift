import Foundation
import MsctlCore
import Support
import Testing

/// A line of standard error under `--json-errors`: what it is, and its members.
private struct Line {
  let kind: String
  let members: JSONValue

  func text(_ name: String) -> String? { members[name]?.string }
  func number(_ name: String) -> Int64? { members[name]?.integer }
}

/// - Throws: where a line is not an object with one member, which is an object with a message.
private func lines(_ output: Output) throws -> [Line] {
  try output.err.split(separator: "\n").map { text in
    let line = try JSONValue(parsing: text.utf8)
    let member = try #require(line.members.first, "\(text)")
    #expect(line.members.count == 1 && member.value["message"]?.string != nil, "\(text)")
    return Line(kind: member.name, members: member.value)
  }
}

private func run(_ words: [String], input: String = "", environment: [String: String] = [:]) async throws -> [Line] {
  try lines(
    try await RunningProcess(Tool.binary, words + ["--json-errors"], input: input, environment: environment).end())
}

@Suite("With --json-errors, each line of standard error", .serialized)
struct JSONErrorTests {
  @Test("of a call is an object, with the status and the place of its value")
  func calls() async throws {
    let server = try TestServer { request in
      request.target == "/2" ? .status(404, "Not Found", "{}") : .ok("1")
    }
    let one = try await run(["call", server.url + "/2", "-v", "--stats"])
    #expect(Set(one.map(\.kind)) == ["trace", "summary", "error"])
    #expect(one.last?.text("code") == "client-error" && one.last?.number("status") == 404)
    let many = try await run(
      ["call", server.url + "/{n}", "--each", "--keep-going", "--stats"], input: #"{"n":1}{"n":2}{"m":3}"#)
    #expect(many.map(\.kind) == ["error", "error", "summary", "error"])
    #expect(many.first?.number("index") == 2 && many.first?.number("status") == 404)
    #expect(many[1].number("index") == 3 && many[1].text("code") == "bad-input")
    // The value with no "n" was not called.
    #expect(many[2].number("calls") == 2 && many[2].members["statuses"]?["404"]?.integer == 1)
    #expect(many[2].members["latency"]?["99%"]?.kind == .number)
  }

  @Test("of publish is an object, with the message's id and place")
  func messages() async throws {
    try await withQueue { queue in
      let published = try await run(["publish", queue, "1", "-v"])
      #expect(Set(published.map(\.kind)) == ["trace", "summary"])
      #expect(published.last { $0.kind == "summary" }?.number("confirmed") == 1)
    }
    let returned = try await run(
      ["publish", "-x", "", "-k", Services.uniqueName("none"), "--message-id", "m"], input: "1 2")
    let errors = returned.filter { $0.kind == "error" }
    #expect(
      errors.map { $0.text("messageId") } == ["m", "m-2", nil] && errors.map { $0.number("index") } == [1, 2, nil])
    #expect(returned.first { $0.kind == "summary" }?.number("failed") == 2)
  }

  @Test("of consume is an object, with the id of the message and what its command wrote and ended with")
  func commands() async throws {
    try await withQueue { queue in
      #expect(try await Tool.run("publish", queue, "1", "--message-id", "m").status == 0)
      let consumed = try await run(
        ["consume", queue, "--drain", "-v", "--exec", "echo why; exit 3", "--on-error", "reject"])
      #expect(Set(consumed.map(\.kind)) == ["trace", "output", "error", "summary"])
      #expect(consumed.first { $0.kind == "output" }?.text("message") == "why")
      let error = try #require(consumed.first { $0.kind == "error" })
      #expect(error.text("code") == "command-failed" && error.number("status") == 3 && error.text("messageId") == "m")
      let summary = try #require(consumed.first { $0.kind == "summary" })
      #expect(summary.number("handled") == 1 && summary.number("rejected") == 1)
    }
  }

  @Test("that is a remark is an object")
  func remarks() async throws {
    try await withQueue { queue in
      let consumed = try await run(["consume", queue, "--idle", "10ms"])
      #expect(consumed.map(\.kind) == ["note", "summary"])
    }
    try await withService { service in
      let registered = try await run(["register", service, "-p", "1"])
      #expect(registered.map(\.kind) == ["note"])
    }
  }
}

@Suite("call --failed-to", .serialized)
struct FailedCallTests {
  @Test("keeps each value whose call failed with its error, for the next try")
  func retry() async throws {
    let failures = Counter()
    let server = try TestServer { request in
      request.target == "/2" && failures.next() == 1 ? .status(500, "Oops", "") : .ok("1")
    }
    let output = try await Tool.shell(
      """
      printf '%s' '{"n":1}{"n":2}{"m":3.10}{"n":4}' | msctl call '\(server.url)/{n}' --each --failed-to $HOME/f; echo $?
      cat $HOME/f
      jq -c .input $HOME/f | msctl call '\(server.url)/{n}' --each --failed-to $HOME/f; echo $?
      cat $HOME/f
      """)
    let lines = output.lines
    #expect(lines.count == 8, "\(output)")
    #expect(Array(lines.prefix(3)) == ["1", "1", "5"])
    #expect(lines[3].hasPrefix(#"{"input":{"n":2},"error":{"code":"server-error","status":500,"index":2,"message":""#))
    #expect(lines[4].hasPrefix(#"{"input":{"m":3.10},"error":{"code":"bad-input","index":3,"message":""#))
    #expect(Array(lines[5...6]) == ["1", "9"])
    #expect(lines[7].hasPrefix(#"{"input":{"m":3.1"#))
  }

  @Test("keeps the values of calls that a signal or a closed output does not let end")
  func interrupted() async throws {
    let gate = DispatchSemaphore(value: 0)
    let server = try TestServer { request in
      guard request.target == "/2" else { return .ok("1") }
      return TestServer.Answer(["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", "1"]) { _ in gate.wait() }
    }
    let caller = try RunningProcess(
      "/bin/sh", ["-c", "exec msctl call '\(server.url)/{n}' --each --parallel 2 --failed-to $HOME/f"], input: nil)
    try caller.write(#"{"n":1}{"n":2}"#)
    try await eventually("both are called, and one has ended") { server.requests.count == 2 && caller.out == "1\n" }
    caller.signal(SIGTERM)
    #expect(try await caller.end().status == 143)
    gate.signal()
    let file = URL(fileURLWithPath: caller.outputPath).deletingLastPathComponent().appendingPathComponent("f")
    let kept = try String(contentsOf: file, encoding: .utf8)
    #expect(
      kept.hasPrefix(#"{"input":{"n":2},"error":{"code":"interrupted","index":2,"#) && kept.last == "\n", "\(kept)")
    #expect(kept.shows("unfinishedCall"))
  }

  /// The lines of a file in the folder of a process.
  private func kept(_ name: String, of process: RunningProcess) throws -> [String] {
    let file = URL(fileURLWithPath: process.outputPath).deletingLastPathComponent().appendingPathComponent(name)
    return try String(contentsOf: file, encoding: .utf8).split(separator: "\n").map(String.init)
  }

  @Test(
    "a signal lets the results out that wait for an older call, and keeps the values of those that wait for nothing")
  func waitingResults() async throws {
    let gate = DispatchSemaphore(value: 0)
    let server = try TestServer { request in
      guard request.target != "/2" else { return .ok("2") }
      return TestServer.Answer(["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", "1"]) { _ in gate.wait() }
    }
    let caller = try RunningProcess(
      "/bin/sh", ["-c", "exec msctl call '\(server.url)/{n}' --each --parallel 2 --failed-to $HOME/f"], input: nil)
    try caller.write(#"{"n":1}{"n":2}{"n":3}"#)
    // The third is begun once the second has ended.
    try await eventually("all are called") { server.requests.count == 3 }
    caller.signal(SIGTERM)
    let output = try await caller.end()
    gate.signal()
    gate.signal()
    #expect(output.status == 143 && output.out == "2\n", "\(output)")
    let lines = try kept("f", of: caller)
    #expect(
      lines.count == 2 && lines[0].hasPrefix(#"{"input":{"n":1},"error":{"code":"interrupted","index":1,"#)
        && lines[1].hasPrefix(#"{"input":{"n":3},"error":{"code":"interrupted","index":3,"#)
        && lines.allSatisfy { $0.shows("unfinishedCall") }, "\(lines)")
  }

  @Test("keeps the values of results that nobody reads by the end, and of those that nobody can read any more")
  func lostResults() async throws {
    let gate = DispatchSemaphore(value: 0)
    let long = "\"" + String(repeating: "x", count: 1 << 20) + "\""
    let server = try TestServer { request in
      guard request.target == "/3" else { return .ok(request.target == "/5" ? "5" : long) }
      return TestServer.Answer(["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", "1"]) { _ in gate.wait() }
    }
    let call = "msctl call '\(server.url)/{n}' --each"
    let blocked = try RunningProcess(
      "/bin/bash", ["-c", "mkfifo $HOME/p; exec 5<>$HOME/p; exec \(call) --failed-to $HOME/f > $HOME/p"], input: nil)
    try blocked.write(#"{"n":1}{"n":2}{"n":3}"#)
    try await eventually("two have ended, and the third is called") { server.requests.count == 3 }
    blocked.signal(SIGTERM)
    #expect(try await blocked.end().status == 143)
    gate.signal()
    let lines = try kept("f", of: blocked)
    #expect(lines.map { $0.prefix { $0 != "," } } == (1...3).map { #"{"input":{"n":\#($0)}"# }, "\(lines)")
    #expect(lines.map { $0.shows("unwrittenResult") } == [true, true, false], "\(lines)")
    #expect(lines.last?.shows("unfinishedCall") == true, "\(lines)")

    let closed = try RunningProcess(
      "/bin/bash",
      ["-c", "\(call) --failed-to $HOME/f | { read line; exec <&-; echo $line closed >&2; }; exit ${PIPESTATUS[0]}"],
      input: nil)
    try closed.write(#"{"n":5}"#)
    try await eventually("the output is closed") { closed.err.contains("5 closed") }
    try closed.write(#"{"n":5.0}"#)
    #expect(try await closed.end().status == 141)
    let line = try #require(try kept("f", of: closed).first)
    #expect(line.hasPrefix(#"{"input":{"n":5.0},"error":{"code":"output-closed","index":2,"#), "\(line)")
  }

  @Test("is not standard output, where that gets results")
  func output() async throws {
    let server = try TestServer { _ in .ok("1") }
    let call = "msctl call '\(server.url)/{n}' --each --failed-to"
    let output = try await Tool.shell(
      """
      cd $HOME; for n in 1 2; do \(call) f >> f; echo $?; done; \(call) /dev/stdout; echo $?; ln -s f g
      \(call) g > f; echo $?; echo 1 | msctl publish q --tee --failed-to f > f; echo $?
      echo '{"n":1}' | \(call) /dev/null > /dev/null; echo $?; wc -c < f
      """)
    #expect(output.lines == ["2", "2", "2", "2", "2", "0", "0"], "\(output)")
    #expect(server.requests.count == 1)
    for name in ["f", "/dev/stdout", "g"] {
      #expect(output.err.shows("failedFileIsOutput", ["path": name]), "\(output)")
    }
  }

  @Test("a pipe gets each line at once, and results do not wait for who reads it")
  func pipe() async throws {
    let server = try TestServer { request in request.target == "/1" ? .status(404, "Not Found", "") : .ok("1") }
    let output = try await Tool.shell(
      """
      mkfifo $HOME/p; jq -c .input < $HOME/p & 
      printf '{"n":2}{"n":1}{"n":3}' | msctl call '\(server.url)/{n}' --each --failed-to $HOME/p > $HOME/o; echo $?; wait; cat $HOME/o
      """)
    #expect(output.lines.sorted() == ["1", "1", "4", #"{"n":1}"#], "\(output)")
  }

  @Test(
    "is refused where it has nothing to do",
    arguments: [
      (["call", "s", "--failed-to", "f"], "'--failed-to' requires '--each'"),
      (["call", "s", "--each", "--failed-to", ""], "--failed-to: invalid file name '': it must not be empty"),
      (["publish", "q", "--failed-to", ""], "--failed-to: invalid file name '': it must not be empty"),
      (["call", "s", "--each", "--failed-to", "-"], "'--failed-to -' cannot be combined with '--each'"),
    ])
  func usage(_ words: [String], _ message: String) async throws {
    let output = try await RunningProcess(Tool.binary, words).end()
    #expect(output.status == 2 && output.err.hasPrefix("msctl: \(message)"), "\(output)")
  }
}
