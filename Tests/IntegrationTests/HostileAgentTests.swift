import Foundation
import Support
import Synchronization
import Testing

@Suite("Consul agents that flap, stall, lie and have no leader", .serialized)
struct HostileAgentTests {
  private static let one = FakeAgent.health(FakeAgent.instance("s", "s-1", port: 1))

  // MARK: How often it is asked

  @Test("an agent whose answers change all the time is asked a few times a second")
  func restless() async throws {
    let count = Counter()
    let times = Mutex<[Date]>([])
    let agent = try FakeAgent { _ in
      times.withLock { $0.append(Date()) }
      return FakeAgent.answer(Self.one, index: count.next())
    }
    let watch = try Tool.start("discover", "s", "--watch", environment: agent.environment)
    try await eventually("it has been asked ten times") { agent.requests.count >= 10 }
    let seen = times.withLock { $0 }
    #expect(seen[9].timeIntervalSince(seen[0]) > 1.5)
    watch.signal(SIGTERM)
    #expect(watch.out.split(separator: "\n").count == 1)
  }

  @Test("a watch that is refused writes out first what it has told")
  func refusedLater() async throws {
    let many = (1...2000).map { FakeAgent.instance("s", "s-\($0)", port: 1) }
    let agent = try FakeAgent { request in
      if request.target.contains("/agent/") { return FakeAgent.error(403, "Permission denied") }
      if request.target.contains("index=") { return FakeAgent.answer("[]", index: 2) }
      return FakeAgent.answer("[" + many.joined(separator: ",") + "]")
    }
    let script = try RunningProcess(
      "/bin/bash",
      ["-c", "exec 3<&0; msctl discover s --watch | { read -r go <&3; wc -l; }; echo ${PIPESTATUS[0]}"], input: nil,
      environment: agent.environment)
    try await eventually("it has asked whether it may read") {
      agent.requests.contains { $0.target.contains("/agent/") }
    }
    try script.write("go\n")
    let output = try await script.end()
    #expect(output.lines == ["2000", "6"], "\(output)")
  }

  @Test("an agent that says at once that nothing has changed is asked less and less")
  func hasty() async throws {
    let times = Mutex<[Date]>([])
    let agent = try FakeAgent { _ in
      times.withLock { $0.append(Date()) }
      return FakeAgent.answer(Self.one, index: 7)
    }
    let watch = try Tool.start("discover", "s", "--watch", environment: agent.environment)
    try await eventually("it has been asked five times") { agent.requests.count >= 5 }
    let seen = times.withLock { $0 }
    #expect(seen[4].timeIntervalSince(seen[0]) > 0.7)
    watch.signal(SIGTERM)
  }

  @Test("of hundreds of services of which ten flap, the list is complete at once, and only what changes is read again")
  func manyServices() async throws {
    let agent = try await PrivateAgent()
    let file = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("many") + ".json")
    defer { try? FileManager.default.removeItem(at: file) }
    let definitions = (1...300).map { n in
      """
      {"name":"s\(n)","id":"s\(n)","address":"127.0.0.1","port":\(n),\
      "checks":[{"CheckID":"c\(n)","TTL":"1h","Status":"passing"}]}
      """
    }
    try Data(#"{"services":[\#(definitions.joined(separator: ","))]}"#.utf8).write(to: file)
    let registered = try await Tool.run("register", "--file", file.path, "-q", environment: agent.environment)
    #expect(registered.status == 0)
    try await eventually("the catalog has all of them") {
      try await Tool.run("discover", environment: agent.environment).lines.count == 301
    }
    let flapping = try RunningProcess(
      "/usr/bin/env",
      [
        "python3", "-c",
        """
        import http.client, itertools
        c = http.client.HTTPConnection('127.0.0.1', \(agent.address.split(separator: ":").last ?? ""))
        for n in itertools.count():
          c.request('PUT', f'/v1/agent/check/{"fail" if n // 10 % 2 else "pass"}/c{n % 10 + 1}'); c.getresponse().read()
        """,
      ])
    // Those that do not flap are all there, in the gateway's first and only configuration.
    let list = try await Tool.run(
      "discover", "-o", "nginx", "--status", "any", environment: agent.environment.merging(["TZ": "UTC"]) { $1 })
    #expect(list.status == 0)
    #expect(list.out.split(separator: "\n").count { $0.hasPrefix("upstream ") } == 300)

    let start = Date()
    let watch = try Tool.start("discover", "--watch", "-v", environment: agent.environment)
    func questions() -> Int { watch.err.split(separator: "\n").count { $0.hasPrefix("> GET ") } }
    func events(_ name: String) -> Int { watch.out.components(separatedBy: #""service":"\#(name)","#).count - 1 }
    try await eventually("all are told") { events("s300") == 1 && events("s299") == 1 }
    let before = (questions: questions(), time: Date())
    #expect(Double(before.questions) < 330 + 20 * before.time.timeIntervalSince(start))
    let flaps = events("s1") + events("s2")
    try await eventually("flaps are told") { events("s1") + events("s2") >= flaps + 4 }
    let rate = Double(questions() - before.questions) / Date().timeIntervalSince(before.time)
    #expect(rate < 20, "\(rate) questions a second")
    // What does not flap is seen meanwhile, whether a check says so or nothing but the catalog does.
    _ = try await Tool.run("register", "s200", "-p", "7", "--id", "more", environment: agent.environment)
    try await eventually("the new instance is told") { watch.out.contains(#""id":"more""#) }
    #expect(Double(questions() - before.questions) < 400 + 20 * Date().timeIntervalSince(before.time))
    flapping.signal(SIGKILL)
    watch.signal(SIGTERM)
  }

  // MARK: What is no answer, and what no agent says

  @Test(
    "an answer of another shape is an error, and no empty list",
    arguments: ["{}", "null", "[1]", #"[{"Node":{}}]"#, "[]x"])
  func shapes(_ body: String) async throws {
    let agent = try FakeAgent { _ in FakeAgent.answer(body) }
    let found = try await Tool.run("discover", "s", environment: agent.environment)
    #expect(found.status == 1 && found.out == "")
    #expect(try await Tool.run("call", "s", environment: agent.environment).status == 1)
    let watch = try await Tool.run("discover", "s", "--watch", environment: agent.environment)
    #expect(watch.status == 1 && watch.out == "")
    if body != "{}" { #expect(try await Tool.run("discover", environment: agent.environment).status == 1) }
  }

  @Test("a watch takes an answer of another shape for trouble, removes nothing, and asks again")
  func shapeMeanwhile() async throws {
    let count = Counter()
    let agent = try FakeAgent { _ in
      let number = count.next()
      return FakeAgent.answer((2...4).contains(number) ? "{}" : Self.one, index: number)
    }
    let watch = try Tool.start("discover", "s", "--watch", environment: agent.environment)
    try await eventually("it is told that the agent is back") { watch.err.shows("watch agentBack") }
    #expect(watch.out.split(separator: "\n").count == 1 && !watch.out.contains("removed"))
    watch.signal(SIGTERM)
  }

  @Test("'--wait 0' shows what is passing")
  func waitZero() async throws {
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1", "--address", "127.0.0.1")
      for time in ["0", "1ms"] {
        // The agent has a second to answer.
        try await eventually("it is shown") {
          let output = try await Tool.run("discover", service, "--wait", time, "-o", "hostport")
          return output.status == 0 && output.out == "127.0.0.1:1\n"
        }
      }
      #expect(try await Tool.run("discover", service + "x", "--wait", "0").status == 8)
    }
  }

  // MARK: An agent in trouble

  @Test("one deadline holds for look-up and call")
  func hungAgent() async throws {
    let never = DispatchSemaphore(value: 0)
    let agent = try FakeAgent { _ in .init(["HTTP/1.1 200 OK\r\n", "x"], gate: { _ in never.wait() }) }
    // By itself, a look-up takes up to 10 s.
    let isInTime = try await isInTime(.seconds(8)) {
      let begin = ContinuousClock.now
      let output = try await Tool.run("call", "s", "--timeout", "500ms", environment: agent.environment)
      #expect(output.status == 8)
      #expect(output.err.contains("the Consul agent"))
      return begin.duration(to: .now)
    }
    #expect(isInTime)
    for _ in agent.requests { never.signal() }
  }

  @Test("'--retry' covers the agent, too")
  func retriedAgent() async throws {
    let server = try TestServer { _ in .ok("1") }
    let count = Counter()
    let agent = try FakeAgent { _ in
      count.next() <= 2
        ? .none(resets: true)
        : FakeAgent.answer(FakeAgent.health(FakeAgent.instance("s", "s-1", port: server.port)))
    }
    let output = try await Tool.run("call", "s", "--retry", "3", environment: agent.environment)
    #expect(output.out == "1\n" && output.status == 0)
    #expect(output.err.contains("; trying again in "))
    let dead = ["CONSUL_HTTP_ADDR": "127.0.0.1:\(try Services.freePort())"]
    #expect(try await Tool.run("call", "s", "--retry", "2", environment: dead).status == 6)
  }

  @Test("look-ups are made of the leader, and without one of any server, with a remark")
  func noLeader() async throws {
    let agent = try FakeAgent { request in
      if request.target.contains("index=") { return FakeAgent.answer(Self.one, index: 2, knownLeader: false) }
      return request.target.contains("stale")
        ? FakeAgent.answer(Self.one, knownLeader: false) : FakeAgent.noLeader
    }
    let found = try await Tool.run("discover", "s", "-o", "hostport", environment: agent.environment)
    #expect(found.status == 0 && found.out == "127.0.0.1:1\n")
    #expect(found.err.contains("has no leader; its responses may be out of date"))
    #expect(agent.requests.map { $0.target.contains("stale") } == [false, true])
    #expect(!agent.requests[0].target.contains("consistent"))

    let stale = try await Tool.run("discover", "s", "--stale", "-o", "hostport", environment: agent.environment)
    #expect(stale.status == 0 && stale.err == "")
    let strict = try await Tool.run(
      "call", "s", "--consistent", "--connect-timeout", "1s", environment: agent.environment)
    #expect(strict.status == 6)
    #expect(strict.err.shows("consul leaderless", ["words": "No cluster leader"]))
    #expect(agent.requests.last?.target.contains("consistent") == true)

    let watch = try Tool.start("discover", "s", "--watch", environment: agent.environment)
    try await eventually("the instance is told") { watch.out.contains(#""event":"added""#) }
    #expect(watch.err.contains("has no leader"))
    watch.signal(SIGTERM)
    let both = try await Tool.run("discover", "s", "--stale", "--consistent")
    #expect(both.status == 2)
  }

  @Test(
    "an agent in trouble is asked again, and in the end quoted",
    arguments: [
      // agent/consul/rate/handler.go: ErrRetryElsewhere and ErrRetryLater; agent/structs/errors.go: errNoServers.
      (429, "rate limit exceeded, try again later or against a different server"),
      (503, "rate limit exceeded for operation that can only be performed by the leader, try again later"),
      (500, "No known Consul servers"),
    ])
  func trouble(_ status: Int, _ words: String) async throws {
    let count = Counter()
    let agent = try FakeAgent { request in
      if request.target.contains("/s?") || request.target.hasSuffix("/s"), count.next() > 2 {
        return FakeAgent.answer(Self.one)
      }
      return FakeAgent.error(status, words)
    }
    let found = try await Tool.run("discover", "s", "-o", "hostport", environment: agent.environment)
    #expect(found.status == 0 && found.out == "127.0.0.1:1\n")
    #expect(agent.requests.count == 3)
    let refused = try await Tool.run(
      "call", "other", "--connect-timeout", "500ms", environment: agent.environment)
    #expect(refused.status == 6)
    #expect(
      refused.err.shows("consul returned", ["500": "\(status)", "path": "/v1/health/service/other", "words": words]))
  }

  @Test("what the agent writes has a type, and says who we are")
  func writes() async throws {
    // `AgentRegisterService` in agent/agent_endpoint.go returns nothing: 200 without a body.
    let agent = try FakeAgent { request in
      request.method == "PUT" ? FakeAgent.answer("") : FakeAgent.answer(Self.one)
    }
    let environment = agent.environment.merging([
      "CONSUL_HTTP_AUTH": "ada:hunter2", "CONSUL_PARTITION": "team a", "CONSUL_NAMESPACE": "n",
    ]) { $1 }
    #expect(try await Tool.run("register", "s", "-p", "1", environment: environment).status == 0)
    _ = try await Tool.run("discover", "s", "--peer", "east", "--partition", "b", environment: environment)
    let put = try #require(agent.requests.first)
    #expect(put.header("Content-Type") == "application/json")
    #expect(put.header("Authorization") == "Basic YWRhOmh1bnRlcjI=")
    #expect(put.target.contains("partition=team%20a") && put.target.contains("ns=n"))
    let get = try #require(agent.requests.last)
    #expect(get.target.contains("peer=east") && get.target.contains("partition=b"))
  }

  // MARK: Newer agents

  @Test("named ports: the default one, the one that is named, and a sentence where there is none of the name")
  func namedPorts() async throws {
    let server = try TestServer { _ in .ok("1") }
    // https://developer.hashicorp.com/consul/docs/connect/proxy/multiport: Port is 0 where there are Ports. PeerName, Partition
    // and Namespace: `NodeService` in agent/structs/structs.go, and `AgentService` in api/agent.go.
    let ports =
      #","Ports":[{"Name":"http","Port":\#(server.port),"Default":true},{"Name":"grpc","Port":9090}],"PeerName":"east","#
      + #""Partition":"p","Namespace":"n""#
    let body = FakeAgent.health(FakeAgent.instance("s", "s-1", port: 0, more: ports))
    let agent = try FakeAgent { _ in FakeAgent.answer(body, index: 3) }
    func run(_ words: String...) async throws -> Output {
      try await RunningProcess(Tool.binary, words, environment: agent.environment).end()
    }
    #expect(try await run("discover", "s", "-o", "hostport").out == "127.0.0.1:\(server.port)\n")
    #expect(try await run("discover", "s", "-o", "hostport", "--port-name", "grpc").out == "127.0.0.1:9090\n")
    #expect(
      try await run("discover", "s", "-o", "hostport", "--port-name", "grpc", "--wait", "5m").out == "127.0.0.1:9090\n")
    let json = try await run("discover", "s").out
    #expect(
      json.hasSuffix(
        #""ports":{"http":\#(server.port),"grpc":9090},"peer":"east","partition":"p","namespace":"n"}"# + "\n"))
    #expect(try await run("call", "s", "--port-name", "http").out == "1\n")
    let none = try await run("call", "s", "--port-name", "admin")
    #expect(none.status == 3)
    #expect(
      none.err.shows("consul noPort 2", ["service": "s", "port": "admin", "name": "http", "other": "grpc"]))
  }

  @Test(
    "an instance is gone where the agent says that it does not know it, and nowhere else",
    arguments: [
      // agent/acl.go, `vetServiceUpdateWithAuthorizer`, and the same in Consul 1.8.
      (404, "Unknown service ID \"x\". Ensure that the service ID is passed, not the service name.", true),
      (500, "Unknown service {\"ID\":\"x\"}", true), (500, "rpc error making call: EOF", false),
      (404, "Invalid URL path", false),
    ])
  func unknownService(_ status: Int, _ words: String, _ isGone: Bool) async throws {
    let agent = try FakeAgent { request in
      if request.target.contains("/deregister/") { return FakeAgent.error(status, words) }
      return FakeAgent.answer(request.method == "PUT" ? "" : #"{"x":{"Service":"s"}}"#)
    }
    let held = try Tool.start(
      "register", "s", "-p", "0", "--id", "x", "--", "sh", "-c", "exec python3 -m http.server $PORT 2>/dev/null",
      environment: agent.environment)
    try await eventually("it is registered") { held.err.shows("register registered", ["service": "s", "id": "x"]) }
    held.signal(SIGTERM)
    _ = try await held.end()
    #expect(held.err.shows("register deregistered", ["id": "x"]) == isGone)
    #expect(held.err.shows("register notDeregistered 2", ["id": "x"]) == !isGone)
    if isGone {
      #expect(try await Tool.run("register", "s", "--remove", environment: agent.environment).status == 0)
    }
  }
}
