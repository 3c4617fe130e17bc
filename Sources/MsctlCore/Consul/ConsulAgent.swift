/// An agent of Consul, spoken to over its HTTP API (https://developer.hashicorp.com/consul/api-docs).
public final class ConsulAgent {
  /// Where the agent is, and how it is asked.
  public struct Settings: Sendable {
    /// Where it is.
    public var address = ConsulAddress.standard
    /// The ACL token.
    public var token: String?
    /// `user:password` for a proxy before the agent that wants basic authentication.
    public var login: String?
    /// A namespace of Consul Enterprise.
    public var namespace: String?
    /// An admin partition of Consul Enterprise.
    public var partition: String?
    /// How consistent its answers must be.
    public var consistency = Consistency.standard
    /// How it proves who it is.
    public var tls = HTTPRequest.TLS()
    /// The name that the certificate must bear, where it is not the address's host.
    public var tlsServerName: String?
    /// How long one question may take, connecting and asking again included.
    public var timeout: Duration = .seconds(10)

    /// The agent of this machine.
    public init() {}
  }

  /// How fresh the answers to look-ups are (https://developer.hashicorp.com/consul/api-docs/features/consistency).
  public enum Consistency: Sendable {
    /// The leader answers: what was registered before is seen. Where there is none, as `stale`.
    case standard
    /// Any server answers, from what it knows.
    case stale
    /// The leader makes sure first that it still is one.
    case consistent

    var query: [(String, String)] {
      switch self {
      case .standard: []
      case .stale: [("stale", "")]
      case .consistent: [("consistent", "")]
      }
    }
  }

  let settings: Settings
  private let http: HTTPClient
  private let notes: ((Note) -> Void)?

  /// What people should know of an answer.
  package enum Note: Sendable {
    /// There is no leader, so that it may be out of date.
    case leaderless
  }

  package convenience init(_ settings: Settings, over http: HTTPClient) {
    self.init(settings, over: http, notes: nil)
  }

  package init(_ settings: Settings, over http: HTTPClient, notes: ((Note) -> Void)?) {
    self.settings = settings
    self.http = http
    self.notes = notes
  }

  package var address: ConsulAddress { settings.address }

  // MARK: Looking up

  /// What narrows a look-up down; each is a parameter of the endpoint.
  public struct Selection: Sendable {
    /// With all of these tags.
    public var tags: [String] = []
    /// Of this datacenter; nil: the agent's own.
    public var datacenter: String?
    /// Sorted by their distance to this node.
    public var near: String?
    /// Consul's own expression (https://developer.hashicorp.com/consul/api-docs/features/filtering).
    public var filter: String?
    /// The peered cluster that the instances are imported from. Only `GET /v1/health/service/:service` takes it
    /// (`parsePeerName` in agent/http.go, called by agent/health_endpoint.go); lists of all services and checks do not.
    public var peer: String?
    /// Of instances with named ports, this one. Those without it are left out.
    public var portName: String?

    /// Those that all of this holds for.
    public init(tags: [String] = [], datacenter: String? = nil, near: String? = nil, filter: String? = nil) {
      self.tags = tags
      self.datacenter = datacenter
      self.near = near
      self.filter = filter
    }

    /// Whether there may be instances beside those that it selects.
    package var isNarrow: Bool { !tags.isEmpty || datacenter != nil || filter != nil || peer != nil }

    /// What says where to look, for every endpoint.
    var place: [(String, String)] {
      datacenter.map { [("dc", $0)] } ?? []
    }

    var query: [(String, String)] {
      tags.map { ("tag", $0) } + place
        + [("peer", peer), ("near", near), ("filter", filter)].compactMap { name, value in value.map { (name, $0) } }
    }
  }

  /// Asks for all instances of a service in every status: `GET /v1/health/service/:service`.
  ///
  /// - Parameter deadline: when it must be over, if that is before the agent's own time.
  package func beginInstances(
    of service: String, _ selection: Selection = .init(), until deadline: Deadline = .never
  ) throws(Failure) -> ConsulLookUp {
    try ConsulLookUp(self, service, selection, until: deadline)
  }

  /// Of all instances those that have the named port, if one is asked for.
  func narrowed(
    _ all: [ServiceInstance], of service: String, _ selection: Selection
  ) throws(Failure) -> [ServiceInstance] {
    guard let name = selection.portName else { return all }
    let found = all.compactMap { $0.at(port: name) }
    guard found.isEmpty, let ports = all.first?.ports else { return found }
    throw failure(.noPort(name, service: service, ports: ports.map(\.name)))
  }

  static func healthPath(of service: String) -> String { "/v1/health/service/" + Percent.encode(service) }
  /// Tells a list that is empty from one that the token may not see: for the latter, too, Consul answers with an empty list.
  /// Since 1.11 a header says so (see `Terms`); before, this refuses who may not read.
  static func ownHealthPath(of service: String) -> String {
    "/v1/agent/health/service/name/" + Percent.encode(service)
  }
  static let catalogPath = "/v1/catalog/services"
  static let allChecksPath = "/v1/health/state/any"

  func list(in answer: Answer) throws(Failure) -> [ServiceInstance] {
    var instances: [ServiceInstance] = []
    guard answer.value.kind == .array else { throw unexpected(answer, .instances) }
    for entry in answer.value.elements {
      guard let instance = ServiceInstance(health: entry) else { throw unexpected(answer, .instances) }
      instances.append(instance)
    }
    return instances
  }

  /// Asks for the names of all services with their tags: `GET /v1/catalog/services`.
  /// - Parameter selection: only the datacenter counts.
  package func beginServices(
    _ selection: Selection = .init()
  ) throws(Failure) -> ConsulReading<[(name: String, tags: [String])]> {
    let path = Self.catalogPath
    let question = try ConsulQuestion(self, "GET", path, selection.place, as: settings.consistency)
    return ConsulReading(question) { response throws(Failure) in
      let answer = try self.answer(response, to: path)
      let services = try self.services(in: answer)
      if services.isEmpty, answer.terms.isFiltered { throw self.deniedReading(nil) }
      return .answer(services)
    }
  }

  func services(in answer: Answer) throws(Failure) -> [(name: String, tags: [String])] {
    let members = answer.value.members
    guard answer.value.kind == .object, members.allSatisfy({ [.array, .null].contains($0.value.kind) }) else {
      throw unexpected(answer, .services)
    }
    return members.map { ($0.name, $0.value.elements.compactMap(\.string).sorted()) }.sorted { $0.name < $1.name }
  }

  /// What a check says, as `GET /v1/health/state/any` lists it.
  package struct CheckState: Sendable {
    let node: String
    /// Empty: a check of the node, which counts for all of its instances.
    let service: String
    let instance: String
    let status: String
    /// When it was changed last.
    let index: UInt64

    package init(node: String, service: String, instance: String, status: String, index: UInt64) {
      (self.node, self.service, self.instance, self.status, self.index) = (node, service, instance, status, index)
    }
  }

  func checks(in answer: Answer) throws(Failure) -> [CheckState] {
    var checks: [CheckState] = []
    guard answer.value.kind == .array else { throw unexpected(answer, .checks) }
    for entry in answer.value.elements {
      let parts = entry[["Node", "ServiceName", "ServiceID", "Status", "ModifyIndex"]]
      guard let node = parts[0]?.string, let status = parts[3]?.string else {
        throw unexpected(answer, .checks)
      }
      checks.append(
        CheckState(
          node: node, service: parts[1]?.string ?? "", instance: parts[2]?.string ?? "", status: status,
          index: parts[4]?.integer.flatMap { UInt64(exactly: $0) } ?? 0))
    }
    return checks
  }

  // MARK: Registering

  private static let registerPath = "/v1/agent/service/register"
  private static func deregisterPath(_ id: String) -> String { "/v1/agent/service/deregister/" + Percent.encode(id) }

  /// Registers, with patience: `PUT /v1/agent/service/register`. A service with the same id is replaced.
  package func registering(_ registration: ServiceRegistration) throws(Failure) -> ConsulReading<Void> {
    let path = Self.registerPath
    let question = try ConsulQuestion(self, "PUT", path, body: registration.json)
    return ConsulReading(question) { response throws(Failure) in .answer(try self.check(response, "PUT", path)) }
  }

  /// Deregisters, with patience: `PUT /v1/agent/service/deregister/:id`. An id that the agent does not know is no error.
  package func deregistering(id: String) throws(Failure) -> ConsulReading<Void> {
    let path = Self.deregisterPath(id)
    return ConsulReading(try ConsulQuestion(self, "PUT", path)) { response throws(Failure) in
      if !self.isUnknown(response) { try self.check(response, "PUT", path) }
      return .answer(())
    }
  }

  /// Whether the agent says that it knows no such service or check. By its age and its ACLs it does so with 404 or 500 (and
  /// for a service also with 200); the words are the same: see `vetServiceUpdateWithAuthorizer` and
  /// `vetCheckUpdateWithAuthorizer` in agent/acl.go, and `updateTTLCheck` in agent/agent.go.
  package func isUnknown(_ response: HTTPResponse) -> Bool {
    guard [404, 500].contains(response.head.status) else { return false }
    let text = words(of: response.body)
    return ["Unknown service", "Unknown check", "does not have associated TTL"].contains { text.holds(text: $0) }
  }

  /// Asks for the ids of this agent's instances of a service: `GET /v1/agent/services`. The answer is `denied` where the token
  /// may not see them.
  package func beginLocalIDs(of service: String) throws(Failure) -> ConsulReading<[String]> {
    let path = "/v1/agent/services"
    return ConsulReading(try ConsulQuestion(self, "GET", path)) { response throws(Failure) in
      let answer = try self.answer(response, to: path)
      guard answer.value.kind == .object else { throw self.unexpected(answer, .services) }
      let ids = answer.value.members.filter { $0.value["Service"]?.string?.isSame(as: service) == true }.map(\.name)
      guard ids.isEmpty else { return .answer(ids) }
      if answer.terms.isFiltered { throw self.deniedReading(service) }
      let question = try ConsulQuestion(self, "GET", Self.ownHealthPath(of: service))
      return .ask(question) { response throws(Failure) in
        if response.head.status == 403 { throw self.deniedReading(service) }
        return .answer([])
      }
    }
  }

  /// `PUT /v1/agent/check/pass/:check_id`, for a TTL check.
  package func beginPass(check: String) throws(Failure) -> ConsulExchange {
    try begin("PUT", "/v1/agent/check/pass/" + Percent.encode(check))
  }

  /// As `registering`, once.
  package func beginRegister(_ registration: ServiceRegistration) throws(Failure) -> ConsulExchange {
    try begin("PUT", Self.registerPath, body: registration.json)
  }

  /// As `deregistering`, once.
  package func beginDeregister(id: String) throws(Failure) -> ConsulExchange {
    try begin("PUT", Self.deregisterPath(id))
  }

  /// `PUT /v1/agent/service/maintenance/:id`: the instance is critical until it is deregistered, so that nobody calls it.
  package func beginMaintenance(id: String, reason: String) throws(Failure) -> ConsulExchange {
    try begin(
      "PUT", "/v1/agent/service/maintenance/" + Percent.encode(id), [("enable", "true"), ("reason", reason)])
  }

  // MARK: Requests

  /// What an agent says to a query.
  struct Answer {
    let path: String
    let value: JSONValue
    let terms: Terms
  }

  /// What an agent says beside an answer.
  package struct Terms: Sendable {
    /// Changes with what was asked for, and sometimes without (`X-Consul-Index`).
    package let index: UInt64
    /// Whether the token may not see all that is there.
    let isFiltered: Bool
    /// Whether the server that answered knows of a leader.
    let hasLeader: Bool

    package init(index: UInt64, isFiltered: Bool, hasLeader: Bool) {
      (self.index, self.isFiltered, self.hasLeader) = (index, isFiltered, hasLeader)
    }

    init(_ head: HTTPHead) {
      index = head.header("X-Consul-Index").flatMap { UInt64($0) } ?? 0
      isFiltered = head.header("X-Consul-Results-Filtered-By-ACLs") == "true"
      hasLeader = head.header("X-Consul-KnownLeader") == "true"
    }
  }

  /// Begins a look-up.
  /// - Parameters:
  ///   - index: the index of an earlier answer, beyond which there is to be something new; nil: is answered at once.
  ///   - wait: how long nothing may change.
  func beginLookUp(
    _ path: String, _ query: [(String, String)], beyond index: UInt64?, wait: Duration, _ consistency: Consistency
  ) throws(Failure) -> ConsulExchange {
    guard let index else { return try begin("GET", path, query + consistency.query) }
    let blocking = [("index", String(index)), ("wait", "\(max(1, wait.milliseconds))ms")]
    // The agent stretches the time by up to a sixteenth, so that not all come back at once.
    return try begin(
      "GET", path, query + consistency.query + blocking, until: .after(wait * 17 / 16 + settings.timeout))
  }

  package var consistency: Consistency { settings.consistency }

  /// Whether there is no leader, so that only stale look-ups are answered: `ErrNoLeader` in agent/structs/errors.go.
  func isLeaderless(_ response: HTTPResponse) -> Bool {
    response.head.status == 500 && words(of: response.body).holds(text: "No cluster leader")
  }

  func tell(_ note: Note) { notes?(note) }

  func answer(_ response: HTTPResponse, to path: String) throws(Failure) -> Answer {
    try check(response, "GET", path)
    let value: JSONValue
    do { value = try JSONValue(parsing: response.body) } catch { throw notJSON(error, path) }
    return Answer(path: path, value: value, terms: Terms(response.head))
  }

  func notJSON(_ error: JSONError, _ path: String) -> Failure { unexpected(path, .json(error)) }

  /// An answer of another shape than the API's is never an empty list.
  private func unexpected(_ answer: Answer, _ expected: ConsulError.Expected) -> Failure {
    unexpected(answer.path, expected)
  }

  func unexpected(_ path: String, _ expected: ConsulError.Expected) -> Failure {
    failure(.unexpected(path: path, expected))
  }

  /// Why the agent cannot answer now, though it may soon: it limits us (429, 503), or cannot reach its servers (500).
  ///
  /// `handleErr` in agent/http.go returns 500 with the text of every error that has no status of its own, so that the words tell
  /// them apart. Another try is worth it for `errNoLeader`, `errDCNotAvailable`, `errNoServers` and
  /// `errNotReadyForConsistentReads` of agent/structs/errors.go; not for a datacenter that does not exist (`errNoDCPath` there,
  /// returned by `forwardDC` in agent/consul/rpc.go) or an invalid filter (`CreateFilter` of hashicorp/go-bexpr, filter.go).
  package func transientTrouble(_ response: HTTPResponse, _ method: String, _ path: String) -> Failure? {
    let status = response.head.status
    guard [429, 500, 503].contains(status), !isUnknown(response) else { return nil }
    // 429 and 503 are also how `AgentHealthServiceByName` in agent/agent_endpoint.go says that an instance is not passing.
    if response.head.header("X-Consul-Reason") != nil { return nil }
    let text = words(of: response.body)
    let refusals = ["No path to datacenter", "Failed to create boolean expression"]
    if status == 500, refusals.contains(where: { text.holds(text: $0) }) { return nil }
    if isLeaderless(response) {
      return failure(.leaderless(text))
    }
    return failure(.returned(status: status, method: method, path: path, text, isTransient: true))
  }

  /// Whether a name or an id stays a segment of its own in a path: these two would climb, and are not encoded.
  package static func isSegment(_ text: String) -> Bool { !text.isSame(as: ".") && !text.isSame(as: "..") }

  /// Whether it can be the name of a service: it stands in the path of the agent's API, and before the path of a call.
  package static func isServiceName(_ text: String) -> Bool {
    !text.isEmpty && isSegment(text)
      && text.utf8.allSatisfy { $0 > 0x20 && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "?") && $0 != 0x7F }
  }

  func begin(
    _ method: String, _ path: String, _ query: [(String, String)] = [], body: JSONValue? = nil,
    until deadline: Deadline? = nil
  ) throws(Failure) -> ConsulExchange {
    if let part = path.parts(between: "/").first(where: { !Self.isSegment(String($0)) }) {
      throw failure(.climbs(String(part)))
    }
    let place = [("ns", settings.namespace), ("partition", settings.partition)]
    let all = query + place.compactMap { name, value in value.map { (name, $0) } }
    let parameters = all.map { "\($0.0)=\(Percent.encode($0.1))" }.joined(separator: "&")
    var request = HTTPRequest(method: method, url: address.base + path + (parameters.isEmpty ? "" : "?" + parameters))
    request.deadline = deadline ?? .after(settings.timeout)
    // An agent is near: to pack and unpack takes longer than to send.
    request.acceptsCompression = false
    try aim(&request)
    if let token = settings.token {
      guard let header = HTTPHeader("X-Consul-Token", token) else {
        throw failure(.invalidToken)
      }
      request.headers.append(header)
    }
    if let login = settings.login,
      let header = HTTPHeader("Authorization", "Basic " + Base64.encode(Array(login.utf8)))
    {
      request.headers.append(header)
    }
    if method == "PUT" {
      request.body = .bytes(Array(body?.text ?? []))
      if let type = HTTPHeader("Content-Type", "application/json") { request.headers.append(type) }
    }
    do { return ConsulExchange(self, http, try http.start(request), method, path) } catch { throw failure(error) }
  }

  fileprivate func failure(_ error: HTTPError) -> Failure { failure(.http(error)) }

  private func failure(_ error: ConsulError) -> Failure { error.failure(address) }

  package func check(_ response: HTTPResponse, _ method: String, _ path: String) throws(Failure) {
    guard response.head.status != 200 else { return }
    guard response.head.status != 403 else {
      throw denied(.request(method: method, path: path), words(of: response.body))
    }
    throw refusal(response, method, path)
  }

  func refusal(_ response: HTTPResponse, _ method: String, _ path: String) -> Failure {
    failure(
      .returned(
        status: response.head.status, method: method, path: path, words(of: response.body), isTransient: false))
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

  /// - Parameter service: nil: the catalog.
  func deniedReading(_ service: String?) -> Failure { denied(service.map { .service($0) } ?? .catalog) }

  private func denied(_ access: ConsulError.Access, _ words: String = "") -> Failure {
    failure(.denied(access, words, hasToken: settings.token != nil))
  }
}

/// A request to an agent that is on its way; dropping it ends it. It makes progress while the HTTP client runs.
package final class ConsulExchange {
  private let agent: ConsulAgent
  private let http: HTTPClient
  private let transfer: HTTPTransfer
  private var body: [UInt8] = []
  private var held = HeldBytes(limit: HTTPClient.bodyLimit)
  package let method: String
  package let path: String

  fileprivate init(
    _ agent: ConsulAgent, _ http: HTTPClient, _ transfer: HTTPTransfer, _ method: String, _ path: String
  ) {
    self.agent = agent
    self.method = method
    self.path = path
    self.http = http
    self.transfer = transfer
  }

  deinit {
    if transfer.outcome == nil { http.cancel(transfer) }
  }

  /// Has the list take the body as it comes, where it can.
  func read(into list: InstanceList) {
    transfer.bodyReader = { head, bytes in head.status == 200 && list.take(bytes) }
  }

  /// The answer, whatever its status; nil while there is none.
  package func take() throws(Failure) -> HTTPResponse? {
    let piece = transfer.takeBody()
    do { try held.check(body.count + piece.count, "the agent's response") } catch {
      throw Failure(.failed, error.cause)
    }
    if body.isEmpty { body = piece } else { body += piece }
    guard let outcome = transfer.outcome else { return nil }
    if case .failure(let error) = outcome { throw agent.failure(error) }
    guard let head = transfer.head else {
      throw agent.failure(HTTPError(kind: .broken, reason: "a response without headers"))
    }
    return HTTPResponse(head: head, body: body)
  }
}

/// An answer's text in one short line, without control characters.
private func words(of body: [UInt8]) -> String {
  let text = String(decoding: body.prefix(300), as: UTF8.self)
  return String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? " " : $0 }))
    .parts(between: " ").filter { !$0.isEmpty }.joined(separator: " ")
}
