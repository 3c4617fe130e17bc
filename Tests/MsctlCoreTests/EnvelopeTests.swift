import MsctlCore
import Testing

@Suite("An envelope")
struct EnvelopeTests {
  private func everything() -> AMQPProperties {
    var properties = AMQPProperties()
    properties.contentType = "application/json"
    properties.contentEncoding = "utf-8"
    properties.headers = [
      AMQPField("flag", .bool(true)), AMQPField("small", .integer(-1)), AMQPField("large", .integer(.max)),
      AMQPField("least", .integer(.min)), AMQPField("unsigned", .unsigned(.max)), AMQPField("double", .double(1)),
      AMQPField("tiny", .double(.leastNonzeroMagnitude)),
      AMQPField("price", .decimal(scale: 2, value: 125)),
      AMQPField("debt", .decimal(scale: 3, value: -5)), AMQPField("whole", .decimal(scale: 0, value: 7)),
      AMQPField("text", .string("é\n\"")), AMQPField("bytes", .bytes([0, 255])),
      AMQPField("time", .timestamp(1_700_000_000)),
      AMQPField("void", .void), AMQPField("list", .array([.integer(1), .array([]), .table([AMQPField("a", .void)])])),
      AMQPField("table", .table([AMQPField("x", .timestamp(1)), AMQPField("", .string(""))])),
      AMQPField("trap", .table([AMQPField("$bytes", .string("no base64"))])), AMQPField("empty", .table([])),
    ]
    properties.deliveryMode = 2
    properties.priority = 255
    properties.correlationID = "c"
    properties.replyTo = "r"
    properties.expiration = "60000"
    properties.messageID = "m"
    properties.timestamp = .max
    properties.type = "t"
    properties.userID = "u"
    properties.appID = "a"
    properties.clusterID = "cl"
    return properties
  }

  @Test(
    "brings back every property and header type, and the very bytes of the body",
    arguments: [
      Array(#"{"a":1.10,"a":2}"#.utf8), Array(#"{"a": 1.10, "b": [1, 2]}"#.utf8), Array("{\"a\":\n1}".utf8),
      Array(" 1 ".utf8),
      Array("1 2".utf8), Array("plain text\r\n".utf8), [], [0xFF, 0x00, 0x0A], Array("\"\u{FEFF}\"".utf8),
      [0xEF, 0xBB, 0xBF, 0x31],
    ] as [[UInt8]])
  func roundTrip(_ body: [UInt8]) throws {
    let message = AMQPMessage(body: body, properties: everything(), exchange: "e", routingKey: "r.k")
    let line = Envelope.write(message, redelivered: true)
    #expect(!line.text.contains(0x0A))
    let (back, hasProperties) = try Envelope.read(JSONValue(parsing: line.text, keepsWhiteSpace: true))
    #expect(hasProperties)
    #expect(back.body == body)
    #expect(back.properties.headers == message.properties.headers)
    #expect(back == message)
  }

  @Test("brings back a header whose name looks like a tag", arguments: ["$bytes", "$x", "$table", "$"])
  func tagged(_ name: String) throws {
    var message = AMQPMessage(body: [0x31], exchange: "", routingKey: "q")
    message.properties.headers = [AMQPField(name, .string("a"))]
    let line = Envelope.write(message, redelivered: false)
    #expect(try Envelope.read(JSONValue(parsing: line.text)).message == message)
  }

  @Test("keeps a body that is called text a string, even where it looks like JSON")
  func text() throws {
    var properties = AMQPProperties()
    properties.contentType = "text/plain"
    let line = Envelope.write(
      AMQPMessage(body: Array("42".utf8), properties: properties, exchange: "", routingKey: ""), redelivered: false)
    #expect(line["body"]?.string == "42" && line["bodyEncoding"]?.string == "text")
  }

  @Test(
    "is refused where it is none, with the reason",
    arguments: [
      ("[1]", "is not an object"), ("{}", "has no 'body'"),
      (#"{"body":1,"bodyEncoding":"text"}"#, "has a 'body' that is not a string of text"),
      (#"{"body":"!","bodyEncoding":"base64"}"#, "has a 'body' that is not base64"),
      (#"{"body":"","bodyEncoding":"gzip"}"#, "has the 'bodyEncoding' 'gzip', which is not text or base64"),
      (#"{"body":1,"exchange":2}"#, "has a 'exchange' that is not a string"),
      (#"{"body":1,"properties":[]}"#, "has 'properties' that are not an object"),
      (#"{"body":1,"properties":{"colour":1}}"#, "has the property 'colour', which AMQP does not have"),
      (
        #"{"body":1,"properties":{"priority":256}}"#,
        "has the property 'priority', which is not a number between 0 and 255"
      ),
      (#"{"body":1,"properties":{"type":1}}"#, "has the property 'type', which is not a string of at most 255 bytes"),
      (
        #"{"body":1,"properties":{"headers":{"a":{"$bytes":"!"}}}}"#,
        "has a header value tagged '$bytes', which is not a known type"
      ),
      (
        #"{"body":1,"properties":{"headers":{"a":{"$what":1}}}}"#,
        "has a header value tagged '$what', which is not a known type"
      ),
      (
        #"{"body":1,"properties":{"headers":{"a":{"$double":"nan"}}}}"#,
        #"has the header value "nan", a number that RabbitMQ cannot carry"#
      ),
      (#"{"body":1,"properties":{"headers":3}}"#, "has 'headers' that are not an object"),
    ])
  func refusals(_ text: String, _ reason: String) throws {
    do {
      _ = try Envelope.read(JSONValue(parsing: text.utf8))
      Issue.record("was accepted")
    } catch { #expect((error as? EnvelopeError)?.reason == reason) }
  }
}
