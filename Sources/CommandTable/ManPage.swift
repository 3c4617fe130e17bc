/// Man pages, made from the table, in the man(7) macros.
package enum ManPage {
  /// What stands in every page's head.
  package struct Edition: Sendable {
    package let program: String
    package let version: String
    /// The day of the version, as 2026-01-31.
    package let date: String

    package init(program: String, version: String, date: String) {
      self.program = program
      self.version = version
      self.date = date
    }
  }

  /// A section that only the overview has.
  package struct Section: Sendable {
    package let title: String
    /// A term and what it means.
    package let entries: [(term: String, text: String)]

    package init(_ title: String, _ entries: [(term: String, text: String)]) {
      self.title = title
      self.entries = entries
    }
  }

  /// The page of one subcommand, PROGRAM-COMMAND(1).
  package static func text(of command: CommandSpec, _ edition: Edition) -> String {
    let name = "\(edition.program)-\(command.name)"
    var lines = head(name, command.summary, edition)
    lines += [".SH SYNOPSIS", ".B \(edition.program) \(command.name)"]
    lines += wrapped((["[OPTION ...]"] + command.operands.map(\.usage)).joined(separator: " "))
    lines += [".SH DESCRIPTION"] + paragraphs(command.details.isEmpty ? command.summary : command.details)
    if !command.operands.isEmpty {
      lines += [".SH OPERANDS"] + entries(command.operands.map { ($0.name, closed($0.summary)) })
    }
    lines.append(".SH OPTIONS")
    for category in command.categories {
      lines.append(".SS " + escaped(category))
      for flag in command.flags where flag.category == category {
        lines += [".TP", term(flag)]
        lines += paragraphs(closed(flag.summary + flag.notes) + (flag.details.isEmpty ? "" : " " + flag.details))
      }
    }
    if !command.variables.isEmpty {
      lines += [".SH ENVIRONMENT"] + entries(command.variables.map { ($0.name, closed($0.summary)) })
    }
    lines += examples(command.examples)
    return (lines + seeAlso([edition.program])).joined(separator: "\n") + "\n"
  }

  /// The page of the whole tool, PROGRAM(1).
  package static func overview(
    summary: String, _ commands: [CommandSpec], _ sections: [Section], _ edition: Edition
  ) -> String {
    var lines = head(edition.program, String(summary.prefix(1).lowercased() + summary.dropFirst()).trimmedStop, edition)
    lines += [".SH SYNOPSIS", ".B \(edition.program)", "COMMAND [OPTION ...] [OPERAND ...]"]
    lines += [".SH DESCRIPTION"] + paragraphs(summary)
    lines += [".SH COMMANDS"]
    for command in commands {
      lines += [".TP", ".BR \(escaped("\(edition.program)-\(command.name)")) (1)"] + wrapped(sentence(command.summary))
    }
    for section in sections { lines += [".SH " + section.title.uppercased()] + entries(section.entries) }
    lines += examples(commands.compactMap(\.examples.first))
    return (lines + seeAlso(commands.map { "\(edition.program)-\($0.name)" })).joined(separator: "\n") + "\n"
  }

  private static func head(_ name: String, _ summary: String, _ edition: Edition) -> [String] {
    [
      #".\" Written from the command table by 'make documents'. Do not edit."#,
      ".TH \(name.uppercased()) 1 \(edition.date) \"\(edition.program) \(edition.version)\" \"\(edition.program)\"",
      ".SH NAME", "\(escaped(name)) \\- \(escaped(summary))",
    ]
  }

  private static func term(_ flag: FlagSpec) -> String {
    let names = (flag.short.map { ["-\($0)"] } ?? []) + ["--" + flag.long]
    let text = names.map { "\\fB\(escaped($0))\\fR" }.joined(separator: ", ")
    if let attachment = flag.attachment { return text + "[=\(escaped(attachment))]" }
    return flag.valueName.map { text + " \\fI\(escaped($0))\\fR" } ?? text
  }

  private static func entries(_ entries: [(term: String, text: String)]) -> [String] {
    entries.flatMap { [".TP", ".B " + escaped($0.term)] + wrapped($0.text) }
  }

  private static func examples(_ examples: [Example]) -> [String] {
    guard !examples.isEmpty else { return [] }
    var lines = [".SH EXAMPLES"]
    for (index, example) in examples.enumerated() {
      if index > 0 { lines.append(".PP") }
      lines +=
        wrapped(example.summary + ":") + [".PP", ".RS 4", ".nf", escaped(example.line, isLine: true), ".fi", ".RE"]
    }
    return lines
  }

  private static func seeAlso(_ names: [String]) -> [String] {
    [".SH SEE ALSO"]
      + names.enumerated().map { index, name in ".BR \(escaped(name)) (1)" + (index < names.count - 1 ? "," : "") }
  }

  private static func paragraphs(_ text: String) -> [String] {
    text.components(separatedByEmptyLines: ()).enumerated().flatMap { index, paragraph in
      (index == 0 ? [] : [".PP"]) + wrapped(paragraph)
    }
  }

  private static func sentence(_ text: String) -> String {
    closed(text.prefix(1).uppercased() + text.dropFirst())
  }

  /// The text with a full stop, its first letter unchanged: it may begin with a literal.
  private static func closed(_ text: String) -> String {
    text.hasSuffix(".") ? text : text + "."
  }

  /// Source lines of at most 78 characters.
  private static func wrapped(_ text: String) -> [String] {
    Help.wrapped(escaped(text), indent: 0, hanging: 0, width: 78).map { $0.hasPrefix(".") ? "\\&" + $0 : $0 }
  }

  /// Text that no macro or escape hides in.
  private static func escaped(_ text: String, isLine: Bool = false) -> String {
    var result = ""
    for character in text {
      switch character {
      case "\\": result += "\\e"
      case "-": result += "\\-"
      case "'": result += "\\(aq"
      case "`": result += "\\(ga"
      case "^": result += "\\(ha"
      case "~": result += "\\(ti"
      default: result.append(character)
      }
    }
    return isLine && result.hasPrefix(".") ? "\\&" + result : result
  }
}

extension String {
  fileprivate var trimmedStop: String { hasSuffix(".") ? String(dropLast()) : self }

  fileprivate func components(separatedByEmptyLines: Void) -> [String] {
    var found: [String] = [""]
    for line in split(separator: "\n", omittingEmptySubsequences: false) {
      if line.isEmpty {
        found.append("")
      } else {
        found[found.count - 1] += (found[found.count - 1].isEmpty ? "" : " ") + line
      }
    }
    return found.filter { !$0.isEmpty }
  }
}
