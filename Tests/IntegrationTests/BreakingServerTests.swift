import Foundation
import Support
import Synchronization
import Testing

@Suite("Calls of servers that break off, stall and lie", .serialized)
struct BreakingServerTests {
  /// A place on a kept connection, and how the server ends it there.
  private static let places = [1, 2, 3, 5].flatMap { place in [true, false].map { (place, $0) } }

  @Test("a POST without a key is on the wire once, wherever the server breaks off after reading it", arguments: places)
  func postOnce(_ place: Int, _ resets: Bool) async throws {
    let count = Counter()
    let server = try TestServer { _ in count.next() == place ? .none(resets: resets) : .kept("1") }
    let output = try await Tool.run("call", "POST", server.url, "--each", "--keep-going", input: "1 2 3 4 5 6")
    #expect(output.status == 6)
    #expect(server.requests.map(\.body) == ["1", "2", "3", "4", "5", "6"])
    #expect(output.lines.count == 5)
    #expect(output.err.shows("call of a value", ["3": "\(place)"]) && output.err.shows("http broken"))
  }

  @Test("what may be repeated is sent again once over a fresh connection where a kept one breaks", arguments: [2, 4])
  func getAgain(_ place: Int) async throws {
    let count = Counter()
    let server = try TestServer { _ in count.next() == place ? .none(resets: true) : .kept("1") }
    let output = try await Tool.run("call", server.url + "/{n}", "--each", input: #"{"n":1} {"n":2} {"n":3} {"n":4}"#)
    #expect(output.status == 0)
    #expect(server.requests.count == 5 && server.requests[place - 1].target == server.requests[place].target)
    // A server that always breaks off is not asked for ever.
    let mute = try TestServer { _ in .none(resets: true) }
    #expect(try await Tool.run("call", mute.url).status == 6)
    #expect(mute.requests.count == 1)
  }

  @Test("a POST that was sent is not sent to another instance, though the first then refuses connections")
  func postToOneInstance() async throws {
    try await withService { service in
      let count = Counter()
      let first = Mutex<TestServer?>(nil)
      let server = try TestServer { _ in
        guard count.next() == 2 else { return .kept("1") }
        first.withLock { $0?.stop() }
        return .none(resets: true)
      }
      first.withLock { $0 = server }
      let other = try TestServer { _ in .kept("2") }
      for (name, port, weight) in [("heavy", server.port, "65535"), ("light", other.port, "1")] {
        let output = try await Tool.run(
          "register", service, "-p", "\(port)", "--id", "\(service)-\(name)", "--address", "127.0.0.1", "--weight",
          weight)
        #expect(output.status == 0)
      }
      let output = try await Tool.run("call", "POST", service, "--each", input: "1 2")
      #expect(output.status == 6)
      #expect(server.requests.map(\.body) == ["1", "2"])
      #expect(other.requests.isEmpty)
      // Nothing of this one was sent: the other instance may have it.
      let next = try await Tool.run("call", "POST", service, "a=1")
      #expect(next.out == "2\n" && next.status == 0)
    }
  }

  @Test("'--output' leaves a file alone when the response is a failure, whose body goes to standard output")
  func outputOfFailure() async throws {
    let server = try TestServer { request in
      request.target == "/bad" ? .status(500, "Trouble", "oops\n") : .ok("new\n", type: "text/plain")
    }
    let bad = try await Tool.shell(
      "cd $HOME; echo good > f; msctl call \(server.url)/bad -o f; echo $?; cat f; ls | grep -c msctl-")
    #expect(bad.out == "oops\n5\ngood\n0\n")
    let forced = try await Tool.shell("cd $HOME; echo good > f; msctl call \(server.url)/bad -o f --no-fail; cat f")
    #expect(forced.out == "oops\n" && forced.status == 0)
    let well = try await Tool.shell("cd $HOME; echo good > f; msctl call \(server.url)/ -o f; cat f")
    #expect(well.out == "new\n")
  }

  @Test(
    "no error repeats a proxy's password",
    arguments: [
      "http://ada:hunter2@127.0.0.1:1", "http://ada:hunter2@", "http://ada:hunter2@127.0.0.1:99999",
      "http://ada:hunter2 x@127.0.0.1:1", "ftp://ada:hunter2@127.0.0.1:1", "ada:hunter2@no.such.host.invalid:1",
      "socks5h://ada:hunter2@127.0.0.1:1", "http://ada:hunter2@[::1:1", "http://ada:x@hunter2/y@127.0.0.1:1",
    ])
  func proxyPassword(_ proxy: String) async throws {
    for url in ["http://192.0.2.1/", "https://192.0.2.1/"] {
      let output = try await Tool.run(
        "call", url, "-v", "--timeout", "5s", environment: ["http_proxy": proxy, "https_proxy": proxy])
      #expect(output.status != 0)
      #expect(!(output.out + output.err).contains("hunter2"), "\(output.err)")
    }
  }

  @Test("an agent's address with a token in its query is refused, and not repeated")
  func tokenInAddress() async throws {
    let address = "http://127.0.0.1:8500/?token=hunter2"
    let outputs = [
      try await Tool.run("discover", "s", environment: ["CONSUL_HTTP_ADDR": address]),
      try await Tool.run("discover", "s", "--consul-addr", address),
    ]
    for output in outputs {
      #expect(output.status == 2)
      #expect(!output.err.contains("hunter2"))
    }
  }

  @Test("children inherit no descriptor of msctl's, and those that its caller opened for them")
  func descriptors() async throws {
    /// What the descriptors above standard error are, without the one that lists them.
    func descriptors(_ listing: String) -> Set<String> {
      Set(
        listing.split(separator: "\n").compactMap { line in
          guard let place = line.range(of: " -> ") else { return nil }
          let number = line[..<place.lowerBound].split(separator: " ").last.flatMap { Int($0) } ?? 0
          return number > 2 && !line.contains("/proc/") ? String(line[place.upperBound...]) : nil
        })
    }
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1", "--address", "127.0.0.1")
      let watch = try Tool.startBare(
        ["discover", service, "--watch", "--exec", "ls -l /proc/self/fd; cat >/dev/null"])
      try await eventually("the command has run") { watch.out.contains("total") && watch.out.contains("/proc/") }
      #expect(descriptors(watch.out) == [])
      watch.signal(SIGTERM)
      let held = try Tool.startBare([
        "register", service, "-p", "0", "--", "sh", "-c",
        "python3 -m http.server $PORT >/dev/null 2>&1 & trap 'kill $!; exit' TERM; "
          + "while ! msctl discover \(service) -o hostport | grep -q :$PORT; do sleep 0.1; done; ls -l /proc/self/fd; wait",
      ])
      try await eventually("the command has run") { held.out.contains("total") && held.out.contains("/proc/") }
      #expect(descriptors(held.out) == [])
      held.signal(SIGTERM)
      _ = try await held.end()
      let given = try await Tool.shell(
        "echo hello > $HOME/f; msctl register \(service) -p 0 -- sh -c 'cat <&7' 7<$HOME/f")
      #expect(given.out == "hello\n")
    }
  }

  @Test(
    "numbers of a server that no machine holds end nothing",
    arguments: [
      ["Retry-After: 9223372036854775807"], ["Retry-After: 99999999999999999999999"], ["Retry-After: -1"],
      ["Retry-After: 9223372036"],
    ])
  func numbers(_ headers: [String]) async throws {
    let server = try TestServer { _ in .status(503, "Busy", "", headers: headers) }
    let output = try await Tool.run("call", server.url, "--retry", "1", "--timeout", "200s")
    #expect(output.status == 5)
  }

  @Test("times are limits however long they are")
  func longTimes() async throws {
    let server = try TestServer { _ in .ok("1") }
    let output = try await Tool.run("call", server.url, "--timeout", "100000h", "--connect-timeout", "100000h")
    #expect(output.out == "1\n" && output.status == 0)
  }

  @Test("syntax that a combining mark follows is still syntax")
  func combiningMarks() async throws {
    let server = try TestServer { _ in
      .init(["HTTP/1.1 200 OK\r\nContent-Type: application/json;\u{301}x\r\nConnection: close\r\n\r\n{ \"a\" : 1 }"])
    }
    let output = try await Tool.run("call", server.url + "/x?\u{301}", "q==1", "-H", "X-A:\u{301}b")
    #expect(output.out == "{\"a\":1}\n")
    let request = try #require(server.requests.first)
    #expect(request.target.hasSuffix("&q=1"))
    #expect(request.header("X-A") != nil)
  }

  @Test("Tab asks the management API of an amqps:// broker by HTTPS alone, with the broker's authorities")
  func managementOverTLS() async throws {
    // An address of its own, so that the API's own ports are free there.
    let host = "127.0.\(Int.random(in: 1...255)).\(Int.random(in: 1...254))"
    let script = """
      import http.server, ssl, sys, threading
      class H(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
          print(self.server.server_port, self.headers['Authorization'], flush=True)
          self.send_response(200); self.end_headers(); self.wfile.write(b'[{"name":"q1"}]')
        def log_message(self, *a): pass
      plain = http.server.HTTPServer(('\(host)', 15672), H)
      safe = http.server.HTTPServer(('\(host)', 15671), H)
      c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1], sys.argv[2])
      safe.socket = c.wrap_socket(safe.socket, server_side=True)
      threading.Thread(target=plain.serve_forever, daemon=True).start()
      print('ready', flush=True)
      safe.serve_forever()
      """
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("tls"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let made = try await Tool.shell(
      "cd \(folder.path); openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 2 -subj /CN=x "
        + "-addext subjectAltName=IP:\(host) 2>/dev/null")
    #expect(made.status == 0)
    let server = try RunningProcess(
      "/usr/bin/env", ["python3", "-W", "ignore", "-c", script, folder.path + "/c.pem", folder.path + "/k.pem"])
    try await eventually("it listens") { server.out == "ready\n" }
    let uri = "amqps://ada:hunter2@\(host)?cacertfile=\(folder.path)/c.pem"
    func queues(_ uri: String, _ more: [String: String] = [:]) async throws -> String {
      let environment = ["AMQP_URL": uri, "MSCTL_COMPLETION_TIMEOUT": "10m"].merging(more) { $1 }
      let output = try await Tool.run("completion", "--list", "queue", environment: environment)
      #expect(output.status == 0 && output.err == "")
      return output.out
    }
    #expect(try await queues(uri) == "q1\n")
    #expect(server.out.contains("15671 Basic "))
    #expect(!server.out.contains("15672"))
    // Neither to a server that cannot prove who it is, nor in the clear because a variable says so.
    let before = server.out
    #expect(try await queues("amqps://ada:hunter2@\(host)") == "")
    #expect(try await queues(uri, ["MSCTL_MANAGEMENT_URL": "http://\(host):15672/api"]) == "")
    #expect(server.out == before)
    #expect(try await queues("amqp://ada:hunter2@\(host)") == "q1\n")
    server.signal(SIGKILL)
  }
}
