import CommandTable
import MsctlCore

/// One ITEM of `call`, in the notation of HTTPie (https://httpie.io/docs/cli/request-items).
enum CallItem: ArgumentValue, Equatable {
  enum Source: Equatable {
    case text(String)
    case file(String)
  }

  /// `Name:value`.
  case header(HTTPHeader)
  /// `Name:`: a header that would be sent by default is left out.
  case noHeader(String)
  /// `name==value`.
  case query(name: String, value: String)
  /// `name=value`, `name=@file`: a string.
  case string(name: String, Source)
  /// `name:=json`, `name:=@file`.
  case json(name: String, Source)
  /// `name@file`.
  case upload(name: String, path: String)

  private static let separators = [":=@", "=@", ":=", "==", "=", ":", "@"]

  init(argument: String) throws(ValueError) {
    guard let (name, separator, value) = Self.split(argument) else {
      throw ValueError(
        "is no item: write name=text, name:=json, name==query, Header:value, name=@file, name:=@file or name@file")
    }
    guard !name.isEmpty || separator == "=" || separator == ":=" else { throw ValueError("has no name") }
    switch separator {
    case ":" where value.isEmpty:
      self = .noHeader(name)
    case ":":
      guard let header = HTTPHeader(name, value) else { throw ValueError("is no valid header (a control character?)") }
      self = .header(header)
    case "==": self = .query(name: name, value: value)
    case "=": self = .string(name: name, .text(value))
    case "=@": self = .string(name: name, .file(value))
    case ":=": self = .json(name: name, .text(value))
    case ":=@": self = .json(name: name, .file(value))
    default: self = .upload(name: name, path: value)
    }
    if case .json(_, .text(let text)) = self {
      do { _ = try JSONValue(parsing: text.utf8) } catch {
        throw ValueError("is not JSON after ':=' (\(error)); for a string write '='")
      }
    }
  }

  var argumentText: String? { nil }

  /// The first separator counts, and of those that begin at the same place the longest. A backslash takes a separator's
  /// meaning away.
  private static func split(_ text: String) -> (name: String, separator: String, value: String)? {
    var name = ""
    var rest = text[...]
    while let character = rest.first {
      if character == "\\", let next = rest.dropFirst().first, separators.contains(String(next)) || next == "\\" {
        name.append(next)
        rest = rest.dropFirst(2)
      } else if let separator = separators.first(where: { rest.hasPrefix($0) }) {
        return (name, separator, String(rest.dropFirst(separator.count)))
      } else {
        name.append(character)
        rest = rest.dropFirst()
      }
    }
    return nil
  }
}

/// A JSON document that is built from names such as `user[name]` and `tags[]` (https://httpie.io/docs/cli/nested-json).
indirect enum JSONTree {
  case leaf(JSONValue)
  case object([(name: String, tree: JSONTree)])
  case array([JSONTree])

  private enum Step {
    case member(String)
    case element(Int)
    case append
  }

  /// Puts a value where `name` says.
  mutating func set(_ name: String, _ value: JSONValue) throws(ValueError) {
    try set(try Self.steps(name)[...], value, name)
  }

  private static func steps(_ name: String) throws(ValueError) -> [Step] {
    var steps: [Step] = []
    var rest = name[...]
    if !rest.hasPrefix("[") || rest.isEmpty {
      let first = rest.prefix { $0 != "[" }
      steps.append(.member(String(first)))
      rest = rest[first.endIndex...]
    }
    while !rest.isEmpty {
      guard rest.hasPrefix("["), let end = rest.firstIndex(of: "]") else {
        throw ValueError("has the name '\(name)', in which brackets do not match")
      }
      let inner = String(rest[rest.index(after: rest.startIndex)..<end])
      if inner.isEmpty {
        steps.append(.append)
      } else if let index = Int(inner), index >= 0 {
        steps.append(.element(index))
      } else {
        steps.append(.member(inner))
      }
      rest = rest[rest.index(after: end)...]
    }
    return steps
  }

  private mutating func set(_ steps: ArraySlice<Step>, _ value: JSONValue, _ name: String) throws(ValueError) {
    guard let step = steps.first else {
      self = .leaf(value)
      return
    }
    let rest = steps.dropFirst()
    let clash = ValueError("has the name '\(name)', where another item has put something else")
    switch step {
    case .member(let member):
      guard case .object(var members) = self else { throw clash }
      if let place = members.firstIndex(where: { $0.name == member }) {
        var tree = members[place].tree
        if rest.isEmpty || !tree.fits(rest.first) { throw clash }
        try tree.set(rest, value, name)
        members[place].tree = tree
      } else {
        members.append((member, try Self.made(rest, value, name)))
      }
      self = .object(members)
    case .element, .append:
      guard case .array(var elements) = self else { throw clash }
      var index = elements.count
      if case .element(let wanted) = step { index = wanted }
      guard index <= elements.count + 1000 else { throw ValueError("has the name '\(name)', whose index is too large") }
      while elements.count <= index { elements.append(.leaf(JSONValue.null)) }
      if case .leaf(JSONValue.null) = elements[index] {
        elements[index] = try Self.made(rest, value, name)
      } else {
        guard !rest.isEmpty, elements[index].fits(rest.first) else { throw clash }
        try elements[index].set(rest, value, name)
      }
      self = .array(elements)
    }
  }

  private static func made(_ steps: ArraySlice<Step>, _ value: JSONValue, _ name: String) throws(ValueError) -> JSONTree {
    guard let step = steps.first else { return .leaf(value) }
    var tree: JSONTree = if case .member = step { .object([]) } else { .array([]) }
    try tree.set(steps, value, name)
    return tree
  }

  private func fits(_ step: Step?) -> Bool {
    switch (self, step) {
    case (.object, .member), (.array, .element), (.array, .append): true
    default: false
    }
  }

  /// The tree for a first name: `[]` at its beginning makes the document an array.
  static func empty(for name: String) -> JSONTree { name.hasPrefix("[") ? .array([]) : .object([]) }

  var value: JSONValue {
    var writer = JSONWriter()
    write(to: &writer)
    return writer.value
  }

  private func write(to writer: inout JSONWriter) {
    switch self {
    case .leaf(let value): writer.raw(value)
    case .object(let members):
      writer.object { object in
        for member in members {
          object.key(member.name)
          member.tree.write(to: &object)
        }
      }
    case .array(let elements):
      writer.array { array in
        for element in elements { element.write(to: &array) }
      }
    }
  }
}
