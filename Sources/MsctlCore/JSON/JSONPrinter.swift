/// Lays a value out for people: two spaces a level, and colours where a terminal shows them.
///
/// Control characters never reach the terminal: JSON allows none in strings but U+007F to U+009F, written as escapes here.
/// The text is read once, without recursion, and an indentation has a limit, so that what is written is bounded by what is
/// read, however deep it is nested.
package struct JSONPrinter: Sendable {
  /// ANSI escape sequences (ECMA-48, select graphic rendition).
  private enum Colour {
    static let name = Array("\u{1B}[34;1m".utf8)
    static let string = Array("\u{1B}[32m".utf8)
    static let scalar = Array("\u{1B}[36m".utf8)
    static let off = Array("\u{1B}[0m".utf8)
  }

  /// Levels beyond this are indented as far as this one.
  private static let deepest = 32
  private static let indentation = [UInt8](repeating: 0x20, count: 2 * deepest)

  private let colours: Bool

  package init(colours: Bool) {
    self.colours = colours
  }

  package func indented(_ value: JSONValue) -> [UInt8] {
    value.text.withUnsafeBufferPointer { indented($0) }
  }

  /// The text of a value, or of many lines of values, with U+007F to U+009F as escapes: the same JSON, which a terminal only
  /// shows.
  package static func visible(_ text: some Collection<UInt8>) -> [UInt8] {
    var output: [UInt8] = []
    Array(text).withUnsafeBufferPointer { escape($0, 0..<$0.count, to: &output) }
    return output
  }

  private func indented(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8] {
    var output: [UInt8] = []
    /// The kind of each container that is open.
    var isObject: [Bool] = []
    /// Whether the next string is the name of a member.
    var isName = false
    var index = 0
    while index < text.count {
      switch text[index] {
      case UInt8(ascii: "{"), UInt8(ascii: "["):
        let opens = text[index]
        output.append(opens)
        index += 1
        skipWhiteSpace(text, &index)
        if index < text.count, text[index] == UInt8(ascii: "}") || text[index] == UInt8(ascii: "]") {
          output.append(text[index])
          index += 1
          isName = false
        } else {
          isObject.append(opens == UInt8(ascii: "{"))
          isName = opens == UInt8(ascii: "{")
          startLine(isObject.count, &output)
        }
      case UInt8(ascii: "}"), UInt8(ascii: "]"):
        _ = isObject.popLast()
        startLine(isObject.count, &output)
        output.append(text[index])
        index += 1
        isName = false
      case UInt8(ascii: ","):
        output.append(UInt8(ascii: ","))
        startLine(isObject.count, &output)
        isName = isObject.last ?? false
        index += 1
      case UInt8(ascii: ":"):
        output += ": ".utf8
        isName = false
        index += 1
      case UInt8(ascii: "\""):
        let end = endOfString(text, from: index)
        paint(text, index..<end, isName ? Colour.name : Colour.string, &output)
        index = end
      case 0x20, 0x0A, 0x0D, 0x09:
        index += 1
      default:
        var end = index + 1
        while end < text.count, !",]} \n\r\t".utf8.contains(text[end]) { end += 1 }
        paint(text, index..<end, Colour.scalar, &output)
        index = end
      }
    }
    return output
  }

  private func skipWhiteSpace(_ text: UnsafeBufferPointer<UInt8>, _ index: inout Int) {
    while index < text.count, isWhiteSpace(text[index]) { index += 1 }
  }

  private func startLine(_ level: Int, _ output: inout [UInt8]) {
    output.append(0x0A)
    output += Self.indentation[..<(2 * min(level, Self.deepest))]
  }

  private func paint(
    _ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>, _ colour: [UInt8], _ output: inout [UInt8]
  ) {
    if colours { output += colour }
    Self.escape(text, range, to: &output)
    if colours { output += Colour.off }
  }

  /// Copies bytes; U+007F to U+009F become `\u00XX`.
  private static func escape(_ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>, to output: inout [UInt8]) {
    var start = range.lowerBound
    for index in range {
      let isDelete = text[index] == 0x7F
      let isC1 = text[index] == 0xC2 && index + 1 < range.upperBound && text[index + 1] < 0xA0
      guard isDelete || isC1 else { continue }
      output += UnsafeBufferPointer(rebasing: text[start..<index])
      output += "\\u00\(String(isDelete ? 0x7F : text[index + 1], radix: 16))".utf8
      start = index + (isDelete ? 1 : 2)
    }
    if start < range.upperBound { output += UnsafeBufferPointer(rebasing: text[start..<range.upperBound]) }
  }
}
