/// Percent-encoding (RFC 3986, section 2.1).
package enum Percent {
  /// Encodes everything but unreserved characters.
  package static func encode(_ text: some StringProtocol) -> String {
    encode(bytes: Array(text.utf8))
  }

  /// Encodes bytes that need not be text.
  package static func encode(bytes: [UInt8]) -> String {
    encode(bytes) { isUnreserved($1) }
  }

  /// Encodes everything but unreserved and reserved characters and what is encoded already (RFC 6570, section 3.2.3).
  package static func encode(reserved text: some StringProtocol) -> String {
    encode(Array(text.utf8)) { rest, byte in
      isUnreserved(byte) || ":/?#[]@!$&'()*+,;=".utf8.contains(byte)
        || byte == UInt8(ascii: "%") && rest.count > 2 && rest.dropFirst().prefix(2).allSatisfy { hexDigit($0) != nil }
    }
  }

  private static func encode(
    _ bytes: [UInt8], _ staysAsItIs: (ArraySlice<UInt8>, UInt8) -> Bool
  ) -> String {
    var output: [UInt8] = []
    for (index, byte) in bytes.enumerated() {
      if staysAsItIs(bytes[index...], byte) {
        output.append(byte)
      } else {
        output += [UInt8(ascii: "%"), hex(byte >> 4), hex(byte & 15)]
      }
    }
    return String(decoding: output, as: UTF8.self)
  }

  /// Decodes every `%XX`; nil where a `%` is not followed by two hexadecimal digits or the bytes are not UTF-8.
  package static func decode(_ text: some StringProtocol) -> String? {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard let high = rest.popFirst().flatMap(hexDigit), let low = rest.popFirst().flatMap(hexDigit) else {
        return nil
      }
      bytes.append(high << 4 | low)
    }
    return String(validating: bytes, as: UTF8.self)
  }

  /// The bytes with every `%XX` decoded; a `%` without two hexadecimal digits stays.
  static func decodedOnce(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
    var decoded: [UInt8] = []
    var rest = bytes
    while let byte = rest.popFirst() {
      let digits = rest.prefix(2).compactMap(hexDigit)
      if byte == UInt8(ascii: "%"), digits.count == 2 {
        decoded.append(digits[0] << 4 | digits[1])
        rest = rest.dropFirst(2)
      } else {
        decoded.append(byte)
      }
    }
    return decoded
  }

  private static func isUnreserved(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"):
      true
    default: false
    }
  }

  private static func hex(_ digit: UInt8) -> UInt8 {
    digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "A") + digit - 10
  }
}
