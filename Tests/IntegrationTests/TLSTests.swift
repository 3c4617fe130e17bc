import Foundation
import Support
import Testing

@Suite("TLS", .serialized)
struct TLSTests {
  /// The same question over HTTPS, to Consul and to RabbitMQ.
  private static func commands(_ port: Int, _ authority: String?) -> [(words: [String], environment: [String: String])]
  {
    let file = authority.map { ["--cacert", $0] } ?? []
    return [
      (["call", "https://localhost:\(port)/"] + file, [:]),
      (
        ["discover", "s"],
        ["CONSUL_HTTP_ADDR": "https://localhost:\(port)"].merging(authority.map { ["CONSUL_CACERT": $0] } ?? [:]) { $1 }
      ),
      (
        ["publish", "q", "1"],
        ["AMQP_URL": "amqps://localhost:\(port)" + (authority.map { "?cacertfile=\($0)" } ?? "")]
      ),
    ]
  }

  @Test(
    "a server that cannot prove who it is, is refused by all verbs",
    arguments: TestAuthority.Certificate.allCases.filter { $0 != .right })
  func refused(_ certificate: TestAuthority.Certificate) async throws {
    let authority = try await TestAuthority()
    let (server, port) = try await authority.server(certificate)
    for (words, environment) in Self.commands(port, authority.authority) {
      let output = try await RunningProcess(Tool.binary, words, environment: environment).end()
      #expect(output.status == 6, "\(words): \(output)")
      #expect(output.err.contains("no trusted connection to "), "\(words): \(output)")
    }
    server.signal(SIGKILL)
  }

  @Test("the system's authorities are asked by default, and do not know ours")
  func systemAuthorities() async throws {
    let authority = try await TestAuthority()
    let (server, port) = try await authority.server(.right)
    for (words, environment) in Self.commands(port, nil) {
      let output = try await RunningProcess(Tool.binary, words, environment: environment).end()
      #expect(output.status == 6, "\(words): \(output)")
      #expect(output.err.contains("no trusted connection to "), "\(words): \(output)")
    }
    // Unless the user says otherwise on that very command.
    #expect(try await Tool.run("call", "-k", "https://localhost:\(port)/").out == "\"ok\"\n")
    server.signal(SIGKILL)
  }

  @Test("OpenSSL's configuration counts for https, though a call without TLS does not read it")
  func settings() async throws {
    let authority = try await TestAuthority()
    let (server, port) = try await authority.server(.right)
    let call = "msctl call -k https://localhost:\(port)/"
    let output = try await Tool.shell(
      """
      printf 'openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nGroups = brainpoolP512r1\n' > $HOME/c
      \(call); OPENSSL_CONF=$HOME/c \(call)
      """)
    #expect(output.out == "\"ok\"\n" && output.status == 6)
    #expect(output.err.contains("no trusted connection to "), "\(output.err)")
    server.signal(SIGKILL)
  }

  @Test("a server that proves who it is, is spoken to")
  func accepted() async throws {
    let authority = try await TestAuthority()
    let (server, port) = try await authority.server(.right)
    let call = try await Tool.run("call", "https://localhost:\(port)/", "--cacert", authority.authority)
    #expect(call.out == "\"ok\"\n")
    server.signal(SIGKILL)

    let agent = try await PrivateAgent(overTLS: true)
    let environment = ["CONSUL_HTTP_ADDR": agent.secureAddress, "CONSUL_CACERT": authority.authority]
    #expect(try await Tool.run("register", "s", "-p", "1", environment: environment).status == 0)
    #expect(try await Tool.run("discover", "s", "-o", "hostport", environment: environment).out == "127.0.0.1:1\n")
    let bare = try await Tool.run(
      "discover", "s",
      environment: environment.merging(
        [
          "CONSUL_HTTP_ADDR": agent.secureAddress.replacingOccurrences(of: "https://", with: ""),
          "CONSUL_HTTP_SSL": "true",
        ]) { $1 })
    #expect(bare.status == 0)
    let named = try await Tool.run(
      "discover", "s",
      environment: environment.merging([
        "CONSUL_HTTP_ADDR": agent.secureAddress.replacingOccurrences(of: "localhost", with: "127.0.0.1"),
        "CONSUL_TLS_SERVER_NAME": "localhost",
      ]) { $1 })
    #expect(named.status == 0)

    try await withQueue { queue in
      let uri = "\(Services.brokerOverTLS)?cacertfile=\(authority.authority)"
      let published = try await Tool.run("publish", queue, "1", environment: ["AMQP_URL": uri])
      #expect(published.status == 0, "\(published.err)")
      let consumed = try await Tool.run("consume", queue, "--count", "1", environment: ["AMQP_URL": uri])
      #expect(consumed.out == "1\n")
    }
  }

  @Test("a client proves who it is by its certificate")
  func clients() async throws {
    let authority = try await TestAuthority()
    let (server, port) = try await authority.server(.right, wantsClient: true)
    let none = try await Tool.run(
      "discover", environment: ["CONSUL_HTTP_ADDR": "https://localhost:\(port)", "CONSUL_CACERT": authority.authority])
    #expect(none.status == 6)
    let some = try await Tool.run(
      "discover",
      environment: [
        "CONSUL_HTTP_ADDR": "https://localhost:\(port)", "CONSUL_CACERT": authority.authority,
        "CONSUL_CLIENT_CERT": authority.file("client.pem"), "CONSUL_CLIENT_KEY": authority.file("client.key"),
      ])
    // It is let in; what it is told is no catalog.
    #expect(some.status == 1 && some.err.shows("consul unexpected services"), "\(some.err)")
    server.signal(SIGKILL)
    try await withQueue { queue in
      let uri = "\(Services.brokerOverTLS)?cacertfile=\(authority.authority)"
      for key in ["&certfile=\(authority.file("client.pem"))&keyfile=\(authority.file("client.key"))"] {
        let output = try await Tool.run("publish", queue, "1", environment: ["AMQP_URL": uri + key])
        #expect(output.status == 0, "\(output.err)")
      }
      let stranger = "&certfile=\(authority.file("selfSigned.pem"))&keyfile=\(authority.file("selfSigned.key"))"
      #expect(try await Tool.run("publish", queue, "1", environment: ["AMQP_URL": uri + stranger]).status == 6)
    }
  }

  @Test("call proves who it is by a certificate, in one file or two, its key with a passphrase or without")
  func callers() async throws {
    let authority = try await TestAuthority()
    let (server, port) = try await authority.server(.right, wantsClient: true)
    let folder = authority.folder.path
    let prepared = try await Tool.shell(
      """
      cd \(folder); cat client.pem client.key > both.pem; printf secret > pass
      openssl rsa -aes256 -in client.key -out locked.key -passout pass:secret 2>/dev/null
      """)
    #expect(prepared.status == 0)
    let call = ["call", "https://localhost:\(port)/", "--cacert", authority.authority]
    func run(_ words: String...) async throws -> Output {
      try await RunningProcess(Tool.binary, call + words, environment: ["PASS": "secret"]).end()
    }
    let pair = ["--cert", folder + "/client.pem", "--key", folder + "/client.key"]
    #expect(try await run().status == 6)
    #expect(try await run(pair[0], pair[1], pair[2], pair[3]).out == "\"ok\"\n")
    #expect(try await run("--cert", folder + "/both.pem").out == "\"ok\"\n")
    for source in ["env:PASS", "@" + folder + "/pass"] {
      let locked = try await run("--cert", folder + "/client.pem", "--key", folder + "/locked.key", "--pass", source)
      #expect(locked.out == "\"ok\"\n", "\(locked)")
    }
    // The passphrase is asked for nowhere, and a wrong one is not shown.
    for words in [[], ["--pass", "env:HOME"]] {
      let files = ["--cert", folder + "/client.pem", "--key", folder + "/locked.key"]
      let refused = try await RunningProcess(Tool.binary, call + files + words).end()
      #expect(refused.status == 2 && refused.err.shows("http certificate"), "\(refused)")
    }
    #expect(try await run("--cert", folder + "/selfSigned.pem", "--key", folder + "/selfSigned.key").status == 6)
    #expect(try await run("--cert", folder + "/none.pem").status == 2)
    #expect(try await run("--key", folder + "/client.key").status == 2)
    #expect(try await run("--pass", "env:PASS").status == 2)
    server.signal(SIGKILL)
  }

  @Test("no secret is in anything that is printed, or in a list of processes")
  func secrets() async throws {
    let secret = "hunter2-" + UUID().uuidString
    let server = try TestServer { request in
      request.target == "/moved"
        ? .status(302, "Found", "", headers: ["Location: http://localhost:1/"]) : .status(401, "No", "")
    }
    let environment = [
      "AMQP_URL": "amqp://user:\(secret)@127.0.0.1:\(brokerPort)", "CONSUL_HTTP_TOKEN": secret, "SECRET": secret,
      "LOGIN": "user:\(secret)",
    ]
    let commands: [[String]] = [
      ["call", server.url, "--bearer", "env:SECRET"], ["call", server.url, "--basic", "env:LOGIN", "--envelope"],
      ["call", server.url + "/moved", "--follow", "--bearer", "env:SECRET"],
      ["call", "http://user:\(secret)@127.0.0.1/"], ["call", server.url, "--bearer", secret],
      ["call", server.url, "-H", "Authorization: \(secret)\n"], ["call", server.url, "Authorization:\(secret)"],
      ["publish", "q", "1"], ["publish", "q", "1", "--json-errors"], ["consume", "q"],
      ["publish", "q", "1", "--broker", "amqp://u:\(secret)@127.0.0.1:x"],
      ["publish", "q", "1", "--broker", "amqp://u:\(secret)/@127.0.0.1"],
      ["discover", "s"], ["register", "s", "-p", "1"], ["discover", "s", "--consul-addr", "http://u:\(secret)@x"],
    ]
    for words in commands {
      let output = try await RunningProcess(
        Tool.binary, words,
        environment: words[0] == "discover" || words[0] == "register"
          ? environment.merging(["CONSUL_HTTP_ADDR": Services.guardedConsul]) { $1 } : environment
      ).end()
      #expect(output.status != 0)
      #expect(!output.err.contains(secret) && !output.out.contains(secret), "\(words.prefix(2))")
    }
    let silent = DispatchSemaphore(value: 0)
    let slow = try TestServer { _ in .init(["", ""], gate: { _ in silent.wait() }) }
    let call = try Tool.start("call", slow.url, "--bearer", "env:SECRET", environment: environment)
    try await eventually("it is under way") { !slow.requests.isEmpty }
    let list = try await RunningProcess("/bin/ps", ["-o", "args=", "-p", "\(call.pid)"]).end()
    #expect(list.out.contains("call") && !list.out.contains(secret))
    silent.signal()
    _ = try await call.end()
  }
}
