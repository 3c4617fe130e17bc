import Foundation
import MsctlCore
import Support
import Testing

@Suite("Cookies", .serialized)
struct CookieTests {
  /// Sets a cookie at `/login`, takes it back at `/logout`, and shows elsewhere which ones it got.
  private static func answer(_ request: TestServer.Request, to place: String = "/me") -> TestServer.Answer {
    switch request.target {
    case "/login":
      .status(
        302, "Found", "", headers: ["Location: \(place)", "Set-Cookie: sid=42; HttpOnly", "Set-Cookie: a=b; Path=/"])
    case "/logout": .status(200, "OK", "", headers: ["Set-Cookie: sid=; Max-Age=0"])
    // Their order is libcurl's business.
    default:
      .ok("\"\((request.header("Cookie") ?? "none").components(separatedBy: "; ").sorted().joined(separator: "; "))\"")
    }
  }

  @Test("are kept over redirects, to the host that set them, until the call ends")
  func redirects() async throws {
    let server = try TestServer { Self.answer($0) }
    #expect(try await Tool.run("call", "POST", server.url + "/login", "--follow").out == "\"a=b; sid=42\"\n")
    #expect(try await Tool.run("call", server.url, "--follow").out == "\"none\"\n")
    let each = try await Tool.run("call", server.url + "/{p}", "--each", "--follow", input: #"{"p":"login"}{"p":"me"}"#)
    #expect(each.lines == ["\"a=b; sid=42\"", "\"none\""])
    let other = try TestServer { Self.answer($0) }
    let away = try TestServer { Self.answer($0, to: "http://localhost:\(other.port)/me") }
    #expect(try await Tool.run("call", away.url + "/login", "--follow").out == "\"none\"\n")
  }

  @Test("stay with their request: a handle of libcurl that kept some is not used for another one")
  func handles() throws {
    let server = try TestServer { Self.answer($0) }
    let http = try HTTPClient(trace: nil, spareHandles: 8)
    func get(_ path: String, cookies: [String]?) throws -> String {
      var request = HTTPRequest(url: server.url + path)
      (request.redirects, request.cookies) = (1, cookies)
      let transfer = try http.start(request)
      while transfer.outcome == nil { try http.run(until: .never) }
      return String(decoding: transfer.takeBody(), as: UTF8.self)
    }
    #expect(try get("/login", cookies: []) == "\"a=b; sid=42\"")
    for cookies in [nil, []] as [[String]?] { #expect(try get("/me", cookies: cookies) == "\"none\"") }
  }

  @Test("'--cookie-jar' keeps them for the next call, as curl does")
  func jar() async throws {
    let server = try TestServer { Self.answer($0) }
    let output = try await Tool.shell(
      """
      cd $HOME; umask 022
      msctl call POST \(server.url)/login --cookie-jar jar --no-fail
      stat -c %a jar
      msctl call \(server.url)/me --cookie-jar jar
      curl -s -b jar \(server.url)/me; echo
      msctl call \(server.url)/logout --cookie-jar jar
      msctl call \(server.url)/me --cookie-jar jar
      curl -s -c other \(server.url)/login; msctl call \(server.url)/me --cookie-jar other
      ls
      """)
    let both = "\"a=b; sid=42\"\n"
    #expect(output.out.hasPrefix("600\n" + both + both + "\"a=b\"\n" + both), "\(output)")
    #expect(output.err == "" && !output.out.contains("msctl-"), "\(output)")
  }

  @Test("of a file that others wrote are cookies, and nothing else")
  func hostile() async throws {
    let server = try TestServer { Self.answer($0) }
    let output = try await Tool.shell(
      #"""
      cd $HOME
      printf 'ALL\nFLUSH\nSet-Cookie: x=y\n#\ta comment\n127.0.0.1\tFALSE\t/\tFALSE\t0\tgood\t1\n127.0.0.1\tFALSE\n\xff\t\n' > jar
      msctl call \#(server.url)/me --cookie-jar jar
      """#)
    #expect(output.out == "\"good=1\"\n" && output.status == 0, "\(output)")
  }

  @Test("are not asked for where they cannot be kept")
  func refused() async throws {
    let server = try TestServer { Self.answer($0) }
    let report = try await Tool.shell(
      "cd $HOME; echo text > report; msctl call \(server.url) --cookie-jar report; cat report")
    #expect(report.out == "text\n" && report.err.shows("unwritableFile"), "\(report)")
    for jar in ["/dev/null", "/nonexistent/jar", "/", "", "-"] {
      let output = try await Tool.run("call", server.url, "--cookie-jar", jar)
      #expect(output.status != 0 && output.out == "", "\(jar): \(output)")
    }
    #expect(try await Tool.run("call", server.url, "--each", "--cookie-jar", "jar", input: "1").status == 2)
    let curl = try await Tool.run("call", server.url, "--as-curl", "--cookie-jar", "a=b")
    #expect(curl.out.contains("--cookie './a=b' --cookie-jar 'a=b'"), "\(curl)")
    #expect(server.requests.isEmpty)
  }
}
