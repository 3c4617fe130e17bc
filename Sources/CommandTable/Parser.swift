/// What a command line asks for.
package enum Request<Options: Sendable>: Sendable {
  case run(Options)
  case help(Help.Length)
}

extension Request: Equatable where Options: Equatable {}

/// Words are read as bytes: a combining mark after a dash or an equals sign must not hide it.
private let dash = UInt8(ascii: "-")

extension Command {
  /// Reads the words after the subcommand's name. Only validates: nothing is opened, read or sent.
  ///
  /// An option wins over its environment variable, and both over the default. An empty variable counts as not set.
  package func parse(
    _ words: [String], environment: [String: String] = [:]
  ) throws(UsageError) -> Request<Options> {
    if let length = Help.asked(in: words) { return .help(length) }
    if words.prefix(while: { word in word != "--" }).contains(where: asksForHelpInBundle) { return .help(.screen) }

    var options = Options()
    var seen: Set<String> = []
    var operandWords: [String] = []
    var rest: [String] = []

    var index = words.startIndex
    while index < words.endIndex {
      let word = words[index]
      index += 1
      if word == "--" {
        if operands.contains(where: { $0.spec.arity == .rest }) {
          rest = Array(words[index...])
          guard !rest.isEmpty else { throw .nothingAfterDashes(command: name) }
        } else {
          operandWords += words[index...]
        }
        break
      } else if word.utf8.starts(with: "--".utf8) {
        index += try readLong(word, next: index < words.endIndex ? words[index] : nil, &options, &seen)
      } else if word.utf8.first == dash, word.utf8.count > 1 {
        index += try readShort(word, next: index < words.endIndex ? words[index] : nil, &options, &seen)
      } else {
        operandWords.append(word)
      }
    }

    try readVariables(environment, &options, seen)
    try readOperands(operandWords, rest, &options)
    do { try check(options) } catch { throw .conflict(error) }
    return .run(options)
  }

  /// `-qh`: switches, and `-h` among them.
  private func asksForHelpInBundle(_ word: String) -> Bool {
    guard word.utf8.first == dash, !word.utf8.starts(with: "--".utf8) else { return false }
    let switches = flags.filter { $0.spec.valueName == nil }.compactMap(\.spec.short)
    let help: Unicode.Scalar = "h"
    let letters = word.unicodeScalars.dropFirst()
    return letters.contains(help) && letters.allSatisfy { letter in letter == help || switches.contains(letter) }
  }

  /// - Returns: how many of the words that follow were used: 1 where the value is the next word.
  private func readLong(
    _ word: String, next: String?, _ options: inout Options, _ seen: inout Set<String>
  ) throws(UsageError) -> Int {
    let equals = word.utf8.firstIndex(of: UInt8(ascii: "="))
    let written = String(word[..<(equals ?? word.endIndex)])
    guard let flag = flags.first(where: { "--" + $0.spec.long == written }) else {
      throw .unknownFlag(
        written, known: spec.flags.map { "--" + $0.long }, command: name, instead: hint(about: written))
    }
    seen.insert(flag.spec.long)
    let attached = equals.map { String(word[word.utf8.index(after: $0)...]) }
    guard let valueName = flag.spec.valueName else {
      if let attached, flag.spec.attachment == nil { throw .unexpectedValue(written, attached) }
      try apply(flag, attached ?? "", as: written, &options)
      return 0
    }
    if let attached {
      try apply(flag, attached, as: written, &options)
      return 0
    }
    try apply(flag, separate(next, for: written, valueName), as: written, &options)
    return 1
  }

  /// Reads `-n value`, `-nvalue` and bundled switches (`-qn value`).
  private func readShort(
    _ word: String, next: String?, _ options: inout Options, _ seen: inout Set<String>
  ) throws(UsageError) -> Int {
    var rest = word.unicodeScalars.dropFirst()
    while let letter = rest.popFirst() {
      let written = "-\(letter)"
      guard let flag = flags.first(where: { $0.spec.short == letter }) else {
        // A long name with one dash is the usual slip.
        let long = flags.contains { word == "-" + $0.spec.long } ? ["-" + word] : []
        throw .unknownFlag(
          long.isEmpty ? written : word, known: long, command: name, instead: long.isEmpty ? hint(about: written) : nil)
      }
      seen.insert(flag.spec.long)
      guard let valueName = flag.spec.valueName else {
        try apply(flag, "", as: written, &options)
        continue
      }
      if !rest.isEmpty {
        try apply(flag, String(rest), as: written, &options)
        return 0
      }
      try apply(flag, separate(next, for: written, valueName), as: written, &options)
      return 1
    }
    return 0
  }

  /// The next word as a value. One that begins with two dashes is more likely a forgotten value than a value.
  private func separate(_ next: String?, for written: String, _ valueName: String) throws(UsageError) -> String {
    guard let next else { throw .missingValue(written, valueName) }
    if next.utf8.starts(with: "--".utf8) { throw .valueLooksLikeFlag(written, valueName, word: next) }
    return next
  }

  private func apply(
    _ flag: Flag<Options>, _ word: String, as written: String, _ options: inout Options
  ) throws(UsageError) {
    do { try flag.apply(&options, word) } catch { throw .invalidValue(written, flag.spec.secret ? nil : word, error) }
  }

  private func readVariables(
    _ environment: [String: String], _ options: inout Options, _ seen: Set<String>
  ) throws(UsageError) {
    func set(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
    for variable in variables {
      guard let word = set(variable.spec.name) else { continue }
      do { try variable.apply(&options, word) } catch {
        throw .invalidValue(variable.spec.name, variable.spec.secret ? nil : word, error)
      }
    }
    let unset = flags.filter { seen.contains($0.spec.long) }.compactMap(\.spec.unsets)
    for flag in flags where !seen.contains(flag.spec.long) && !unset.contains(flag.spec.long) {
      guard let name = flag.spec.variable, let word = set(name) else { continue }
      do { try flag.apply(&options, word) } catch { throw .invalidValue(name, flag.spec.secret ? nil : word, error) }
    }
  }

  private func readOperands(_ words: [String], _ after: [String], _ options: inout Options) throws(UsageError) {
    var rest = words[...]
    for operand in operands {
      switch operand.spec.arity {
      case .one:
        guard let word = rest.popFirst() else { throw .missingOperand(operand.spec, command: name) }
        try apply(operand, word, &options)
      case .optional:
        if let word = rest.first, operand.accepts(word) {
          rest.removeFirst()
          try apply(operand, word, &options)
        }
      case .many:
        while let word = rest.popFirst() { try apply(operand, word, &options) }
      case .rest:
        for word in after { try apply(operand, word, &options) }
      }
    }
    if let word = rest.first { throw .extraOperand(word, command: name) }
  }

  private func apply(_ operand: Operand<Options>, _ word: String, _ options: inout Options) throws(UsageError) {
    do { try operand.apply(&options, word) } catch { throw .invalidValue(operand.spec.name, word, error) }
  }
}
