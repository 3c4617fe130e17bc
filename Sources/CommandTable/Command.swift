/// An operand: its words, where its value lands, and for an optional one which words it takes.
package struct Operand<Options: Sendable>: Sendable {
  package var spec: OperandSpec
  package let accepts: @Sendable (String) -> Bool
  package let apply: @Sendable (inout Options, String) throws(ValueError) -> Void

  package static func one<V: ArgumentValue>(
    _ name: String, into field: @escaping @autoclosure Field<Options, V>, _ summary: String,
    completion: Completion = .nothing
  ) -> Self {
    of(.one, name, summary, completion) { (options, word) throws(ValueError) in
      options[keyPath: field()] = try V(argument: word)
    }
  }

  package static func optional<V: ArgumentValue>(
    _ name: String, into field: @escaping @autoclosure Field<Options, V>, _ summary: String,
    completion: Completion = .nothing, where accepts: @escaping @Sendable (String) -> Bool = { _ in true }
  ) -> Self {
    of(.optional, name, summary, completion, accepts) { (options, word) throws(ValueError) in
      options[keyPath: field()] = try V(argument: word)
    }
  }

  package static func many<V: ArgumentValue>(
    _ name: String, into field: @escaping @autoclosure Field<Options, [V]>, _ summary: String
  ) -> Self {
    of(.many, name, summary, .nothing) { (options, word) throws(ValueError) in
      options[keyPath: field()].append(try V(argument: word))
    }
  }

  /// A command line that is run: all words after `--`.
  package static func rest(
    _ name: String, into field: @escaping @autoclosure Field<Options, [String]>, _ summary: String
  ) -> Self {
    of(.rest, name, summary, .nothing) { (options, word) throws(ValueError) in options[keyPath: field()].append(word) }
  }

  private static func of(
    _ arity: OperandSpec.Arity, _ name: String, _ summary: String, _ completion: Completion,
    _ accepts: @escaping @Sendable (String) -> Bool = { _ in true },
    _ apply: @escaping @Sendable (inout Options, String) throws(ValueError) -> Void
  ) -> Self {
    Operand(
      spec: OperandSpec(name: name, arity: arity, summary: summary, completion: completion), accepts: accepts,
      apply: apply)
  }
}

/// An environment variable that no option stands for, and where its value lands.
package struct Variable<Options: Sendable>: Sendable {
  package let spec: VariableSpec
  package let apply: @Sendable (inout Options, String) throws(ValueError) -> Void

  package static func value<V: ArgumentValue>(
    _ name: String, into field: @escaping @autoclosure Field<Options, V>, _ summary: String
  ) -> Self {
    Variable(spec: VariableSpec(name: name, summary: summary)) { (options, word) throws(ValueError) in
      options[keyPath: field()] = try V(argument: word)
    }
  }

  package func secret() -> Self {
    Variable(spec: VariableSpec(name: spec.name, summary: spec.summary, secret: true), apply: apply)
  }

  package func lifted<Whole>(to group: @escaping @autoclosure Field<Whole, Options>) -> Variable<Whole> {
    Variable<Whole>(spec: spec) { (whole, word) throws(ValueError) in
      try apply(&whole[keyPath: group()], word)
    }
  }
}

extension Array {
  package func lifted<Whole, Group>(
    to group: @escaping @autoclosure Field<Whole, Group>
  ) -> [Variable<Whole>] where Element == Variable<Group> {
    map { $0.lifted(to: group()) }
  }
}

/// Options of other tools, as their users write them, and what there is in their place.
package struct Habit: Sendable {
  package let words: [String]
  package let hint: String

  package init(_ words: [String], _ hint: String) { (self.words, self.hint) = (words, hint) }
}

/// A subcommand in one line.
package struct CommandTitle: Sendable {
  package let name: String
  package let summary: String
  package let example: String?
}

/// The words of one subcommand: what help, man pages and completions read.
package struct CommandSpec: Sendable {
  package var name: String
  /// One line, lower case, no full stop.
  package var summary: String
  /// What the full help and the man page say; paragraphs are parted by an empty line.
  package var details: String
  package var flags: [FlagSpec]
  package var operands: [OperandSpec]
  package var variables: [VariableSpec]
  package var examples: [Example]

  /// The headings of the options, in their order.
  var categories: [String] {
    var found: [String] = []
    for flag in flags where !found.contains(flag.category) { found.append(flag.category) }
    return found
  }

  package func usage(of program: String) -> String {
    ([program, name, "[OPTION ...]"] + operands.map(\.usage)).joined(separator: " ")
  }
}

/// A subcommand as a table: its options, operands and variables, each with its place in `Options`.
package struct Command<Options: Defaulted>: Sendable {
  package let name: String
  package let summary: String
  package let details: String
  // Made when they are asked for: the tables of five commands cost more than most of what a short command does.
  private let makeFlags: @Sendable () -> [Flag<Options>]
  private let makeOperands: @Sendable () -> [Operand<Options>]
  private let makeVariables: @Sendable () -> [Variable<Options>]
  package let examples: [Example]
  private let makeHabits: @Sendable () -> [Habit]
  /// Refuses what no single option can see: options that do not go together.
  package let check: @Sendable (Options) throws(ValueError) -> Void

  package init(
    _ name: String, _ summary: String, details: String = "",
    flags: @escaping @autoclosure @Sendable () -> [Flag<Options>],
    operands: @escaping @autoclosure @Sendable () -> [Operand<Options>] = [],
    variables: @escaping @autoclosure @Sendable () -> [Variable<Options>] = [],
    examples: [Example] = [],
    habits: @escaping @autoclosure @Sendable () -> [Habit] = [],
    check: @escaping @Sendable (Options) throws(ValueError) -> Void = { _ in }
  ) {
    self.name = name
    self.summary = summary
    self.details = details
    makeFlags = flags
    makeOperands = operands
    makeVariables = variables
    self.examples = examples
    makeHabits = habits
    self.check = check
  }

  package var flags: [Flag<Options>] { makeFlags() }
  package var operands: [Operand<Options>] { makeOperands() }
  package var variables: [Variable<Options>] { makeVariables() }

  /// What there is in place of an option that other tools have.
  func hint(about word: String) -> String? { makeHabits().first { $0.words.contains(word) }?.hint }

  /// What the overview says of it.
  package var title: CommandTitle {
    CommandTitle(name: name, summary: summary, example: examples.first?.line)
  }

  package var spec: CommandSpec {
    // Closures, since a key path would be made for each table.
    CommandSpec(
      name: name, summary: summary, details: details, flags: flags.map { $0.spec } + [Help.flag],
      operands: operands.map { $0.spec }, variables: variables.map { $0.spec }, examples: examples)
  }
}
