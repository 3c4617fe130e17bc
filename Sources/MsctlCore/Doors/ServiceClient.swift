/// Services that Consul knows: calls them by name, registers them, and finds their instances.
///
///     let services = try ServiceClient(consul: "http://127.0.0.1:8500")
///     let user = try await services.call("user-service", path: "/users/42").validated().json()
///     try await services.register("order-service", port: 3000) {
///       try await server.run()
///     }
///
/// A call goes to one of the instances whose checks pass, at random by weight (`Weights.Passing`), and to another one where that
/// fails. Instances are looked up once for all calls, and again after 5 s or once one of them has failed; while the agent cannot be
/// asked, what it said last is used.
///
/// One thread works for all that is done with one client, over connections that it keeps for the calls to come. Nothing is asked of
/// the agent before the first use.
public final class ServiceClient: Sendable {
  /// How services are called.
  public struct Options: Sendable {
    /// Time limit for a whole call: the look-up of the service, all attempts, and the body. Zero for none; a call then fails when no
    /// byte has arrived for 60 s.
    public var timeout: Duration = .seconds(30)
    /// Time limit for one attempt; nil for none but that of the call.
    public var attemptTimeout: Duration?
    /// Time limit to connect to an instance.
    public var connectTimeout: Duration = .seconds(10)
    /// How often a call is tried again, where that is safe: see ``ServiceClient/call(_:_:path:headers:body:idempotencyKey:timeout:retries:)``.
    public var retries = 3
    /// Which instances may be called.
    public var selection = ConsulAgent.Selection()
    /// How services with TLS prove who they are.
    public var tls = HTTPRequest.TLS()

    public init() {}
  }

  private let options: Options
  /// Started with the client, so that nothing that is handed in later fails.
  private let thread = LoopThread()
  private let member: ServiceMember

  /// A client of the Consul agent at this address.
  /// - Parameters:
  ///   - consul: `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` or `unix:///PATH`, as `CONSUL_HTTP_ADDR` has it.
  ///   - token: the ACL token.
  /// - Throws: a ``Failure``: `usage` for what is no such address; `failed` where the system has no more threads or descriptors.
  public convenience init(
    consul: String = "http://127.0.0.1:8500", token: String? = nil, options: Options = Options()
  ) throws(Failure) {
    guard let address = ConsulAddress(consul) else {
      throw ServiceError.invalidAddress.failure
    }
    var settings = ConsulAgent.Settings()
    settings.address = address
    settings.token = token
    try self.init(settings, options: options)
  }

  /// A client of the Consul agent that these settings describe: see ``init(consul:token:options:)``.
  public init(_ consul: ConsulAgent.Settings, options: Options = Options()) throws(Failure) {
    self.options = options
    member = try ServiceMember(consul, options)
    let member = member
    try thread.run { loop in member.begin(on: loop) }
  }

  deinit {
    thread.stop()
  }

  // MARK: Calling

  /// Calls a service by its name, and returns once a response is complete that counts.
  ///
  /// A response with any status is returned: 404 and 503 are what the service says. Use ``Response/validated()`` to throw where the
  /// status is not 2xx, as axios does. Redirects are not followed.
  ///
  /// Where an instance cannot be connected to, another one is asked at once, whatever the method. Up to `retries` times a call is
  /// tried again after a pause (100 ms at first, at random, growing to 10 s; what `Retry-After` says): with GET, HEAD, PUT, DELETE,
  /// OPTIONS or an idempotency key after responses that broke off or timed out and after the statuses 408, 429, 502, 503 and 504, with
  /// other methods only where nothing was sent. Another instance is asked then, if there is one. An instance that has failed is
  /// left alone for 15 s where there are others.
  ///
  /// A task that is cancelled ends its call at once; the service may have got the request.
  ///
  /// - Parameters:
  ///   - service: the name under which it is registered.
  ///   - path: path and query as they are sent, so percent-encoded (RFC 3986).
  ///   - headers: further headers, such as `traceparent`.
  ///   - idempotencyKey: the service knows by it a request that it has had before, so that any method may be tried again: the value
  ///     of `Idempotency-Key` (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
  ///   - timeout: time limit for the whole call, zero for none; nil: that of the client's options.
  ///   - retries: how often it is tried again; nil: as often as the client's options say.
  /// - Throws: a ``Failure`` where no response counts: `nothingThere` for a service without a passing instance, `unreachable` (also
  ///   where the last connection broke), `timedOut`, `denied` by the agent, `badInput` for a response beyond 256 MiB, `usage` for a
  ///   request that cannot be made; `CancellationError`.
  @discardableResult
  public func call(
    _ service: String, _ method: Method = .get, path: String = "/", headers: [String: String] = [:], body: Body? = nil,
    idempotencyKey: String? = nil, timeout: Duration? = nil, retries: Int? = nil
  ) async throws -> Response {
    let timeout = timeout ?? options.timeout
    let deadline: Deadline = timeout == .zero ? .never : .after(timeout)
    var request = try request(service, method, path, headers, body, idempotencyKey)
    if deadline == .never { request.silence = ServiceCall.silence }
    let call = ServiceMember.Call(service, request, retries: max(0, retries ?? options.retries), until: deadline)
    let (thread, member) = (thread, member)
    return try await withTaskCancellationHandler {
      try await thread.result { _, continuation in member.begin(call, continuation) }
    } onCancel: {
      try? thread.run { _ in member.cancel(call) }
    }
  }

  private func request(
    _ service: String, _ method: Method, _ path: String, _ headers: [String: String], _ body: Body?,
    _ idempotencyKey: String?
  ) throws(Failure) -> HTTPRequest {
    // It becomes the host of a URL.
    guard ConsulAgent.isServiceName(service), !service.utf8.contains(where: { "@:#".utf8.contains($0) }) else {
      throw ServiceError.invalidName(service).failure
    }
    guard isToken(method.rawValue) else { throw ServiceError.invalidMethod(method.rawValue).failure }
    guard path.utf8.first == UInt8(ascii: "/"),
      path.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "#") })
    else { throw ServiceError.invalidPath.failure }
    var request = HTTPRequest(method: method.rawValue, url: "http://" + service + path)
    request.headers = try Self.headers(headers, body?.contentType, idempotencyKey)
    if let body { request.body = .bytes(body.bytes) }
    request.connectTimeout = options.connectTimeout
    request.tls = options.tls
    return request
  }

  /// The caller's headers, and those that a call has beside them.
  private static func headers(
    _ given: [String: String], _ contentType: String?, _ idempotencyKey: String?
  ) throws(Failure) -> [HTTPHeader] {
    var headers: [HTTPHeader] = []
    func add(_ name: String, _ value: String) throws(Failure) {
      guard let header = HTTPHeader(name, value) else { throw ServiceError.invalidHeader(name).failure }
      headers.append(header)
    }
    for (name, value) in given { try add(name, value) }
    let standard: [(String, String?)] = [
      ("User-Agent", "msctl/" + Version.msctl), ("Accept", "application/json, */*;q=0.5"),
      ("Content-Type", contentType),
      (HTTPRequest.idempotencyKey, idempotencyKey),
    ]
    for case (let name, let value?) in standard where !headers.contains(where: { $0.isNamed(name) }) {
      try add(name, value)
    }
    return headers
  }

  /// A method of HTTP (RFC 9110, section 9).
  public struct Method: RawRepresentable, ExpressibleByStringLiteral, Equatable, Sendable {
    public let rawValue: String

    public init(rawValue: String) { self.rawValue = rawValue }
    public init(stringLiteral value: String) { rawValue = value }

    public static let get: Method = "GET"
    public static let head: Method = "HEAD"
    public static let post: Method = "POST"
    public static let put: Method = "PUT"
    public static let patch: Method = "PATCH"
    public static let delete: Method = "DELETE"
    public static let options: Method = "OPTIONS"
  }

  /// The body of a request, with its type.
  public struct Body: Sendable {
    public let bytes: [UInt8]
    /// The value of `Content-Type`, unless the call's headers have one.
    public let contentType: String

    public init(_ bytes: [UInt8], contentType: String) { (self.bytes, self.contentType) = (bytes, contentType) }

    /// JSON that is written already: `.json(#"{"user":42}"#)`.
    public static func json(_ text: String) -> Body { Body(Array(text.utf8), contentType: "application/json") }

    public static func json(_ value: JSONValue) -> Body { Body(Array(value.text), contentType: "application/json") }

    public static func text(_ text: String) -> Body { Body(Array(text.utf8), contentType: "text/plain; charset=utf-8") }
  }

  /// What a service has answered.
  public struct Response: Sendable {
    /// Status and headers.
    public let head: HTTPHead
    public let body: [UInt8]
    /// The instance that answered.
    public let instance: ServiceInstance
    /// How many attempts there were, this one included.
    public let attempts: Int
    fileprivate let method: Method

    init(_ head: HTTPHead, _ body: [UInt8], _ instance: ServiceInstance, attempts: Int, to method: String) {
      (self.head, self.body, self.instance, self.attempts) = (head, body, instance, attempts)
      self.method = Method(rawValue: method)
    }

    public var status: Int { head.status }

    /// The value of a header, whatever the case of its name; of several the last.
    public func header(_ name: String) -> String? { head.header(name) }

    /// The body as text; what is no UTF-8 in it is replaced.
    public var text: String { String(decoding: body, as: UTF8.self) }

    /// The body as JSON.
    /// - Throws: a ``Failure`` `badInput` for what is not JSON.
    public func json() throws(Failure) -> JSONValue {
      do { return try JSONValue(parsing: body) } catch {
        throw ServiceError.notJSON(service: instance.service, error).failure
      }
    }

    /// The response itself, where its status is 2xx.
    /// - Throws: a ``Failure``: `clientError` for 3xx and 4xx, `serverError` for 5xx.
    @discardableResult
    public func validated() throws(Failure) -> Response {
      guard !(200..<300).contains(status) else { return self }
      throw ServiceError.returned(
        status: status, reason: head.reason, method: method.rawValue, url: shownURL(head.url)
      ).failure
    }
  }

  // MARK: Discovering

  /// Finds the instances of a service: `GET /v1/health/service/:service`, asked now.
  /// - Parameters:
  ///   - passing: only those whose checks pass; else all, each with its ``ServiceInstance/status``.
  ///   - selection: which of them; nil: as the client's options say.
  /// - Returns: the instances; none where there is no such service.
  /// - Throws: a ``Failure``: `unreachable`, `timedOut`, `denied` for a token that may not read; `CancellationError`.
  public func discover(
    _ service: String, passing: Bool = true, _ selection: ConsulAgent.Selection? = nil
  ) async throws -> [ServiceInstance] {
    guard ConsulAgent.isServiceName(service) else { throw ServiceError.invalidName(service).failure }
    let (thread, member) = (thread, member)
    let lookUp = LookUpMember(service, selection ?? options.selection)
    let found = try await withTaskCancellationHandler {
      try await thread.result { loop, continuation in lookUp.begin(member.agent, loop, continuation) }
    } onCancel: {
      try? thread.run { _ in lookUp.cancel() }
    }
    return passing ? found.filter { $0.status == .passing } : found
  }

  /// The instances of a service, whenever they change: at first those that there are, and after that each new list. Watching begins
  /// with the first iteration, and ends with the loop.
  ///
  ///     for try await instances in services.instances(of: "user-service") {
  ///       print(instances.map(\.url))
  ///     }
  ///
  /// While the agent is away, it is asked again with growing pauses, and the last list counts. Of lists that nobody has taken, the
  /// latest is kept.
  /// - Parameters:
  ///   - passing: only instances whose checks pass; else all, each with its ``ServiceInstance/status``.
  ///   - selection: which of them; nil: as the client's options say.
  /// - Returns: a sequence that throws a ``Failure`` where asking again cannot help: `denied` for a token that may not read.
  public func instances(
    of service: String, passing: Bool = true, _ selection: ConsulAgent.Selection? = nil
  ) -> Instances {
    Instances(services: self, service: service, passing: passing, selection: selection ?? options.selection)
  }

  /// The instances of a service, whenever they change: see ``ServiceClient/instances(of:passing:_:)``.
  public struct Instances: AsyncSequence, Sendable {
    public typealias Element = [ServiceInstance]
    public typealias AsyncIterator = AsyncThrowingStream<[ServiceInstance], any Error>.Iterator

    fileprivate let services: ServiceClient
    fileprivate let service: String
    fileprivate let passing: Bool
    fileprivate let selection: ConsulAgent.Selection

    public func makeAsyncIterator() -> AsyncIterator {
      let (stream, continuation) = AsyncThrowingStream.makeStream(
        of: [ServiceInstance].self, throwing: (any Error).self, bufferingPolicy: .bufferingNewest(1))
      guard ConsulAgent.isServiceName(service) else {
        continuation.finish(throwing: ServiceError.invalidName(service).failure)
        return stream.makeAsyncIterator()
      }
      let (services, passing) = (services, passing)
      let watch = WatchMember(service, selection, where: { !passing || $0 == .passing }, continuation)
      // Holds the client, so that its thread goes on until watching has ended.
      continuation.onTermination = { _ in try? services.thread.run { _ in watch.end() } }
      try? services.thread.run { [member = services.member] loop in watch.begin(member.agent, loop) }
      return stream.makeAsyncIterator()
    }
  }

  // MARK: Registering

  /// Registers an instance of a service with the agent, for as long as the closure runs: see
  /// ``register(_:drain:deregisterAfter:while:)``.
  /// - Parameters:
  ///   - port: the port that the closure listens on.
  ///   - address: the address that callers take; empty: that of the agent's node.
  ///   - tags: its tags.
  @discardableResult
  public func register<Value: Sendable>(
    _ service: String, port: Int, address: String = "", tags: [String] = [], drain: Duration = .zero,
    while body: @escaping @Sendable () async throws -> Value
  ) async throws -> Value {
    var registration = ServiceRegistration(name: service, address: address, port: port)
    registration.tags = tags
    return try await register(registration, drain: drain, while: body)
  }

  /// Registers an instance of a service with the agent, for as long as the closure runs.
  ///
  /// The closure is started first, and the instance is registered once something accepts connections on its port. A TTL check
  /// of 10 s is kept passing meanwhile, beside the checks of the registration; an agent that is away is asked again until it is
  /// back, and one that has forgotten the instance gets it again.
  ///
  /// When the closure has returned or thrown, the instance is deregistered before this method returns, for which the agent has
  /// 3 s. Where it does not answer, or the program is killed, the instance turns critical after 10 s, and the agent removes it
  /// after `deregisterAfter`.
  ///
  /// To end it gracefully, cancel the task: the instance is put into maintenance, so that nobody calls it any more (for which the
  /// agent has 3 s, too), `drain` passes, and only then the closure, which runs in a task of its own, is cancelled.
  ///
  /// - Parameters:
  ///   - drain: how long an instance in maintenance may finish its calls.
  ///   - deregisterAfter: when the agent removes an instance that nobody keeps alive any more; nil: after a minute, the least that it takes.
  ///   - body: runs the service.
  /// - Returns: what the closure returns.
  /// - Throws: what the closure throws. A ``Failure`` where the agent refuses the registration: the closure is cancelled then.
  ///   `usage` for a registration that is none.
  @discardableResult
  public func register<Value: Sendable>(
    _ registration: ServiceRegistration, drain: Duration = .zero,
    deregisterAfter: Duration? = nil,
    while body: @escaping @Sendable () async throws -> Value
  ) async throws -> Value {
    guard ConsulAgent.isServiceName(registration.name) else {
      throw ServiceError.invalidName(registration.name).failure
    }
    guard ConsulAgent.isSegment(registration.id) else { throw ServiceError.invalidID(registration.id).failure }
    guard (1...65535).contains(registration.port) else { throw ServiceError.invalidPort(registration.port).failure }
    try Task.checkCancellation()
    let (thread, member) = (thread, member)
    let held = RegisteringMember(
      registration, drain: drain, deregisterAfter: deregisterAfter ?? HeldRegistration.deregisterAfter)
    // It must not be cancelled with this task, but after the drain.
    let task = Task {
      defer { try? thread.run { _ in held.bodyEnded() } }
      return try await body()
    }
    let refusal = await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        try? thread.run { loop in held.begin(member.agent, member.resolver, loop, continuation) { task.cancel() } }
      }
    } onCancel: {
      try? thread.run { _ in held.cancel() }
    }
    let result = await task.result
    if let refusal { throw refusal }
    return try result.get()
  }
}
