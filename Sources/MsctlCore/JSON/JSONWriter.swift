/// Writes one JSON value, piece by piece, without white space.
public struct JSONWriter: Sendable {
  /// What was written.
  public private(set) var bytes: [UInt8] = []

  /// - Parameter capacity: the size, in bytes, that is written without another allocation.
  public init(capacity: Int = 0) {
    bytes.reserveCapacity(capacity)
  }

  /// What has been written, which must be one whole value.
  public var value: JSONValue { JSONValue(trusted: bytes[...]) }

  /// Writes an object.
  public mutating func object<E: Error>(_ members: (inout JSONWriter) throws(E) -> Void) throws(E) {
    separate()
    bytes.append(UInt8(ascii: "{"))
    try members(&self)
    bytes.append(UInt8(ascii: "}"))
  }

  /// Writes an array.
  public mutating func array<E: Error>(_ elements: (inout JSONWriter) throws(E) -> Void) throws(E) {
    separate()
    bytes.append(UInt8(ascii: "["))
    try elements(&self)
    bytes.append(UInt8(ascii: "]"))
  }

  /// A name; its value must follow.
  public mutating func key(_ name: String) {
    string(name)
    bytes.append(UInt8(ascii: ":"))
  }

  /// Writes a string.
  public mutating func string(_ string: String) {
    separate()
    bytes.append(UInt8(ascii: "\""))
    var string = string
    string.withUTF8 { text in
      var start = 0
      while start < text.count {
        let end = endOfPlainText(text, from: start)
        bytes.append(contentsOf: UnsafeBufferPointer(rebasing: text[start..<end]))
        if end < text.count { escape(text[end]) }
        start = end + 1
      }
    }
    bytes.append(UInt8(ascii: "\""))
  }

  private mutating func escape(_ byte: UInt8) {
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
    case 0x0A: bytes += Array("\\n".utf8)
    case 0x0D: bytes += Array("\\r".utf8)
    case 0x09: bytes += Array("\\t".utf8)
    case 0x00..<0x20: bytes += Array((byte < 0x10 ? "\\u000" : "\\u00").utf8) + Array(String(byte, radix: 16).utf8)
    default: bytes.append(byte)
    }
  }

  /// Writes a value as it is.
  public mutating func raw(_ value: JSONValue) {
    separate()
    value.append(to: &bytes)
  }

  /// Writes a whole number.
  public mutating func integer(_ number: some BinaryInteger) {
    self.number(String(number))
  }

  /// A number that is written already.
  mutating func number(_ text: String) {
    separate()
    bytes += text.utf8
  }

  /// A time in seconds, to the microsecond.
  public mutating func seconds(_ seconds: Double) {
    number(String((seconds * 1e6).rounded() / 1e6))
  }

  /// Writes `true` or `false`.
  public mutating func bool(_ flag: Bool) {
    separate()
    bytes += (flag ? "true" : "false").utf8
  }

  /// Writes a member of an object.
  public mutating func field(_ name: String, _ string: String) {
    key(name)
    self.string(string)
  }

  /// Writes a member of an object.
  public mutating func field(_ name: String, _ number: some BinaryInteger) {
    key(name)
    integer(number)
  }

  /// Writes a member of an object.
  public mutating func field(_ name: String, _ flag: Bool) {
    key(name)
    bool(flag)
  }

  /// Writes a member of an object.
  public mutating func field(_ name: String, _ value: JSONValue) {
    key(name)
    raw(value)
  }

  /// Writes a member of an object.
  public mutating func field(_ name: String, _ strings: [String]) {
    key(name)
    array { list in strings.forEach { list.string($0) } }
  }

  /// Writes a member of an object.
  public mutating func field(_ name: String, _ strings: [(name: String, value: String)]) {
    key(name)
    object { object in strings.forEach { object.field($0.name, $0.value) } }
  }

  /// A comma is due unless what was written last opens something; no value ends in one of these bytes.
  private mutating func separate() {
    switch bytes.last {
    case nil, UInt8(ascii: "{"), UInt8(ascii: "["), UInt8(ascii: ":"): break
    default: bytes.append(UInt8(ascii: ","))
    }
  }
}
