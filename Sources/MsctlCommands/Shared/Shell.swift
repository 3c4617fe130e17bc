/// Bytes as words of a POSIX shell: sh, bash, dash and zsh read back the same bytes.
///
/// What is written holds no control character but line feed, so that it can be shown on a terminal and pasted from it.
enum Shell {
  static func quoted(_ text: String) -> String { quoted(Array(text.utf8)) }

  /// One word. It cannot hold NUL, as no argument of a command can.
  static func quoted(_ bytes: [UInt8]) -> String {
    if !bytes.isEmpty, bytes.allSatisfy(isPlain) { return String(decoding: bytes, as: UTF8.self) }
    var word: [UInt8] = []
    /// Between single quotes everything but a single quote stands for itself.
    var literal: [UInt8] = []
    /// Control characters, and bytes that are not UTF-8. No line feed is among them: `$(...)` would drop it at the end.
    var escapes: [UInt8] = []
    func endLiteral() {
      if !literal.isEmpty { word += Array("'".utf8) + literal + Array("'".utf8) }
      literal = []
    }
    func endEscapes() {
      if !escapes.isEmpty { word += Array("\"$(printf '".utf8) + escapes + Array("')\"".utf8) }
      escapes = []
    }
    var rest = bytes[...]
    while let byte = rest.first {
      let length = visibleLength(rest)
      if byte == UInt8(ascii: "'") {
        endLiteral()
        endEscapes()
        word += "\\'".utf8
      } else if byte == 0x0A || length > 0 {
        endEscapes()
        literal += rest.prefix(max(1, length))
      } else {
        endLiteral()
        escapes += octal(byte)
      }
      rest = rest.dropFirst(max(1, length))
    }
    endLiteral()
    endEscapes()
    return word.isEmpty ? "''" : String(decoding: word, as: UTF8.self)
  }

  /// A command that writes the bytes, NUL included, to its standard output.
  static func printing(_ bytes: [UInt8]) -> String {
    var format: [UInt8] = []
    for byte in bytes {
      switch byte {
      case UInt8(ascii: "%"): format += "%%".utf8
      case UInt8(ascii: "'"), UInt8(ascii: "\\"), 0..<0x20, 0x7F...: format += octal(byte)
      // A dash at the beginning would be an option.
      case UInt8(ascii: "-") where format.isEmpty: format += octal(byte)
      default: format.append(byte)
      }
    }
    return "printf '" + String(decoding: format, as: UTF8.self) + "'"
  }

  private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: "-_./:@%+,".utf8.contains(byte)
    }
  }

  private static func octal(_ byte: UInt8) -> [UInt8] {
    [UInt8(ascii: "\\")] + [byte >> 6, byte >> 3 & 7, byte & 7].map { UInt8(ascii: "0") + $0 }
  }

  /// How many bytes the character takes that the bytes begin with; 0 where it is a control character or not UTF-8.
  private static func visibleLength(_ bytes: ArraySlice<UInt8>) -> Int {
    guard let first = bytes.first else { return 0 }
    if first < 0x80 { return first < 0x20 || first == 0x7F ? 0 : 1 }
    let length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2
    guard let scalar = String(validating: bytes.prefix(length), as: UTF8.self)?.unicodeScalars.first else { return 0 }
    return scalar.value < 0xA0 ? 0 : length
  }
}
