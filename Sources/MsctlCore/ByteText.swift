/// Text from outside, read as bytes.
///
/// Swift compares strings by grapheme clusters and canonical equivalence: `"'\u{301}"` does not contain `"'"`, and U+037E
/// equals `";"`. What is syntax is therefore looked for among the bytes of UTF-8, in which an ASCII byte is never a part of
/// another character.
extension StringProtocol {
  /// Whether the bytes begin with those of `prefix`.
  package func begins(with prefix: some StringProtocol) -> Bool { utf8.starts(with: prefix.utf8) }

  /// Whether the bytes end with those of `suffix`.
  package func ends(with suffix: some StringProtocol) -> Bool { utf8.reversed().starts(with: suffix.utf8.reversed()) }

  /// Whether both are the same bytes.
  package func isSame(as other: some StringProtocol) -> Bool { utf8.elementsEqual(other.utf8) }

  /// Whether the ASCII character occurs.
  package func holds(_ scalar: Unicode.Scalar) -> Bool { utf8.contains(UInt8(ascii: scalar)) }

  /// Whether the bytes of `other`, which are not empty, occur.
  package func holds(text other: String) -> Bool {
    var rest = utf8[...]
    guard let first = other.utf8.first else { return true }
    while let place = rest.firstIndex(of: first) {
      rest = rest[place...]
      if rest.starts(with: other.utf8) { return true }
      rest = rest.dropFirst()
    }
    return false
  }

  /// The parts before and after the first of these ASCII characters; nil where there is none.
  package func cut(at scalar: Unicode.Scalar) -> (before: SubSequence, after: SubSequence)? {
    guard let place = utf8.firstIndex(of: UInt8(ascii: scalar)) else { return nil }
    return (self[..<place], self[utf8.index(after: place)...])
  }

  /// The parts before and after the last of these ASCII characters; nil where there is none.
  package func cut(atLast scalar: Unicode.Scalar) -> (before: SubSequence, after: SubSequence)? {
    var place: Index?
    for index in utf8.indices where utf8[index] == UInt8(ascii: scalar) { place = index }
    return place.map { (self[..<$0], self[utf8.index(after: $0)...]) }
  }

  /// The parts between the ASCII characters, empty ones too.
  package func parts(between scalar: Unicode.Scalar) -> [SubSequence] {
    var parts: [SubSequence] = []
    var rest = self[startIndex...]
    while let (before, after) = rest.cut(at: scalar) {
      parts.append(self[before.startIndex..<before.endIndex])
      rest = self[after.startIndex...]
    }
    return parts + [self[rest.startIndex...]]
  }

  /// What follows the bytes of `prefix`; nil where it does not begin with them.
  package func rest(after prefix: String) -> SubSequence? {
    guard begins(with: prefix) else { return nil }
    return self[utf8.dropFirst(prefix.utf8.count).startIndex...]
  }

  /// With A to Z in lower case and all else unchanged, as protocols compare names (RFC 9110, section 5.1).
  package var lowercasedASCII: String {
    var text = String(self)
    return text.withUTF8 { bytes in
      String(unsafeUninitializedCapacity: bytes.count) { copy in
        for place in 0..<bytes.count {
          let byte = bytes[place]
          copy.initializeElement(at: place, to: byte >= 0x41 && byte <= 0x5A ? byte | 0x20 : byte)
        }
        return bytes.count
      }
    }
  }
}

/// A text from outside as a key of a dictionary or a member of a set. Keys are the same only if their bytes are, while Swift
/// takes "K" and U+212A for the same String.
package struct ByteKey: Hashable, Comparable, Sendable {
  package let text: String

  package init(_ text: String) { self.text = text }

  package static func == (a: ByteKey, b: ByteKey) -> Bool { a.text.isSame(as: b.text) }

  package static func < (a: ByteKey, b: ByteKey) -> Bool { a.text.utf8.lexicographicallyPrecedes(b.text.utf8) }

  package func hash(into hasher: inout Hasher) {
    var text = text
    text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
  }
}
