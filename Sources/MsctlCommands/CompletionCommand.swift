import CommandTable
import Glibc
import MsctlCore

/// `msctl completion`: the completions of a shell, and the names that they offer.
enum CompletionCommand: Verb {
  enum List: String, ArgumentChoice { case service, queue }

  struct Options: VerbOptions {
    var shell: ShellCompletion?
    var list: List?
    var managementURL: String?
    /// Whoever presses Tab does not wait longer.
    var patience: Duration = .milliseconds(300)
    var agent = AgentOptions()
    var broker = BrokerOptions()
    var output = OutputOptions()

    init() {}
  }

  static let command = Command<Options>(
    "completion", "write the completions for a shell",
    details: """
      Packages install them. By hand: 'eval "$(msctl completion bash)"' in ~/.bashrc, \
      'msctl completion zsh > DIR/_msctl' for a DIR of $fpath, 'msctl completion fish | source' in config.fish.

      Service names come from the Consul agent, queue names from RabbitMQ's management API: port 15672 of the broker, or \
      15671 with HTTPS and the broker's CA certificates if its URI is amqps://. A list that takes longer than \
      \(Options().patience.shown) stays empty; MSCTL_COMPLETION_TIMEOUT sets another limit.
      """,
    flags: [
      .value("list", nil, "WHAT", into: \.list, "Write the known names, one per line")
    ] + AgentOptions.flags.lifted(to: \.agent)
      + BrokerOptions.flags.filter { $0.spec.long == "broker" }.lifted(to: \.broker)
      + OutputOptions.flags.lifted(to: \.output),
    operands: [.optional("SHELL", into: \.shell, "bash, zsh or fish", completion: ShellCompletion.completion)],
    variables: AgentOptions.variables.lifted(to: \.agent) + [
      ManagementAPI.variable(into: \.managementURL),
      .value("MSCTL_COMPLETION_TIMEOUT", into: \.patience, "Time limit for a list of names (default: 300ms)"),
    ],
    examples: [Example("eval \"$(msctl completion bash)\"", "Current bash session only")],
    check: { options throws(ValueError) in
      guard (options.shell == nil) != (options.list == nil) else {
        throw ValueError("'completion' requires SHELL (bash, zsh or fish) or '--list'")
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    if let shell = options.shell {
      let script = shell.script(program: AllCommands.program, commands: AllCommands.allSpecs)
      console.write(text: Array(script.utf8))
    } else if let names = try? names(options, console) {
      // One line a name: one that a line cannot hold is left out.
      for name in names where !name.unicodeScalars.contains(where: isControl) { console.write(line: name) }
    }
    try console.flush()
  }

  /// What there is; nothing and no error where nobody answers.
  private static func names(_ options: Options, _ console: Console) throws -> [String] {
    switch options.list {
    case .service:
      let http = try makeHTTPClient(console)
      let loop = EventLoop(http)
      var settings = try options.agent.settings()
      settings.timeout = options.patience
      return try loop.answer(to: ConsulAgent(settings, over: http).beginServices()).map(\.name)
    case .queue:
      guard let uri = options.broker.brokers.uris.first else { return [] }
      let path = "/queues/\(Percent.encode(uri.vhost))?columns=name"
      let queues = try ManagementAPI.get(
        path, of: options.managementURL, beside: uri, within: options.patience, console)
      return queues?.elements.compactMap { $0["name"]?.string } ?? []
    case nil: return []
    }
  }
}
