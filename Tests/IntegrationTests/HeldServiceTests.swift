import Foundation
import Support
import Testing

@Suite("A registration with a command", .serialized)
struct HeldServiceTests {
  private static let server = ["--", "sh", "-c", "exec python3 -m http.server $PORT --bind 127.0.0.1"]

  private func start(
    _ words: [String], _ environment: [String: String] = [:]
  ) throws -> RunningProcess {
    try RunningProcess(Tool.binary, ["register"] + words, environment: environment)
  }

  private func isPassing(_ service: String, _ environment: [String: String] = [:]) async throws -> Bool {
    try await Tool.run("discover", service, environment: environment).status == 0
  }

  @Test("lasts as long as the command, which knows its port and id, and is in maintenance before the signal")
  func lifetime() async throws {
    let service = Services.uniqueName("held")
    let script = """
      trap 'kill $server; msctl discover \(service); echo "seen $?"; exit 5' TERM
      echo "$PORT $MSCTL_SERVICE_ID"; python3 -m http.server $PORT --bind 127.0.0.1 & server=$!; wait $server
      """
    let held = try start([service, "--port", "0", "--drain", "300ms", "--", "bash", "-c", script])
    try await eventually("it is registered") { try await isPassing(service) }
    let line = try await Tool.run("discover", service)
    #expect(try await Tool.run("call", service + "/").status == 0)
    held.signal(SIGTERM)
    let output = try await held.end()
    #expect(output.status == 5)
    let words = try #require(output.lines.first).split(separator: " ")
    #expect(line.out.contains("\"id\":\"\(words[1])\"") && line.out.contains("\"port\":\(words[0]),"))
    #expect(output.out.contains("seen 3"))
    #expect(output.err.shows("register deregistered", ["id": String(words[1])]))
    #expect(try await Tool.run("discover", service, "--status", "any").status == 3)
  }

  @Test(
    "ends as the command does",
    arguments: [
      ("exit 0", 0, ""), ("exit 7", 7, "msctl: 'sh' exited with 7\n"),
      ("kill -9 $$", 137, "msctl: 'sh' was terminated by signal 9 (Killed)\n"),
      ("kill -11 $$", 139, "msctl: 'sh' was terminated by signal 11 (Segmentation fault)\n"),
    ] as [(String, Int32, String)])
  func statuses(_ script: String, _ status: Int32, _ message: String) async throws {
    let output = try await start([Services.uniqueName("held"), "-p", "0", "--", "sh", "-c", script]).end()
    #expect(output.status == status)
    #expect(output.err == message)
  }

  @Test("tells a command that is not there from one that cannot be run, and a port that is taken")
  func cannotRun() async throws {
    let missing = try await start(["s", "-p", "0", "--", "msctl-no-such-command"]).end()
    #expect(missing.status == 127)
    #expect(missing.err.showsOnly("spawn not found", with: ["command": "msctl-no-such-command"]))
    let forbidden = try await start(["s", "-p", "0", "--", "/etc/passwd"]).end()
    #expect(forbidden.status == 126)
    #expect(forbidden.err.showsOnly("spawn", with: ["command": "/etc/passwd", "reason": "permission denied"]))
    let other = try TestServer { _ in .ok("") }
    let taken = try await start(["s", "-p", "\(other.port)", "--", "true"]).end()
    #expect(taken.status == 2)
    #expect(taken.err.shows("portInUse", ["80": "\(other.port)"]))
  }

  @Test("passes other signals on to the whole group, and says when the command does not listen")
  func signals() async throws {
    let script = """
      trap 'echo outer $1' HUP USR1
      bash -c 'trap "echo inner" HUP; echo ready; while true; do sleep 0.05; done' & while true; do wait; done
      """
    let held = try start([Services.uniqueName("held"), "-p", "0", "--", "bash", "-c", script])
    try await eventually("both run") { held.out.contains("ready") }
    held.signal(SIGHUP)
    try await eventually("both have the signal") { held.out.contains("outer") && held.out.contains("inner") }
    try await eventually("there is a remark") { held.err.shows("register notListening") }
    held.signal(SIGTERM)
    #expect(try await held.end().status == 128 + SIGTERM)
  }

  @Test("after SIGKILL of msctl nothing stays passing")
  func killed() async throws {
    let service = Services.uniqueName("held")
    let held = try start([service, "-p", "0", "--check", "tcp", "--interval", "1s", "--check", "ttl=1s"] + Self.server)
    try await eventually("it is passing") { try await isPassing(service) }
    // Whatever it is now: its time to live is short.
    let place = try #require(
      try await Tool.run("discover", service, "--status", "any", "-o", "hostport").lines.first)
    held.signal(SIGKILL)
    try await eventually("it is critical") { try await !isPassing(service) }
    // The command has lost who held it; it is this test's to end it.
    _ = try await Tool.shell("pkill -KILL -f '[h]ttp.server \(place.split(separator: ":")[1]) '")
    #expect(try await held.end().status == 128 + SIGKILL)
    _ = try await Tool.run("register", service, "--remove")
  }

  @Test("an agent that is away does not end the command, and one that has forgotten is told again")
  func agentRestarts() async throws {
    let agent = try await PrivateAgent()
    let held = try start(["s", "-p", "0", "--check", "ttl=1s"] + Self.server, agent.environment)
    try await eventually("it is registered") { try await isPassing("s", agent.environment) }
    try await agent.kill()
    // Refused, or broken where the agent died with a request before it, or too late.
    try await eventually("it is told") { held.err.contains("; the command keeps running") }
    try agent.forgetEverything()
    try await agent.start()
    try await eventually("it is registered again") { try await isPassing("s", agent.environment) }
    #expect(held.err.shows("register agentBack"))
    try await agent.kill()
    held.signal(SIGTERM)
    let output = try await held.end()
    #expect(output.status == 128 + SIGTERM)
    #expect(output.err.contains("could not be deregistered: "))
  }

  @Test("a command whose registration is refused is ended")
  func refused() async throws {
    let held = try start(
      ["s", "-p", "0"] + Self.server, ["CONSUL_HTTP_ADDR": Services.guardedConsul])
    let output = try await held.end()
    #expect(output.status == 6)
    #expect(
      output.err.shows("consul denied request without token", ["method": "PUT", "path": "/v1/agent/service/register"]))
  }

  @Test("a definition file says what else is to be known, several checks and weights among it")
  func definition() async throws {
    let service = Services.uniqueName("filed")
    let port = try Services.freePort()
    let text = """
      { "service": { "name": "\(service)", "port": \(port), "tags": ["a"], "meta": {"some_key": "v"},
        "weights": {"passing": 7, "warning": 1}, "enable_tag_override": true,
        "checks": [{ "id": "first", "tcp": "127.0.0.1:\(port)", "interval": "1s" },
                   { "name": "second", "ttl": "60s", "status": "passing", "deregister_critical_service_after": "90m" }] } }
      """
    let output = try await Tool.run("register", "--file", "-", input: text)
    #expect(output.status == 0)
    let shown = try await RunningProcess("/usr/bin/curl", ["-s", "\(Services.consul)/v1/agent/service/\(service)"])
      .end()
    #expect(shown.out.contains(#""Passing":7"#) || shown.out.contains(#""Passing": 7"#))
    #expect(shown.out.contains("EnableTagOverride\": true") || shown.out.contains("EnableTagOverride\":true"))
    #expect(shown.out.contains("some_key"))
    let checks = try await Tool.run("discover", service, "--status", "critical", "-o", "table")
    #expect(checks.out.contains(service))
    let server = try start(["--file", "/dev/stdin", "--", "python3", "-m", "http.server", "\(port)"])
    #expect(try await server.end().status == 9)
    #expect(try await Tool.run("register", service, "--remove").status == 0)
    let bad = try await Tool.run("register", "--file", "-", input: "{\"service\":{\"port\":1}}")
    #expect(bad.status == 9)
    #expect(bad.err.shows("definition noName"))
    let broken = try await Tool.run("register", "--file", "-", input: "service {")
    #expect(broken.status == 9)
    #expect(broken.err.shows("definitionNotJSON", ["path": "-"]))
  }

  @Test("--wait returns when the instance is passing")
  func wait() async throws {
    try await withService { service in
      let server = try TestServer { _ in .ok("1") }
      let output = try await Tool.run(
        "register", service, "-p", "\(server.port)", "--check", "http=/health", "--interval", "1s", "--wait")
      #expect(output.status == 0)
      #expect(try await Tool.run("discover", service).status == 0)
    }
  }

  @Test(
    "refuses what does not fit together",
    arguments: [
      (["s", "-p", "0"], "'--port 0' requires COMMAND"),
      (["s", "-p", "1", "--"], "no command after '--'"),
      (["s", "-p", "1", "--drain", "1s"], "'--drain' requires COMMAND"),
      (["s", "--remove", "--", "true"], "'--remove' cannot be combined with COMMAND"),
      (["s", "-p", "1", "--wait", "--", "true"], "'--wait' cannot be combined with COMMAND or '--remove'"),
      (["s", "--file", "f"], "'--file' cannot be combined with NAME or the options of the instance"),
      (["-p", "1"], "'register' requires NAME or '--file FILE'"),
    ])
  func usage(_ words: [String], _ message: String) async throws {
    let output = try await start(words).end()
    #expect(output.status == 2)
    #expect(output.err.hasPrefix("msctl: \(message)\n"))
  }
}
