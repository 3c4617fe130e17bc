import CommandTable

/// What commands that a verb runs get of its environment.
struct ChildEnvironment: Defaulted {
  /// What a program needs to run at all, and the trace that it belongs to.
  private static let kept = ["PATH", "HOME", "LANG", "TRACEPARENT"]

  var isClean = false

  init() {}

  /// For the details of an option that runs a command.
  static let note =
    "COMMAND inherits msctl's environment, AMQP_URL and CONSUL_HTTP_TOKEN included, unless '--clean-env' is given."

  static let flags: [Flag<ChildEnvironment>] = [
    .toggle("clean-env", nil, into: \.isClean, "Do not pass msctl's environment to commands")
      .details("They get PATH, HOME, LANG, TRACEPARENT and the MSCTL_* variables that msctl sets.")
  ]

  /// - Parameter environment: msctl's own.
  func variables(_ environment: [String: String]) -> [String: String] {
    isClean ? environment.filter { Self.kept.contains($0.key) } : environment
  }
}

/// A text from outside as the value of a variable, which ends at a NUL.
func variableValue(_ text: String) -> String {
  String(String.UnicodeScalarView(text.unicodeScalars.filter { $0.value != 0 }))
}
