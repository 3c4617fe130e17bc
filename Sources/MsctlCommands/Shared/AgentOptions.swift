import CommandTable
import MsctlCore

/// How to reach the Consul agent: options and the variables that `consul` itself reads
/// (https://developer.hashicorp.com/consul/commands#environment-variables).
struct AgentOptions: Defaulted {
  var address = ConsulAddress.standard
  var token: String?
  var tokenFile: String?
  var login: String?
  var namespace: String?
  var partition: String?
  var usesTLS: Bool?
  var authorityFile: String?
  var authorityFolder: String?
  var certificateFile: String?
  var keyFile: String?
  var serverName: String?
  var verifies: Bool?

  init() {}

  static let flags: [Flag<AgentOptions>] = [
    .value("consul-addr", nil, "ADDR", into: \.address, "Address of the Consul agent")
      .variable("CONSUL_HTTP_ADDR")
      .details("As http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:///PATH."),
    .value("consul-token-file", nil, "FILE", into: \.tokenFile, "Read the ACL token from FILE")
      .variable("CONSUL_HTTP_TOKEN_FILE").completed(by: .file),
    .value("partition", nil, "NAME", into: \.partition, "Admin partition (Consul Enterprise)")
      .variable("CONSUL_PARTITION"),
  ].under("Consul")

  static let variables: [Variable<AgentOptions>] = [
    .value("CONSUL_HTTP_TOKEN", into: \.token, "ACL token, unless a file is given").secret(),
    .value("CONSUL_HTTP_AUTH", into: \.login, "user:password for a proxy in front of the agent (basic authentication)")
      .secret(),
    .value("CONSUL_HTTP_SSL", into: \.usesTLS, "true: use HTTPS even if the address says http"),
    .value("CONSUL_CACERT", into: \.authorityFile, "File of CA certificates to verify the agent with"),
    .value("CONSUL_CAPATH", into: \.authorityFolder, "Directory of CA certificates to verify the agent with"),
    .value("CONSUL_CLIENT_CERT", into: \.certificateFile, "Client certificate"),
    .value("CONSUL_CLIENT_KEY", into: \.keyFile, "Key of the client certificate"),
    .value("CONSUL_TLS_SERVER_NAME", into: \.serverName, "Name that the agent's certificate must have"),
    .value("CONSUL_HTTP_SSL_VERIFY", into: \.verifies, "false: do not verify the agent's certificate"),
    .value("CONSUL_NAMESPACE", into: \.namespace, "Namespace (Consul Enterprise)"),
  ]

  /// Reads the token's file, and says what to talk to.
  func settings(_ lookUp: LookUpOptions = .init()) throws(Failure) -> ConsulAgent.Settings {
    var settings = ConsulAgent.Settings()
    settings.address = usesTLS == true ? address.overTLS : address
    settings.token = token
    if let tokenFile { settings.token = try SecretSource.file(tokenFile).read([:]) }
    settings.login = login
    settings.namespace = namespace
    settings.partition = partition
    settings.consistency = lookUp.isStale ? .stale : lookUp.isConsistent ? .consistent : .standard
    settings.tls.authorityFile = authorityFile
    settings.tls.authorityFolder = authorityFolder
    settings.tls.certificateFile = certificateFile
    settings.tls.keyFile = keyFile
    settings.tls.verifies = verifies ?? true
    settings.tlsServerName = serverName
    return settings
  }

  /// - Parameter timeout: how long a question may take; nil: the default.
  func agent(
    over http: HTTPClient, _ console: Console, _ lookUp: LookUpOptions = .init(), timeout: Duration? = nil
  ) throws(Failure) -> ConsulAgent {
    var settings = try settings(lookUp)
    if let timeout { settings.timeout = timeout }
    return ConsulAgent(settings, over: http, notes: { console.note($0.text(settings.address)) })
  }
}

extension ConsulAgent {
  /// A watch of a service, or of all.
  /// - Parameter tellsOutages: whether it is told where the agent goes away and comes back.
  func watch(
    _ service: String?, _ selection: ConsulAgent.Selection, where accepts: (HealthStatus) -> Bool, _ console: Console,
    tellsOutages: Bool = false
  ) -> ConsulWatch {
    let address = address
    return ConsulWatch(self, service: service, selection, where: accepts) { note in
      switch note {
      case .agentAway, .agentBack: if tellsOutages { console.note(note.text(address)) }
      case .leaderless, .leftOut: console.note(note.text(address))
      }
    }
  }
}

/// How verbs that look services up do so, beside their own ways to select.
struct LookUpOptions: Defaulted {
  var peer: String?
  var portName: String?
  var isStale = false
  var isConsistent = false

  init() {}

  static let flags: [Flag<LookUpOptions>] = [
    .value("peer", nil, "NAME", into: \.peer, "Use only instances imported from this cluster peer"),
    .value("port-name", nil, "NAME", into: \.portName, "Use the port with this name, of instances with named ports")
      .details("Without it, the default port is used. Named ports require Consul 1.22."),
    .toggle("stale", nil, into: \.isStale, "Let any Consul server respond, even with stale data")
      .details("By default the leader responds, or any server if there is no leader."),
    .toggle("consistent", nil, into: \.isConsistent, "Make the leader verify that it still leads before it responds"),
  ].under("Look-up")

  func check() throws(ValueError) {
    if isStale, isConsistent { throw ValueError("'--stale' cannot be combined with '--consistent'") }
  }

  func narrow(_ selection: ConsulAgent.Selection) -> ConsulAgent.Selection {
    var selection = selection
    selection.peer = peer
    selection.portName = portName
    return selection
  }
}

extension Bool: ArgumentValue {
  /// As Go's `strconv.ParseBool`, which reads these variables for `consul`.
  package init(argument: String) throws(ValueError) {
    switch argument {
    case "1", "t", "T", "true", "TRUE", "True": self = true
    case "0", "f", "F", "false", "FALSE", "False": self = false
    default: throw ValueError("is not true or false")
    }
  }

  package var argumentText: String? { nil }
}

/// The HTTP client of a command that does not speak to a broker.
func makeHTTPClient(_ console: Console) throws(Failure) -> HTTPClient {
  HTTPClient.deferTLS()
  do { return try HTTPClient(trace: console.options.isVerbose ? { console.trace($0) } : nil) } catch {
    throw Failure(.httpClient(reason: error.reason))
  }
}
