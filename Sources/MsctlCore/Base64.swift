/// Base64 with padding (RFC 4648, section 4).
package enum Base64 {
  private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

  package static func encode(_ bytes: some Collection<UInt8>) -> String {
    var output: [UInt8] = []
    output.reserveCapacity((bytes.count + 2) / 3 * 4)
    var rest = bytes[...]
    while !rest.isEmpty {
      let group = Array(rest.prefix(3))
      rest = rest.dropFirst(3)
      let bits = group.enumerated().reduce(UInt32(0)) { $0 | UInt32(clamping: $1.element) << (16 - 8 * $1.offset) }
      for position in 0..<4 {
        output.append(
          position <= group.count
            ? alphabet[Int(truncatingIfNeeded: bits >> (18 - 6 * position) & 63)] : UInt8(ascii: "="))
      }
    }
    return String(decoding: output, as: UTF8.self)
  }

  /// Nil where the text is not base64, or is not padded.
  package static func decode(_ text: String) -> [UInt8]? {
    let characters = Array(text.utf8)
    guard characters.count % 4 == 0 else { return nil }
    let padding = characters.suffix(2).count { $0 == UInt8(ascii: "=") }
    var output: [UInt8] = []
    var bits: UInt32 = 0
    for (index, character) in characters.enumerated() {
      let isPadding = index >= characters.count - padding
      guard let digit = isPadding ? (character == UInt8(ascii: "=") ? 0 : nil) : digit(character) else { return nil }
      bits = bits << 6 | UInt32(truncatingIfNeeded: digit)
      if index % 4 == 3 {
        output += [
          UInt8(truncatingIfNeeded: bits >> 16 & 255), UInt8(truncatingIfNeeded: bits >> 8 & 255),
          UInt8(truncatingIfNeeded: bits & 255),
        ]
        bits = 0
      }
    }
    return output.dropLast(padding)
  }

  private static func digit(_ character: UInt8) -> UInt8? {
    switch character {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"): character - UInt8(ascii: "A")
    case UInt8(ascii: "a")...UInt8(ascii: "z"): character - UInt8(ascii: "a") + 26
    case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0") + 52
    case UInt8(ascii: "+"): 62
    case UInt8(ascii: "/"): 63
    default: nil
    }
  }
}
