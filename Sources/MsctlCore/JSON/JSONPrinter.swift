/// Lays a value out for people: two spaces a level, and colours where a terminal shows them.
///
/// Control characters never reach the terminal: JSON allows none in strings but U+007F to U+009F, written as escapes here.
public struct JSONPrinter: Sendable {
  /// ANSI escape sequences (ECMA-48, select graphic rendition).
  private enum Colour {
    static let name = "\u{1B}[34;1m"
    static let string = "\u{1B}[32m"
    static let scalar = "\u{1B}[36m"
    static let off = "\u{1B}[0m"
  }

  private let colours: Bool

  public init(colours: Bool) {
    self.colours = colours
  }

  public func indented(_ value: JSONValue) -> [UInt8] {
    var output: [UInt8] = []
    write(value, level: 0, to: &output)
    return output
  }

  private func write(_ value: JSONValue, level: Int, to output: inout [UInt8]) {
    switch value.kind {
    case .object:
      var isFirst = true
      value.forEachRawMember { key, member in
        output += (isFirst ? "{\n" : ",\n").utf8
        isFirst = false
        indent(level + 1, &output)
        paint(key, Colour.name, &output)
        output += ": ".utf8
        write(member, level: level + 1, to: &output)
      }
      end(isFirst, "{}", "}", level, &output)
    case .array:
      var isFirst = true
      for element in value.elements {
        output += (isFirst ? "[\n" : ",\n").utf8
        isFirst = false
        indent(level + 1, &output)
        write(element, level: level + 1, to: &output)
      }
      end(isFirst, "[]", "]", level, &output)
    case .string:
      paint(value, Colour.string, &output)
    case .number, .bool, .null:
      paint(value, Colour.scalar, &output)
    }
  }

  private func end(_ isEmpty: Bool, _ whole: String, _ close: String, _ level: Int, _ output: inout [UInt8]) {
    if isEmpty {
      output += whole.utf8
    } else {
      output.append(0x0A)
      indent(level, &output)
      output += close.utf8
    }
  }

  private func indent(_ level: Int, _ output: inout [UInt8]) {
    output += repeatElement(0x20, count: 2 * level)
  }

  private func paint(_ value: JSONValue, _ colour: String, _ output: inout [UInt8]) {
    if colours { output += colour.utf8 }
    for scalar in value.description.unicodeScalars {
      if (0x7F...0x9F).contains(scalar.value) {
        output += "\\u00\(String(scalar.value, radix: 16))".utf8
      } else {
        output += String(scalar).utf8
      }
    }
    if colours { output += Colour.off.utf8 }
  }
}
