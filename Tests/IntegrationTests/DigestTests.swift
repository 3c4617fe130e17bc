import Foundation
import Support
import Testing

/// Digest authentication (RFC 7616), with a server whose sums are those of coreutils.
@Suite("Digest authentication", .serialized)
struct DigestTests {
  private static func refusal(_ algorithm: String, keeps: Bool) -> TestServer.Answer {
    let challenge = "WWW-Authenticate: Digest realm=\"r\", nonce=\"n0\", qop=\"auth\", algorithm=\(algorithm)"
    var answer = TestServer.Answer([
      "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\nContent-Type: application/json\r\n\(challenge)\r\n"
        + (keeps ? "" : "Connection: close\r\n") + "\r\n\"no\""
    ])
    answer.keepsConnection = keeps
    return answer
  }

  /// A server that lets in who shows a login, whatever it is.
  private static func server(_ algorithm: String, keeps: Bool) throws -> TestServer {
    try TestServer { request in
      request.header("Authorization") == nil ? refusal(algorithm, keeps: keeps) : .kept("{\"ok\":true}")
    }
  }

  @Test(
    "answers the server's challenge, over the same connection or another one",
    arguments: [("MD5", "md5sum", true), ("MD5", "md5sum", false), ("SHA-256", "sha256sum", true)])
  func challenge(_ algorithm: String, _ sum: String, _ keeps: Bool) async throws {
    let server = try Self.server(algorithm, keeps: keeps)
    let output = try await Tool.run(
      "call", "POST", server.url + "/a?b=c", "name=Ada", "--digest", "env:LOGIN", environment: ["LOGIN": "ada:p:w"])
    #expect(output.status == 0 && output.out == "{\"ok\":true}\n" && output.err == "", "\(output)")
    #expect(server.requests.map(\.body) == [#"{"name":"Ada"}"#, #"{"name":"Ada"}"#])
    let last = try #require(server.requests.last)
    #expect(last.method == "POST" && last.body == #"{"name":"Ada"}"#)
    let header = try #require(last.header("Authorization"))
    func field(_ name: String) throws -> String {
      let field = try #require(header.firstMatch(of: try Regex("[ ,]\(name)=\"?([^\",]*)")))
      return String(try #require(field.output[1].substring))
    }
    #expect(header.hasPrefix("Digest ") && !header.contains("p:w"))
    #expect(try field("username") == "ada" && field("realm") == "r" && field("nonce") == "n0")
    let expected = try await Tool.shell(
      """
      sum() { printf %s "$1" | \(sum) | cut -d' ' -f1; }
      sum "$(sum ada:r:p:w):n0:\(try field("nc")):\(try field("cnonce")):auth:$(sum 'POST:/a?b=c')"
      """)
    #expect(try field("response") + "\n" == expected.out)
  }

  @Test("a login that is refused is a failure, whose response comes once, and is shown nowhere")
  func refused() async throws {
    let server = try TestServer { _ in Self.refusal("MD5", keeps: true) }
    let output = try await Tool.run(
      "call", server.url, "--digest", "env:LOGIN", "--verbose", environment: ["LOGIN": "ada:hunter2"])
    #expect(output.status == 4 && output.out == "\"no\"\n")
    #expect(server.requests.count == 3 && !output.err.contains("hunter2"))
    let each = try await Tool.run(
      "call", server.url + "/{id}", "--each", "--envelope", "--keep-going", "--digest", "env:LOGIN",
      input: "{\"id\":1}{\"id\":2}", environment: ["LOGIN": "ada:hunter2"])
    #expect(each.lines.count == 2 && each.lines.allSatisfy { $0.contains("\"status\":401") && $0.contains("\"no\"") })
  }

  @Test("a server that asks for nothing gets no login, and neither does another host")
  func elsewhere() async throws {
    let open = try TestServer { _ in .ok("1") }
    _ = try await Tool.run("call", open.url, "--digest", "env:LOGIN", environment: ["LOGIN": "ada:p"])
    #expect(open.requests.map { $0.header("Authorization") } == [nil])
    for method in ["POST", "PUT"] {
      let server = try TestServer {
        $0.target == "/moved" ? .ok("2") : .status(302, "Found", "", headers: ["Location: /moved"])
      }
      let output = try await Tool.run(
        "call", method, server.url, "a=1", "--follow", "--retry", "2", "--digest", "env:LOGIN",
        environment: ["LOGIN": "ada:p"])
      #expect(output.status == 0 && output.out == "2\n", "\(output)")
      let bodies = server.requests.map(\.body)
      #expect(bodies == [#"{"a":"1"}"#, method == "PUT" ? #"{"a":"1"}"# : ""], "the body is sent at once, and once")
    }
    let other = try Self.server("MD5", keeps: true)
    let moved = try TestServer { _ in .status(302, "Found", "", headers: ["Location: \(other.url)/"]) }
    let output = try await Tool.run(
      "call", moved.url, "--follow", "--digest", "env:LOGIN", environment: ["LOGIN": "ada:p"])
    #expect(output.status == 4 && other.requests.map { $0.header("Authorization") } == [nil])
  }

  @Test("a server that calls each nonce stale gets a few more logins, and no end of them")
  func stale() async throws {
    let server = try TestServer { request in
      .status(
        401, "Unauthorized", "",
        headers: ["WWW-Authenticate: Digest realm=\"r\", nonce=\"n0\", qop=\"auth\", stale=true"])
    }
    let output = try await Tool.run(
      "call", "POST", server.url, "a=1", "--digest", "env:LOGIN", environment: ["LOGIN": "ada:p"])
    #expect(output.status == 6 && output.err.contains("asks for another login"), "\(output)")
    #expect((3...6).contains(server.requests.count) && server.requests.allSatisfy { $0.body == #"{"a":"1"}"# })
  }

  @Test("a form goes out again with the login, and what the challenge set as a cookie with it")
  func form() async throws {
    let server = try TestServer { request in
      guard request.header("Authorization") == nil else { return .kept("{\"ok\":true}") }
      return .status(
        401, "Unauthorized", "no",
        headers: [
          "WWW-Authenticate: Basic realm=\"x\", Digest realm=\"r\", nonce=\"n0\", qop=\"auth\"", "Set-Cookie: c=1",
        ])
    }
    let output = try await Tool.shell(
      "cd $HOME; printf text > file; LOGIN=ada:p msctl call \(server.url) --form f@file a=1 --follow --digest env:LOGIN"
    )
    #expect(output.status == 0 && output.out == "{\"ok\":true}\n", "\(output)")
    let (requests, last) = (server.requests, try #require(server.requests.last))
    #expect(requests.count == 2 && requests.allSatisfy { $0.body.contains("text") && $0.body.contains("name=\"a\"") })
    #expect(last.header("Cookie") == "c=1")
  }

  @Test("--as-curl says it without the password")
  func curl() async throws {
    let output = try await Tool.run(
      "call", ":1/", "--digest", "env:LOGIN", "--as-curl", environment: ["LOGIN": "ada:hunter2"])
    #expect(output.out.contains("--digest --user 'ada:***'") && !(output.out + output.err).contains("hunter2"))
    #expect(try await Tool.run("call", ":1/", "--digest", "env:HOME", "--basic", "env:HOME").status == 2)
    for option in ["--digest", "--basic"] {
      let output = try await Tool.run(
        "call", ":1/", option, "env:TOKEN", "--as-curl", environment: ["TOKEN": "hunter2"])
      #expect(
        output.status == 2 && output.err.shows("loginWithoutColon") && !(output.out + output.err).contains("hunter2"))
    }
  }
}

@Suite("A body that nobody reads")
struct UnreadInputTests {
  @Test("is told where a request that may have one has none")
  func told() async throws {
    let written = DispatchSemaphore(value: 0)
    let server = try TestServer { request in
      if request.target == "/pipe" { written.wait() }
      return .ok("1")
    }
    for method in ["POST", "PUT", "PATCH", "QUERY"] {
      let output = try await Tool.run("call", method, server.url, input: "{\"a\":1}")
      #expect(output.status == 0 && output.out == "1\n" && output.err.shows("note unreadInput"), "\(output)")
    }
    let piped = try Tool.start("call", "POST", server.url + "/pipe")
    try piped.write("{}")
    written.signal()
    let output = try await piped.end()
    #expect(output.err.shows("note unreadInput"), "\(output)")
  }

  @Test("is not told where there is none, where it is read, or of a request without a body")
  func untold() async throws {
    let server = try TestServer { _ in .ok("1") }
    for words in [["GET"], ["DELETE"], ["POST", "a=1"], ["POST", "--data", ""], ["POST", "--data", "-"]] {
      let output = try await RunningProcess(
        Tool.binary, ["call", words[0], server.url] + words.dropFirst(), input: "{\"a\":1}"
      ).end()
      #expect(output.status == 0 && output.err == "", "\(words): \(output)")
    }
    #expect(try await Tool.run("call", "POST", server.url).err == "")
    #expect(try await Tool.shell("msctl call POST \(server.url) < /dev/null").err == "")
    #expect(try await Tool.run("call", "POST", server.url, "--each", input: "1").err == "")
    #expect(try await Tool.run("call", "POST", server.url, "-q", input: "1").err == "")
  }
}
