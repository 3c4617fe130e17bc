import Foundation
import Support
import Testing

/// Names that Swift takes for the same String, though their bytes differ: U+212A is "K", and an accent may stand alone.
@Suite("Names that look the same", .serialized)
struct HostileNamesTests {
  private static let names = ["user\u{212A}", "userK", "caf\u{E9}", "cafe\u{301}"]

  private static func port(of name: String) -> Int {
    100 + (names.firstIndex { $0.utf8.elementsEqual(name.utf8) } ?? 99)
  }

  private static func holds(_ text: String, _ part: String) -> Bool {
    Data(text.utf8).range(of: Data(part.utf8)) != nil
  }

  /// An agent of all services, one instance each.
  private static func agent(index: @escaping @Sendable () -> Int = { 7 }) throws -> FakeAgent {
    try FakeAgent { request in
      let path = request.target.prefix { $0 != "?" }
      if path == "/v1/catalog/services" {
        return FakeAgent.answer("{" + names.map { "\"\($0)\":[]" }.joined(separator: ",") + "}", index: index())
      }
      if path == "/v1/health/state/any" { return FakeAgent.answer("[]", index: 7) }
      let name = (String(path) as NSString).lastPathComponent.removingPercentEncoding ?? ""
      return FakeAgent.answer(FakeAgent.health(FakeAgent.instance(name, "i", port: port(of: name))), index: 7)
    }
  }

  @Test("are services of their own in a watch")
  func watch() async throws {
    let agent = try Self.agent()
    let watch = try Tool.start("discover", "--watch", environment: agent.environment)
    try await eventually("all are told") { watch.out.split(separator: "\n").count == 4 }
    for name in Self.names {
      let event = #""event":"added","service":"\#(name)","id":"i","node":"n","address":"127.0.0.1","port":"#
      #expect(Self.holds(watch.out, "\(event)\(Self.port(of: name)),"), "\(name)")
    }
    watch.signal(SIGTERM)
  }

  @Test("get no part of another one's traffic in a gateway")
  func gateway() async throws {
    let agent = try Self.agent()
    let output = try await Tool.run("discover", "-o", "nginx", environment: agent.environment)
    #expect(output.lines.filter { $0.hasPrefix("upstream") } == ["upstream userK {"], "\(output)")
    #expect(output.lines.filter { $0.hasPrefix("  server") } == ["  server 127.0.0.1:101 weight=1;"], "\(output)")
    #expect(output.err.hasPrefix("msctl: left out: ") && output.err.utf8.count { $0 == 0x0A } == 1, "\(output)")
  }

  @Test("are instances of their own: where one fails, the other is called")
  func instances() async throws {
    let server = try TestServer { _ in .ok("1") }
    func instance(_ id: String, _ port: Int, weight: Int) -> String {
      FakeAgent.instance("s", id, port: port).replacingOccurrences(of: #""Passing":1"#, with: #""Passing":\#(weight)"#)
    }
    let health = FakeAgent.health(
      instance("iK", try Services.freePort(), weight: 1), instance("i\u{212A}", server.port, weight: 0))
    let agent = try FakeAgent { _ in FakeAgent.answer(health) }
    let output = try await Tool.run("call", "s", environment: agent.environment)
    #expect(output.status == 0 && output.out == "1\n", "\(output)")
  }

  @Test(
    "of hosts that no name server resolves hold up no signal",
    .enabled(if: geteuid() == 0, "another name server is set in a mount namespace, which needs root"))
  func silentNameServer() async throws {
    // It takes the question and never answers.
    let server = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    defer { close(server) }
    let host = "127.77.\(Int.random(in: 1...255)).\(Int.random(in: 1...254))"
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(53).bigEndian
    address.sin_addr.s_addr = inet_addr(host)
    let isBound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(server, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
    #expect(isBound)
    let health = FakeAgent.health(FakeAgent.instance("web", "i", port: 1))
      .replacingOccurrences(of: #""Address":"127.0.0.1","Port""#, with: #""Address":"slow.example","Port""#)
    let agent = try FakeAgent { _ in FakeAgent.answer(health, index: 7) }
    let watch = try RunningProcess(
      "/usr/bin/unshare",
      [
        "--mount", "/bin/sh", "-c",
        """
        echo nameserver \(host) > $HOME/resolv.conf; mount --bind $HOME/resolv.conf /etc/resolv.conf
        exec msctl discover web --watch -o nginx --exec true
        """,
      ], environment: agent.environment)
    try await eventually("the name server is asked") {
      var byte: UInt8 = 0
      return recv(server, &byte, 1, Int32(MSG_DONTWAIT)) > 0
    }
    let begin = ContinuousClock.now
    watch.signal(SIGTERM)
    let output = try await watch.end()
    // It does not wait to the end, which comes after two seconds and would say what is left out.
    #expect(output.status == 143 && (output.err == "" || begin.duration(to: .now) > .seconds(1)), "\(output)")
  }

  @Test("that cannot be looked up are left out of a watch with one remark each, and the others go on")
  func unreadable() async throws {
    let count = Counter()
    let agent = try FakeAgent { request in
      let path = request.target.prefix { $0 != "?" }
      if path == "/v1/catalog/services" {
        // Another index each time, without another reason: all services are read again.
        return FakeAgent.answer(#"{"web":[],"a/b":[],"moved":[],"..":[],".":[]}"#, index: count.next())
      }
      if path == "/v1/health/state/any" { return FakeAgent.answer("[]", index: 7) }
      if path == "/v1/health/service/a%2Fb" { return FakeAgent.error(400, "Missing service name") }
      if path == "/v1/health/service/moved" {
        return .status(301, "Moved", "", headers: ["Location: http://127.0.0.1:1/"])
      }
      guard path == "/v1/health/service/web" else { return nil }
      return FakeAgent.answer(FakeAgent.health(FakeAgent.instance("web", "i", port: 1)), index: 7)
    }
    let watch = try Tool.start("discover", "--watch", environment: agent.environment)
    try await eventually("it is asked for again") {
      agent.requests.count { $0.target.hasPrefix("/v1/health/service/a%2Fb") } >= 3
    }
    #expect(watch.out.split(separator: "\n").count == 1 && watch.out.contains(#""service":"web""#))
    let remarks = watch.err.split(separator: "\n").sorted()
    #expect(remarks.count == 4, "\(watch.err)")
    for (remark, name) in zip(remarks, [".", "..", "a/b", "moved"]) {
      #expect(remark.hasPrefix("msctl: left out the service '\(name)': "), "\(remark)")
    }
    #expect(
      watch.err.shows(
        "consul returned",
        ["500": "400", "method": "GET", "path": "/v1/health/service/a%2Fb", "words": "Missing service name"]))
    let paths = agent.requests.map { $0.target.prefix { $0 != "?" } }
    #expect(!paths.contains("/v1/health/service/") && !paths.contains("/v1/health/"))
    watch.signal(SIGTERM)
  }

  @Test("that climb in a URL are refused, and removed by nobody")
  func climbing() async throws {
    let agent = try FakeAgent { request in
      FakeAgent.answer(request.method == "PUT" ? "" : #"{"..":{"Service":"s"},"ok":{"Service":"s"}}"#)
    }
    for words in [["s", "--remove", "--id", ".."], ["s", "-p", "1", "--id", "."]] {
      let refused = try await RunningProcess(Tool.binary, ["register"] + words, environment: agent.environment).end()
      #expect(refused.status == 2 && refused.err.contains("climb in a URL"), "\(refused)")
    }
    let file = try await Tool.run(
      "register", "--file", "-", input: #"{"name":"s","id":"..","port":1}"#, environment: agent.environment)
    #expect(file.status == 9, "\(file)")
    #expect(agent.requests.isEmpty)
    let removed = try await Tool.run("register", "s", "--remove", environment: agent.environment)
    #expect(removed.status == 9 && removed.err.contains("'..'"), "\(removed)")
    #expect(agent.requests.filter { $0.method == "PUT" }.map(\.target) == ["/v1/agent/service/deregister/ok"])
  }
}
