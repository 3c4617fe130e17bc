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

    public init() {}

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
    let answer = try get("/v1/health/service/" + Percent.encode(service), selection.query)
    let instances = answer.value.elements.compactMap { ServiceInstance(health: $0) }
    if instances.isEmpty { try checkMayRead(service, answer) }
    return instances
  }

  /// The names of all services with their tags: `GET /v1/catalog/services`.
  public func services(datacenter: String? = nil) throws(Failure) -> [(name: String, tags: [String])] {
    let answer = try get("/v1/catalog/services", datacenter.map { [("dc", $0)] } ?? [])
    if answer.isFiltered, answer.value.members.isEmpty { throw denied("reading the catalog") }
    return answer.value.members.map { ($0.name, $0.value.elements.compactMap(\.string).sorted()) }
      .sorted { $0.name < $1.name }
  }

  // MARK: Registering

  /// `PUT /v1/agent/service/register`. A service with the same id is replaced.
  public func register(_ registration: ServiceRegistration) throws(Failure) {
    _ = try send("PUT", "/v1/agent/service/register", [], body: registration.json)
  }

  /// `PUT /v1/agent/service/deregister/:id`. An id that the agent does not know is no error.
  public func deregister(id: String) throws(Failure) {
    let (method, path) = ("PUT", "/v1/agent/service/deregister/" + Percent.encode(id))
    let response = try exchange(method, path)
    // An agent without ACLs answers 200 for an id that it does not know; others, by their age, 500 or 404.
    if response.head.status == 404 || words(of: response.body).hasPrefix("Unknown service") { return }
    try check(response, method, path)
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
    let isDenied = try answer.isFiltered ? true : exchange("GET", path).head.status == 403
    if isDenied { throw denied("reading the service '\(service)'") }
  }

  // MARK: Requests

  private struct Answer {
    let value: JSONValue
    /// Whether the token may not see all that is there.
    let isFiltered: Bool
  }

  private func get(_ path: String, _ query: [(String, String)]) throws(Failure) -> Answer {
    let response = try send("GET", path, query, body: nil)
    let value: JSONValue
    do { value = try JSONValue(parsing: response.body) } catch {
      throw Failure(
        .failed, "what answers at \(address.shown) is no Consul agent: its answer to \(path) is not JSON (\(error))",
        hint: "Check CONSUL_HTTP_ADDR.")
    }
    return Answer(value: value, isFiltered: response.head.header("X-Consul-Results-Filtered-By-ACLs") == "true")
  }

  private func send(
    _ method: String, _ path: String, _ query: [(String, String)], body: JSONValue?
  ) throws(Failure) -> HTTPResponse {
    let response = try exchange(method, path, query, body: body)
    try check(response, method, path)
    return response
  }

  /// Makes a request, whatever the status of its answer.
  private func exchange(
    _ method: String, _ path: String, _ query: [(String, String)] = [], body: JSONValue? = nil
  ) throws(Failure) -> HTTPResponse {
    let all = query + (settings.namespace.map { [("ns", $0)] } ?? [])
    let parameters = all.map { "\($0.0)=\(Percent.encode($0.1))" }.joined(separator: "&")
    var request = HTTPRequest(method: method, url: address.base + path + (parameters.isEmpty ? "" : "?" + parameters))
    try aim(&request)
    if let token = settings.token {
      guard let header = HTTPHeader("X-Consul-Token", token) else {
        throw Failure(.usage, "the Consul token holds control characters", hint: "Check CONSUL_HTTP_TOKEN or its file.")
      }
      request.headers.append(header)
    }
    if let body { request.body = .bytes(Array(body.text)) }

    do { return try http.send(request) } catch {
      throw error.failure(
        reaching: "the Consul agent at \(address.shown)",
        hint: error.kind == .tls
          ? "CONSUL_CACERT names the authority that signed the agent's certificate."
          : "Start one for a try with 'consul agent -dev', or name another one with CONSUL_HTTP_ADDR.")
    }
  }

  private func check(_ response: HTTPResponse, _ method: String, _ path: String) throws(Failure) {
    guard response.head.status != 200 else { return }
    let text = words(of: response.body)
    if response.head.status == 403 { throw denied("\(method) \(path)", text) }
    throw Failure(
      .failed, "Consul answered \(method) \(path) with \(response.head.status)\(text.isEmpty ? "" : ": " + text)")
  }

  private func aim(_ request: inout HTTPRequest) throws(Failure) {
    request.tls = settings.tls
    request.deadline = .after(settings.timeout)
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

/// An answer's text in one short line, without control characters.
private func words(of body: [UInt8]) -> String {
  let text = String(decoding: body.prefix(300), as: UTF8.self)
  return String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? " " : $0 }))
    .split(separator: " ").joined(separator: " ")
}
