import CRabbitMQ
import Glibc

/// Text of AMQP as a `String` that keeps its bytes.
///
/// Names and properties should be UTF-8, but no broker checks it. A byte 0x80 to 0xFF that is not part of UTF-8 becomes a
/// character of a private range, U+10FE80 to U+10FEFF, and that byte again when the text is sent. Characters of this range in
/// the text itself are written byte by byte in the same way, so that two different texts never become the same.
package enum AMQPText {
  private static let base: UInt32 = 0x10FE00

  /// Reads text from a broker.
  package static func text(_ bytes: UnsafeRawBufferPointer) -> String {
    // Nearly all of it is ASCII, which needs no look at each character.
    if bytes.allSatisfy({ $0 < 0x80 }) { return String(decoding: bytes, as: UTF8.self) }
    if !mayHoldEscape(bytes), let text = String(validating: bytes, as: UTF8.self) { return text }
    var text = String.UnicodeScalarView()
    func escape(_ bytes: Slice<UnsafeRawBufferPointer>) {
      for byte in bytes {
        // An ASCII byte may stand after the first bytes of a character that it cuts off.
        Unicode.Scalar(byte < 0x80 ? UInt32(byte) : base + UInt32(byte)).map { text.append($0) }
      }
    }
    var parser = Unicode.UTF8.ForwardParser()
    var rest = bytes.makeIterator()
    var place = 0
    while true {
      switch parser.parseScalar(from: &rest) {
      case .valid(let encoded):
        let scalar = Unicode.UTF8.decode(encoded)
        if isEscape(scalar) { escape(bytes[place..<(place + encoded.count)]) } else { text.append(scalar) }
        place += encoded.count
      case .error(let length):
        escape(bytes[place..<(place + length)])
        place += length
      case .emptyInput: return String(text)
      }
    }
  }

  /// The bytes that a text stands for, where they are not those of its UTF-8; nil where they are.
  package static func bytes(_ text: String) -> [UInt8]? {
    var text = text
    guard text.withUTF8({ mayHoldEscape(UnsafeRawBufferPointer($0)) }), text.unicodeScalars.contains(where: isEscape)
    else { return nil }
    return text.unicodeScalars.flatMap { scalar in
      isEscape(scalar) ? [UInt8(truncatingIfNeeded: scalar.value)] : Array(String(scalar).utf8)
    }
  }

  /// How many bytes a text has on the wire.
  static func count(_ text: String) -> Int { bytes(text)?.count ?? text.utf8.count }

  private static func isEscape(_ scalar: Unicode.Scalar) -> Bool {
    scalar.value >= base + 0x80 && scalar.value <= base + 0xFF
  }

  /// The characters of the private range begin with this byte, as few others do.
  private static func mayHoldEscape(_ bytes: UnsafeRawBufferPointer) -> Bool {
    bytes.baseAddress.map { memchr($0, 0xF4, bytes.count) != nil } ?? false
  }
}

extension String {
  init(_ bytes: amqp_bytes_t) {
    self = AMQPText.text(UnsafeRawBufferPointer(start: bytes.bytes, count: bytes.len))
  }
}
