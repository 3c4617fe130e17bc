import CommandTable
import Glibc
import MsctlCore

/// Options of a verb; every verb has those of the output.
protocol VerbOptions: Defaulted {
  var output: OutputOptions { get }
}

/// A subcommand: its table, and what it does.
protocol Verb: SendableMetatype {
  associatedtype Options: VerbOptions
  static var command: Command<Options> { get }
  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure)
}

/// The whole tool: its subcommands, and what happens with the words of a command line.
package enum AllCommands {
  package static let program = "msctl"
  package static let summary = "Call, publish and discover microservices from a shell."

  /// A verb without its type.
  private struct Entry: Sendable {
    let title: CommandTitle
    let spec: @Sendable () -> CommandSpec
    /// Understands the words, and does nothing.
    let check: @Sendable ([String]) throws -> Void
    let run: @Sendable ([String], [String: String], Console) throws -> Void

    init<V: Verb>(_: V.Type) {
      title = V.command.title
      spec = { V.command.spec }
      check = { _ = try V.command.parse($0) }
      run = { words, environment, console in
        switch try V.command.parse(words, environment: environment) {
        case .help(let length):
          console.write(line: Help.text(of: V.command.spec, program: program, length).trimmedEnd)
          try console.flush()
        case .run(let options):
          console.options = options.output
          try V.run(options, console, environment: environment)
        }
      }
    }
  }

  private static let entries = [
    Entry(Call.self), Entry(Publish.self), Entry(Consume.self), Entry(Register.self), Entry(Discover.self),
  ]

  /// What serves the tool itself.
  private static let tools = [Entry(CompletionCommand.self)]

  /// The five verbs.
  package static var specs: [CommandSpec] { entries.map { $0.spec() } }
  package static var allSpecs: [CommandSpec] { (entries + tools).map { $0.spec() } }

  /// Reads a command line without doing anything.
  /// - Returns: why it is refused; nil where it is not.
  @discardableResult
  package static func check(_ words: [String]) -> UsageError? {
    guard let name = words.first else { return .noCommand(overview: "") }
    do {
      try entry(name).check(Array(words.dropFirst()))
      return nil
    } catch { return error as? UsageError }
  }

  /// Does what the words after the program's name ask for.
  package static func run(_ words: [String], environment: [String: String]) -> ExitStatus {
    let console = Console(environment: environment)
    defer { console.close() }
    // An error in the command line itself must be written as the command line wants.
    console.options.jsonErrors = words.prefix { word in word != "--" }.contains { word in
      word == "--" + OutputOptions.jsonErrorsFlag
    }
    do {
      try dispatch(words, environment, console)
      return .done
    } catch let error as UsageError {
      let failure = Failure(.usage, error.message, hint: error.hint(program: program))
      console.report(failure)
      if let overview = error.overview { console.showHelp(overview) }
      return ExitStatus(failure)
    } catch let failure as Failure {
      console.report(failure)
      return ExitStatus(failure)
    } catch {
      let failure = Failure(.unknown("\(error)"))
      console.report(failure)
      return ExitStatus(failure)
    }
  }

  private static func dispatch(_ words: [String], _ environment: [String: String], _ console: Console) throws {
    var overview: String { Help.overview(program: program, summary: summary, commands: entries.map(\.title)) }
    switch words.first {
    case nil:
      throw UsageError.noCommand(overview: overview)
    case "-h", "--help":
      fallthrough
    case "help" where words.count == 1 || words[1] == "help":
      console.write(line: overview.trimmedEnd)
      try console.flush()
    case "-V", "--version", "version":
      console.write(line: "\(program) \(Version.msctl)")
      console.write(line: Version.curl)
      console.write(line: "librabbitmq/\(Version.rabbitMQ)")
      try console.flush()
    case "help":
      let spec = try entry(words[1]).spec()
      try showPaged(Help.text(of: spec, program: program, .full), environment, console)
    case let name?:
      try entry(name).run(Array(words.dropFirst()), environment, console)
    }
  }

  private static func entry(_ name: String) throws(UsageError) -> Entry {
    guard let entry = (entries + tools).first(where: { $0.title.name == name }) else {
      throw .unknownCommand(name, known: (entries + tools).map(\.title.name) + ["help"])
    }
    return entry
  }

  /// Long text, on a terminal in a pager.
  private static func showPaged(_ text: String, _ environment: [String: String], _ console: Console) throws(Failure) {
    let pager = environment["PAGER"] ?? "less"
    guard console.isTerminal, !pager.isEmpty else {
      console.write(line: text.trimmedEnd)
      return try console.flush()
    }
    // As git does: what fits on the screen stays there, without a key to be pressed.
    setenv("LESS", "FRX", 0)
    guard let pipe = popen(pager, "w") else { throw Failure(.noPager(pager)) }
    fputs(text, pipe)
    // A pager that is not there has said so; the text itself matters more.
    if pclose(pipe) >> 8 & 0xFF == 127 {
      console.write(line: text.trimmedEnd)
      try console.flush()
    }
  }
}

extension String {
  fileprivate var trimmedEnd: String { utf8.last == 0x0A ? String(unicodeScalars.dropLast()) : self }
}
