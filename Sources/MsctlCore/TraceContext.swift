/// A W3C trace context: which trace a request belongs to, and which step of it asked (W3C Trace Context, section 3.2).
public struct TraceContext: Sendable, Equatable {
  /// 32 hexadecimal digits.
  public let traceID: String
  /// 16 hexadecimal digits.
  public let parentID: String
  /// Two hexadecimal digits; the lowest bit says that the trace is recorded.
  public let flags: String

  /// A new trace.
  public init() {
    traceID = randomHex(bytes: 16)
    parentID = randomHex(bytes: 8)
    flags = "01"
  }

  private init(traceID: String, parentID: String, flags: String) {
    self.traceID = traceID
    self.parentID = parentID
    self.flags = flags
  }

  /// Reads a `traceparent`; nil where it is not valid. Later versions may have more fields, which are left out.
  public init?(_ traceparent: String) {
    let fields = traceparent.parts(between: "-").map(String.init)
    guard fields.count >= 4, fields[0] != "ff", fields[0] != "00" || fields.count == 4,
      isHex(fields[0], 2), isHex(fields[1], 32), isHex(fields[2], 16), isHex(fields[3], 2),
      fields[1].utf8.contains(where: { $0 != UInt8(ascii: "0") }),
      fields[2].utf8.contains(where: { $0 != UInt8(ascii: "0") })
    else { return nil }
    self.init(traceID: fields[1], parentID: fields[2], flags: fields[3])
  }

  /// The context that `TRACEPARENT` names, or a new trace.
  public init(environment: [String: String]) {
    self = environment["TRACEPARENT"].flatMap { TraceContext($0) } ?? TraceContext()
  }

  /// The same trace with a new step: what each request and message carries on.
  public func child() -> TraceContext {
    TraceContext(traceID: traceID, parentID: randomHex(bytes: 8), flags: flags)
  }

  public var traceparent: String { "00-\(traceID)-\(parentID)-\(flags)" }
}

/// A random UUID (RFC 9562, version 4) in its usual form.
package func randomUUID() -> String {
  var hex = Array(randomHex(bytes: 16).utf8)
  hex[12] = UInt8(ascii: "4")
  hex[16] = Array("89ab".utf8)[Int.random(in: 0..<4)]
  for place in [20, 16, 12, 8] { hex.insert(UInt8(ascii: "-"), at: place) }
  return String(decoding: hex, as: UTF8.self)
}

private func randomHex(bytes: Int) -> String {
  let digits = Array("0123456789abcdef".utf8)
  var generator = SystemRandomNumberGenerator()
  var word: UInt64 = 0
  let text = (0..<(2 * bytes)).map { place in
    if place % 16 == 0 { word = generator.next() }
    defer { word >>= 4 }
    return digits[Int(clamping: word & 15)]
  }
  return String(decoding: text, as: UTF8.self)
}

private func isHex(_ text: String, _ count: Int) -> Bool {
  text.utf8.count == count && text.utf8.allSatisfy { hexDigit($0) != nil && !(0x41...0x46).contains($0) }
}
