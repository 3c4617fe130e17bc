import CommandTable
import Glibc
import MsctlCore

/// `msctl register`: registers a service with the local agent, or removes it.
enum Register: Verb {
  /// `http=/health`, `tcp` or `ttl=30s`.
  enum CheckArgument: ArgumentValue, Equatable {
    case http(String)
    case tcp
    case ttl(Duration)

    init(argument: String) throws(ValueError) {
      let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      switch (parts[0], parts.count == 2 ? String(parts[1]) : nil) {
      case ("http", let path?) where path.hasPrefix("/") || path.hasPrefix("http://") || path.hasPrefix("https://"):
        self = .http(path)
      case ("tcp", nil): self = .tcp
      case ("ttl", let time?): self = .ttl(try Duration(argument: time))
      default: throw ValueError("is not one of http=/PATH, http=URL, tcp and ttl=TIME")
      }
    }

    var argumentText: String? { nil }
  }

  struct Options: VerbOptions {
    var service: ServiceName?
    var port: Int?
    var address = ""
    var id: String?
    var tags: [String] = []
    var meta: [NameValue] = []
    var check: CheckArgument?
    var interval: Duration = .seconds(10)
    var checkTimeout: Duration?
    var deregisterAfter: Duration?
    var removes = false
    var agent = AgentOptions()
    var output = OutputOptions()

    init() {}
  }

  static let command = Command<Options>(
    "register", "register a service with Consul, or remove it",
    details: """
      Registers an instance of the service NAME with the local agent. The registration stays until it is removed. An \
      instance with the same id is replaced.
      """,
    flags: [
      .number("port", "p", "N", in: 1...65535, into: \.port, "The port that the service listens on"),
      .value("address", nil, "HOST", into: \.address, "Its address; without it, callers take the node's"),
      .value("id", nil, "ID", into: \.id, "The id of the instance (default: NAME-HOST-PORT)"),
      .list("tag", nil, "TAG", into: \.tags, "A tag"),
      .list("meta", nil, "NAME=VALUE", into: \.meta, "A value of the service's meta data"),
      .toggle("remove", nil, into: \.removes, "Remove the instance with this id, or all of NAME at this agent"),
    ].under("Instance")
      + [
        .value("check", "c", "CHECK", into: \.check, "http=/PATH, http=URL, tcp or ttl=TIME")
          .details(
            """
            The agent makes the check: of the service's address, or of 127.0.0.1 where it has none. A ttl check passes now \
            and turns critical unless the service is registered again in time.
            """),
        .value("interval", nil, "TIME", into: \.interval, "How often the agent makes the check"),
        .value("check-timeout", nil, "TIME", into: \.checkTimeout, "How long a check may take"),
        .value(
          "deregister-after", nil, "TIME", into: \.deregisterAfter, "Remove the instance once it was critical so long"
        )
        .details("At least 1m; Consul looks every 30 s."),
      ].under("Check") + AgentOptions.flags.lifted(to: \.agent) + OutputOptions.flags.lifted(to: \.output),
    operands: [.one("NAME", into: \.service, "The service", completion: .live("service"))],
    variables: AgentOptions.variables.lifted(to: \.agent),
    examples: [
      Example("msctl register user-service --port 3000 --check http=/health", "Register with a check"),
      Example("msctl register user-service --remove", "Remove it"),
    ],
    check: { options throws(ValueError) in
      if !options.removes, options.port == nil {
        throw ValueError("'register' needs '--port N': where the service listens")
      }
      if options.check == nil, options.checkTimeout != nil || options.deregisterAfter != nil {
        throw ValueError("'--check-timeout' and '--deregister-after' need a '--check'")
      }
      if case .ttl(let time) = options.check, time < .seconds(1) {
        throw ValueError("'--check ttl=…' must be 1s or more")
      }
      if options.interval < .seconds(1) { throw ValueError("'--interval' must be 1s or more") }
      if let time = options.deregisterAfter, time < .seconds(60) {
        throw ValueError("'--deregister-after' must be 1m or more")
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let agent = try options.agent.agent(over: makeHTTPClient())
    guard let name = options.service?.text else { throw Failure(.usage, "there is no NAME") }
    if options.removes {
      try remove(name, options, agent, console)
    } else {
      let registration = registration(name, options)
      try agent.register(registration)
      console.note("registered '\(name)' as '\(registration.id)' with \(agent.address.shown)")
    }
  }

  static func registration(_ name: String, _ options: Options) -> ServiceRegistration {
    let port = options.port ?? 0
    var registration = ServiceRegistration(
      name: name, id: options.id ?? defaultID(name, options.address, port), address: options.address, port: port)
    registration.tags = options.tags
    registration.meta = options.meta.map { ($0.name, $0.value) }
    registration.check = options.check.map { check in
      let place = hostPort(options.address.isEmpty ? "127.0.0.1" : options.address, port)
      let kind: ServiceRegistration.Check.Kind =
        switch check {
        case .http(let path) where path.hasPrefix("/"): .http(url: "http://\(place)\(path)")
        case .http(let url): .http(url: url)
        case .tcp: .tcp(address: place)
        case .ttl(let time): .ttl(time)
        }
      return ServiceRegistration.Check(
        kind, interval: options.interval, timeout: options.checkTimeout, deregisterAfter: options.deregisterAfter)
    }
    return registration
  }

  /// Ids are unique an agent, so the name alone would let a second instance take the place of the first.
  private static func defaultID(_ name: String, _ address: String, _ port: Int) -> String {
    "\(name)-\(address.isEmpty ? hostName() : address)-\(port)"
  }

  private static func remove(
    _ name: String, _ options: Options, _ agent: ConsulAgent, _ console: Console
  ) throws(Failure) {
    let known = try agent.localIDs(of: name)
    let wanted = options.id ?? options.port.map { defaultID(name, options.address, $0) }
    let removed = wanted.map { id in known.filter { $0 == id } } ?? known
    for id in removed { try agent.deregister(id: id) }
    console.note(
      removed.isEmpty
        ? "'\(name)' was not registered with \(agent.address.shown)"
        : "removed \(removed.map { "'\($0)'" }.joined(separator: ", "))")
  }
}

private func hostName() -> String {
  var buffer = [CChar](repeating: 0, count: 256)
  gethostname(&buffer, buffer.count - 1)
  return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
