import Foundation
import Support
import Testing

@Suite("msctl itself", .serialized)
struct ToolTests {
  @Test("shows its help and versions on standard output")
  func help() async throws {
    for words in [
      ["--help"], ["-h"], ["help"], ["help", "call"], ["call", "-h"], ["publish", "--help"], ["--version"],
    ] {
      let output = try await RunningProcess(Tool.binary, words).end()
      #expect(output.status == 0 && !output.out.isEmpty && output.err == "", "\(words)")
    }
    let version = try await Tool.run("--version")
    #expect(
      version.lines.count == 3 && version.lines[1].hasPrefix("libcurl/") && version.lines[2].hasPrefix("librabbitmq/"))
  }

  @Test("shows what it can do where nothing is asked, and fails")
  func nothing() async throws {
    let output = try await Tool.run()
    #expect(output.status == 2)
    #expect(output.out == "")
    for verb in ["call", "publish", "consume", "register", "discover"] {
      #expect(output.err.contains("  msctl \(verb) "))
    }
  }

  @Test("names the command that was meant")
  func unknown() async throws {
    let output = try await Tool.run("pubilsh", "q")
    #expect(output.status == 2)
    #expect(output.err.showsOnly("usage unknownCommand", with: ["word": "pubilsh", "words": "publish"]))
    let json = try await Tool.run("call", "--tiemout", "3", "s", "--json-errors")
    #expect(json.status == 2)
    #expect(
      json.err
        == #"{"error":{"code":"usage","message":"'--tiemout' is not an option of 'call'","hint":"Did you mean '--timeout'?"}}"#
        + "\n")
  }

  @Test(
    "the man pages say what reaches others: bodies after a redirect, secrets in the environment of commands",
    arguments: [
      ("call", "A 307 or 308 sends the body again, even to another host."),
      ("consume", "AMQP_URL and CONSUL_HTTP_TOKEN included"), ("discover", "AMQP_URL and CONSUL_HTTP_TOKEN included"),
      ("register", "COMMAND inherits msctl's environment, CONSUL_HTTP_TOKEN and AMQP_URL included"),
    ])
  func warnings(_ verb: String, _ sentence: String) async throws {
    let words = try await Tool.run(verb, "--help").out.split { $0 == " " || $0 == "\n" }.joined(separator: " ")
    #expect(words.contains(sentence))
  }

  @Test("fails where its output cannot be written")
  func fullDisk() async throws {
    let output = try await Tool.shell("msctl discover consul > /dev/full; echo $?")
    #expect(output.out == "1\n")
    #expect(output.err.showsOnly("unwritableOutput", with: ["reason": "No space left on device"]))
    let closed = try await Tool.shell("msctl discover consul >&-")
    #expect(closed.err.shows("unwritableOutput"))
  }

  @Test("lays JSON out for a terminal, in colour unless NO_COLOR is set")
  func terminal() async throws {
    func onTerminal(_ line: String) async throws -> String {
      try await Tool.shell("script -qec \"\(line)\" /dev/null").out.replacingOccurrences(of: "\r\n", with: "\n")
    }
    let server = try TestServer { _ in .ok(#"{"a":[1.10,"x\u009b"],"b":{}}"#) }
    let colours = try await onTerminal("msctl call \(server.url)")
    #expect(colours.contains("{\n  \u{1B}[34;1m\"a\"\u{1B}[0m: [\n    \u{1B}[36m1.10\u{1B}[0m,"))
    let plain = try await onTerminal("NO_COLOR=1 msctl call \(server.url)")
    #expect(plain == "{\n  \"a\": [\n    1.10,\n    \"x\\u009b\"\n  ],\n  \"b\": {}\n}\n")
    let text = try TestServer { _ in .ok("a\u{1B}[31mb\n", type: "text/plain") }
    #expect(try await onTerminal("msctl call \(text.url)") == "a\\u{1b}[31mb\n")
  }
}

@Suite("A text of wording.txt that a test names")
struct WordingEntryTests {
  @Test("must be there: an answer of false would pass for what the test expects")
  func unknown() async {
    await #expect(processExitsWith: .failure) { _ = "text".shows("no such entry") }
  }
}
