/// Why a text is no URI template, or a value does not fill it.
package struct TemplateError: Error, Equatable {
  package let reason: String
}

/// A URI template of level 1 to 3 (RFC 6570).
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
    while let start = rest.firstIndex(where: { $0 == "{" || $0 == "}" }) {
      guard rest[start] == "{", let end = rest[start...].firstIndex(of: "}") else {
        throw TemplateError(reason: "has braces that do not match")
      }
      parts.append(.literal(String(rest[..<start])))
      parts.append(try Self.expression(rest[rest.index(after: start)..<end]))
      rest = rest[rest.index(after: end)...]
    }
    parts.append(.literal(String(rest)))
    self.parts = parts
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
  package func expanded(_ text: (String) throws(TemplateError) -> String) throws(TemplateError) -> String {
    var result = ""
    for part in parts {
      switch part {
      case .literal(let literal): result += literal
      case .expression(let rule, let names):
        for (index, name) in names.enumerated() {
          let value = try text(name)
          let encoded = rule.allowsReserved ? Percent.encode(reserved: value) : Percent.encode(value)
          result += index == 0 ? rule.first : rule.separator
          result += rule.isNamed ? name + (value.isEmpty ? rule.ifEmpty : "=" + encoded) : encoded
        }
      }
    }
    return result
  }

  /// `user.id` as the field `id` of the field `user`.
  private static func nested(_ value: JSONValue, _ name: String) -> JSONValue? {
    var field: JSONValue? = value
    for step in name.split(separator: ".") { field = field?[String(step)] }
    return field
  }

  private static func expression(_ text: Substring) throws(TemplateError) -> Part {
    let rule: Operator
    var names = text.dropFirst()
    switch text.first {
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
    let list = names.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    for name in list {
      guard !name.isEmpty, name.unicodeScalars.allSatisfy(isNameScalar) else {
        throw TemplateError(
          reason: name.hasSuffix("*") || name.contains(":")
            ? "has '{\(text)}', whose modifiers (RFC 6570, level 4) are not known here"
            : "has '{\(text)}', which names no field")
      }
    }
    return .expression(rule, names: list)
  }

  private static func isNameScalar(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isAlphabetic || ("0"..."9").contains(scalar) || scalar == "_" || scalar == "." || scalar == "-"
  }
}
