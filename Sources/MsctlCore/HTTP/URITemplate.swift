/// Why a text is no URI template, or a value does not fill it.
package struct TemplateError: Error, Equatable {
  package let reason: String
}

/// A URI template of level 1 to 3 (RFC 6570), read as bytes.
package struct URITemplate: Sendable, Equatable {
  /// What an operator does (RFC 6570, appendix A).
  private struct Operator: Sendable, Equatable {
    let first: String
    let separator: String
    /// Each value follows its name: `?x=1`.
    let isNamed: Bool
    /// What stands for a name with an empty value.
    let ifEmpty: String
    /// Reserved characters stay as they are.
    let allowsReserved: Bool
  }

  private enum Part: Sendable, Equatable {
    case literal(String)
    case expression(Operator, names: [String])
  }

  private let parts: [Part]

  package init(_ text: String) throws(TemplateError) {
    var parts: [Part] = []
    var rest = text[...]
    while let start = rest.utf8.firstIndex(where: { $0 == UInt8(ascii: "{") || $0 == UInt8(ascii: "}") }) {
      guard let inner = rest[start...].rest(after: "{"), let (expression, after) = inner.cut(at: "}") else {
        throw TemplateError(reason: "has unmatched braces")
      }
      parts.append(.literal(String(rest[..<start])))
      parts.append(try Self.expression(expression))
      rest = after
    }
    parts.append(.literal(String(rest)))
    self.parts = parts
  }

  /// What stands before the first placeholder.
  package var head: String {
    guard case .literal(let text)? = parts.first else { return "" }
    return text
  }

  /// The names of all variables.
  package var names: [String] {
    parts.flatMap { part -> [String] in
      if case .expression(_, let names) = part { names } else { [] }
    }
  }

  /// Fills the variables with the fields of a value.
  package func expanded(with value: JSONValue) throws(TemplateError) -> String {
    try expanded { (name) throws(TemplateError) in
      guard let field = value[name] ?? Self.nested(value, name), field.kind != .null else {
        throw TemplateError(reason: "has no field '\(name)'")
      }
      switch field.kind {
      case .string: return field.string ?? ""
      case .number, .bool: return field.description
      case .array, .object, .null:
        throw TemplateError(reason: "has a field '\(name)' that is not a string, number or boolean")
      }
    }
  }

  /// Fills the variables with what `text` gives for their names.
  /// - Throws: also where that would climb in the path.
  package func expanded(_ text: (String) throws(TemplateError) -> String) throws(TemplateError) -> String {
    var result: [UInt8] = []
    /// The places that a value fills, also where it is empty.
    var filled: [(range: Range<Int>, name: String)] = []
    for part in parts {
      switch part {
      case .literal(let literal): result += literal.utf8
      case .expression(let rule, let names):
        for (index, name) in names.enumerated() {
          let value = try text(name)
          let encoded = rule.allowsReserved ? Percent.encode(reserved: value) : Percent.encode(value)
          result += (index == 0 ? rule.first : rule.separator).utf8
          let start = result.count
          result += (rule.isNamed ? name + (value.isEmpty ? rule.ifEmpty : "=" + encoded) : encoded).utf8
          filled.append((start..<result.count, name))
        }
      }
    }
    try Self.checkPath(result, filled)
    return String(decoding: result, as: UTF8.self)
  }

  // MARK: Dot segments

  /// Refuses a segment of the path that a value leaves empty or makes `.` or `..`, however a server may decode it: the request
  /// would go elsewhere than the template says (RFC 3986, section 5.2.4).
  private static func checkPath(
    _ target: [UInt8], _ filled: [(range: Range<Int>, name: String)]
  ) throws(TemplateError) {
    var start = 0
    if let colon = target.firstIndex(of: UInt8(ascii: ":")), target[colon...].starts(with: "://".utf8) {
      start = colon + 3
    }
    let end = target[start...].firstIndex { $0 == UInt8(ascii: "?") || $0 == UInt8(ascii: "#") } ?? target.count
    // Before the first slash stands a host or a service.
    guard var slash = target[start..<end].firstIndex(of: UInt8(ascii: "/")) else { return }
    while slash < end {
      let next = target[(slash + 1)..<end].firstIndex(of: UInt8(ascii: "/")) ?? end
      let segment = (slash + 1)..<next
      let name = filled.first { $0.range.lowerBound <= segment.upperBound && $0.range.upperBound >= segment.lowerBound }
      if let name = name?.name {
        guard !isClimbing(target[segment]) else {
          throw TemplateError(reason: "has a field '\(name)' that makes a segment '.' or '..' of the path")
        }
        // `DELETE users/` may mean all of them. A value with slashes of its own may end in one.
        guard !segment.isEmpty || !filled.contains(where: { $0.range == segment }) else {
          throw TemplateError(reason: "has a field '\(name)' that leaves a segment of the path empty")
        }
      }
      slash = next
    }
  }

  private static func isClimbing(_ segment: ArraySlice<UInt8>) -> Bool {
    // Most have no dot, not even an encoded one.
    guard segment.contains(where: { $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "%") }) else { return false }
    var segment = segment
    // Servers behind servers decode more than once, but none for ever.
    for _ in 0..<8 {
      let pieces = segment.split { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "\\") }
      // What follows a semicolon is a parameter for some, and not a part of the segment.
      let names = pieces.map { $0.prefix { $0 != UInt8(ascii: ";") && $0 != 0 } }
      if names.contains(where: { $0.elementsEqual(".".utf8) || $0.elementsEqual("..".utf8) }) { return true }
      let decoded = Percent.decodedOnce(segment)
      if decoded.count == segment.count { return false }
      segment = decoded[...]
    }
    return false
  }

  /// `user.id` as the field `id` of the field `user`.
  private static func nested(_ value: JSONValue, _ name: String) -> JSONValue? {
    var field: JSONValue? = value
    for step in name.parts(between: ".") where !step.isEmpty { field = field?[String(step)] }
    return field
  }

  private static func expression(_ text: Substring) throws(TemplateError) -> Part {
    let rule: Operator
    var names = text.utf8.dropFirst().isEmpty ? "" : text[text.utf8.index(after: text.startIndex)...]
    switch text.utf8.first.map(Unicode.Scalar.init) {
    case "+": rule = Operator(first: "", separator: ",", isNamed: false, ifEmpty: "", allowsReserved: true)
    case "#": rule = Operator(first: "#", separator: ",", isNamed: false, ifEmpty: "", allowsReserved: true)
    case ".": rule = Operator(first: ".", separator: ".", isNamed: false, ifEmpty: "", allowsReserved: false)
    case "/": rule = Operator(first: "/", separator: "/", isNamed: false, ifEmpty: "", allowsReserved: false)
    case ";": rule = Operator(first: ";", separator: ";", isNamed: true, ifEmpty: "", allowsReserved: false)
    case "?": rule = Operator(first: "?", separator: "&", isNamed: true, ifEmpty: "=", allowsReserved: false)
    case "&": rule = Operator(first: "&", separator: "&", isNamed: true, ifEmpty: "=", allowsReserved: false)
    default:
      rule = Operator(first: "", separator: ",", isNamed: false, ifEmpty: "", allowsReserved: false)
      names = text
    }
    let list = names.parts(between: ",").map(String.init)
    for name in list {
      guard !name.isEmpty, name.unicodeScalars.allSatisfy(isNameScalar) else {
        throw TemplateError(
          reason: name.ends(with: "*") || name.holds(":")
            ? "has '{\(text)}', whose modifiers (RFC 6570, level 4) are not supported"
            : "has '{\(text)}', which does not name a field")
      }
    }
    return .expression(rule, names: list)
  }

  private static func isNameScalar(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isAlphabetic || ("0"..."9").contains(scalar) || scalar == "_" || scalar == "." || scalar == "-"
  }
}
