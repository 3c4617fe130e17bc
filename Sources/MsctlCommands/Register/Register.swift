import CommandTable
import Glibc
import MsctlCore

/// `msctl register`: registers a service with the local agent, for as long as a command runs or until it is removed.
enum Register: Verb {
  /// `http=/health`, `tcp`, `grpc` or `ttl=30s`.
  enum CheckArgument: ArgumentValue, Equatable {
    case http(String)
    case tcp
    case grpc(service: String?)
    case ttl(Duration)

    init(argument: String) throws(ValueError) {
      let (kind, value) = argument.cut(at: "=").map { ($0.before, String($0.after)) } ?? (argument[...], nil)
      switch (kind, value) {
      case ("http", let path?) where ["/", "http://", "https://"].contains(where: { path.begins(with: $0) }):
        self = .http(path)
      case ("tcp", nil): self = .tcp
      case ("grpc", let service): self = .grpc(service: service)
      case ("ttl", let time?):
        self = .ttl(try Duration(argument: time))
        if case .ttl(let time) = self, time < .seconds(1) { throw ValueError("has a time of less than 1s") }
      default: throw ValueError("is not one of http=/PATH, http=URL, tcp, grpc, grpc=SERVICE and ttl=TIME")
      }
    }

    var argumentText: String? { nil }
    var isTTL: Bool { if case .ttl = self { true } else { false } }
    /// Whether it looks at the service's own port.
    var needsPort: Bool {
      switch self {
      case .http(let place): place.begins(with: "/")
      case .tcp, .grpc: true
      case .ttl: false
      }
    }
  }

  struct Options: VerbOptions {
    var service: ServiceName?
    var command: [String] = []
    var port: Int?
    var address = ""
    var id: String?
    var tags: [String] = []
    var meta: [NameValue] = []
    var weight: Int?
    var file: String?
    var checks: [CheckArgument] = []
    var interval: Duration = .seconds(10)
    var checkTimeout: Duration?
    var deregisterAfter: Duration?
    var removes = false
    var waits = false
    var isDryRun = false
    var drain: Duration = .zero
    var readyFile: FileName?
    var agent = AgentOptions()
    var output = OutputOptions()

    init() {}
  }

  /// How long `--wait` waits.
  static let patience: Duration = .seconds(60)

  static let command = Command<Options>(
    "register", "register a service with Consul, for as long as a command runs",
    details: """
      With COMMAND, msctl runs it with PORT and MSCTL_SERVICE_ID in its environment, registers the instance once COMMAND \
      accepts connections on its port, keeps it passing with a TTL check of \(HeldRegistration.ttl.shown), and deregisters it when COMMAND \
      ends, however it ends. The exit code is COMMAND's. SIGTERM, SIGINT and SIGQUIT first put the instance into maintenance, \
      and are passed to COMMAND's process group after '--drain'; other signals are passed on at once. COMMAND gets SIGKILL if \
      it has not ended 10 s after the signal, and so do processes that it leaves behind in its process group. If msctl itself \
      is killed with SIGKILL, the instance turns critical within \(HeldRegistration.ttl.shown) and Consul removes it after a minute.

      COMMAND inherits msctl's environment, CONSUL_HTTP_TOKEN and AMQP_URL included; to withhold one, run COMMAND with \
      'env -u CONSUL_HTTP_TOKEN'.

      Without '--port', COMMAND is a worker that listens nowhere: it is registered when it has started, without a port.

      Without COMMAND the registration stays until it is removed. An instance with the same id is replaced.
      """,
    flags: [
      .number("port", "p", "N", in: 0...65535, into: \.port, "Port that the service listens on; 0 picks a free one")
        .details("With 0, COMMAND must listen on $PORT."),
      .value("address", nil, "HOST", into: \.address, "Address to register (default: the node's address)"),
      .value("id", nil, "ID", into: \.id, "Id of the instance (default: NAME-HOST-PORT)")
        .details("Without a port, the default ends in a random number."),
      .list("tag", nil, "TAG", into: \.tags, "Add a tag"),
      .list("meta", nil, "NAME=VALUE", into: \.meta, "Add a value to the service's metadata"),
      .number("weight", nil, "N", in: 1...65535, into: \.weight, "Weight of the instance while it is passing"),
      .value("file", "f", "FILE", into: \.file, "Register a Consul service definition (JSON); - for standard input")
        .completed(by: .file)
        .details("As for 'consul services register': a service by itself, as \"service\", or several as \"services\"."),
      .toggle("remove", nil, into: \.removes, "Deregister the instance with --id, or all of NAME at this agent"),
      .toggle("dry-run", nil, into: \.isDryRun, "Print the registration; register nothing"),
      .toggle("wait", nil, into: \.waits, "Wait up to \(patience.shown) until the instance is passing"),
      .value("drain", nil, "TIME", into: \.drain, "Wait TIME after entering maintenance before signalling COMMAND"),
      .value("ready-file", nil, "FILE", into: \.readyFile, "Create FILE while COMMAND's instance is registered")
        .brief()
        .details(
          """
          For the probe of a container, 'test -e FILE'. It is removed while the agent is away, and before COMMAND \
          is ended. Whatever kills msctl leaves it to the next run, which removes it first.
          """),
    ].under("Instance")
      + [
        .list("check", "c", "CHECK", into: \.checks, "http=/PATH, http=URL, tcp, grpc, grpc=SERVICE or ttl=TIME")
          .details(
            """
            The agent checks the service's address, or 127.0.0.1 if it has none. A ttl check passes at first and turns \
            critical unless the service is registered again in time. With COMMAND, msctl refreshes the TTL check itself \
            and adds it to any --check you give.
            """),
        .value("interval", nil, "TIME", into: \.interval, "Run the checks every TIME"),
        .value("check-timeout", nil, "TIME", into: \.checkTimeout, "Time limit for a check"),
        .value(
          "deregister-after", nil, "TIME", into: \.deregisterAfter, "Deregister after it has been critical for TIME"
        )
        .details("At least 1m; Consul checks this every 30 s."),
      ].under("Check") + AgentOptions.flags.lifted(to: \.agent) + OutputOptions.flags.lifted(to: \.output),
    operands: [
      .optional("NAME", into: \.service, "The service (none with --file)", completion: .live("service")),
      .rest("COMMAND", into: \.command, "Program that runs the service, with its arguments"),
    ],
    variables: AgentOptions.variables.lifted(to: \.agent),
    examples: [
      Example("msctl register user-service --port 0 -- node server.js", "For as long as the server runs"),
      Example("msctl register mail-worker -- msctl consume mails --exec 'sendmail -t'", "A worker without a port"),
      Example("msctl register user-service --port 3000 --check http=/health", "Register what runs already"),
      Example("msctl register user-service --remove", "Remove it"),
    ],
    habits: .registering,
    check: check)

  private static let check: @Sendable (Options) throws(ValueError) -> Void = { options throws(ValueError) in
    let isHeld = !options.command.isEmpty
    if let id = options.id, !ConsulAgent.isSegment(id) {
      throw ValueError("invalid '--id \(id)': it would climb in a URL of Consul's API")
    }
    if options.file != nil {
      if options.removes { throw ValueError("'--remove' cannot be combined with '--file'") }
      let hasMore =
        options.service != nil || options.port != nil || !options.address.isEmpty || options.id != nil
        || !options.tags.isEmpty || !options.meta.isEmpty || options.weight != nil
        || options.checks.contains { !$0.isTTL }
      if hasMore {
        throw ValueError("'--file' cannot be combined with NAME or the options of the instance")
      }
    } else {
      guard options.service != nil else { throw ValueError("'register' requires NAME or '--file FILE'") }
      if !options.removes, options.port == nil, !isHeld {
        throw ValueError("'register' requires '--port N', the port that the service listens on, or COMMAND")
      }
      if options.port == nil, options.checks.contains(where: \.needsPort) {
        throw ValueError("'--check' of http=/PATH, tcp or grpc requires '--port N'")
      }
    }
    if options.isDryRun, isHeld || options.removes {
      throw ValueError("'--dry-run' cannot be combined with COMMAND or '--remove'")
    }
    if options.removes, isHeld { throw ValueError("'--remove' cannot be combined with COMMAND") }
    if options.port == 0, !isHeld {
      throw ValueError("'--port 0' requires COMMAND")
    }
    if options.waits, isHeld || options.removes {
      throw ValueError("'--wait' cannot be combined with COMMAND or '--remove'")
    }
    if options.drain != .zero, !isHeld { throw ValueError("'--drain' requires COMMAND") }
    if options.readyFile != nil, !isHeld { throw ValueError("'--ready-file' requires COMMAND") }
    if options.checks.isEmpty, !isHeld, options.checkTimeout != nil || options.deregisterAfter != nil {
      throw ValueError("'--check-timeout' and '--deregister-after' require '--check'")
    }
    if isHeld, options.checks.count(where: \.isTTL) > 1 {
      throw ValueError("with COMMAND, only one ttl check is allowed")
    }
    if options.interval < .seconds(1) { throw ValueError("'--interval' must be 1s or more") }
    if let time = options.deregisterAfter, time < .seconds(60) {
      throw ValueError("'--deregister-after' must be 1m or more")
    }
  }

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let http = try makeHTTPClient(console)
    let loop = EventLoop(http)
    let agent = try options.agent.agent(over: http, console)
    if options.removes { return try remove(options, agent, loop, console) }
    let registrations = try registrations(options)
    if options.isDryRun {
      for registration in registrations { console.write(value: registration.json) }
      return try console.flush()
    }
    guard options.command.isEmpty else {
      guard let registration = registrations.first, registrations.count == 1 else {
        throw Failure(.manyServices(registrations.count))
      }
      let held = try HeldService(registration, options, agent, loop, console, environment)
      return try held.run()
    }
    for registration in registrations {
      try loop.answer(to: agent.registering(registration))
      console.note(.registered(registration, agent.address))
    }
    if options.waits { try wait(for: registrations, agent, loop, console) }
  }

  /// What is to be registered: as the options say, or the file.
  private static func registrations(_ options: Options) throws(Failure) -> [ServiceRegistration] {
    guard let file = options.file else {
      return [registration(options.service?.text ?? "", port: try port(options), options)]
    }
    let text = try readFile(file, what: "the definition")
    let value: JSONValue
    do { value = try JSONValue(parsing: text) } catch {
      throw Failure(.definitionNotJSON(file: file, error))
    }
    return try ServiceRegistration.definitions(in: value)
  }

  private static func port(_ options: Options) throws(Failure) -> Int {
    guard options.port == 0 else { return options.port ?? 0 }
    guard let port = freePort() else { throw Failure(.noFreePort) }
    return port
  }

  private static func registration(_ name: String, port: Int, _ options: Options) -> ServiceRegistration {
    var registration = ServiceRegistration(
      name: name, id: options.id, address: options.address, port: port)
    registration.tags = options.tags
    registration.meta = options.meta.map { ($0.name, $0.value) }
    registration.weight = options.weight
    let place = hostPort(options.address.isEmpty ? "127.0.0.1" : options.address, port)
    // The one that msctl keeps alive is not among them.
    let wanted = options.command.isEmpty ? options.checks : options.checks.filter { !$0.isTTL }
    registration.checks = wanted.map { check in
      let kind: ServiceRegistration.Check.Kind =
        switch check {
        case .http(let path) where path.begins(with: "/"): .http(url: "http://\(place)\(path)")
        case .http(let url): .http(url: url)
        case .tcp: .tcp(address: place)
        case .grpc(let service): .grpc(address: place + (service.map { "/" + $0 } ?? ""))
        case .ttl(let time): .ttl(time)
        }
      return ServiceRegistration.Check(
        kind, interval: options.interval, timeout: options.checkTimeout, deregisterAfter: options.deregisterAfter)
    }
    return registration
  }

  private static func remove(
    _ options: Options, _ agent: ConsulAgent, _ loop: EventLoop, _ console: Console
  ) throws(Failure) {
    let name = options.service?.text ?? ""
    let known = try loop.answer(to: agent.beginLocalIDs(of: name))
    let wanted = options.id ?? options.port.map { ServiceRegistration.usualID(name, options.address, $0) }
    let removed = wanted.map { id in known.filter { $0.isSame(as: id) } } ?? known
    // An id of others that cannot stand in a URL must not keep the others from being removed.
    for id in removed.filter(ConsulAgent.isSegment) + removed.filter({ !ConsulAgent.isSegment($0) }) {
      try loop.answer(to: agent.deregistering(id: id))
    }
    console.note(removed.isEmpty ? .notRegistered(name, agent.address) : .removed(removed))
  }

  /// Waits until all instances are passing.
  private static func wait(
    for registrations: [ServiceRegistration], _ agent: ConsulAgent, _ loop: EventLoop, _ console: Console
  ) throws(Failure) {
    let deadline = Deadline.after(patience)
    for registration in registrations {
      let watch = agent.watch(registration.name, ConsulAgent.Selection(), where: { _ in true }, console)
      func own() -> ServiceInstance? { watch.instances?.first { $0.id.isSame(as: registration.id) } }
      while own()?.status != .passing {
        guard !deadline.isPast else {
          throw Failure(.notPassing(registration, after: patience, complaint: own()?.complaints.first))
        }
        _ = try watch.advance()
        loop.turn(until: min(deadline, watch.wakeTime))
      }
    }
  }
}
