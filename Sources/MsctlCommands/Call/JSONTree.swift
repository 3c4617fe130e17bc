import CommandTable
import MsctlCore

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
    if !rest.begins(with: "[") {
      let end = rest.utf8.firstIndex(of: UInt8(ascii: "[")) ?? rest.endIndex
      steps.append(.member(String(rest[..<end])))
      rest = rest[end...]
    }
    while !rest.isEmpty {
      guard let opened = rest.rest(after: "["), let (content, after) = opened.cut(at: "]") else {
        throw ValueError("has the name '\(name)', which has unmatched brackets")
      }
      let inner = String(content)
      if inner.isEmpty {
        steps.append(.append)
      } else if let index = Int(inner), index >= 0 {
        steps.append(.element(index))
      } else {
        steps.append(.member(inner))
      }
      rest = after
    }
    return steps
  }

  private mutating func set(_ steps: ArraySlice<Step>, _ value: JSONValue, _ name: String) throws(ValueError) {
    guard let step = steps.first else {
      self = .leaf(value)
      return
    }
    let rest = steps.dropFirst()
    let clash = ValueError("has the name '\(name)', which conflicts with another item")
    switch step {
    case .member(let member):
      guard case .object(var members) = self else { throw clash }
      if let place = members.firstIndex(where: { $0.name.isSame(as: member) }) {
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

  private static func made(_ steps: ArraySlice<Step>, _ value: JSONValue, _ name: String) throws(ValueError) -> JSONTree
  {
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
  static func empty(for name: String) -> JSONTree { name.begins(with: "[") ? .array([]) : .object([]) }

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
