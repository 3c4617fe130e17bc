import Foundation
import Support
import Testing

/// What the processes have as their parent whose parent is `pid`, as far as they have not been reaped.
private func children(of pid: pid_t) throws -> [pid_t] {
  try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { name in
    // The name of a program, in brackets, may hold anything: see proc_pid_stat(5).
    guard let number = pid_t(name), let text = try? String(contentsOfFile: "/proc/\(name)/stat", encoding: .utf8),
      let fields = text.components(separatedBy: ") ").last?.split(separator: " "), fields.count > 1
    else { return nil }
    return fields[1] == "\(pid)" ? number : nil
  }
}

/// A path of a test's own where nothing is.
private func freePath() -> String {
  FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("ready")).path
}

private func isThere(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

@Suite("--ready-file", .serialized)
struct ReadyFileTests {
  @Test("of consume is there while messages can be handled, and gone while the broker is away and at the end")
  func consumer() async throws {
    let target = try #require(Services.broker.split(separator: ":").last.flatMap { Int($0) })
    let port = try Services.freePort()
    let file = freePath()
    let environment = ["AMQP_URL": "amqp://guest:guest@127.0.0.1:\(port)"]
    try await withQueue { queue in
      let refused = try await Tool.run("consume", queue, "--ready-file", file, environment: environment)
      #expect(refused.status == 6 && !isThere(file), "\(refused)")
      var broker: FaultProxy? = try FaultProxy(to: target, on: port) { _ in .none }
      let consumer = try Tool.start(
        "consume", queue, "--ready-file", file, "--reconnect-for", "1h", environment: environment)
      try await eventually("it is ready") { isThere(file) }
      broker = nil
      try await eventually("it is not ready") { !isThere(file) }
      // The port is free once the proxy's thread has let go of it.
      try await eventually("the broker is back") {
        broker = try? FaultProxy(to: target, on: port) { _ in .none }
        return broker != nil
      }
      try await eventually("it is ready again") { isThere(file) }
      consumer.signal(SIGTERM)
      #expect(try await consumer.end().status == 143)
      #expect(!isThere(file))
      #expect(broker?.connections ?? 0 > 0)
    }
  }

  @Test("of consume is gone while the filter does not run")
  func filter() async throws {
    let file = freePath()
    try await withQueue { queue in
      let consumer = try Tool.start(
        "consume", queue, "--ready-file", file, "--restart", "--through", "read line; exit 1")
      try await eventually("it is ready") { isThere(file) }
      _ = try await Tool.run("publish", queue, "1")
      try await eventually("the filter is restarted later and later") { !isThere(file) }
      consumer.signal(SIGKILL)
      _ = try await consumer.end()
    }
    try? FileManager.default.removeItem(atPath: file)
  }

  @Test("of register is there while the instance is registered, and gone while the agent is away and at the end")
  func service() async throws {
    let agent = try await PrivateAgent()
    let file = freePath()
    let held = try Tool.start(
      "register", "worker", "--ready-file", file, "--check", "ttl=3s", "--", "sleep", "10000",
      environment: agent.environment)
    try await eventually("it is registered") { isThere(file) }
    try await eventually("it is passing") {
      try await Tool.run("discover", "worker", environment: agent.environment).status == 0
    }
    try await agent.kill()
    try await eventually("the agent is missed") { !isThere(file) }
    try await agent.start()
    try await eventually("it is registered again") { isThere(file) }
    held.signal(SIGTERM)
    #expect(try await held.end().status == 143)
    #expect(!isThere(file))
  }

  @Test("is left alone where another msctl has made it, or somebody else puts his own there")
  func owners() async throws {
    let file = freePath()
    defer { try? FileManager.default.removeItem(atPath: file) }
    try await withQueue { queue in
      let first = try Tool.start("consume", queue, "--ready-file", file)
      try await eventually("the first is ready") { isThere(file) }
      let second = try await Tool.run("consume", queue, "--ready-file", file)
      #expect(second.status == 2 && second.err.showsOnly("usedReadyFile", with: ["path": file]), "\(second)")
      #expect(isThere(file))
      // What a killed run leaves is removed by the next one.
      first.signal(SIGKILL)
      _ = try await first.end()
      #expect(isThere(file))
      let next = try Tool.start("consume", queue, "--ready-file", file, "--count", "1")
      try await eventually("the next one is ready") {
        // Not the one that was there before.
        try await Services.management("GET", "/queues/%2F/\(queue)?columns=consumers") == #"{"consumers":1}"#
          && isThere(file)
      }
      try FileManager.default.removeItem(atPath: file)
      try Data().write(to: URL(fileURLWithPath: file))
      #expect(try await Tool.run("publish", queue, "1").status == 0)
      #expect(try await next.end().status == 0)
      #expect(isThere(file))
      let foreign = try await Tool.run("consume", queue, "--ready-file", file)
      #expect(foreign.status == 2 && foreign.err.showsOnly("foreignReadyFile", with: ["path": file]), "\(foreign)")
      #expect(isThere(file))
    }
  }

  @Test("is refused where it is something else, or cannot be created")
  func foreign() async throws {
    let file = freePath()
    try Data("mine".utf8).write(to: URL(fileURLWithPath: file))
    defer { try? FileManager.default.removeItem(atPath: file) }
    for words in [["consume", "q"], ["register", "s", "--ready-file", file, "--", "true"]] {
      let output = try await RunningProcess(Tool.binary, words + (words.count == 2 ? ["--ready-file", file] : [])).end()
      #expect(output.status == 2 && output.err.showsOnly("foreignReadyFile", with: ["path": file]), "\(output)")
      #expect(try String(contentsOfFile: file, encoding: .utf8) == "mine")
    }
    let missing = try await Tool.run("consume", "q", "--ready-file", "/no/such/folder/ready")
    #expect(missing.status == 1 && missing.err.shows("unwritableFile", ["path": "/no/such/folder/ready"]), "\(missing)")
    let unheld = try await Tool.run("register", "s", "-p", "1", "--ready-file", file)
    #expect(unheld.status == 2)
    for words in [["consume", "q", "--ready-file", ""], ["register", "s", "--ready-file", "", "--", "true"]] {
      let output = try await RunningProcess(Tool.binary, words).end()
      #expect(output.status == 2 && output.err.contains("invalid file name ''"), "\(output)")
    }
    let stat = try await Tool.run("consume", "q", "--stat", "--ready-file", file)
    #expect(stat.status == 2 && stat.err.contains("'--stat' requires QUEUE, takes no message"), "\(stat)")
  }
}

@Suite("A worker without a port", .serialized)
struct WorkerTests {
  @Test("is registered for as long as it runs")
  func lifetime() async throws {
    let service = Services.uniqueName("worker")
    let held = try Tool.start(
      "register", service, "--", "sh", "-c", "echo $MSCTL_SERVICE_ID ${PORT-none}; exec sleep 10000")
    try await eventually("it is registered") { try await Tool.run("discover", service).status == 0 }
    let found = try await Tool.run("discover", service)
    try await eventually("it has told its variables") { held.out.last == "\n" }
    let words = held.out.split(whereSeparator: \.isWhitespace)
    // Two of them are two, also where both are the first process of a container under one name of a machine.
    let id = try #require(words.first)
    #expect(words.last == "none" && id.hasPrefix("\(service)-"))
    #expect(found.out.contains("\"id\":\"\(id)\"") && found.out.contains("\"port\":0"))
    held.signal(SIGTERM)
    let output = try await held.end()
    #expect(output.status == 143 && output.err.shows("register deregistered"), "\(output)")
    #expect(try await Tool.run("discover", service, "--status", "any").status == 3)
  }

  @Test("has no check that needs a port")
  func checks() async throws {
    for check in ["tcp", "grpc", "http=/health"] {
      let output = try await Tool.run("register", "s", "--check", check, "--", "true")
      #expect(output.status == 2 && output.err.contains("requires '--port N'"), "\(output)")
    }
    let none = try await Tool.run("register", "s")
    #expect(none.status == 2 && none.err.contains("or COMMAND"))
  }
}

@Suite(
  "As the first process of a container", .serialized,
  .enabled(if: geteuid() == 0, "a PID namespace needs root"))
struct FirstProcessTests {
  private func start(_ words: String...) throws -> RunningProcess {
    try RunningProcess("/usr/bin/unshare", ["--pid", "--fork", "--kill-child", Tool.binary] + words)
  }

  /// The number of msctl outside of its namespace.
  private func msctl(in container: RunningProcess) async throws -> pid_t {
    var found: pid_t?
    try await eventually("it runs") {
      found = try children(of: container.pid).first
      return found != nil
    }
    return try #require(found)
  }

  @Test("consume leaves no zombies of what its commands leave behind")
  func orphansOfCommands() async throws {
    try await withQueue { queue in
      #expect(try await Tool.run("publish", queue, input: "1 2 3").status == 0)
      let container = try start("consume", queue, "--exec", "sleep 0.2 >/dev/null 2>&1 & echo $!")
      try await eventually("three have been handled") { container.out.split(separator: "\n").count == 3 }
      let msctl = try await msctl(in: container)
      try await eventually("nothing is left of them") { try children(of: msctl).isEmpty }
      kill(msctl, SIGTERM)
      #expect(try await container.end().status == 143)
    }
  }

  @Test("register sees the end of what its command leaves behind")
  func orphansOfService() async throws {
    let output = try await start("register", Services.uniqueName("worker"), "--", "sh", "-c", "sleep 10000 & exit 3")
      .end()
    #expect(output.status == 3 && !output.err.shows("register leftoversKilled"), "\(output)")
  }

  @Test("a signal ends a verb that does not catch it")
  func signal() async throws {
    let server = try TestServer { _ in .ok("1") }
    let silent = try FaultProxy(to: server.port) { _ in .blackHole(.up, after: 0) }
    let container = try start("call", "127.0.0.1:\(silent.port)/", "--timeout", "1h")
    let msctl = try await msctl(in: container)
    try await eventually("it calls") { silent.connections > 0 }
    kill(msctl, SIGTERM)
    #expect(try await container.end().status == 143)
  }

  @Test("a second signal ends it at once")
  func secondSignal() async throws {
    try await withQueue { queue in
      #expect(try await Tool.run("publish", queue, "1").status == 0)
      let container = try start("consume", queue, "--exec", "trap '' INT TERM; echo begun >&2; sleep 10000")
      try await eventually("the command runs") { container.err.contains("begun") }
      let msctl = try await msctl(in: container)
      try await eventually("it has ended") {
        kill(msctl, SIGINT)
        return try children(of: container.pid).isEmpty
      }
      let output = try await container.end()
      #expect(output.status == 130 && !output.err.contains("was killed"), "\(output)")
    }
  }
}
