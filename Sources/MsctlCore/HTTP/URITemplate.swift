/// Why a text is no URI template, or a value does not fill it.
package struct TemplateError: Error, Equatable {
  package let reason: String
}

/// A URI template (RFC 6570), read as bytes.
///
/// Otherwise than the RFC says, a field that is missing is an error, unless it is one of a query (`{?x}`, `{&x}`): a request
/// would go elsewhere. A literal stays as it is written.
package struct URITemplate: Sendable, Equatable {
  /// The value of a variable.
  package enum Value {
    case text(String)
    case list([String])
    case pairs([(name: String, value: String)])
    /// It is missing, or holds nothing: left out of a query.
    case missing
  }

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

    /// Whether what is missing is left out.
    var isQuery: Bool { ["?", "&"].contains(first) }

    func encode(_ text: String) -> String { allowsReserved ? Percent.encode(reserved: text) : Percent.encode(text) }

    /// A name with its value, which is encoded already.
    func pair(_ name: String, _ value: String) -> String { name + (value.isEmpty ? ifEmpty : "=" + value) }
  }

  private struct Variable: Sendable, Equatable {
    let name: String
    /// The name as it stands before its value.
    let label: String
    /// `{x*}`: each member of a list or an object is a value by itself.
    let explodes: Bool
    /// `{x:3}`: the first characters alone.
    let prefix: Int?
  }

  private enum Part: Sendable, Equatable {
    case literal(String)
    case expression(Operator, [Variable])
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

  /// Fills the variables with the fields of a value.
  package func expanded(with value: JSONValue) throws(TemplateError) -> String {
    try expanded { (name) throws(TemplateError) in try Self.field(name, of: value) }
  }

  /// Fills the variables with what `value` gives for their names.
  /// - Throws: also where that would climb in the path.
  package func expanded(_ value: (String) throws(TemplateError) -> Value) throws(TemplateError) -> String {
    var result: [UInt8] = []
    /// The places that a value fills, also where it is empty.
    var filled: [(range: Range<Int>, name: String)] = []
    for part in parts {
      switch part {
      case .literal(let literal): result += literal.utf8
      case .expression(let rule, let variables):
        var isFirst = true
        for variable in variables {
          try Self.expand(variable, try value(variable.name), rule) { piece in
            result += (isFirst ? rule.first : rule.separator).utf8
            isFirst = false
            let start = result.count
            result += piece.utf8
            filled.append((start..<result.count, variable.name))
          }
        }
      }
    }
    try Self.checkPath(result, filled)
    return String(decoding: result, as: UTF8.self)
  }

  /// Hands over what stands for a variable, a piece between two separators at a time (RFC 6570, section 3.2.1).
  private static func expand(
    _ variable: Variable, _ value: Value, _ rule: Operator, _ add: (String) -> Void
  ) throws(TemplateError) {
    func addWhole(_ encoded: String) { add(rule.isNamed ? rule.pair(variable.label, encoded) : encoded) }
    switch value {
    case .text(let text):
      // A character is a code point (section 2.4.1).
      let scalars = text.unicodeScalars
      addWhole(rule.encode(variable.prefix.map { String(scalars.prefix($0)) } ?? text))
    case .list, .pairs:
      guard variable.prefix == nil else {
        throw TemplateError(reason: "has a field '\(variable.name)' that is not text, which a prefix requires")
      }
      switch value {
      case .list(let members) where variable.explodes: for member in members { addWhole(rule.encode(member)) }
      case .list(let members): addWhole(members.map(rule.encode).joined(separator: ","))
      case .pairs(let members) where variable.explodes:
        for (name, member) in members {
          let (name, member) = (rule.encode(name), rule.encode(member))
          add(rule.isNamed ? rule.pair(name, member) : name + "=" + member)
        }
      case .pairs(let members):
        addWhole(members.map { rule.encode($0.name) + "," + rule.encode($0.value) }.joined(separator: ","))
      case .text, .missing: break
      }
    case .missing:
      guard rule.isQuery else { throw TemplateError(reason: "has no field '\(variable.name)'") }
    }
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

  // MARK: Fields

  /// A field of a value. What is null counts as missing, and so does a list or an object without a member that is not.
  private static func field(_ name: String, of value: JSONValue) throws(TemplateError) -> Value {
    guard let field = value[name] ?? nested(value, name) else { return .missing }
    switch field.kind {
    case .null: return .missing
    case .array:
      var members: [String] = []
      for element in field.elements where element.kind != .null { members.append(try text(element, of: name)) }
      return members.isEmpty ? .missing : .list(members)
    case .object:
      var members: [(name: String, value: String)] = []
      for (member, value) in field.members where value.kind != .null {
        members.append((member, try text(value, of: name)))
      }
      return members.isEmpty ? .missing : .pairs(members)
    case .string, .number, .bool: return .text(try text(field, of: name))
    }
  }

  private static func text(_ value: JSONValue, of name: String) throws(TemplateError) -> String {
    switch value.kind {
    case .string: return value.string ?? ""
    case .number, .bool: return value.description
    case .array, .object, .null:
      throw TemplateError(reason: "has a field '\(name)' with nested arrays or objects")
    }
  }

  /// `user.id` as the field `id` of the field `user`, and `a%20b` as `a b`.
  private static func nested(_ value: JSONValue, _ name: String) -> JSONValue? {
    var field: JSONValue? = value
    for step in name.parts(between: ".") { field = field?[String(step)] }
    guard field == nil, name.holds("%"), let decoded = Percent.decode(name) else { return field }
    return value[decoded]
  }

  // MARK: Expressions

  private static func expression(_ text: Substring) throws(TemplateError) -> Part {
    let rule: Operator
    var list = text.utf8.dropFirst().isEmpty ? "" : text[text.utf8.index(after: text.startIndex)...]
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
      list = text
    }
    var variables: [Variable] = []
    for part in list.parts(between: ",") {
      guard let variable = variable(part) else {
        throw TemplateError(reason: "has '{\(text)}', which is not a placeholder (RFC 6570)")
      }
      variables.append(variable)
    }
    return .expression(rule, variables)
  }

  /// `x`, `x*` or `x:3`.
  private static func variable(_ text: Substring) -> Variable? {
    var (name, prefix, explodes) = (text, Int?.none, false)
    if let (before, digits) = text.cut(at: ":") {
      // No sign and no zero before it: `Int` alone would take both.
      guard let number = Int(digits), (1..<10000).contains(number), String(number).isSame(as: digits) else {
        return nil
      }
      (name, prefix) = (before, number)
    } else if text.ends(with: "*") {
      (name, explodes) = (text[..<text.utf8.index(before: text.endIndex)], true)
    }
    guard name.parts(between: ".").allSatisfy({ !$0.isEmpty && $0.unicodeScalars.allSatisfy(isNameScalar) }),
      !name.holds("%") || Percent.decode(name) != nil
    else { return nil }
    return Variable(
      name: String(name), label: Percent.encode(reserved: name), explodes: explodes, prefix: prefix)
  }

  /// Letters of any language and hyphens too, which names of fields have.
  private static func isNameScalar(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isAlphabetic || ("0"..."9").contains(scalar) || scalar == "_" || scalar == "-" || scalar == "%"
  }
}
