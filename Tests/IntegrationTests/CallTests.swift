import Foundation
import Support
import Synchronization
import Testing

@Suite("msctl call", .serialized)
struct CallTests {
  @Test("calls a URL, and writes the JSON of the answer on one line with its text unchanged")
  func url() async throws {
    let server = try TestServer { _ in .ok("{ \"id\": 42,\n \"price\": 1.10, \"n\": 12345678901234567890, \"id\": 1 }")
    }
    let output = try await Tool.run("call", server.url + "/users/42")
    #expect(output.out == "{\"id\":42,\"price\":1.10,\"n\":12345678901234567890,\"id\":1}\n")
    #expect(output.err == "")
    #expect(output.status == 0)
    let request = try #require(server.requests.first)
    #expect(request.method == "GET" && request.target == "/users/42" && request.body == "")
    #expect(request.header("traceparent") != nil)
  }

  @Test("sends methods, items, headers and bodies as they are written")
  func requests() async throws {
    let server = try TestServer { _ in .ok("{}") }
    _ = try await Tool.run("call", "PUT", server.url + "/a", "name=Ada", "age:=36", "q==x y", "X-Test:yes")
    _ = try await Tool.run("call", server.url, "--data", "-", "-H", "Content-Type: text/csv", input: "a,b\n1,2\n")
    _ = try await Tool.run("call", "HEAD", server.url)
    _ = try await Tool.run("call", server.url, "--form", "a=1 2", "b=x")
    let requests = server.requests
    #expect(requests[0].method == "PUT" && requests[0].target == "/a?q=x%20y")
    #expect(requests[0].body == #"{"name":"Ada","age":36}"#)
    #expect(requests[0].header("Content-Type") == "application/json" && requests[0].header("X-Test") == "yes")
    #expect(requests[1].method == "POST" && requests[1].body == "a,b\n1,2\n")
    #expect(requests[1].header("Content-Type") == "text/csv")
    #expect(requests[2].method == "HEAD")
    #expect(requests[3].body == "a=1%202&b=x")
    let empty = try await Tool.run("call", server.url, "--data", "", input: "not this")
    #expect(empty.status == 0)
    #expect(server.requests.last?.method == "POST" && server.requests.last?.body == "")
  }

  @Test("uploads files in a form")
  func upload() async throws {
    let server = try TestServer { _ in .ok("{}") }
    let output = try await Tool.shell(
      "echo hello > $HOME/f.txt; msctl call \(server.url) --form name=Ada f@$HOME/f.txt")
    #expect(output.status == 0)
    let body = try #require(server.requests.first?.body)
    #expect(body.contains("name=\"f\"; filename=\"f.txt\"") && body.contains("hello\n"))
  }

  @Test("does not touch standard input unless it is asked to")
  func standardInput() async throws {
    let server = try TestServer { _ in .ok("1") }
    let output = try await Tool.shell("printf 'a\\nb\\n' | while read x; do msctl call \(server.url)/$x; done")
    #expect(output.status == 0)
    #expect(server.requests.map(\.target) == ["/a", "/b"])
  }

  @Test(
    "fails with a status that is not 2xx: the body still comes, and the exit code says which class",
    arguments: [
      (404, "Not Found", 4), (500, "Server Error", 5), (302, "Found", 4),
    ])
  func statuses(_ status: Int, _ reason: String, _ code: Int32) async throws {
    let server = try TestServer { _ in
      .status(status, reason, "{\"e\":1}", headers: ["Content-Type: application/json", "Location: /x"])
    }
    let output = try await Tool.run("call", server.url + "/a")
    #expect(output.out == "{\"e\":1}\n")
    #expect(output.status == code)
    #expect(
      output.err.shows(
        status == 302 ? "call redirect" : "call status",
        ["method": "GET", "404": "\(status)", "302": "\(status)", "reason": reason])
        && output.err.contains("\(server.url)/a"))
    #expect(try await Tool.run("call", server.url, "--no-fail").status == 0)
  }

  @Test("wraps the answer in an envelope")
  func envelope() async throws {
    let server = try TestServer { request in
      switch request.target {
      case "/text": .ok("hello\n", type: "text/plain")
      default: .status(200, "OK", "{\"a\":1.10}", headers: ["Content-Type: application/json", "X-A: 1", "X-A: 2"])
      }
    }
    let json = try await Tool.run("call", server.url + "/json", "--envelope")
    #expect(json.out.contains(#""body":{"a":1.10},"url":"\#(server.url)/json","attempts":1,"time":0."#))
    #expect(json.out.contains(#""X-A":["1","2"]"#))
    #expect(json.lines.count == 1)
    let text = try await Tool.run("call", server.url + "/text", "--envelope")
    #expect(text.out.contains(#""body":"hello\n","bodyEncoding":"text""#))
    let port = try Services.freePort()
    let refused = try await Tool.run("call", ":\(port)/", "--envelope")
    #expect(refused.status == 6)
    #expect(
      refused.out.hasPrefix(
        #"{"error":{"code":"unreachable","message":"cannot connect to http://localhost:\#(port)/: connection refused"}"#
      ))
  }

  @Test("authenticates from a file or the environment, and shows the secret nowhere")
  func credentials() async throws {
    let server = try TestServer { _ in .status(401, "Unauthorized", "") }
    let basic = try await Tool.run("call", server.url, "--basic", "env:LOGIN", environment: ["LOGIN": "ada:hunter2"])
    let bearer = try await Tool.shell("echo hunter2 > $HOME/token; msctl call \(server.url) --bearer @$HOME/token")
    #expect(server.requests.map { $0.header("Authorization") } == ["Basic YWRhOmh1bnRlcjI=", "Bearer hunter2"])
    for output in [basic, bearer] {
      #expect(output.status == 4)
      #expect(!(output.out + output.err).contains("hunter2"))
    }
    let missing = try await Tool.run("call", server.url, "--bearer", "@/nonexistent")
    #expect(missing.status == 2)
    #expect(
      missing.err.showsOnly("unreadableFile", with: ["path": "/nonexistent", "reason": "No such file or directory"]))
  }

  @Test("follows redirects only where asked, and takes no header of the user's to another host")
  func redirects() async throws {
    let other = try TestServer { _ in .ok("\"there\"") }
    let server = try TestServer { request in
      switch request.target {
      case "/here": .status(302, "Found", "moved", headers: ["Location: /end"])
      case "/keep": .status(307, "Temporary Redirect", "", headers: ["Location: /end"])
      case "/away": .status(302, "Found", "", headers: ["Location: \(other.url)/end"])
      case "/loop": .status(302, "Found", "", headers: ["Location: /loop"])
      default: .ok("\"here\"")
      }
    }
    let words = ["X-Api-Key:secret", "Authorization:Bearer secret", "Cookie:a=b"]
    let here = try await Tool.run("call", server.url + "/here", "--follow", words[0], words[1], words[2], "a=1")
    #expect(here.out == "\"here\"\n")
    let last = try #require(server.requests.last)
    #expect(last.method == "GET" && last.body == "" && last.header("X-Api-Key") == "secret")

    _ = try await Tool.run("call", "POST", server.url + "/keep", "--follow", "a=1")
    #expect(server.requests.last?.method == "POST" && server.requests.last?.body == #"{"a":"1"}"#)

    let away = try await Tool.run("call", server.url + "/away", "--follow", words[0], words[1], words[2])
    #expect(away.out == "\"there\"\n")
    let arrived = try #require(other.requests.first)
    for name in ["X-Api-Key", "Authorization", "Cookie"] { #expect(arrived.header(name) == nil) }
    #expect(arrived.header("traceparent") != nil)

    // Without its key, what is retried would be done twice there.
    _ = try await Tool.run("call", "POST", server.url + "/away", "--follow", "--idempotency-key", words[0], "a=1")
    let keys = (server.requests + other.requests).compactMap { $0.header("Idempotency-Key") }
    #expect(keys.count == 2 && Set(keys).count == 1 && other.requests.last?.header("X-Api-Key") == nil)

    let loop = try await Tool.run("call", server.url + "/loop", "--follow")
    #expect(loop.status == 4)
    #expect(loop.err.shows("call status", ["404": "302", "reason": "Found"]))
    #expect(server.requests.count { $0.target == "/loop" } == 11)
  }

  @Test("writes each value of a stream as it comes, and text as it is")
  func streaming() async throws {
    let goOn = DispatchSemaphore(value: 0)
    let server = try TestServer { _ in
      .init(
        [
          "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n{\"a\" : 1}\n{\"a\"",
          ":2}\n",
        ],
        gate: { _ in goOn.wait() })
    }
    let call = try Tool.start("call", server.url)
    try await eventually("the first value is written") { call.out == "{\"a\":1}\n{\"a\"" }
    goOn.signal()
    let output = try await call.end()
    #expect(output.out == "{\"a\":1}\n{\"a\":2}\n")
  }

  @Test("hands on a body that is not the JSON it claims to be, and fails")
  func falseJSON() async throws {
    let server = try TestServer { _ in .ok("{\"a\": oops}") }
    let output = try await Tool.run("call", server.url)
    #expect(output.out == "{\"a\":oops}")
    #expect(output.status == 9)
    #expect(
      output.err.shows("responseNotJSON") && output.err.contains("line 1, column 7: expected a value"))
  }

  @Test("hands on every byte of a false answer, and a status that is a failure counts for more")
  func falseJSONWithStatus() async throws {
    let body = #"{"a":"b\q"} rest"#
    let server = try TestServer { _ in .status(503, "Unavailable", body, headers: ["Content-Type: application/json"]) }
    let output = try await Tool.run("call", server.url)
    #expect(output.out == body)
    #expect(output.status == 5)
    #expect(output.err.shows("call status", ["404": "503", "reason": "Unavailable"]))
  }

  @Test("leaves out a header that is named without a value")
  func withoutHeaders() async throws {
    let server = try TestServer { _ in .ok("{}") }
    _ = try await Tool.run("call", server.url, "a=1", "Content-Type:", "Accept-Encoding:", "Accept:", "User-Agent:")
    let request = try #require(server.requests.first)
    for name in ["Content-Type", "Accept-Encoding", "Accept", "User-Agent"] { #expect(request.header(name) == nil) }
    #expect(request.header("Host") != nil && request.body == #"{"a":"1"}"#)
  }

  @Test("a file that is not text goes into a form as it is, and is refused where JSON would change it")
  func binaryField() async throws {
    let server = try TestServer { _ in .ok("{}") }
    let output = try await Tool.shell(
      "printf '\\377\\001x' > $HOME/b; msctl call \(server.url) -f a=@$HOME/b; msctl call \(server.url) a=@$HOME/b; echo $?"
    )
    #expect(server.requests.map(\.body) == ["a=%FF%01x"])
    #expect(output.out == "{}\n9\n")
    #expect(output.err.shows("itemNotText", ["name": "a"]))
    let missing = try await Tool.run("call", server.url, "-f", "f@/nowhere/f")
    #expect(missing.status == 2)
    #expect(missing.err.showsOnly("unreadableFile 2", with: ["name": "f", "path": "/nowhere/f"]))
  }

  @Test("one deadline holds for all redirects together")
  func deadlineOverRedirects() async throws {
    let later = DispatchSemaphore(value: 0)
    let server = try TestServer { _ in
      _ = later.wait(timeout: .now() + 0.3)
      return .status(302, "Found", "", headers: ["Location: /next"])
    }
    let output = try await Tool.run("call", server.url, "--follow", "--timeout", "1s")
    #expect(output.status == 8)
  }

  @Test("a body larger than what is kept of it flows on whenever the output has taken the part before")
  func largeBody() async throws {
    let port = try Services.freePort()
    // To wait a second for each part of 4 MiB would take longer than this.
    let output = try await Tool.shell(
      """
      cd $HOME; truncate -s 160M big; python3 -m http.server \(port) --bind 127.0.0.1 > log 2>&1 & trap "kill $!" EXIT
      until msctl call :\(port)/log -q > got 2>&1; do sleep 0.1; done
      set -o pipefail; msctl call :\(port)/big --timeout 38s | wc -c
      """)
    #expect(output.out == "\(160 << 20)\n" && output.status == 0, "\(output)")
  }

  @Test("results that nobody reads hold up no call that has begun, and none of them is lost")
  func unreadResults() async throws {
    let server = try TestServer { _ in .ok("\"" + String(repeating: "x", count: 100_000) + "\"") }
    // More than a pipe takes stands in the first result; the others come before anybody reads it.
    let script = try RunningProcess(
      "/bin/bash", ["-c", "exec 3<&0; seq 8 | msctl call \(server.url) --each | { read -r go <&3; wc -l; }"], input: nil
    )
    try await eventually("all calls are made") { server.requests.count == 8 }
    try script.write("go\n")
    let output = try await script.end()
    #expect(output.out == "8\n" && output.err == "", "\(output)")
  }

  @Test("--all calls no further instances while nobody reads the results")
  func unreadInstances() async throws {
    let server = try TestServer { _ in .ok("\"" + String(repeating: "x", count: 100_000) + "\"") }
    let all = (1...200).map { FakeAgent.instance("s", "s-\($0)", port: server.port) }
    let agent = try FakeAgent { _ in FakeAgent.answer("[" + all.joined(separator: ",") + "]") }
    let script = try RunningProcess(
      "/bin/bash", ["-c", "exec 3<&0; msctl call s/x --all --parallel 4 | { read -r go <&3; wc -l; }"], input: nil,
      environment: agent.environment)
    // Those that are being written, and 32 more, may have begun.
    try await eventually("calls are made") { server.requests.count >= 32 }
    // One that did not stop would make the others at once.
    for _ in 0..<50 where server.requests.count < 200 { try await Task.sleep(for: .milliseconds(20)) }
    #expect(server.requests.count < 60)
    try script.write("go\n")
    let output = try await script.end()
    #expect(output.out == "200\n" && output.status == 0, "\(output)")
    #expect(server.requests.count == 200)
  }

  @Test("--output writes into what is no regular file, and follows a link to the file that it means")
  func outputElsewhere() async throws {
    let server = try TestServer { _ in .ok("new", type: "text/plain") }
    let output = try await Tool.shell(
      """
      cd $HOME; mkfifo pipe; cat pipe > copy & msctl call \(server.url) -o pipe; wait; cat copy; test -p pipe && echo " pipe"
      umask 022; echo old > file; chmod 600 file; ln -s file link; msctl call \(server.url) -o link
      cat file; test -L link && echo " link"; stat -c %a file
      """)
    #expect(output.out == "new pipe\nnew link\n600\n")
    #expect(output.err == "")
  }

  private static let ninety = String(repeating: "y", count: 90)

  @Test(
    "tells what is no proper answer",
    arguments: [
      ("hello\r\n\r\n", 6, "the server does not speak HTTP"),
      ("", 6, "Empty reply from server"),
      (
        "HTTP/1.1 200 OK\r\nX-A: " + String(repeating: "y", count: 1 << 20) + "\r\n\r\n", 1,
        "a header is larger than libcurl allows"
      ),
      (
        // Neither as many lines nor as many bytes as newer versions of libcurl refuse by themselves.
        "HTTP/1.1 200 OK\r\n" + String(repeating: "X-A: \(Self.ninety)\r\n", count: 2800) + "\r\n", 1,
        "the headers are larger than 262144 bytes"
      ),
      ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 6, nil),
    ])
  func improperAnswers(_ answer: String, _ status: Int32, _ reason: String?) async throws {
    let server = try TestServer { _ in .init([answer]) }
    let output = try await Tool.run("call", server.url)
    #expect(output.status == status)
    #expect(
      output.err.showsOnly("http \(status == 6 ? "broken" : "tooLarge")", with: reason.map { ["reason": $0] } ?? [:]))
  }

  @Test("a body that breaks off, a loop of redirects and bytes without an end each end, with a word")
  func troubles() async throws {
    let loop = try TestServer { _ in .status(302, "Found", "", headers: ["Location: /again"]) }
    let redirected = try await Tool.run("call", loop.url, "--follow")
    #expect(redirected.status == 4 && loop.requests.count == 11)
    let slow = try TestServer { _ in
      .init(
        ["HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"] + Array(repeating: "x", count: 10_000),
        gate: { _ in Thread.sleep(forTimeInterval: 0.02) })
    }
    let dripping = try await Tool.run("call", slow.url, "--timeout", "5s")
    #expect(dripping.status == 8 && dripping.out.hasPrefix("x"))
    #expect(dripping.err.shows("http timedOut"))
  }

  @Test("a small answer that unpacks into a very large one ends a call that keeps it, with bounded memory")
  func decompressionBomb() async throws {
    let script = """
      import gzip, http.server, io
      packed = io.BytesIO(); packed_writer = gzip.GzipFile(fileobj=packed, mode='wb', compresslevel=1)
      for _ in range(400): packed_writer.write(bytes(1 << 20))
      packed_writer.close()
      class H(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
          self.send_response(200); self.send_header('Content-Encoding', 'gzip'); self.end_headers()
          try: self.wfile.write(packed.getvalue())
          except OSError: pass
        def log_message(self, *a): pass
      s = http.server.HTTPServer(('127.0.0.1', 0), H); print(s.server_port, flush=True); s.serve_forever()
      """
    let server = try RunningProcess("/usr/bin/env", ["python3", "-c", script])
    try await eventually("it listens") { server.out.hasSuffix("\n") }
    let port = server.out.dropLast()
    let output = try await Tool.shell("ulimit -v 1500000; msctl call :\(port)/ --envelope | head -c 100")
    #expect(output.err.contains("the response is larger than 256 MiB"))
    // Passed on as it comes, it needs no memory at all.
    let streamed = try await Tool.shell("ulimit -v 300000; msctl call :\(port)/ | wc -c")
    #expect(streamed.out == "\(400 << 20)\n")
    server.signal(SIGKILL)
  }

  @Test("writes a file whole or not at all")
  func outputFile() async throws {
    let server = try TestServer { request in
      request.target == "/cut"
        ? .init(["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"]) : .ok("all of it", type: "text/plain")
    }
    let whole = try await Tool.shell("cd $HOME; msctl call \(server.url) -o f; cat f; ls | grep msctl-")
    #expect(whole.out == "all of it")
    let cut = try await Tool.shell("cd $HOME; msctl call \(server.url)/cut -o f; echo $?; ls")
    #expect(cut.out.hasPrefix("6\n") && !cut.out.contains("f\n"))
    #expect(cut.err.shows("http broken") && cut.err.contains("\(server.url)/cut"))
  }

  @Test("ends at its deadline, also when the server is silent or stops in the middle")
  func timeouts() async throws {
    let never = DispatchSemaphore(value: 0)
    let server = try TestServer { _ in
      .init(["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "x"], gate: { _ in never.wait() })
    }
    let output = try await Tool.run("call", server.url, "--timeout", "200ms")
    #expect(output.status == 8)
    #expect(output.err.shows("http timedOut") && output.err.contains(server.url))
    never.signal()
  }

  @Test("finds a service by its name, passes over an instance that cannot be reached, and says who answered")
  func byName() async throws {
    try await withService { service in
      let server = try TestServer { _ in .ok("{\"ok\":true}") }
      let dead = try Services.freePort()
      for port in [server.port, dead] {
        let output = try await Tool.run("register", service, "--port", "\(port)", "--address", "127.0.0.1")
        #expect(output.status == 0)
      }
      var attempts: Set<String> = []
      for _ in 0..<40 {
        let output = try await Tool.run("call", "\(service)/users/42?x=1", "--envelope")
        #expect(output.status == 0)
        #expect(
          output.out.contains(
            #""instance":{"id":"\#(service)-127.0.0.1-\#(server.port)","address":"127.0.0.1","port":\#(server.port)}"#))
        attempts.insert(output.out.contains(#""attempts":2"#) ? "2" : "1")
        if attempts.count == 2 { break }
      }
      #expect(attempts == ["1", "2"])
      let request = try #require(server.requests.first)
      #expect(request.target == "/users/42?x=1" && request.header("Host") == service)
    }
  }

  @Test("tells why no instance can be called")
  func noInstance() async throws {
    let unknown = Services.uniqueName("nobody")
    let output = try await Tool.run("call", unknown + "/x")
    #expect(output.status == 3)
    #expect(output.err.shows("look-up nothingPassing", ["service": unknown]) && output.err.contains("/x'"))

    try await withService { service in
      let port = try Services.freePort()
      _ = try await Tool.run("register", service, "--port", "\(port)", "--check", "tcp", "--interval", "1s")
      let output = try await Tool.run("call", service + "/x")
      #expect(output.status == 3)
      #expect(output.err.shows("look-up nothingPassing 2", ["service": service]))
    }

    let agentless = try await Tool.run(
      "call", "s/x", environment: ["CONSUL_HTTP_ADDR": "127.0.0.1:\(try Services.freePort())"])
    #expect(agentless.status == 6)
    #expect(
      agentless.err.shows("look-up agent", ["service": "s", "reason": "connection refused"]))
  }
}
