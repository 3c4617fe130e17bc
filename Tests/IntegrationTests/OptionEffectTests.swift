import Foundation
import MsctlCore
import Support
import Testing

/// A file of a test's own, which is gone after it.
private func withFile(_ text: String, _ body: (String) async throws -> Void) async throws {
  let file = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("file"))
  try Data(text.utf8).write(to: file)
  defer { try? FileManager.default.removeItem(at: file) }
  try await body(file.path)
}

/// The addresses of services on which nobody listens.
private let nobody = ["AMQP_URL": "amqp://127.0.0.1:1", "CONSUL_HTTP_ADDR": "127.0.0.1:1"]

/// What options of one verb do that have no test among others of their kind. `OptionTests` lists the test of each option.
@Suite("What options of one verb do", .serialized)
struct OptionEffectTests {
  // MARK: call

  @Test("call: --tag chooses among the instances, --dc says where they are; register: --weight reaches the agent")
  func instances() async throws {
    try await withService { service in
      let (blue, green) = (try TestServer { _ in .ok("1") }, try TestServer { _ in .ok("2") })
      // Without the tag, the other one is called: it is far heavier.
      for (color, server, weight) in [("blue", blue, "1"), ("green", green, "65535")] {
        let registered = try await Tool.run(
          "register", service, "-p", "\(server.port)", "--address", "127.0.0.1", "--tag", color, "--weight", weight)
        #expect(registered.status == 0)
      }
      let known = try await RunningProcess(
        "/usr/bin/curl", ["-s", "\(Services.consul)/v1/catalog/service/\(service)"]
      ).end().out
      #expect(known.contains(#""ServiceWeights":{"Passing":65535,"#), "\(known)")
      #expect(try await Tool.run("call", service, "--tag", "blue").out == "1\n")
      #expect(try await Tool.run("call", service, "--dc", "dc1").status == 0)
      let elsewhere = try await Tool.run("call", service, "--dc", "nowhere")
      #expect(elsewhere.status == 1 && elsewhere.err.contains("No path to datacenter"))
    }
  }

  @Test("call: --near takes the instances in the agent's order; --peer, --stale and discover's --near reach the agent")
  func lookUp() async throws {
    let (near, far) = (try TestServer { _ in .ok("1") }, try TestServer { _ in .ok("2") })
    let body = FakeAgent.health(
      FakeAgent.instance("s", "near", port: near.port), FakeAgent.instance("s", "far", port: far.port))
    let agent = try FakeAgent { _ in FakeAgent.answer(body) }
    let input = Array(repeating: "1", count: 20).joined(separator: " ")
    let calls = try await Tool.run(
      "call", "s", "--each", "--near", "_agent", "--peer", "east", "--stale", input: input,
      environment: agent.environment)
    #expect(calls.status == 0 && near.requests.count == 20 && far.requests.isEmpty)
    let query = try #require(agent.requests.first).target
    for part in ["near=_agent", "peer=east", "stale"] { #expect(query.contains(part), "\(query)") }
    let found = try await Tool.run(
      "discover", "s", "--near", "_agent", "-o", "hostport", environment: agent.environment)
    #expect(found.out == "127.0.0.1:\(near.port)\n127.0.0.1:\(far.port)\n")
    #expect(agent.requests.last?.target.contains("near=_agent") == true)
  }

  @Test("call: --connect-timeout ends an attempt, not the call")
  func connectTimeout() async throws {
    // The first connections fill the queue of a server that accepts none; the kernel answers no other.
    let server = try RunningProcess(
      "/usr/bin/env",
      [
        "python3", "-c",
        """
        import socket, time
        s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(0); clients = [socket.socket() for _ in range(4)]
        for c in clients: c.setblocking(False); c.connect_ex(s.getsockname())
        print(s.getsockname()[1], flush=True); time.sleep(1000)
        """,
      ])
    try await eventually("it listens") { server.out.hasSuffix("\n") }
    let output = try await Tool.run(
      "call", ":\(server.out.dropLast())/", "--connect-timeout", "100ms", "--retry", "1", "--timeout", "5m")
    #expect(output.status == 6 && output.err.hasSuffix("; 2 attempts\n"), "\(output)")
  }

  // MARK: publish and consume

  @Test("publish: each property reaches the broker, and 'consume --envelope' shows it")
  func properties() async throws {
    try await withQueue { queue in
      let output = try await Tool.run(
        "publish", queue, "1", "--content-type", "text/csv", "--content-encoding", "br", "--reply-to", "answers",
        "--user-id", "guest", "--app-id", "shop", "--transient", "--correlation-id", "c1", "--priority", "3", "--type",
        "t", "--message-id", "m1", "--ttl", "1h", "-H", "k=v")
      #expect(output.status == 0)
      let message = try #require(try await Services.messages(in: queue).first)
      let properties = try #require(message["properties"] as? [String: Any])
      let texts = [
        "content_type": "text/csv", "content_encoding": "br", "reply_to": "answers", "user_id": "guest",
        "app_id": "shop", "correlation_id": "c1", "type": "t", "message_id": "m1", "expiration": "3600000",
      ]
      for (name, text) in texts { #expect(properties[name] as? String == text, "\(name)") }
      #expect(properties["delivery_mode"] as? Int == 1 && properties["priority"] as? Int == 3)
      #expect((properties["headers"] as? [String: Any])?["k"] as? String == "v")
      let envelope = try await Tool.run("consume", queue, "--drain", "--envelope")
      for part in [
        #""contentType":"text/csv""#, #""contentEncoding":"br""#, #""replyTo":"answers""#, #""userId":"guest""#,
        #""appId":"shop""#, #""deliveryMode":1"#,
      ] { #expect(envelope.out.contains(part), "\(envelope.out)") }
      // The broker compares it with the login.
      #expect(try await Tool.run("publish", queue, "1", "--user-id", "nobody").status == 7)
    }
  }

  @Test("publish: --rate, --speed: messages are sent no faster; consume: --rate: nor handed on")
  func rate() async throws {
    try await withQueue { queue in
      func time(_ body: () async throws -> Output) async throws -> Duration {
        let start = ContinuousClock.now
        let output = try await body()
        #expect(output.status == 0, "\(output)")
        return ContinuousClock.now - start
      }
      // What is late by up to 10 ms may be made up for.
      let least: Duration = .milliseconds(980)
      let published = try await time { try await Tool.run("publish", queue, "--rate", "240/m", input: "1 2 3 4 5") }
      let consumed = try await time { try await Tool.run("consume", queue, "--rate", "4", "--count", "5") }
      let envelopes = (0...1).map {
        #"{"body":\#($0),"routingKey":"\#(queue)","properties":{"timestamp":\#(7 + $0 * 2)}}"#
      }
      let input = envelopes.joined(separator: "\n")
      let replayed = try await time { try await Tool.run("publish", "-e", "--speed", "2x", input: input) }
      #expect(published >= least && consumed >= least && replayed >= least)
    }
    for words in [
      ["-e", "--rate", "1", "--speed", "1"], ["--speed", "1x"], ["--rate", "0"], ["-e", "--speed", "-1x"],
    ] {
      let output = try await RunningProcess(Tool.binary, ["publish", "q"] + words).end()
      #expect(output.status == 2, "\(words) \(output)")
    }
  }

  @Test("publish: --speed tells of a long wait, once")
  func longWait() async throws {
    try await withQueue { queue in
      let publisher = try Tool.start("publish", queue, "-e", "--speed", "1x", input: nil)
      for time in [1, 1000, 2000] {
        try publisher.write(#"{"body":\#(time),"properties":{"timestamp":\#(time)}}"#)
      }
      try publisher.closeInput()
      try await eventually("it is told") { publisher.err.shows("publish waiting") }
      publisher.signal(SIGTERM)
      let output = try await publisher.end()
      #expect(output.status == 143, "\(output)")
      #expect(output.err.components(separatedBy: "'--speed'").count == 2, "\(output)")
      #expect(try await Tool.run("consume", queue, "--drain").out == "1\n")
    }
  }

  @Test("call: --stats counts the time of one call, too")
  func oneCall() async throws {
    let server = try TestServer { _ in
      TestServer.Answer(["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", "1"]) { _ in
        Thread.sleep(forTimeInterval: 0.3)
      }
    }
    let output = try await Tool.run("call", server.url, "--stats", "--json-errors")
    let seconds = try #require(JSONValue(parsing: output.err.utf8)["summary"]?["seconds"])
    #expect(Double(String(decoding: seconds.text, as: UTF8.self)) ?? 0 >= 0.29, "\(output)")
  }

  @Test("publish: --exchange-type declares the exchange; --no-mandatory lets messages go that no queue gets")
  func exchangeType() async throws {
    let name = Services.uniqueName("exchange")
    let declaring = ["publish", "-x", name, "-k", "a", "--exchange-type", "topic"]
    let input = "1 2"
    let returned = try await RunningProcess(Tool.binary, declaring, input: input).end()
    #expect(returned.status == 7 && returned.err.shows("message returned by exchange"), "\(returned)")
    let state = try await Services.management("GET", "/exchanges/%2F/\(name)")
    #expect(state.contains(#""type":"topic""#) && state.contains(#""durable":true"#), "\(state)")
    for words in [[], ["--exchange-type", "topic"]] {
      let dropped = try await RunningProcess(
        Tool.binary, ["publish", "-x", name, "-k", "a", "--no-mandatory"] + words, input: input
      ).end()
      #expect(dropped.status == 0 && dropped.err.shows("note confirmed", ["3": "2"]), "\(dropped)")
    }
    let other = try await Tool.run("publish", "-x", name, "-k", "a", "--exchange-type", "fanout", "1")
    #expect(other.status == 1 && other.err.contains("PRECONDITION_FAILED"), "\(other)")
    _ = try await Services.management("DELETE", "/exchanges/%2F/\(name)")
    let missing = try await Tool.run("publish", "-x", name, "-k", "a", "1")
    #expect(missing.status == 7 && missing.err.contains("--exchange-type"), "\(missing)")
    for words in [
      ["q", "--exchange-type", "topic"], ["q", "--no-mandatory"], ["-x", "", "--exchange-type", "topic"],
      ["-x", name, "--exchange-type", "topic", "--passive"], ["-x", name, "--no-mandatory", "--reply"],
    ] {
      let output = try await RunningProcess(Tool.binary, ["publish"] + words).end()
      #expect(output.status == 2, "\(words) \(output)")
    }
  }

  @Test("publish: -H NAME:=JSON is a header with a type")
  func typedHeaders() async throws {
    try await withQueue { queue in
      let output = try await Tool.run(
        "publish", queue, "1", "-H", "n:=5", "-H", "t:=true", "-H", #"l:=[1,"a"]"#, "-H", #"w:={"$int64":7}"#, "-H",
        "s=5")
      #expect(output.status == 0, "\(output)")
      let headers = try #require(
        (try await Services.messages(in: queue).first?["properties"] as? [String: Any])?["headers"] as? [String: Any])
      #expect(headers["n"] as? Int == 5 && headers["t"] as? Bool == true && headers["s"] as? String == "5")
      let envelope = try await Tool.run("consume", queue, "--drain", "--envelope")
      // RabbitMQ 4.3 sorts them.
      for field in [#""n":5"#, #""t":true"#, #""l":[1,"a"]"#, #""w":{"$int64":7}"#, #""s":"5""#] {
        #expect(envelope.out.contains(field), "\(envelope.out)")
      }
      let wrong = try await Tool.run("publish", queue, "1", "-H", "n:=five")
      #expect(wrong.status == 2 && wrong.err.contains("for a string, write '=' instead of ':='"), "\(wrong)")
      let unknown = try await Tool.run("publish", queue, "1", "-H", #"n:={"$int":1}"#)
      #expect(unknown.status == 2 && unknown.err.contains("'$int', which is not a known type"), "\(unknown)")
    }
  }

  @Test("consume: --consumer-argument x-priority lets one consumer go before another")
  func consumerArgument() async throws {
    try await withQueue(arguments: "{}") { queue in
      let second = try Tool.start("consume", queue, "--for", "60s")
      try await eventually("one consumer is there") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains(#""consumers":1"#)
      }
      let first = try Tool.start("consume", queue, "--consumer-argument", "x-priority=5", "--for", "60s")
      try await eventually("both are there") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains(#""consumers":2"#)
      }
      #expect(try await Tool.run("publish", queue, input: "1 2 3").status == 0)
      try await eventually("all are taken and acknowledged") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains(#""ack":3"#)
      }
      for run in [first, second] { run.signal(SIGTERM) }
      #expect(try await first.end().lines == ["1", "2", "3"])
      #expect(try await second.end().lines == [])
      let hidden = try await Tool.run("consume", queue, "--consumer-argument", "x-stream-offset=1")
      #expect(hidden.status == 2 && hidden.err.contains("'--offset'"), "\(hidden)")
    }
  }

  @Test("publish: --window limits what is sent and not confirmed, for as long as --confirm-timeout says")
  func window() async throws {
    let count = Counter()
    let broker = try FakeBroker { _, method in
      guard method.name == .publish else { return false }
      count.next()
      return true
    }
    let output = try await Tool.run(
      "publish", "q", "--window", "3", "--confirm-timeout", "300ms", "--reconnect-for", "0", input: "1 2 3 4 5 6 7 8 9",
      environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 7 && output.err.shows("publish unconfirmed") && output.err.contains("300 ms"), "\(output)")
    // The broker may still be reading.
    try await eventually("all have come") { count.value >= 3 }
    #expect(count.value == 3)
  }

  @Test("consume: with --reconnect-for 0, a connection that breaks is the end")
  func noReconnection() async throws {
    try await withQueue { queue in
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let run = try Tool.start(
        "consume", queue, "--reconnect-for", "0", environment: ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)"])
      _ = try await Tool.run("publish", queue, "1")
      try await eventually("it consumes") { run.out == "1\n" }
      proxy.cutAll()
      #expect(try await run.end().status == 6)
    }
  }

  @Test("--passive declares no queue; consume: --raw writes the bytes of a text")
  func passiveAndRaw() async throws {
    try await withQueue { queue in
      let published = try await Tool.run("publish", queue, "1", "--passive")
      #expect(published.status == 3)
      let consumed = try await Tool.run("consume", queue, "--count", "1", "--for", "100ms", "--passive")
      #expect(consumed.status == 3)
      _ = try await Tool.run("publish", queue, "--text", "a")
      let raw = try await Tool.run("consume", queue, "--drain", "--raw")
      #expect(raw.out == "a\n")
    }
  }

  // MARK: register

  @Test("register: the agent asks by gRPC, for the service that the check names")
  func grpc() async throws {
    // As little of HTTP/2 and of gRPC's health checking protocol as Consul needs, and the name of each service it asks for.
    let script = """
      import socket
      def frame(kind, flags, stream, payload=b''):
        return len(payload).to_bytes(3, 'big') + bytes([kind, flags]) + stream.to_bytes(4, 'big') + payload
      def field(name, value): return b'\\0' + bytes([len(name)]) + name + bytes([len(value)]) + value
      def read(count):
        data = b''
        while len(data) < count:
          piece = c.recv(count - len(data))
          if not piece: raise EOFError
          data += piece
        return data
      s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(16); print(s.getsockname()[1], flush=True)
      while True:
        c = s.accept()[0]
        try:
          read(24); c.sendall(frame(4, 0, 0))
          while True:
            head = read(9); payload = read(int.from_bytes(head[:3], 'big')); kind, flags = head[3], head[4]
            if kind in (4, 6) and not flags & 1: c.sendall(frame(kind, 1, 0, payload if kind == 6 else b''))
            if kind == 0 and flags & 1:
              print('asked for', payload[7:].decode(), flush=True)
              stream = int.from_bytes(head[5:], 'big')
              c.sendall(frame(1, 4, stream, b'\\x88' + field(b'content-type', b'application/grpc'))
                + frame(0, 0, stream, b'\\0\\0\\0\\0\\2\\x08\\1') + frame(1, 5, stream, field(b'grpc-status', b'0')))
        except (EOFError, OSError): pass
      """
    let server = try RunningProcess("/usr/bin/env", ["python3", "-c", script])
    try await eventually("it listens") { server.out.hasSuffix("\n") }
    let port = server.out.dropLast()
    try await withService { service in
      let output = try await Tool.run(
        "register", service, "-p", "\(port)", "--check", "grpc=orders", "--interval", "1s", "--wait")
      #expect(output.status == 0, "\(output)")
      #expect(server.out.contains("asked for orders\n"))
      let whole = try await Tool.run(
        "register", service, "-p", "\(port)", "--check", "grpc", "--interval", "1s", "--wait")
      #expect(whole.status == 0, "\(whole)")
      try await eventually("it is asked for the server itself") { server.out.contains("asked for \n") }
    }
  }

  @Test("register: --check-timeout ends a check; --interval and --deregister-after are kept by the agent")
  func checkTimes() async throws {
    try await withService { service in
      // Its response passes where the agent waits for it.
      let server = try TestServer { _ in
        .init(
          ["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n", "\r\n1"], gate: { _ in Thread.sleep(forTimeInterval: 2) })
      }
      let registered = try await Tool.run(
        "register", service, "-p", "\(server.port)", "--address", "127.0.0.1", "--check", "http=/", "--check-timeout",
        "100ms", "--deregister-after", "90m", "--interval", "1s")
      #expect(registered.status == 0)
      // Consul's own record of the check, in nanoseconds: no part of its API says when it deregisters (1.8).
      let record = try await RunningProcess("/bin/grep", ["-rhF", service, Services.folder + "/consul"]).end().out
      #expect(record.contains(#""DeregisterCriticalServiceAfter":5400000000000"#), "\(record)")
      #expect(record.contains(#""Interval":1000000000,"#), "\(record)")
      var output = ""
      try await eventually("the check has run") {
        let checks = try await RunningProcess(
          "/usr/bin/curl", ["-s", "\(Services.consul)/v1/health/checks/\(service)"]
        ).end().out
        let value = try JSONSerialization.jsonObject(with: Data(checks.utf8)) as? [[String: Any]]
        output = value?.first?["Output"] as? String ?? ""
        return !output.isEmpty
      }
      #expect(output.contains("Timeout exceeded"), "\(output)")
    }
  }
}

@Suite("What options do that verbs share", .serialized)
struct SharedOptionTests {
  private static let instance = FakeAgent.instance("s", "s-1", port: 1)

  /// An agent that knows one service, and has no leader.
  private func leaderless() throws -> FakeAgent {
    try FakeAgent { request in
      if request.method == "PUT" { return FakeAgent.answer("") }
      if request.target.hasPrefix("/v1/catalog/services") { return FakeAgent.answer(#"{"s":[]}"#) }
      guard request.target.contains("stale") else { return FakeAgent.noLeader }
      return FakeAgent.answer(FakeAgent.health(Self.instance), knownLeader: false)
    }
  }

  @Test("--help shows how each verb is used")
  func help() async throws {
    for verb in ["call", "publish", "consume", "register", "discover", "completion"] {
      let output = try await Tool.run(verb, "--help")
      #expect(output.status == 0 && output.out.hasPrefix("Usage: msctl \(verb) "), "\(output)")
    }
  }

  @Test("--color always colours JSON in a pipe")
  func colour() async throws {
    let server = try TestServer { _ in .ok("{\"a\":1}") }
    let agent = try leaderless()
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, "{\"a\":1}")
      for words in [
        ["call", server.url], ["publish", "q", "1", "--dry-run"], ["consume", queue, "--drain"],
        ["register", "s", "-p", "1", "--dry-run"], ["discover", "s"],
      ] {
        let output = try await RunningProcess(
          Tool.binary, words + ["--color", "always"], environment: agent.environment
        ).end()
        #expect(output.status == 0 && output.out.contains("\u{1B}["), "\(words): \(output)")
      }
    }
  }

  @Test("--quiet leaves out summaries")
  func quiet() async throws {
    let server = try TestServer { _ in .ok("1") }
    let agent = try leaderless()
    try await withQueue { queue in
      for (words, note) in [
        (["call", server.url, "--each", "--stats"], "1 call"), (["publish", queue, "1"], "1 message confirmed"),
        (["register", "s", "-p", "1"], "registered 's'"), (["discover", "s"], "has no leader"),
      ] {
        func run(_ more: String...) async throws -> Output {
          try await RunningProcess(Tool.binary, words + more, input: "1", environment: agent.environment).end()
        }
        let (told, quiet) = (try await run(), try await run("--quiet"))
        #expect(told.err.contains(note), "\(told)")
        #expect(quiet.status == 0 && quiet.err == "", "\(quiet)")
      }
    }
    for more in [[], ["--quiet"]] {
      try await withQueue { queue in
        let output = try await RunningProcess(Tool.binary, ["consume", queue, "--idle", "10ms"] + more).end()
        #expect(output.err.shows("note declaredQueue") == more.isEmpty, "\(output)")
      }
    }
  }

  @Test("--verbose shows the traffic")
  func verbose() async throws {
    let agent = try leaderless()
    try await withQueue { queue in
      for (words, line) in [
        (["call", "s"], "> GET "), (["publish", queue, "1"], "> basic.publish"),
        (["consume", queue, "--drain"], "> basic.consume"), (["register", "s", "-p", "1"], "> PUT "),
        (["discover", "s"], "> GET "), (["completion", "--list", "service"], "> GET "),
      ] {
        let output = try await RunningProcess(
          Tool.binary, words + ["--verbose"], environment: agent.environment
        ).end()
        #expect(output.err.contains(line), "\(output)")
      }
    }
  }

  @Test("--json-errors writes errors as JSON")
  func jsonErrors() async throws {
    for (words, code) in [
      (["call", "127.0.0.1:1"], "unreachable"), (["publish", "q", "1"], "unreachable"),
      (["consume", "q", "--drain"], "unreachable"), (["register", "s", "-p", "1"], "unreachable"),
      (["discover", "s"], "unreachable"), (["completion"], "usage"),
    ] {
      let output = try await RunningProcess(Tool.binary, words + ["--json-errors"], environment: nobody).end()
      #expect(output.err.hasPrefix(#"{"error":{"code":"\#(code)","#), "\(output)")
    }
  }

  @Test("--consul-addr, --consul-token-file and --partition say how the agent is asked")
  func agent() async throws {
    try await withFile("t0ken\n") { file in
      for words in [
        ["call", "s"], ["register", "s", "-p", "1"], ["discover", "s"], ["completion", "--list", "service"],
      ] {
        let agent = try leaderless()
        let options = ["--consul-addr", agent.server.url, "--consul-token-file", file, "--partition", "team"]
        let output = try await RunningProcess(Tool.binary, words + options, environment: nobody).end()
        let request = try #require(agent.requests.first, "\(output)")
        #expect(request.header("X-Consul-Token") == "t0ken" && request.target.contains("partition=team"))
      }
    }
  }

  @Test("--broker and --password-file say how the broker is reached")
  func broker() async throws {
    try await withQueue { queue in
      #expect(try await Tool.run("publish", queue, "1", "--broker", Services.broker, environment: nobody).status == 0)
      let consumed = try await Tool.run("consume", queue, "--drain", "--broker", Services.broker, environment: nobody)
      #expect(consumed.out == "1\n")
      let api = try TestServer { _ in .ok(#"[{"name":"orders"}]"#) }
      let listed = try await Tool.run(
        "completion", "--list", "queue", "--broker", "amqp://127.0.0.1/shop",
        environment: ["MSCTL_MANAGEMENT_URL": api.url])
      #expect(listed.out == "orders\n" && api.requests.first?.target == "/queues/shop?columns=name")

      let address = try #require(Services.broker.split(separator: "@").last)
      let wrong = ["AMQP_URL": "amqp://guest:wrong@\(address)"]
      try await withFile("guest\n") { file in
        let published = try await Tool.run("publish", queue, "2", "--password-file", file, environment: wrong)
        #expect(published.status == 0, "\(published)")
        let consumed = try await Tool.run("consume", queue, "--drain", "--password-file", file, environment: wrong)
        #expect(consumed.out == "2\n", "\(consumed)")
      }
    }
  }

  @Test("--wait waits for a broker that starts")
  func wait() async throws {
    let address = try #require(Services.broker.split(separator: "@").last)
    let target = try #require(address.split(separator: ":").last.flatMap { Int($0) })
    try await withQueue { queue in
      for words in [["publish", queue, "1"], ["consume", queue, "--count", "1"]] {
        let port = try Services.freePort()
        let process = try RunningProcess(
          Tool.binary, words + ["--wait", "10m"], environment: ["AMQP_URL": "amqp://guest:guest@127.0.0.1:\(port)"])
        try await eventually("it waits") { process.err.shows("note waitingForBroker") }
        let broker = try FaultProxy(to: target, on: port) { _ in .none }
        #expect(try await process.end().status == 0)
        #expect(broker.connections > 0)
      }
    }
  }
}
