import Testing

@testable import MsctlCore

@Suite("Names that look like a secret's")
struct SecretNameTests {
  @Test(
    "are known by their words",
    arguments: [
      "Authorization", "X-Auth", "Cookie", "Set-Cookie", "X-Consul-Token", "X-Api-Key", "apikey", "API_KEY", "X-Key",
      "Ocp-Apim-Subscription-Key", "X-JWT", "X-Hub-Signature", "Content-Signature", "X-Session", "sessionid",
      "access_token",
      "client_secret", "password", "passwd", "pwd", "sig", "client_assertion", "X-Amz-Credential", "X-Amz-Signature",
      "key",
    ])
  func secret(_ name: String) { #expect(SecretName.matches(name)) }

  @Test(
    "are not those of everything else",
    arguments: [
      "Idempotency-Key", "Content-Type", "Sec-WebSocket-Key", "author", "page", "monkey", "keyboard", "design",
      "passing",
      "traceparent", "X-Request-Id", "",
    ])
  func harmless(_ name: String) { #expect(!SecretName.matches(name)) }

  @Test("have their values masked in a URL, wherever they stand, and nothing else is")
  func urls() {
    #expect(shownURL("http://h/a?b=1&token=x&c=2#token=y") == "http://h/a?b=1&token=***&c=2#token=y")
    #expect(shownURL("http://u:p@h/a?x=1") == "http://***@h/a?x=1")
    #expect(shownURL("http://h/?to%6ben=x&key=") == "http://h/?to%6ben=***&key=")
    #expect(shownURL("http://h/?token\u{301}=x&a;sig=1") == "http://h/?token\u{301}=***&a;sig=***")
    #expect(shownURL("user-service (id at 1.2.3.4:80)") == "user-service (id at 1.2.3.4:80)")
    // A raw '/' or '?' in a password: what stands before the colon is a user where no port follows it.
    #expect(shownURL("http://u:p/w@h/x?token=a") == "http://***@h/x?token=***")
    #expect(shownURL("http://u:p?w=1@h/x?b=c") == "http://***@h/x?b=c")
    // With a raw '@' as well, what follows the first one may still be the password.
    #expect(shownURL("http://u:p@ss/word@h/x?token=a") == "http://***@h/x?token=***")
    #expect(shownURL("http://u:p@s?w=1@h") == "http://***@h" && shownURL("http://t@k/n@h") == "http://***@h")
    #expect(shownURL("http://u:p@s/w@h (a at b@c)") == "http://***@h (a at b@c)")
    #expect(shownURL("//u:p#w@h/x") == "//***@h/x" && shownURL("//u:p@h/x") == "//***@h/x")
    #expect(shownURL("http://h:80/users/a@b.c") == "http://h:80/users/a@b.c")
    #expect(shownURL("http://[::1]/a@b") == "http://[::1]/a@b")
    #expect(shownURL("a?token=x&to=http://u:p@h") == "a?token=***&to=http://u:p@h")
    for text in ["", "?", "=", "?&&", "://", "http://", "http://@", "a?b", "?key=1"] { _ = shownURL(text) }
    #expect(shownURL("http://h/?") == "http://h/?")
  }
}

@Suite("Members of JSON with names of secrets")
struct SecretMemberTests {
  private func masked(_ text: String) -> String { String(decoding: maskedMembers(Array(text.utf8)), as: UTF8.self) }

  @Test("are masked wherever they stand, and all other bytes stay")
  func members() {
    #expect(
      masked(#" {"a":1, "password" : "x\"y\"" ,"b":[{"to\u006ben":[1,{"c":"]"}],"d":"token"}] }"#)
        == #" {"a":1, "password" : "***" ,"b":[{"to\u006ben":"***","d":"token"}] }"#)
    #expect(
      masked(#"{"pin":1,"api_key":12.5e3,"secret":{"a":"b"},"auth":true,"token":null}"#)
        == #"{"pin":1,"api_key":"***","secret":"***","auth":true,"token":null}"#)
    #expect(masked("{\"token\":\"a\"}\n{\"token\":\"b\"}") == "{\"token\":\"***\"}\n{\"token\":\"***\"}")
    #expect(masked(#"["token","x"]"#) == #"["token","x"]"#)
  }

  @Test("are masked to the end where the text is no JSON")
  func halfText() {
    #expect(masked(#"{"token":"abc"#) == #"{"token":"***""# && masked(#"{"token":[{"#) == #"{"token":"***""#)
    for text in ["", "\"", "{\"token\":", "{\"token\"", "\"token\":}", "\\\"", "[[[", "]]]"] { _ = masked(text) }
  }
}

@Suite("Templates that data fills")
struct HostileTemplateTests {
  private func filled(_ template: String, _ value: String) -> String? {
    try? URITemplate(template).expanded { _ in .text(value) }
  }

  @Test("no segment becomes a dot segment by a value, however it is encoded")
  func dots() {
    for value in ["..", ".", "../x", "x/..", "a/../b", "%2e%2E", "%252e%252e", "..;x", "..\\x", "..\0"] {
      for template in ["s/{x}", "http://h/a/{x}/b", "s{/x}", "s/{+x}", "s/a/{x}?q"] {
        #expect(filled(template, value) == nil, "\(template) \(value)")
      }
    }
    #expect(filled("s/.{x}", "") == nil && filled("s/{x}{x}", ".") == nil && filled("s/{x}.", ".") == nil)
    #expect(filled("s/../{x}", "1") == "s/../1", "the template's own dots are its author's")
    #expect(filled("s?a={x}", "..") == "s?a=.." && filled("s{#x}", "..") == "s#..")
    #expect(filled("s/{x}", "a..b") == "s/a..b" && filled("s/{x}", "...") == "s/...")
    #expect(filled("s/{x}", String(repeating: "%25", count: 5000)) != nil)
  }

  @Test("braces are bytes")
  func braces() {
    #expect(throws: TemplateError.self) { _ = try URITemplate("{\u{301}") }
    #expect(throws: TemplateError.self) { _ = try URITemplate("}\u{301}") }
    #expect(throws: TemplateError.self) { _ = try URITemplate("{}") }
    #expect(filled("{x}\u{301}", "a") == "a\u{301}")
  }
}

@Suite("JSON laid out for people")
struct HostilePrinterTests {
  private func printed(_ text: String) throws -> String {
    String(decoding: JSONPrinter(colours: false).indented(try JSONValue(parsing: text.utf8)), as: UTF8.self)
  }

  @Test("looks as it always did")
  func layout() throws {
    #expect(
      try printed(#"{"a":[1.10,"x",{},[]],"b":{"c":null},"a":true}"#)
        == "{\n  \"a\": [\n    1.10,\n    \"x\",\n    {},\n    []\n  ],\n  \"b\": {\n    \"c\": null\n  },\n  \"a\": true\n}"
    )
    #expect(try printed(#""a\"b""#) == #""a\"b""#)
    #expect(try printed("12") == "12")
    #expect(try printed("\"\u{80}\u{9F}\u{7F}\u{A0}é\"") == "\"\\u0080\\u009f\\u007f\u{A0}é\"")
  }

  @Test("grows with what is read, and not with how deep it is")
  func bounds() throws {
    let depth = 1000
    let text = String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
    #expect(try printed(text).utf8.count < 2 * depth * 70)
  }
}
