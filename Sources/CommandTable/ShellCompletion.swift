/// Completions for the shells, made from the table. Names that only a running service knows are asked of the program itself, with
/// `completion --list`.
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

  /// Names that only a running service knows are data of others: they are compared and quoted, never expanded. A word that
  /// the line holds is read without expanding it, too.
  private func bash(_ program: String, _ commands: [CommandSpec]) -> String {
    let names = commands.map(\.name)
    var text = #"""
      # Reads the line up to the cursor. words: the whole words, without their quotes; cur: the one at the cursor; head: what of
      # it stands before the part that readline replaces; open: the quote in which the cursor is.
      _\#(program)_read() {
        local line=${COMP_LINE:0:COMP_POINT} char i kept=0 within=
        for ((i = 0; i < ${#line}; i++)); do
          char=${line:i:1}
          if [[ $open == \' ]]; then
            if [[ $char == \' ]]; then open=; else cur+=$char; fi
          elif [[ $open == \" ]]; then
            case $char in
              \") open= ;;
              \\) case ${line:i+1:1} in
                  [\"\\\`$]) i=$((i + 1)); cur+=${line:i:1} ;;
                  *) cur+=$char ;;
                esac ;;
              *) cur+=$char ;;
            esac
          else
            case $char in
              [[:space:]]) if [[ $within ]]; then words+=("$cur"); fi; cur= kept=0 within=; continue ;;
              \\) i=$((i + 1)); cur+=${line:i:1} ;;
              [\'\"]) open=$char kept=${#cur} ;;
              *) cur+=$char; if [[ $COMP_WORDBREAKS == *"$char"* ]]; then kept=${#cur}; fi ;;
            esac
            within=1
          fi
        done
        head=${cur:0:kept}
      }
      # What is left of each name that begins with cur, compared by bytes.
      _\#(program)_match() {
        local LC_ALL=C name
        for name in "$@"; do
          name=$base$name
          if [ "${name:0:${#cur}}" = "$cur" ] && [ "${name:0:${#head}}" = "$head" ]; then tails+=("${name:${#head}}"); fi
        done
      }
      # Offers names, quoted for where the cursor is.
      _\#(program)_offer() {
        local tail tails=() backslash=\\ char
        _\#(program)_match "$@"
        for tail in "${tails[@]}"; do
          case $open in
            \') tail=${tail//"'"/"'\''"} ;;
            \")
              # Between double quotes nothing takes its meaning from an exclamation mark.
              if [[ $tail == *!* ]]; then continue; fi
              for char in "$backslash" '$' '`' '"'; do tail=${tail//"$char"/"$backslash$char"}; done ;;
            *) printf -v tail %q "$tail" ;;
          esac
          COMPREPLY+=("$tail")
        done
      }
      _\#(program)_live() {
        local name names=()
        while IFS= read -r name; do
          # Where options may stand, it would be one.
          if [[ $name != -* || $dashes || $base ]]; then names+=("$name"); fi
        done < <(\#(program) completion --list "$1" 2>/dev/null)
        _\#(program)_offer "${names[@]}"
      }
      _\#(program)() {
        local words=() cur= head= open= base= prev verb= dashes= word
        COMPREPLY=()
        _\#(program)_read
        for word in "${words[@]:1}"; do
          case $word in
            --) dashes=1 ;;
            -*) ;;
            *) [[ $verb ]] || verb=$word ;;
          esac
        done
        prev=${words[${#words[@]}-1]}
        if [[ $dashes ]]; then
          prev=
        elif [[ $cur == --*=* ]]; then
          prev=${cur%%=*} base=${cur%%=*}=
        fi
        case $verb in
          '') _\#(program)_offer \#((names + Self.extras).joined(separator: " ")) ;;
          help) _\#(program)_offer \#(names.joined(separator: " ")) ;;

      """#
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
      // Without an offer, bash completes the names of files.
      if !plain.isEmpty { text += "        \(plain.joined(separator: "|"))) return ;;\n" }
      text += "      esac\n"
      if command.operands.contains(where: { $0.arity == .rest }) { text += "      [[ ! $dashes ]] || return\n" }
      text += "      if [[ $cur == -* && ! $dashes ]]; then\n"
      text += "        _\(program)_offer \(command.flags.map { "--" + $0.long }.joined(separator: " "))\n"
      let offers = command.operands.compactMap { bashOffer($0.completion, program) }
      if !offers.isEmpty { text += "      else\n" + offers.map { "        \($0)\n" }.joined() }
      text += "      fi ;;\n"
    }
    return text + "  esac\n}\ncomplete -o default -o bashdefault -F _\(program) \(program)\n"
  }

  private func bashOffer(_ completion: Completion, _ program: String) -> String? {
    switch completion {
    case .nothing, .file: nil
    case .choices(let words): "_\(program)_offer \(words.joined(separator: " "))"
    case .live(let kind): "_\(program)_live \(kind)"
    }
  }

  // MARK: zsh

  private func zsh(_ program: String, _ commands: [CommandSpec]) -> String {
    var text = """
      _\(program)_list() {
        local -a names
        names=(${(f)"$(\(program) completion --list $1 2>/dev/null)"})
        # Where options may stand, a name that begins with a dash would be one.
        (( ${words[(I)--]} )) || names=(${names:#-*})
        compadd -a -- names
      }
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
    // Where options may stand, a name that begins with a dash would be one.
    var text = """
      function __\(program)_list
        \(program) completion --list $argv[1] 2>/dev/null | string match -v -- '-*'
      end
      complete -c \(program) -f

      """
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
    case .live(let kind): " -a '(__\(program)_list \(kind))'"
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
