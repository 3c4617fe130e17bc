/// Why a word is no value of its option. The parser adds which option and which word.
package struct ValueError: Error, Equatable {
  package var reason: String
  /// The word may hold a password, so that the error does not repeat it.
  package var isSecret: Bool

  package init(_ reason: String, isSecret: Bool = false) {
    self.reason = reason
    self.isSecret = isSecret
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
  package static var completion: Completion { .choices(allCases.map(\.rawValue)) }
}
