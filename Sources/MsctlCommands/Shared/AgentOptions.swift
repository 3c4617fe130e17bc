import CommandTable
import MsctlCore

/// How to reach the Consul agent: options and the variables that `consul` itself reads
/// (https://developer.hashicorp.com/consul/commands#environment-variables).
struct AgentOptions: Defaulted {
  var address = ConsulAddress.standard
  var token: String?
  var tokenFile: String?
  var namespace: String?
  var usesTLS: Bool?
  var authorityFile: String?
  var authorityFolder: String?
  var certificateFile: String?
  var keyFile: String?
  var serverName: String?
  var verifies: Bool?

  init() {}

  static let flags: [Flag<AgentOptions>] = [
    .value("consul-addr", nil, "ADDR", into: \.address, "The Consul agent")
      .variable("CONSUL_HTTP_ADDR")
      .details("As http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:///PATH."),
    .value("consul-token-file", nil, "FILE", into: \.tokenFile, "The file with the ACL token")
      .variable("CONSUL_HTTP_TOKEN_FILE").completed(by: .file),
  ].under("Consul")

  static let variables: [Variable<AgentOptions>] = [
    .value("CONSUL_HTTP_TOKEN", into: \.token, "The ACL token, where no file holds it").secret(),
    .value("CONSUL_HTTP_SSL", into: \.usesTLS, "true: https, also where the address says http"),
    .value("CONSUL_CACERT", into: \.authorityFile, "A file of authorities that may sign the agent's certificate"),
    .value("CONSUL_CAPATH", into: \.authorityFolder, "A folder of such authorities"),
    .value("CONSUL_CLIENT_CERT", into: \.certificateFile, "The client's certificate"),
    .value("CONSUL_CLIENT_KEY", into: \.keyFile, "The key of the client's certificate"),
    .value("CONSUL_TLS_SERVER_NAME", into: \.serverName, "The name that the agent's certificate must bear"),
    .value("CONSUL_HTTP_SSL_VERIFY", into: \.verifies, "false: the agent's certificate is not verified"),
    .value("CONSUL_NAMESPACE", into: \.namespace, "The namespace (Consul Enterprise)"),
  ]

  /// Reads the token's file, and says what to talk to.
  func settings() throws(Failure) -> ConsulAgent.Settings {
    var settings = ConsulAgent.Settings()
    settings.address = usesTLS == true ? address.overTLS : address
    settings.token = token
    if let tokenFile { settings.token = try SecretSource.file(tokenFile).read([:]) }
    settings.namespace = namespace
    settings.tls.authorityFile = authorityFile
    settings.tls.authorityFolder = authorityFolder
    settings.tls.certificateFile = certificateFile
    settings.tls.keyFile = keyFile
    settings.tls.verifies = verifies ?? true
    settings.tlsServerName = serverName
    return settings
  }

  func agent(over http: HTTPClient) throws(Failure) -> ConsulAgent {
    ConsulAgent(try settings(), over: http)
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

extension HTTPClient {
  /// Moves all requests on, waiting at most until the deadline for something to happen.
  /// - Returns: whether the descriptor can be read.
  @discardableResult
  func move(until deadline: Deadline, orReading descriptor: Int32? = nil) throws(Failure) -> Bool {
    do { return try run(until: deadline, orReading: descriptor) } catch { throw Failure(.failed, error.reason) }
  }
}

/// The HTTP client of a command.
func makeHTTPClient(_ console: Console) throws(Failure) -> HTTPClient {
  do { return try HTTPClient(trace: console.options.isVerbose ? { console.trace($0) } : nil) } catch {
    throw Failure(.failed, error.reason)
  }
}
