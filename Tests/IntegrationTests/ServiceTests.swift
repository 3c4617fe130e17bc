import Foundation
import Support
import Testing

@Suite("Calls by a service's name", .serialized)
struct ServiceTests {
  /// Registers an instance that Consul takes for far heavier than any other: it is called first.
  private func registerHeavy(_ service: String, _ port: Int) async throws {
    try await Services.register(service, port, as: "heavy", weight: 65535)
  }

  private func registerLight(_ service: String, _ port: Int) async throws {
    try await Services.register(service, port, as: "light")
  }

  @Test(
    "a retry goes to another instance, and the envelope says how many attempts there were", arguments: [502, 503, 504])
  func anotherInstance(_ status: Int) async throws {
    try await withService { service in
      let bad = try TestServer { _ in .status(status, "Trouble", "no") }
      let good = try TestServer { _ in .ok("1") }
      try await registerHeavy(service, bad.port)
      try await registerLight(service, good.port)
      let output = try await Tool.run("call", service + "/x", "--retry", "1", "--envelope")
      #expect(output.status == 0)
      #expect(output.out.contains(#""instance":{"id":"\#(service)-light""#) && output.out.contains(#""attempts":2"#))
      #expect(
        output.err.contains("msctl: \(service)-heavy at 127.0.0.1:\(bad.port): returned \(status); trying again in "))
      let once = try await Tool.run("call", service + "/x")
      #expect(once.status == 5)
    }
  }

  @Test("an instance that is stopped costs an attempt, not the call")
  func stopped() async throws {
    try await withService { service in
      let port = try Services.freePort()
      let frozen = try RunningProcess(
        "/usr/bin/env", ["python3", "-m", "http.server", "\(port)", "--bind", "127.0.0.1"])
      let good = try TestServer { _ in .ok("1") }
      try await eventually("it listens") { try await Tool.run("call", ":\(port)/").status == 0 }
      frozen.signal(SIGSTOP)
      try await registerHeavy(service, port)
      try await registerLight(service, good.port)
      let output = try await Tool.run("call", service, "--retry", "2", "--attempt-timeout", "4s")
      #expect(output.out == "1\n")
      #expect(output.err.contains("timed out"))
      frozen.signal(SIGCONT)
    }
  }

  @Test("an instance that breaks off in the middle of its answer is tried no more, and the next one is whole")
  func broken() async throws {
    try await withService { service in
      let bad = try TestServer { _ in .init(["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"]) }
      let good = try TestServer { _ in .ok("{\"a\":1}") }
      try await registerHeavy(service, bad.port)
      try await registerLight(service, good.port)
      let output = try await Tool.run("call", service, "--retry", "1")
      #expect(output.out == "{\"a\":1}\n" && output.status == 0)
      // What has been written cannot be taken back.
      let isRead = DispatchSemaphore(value: 0)
      let late = try TestServer { _ in
        .init(
          ["HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf", ""],
          gate: { _ in isRead.wait() })
      }
      let half = try Tool.start("call", late.url, "--retry", "3")
      try await eventually("the half is written") { half.out == "half" }
      isRead.signal()
      #expect(try await half.end().status == 6)
      #expect(late.requests.count == 1)
    }
  }

  @Test("a POST is sent once, unless it has a key, which is the same with every attempt")
  func idempotency() async throws {
    let server = try TestServer { request in .status(503, "Busy", "") }
    let once = try await Tool.run("call", "POST", server.url, "a=1", "--retry", "2")
    #expect(once.status == 5 && server.requests.count == 1)
    let again = try await Tool.run("call", "POST", server.url, "a=1", "--retry", "2", "--idempotency-key")
    #expect(again.status == 5)
    #expect(again.err.shows("call status of many", ["method": "POST", "503": "503", "reason": "Busy", "3": "3"]))
    let keys = server.requests.dropFirst().compactMap { $0.header("Idempotency-Key") }
    #expect(keys.count == 3 && Set(keys).count == 1)
    let each = try TestServer { _ in .ok("1") }
    _ = try await Tool.run("call", "POST", each.url, "--each", "--idempotency-key", input: "1 2")
    #expect(Set(each.requests.compactMap { $0.header("Idempotency-Key") }).count == 2)
    let refused = try await Tool.run("call", "POST", ":\(try Services.freePort())/", "a=1", "--retry", "2")
    #expect(refused.status == 6)
    #expect(refused.err.contains("; 3 attempts"))
  }

  @Test("Retry-After is waited for, unless the call would be over by then")
  func retryAfter() async throws {
    let count = Counter()
    let server = try TestServer { _ in
      count.next() == 1 ? .status(429, "Slow down", "", headers: ["Retry-After: 1"]) : .ok("1")
    }
    let output = try await Tool.run("call", server.url, "--retry", "1")
    #expect(output.out == "1\n" && output.status == 0)
    #expect(output.err == "msctl: \(server.url): returned 429; trying again in 1 s\n")
    let busy = try TestServer { _ in .status(429, "Slow down", "", headers: ["Retry-After: 1000"]) }
    for words in [["--timeout", "30s"], []] {
      let output = try await RunningProcess(Tool.binary, ["call", busy.url, "--retry", "1"] + words).end()
      #expect(output.status == 4)
    }
    #expect(busy.requests.count == 2)
  }

  @Test("one deadline holds for all attempts, and the last answer is what counts")
  func deadline() async throws {
    let server = try TestServer { _ in .status(503, "Busy", "busy") }
    let output = try await Tool.run("call", server.url, "--retry", "100", "--timeout", "5s")
    #expect(output.status == 5)
    #expect(output.out == "busy")
    #expect(server.requests.count > 1)
  }

  @Test("a retry that the deadline cuts off does not hide the answer before it, unless it has begun to answer")
  func cutOff() async throws {
    let count = Counter()
    let server = try TestServer { _ in
      count.next() == 1 ? .status(503, "Busy", "busy") : .silence
    }
    let output = try await Tool.run("call", server.url, "--retry", "1", "--timeout", "5s")
    #expect(output.status == 5 && output.out == "busy")
    #expect(server.requests.count == 2)
  }

  @Test("many calls go on while instances are killed and started again, without one failure")
  func killedMeanwhile() async throws {
    try await withService { service in
      let ports = [try Services.freePort(), try Services.freePort()]
      func start(_ port: Int) async throws -> RunningProcess {
        let process = try RunningProcess(
          "/usr/bin/env", ["python3", "-m", "http.server", "\(port)", "--bind", "127.0.0.1"])
        try await eventually("it listens") { try await Tool.run("call", ":\(port)/").status == 0 }
        return process
      }
      var instances = [try await start(ports[0]), try await start(ports[1])]
      for port in ports { _ = try await Tool.run("register", service, "-p", "\(port)", "--address", "127.0.0.1") }
      let calls = try Tool.start(
        "call", service + "/?n={n}", "--each", "--parallel", "4", "--retry", "5", "-e", input: nil)
      var sent = 0
      for round in 0..<4 {
        for _ in 0..<50 { try calls.write("{\"n\":1}\n") }
        sent += 50
        if round < 3 {
          instances[round % 2].signal(SIGKILL)
          try await eventually("answers come") { calls.out.split(separator: "\n").count >= sent - 20 }
          instances[round % 2] = try await start(ports[round % 2])
        }
      }
      try calls.closeInput()
      let output = try await calls.end()
      #expect(output.status == 0)
      #expect(output.lines.count == sent)
      #expect(output.lines.allSatisfy { $0.contains(#""status":200"#) })
    }
  }

  @Test("an HTTPS service is known by its tag, and its certificate bears the service's name")
  func overTLS() async throws {
    try await withService { service in
      let port = try Services.freePort()
      let script = """
        import http.server, ssl, sys
        class H(http.server.BaseHTTPRequestHandler):
          def do_GET(self):
            self.send_response(200); self.end_headers(); self.wfile.write((self.headers['Host'] + ' ' + str(names)).encode())
          def log_message(self, *a): pass
        names = []
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[2], sys.argv[3])
        c.sni_callback = lambda s, n, x: names.append(n)
        s = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H)
        s.socket = c.wrap_socket(s.socket, server_side=True); s.serve_forever()
        """
      let server = try RunningProcess(
        "/bin/bash",
        [
          "-c",
          "cd $HOME; openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 2 -subj /CN=x "
            + "-addext subjectAltName=DNS:\(service) 2>/dev/null; cat c.pem; echo; exec python3 -c \"$0\" \(port) c.pem k.pem",
          script,
        ])
      try await eventually("it listens") { try await Tool.run("call", "https://localhost:\(port)/", "-k").status == 0 }
      let authority = FileManager.default.temporaryDirectory.appendingPathComponent("\(service).pem")
      try Data(server.out.utf8).write(to: authority)
      defer { try? FileManager.default.removeItem(at: authority) }
      _ = try await Tool.run("register", service, "-p", "\(port)", "--address", "127.0.0.1", "--tag", "https")
      let output = try await Tool.run("call", service + "/x", "--cacert", authority.path)
      #expect(output.status == 0)
      #expect(output.out.hasPrefix("\(service) ") && output.out.contains("'\(service)'"))
      let untrusted = try await Tool.run("call", service + "/x")
      #expect(untrusted.status == 6)
      #expect(untrusted.err.contains("no trusted connection to \(service)"))
      server.signal(SIGKILL)
    }
  }

  @Test("a token that may not read is told, and is no service that is not there")
  func denied() async throws {
    let output = try await Tool.run("call", "s/x", environment: ["CONSUL_HTTP_ADDR": Services.guardedConsul])
    #expect(output.status == 6)
    #expect(
      output.err.shows("consul denied service without token", ["service": "s"])
        && output.err.contains(Services.guardedConsul))
  }
}
