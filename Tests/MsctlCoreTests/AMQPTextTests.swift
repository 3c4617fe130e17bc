import MsctlCore
import Testing

@Suite("Text of AMQP")
struct AMQPTextTests {
  private func text(_ bytes: [UInt8]) -> String { bytes.withUnsafeBytes { AMQPText.text($0) } }
  private func bytes(_ text: String) -> [UInt8] { AMQPText.bytes(text) ?? Array(text.utf8) }

  @Test("keeps its bytes, whatever they are, and two texts never become the same")
  func roundTrip() {
    var numbers = SystemRandomNumberGenerator()
    // Bytes that begin, continue and cut off characters, and those of the private range itself.
    let pieces: [[UInt8]] = [
      [0x61], [0xFF], [0xFE], [0x80], [0xC3], [0xC3, 0xA9], [0xE2, 0x82], [0xF4], [0xF4, 0x8F, 0xBA, 0x80],
      [0xF4, 0x8F, 0xBB, 0xBF], [0xF4, 0x8F, 0xBB], [0xED, 0xA0, 0x80], [0x00], [0xCC, 0x81],
    ]
    var seen: [[UInt8]: String] = [:]
    for _ in 0..<20_000 {
      let raw = (0..<Int.random(in: 0...6, using: &numbers)).flatMap { _ in pieces.randomElement(using: &numbers) ?? []
      }
      let text = text(raw)
      #expect(bytes(text) == raw, "\(raw)")
      seen[raw] = text
    }
    #expect(Set(seen.values.map { Array($0.utf8) }).count == seen.count)
  }

  @Test("is the text itself where it is UTF-8")
  func plain() {
    for plain in ["", "orders", "é", "😀", "\u{10FFFF}"] { #expect(text(Array(plain.utf8)) == plain) }
    #expect(text([0xFF, 0x61]) == "\u{10FEFF}a")
  }

  @Test(
    "a header value keeps its type in an envelope",
    arguments: [
      (AMQPValue.narrow(.int32, 7), "7"), (.integer(7), #"{"$int64":7}"#), (.integer(1 << 40), "1099511627776"),
      (.narrow(.uint8, 255), #"{"$uint8":255}"#), (.narrow(.int8, -128), #"{"$int8":-128}"#),
      (.narrow(.uint32, 4_294_967_295), #"{"$uint32":4294967295}"#),
      (.unsigned(.max), #"{"$uint64":18446744073709551615}"#),
      (.float(1.1), #"{"$float32":1.1}"#), (.double(1.1), "1.1"), (.string("\u{10FEFF}"), #"{"$string":"/w=="}"#),
    ])
  func types(_ value: AMQPValue, _ json: String) throws {
    var properties = AMQPProperties()
    properties.headers = [AMQPField("h", value), AMQPField("x-delivery-count", .integer(3))]
    let message = AMQPMessage(body: [], properties: properties, exchange: "", routingKey: "q")
    let envelope = Envelope.write(message, redelivered: false)
    let headers = try #require(envelope["properties"]?["headers"])
    #expect(headers["h"]?.description == json)
    // The broker's own is shown, as a number, and not taken back.
    #expect(headers["x-delivery-count"]?.description == "3")
    #expect(try Envelope.read(envelope).message.properties.headers == [AMQPField("h", value)])
  }

  @Test(
    "a number that its type cannot hold is refused",
    arguments: [#"{"$uint8":256}"#, #"{"$int8":-129}"#, #"{"$uint32":-1}"#, #"{"$int64":"1"}"#, #"{"$float32":1e99}"#])
  func refused(_ json: String) {
    #expect(throws: EnvelopeError.self) {
      try Envelope.read(
        JSONValue(parsing: (#"{"body":1,"properties":{"headers":{"h":"# + json + "}}}").utf8))
    }
  }

  @Test("of headers with one name, the first counts")
  func doubled() {
    var properties = AMQPProperties()
    properties.headers = [AMQPField("x-delivery-count", .integer(1)), AMQPField("x-delivery-count", .integer(.max))]
    #expect(properties.header("x-delivery-count")?.wholeNumber == 1)
  }
}

@Suite("What a broker says of itself")
struct AMQPErrorTests {
  @Test("a stream that has no replica yet is tried again, and is not a matter of arguments or of one message")
  func startingStream() {
    let words = "PRECONDITION_FAILED - stream queue 's' in vhost '/' does not have a running replica on the local node"
    let error = AMQPError(kind: .channelClosed(code: 406), reason: words)
    #expect(error.isTransient && !error.isAboutOneMessage && error.failure(AMQPURI()).code == .unreachable)
    let other = AMQPError(
      kind: .channelClosed(code: 406), reason: "PRECONDITION_FAILED - inequivalent arg 'x-queue-type'")
    #expect(!other.isTransient && other.failure(AMQPURI()).code == .failed)
  }
}
