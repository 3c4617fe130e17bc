import Foundation
import Support
import Testing

@Suite("Text of others on a terminal and in errors", .serialized)
struct HostileTextTests {
  private func isClean(_ text: String) -> Bool {
    text.unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) }
  }

  @Test("an error, a note and a trace are lines of their own, whatever a server says")
  func lines() async throws {
    let server = try TestServer { _ in
      .status(500, "a\u{1B}[2J\u{9B}31m\u{7F}b", "", headers: ["X-A: \u{9B}2J\u{1B}c"])
    }
    for words in [[], ["-v"], ["--json-errors"]] {
      let output = try await RunningProcess(Tool.binary, ["call", server.url] + words).end()
      #expect(output.status == 5 && isClean(output.err), "\(output.err)")
    }
    let forged = try await Tool.run("call", "http://h/a\nmsctl: all is well\u{9B}2J")
    #expect(forged.status == 2 && forged.err.utf8.count { $0 == 0x0A } == 1 && isClean(forged.err))
    let json = try await Tool.run("call", "http://h/\u{9B}2J\u{7F} x", "--json-errors")
    #expect(json.err.contains("\\u009b2J\\u007f") && isClean(json.err))
    try await withQueue { queue in
      let missing = try await Tool.run("consume", "\(queue)\u{1B}[2J\u{9B}msctl: forged", "--passive", "--drain")
      #expect(missing.status == 3 && isClean(missing.err))
      #expect(missing.err.components(separatedBy: "\nmsctl:").count == 1, "\(missing.err)")
    }
  }

  @Test("what a command wrote that failed is shown, and cannot pass for msctl's own words")
  func children() async throws {
    try await withQueue(arguments: "{}") { queue in
      _ = try await Tool.run("publish", queue, "1")
      let output = try await Tool.run(
        "consume", queue, "--count", "1", "--on-error", "stop", "--exec",
        #"printf 'why\nmsctl: all is well\033[2J\n'; exit 3"#)
      #expect(output.status == 3)
      #expect(output.err.contains("       why\n       msctl: all is well\\u{1b}[2J\n") && isClean(output.err))
      // On a terminal, so is what one wrote that did not fail.
      let shown = try await Tool.shell(
        #"script -qec "msctl consume \#(queue) --count 1 --exec 'printf \"a\\033[2Jb\\n\"'" /dev/null"#)
      #expect(shown.out.contains("a\\u{1b}[2Jb") && !shown.out.contains("\u{1B}[2J"), "\(shown)")
    }
  }

  @Test("JSON on a terminal holds no control character, in names and in strings")
  func json() async throws {
    let server = try TestServer { _ in .ok("{\"n\u{9B}\u{7F}\":[\"x\u{85}\",{}]}") }
    let output = try await Tool.shell("script -qec \"NO_COLOR=1 msctl call \(server.url)\" /dev/null")
    #expect(output.out.contains("\"n\\u009b\\u007f\": [\r\n    \"x\\u0085\",\r\n    {}"), "\(output.out)")
  }

  @Test("deep nesting is written with bounded indentation")
  func nesting() async throws {
    let depth = 1000
    let deep = String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
    let body = "[" + (0..<60).map { _ in deep }.joined(separator: ",") + "]"
    let server = try TestServer { _ in .ok(body) }
    let output = try await Tool.shell("msctl call \(server.url) --color always | wc -c")
    let count = try #require(Int(output.out.dropLast()))
    #expect(count > body.utf8.count && count < 100 * body.utf8.count, "\(count)")
  }

  @Test("secrets in a URL are masked in errors and with --verbose")
  func secrets() async throws {
    let server = try TestServer { _ in
      .status(404, "Not Found", "", headers: ["Location: /x?token=hunter2", "X-Amz-Signature: hunter2"])
    }
    let output = try await Tool.run(
      "call", server.url + "/?page=1&api%5Fkey=hunter2", "-v", "session==hunter2", "X-JWT:hunter2")
    #expect(output.status == 4 && !output.err.contains("hunter2"))
    #expect(output.err.contains("?page=1&api%5Fkey=***&session=***"), "\(output.err)")
    let refused = try await Tool.run("call", "http://127.0.0.1:\(try Services.freePort())/?sig=hunter2", "--envelope")
    #expect(refused.status == 6 && !refused.err.contains("hunter2"))
    let wrong = try await Tool.run("call", "http://h/ ?key=hunter2")
    #expect(wrong.status == 2 && !wrong.err.contains("hunter2"))
  }

  @Test("a value of --each cannot climb in the path: it is refused by its number, and nothing is sent")
  func climbing() async throws {
    let server = try TestServer { _ in .ok("{}") }
    for value in ["..", ".", "../orders", "..\\\\x", "%2e%2e", "..;a", ".%2e/x", "%252e."] {
      for template in ["/users/{id}/x", "/users{/id}", "/users/{+id}", "/users/a?x=1"] {
        let before = server.requests.count
        let output = try await RunningProcess(
          Tool.binary, ["call", "DELETE", server.url + template, "--each"],
          input: "{\"id\":\"1\"}\n{\"id\":\"\(value)\"}\n"
        ).end()
        guard template.contains("id}") else { continue }
        #expect(output.status == 9 && server.requests.count == before + 1, "\(template) \(value)")
        #expect(
          output.err.hasPrefix("msctl: value 2: it has a field 'id' that makes a segment '.' or '..' of the path"))
      }
    }
    for value in ["...", "a..b", "..a", "é", "a/b", "%2e%2ex"] {
      let output = try await Tool.run("call", server.url + "/users/{id}", "--each", input: "{\"id\":\"\(value)\"}")
      #expect(output.status == 0, "\(value): \(output.err)")
    }
    // In a query it is a value as any other.
    #expect(try await Tool.run("call", server.url + "/users{?id}", "--each", input: #"{"id":".."}"#).status == 0)
    #expect(try await Tool.run("call", "{name}/x", "--each", input: #"{"name":".."}"#).status == 9)
  }

  @Test("a combining mark hides no brace, no colon and no slash of an address")
  func combining() async throws {
    let server = try TestServer { _ in .ok("{}") }
    for target in ["{\u{301}", "a/{\u{301}}", "\u{301}{id}", "http:\u{301}//h/", "s/\u{301}?"] {
      let output = try await Tool.run(
        "call", target, "--each", input: "{}", environment: ["CONSUL_HTTP_ADDR": "127.0.0.1:1"])
      #expect(output.status < 128, "\(target): \(output)")
    }
    let output = try await Tool.run("call", server.url + "/{id}\u{301}", "--each", input: #"{"id":"7"}"#)
    #expect(output.status == 0 && server.requests.last?.target.lowercased() == "/7%cc%81")
  }

  @Test("an item cannot add a header of its own, whichever way it is written")
  func items() async throws {
    let server = try TestServer { _ in .ok("{}") }
    for item in [
      "X\r\nInjected\\: yes:", "X\\:\r\nInjected:", "X\nInjected\\: yes:1", "X\r\n:", "X Y:", "X:a\r\nb", "X\u{301}:1",
      "Ü:",
    ] {
      let output = try await Tool.run("call", server.url, item)
      #expect(output.status == 2 && output.err.utf8.count { $0 == 0x0A } == 1, "\(item): \(output)")
    }
    #expect(server.requests.isEmpty)
    let output = try await Tool.run("call", server.url, "a\u{301}=b", "c\\=\u{301}d=e")
    #expect(output.status == 0 && server.requests.last?.body == "{\"a\u{301}\":\"b\",\"c=\u{301}d\":\"e\"}")
  }
}
