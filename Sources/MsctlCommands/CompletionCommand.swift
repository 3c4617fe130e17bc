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
      .value(
        "MSCTL_MANAGEMENT_URL", into: \.managementURL,
        "Base URL of RabbitMQ's management API, including /api: http://HOST:15672/api; https:// for an amqps:// broker"),
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
    let http = try makeHTTPClient(console)
    let loop = EventLoop(http)
    switch options.list {
    case .service:
      var settings = try options.agent.settings()
      settings.timeout = options.patience
      return try loop.answer(to: ConsulAgent(settings, over: http).beginServices()).map(\.name)
    case .queue:
      guard let uri = options.broker.brokers.uris.first else { return [] }
      // A password that goes to the broker over TLS does not go anywhere in the clear.
      let base =
        options.managementURL
        ?? (uri.usesTLS ? "https://\(hostPort(uri.host, 15671))/api" : "http://\(hostPort(uri.host, 15672))/api")
      guard !uri.usesTLS || base.lowercasedASCII.begins(with: "https://") else { return [] }
      var request = HTTPRequest(url: "\(base)/queues/\(Percent.encode(uri.vhost))?columns=name")
      request.deadline = .after(options.patience)
      request.usesProxy = false
      request.tls.authorityFile = uri.authorityFile
      request.tls.certificateFile = uri.certificateFile
      request.tls.keyFile = uri.keyFile
      request.tls.verifies = uri.verifiesPeer
      if let login = HTTPHeader(
        "Authorization", "Basic " + Base64.encode(Array("\(uri.user):\(uri.password)".utf8)))
      {
        request.headers.append(login)
      }
      let transfer = try http.start(request)
      var body: [UInt8] = []
      while transfer.outcome == nil {
        loop.turn()
        body += transfer.takeBody()
      }
      return try JSONValue(parsing: body).elements.compactMap { $0["name"]?.string }
    case nil: return []
    }
  }
}
