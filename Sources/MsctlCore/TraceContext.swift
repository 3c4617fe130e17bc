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

  /// The context that a message belongs to: its own, or else that of the environment.
  package init(of message: AMQPMessage, environment: [String: String]) {
    if case .string(let text) = message.properties.header("traceparent"), let own = TraceContext(text) {
      self = own
    } else {
      self.init(environment: environment)
    }
  }

  /// The same trace with a new step: what each request and message carries on.
  public func child() -> TraceContext {
    TraceContext(traceID: traceID, parentID: randomHex(bytes: 8), flags: flags)
  }

  /// The value of the header.
  public var traceparent: String { "00-\(traceID)-\(parentID)-\(flags)" }
}

private func isHex(_ text: String, _ count: Int) -> Bool {
  text.utf8.count == count && text.utf8.allSatisfy { hexDigit($0) != nil && !(0x41...0x46).contains($0) }
}
