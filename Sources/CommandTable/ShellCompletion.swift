/// Completions for the shells, made from the table. Names that only a running service knows are asked for with
/// `msctl completion --list`.
package enum ShellCompletion: String, ArgumentChoice {
  case bash, zsh, fish

  package func script(program: String, commands: [CommandSpec]) -> String {
    let head = "Written from the command table by 'make documents'. Do not edit."
    return switch self {
    case .bash: "# bash completion for \(program). \(head)\n" + bash(program, commands)
    case .zsh: "#compdef \(program)\n# \(head)\n" + zsh(program, commands)
    case .fish: "# fish completion for \(program). \(head)\n" + fish(program, commands)
    }
  }

  private static let extras = ["help", "--help", "--version"]

  // MARK: bash

  private func bash(_ program: String, _ commands: [CommandSpec]) -> String {
    let names = commands.map(\.name)
    var text = """
      _\(program)() {
        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i
        COMPREPLY=()
        # bash takes '--name=value' for three words.
        if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
        for ((i = 1; i < COMP_CWORD; i++)); do
          case ${COMP_WORDS[i]} in
            --) return ;;
            -*) ;;
            *) [[ $verb ]] || verb=${COMP_WORDS[i]} ;;
          esac
        done
        case $verb in
          '') COMPREPLY=($(compgen -W '\((names + Self.extras).joined(separator: " "))' -- "$cur")) ;;
          help) COMPREPLY=($(compgen -W '\(names.joined(separator: " "))' -- "$cur")) ;;

      """
    for command in commands {
      text += "    \(command.name))\n      case $prev in\n"
      var plain: [String] = []
      for flag in command.flags where flag.valueName != nil {
        let words = flag.words.joined(separator: "|")
        if let offer = bashOffer(flag.completion, program) {
          text += "        \(words)) \(offer); return ;;\n"
        } else {
          plain.append(words)
        }
      }
      if !plain.isEmpty { text += "        \(plain.joined(separator: "|"))) return ;;\n" }
      text += "      esac\n"
      text += "      if [[ $cur == -* ]]; then\n"
      text +=
        "        COMPREPLY=($(compgen -W '\(command.flags.map { "--" + $0.long }.joined(separator: " "))' -- \"$cur\"))\n"
      let offers = command.operands.compactMap { bashOffer($0.completion, program) }
      if !offers.isEmpty {
        text += "      else\n"
        for (index, offer) in offers.enumerated() {
          text += "        " + (index == 0 ? offer : offer.replacing("COMPREPLY=(", with: "COMPREPLY+=(")) + "\n"
        }
      }
      text += "      fi ;;\n"
    }
    return text + "  esac\n}\ncomplete -o default -o bashdefault -F _\(program) \(program)\n"
  }

  private func bashOffer(_ completion: Completion, _ program: String) -> String? {
    switch completion {
    case .nothing: nil
    case .file: "COMPREPLY=($(compgen -f -- \"$cur\"))"
    case .choices(let words): "COMPREPLY=($(compgen -W '\(words.joined(separator: " "))' -- \"$cur\"))"
    case .live(let kind):
      "COMPREPLY=($(compgen -W \"$(\(program) completion --list \(kind) 2>/dev/null)\" -- \"$cur\"))"
    }
  }

  // MARK: zsh

  private func zsh(_ program: String, _ commands: [CommandSpec]) -> String {
    var text = """
      _\(program)_list() { local -a names; names=(${(f)"$(\(program) completion --list $1 2>/dev/null)"}); compadd -a names }
      _\(program)() {
        local context state line curcontext=$curcontext
        local -a verbs
        verbs=(

      """
    for command in commands { text += "    '\(command.name):\(zshText(command.summary))'\n" }
    text += """
          'help:explain a command'
        )
        _arguments -C '--help[show help]' '--version[show versions]' '1: :->verb' '*:: :->words'
        case $state in
          verb) _describe 'command' verbs ;;
          words)
            case $words[1] in
              help) _describe 'command' verbs ;;

      """
    for command in commands {
      text += "        \(command.name)) _arguments -s -S"
      for flag in command.flags {
        let words = flag.words
        let value = flag.valueName.map { ":\(zshText($0)):\(zshOffer(flag.completion, program))" } ?? ""
        let names = words.count == 1 ? words[0] : "{\(words.joined(separator: ","))}"
        let exclusion = flag.repeats ? "'*'" : words.count == 1 ? "" : "'(\(words.joined(separator: " ")))'"
        let isLong = flag.valueName != nil && words.count == 1 ? "=" : ""
        text += " \\\n          \(exclusion)\(names)\(isLong)'[\(zshText(flag.summary))]\(value)'"
      }
      // Where an optional operand may be left out, its place is the next one's: each word is offered what any may be.
      let offers = command.operands.map(\.completion).filter { $0 != .nothing }.map { zshOffers($0, program) }
      let names = command.operands.map(\.name).joined(separator: " or ")
      text += " \\\n          '*:\(zshText(names)):{ \((offers.isEmpty ? [":"] : offers).joined(separator: "; ")) }'"
      text += " ;;\n"
    }
    return text + "      esac ;;\n  esac\n}\n_\(program) \"$@\"\n"
  }

  private func zshOffer(_ completion: Completion, _ program: String) -> String {
    switch completion {
    case .nothing: " "
    case .file: "_files"
    case .choices(let words): "(\(words.joined(separator: " ")))"
    case .live(let kind): " _\(program)_list \(kind)"
    }
  }

  /// As `zshOffer`, as a command.
  private func zshOffers(_ completion: Completion, _ program: String) -> String {
    if case .choices(let words) = completion { return "compadd \(words.joined(separator: " "))" }
    return zshOffer(completion, program).trimmed
  }

  private func zshText(_ text: String) -> String {
    text.reduce(into: "") { result, character in
      switch character {
      case "[", "]", ":": result += "\\" + String(character)
      case "'": result += "'\\''"
      default: result.append(character)
      }
    }
  }

  // MARK: fish

  private func fish(_ program: String, _ commands: [CommandSpec]) -> String {
    let names = commands.map(\.name)
    let none = "not __fish_seen_subcommand_from \((names + ["help"]).joined(separator: " "))"
    var text = "complete -c \(program) -f\n"
    text += "complete -c \(program) -n '\(none)' -l help -d 'Show help'\n"
    text += "complete -c \(program) -n '\(none)' -l version -d 'Show versions'\n"
    for command in commands {
      text += "complete -c \(program) -n '\(none)' -a \(command.name) -d '\(fishText(command.summary))'\n"
    }
    text += "complete -c \(program) -n '\(none)' -a help -d 'explain a command'\n"
    text += "complete -c \(program) -n '__fish_seen_subcommand_from help' -a '\(names.joined(separator: " "))'\n"
    for command in commands {
      let seen = "__fish_seen_subcommand_from \(command.name); and not __fish_seen_subcommand_from help"
      for flag in command.flags {
        text +=
          "complete -c \(program) -n '\(seen)' -l \(flag.long)" + (flag.short.map { " -s \($0)" } ?? "")
          + (flag.valueName == nil
            ? "" : (flag.completion == .file ? " -r" : " -x") + fishOffer(flag.completion, program))
          + " -d '\(fishText(flag.summary))'\n"
      }
      for operand in command.operands {
        let offer = fishOffer(operand.completion, program)
        if !offer.isEmpty { text += "complete -c \(program) -n '\(seen)'\(offer) -d '\(fishText(operand.name))'\n" }
      }
    }
    return text
  }

  private func fishOffer(_ completion: Completion, _ program: String) -> String {
    switch completion {
    case .nothing: ""
    case .file: " -F"
    case .choices(let words): " -a '\(words.joined(separator: " "))'"
    case .live(let kind): " -a '(\(program) completion --list \(kind) 2>/dev/null)'"
    }
  }

  private func fishText(_ text: String) -> String {
    text.reduce(into: "") { $0 += $1 == "'" ? "\\'" : String($1) }
  }
}

extension String {
  fileprivate var trimmed: String { String(drop { $0 == " " }) }
}

extension FlagSpec {
  /// `-n` and `--count`, as they are written.
  fileprivate var words: [String] { (short.map { ["-\($0)"] } ?? []) + ["--" + long] }
}
