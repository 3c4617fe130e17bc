import CommandTable
import MsctlCore
import Testing

@testable import MsctlCommands

/// The request that a command line makes.
private func request(_ words: String..., environment: [String: String] = [:]) throws -> HTTPRequest {
  guard case .run(let options) = try Call.command.parse(words) else { throw Failure(.usage, "help") }
  return try Call.request(options, environment: environment)
}

private func body(_ words: String...) throws -> String {
  guard case .run(let options) = try Call.command.parse(["s"] + words) else { throw Failure(.usage, "help") }
  guard case .bytes(let bytes) = try Call.request(options, environment: [:]).body else { return "" }
  return String(decoding: bytes, as: UTF8.self)
}

private func refusal(_ words: [String]) -> String? {
  do {
    _ = try Call.command.parse(words)
    return nil
  } catch { return error.message }
}

@Suite("A request of 'call'")
struct CallRequestTests {
  @Test(
    "goes to a URL, a host with a port, or a service",
    arguments: [
      ("http://h/x", CallTarget.url("http://h/x")), ("https://h", .url("https://h")),
      ("localhost:3000/users/42", .url("http://localhost:3000/users/42")),
      (":3000/users", .url("http://localhost:3000/users")),
      ("[::1]:80/x", .url("http://[::1]:80/x")),
      ("user-service/users/42", .service(name: "user-service", path: "/users/42")),
      ("user-service", .service(name: "user-service", path: "/")),
      ("user-service?a=b", .service(name: "user-service", path: "/?a=b")),
      ("consul://user-service/x", .service(name: "user-service", path: "/x")),
      ("user-service/at/12:30", .service(name: "user-service", path: "/at/12:30")),
    ])
  func targets(_ text: String, _ target: CallTarget) throws {
    #expect(try CallTarget(argument: text) == target)
  }

  @Test(
    "goes where the target says that a value makes of a template",
    arguments: [
      "http://h:1/{id}", "HTTP://h:1/{id}?a={p}", "http://h{?p}", "http://{id}/x", "http://h/x?q={p}", ":3000/{id}",
      "localhost:3000/x/{+p}", "user-service/users/{id}", "consul://user-service/{id}/{p}", "user-service?q={p}",
      "user-{id}/x", "s/a://b/{id}", "s/at/12:30/{id}", "[::1]:80/{id}",
    ])
  func templates(_ template: String) throws {
    let value = try JSONValue(parsing: Array(#"{"id":7,"p":"a/b c"}"#.utf8))
    let text = try URITemplate(template).expanded(with: value)
    #expect(try CallTarget(argument: template).filled(with: value) == CallTarget(argument: text))
  }

  @Test("is refused where a value makes a fragment of a target")
  func fragments() throws {
    let value = try JSONValue(parsing: Array(#"{"p":"a#b"}"#.utf8))
    let target = try CallTarget(argument: "http://h/{+p}")
    #expect(throws: ValueError("makes a TARGET that has a fragment ('#'), which is never sent; write %23")) {
      try target.filled(with: value)
    }
  }

  @Test(
    "is refused for a target that is none",
    arguments: [
      ("ftp://h/x", "TARGET: 'ftp://h/x' has the scheme 'ftp'; http, https and consul can be called"),
      (
        "http://h:99999/",
        "TARGET: 'http://h:99999/' is not a URL: port number was not a decimal number between 0 and 65535"
      ),
      (
        "http://u:p@h/",
        "TARGET: the value contains credentials, which every process can see; use '--basic @FILE' or '--basic env:NAME'"
      ),
      ("s/a b", "TARGET: 's/a b' contains a space or a control character; write it as %XX"),
      ("s/a\r\nb", "TARGET: 's/a\r\nb' contains a space or a control character; write it as %XX"),
      ("s/#x", "TARGET: 's/#x' has a fragment ('#'), which is never sent; write %23"),
      ("/path", "TARGET: invalid service name '/path': must not be empty or contain spaces, '/' or '?'"),
    ])
  func wrongTargets(_ text: String, _ message: String) {
    #expect(refusal([text]) == message)
  }

  @Test("is GET without a body and POST with one, unless a method is named")
  func methods() throws {
    #expect(try request("s").method == "GET")
    #expect(try request("s", "a=b").method == "POST")
    #expect(try request("s", "--data", "x").method == "POST")
    #expect(try request("PURGE", "s").method == "PURGE")
    #expect(try request("DELETE", "s/users/1").url == "http://s/users/1")
  }

  @Test("is built from items as HTTPie's users know them")
  func items() throws {
    #expect(try body("name=Ada", "age:=36", "n:=1.10", "ok:=true") == #"{"name":"Ada","age":36,"n":1.10,"ok":true}"#)
    #expect(try body("a[b][c]=v", "a[d]=w", "t[]=x", "t[]:=2") == #"{"a":{"b":{"c":"v"},"d":"w"},"t":["x",2]}"#)
    #expect(try body("[]=x", "[]:={}") == #"["x",{}]"#)
    #expect(try body("l[1]=b", "l[0]=a") == #"{"l":["a","b"]}"#)
    #expect(try body("url=http://x:1/?a==b", "e=") == #"{"url":"http://x:1/?a==b","e":""}"#)
    #expect(try body(#"a\:b=c"#) == #"{"a:b":"c"}"#)
    let request = try request("s/x?q=1", "page==2", "q==a b&c", "X-Test:yes", "name=v")
    #expect(request.url == "http://s/x?q=1&page=2&q=a%20b%26c")
    #expect(request.header("x-test") == "yes")
    #expect(request.header("Content-Type") == "application/json")
  }

  @Test("has the usual headers, which an item changes or leaves out")
  func headers() throws {
    #expect(try request("s").header("User-Agent") == "msctl/" + Version.msctl)
    #expect(try request("s", "User-Agent:me").header("User-Agent") == "me")
    #expect(try request("s", "User-Agent:").header("User-Agent") == nil)
    #expect(try request("s", "-H", "Accept: text/csv").header("accept") == "text/csv")
    #expect(try request("s", "--data", "{}").header("Content-Type") == "application/json")
    #expect(try request("s", "--data", "a=1").header("Content-Type") == "text/plain; charset=utf-8")
  }

  @Test("carries the trace on")
  func trace() throws {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    let sent = try request("s", environment: ["TRACEPARENT": trace]).header("traceparent")
    #expect(sent?.hasPrefix("00-0af7651916cd43dd8448eb211c80319c-") == true)
    #expect(sent != trace)
    #expect(try TraceContext(#require(request("s").header("traceparent"))) != nil)
  }

  @Test("takes credentials from the environment and from files, never from the command line")
  func credentials() throws {
    let environment = ["LOGIN": "ada:secret\n", "TOKEN": "t0ken"]
    #expect(
      try request("s", "--basic", "env:LOGIN", environment: environment).header("Authorization")
        == "Basic YWRhOnNlY3JldA==")
    #expect(
      try request("s", "--bearer", "env:TOKEN", environment: environment).header("Authorization") == "Bearer t0ken")
    #expect(throws: Failure(.usage, "the variable 'NOPE' is not set")) {
      _ = try request("s", "--bearer", "env:NOPE")
    }
    #expect(refusal(["s", "--bearer", "t0ken"])?.contains("must be '@FILE' or 'env:NAME'") == true)
  }

  @Test("may be a form")
  func forms() throws {
    #expect(try body("--form", "a=b c", "d=é") == "a=b%20c&d=%C3%A9")
    #expect(try request("s", "-f", "a=b").header("Content-Type") == "application/x-www-form-urlencoded")
    let upload = try request("s", "--form", "a=b", "f@/etc/hostname")
    #expect(
      upload.body
        == .form([
          HTTPFormPart(name: "a", content: .bytes(Array("b".utf8))),
          HTTPFormPart(name: "f", content: .file(path: "/etc/hostname")),
        ]))
  }

  @Test(
    "is refused where its parts do not fit together",
    arguments: [
      (
        ["s", "a"],
        "ITEM: invalid item 'a': write name=text, name:=json, name==query, Header:value, name=@file, name:=@file or name@file"
      ),
      (
        ["s", "a:={"],
        "ITEM: the value of 'a' is not JSON (line 1, column 2: the input ends inside a value); for a string, write '=' instead of ':='"
      ),
      (
        ["s", "X-A:b\r\nX-C:d"],
        "ITEM: invalid header: the name must be one word, and the value must not contain control characters"
      ),
      (
        ["s", "-H", "X-A: b\nc"],
        "-H: invalid header: the name must be one word, and the value must not contain control characters"
      ),
      (["s", "-H", "nothing"], "-H: the value is not of the form 'Name: value'"),
      (["s", "-H", "Authorization Bearer hunter2"], "-H: the value is not of the form 'Name: value'"),
      (
        ["s", "--bearer", "hunter2"],
        "--bearer: the value must be '@FILE' or 'env:NAME': a secret on the command line is visible to every process"
      ),
      (
        ["http://u:hunter2@h/a b"],
        "TARGET: the value contains a space or a control character; write it as %XX"
      ),
      (
        ["s", "--consul-addr", "http://u:hunter2@h"],
        "--consul-addr: the value is not an agent address such as http://127.0.0.1:8500, host:8500 or unix:///path"
      ),
      (["s", "f@x"], "'name@file' requires '--form'"),
      (["s", "--data", "x", "a=b"], "'--data' cannot be combined with items that build a body"),
      (["s", "--basic", "env:A", "--bearer", "env:B"], "'--basic' cannot be combined with '--bearer'"),
      (["s", "--timeout", "soon"], "--timeout: 'soon' is not a duration such as 5s, 250ms, 1m or 2h"),
      (["s", "--timeout", "-5s"], "--timeout: '-5s' is not a duration such as 5s, 250ms, 1m or 2h"),
      (["GET"], "'call' requires TARGET: A URL, HOST:PORT/PATH, or NAME/PATH of a service"),
    ])
  func refusals(_ words: [String], _ message: String) {
    #expect(refusal(words) == message)
  }

  @Test(
    "refuses items that put two things in one place",
    arguments: [["a=1", "a[b]=2"], ["a[b]=1", "a[]=2"], ["a=1", "a=2"]])
  func clashes(_ items: [String]) throws {
    guard case .run(let options) = try Call.command.parse(["s"] + items) else { return }
    #expect(throws: Failure.self) { _ = try Call.request(options, environment: [:]) }
  }
}

@Suite("A duration")
struct DurationTests {
  @Test(
    "is a number with a unit, or seconds",
    arguments: [
      ("5s", 5000), ("250ms", 250), ("1.5m", 90_000), ("2h", 7_200_000), ("10", 10_000), ("0", 0),
    ])
  func values(_ text: String, _ milliseconds: Int) throws {
    #expect(try Duration(argument: text) == .milliseconds(milliseconds))
  }

  @Test("is refused otherwise", arguments: ["", "s", "5x", "1e3", "-1", "∞", "99999999999h"])
  func refusals(_ text: String) {
    #expect(throws: ValueError.self) { _ = try Duration(argument: text) }
  }
}

@Suite("The table of commands")
struct TableTests {
  @Test("has no name twice, a sentence for every row, and shows every choice")
  func rows() {
    for spec in AllCommands.specs {
      #expect(Set(spec.flags.map(\.long)).count == spec.flags.count, "\(spec.name)")
      let shorts = spec.flags.compactMap(\.short)
      #expect(Set(shorts).count == shorts.count, "\(spec.name)")
      for flag in spec.flags {
        #expect(!flag.summary.isEmpty && !flag.summary.hasSuffix("."), "\(spec.name) --\(flag.long)")
        if case .choices(let words) = flag.completion { #expect(!words.isEmpty, "\(spec.name) --\(flag.long)") }
      }
      #expect(!spec.examples.isEmpty, "\(spec.name)")
      let examples = spec.examples.map { "  " + $0.line }
      for line in Help.text(of: spec, program: "msctl", .full).split(separator: "\n")
      where !examples.contains(String(line)) {
        #expect(line.count <= 80, "\(line)")
      }
    }
  }
}
