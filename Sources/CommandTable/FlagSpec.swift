/// The words of one option: everything that help, man pages and completions read.
package struct FlagSpec: Sendable {
  /// The long name, without its dashes.
  package var long: String
  package var short: Unicode.Scalar?
  /// What stands for the value in help (`N`, `FILE`); nil for a switch.
  package var valueName: String?
  /// What may be attached to a switch, as in `--stats=json`; nil: nothing.
  package var attachment: String?
  /// One line, no full stop.
  package var summary: String
  /// What the full help and the man page add; may be empty.
  package var details = ""
  /// The heading under which help shows the option.
  package var category = "Options"
  /// Finds out the default as a user would write it; nil where there is none.
  var makeDefault: @Sendable () -> String? = { nil }
  /// The environment variable that gives the value where the command line does not.
  package var variable: String?
  /// The option whose variable is not read where this one is written: its value would belong to another one's.
  var unsets: String?
  /// Each use adds a value instead of replacing the one before.
  package var repeats = false
  /// The value may hold a password: no error repeats it.
  package var secret = false
  package var completion = Completion.nothing
  /// Short help only names it: it comes from a group that verbs share, or is seldom wanted.
  package var isBrief = false

  /// `-n, --count N`, as help shows it.
  package var usage: String {
    let name = (short.map { "-\($0), " } ?? "    ") + "--" + long + (attachment.map { "[=\($0)]" } ?? "")
    return valueName.map { name + " " + $0 } ?? name
  }

  /// What may be written, the default and the variable, in brackets; empty where there is nothing to say.
  var notes: String {
    var notes: [String] = []
    if case .choices(let words) = completion { notes.append(words.joined(separator: "|")) }
    if let text = makeDefault() { notes.append("default: \(text)") }
    if let variable { notes.append("$\(variable)") }
    if repeats { notes.append("repeatable") }
    return notes.isEmpty ? "" : " (\(notes.joined(separator: "; ")))"
  }
}

/// What a shell can offer for a value.
package enum Completion: Sendable, Equatable {
  case nothing
  case file
  case choices([String])
  /// Names that only a running service knows, by what they are (`service`, `queue`).
  case live(String)
}

/// The words of one operand.
package struct OperandSpec: Sendable, Equatable {
  /// `rest`: the words after `--`, and no others.
  package enum Arity: Sendable, Equatable { case one, optional, many, rest }

  package var name: String
  package var arity: Arity
  package var summary: String
  package var completion = Completion.nothing

  /// `[MESSAGE]`, as the usage line shows it.
  package var usage: String {
    switch arity {
    case .one: name
    case .optional: "[\(name)]"
    case .many: "[\(name) ...]"
    case .rest: "[-- \(name) ...]"
    }
  }
}

/// An environment variable that no option stands for.
package struct VariableSpec: Sendable, Equatable {
  package var name: String
  package var summary: String
  /// The value is a secret: no error repeats it.
  package var secret = false
}

/// One command line that shows a use, and what it does.
package struct Example: Sendable, Equatable {
  package var line: String
  package var summary: String

  package init(_ line: String, _ summary: String) {
    self.line = line
    self.summary = summary
  }
}
