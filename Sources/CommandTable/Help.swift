/// Help texts, made from the table.
package enum Help {
  package enum Length: Sendable, Equatable { case screen, full }

  static let width = 80
  static let flag = FlagSpec(long: "help", short: "h", summary: "Show help: '-h' on one screen, '--help' in full")

  /// Whether the words before `--` ask for help. It comes before anything that can fail.
  package static func asked(in words: [String]) -> Length? {
    for word in words {
      if word == "--" { return nil }
      if word == "-h" { return .screen }
      if word == "--help" { return .full }
    }
    return nil
  }

  /// The help of one subcommand.
  package static func text(of command: CommandSpec, program: String, _ length: Length) -> String {
    var lines = wrapped("Usage: " + command.usage(of: program), indent: 0, hanging: 7)
    lines += ["", sentence(command.summary)]
    if length == .full, !command.details.isEmpty { lines += [""] + paragraphs(command.details, indent: 0) }
    if !command.operands.isEmpty {
      lines += ["", "Operands"] + table(command.operands.map { ($0.name, $0.summary, "") }, length)
    }
    for category in command.categories {
      let rows = command.flags.filter { $0.category == category }
      let shown = rows.filter { length == .full || !$0.isBrief }
      lines += ["", category] + table(shown.map { ($0.usage, $0.summary + $0.notes, $0.details) }, length)
      let names = rows.filter { length == .screen && $0.isBrief }.map { flag in
        (flag.short.map { "-\($0)/" } ?? "") + "--" + flag.long
      }
      lines += wrapped(names.joined(separator: ", "), indent: 2, hanging: 2)
    }
    if length == .full {
      if !command.variables.isEmpty {
        lines += ["", "Environment"] + table(command.variables.map { ($0.name, $0.summary, "") }, length)
      }
      if !command.examples.isEmpty {
        lines += ["", "Examples"]
        lines += command.examples.flatMap { ["  # " + $0.summary, "  " + $0.line] }
      }
    } else {
      lines += ["", "Run '\(program) help \(command.name)' for the full help."]
    }
    return lines.joined(separator: "\n") + "\n"
  }

  /// The help of the whole tool: its subcommands, each with its first example.
  package static func overview(program: String, summary: String, commands: [CommandTitle]) -> String {
    var lines = [sentence(summary), "", "Usage: \(program) COMMAND [OPTION ...] [OPERAND ...]", "", "Commands"]
    lines += table(commands.map { ($0.name, sentence($0.summary), "") }, .screen)
    lines += ["", "For example"]
    lines += commands.compactMap { $0.example.map { "  " + $0 } }
    let more =
      "Run '\(program) help COMMAND' for the full help of a command, '\(program) COMMAND -h' for one screen, "
      + "'\(program) completion SHELL' for shell completions and '\(program) --version' for the versions of its libraries."
    lines += [""] + wrapped(more, indent: 0, hanging: 0)
    return lines.joined(separator: "\n") + "\n"
  }

  private static func sentence(_ text: String) -> String {
    text.prefix(1).uppercased() + text.dropFirst()
  }

  /// Two columns; the right one wraps. A left entry that is too wide takes a line of its own.
  private static func table(_ rows: [(left: String, right: String, details: String)], _ length: Length) -> [String] {
    let column = min(rows.map(\.left.count).max() ?? 0, 26) + 4
    return rows.flatMap { row in
      let left = "  " + row.left
      var right = wrapped(row.right, indent: column, hanging: column)
      if left.count + 2 <= column, !right.isEmpty {
        right[0] = left + right[0].dropFirst(left.count)
      } else {
        right.insert(left, at: 0)
      }
      return right + (length == .full && !row.details.isEmpty ? paragraphs(row.details, indent: column) : [])
    }
  }

  private static func paragraphs(_ text: String, indent: Int) -> [String] {
    var lines: [String] = []
    var paragraph: [Substring] = []
    func flush() {
      if !paragraph.isEmpty {
        lines += wrapped(paragraph.joined(separator: " "), indent: indent, hanging: indent)
      }
      paragraph = []
    }
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      if line.isEmpty {
        flush()
        lines.append("")
      } else {
        paragraph.append(line)
      }
    }
    flush()
    return lines
  }

  static func wrapped(_ text: String, indent: Int, hanging: Int, width: Int = width) -> [String] {
    var lines: [String] = []
    var line = String(repeating: " ", count: indent)
    var isEmpty = true
    for word in text.split(separator: " ") {
      if !isEmpty, line.count + 1 + word.count > width {
        lines.append(line)
        line = String(repeating: " ", count: hanging)
        isEmpty = true
      }
      line += (isEmpty ? "" : " ") + word
      isEmpty = false
    }
    return isEmpty ? lines : lines + [line]
  }
}
