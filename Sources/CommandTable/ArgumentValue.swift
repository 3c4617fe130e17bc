/// Why a word is not a value of its option. The parser adds which option and which word.
package struct ValueError: Error, Equatable {
  /// What follows the word in a sentence: "is not a whole number".
  package var reason: String
  /// What the word should have been, where the error is told as "invalid KIND 'WORD'".
  private var kind: String?
  private var rule: String?
  /// The word may hold a password, so that the error does not repeat it.
  package var isSecret: Bool

  package init(_ reason: String, isSecret: Bool = false) {
    self.reason = reason
    self.isSecret = isSecret
  }

  /// - Parameters:
  ///   - kind: what the word should have been ("service name").
  ///   - rule: what it has to be like; nil where `kind` says enough.
  package init(invalid kind: String, _ rule: String? = nil, isSecret: Bool = false) {
    self.init("is not a valid \(kind)" + (rule.map { " (\($0))" } ?? ""), isSecret: isSecret)
    self.kind = kind
    self.rule = rule
  }

  /// The whole sentence about a word.
  /// - Parameter shown: the word in quotes; nil where it may hold a secret.
  package func message(about shown: String?) -> String {
    guard let kind else { return "\(shown ?? "the value") \(reason)" }
    return "invalid \(kind)" + (shown.map { " " + $0 } ?? "") + (rule.map { ": " + $0 } ?? "")
  }
}

/// A type whose values can be written as one word of a command line.
package protocol ArgumentValue: Sendable {
  init(argument: String) throws(ValueError)
  /// The word for this value, shown as a default; nil shows none.
  var argumentText: String? { get }
  static var completion: Completion { get }
}

extension ArgumentValue {
  package static var completion: Completion { .nothing }
}

extension String: ArgumentValue {
  package init(argument: String) throws(ValueError) { self = argument }
  package var argumentText: String? { isEmpty ? nil : self }
}

extension Int: ArgumentValue {
  package init(argument: String) throws(ValueError) {
    guard let number = Int(argument) else { throw ValueError("is not a whole number") }
    self = number
  }
  package var argumentText: String? { String(self) }
}

extension Optional: ArgumentValue where Wrapped: ArgumentValue {
  package init(argument: String) throws(ValueError) { self = try Wrapped(argument: argument) }
  package var argumentText: String? { self?.argumentText }
  package static var completion: Completion { Wrapped.completion }
}

/// An enumeration of words: its cases are what may be written, and what a shell completes.
package protocol ArgumentChoice: ArgumentValue, CaseIterable, RawRepresentable<String> {}

extension ArgumentChoice {
  package init(argument: String) throws(ValueError) {
    guard let choice = Self(rawValue: argument) else {
      let words = Self.allCases.map(\.rawValue)
      let meant = nearest(to: argument, in: words).map { "; did you mean '\($0)'?" } ?? ""
      throw ValueError("is not one of \(words.joined(separator: ", "))\(meant)")
    }
    self = choice
  }
  package var argumentText: String? { rawValue }
  package static var completion: Completion { .choices(allCases.map { $0.rawValue }) }
}
