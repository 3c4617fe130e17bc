import CommandTable
import MsctlCore

/// The files that are made from the command table: `man/` and `completions/`. They are checked in; a test compares them.
package enum Documents {
  private static let edition = ManPage.Edition(program: AllCommands.program, version: Version.msctl, date: Version.date)

  /// Each file by its place in the project.
  package static var files: [(path: String, text: String)] {
    let specs = AllCommands.allSpecs
    var files = [("man/msctl.1", ManPage.overview(summary: AllCommands.summary, specs, sections, edition))]
    for spec in specs { files.append(("man/msctl-\(spec.name).1", ManPage.text(of: spec, edition))) }
    for (shell, name) in [(ShellCompletion.bash, "msctl.bash"), (.zsh, "_msctl"), (.fish, "msctl.fish")] {
      files.append(("completions/\(name)", shell.script(program: AllCommands.program, commands: specs)))
    }
    return files
  }

  private static var sections: [ManPage.Section] {
    var variables: [(term: String, text: String)] = []
    for spec in AllCommands.allSpecs {
      let own = spec.flags.compactMap { flag in flag.variable.map { ($0, "The same as --\(flag.long).") } }
      for (term, text) in own + spec.variables.map({ ($0.name, $0.summary + ".") })
      where !variables.contains(where: { $0.term == term }) { variables.append((term, text)) }
    }
    variables += [
      ("TRACEPARENT", "W3C trace context of requests and messages (default: a new trace)."),
      ("NO_COLOR", "If set, JSON is not coloured."),
      ("PAGER", "Pager for long help on a terminal (default: less)."),
    ]
    return [
      ManPage.Section("Environment", variables.sorted { $0.term < $1.term }),
      ManPage.Section(
        "Exit status",
        ExitStatus.table.map { ($0.code, $0.meaning.prefix(1).uppercased() + $0.meaning.dropFirst() + ".") }),
    ]
  }
}
