import Foundation
import Support
import Testing

@Suite("Discovery that waits and watches", .serialized)
struct WatchTests {
  @Test("waits until there are enough instances, and says how many there were")
  func wait() async throws {
    try await withService { service in
      let waiting = try Tool.start("discover", service, "--wait", "10m", "--min", "2", "-o", "hostport")
      for port in 1...2 { _ = try await Tool.run("register", service, "-p", "\(port)") }
      let output = try await waiting.end()
      #expect(output.status == 0)
      #expect(output.lines.sorted() == ["127.0.0.1:1", "127.0.0.1:2"])
      let few = try await Tool.run("discover", service, "--wait", "5s", "--min", "3")
      #expect(few.status == 8)
      #expect(few.err.shows("tooFewInstances 2", ["service": service]))
      let now = try await Tool.run("discover", service, "--min", "3")
      #expect(now.status == 3)
      #expect(now.err.shows("tooFewInstances", ["service": service]))
    }
    let away = try await Tool.run(
      "discover", "s", "--wait", "500ms", environment: ["CONSUL_HTTP_ADDR": "127.0.0.1:\(try Services.freePort())"])
    #expect(away.status == 6)
  }

  @Test("tells what comes, changes and goes, and nothing else, also over a restart of the agent")
  func events() async throws {
    let agent = try await PrivateAgent()
    let environment = agent.environment
    func register(_ words: String...) async throws {
      let output = try await RunningProcess(Tool.binary, ["register", "s"] + words, environment: environment).end()
      #expect(output.status == 0)
    }
    try await register("-p", "1", "--id", "a")
    let watch = try Tool.start("discover", "s", "--watch", environment: environment)
    func events() -> [String] {
      watch.out.split(separator: "\n").map { line in
        let words = line.split(separator: "\"")
        return "\(words[3]) \(words[11]) \(words.last { $0.hasPrefix("t") && $0.count == 2 } ?? "")"
      }
    }
    try await eventually("the first is there") { events() == ["added a "] }
    try await register("-p", "2", "--id", "b", "--tag", "t1")
    try await eventually("the second is there") { events().count == 2 }
    // The same again is no change.
    try await register("-p", "2", "--id", "b", "--tag", "t1")
    try await agent.kill()
    try await eventually("it is told") { watch.err.shows("watch agentAway") }
    try await agent.start()
    try await eventually("it is told that it is back") { watch.err.shows("watch agentBack") }
    try await register("-p", "2", "--id", "b", "--tag", "t2")
    try await eventually("the change is there") { events().count == 3 }
    _ = try await Tool.run("register", "s", "--remove", "--id", "a", environment: environment)
    try await eventually("the end is there") { events().count == 4 }
    #expect(events() == ["added a ", "added b t1", "changed b t2", "removed a "])
    watch.signal(SIGINT)
    #expect(try await watch.end().status == 128 + SIGINT)
  }

  @Test("an agent may be spoken to over a Unix socket, and so may a service")
  func unixSocket() async throws {
    let agent = try await PrivateAgent()
    let environment = ["CONSUL_HTTP_ADDR": "unix://\(agent.socket)"]
    #expect(try await Tool.run("register", "s", "-p", "1", environment: environment).status == 0)
    #expect(try await Tool.run("discover", "s", "-o", "hostport", environment: environment).out == "127.0.0.1:1\n")
    let call = try await Tool.run("call", "http://localhost/v1/status/leader", "--unix-socket", agent.socket)
    #expect(call.status == 0 && call.out.hasPrefix("\"127.0.0.1:"))
    let gone = try await Tool.run("call", "http://localhost/", "--unix-socket", agent.socket + "x")
    #expect(gone.status == 6)
    #expect(gone.err.contains("no such file or directory"))
  }

  @Test("runs a command on every change, with the instances, never two at once, and again after a failure")
  func command() async throws {
    try await withService { service in
      let folder = FileManager.default.temporaryDirectory.appendingPathComponent(service)
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      defer { try? FileManager.default.removeItem(at: folder) }
      let script = """
        cd \(folder.path); mkdir lock || echo overlap >> faults; cat > part; sleep 0.3; mv part state
        rmdir lock; echo run >> runs; test -e failed || { touch failed; exit 9; }
        """
      let watch = try Tool.start("discover", service, "--watch", "--exec", script)
      func state() -> String {
        ((try? String(contentsOf: folder.appendingPathComponent("state"), encoding: .utf8)) ?? "")
      }
      for port in 1...5 { _ = try await Tool.run("register", service, "-p", "\(port)") }
      try await eventually("all five are told") { state().split(separator: "\n").count == 5 }
      try await eventually("the failure is told") { watch.err.shows("changeCommandFailed", ["3": "9"]) }
      _ = try await Tool.run("register", service, "--remove")
      try await eventually("none is told") { state().isEmpty }
      watch.signal(SIGTERM)
      #expect(try await watch.end().status == 128 + SIGTERM)
      #expect(!FileManager.default.fileExists(atPath: folder.path + "/faults"))
      let missing = try await Tool.run("discover", service, "--watch", "--exec", "msctl-no-such-command")
      #expect(missing.status == 127)
    }
  }

  @Test("a reader that closes its end ends a watch, though nothing changes")
  func closedPipe() async throws {
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1")
      let output = try await Tool.shell("msctl discover \(service) --watch | head -1; echo ${PIPESTATUS[0]}")
      #expect(output.lines.count == 2 && output.lines.last == "141")
    }
  }

  @Test("the gateway: an instance comes and another goes under load, without one failed request")
  func gateway() async throws {
    let service = Services.uniqueName("gated")
    let port = try Services.freePort()
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(service)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try Data(
      """
      pid \(folder.path)/pid; error_log \(folder.path)/error.log; daemon off; worker_processes 1;
      events {} http { access_log off; include \(folder.path)/services.conf; \
      client_body_temp_path \(folder.path)/t1; proxy_temp_path \(folder.path)/t2; fastcgi_temp_path \(folder.path)/t3; \
      uwsgi_temp_path \(folder.path)/t4; scgi_temp_path \(folder.path)/t5; }
      """.utf8
    ).write(to: folder.appendingPathComponent("nginx.conf"))
    func start() throws -> RunningProcess {
      try RunningProcess(
        Tool.binary,
        [
          "register", service, "-p", "0", "--drain", "8s", "--", "sh", "-c",
          "exec python3 -m http.server $PORT 2>/dev/null",
        ])
    }
    var instances = [try start()]
    try await eventually("the first instance is there") { try await Tool.run("discover", service).status == 0 }
    // The line of the README, for this nginx.
    let watch = try Tool.start(
      "discover", service, "--watch", "-o", "nginx", "--listen", "\(port)", "--exec",
      "cat > \(folder.path)/services.conf && nginx -c \(folder.path)/nginx.conf -s reload 2>/dev/null || test ! -s \(folder.path)/pid"
    )
    func configuration() -> String {
      (try? String(contentsOf: folder.appendingPathComponent("services.conf"), encoding: .utf8)) ?? ""
    }
    try await eventually("there is a configuration") { configuration().contains("upstream \(service) {") }
    let nginx = try RunningProcess("/usr/sbin/nginx", ["-c", folder.path + "/nginx.conf"])
    let url = "http://127.0.0.1:\(port)/\(service)/"
    try await eventually("the gateway answers") { try await Tool.run("call", url).status == 0 }

    let load = try Tool.start(
      "call", "GET", url + "?n={n}", "--each", "--parallel", "4", "--envelope", input: nil)
    var sent = 0
    /// Keeps requests coming until something is true.
    func callUntil(_ what: String, _ condition: () async throws -> Bool) async throws {
      try await eventually(what) {
        // No more than the pipe takes: a write that waits would hold a thread of the tests.
        let most = load.out.utf8.count { $0 == 0x0A } + 40
        while sent < most {
          sent += 1
          try load.write("{\"n\":\(sent)}\n")
        }
        return try await condition()
      }
    }
    try await callUntil("answers come") { load.out.utf8.count { $0 == 0x0A } > 20 }
    for _ in 0..<3 {
      instances.append(try start())
      try await callUntil("the new one is in the configuration") {
        configuration().split(separator: "\n").count { $0.contains("server 127") } == 2
      }
      let old = instances.removeFirst()
      old.signal(SIGTERM)
      try await callUntil("the old one is out of it") {
        configuration().split(separator: "\n").count { $0.contains("server 127") } == 1
      }
      let done = load.out.utf8.count { $0 == 0x0A }
      #expect(try await old.end().status == 128 + SIGTERM)
      try await callUntil("answers go on") { load.out.utf8.count { $0 == 0x0A } > done + 20 }
    }
    try load.closeInput()
    let output = try await load.end()
    #expect(output.status == 0)
    #expect(output.lines.count == sent)
    watch.signal(SIGTERM)
    nginx.signal(SIGQUIT)
    instances[0].signal(SIGTERM)
    _ = try await nginx.end()
    _ = try await instances[0].end()
  }
}
