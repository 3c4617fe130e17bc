/// An agent of Consul, spoken to over its HTTP API (https://developer.hashicorp.com/consul/api-docs).
public final class ConsulAgent {
  public struct Settings: Sendable {
    public var address = ConsulAddress.standard
    public var token: String?
    /// A namespace of Consul Enterprise.
    public var namespace: String?
    public var tls = HTTPRequest.TLS()
    /// The name that the certificate must bear, where it is not the address's host.
    public var tlsServerName: String?
    public var timeout: Duration = .seconds(10)

    public init() {}
  }

  private let settings: Settings
  private let http: HTTPClient

  public init(_ settings: Settings, over http: HTTPClient) {
    self.settings = settings
    self.http = http
  }

  public var address: ConsulAddress { settings.address }

  // MARK: Looking up

  /// What narrows a look-up down; each is a parameter of the endpoint.
  public struct Selection: Sendable {
    public var tags: [String] = []
    public var datacenter: String?
    public var near: String?
    /// Consul's own expression (https://developer.hashicorp.com/consul/api-docs/features/filtering).
    public var filter: String?

    public init(tags: [String] = [], datacenter: String? = nil, near: String? = nil, filter: String? = nil) {
      self.tags = tags
      self.datacenter = datacenter
      self.near = near
      self.filter = filter
    }

    /// Whether there may be instances beside those that it selects.
    package var isNarrow: Bool { !tags.isEmpty || datacenter != nil || filter != nil }

    var query: [(String, String)] {
      tags.map { ("tag", $0) }
        + [("dc", datacenter), ("near", near), ("filter", filter)].compactMap { name, value in value.map { (name, $0) }
        }
    }
  }

  /// All instances of a service in every status: `GET /v1/health/service/:service`.
  ///
  /// - Throws: `denied` where the token may not read; Consul itself answers that with an empty list.
  public func instances(of service: String, _ selection: Selection = .init()) throws(Failure) -> [ServiceInstance] {
    let path = Self.healthPath(of: service)
    let answer = try answer(wait(for: begin("GET", path, selection.query)), to: path)
    return try instances(in: answer, of: service)
  }

  static func healthPath(of service: String) -> String { "/v1/health/service/" + Percent.encode(service) }
  static let catalogPath = "/v1/catalog/services"
  static let allChecksPath = "/v1/health/state/any"

  func instances(in answer: Answer, of service: String) throws(Failure) -> [ServiceInstance] {
    let instances = answer.value.elements.compactMap { ServiceInstance(health: $0) }
    if instances.isEmpty { try checkMayRead(service, answer) }
    return instances
  }

  /// The names of all services with their tags: `GET /v1/catalog/services`.
  public func services(datacenter: String? = nil) throws(Failure) -> [(name: String, tags: [String])] {
    let answer = try get(Self.catalogPath, datacenter.map { [("dc", $0)] } ?? [])
    return try services(in: answer)
  }

  func services(in answer: Answer) throws(Failure) -> [(name: String, tags: [String])] {
    if answer.isFiltered, answer.value.members.isEmpty { throw denied("reading the catalog") }
    return answer.value.members.map { ($0.name, $0.value.elements.compactMap(\.string).sorted()) }
      .sorted { $0.name < $1.name }
  }

  // MARK: Registering

  /// `PUT /v1/agent/service/register`. A service with the same id is replaced.
  public func register(_ registration: ServiceRegistration) throws(Failure) {
    try check(wait(for: beginRegister(registration)), "PUT", "/v1/agent/service/register")
  }

  /// `PUT /v1/agent/service/deregister/:id`. An id that the agent does not know is no error.
  public func deregister(id: String) throws(Failure) {
    let response = try wait(for: beginDeregister(id: id))
    // An agent without ACLs answers 200 for an id that it does not know; others, by their age, 500 or 404.
    if response.head.status == 404 || words(of: response.body).hasPrefix("Unknown service") { return }
    try check(response, "PUT", "/v1/agent/service/deregister/" + Percent.encode(id))
  }

  /// The ids of this agent's instances of a service: `GET /v1/agent/services`.
  ///
  /// - Throws: `denied` where the token may not see them.
  public func localIDs(of service: String) throws(Failure) -> [String] {
    let answer = try get("/v1/agent/services", [])
    let ids = answer.value.members.filter { $0.value["Service"]?.string == service }.map(\.name)
    if ids.isEmpty { try checkMayRead(service, answer) }
    return ids
  }

  /// Tells a list that is empty from one that the token may not see: for the latter, too, Consul answers with an empty list.
  /// Since 1.11 a header says so; before, `GET /v1/agent/health/service/name/:service` refuses who may not read.
  private func checkMayRead(_ service: String, _ answer: Answer) throws(Failure) {
    let path = "/v1/agent/health/service/name/" + Percent.encode(service)
    let isDenied = try answer.isFiltered ? true : wait(for: begin("GET", path)).head.status == 403
    if isDenied { throw denied("reading the service '\(service)'") }
  }

  /// `PUT /v1/agent/check/pass/:check_id`, for a TTL check.
  package func beginPass(check: String) throws(Failure) -> ConsulExchange {
    try begin("PUT", "/v1/agent/check/pass/" + Percent.encode(check))
  }

  /// As `register`.
  package func beginRegister(_ registration: ServiceRegistration) throws(Failure) -> ConsulExchange {
    try begin("PUT", "/v1/agent/service/register", body: registration.json)
  }

  /// As `deregister`.
  package func beginDeregister(id: String) throws(Failure) -> ConsulExchange {
    try begin("PUT", "/v1/agent/service/deregister/" + Percent.encode(id))
  }

  /// `PUT /v1/agent/service/maintenance/:id`: the instance is critical until it is deregistered, so that nobody calls it.
  package func beginMaintenance(id: String, reason: String) throws(Failure) -> ConsulExchange {
    try begin(
      "PUT", "/v1/agent/service/maintenance/" + Percent.encode(id), [("enable", "true"), ("reason", reason)])
  }

  // MARK: Requests

  /// What an agent says to a query.
  package struct Answer {
    package let value: JSONValue
    /// Whether the token may not see all that is there.
    package let isFiltered: Bool
    /// Changes with what was asked for, and sometimes without (`X-Consul-Index`).
    package let index: UInt64
  }

  /// Begins a query that is answered once something has changed
  /// (https://developer.hashicorp.com/consul/api-docs/features/blocking).
  /// - Parameters:
  ///   - index: the index of the last answer; 0: is answered at once.
  ///   - wait: how long nothing may change.
  package func beginBlocking(
    _ path: String, _ query: [(String, String)], after index: UInt64, wait: Duration
  ) throws(Failure) -> ConsulExchange {
    // A server that has just been started answers before it has read its own log again, unless it is asked to be consistent.
    let blocking =
      index == 0 ? [("consistent", "")] : [("index", String(index)), ("wait", "\(max(1, wait.milliseconds))ms")]
    // The agent stretches the time by up to a sixteenth, so that not all come back at once.
    let timeout = index == 0 ? settings.timeout : wait * 17 / 16 + settings.timeout
    return try begin("GET", path, query + blocking, timeout: timeout)
  }

  package func answer(_ response: HTTPResponse, to path: String) throws(Failure) -> Answer {
    try check(response, "GET", path)
    let value: JSONValue
    do { value = try JSONValue(parsing: response.body) } catch {
      throw Failure(
        .failed, "what answers at \(address.shown) is no Consul agent: its answer to \(path) is not JSON (\(error))",
        hint: "Check CONSUL_HTTP_ADDR.")
    }
    return Answer(
      value: value, isFiltered: response.head.header("X-Consul-Results-Filtered-By-ACLs") == "true",
      index: response.head.header("X-Consul-Index").flatMap { UInt64($0) } ?? 0)
  }

  private func get(_ path: String, _ query: [(String, String)]) throws(Failure) -> Answer {
    try answer(wait(for: begin("GET", path, query)), to: path)
  }

  /// The answer, whatever its status, once it is there.
  private func wait(for exchange: ConsulExchange) throws(Failure) -> HTTPResponse {
    while true {
      if let response = try exchange.take() { return response }
      do { try http.run(until: .never) } catch { throw failure(error) }
    }
  }

  private func begin(
    _ method: String, _ path: String, _ query: [(String, String)] = [], body: JSONValue? = nil, timeout: Duration? = nil
  ) throws(Failure) -> ConsulExchange {
    let all = query + (settings.namespace.map { [("ns", $0)] } ?? [])
    let parameters = all.map { "\($0.0)=\(Percent.encode($0.1))" }.joined(separator: "&")
    var request = HTTPRequest(method: method, url: address.base + path + (parameters.isEmpty ? "" : "?" + parameters))
    request.deadline = .after(timeout ?? settings.timeout)
    // An agent is near: to pack and unpack takes longer than to send.
    request.acceptsCompression = false
    try aim(&request)
    if let token = settings.token {
      guard let header = HTTPHeader("X-Consul-Token", token) else {
        throw Failure(.usage, "the Consul token holds control characters", hint: "Check CONSUL_HTTP_TOKEN or its file.")
      }
      request.headers.append(header)
    }
    if let body { request.body = .bytes(Array(body.text)) }
    do { return ConsulExchange(self, http, try http.start(request)) } catch { throw failure(error) }
  }

  fileprivate func failure(_ error: HTTPError) -> Failure {
    error.failure(
      reaching: "the Consul agent at \(address.shown)",
      hint: error.kind == .tls
        ? "CONSUL_CACERT names the authority that signed the agent's certificate."
        : "Start one for a try with 'consul agent -dev', or name another one with CONSUL_HTTP_ADDR.")
  }

  package func check(_ response: HTTPResponse, _ method: String, _ path: String) throws(Failure) {
    guard response.head.status != 200 else { return }
    let text = words(of: response.body)
    if response.head.status == 403 { throw denied("\(method) \(path)", text) }
    throw Failure(
      .failed, "Consul answered \(method) \(path) with \(response.head.status)\(text.isEmpty ? "" : ": " + text)")
  }

  private func aim(_ request: inout HTTPRequest) throws(Failure) {
    request.tls = settings.tls
    request.connectTimeout = settings.timeout
    request.usesProxy = false
    request.unixSocket = address.unixSocket
    guard let name = settings.tlsServerName else { return }
    do {
      let parts = try URLParts(request.url)
      request.connectTo = (parts.host, parts.port)
      request.url = "\(parts.scheme)://\(hostPort(name, parts.port))\(parts.target)"
    } catch {
      throw error.failure(reaching: request.url)
    }
  }

  private func denied(_ what: String, _ words: String = "") -> Failure {
    Failure(
      .denied, "Consul at \(address.shown) denies \(what)\(words.isEmpty ? "" : ": " + words)",
      hint: settings.token == nil
        ? "Give a token that may do this with CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE."
        : "The token of CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE is unknown or has no right to do this.")
  }
}

/// A request to an agent that is on its way; dropping it ends it. It makes progress while the HTTP client runs.
package final class ConsulExchange {
  private let agent: ConsulAgent
  private let http: HTTPClient
  private let transfer: HTTPTransfer
  private var body: [UInt8] = []

  fileprivate init(_ agent: ConsulAgent, _ http: HTTPClient, _ transfer: HTTPTransfer) {
    self.agent = agent
    self.http = http
    self.transfer = transfer
  }

  deinit {
    if transfer.outcome == nil { http.cancel(transfer) }
  }

  /// The answer, whatever its status; nil while there is none.
  package func take() throws(Failure) -> HTTPResponse? {
    body += transfer.takeBody()
    guard body.count <= HTTPClient.bodyLimit else {
      throw Failure(.failed, "the agent's answer is larger than \(HTTPClient.bodyLimit >> 20) MiB")
    }
    guard let outcome = transfer.outcome else { return nil }
    if case .failure(let error) = outcome { throw agent.failure(error) }
    guard let head = transfer.head else {
      throw agent.failure(HTTPError(kind: .broken, reason: "an answer without a head"))
    }
    return HTTPResponse(head: head, body: body)
  }
}

/// An answer's text in one short line, without control characters.
private func words(of body: [UInt8]) -> String {
  let text = String(decoding: body.prefix(300), as: UTF8.self)
  return String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? " " : $0 }))
    .split(separator: " ").joined(separator: " ")
}
