/// A command line that is refused: what is wrong with it, and how to go on.
package struct UsageError: Error, Equatable {
  package let message: String
  /// Help that is shown after it.
  package let overview: String?
  private let makeHint: @Sendable (_ program: String) -> String?

  private init(
    _ message: String, overview: String? = nil, hint: @escaping @Sendable (_ program: String) -> String? = { _ in nil }
  ) {
    self.message = message
    self.overview = overview
    makeHint = hint
  }

  /// The next step.
  /// - Parameter program: what the user writes before the subcommand, to ask for help.
  package func hint(program: String) -> String? { makeHint(program) }

  package static func == (a: UsageError, b: UsageError) -> Bool {
    a.message == b.message && a.overview == b.overview && a.makeHint("") == b.makeHint("")
  }

  /// - Parameter overview: the help that is shown after the error.
  package static func noCommand(overview: String) -> Self {
    UsageError("no command given", overview: overview)
  }

  package static func unknownCommand(_ word: String, known: [String]) -> Self {
    let hint = meant(word, known) ?? "The commands are \(list(known))."
    return UsageError("'\(word)' is not a command") { _ in hint }
  }

  /// - Parameter instead: what there is in its place, where it is an option of another tool.
  package static func unknownFlag(_ word: String, known: [String], command: String, instead: String? = nil) -> Self {
    let meant = instead ?? meant(word, known)
    let isNumber = (0x30...0x39).contains(word.utf8.dropFirst().first ?? 0)
    return UsageError("'\(word)' is not an option of '\(command)'") { program in
      meant
        ?? "'\(program) \(command) -h' lists them."
        + (isNumber ? " To pass it as an operand, write '--' before it." : "")
    }
  }

  package static func missingValue(_ flag: String, _ name: String) -> Self {
    UsageError("'\(flag)' requires a value (\(name))") { _ in "Write '\(flag) \(name)'." }
  }

  /// The word after an option that needs a value looks like an option itself.
  package static func valueLooksLikeFlag(_ flag: String, _ name: String, word: String) -> Self {
    UsageError("'\(flag)' requires a value (\(name)), but '\(word)' looks like an option") { _ in
      "To pass '\(word)' as the value, write '\(flag)=\(word)'."
    }
  }

  package static func unexpectedValue(_ flag: String, _ value: String) -> Self {
    UsageError("'\(flag)' takes no value, but '\(value)' was given") { _ in "Write '\(flag)' alone." }
  }

  /// - Parameters:
  ///   - place: the option, operand or environment variable as the user wrote it.
  ///   - word: the word that was refused; nil where it may hold a secret.
  package static func invalidValue(_ place: String, _ word: String?, _ error: ValueError) -> Self {
    let shown = error.isSecret ? nil : word.map { "'\($0)'" }
    return UsageError("\(place): \(error.message(about: shown))")
  }

  package static func missingOperand(_ operand: OperandSpec, command: String) -> Self {
    UsageError("'\(command)' requires \(operand.name): \(operand.summary)") { usage(of: command, $0) }
  }

  package static func nothingAfterDashes(command: String) -> Self {
    UsageError("no command after '--'") { usage(of: command, $0) }
  }

  package static func extraOperand(_ word: String, command: String) -> Self {
    UsageError("unexpected argument '\(word)'") {
      "Quote an argument that contains spaces; " + usage(of: command, $0)
    }
  }

  package static func conflict(_ error: ValueError) -> Self {
    UsageError(error.reason)
  }

  private static func usage(of command: String, _ program: String) -> String {
    "'\(program) \(command) -h' shows the usage."
  }

  private static func meant(_ word: String, _ known: [String]) -> String? {
    nearest(to: word, in: known).map { "Did you mean '\($0)'?" }
  }

  private static func list(_ words: [String]) -> String {
    guard let last = words.last, words.count > 1 else { return words.joined() }
    return words.dropLast().joined(separator: ", ") + " and " + last
  }
}

/// The known word that is fewest typing errors away from `word`, if it is near enough to have been meant.
///
/// Typing errors are counted as letters added, left out, changed, or swapped with their neighbour (the
/// optimal string alignment distance).
package func nearest(to word: String, in known: [String]) -> String? {
  // The comparison takes the product of both lengths; no known word is longer than this.
  guard word.utf8.count <= 64 else { return nil }
  let scored = known.map { (word: $0, distance: distance(Array(word.unicodeScalars), Array($0.unicodeScalars))) }
  guard let best = scored.min(by: { $0.distance < $1.distance }) else { return nil }
  // Of the letters alone: the dashes of an option are always right.
  let letters = best.word.utf8.drop { $0 == UInt8(ascii: "-") }
  if best.distance <= max(1, min(3, letters.count / 3)) { return best.word }
  // A word cut short is meant, too, where just one known word begins with it: within its first part, or by more than half.
  let longer = known.filter { known in
    let rest = known.utf8.dropFirst(word.utf8.count)
    return !rest.isEmpty && known.utf8.starts(with: word.utf8)
      && (rest.first != UInt8(ascii: "-") || word.utf8.count > rest.count)
  }
  return word.utf8.count >= 2 && longer.count == 1 ? longer.first : nil
}

private func distance(_ a: [Unicode.Scalar], _ b: [Unicode.Scalar]) -> Int {
  var rows = [Array(0...b.count)]
  for i in 1..<(a.count + 1) {
    var row = [i]
    for j in 1..<(b.count + 1) {
      var best = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1))
      if i > 1, j > 1, a[i - 1] == b[j - 2], a[i - 2] == b[j - 1] { best = min(best, rows[i - 2][j - 2] + 1) }
      row.append(best)
    }
    rows.append(row)
  }
  return rows[a.count][b.count]
}
