import MsctlCore
import Testing

@Suite("Small parts")
struct SmallPartsTests {
  /// RFC 9562, section 5.4.
  @Test("ids are UUIDs of version 4, each another one, also beside each other")
  func ids() async throws {
    let ids = await withTaskGroup(of: [String].self) { group in
      for _ in 0..<4 { group.addTask { (0..<5000).map { _ in randomUUID() } } }
      return await group.reduce(into: []) { $0 += $1 }
    }
    let form = try Regex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    #expect(try ids.allSatisfy { try form.wholeMatch(in: $0) != nil })
    #expect(Set(ids.map { Array($0.utf8) }).count == 20_000)
    let trace = TraceContext()
    #expect(TraceContext(trace.traceparent) == trace)
  }

  @Test("two workers have two ids, though both processes have the same number in their containers")
  func workers() {
    #expect(ServiceRegistration(name: "w", port: 0).id != ServiceRegistration(name: "w", port: 0).id)
  }

  /// RFC 4648, section 10.
  @Test(
    "Base64 goes there and back",
    arguments: [
      ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
      ("foobar", "Zm9vYmFy"),
    ])
  func base64(_ text: String, _ encoded: String) {
    #expect(Base64.encode(Array(text.utf8)) == encoded)
    #expect(Base64.decode(encoded) == Array(text.utf8))
  }

  @Test("What is not base64 is refused", arguments: ["Z", "Zg=", "Zg", "====", "Z===", "Zm9v!m9v", "Zg==Zg=="])
  func notBase64(_ text: String) {
    #expect(Base64.decode(text) == nil)
  }

  @Test("Percent-encoding goes there and back")
  func percent() {
    #expect(Percent.encode("a b/é~") == "a%20b%2F%C3%A9~")
    #expect(Percent.decode("a%20b%2F%C3%A9~") == "a b/é~")
    #expect(Percent.decode("%") == nil)
    #expect(Percent.decode("%4") == nil)
    #expect(Percent.decode("%zz") == nil)
    #expect(Percent.decode("%ff") == nil)
  }

  @Test("A traceparent is taken on, and what is none begins a new trace")
  func trace() throws {
    let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    let trace = try #require(TraceContext(text))
    #expect(trace.traceparent == text)
    #expect(trace.child().traceID == trace.traceID)
    #expect(trace.child().parentID != trace.parentID)
    for wrong in [
      "", "00-0-0-01", "ff-" + text.dropFirst(3), text.uppercased(), text + "-x",
      "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    ] {
      #expect(TraceContext(wrong) == nil)
    }
    #expect(TraceContext("01-" + text.dropFirst(3) + "-more")?.traceID == trace.traceID)
    #expect(TraceContext(TraceContext().traceparent) != nil)
  }

  @Test(
    "A header that could begin another one is refused",
    arguments: [
      ("X-A", "b\r\nX-C: d"), ("X-A", "b\nc"), ("X-A", "b\0"), ("X A", "b"), ("", "b"), ("X:A", "b"), ("X-A\r\n", "b"),
    ])
  func headers(_ name: String, _ value: String) {
    #expect(HTTPHeader(name, value) == nil)
  }

  @Test(
    "An agent's address is read as consul reads it",
    arguments: [
      ("http://127.0.0.1:8500", "http://127.0.0.1:8500"), ("127.0.0.1:8500", "http://127.0.0.1:8500"),
      ("https://consul.example", "https://consul.example:8501"), ("consul", "http://consul:8500"),
      ("http://[::1]:80/", "http://[::1]:80"), ("http://[::1]", "http://[::1]:8500"),
      ("http://h:1/prefix/", "http://h:1/prefix"), ("unix:///run/consul.sock", "unix:///run/consul.sock"),
    ])
  func addresses(_ text: String, _ shown: String) {
    #expect(ConsulAddress(text)?.shown == shown)
  }

  @Test(
    "What is no agent's address is refused",
    arguments: ["ftp://h", "http://", "unix://x", "http://u:p@h", "http://h:x", "http://to/ken@h", "to/ken@h"])
  func notAddresses(_ text: String) {
    #expect(ConsulAddress(text) == nil)
  }

  @Test("Instances are chosen as often as their weights say, and one of weight 0 never beside others")
  func weights() throws {
    func instance(_ id: String, _ weight: Int) throws -> ServiceInstance {
      try #require(
        ServiceInstance(
          health: JSONValue(
            parsing:
              #"{"Node":{"Node":"n","Address":"::1"},"Service":{"Service":"s","ID":"\#(id)","Port":1,"Weights":{"Passing":\#(weight)}},"Checks":[]}"#
              .utf8)))
    }
    let instances = try [instance("one", 1), instance("three", 3), instance("none", 0)]
    var generator = SystemRandomNumberGenerator()
    var counts: [String: Int] = [:]
    for _ in 0..<8000 { counts[instances.weightedRandom(using: &generator)?.id ?? "", default: 0] += 1 }
    #expect(counts["none"] == nil && counts[""] == nil)
    // Twenty standard deviations on either side of 2000.
    #expect((1200...2800).contains(counts["one"] ?? 0))
    #expect(try [instance("none", 0)].weightedRandom(using: &generator)?.id == "none")
    #expect([ServiceInstance]().weightedRandom(using: &generator) == nil)
    #expect(instances[0].url == "http://[::1]:1")
  }

  @Test("A body stands in JSON as what it is")
  func bodies() {
    #expect(BodyText(Array(" {\"a\": 1.10}".utf8), contentType: nil).value.description == #"{"a":1.10}"#)
    #expect(BodyText(Array("hello".utf8), contentType: nil).value.description == #""hello""#)
    #expect(BodyText(Array("42".utf8), contentType: "text/plain").value.description == #""42""#)
    #expect(BodyText(Array("42".utf8), contentType: "application/json").value.description == "42")
    #expect(BodyText([0xFF, 0x00], contentType: nil).value.description == #""/wA=""#)
    #expect(BodyText([], contentType: nil).value.description == #""""#)
  }
}

@Suite struct JSONPlacesTests {
  private static let places = JSONPlaces([["a", "x"], ["a", "y", "z"], ["b"]])

  private func found(_ text: String) throws -> [String?] {
    try JSONValue(parsing: text.utf8)[Self.places].map { $0?.description }
  }

  @Test func thingsAtSeveralDepthsAreFoundInOneGo() throws {
    #expect(
      try found(#"{"n":[{"a":1}],"a":{"y":{"z":[2]},"x":"}","o":{"x":3}},"b":{"x":4}}"#) == [
        #""}""#, "[2]", #"{"x":4}"#,
      ])
  }

  @Test func ofDuplicateNamesTheLastOneCountsWithAllThatIsBelowIt() throws {
    #expect(try found(#"{"a":{"x":1,"y":{"z":2}},"b":1,"a":{"x":3},"b":4}"#) == ["3", nil, "4"])
    #expect(try found(#"{"a":{"x":1},"a":null}"#) == [nil, nil, nil])
  }

  @Test func aNameWithEscapesIsTheNameThatIsMeant() throws {
    #expect(try found(#"{"\u0061":{"\u0078":1}}"#) == ["1", nil, nil])
  }

  @Test(arguments: ["[]", "1", #""a""#, "{}", #"{"a":[{"x":1}]}"#, #"{"a":{"y":5}}"#])
  func whatIsElsewhereIsNotFound(_ text: String) throws { #expect(try found(text) == [nil, nil, nil]) }
}
