/// A client for services registered with Consul: calls them by name, finds their instances, and registers them.
///
///     let services = try ServiceClient(consul: "http://127.0.0.1:8500")
///     let user = try await services.call("user-service", path: "/users/42").validated().json()
///     try await services.register("order-service", port: 3000) {
///       try await server.run()
///     }
///
/// A call goes to an instance whose checks pass, chosen at random by weight (`Weights.Passing`), and to another one if that
/// fails. Instances are looked up once for all calls, and again after 5 s or when one of them has failed. While the agent cannot be
/// reached, its last response is used.
///
/// A client has one thread and reuses its connections. It contacts the agent on first use.
public final class ServiceClient: Sendable {
  /// How services are called.
  public struct Options: Sendable {
    /// Time limit for the whole call: the look-up, all attempts and the body. Zero for none; a call then fails when no byte has
    /// arrived for 60 s.
    public var timeout: Duration = .seconds(30)
    /// Time limit for one attempt; nil for none.
    public var attemptTimeout: Duration?
    /// Time limit to connect to an instance.
    public var connectTimeout: Duration = .seconds(10)
    /// Maximum number of retries: see ``ServiceClient/call(_:_:path:headers:body:idempotencyKey:timeout:retries:)``.
    public var retries = 3
    /// Maximum number of calls at a time; more wait for these, in order, within their time limits.
    public var parallel = 256
    /// Which instances are called and found.
    public var selection = ConsulAgent.Selection()
    /// Certificates for services that use HTTPS (tag `https` or meta value `scheme=https`).
    public var tls = HTTPRequest.TLS()

    /// The defaults.
    public init() {}
  }

  private let options: Options
  /// Started with the client, so that nothing that is handed in later fails.
  private let thread = LoopThread()
  private let member: ServiceMember

  /// Creates a client of the Consul agent at this address.
  /// - Parameters:
  ///   - consul: `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` or `unix:///PATH`, as in `CONSUL_HTTP_ADDR`.
  ///   - token: the ACL token.
  ///   - options: How services are called.
  /// - Throws: a ``Failure``: `usage` for an invalid address; `failed` if the system has no more threads or descriptors.
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

  /// Creates a client of the Consul agent with these settings: see ``init(consul:token:options:)``.
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

  /// Calls a service by name and returns its response, complete.
  ///
  /// A response of any status is returned, 404 and 503 too. To throw if the status is not 2xx, as axios does, use
  /// ``Response/validated()``. Redirects are not followed.
  ///
  /// If an instance cannot be connected to, the next one is tried at once. Beyond that a call is retried up to `retries` times, if
  /// it is safe:
  /// - with any method, if no byte was sent;
  /// - with GET, HEAD, PUT, DELETE, OPTIONS or an idempotency key, also if the response broke off or timed out, or its status is 408,
  ///   429, 502, 503 or 504.
  ///
  /// A retry goes to another instance, if there is one. Pauses are random and grow from 100 ms to 10 s; `Retry-After` is respected.
  /// An instance that has failed is not tried again for 15 s if there are others.
  ///
  /// If the task is cancelled, the call ends at once. The service may have received the request.
  ///
  /// - Parameters:
  ///   - service: The name under which the service is registered.
  ///   - method: The method.
  ///   - path: Path and query, percent-encoded (RFC 3986).
  ///   - headers: More headers, such as `traceparent`.
  ///   - body: The body, with its `Content-Type`.
  ///   - idempotencyKey: The value of `Idempotency-Key`, by which the service recognises a request that it has received before
  ///     (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/). Every attempt sends the same.
  ///   - timeout: Time limit for the whole call, zero for none; nil for the client's.
  ///   - retries: Maximum number of retries; nil for the client's.
  /// - Throws: a ``Failure`` if there is no complete response: `nothingThere` (no passing instance), `unreachable` (also if the
  ///   connection broke), `timedOut`, `denied` (by the agent), `failed` (a response larger than 256 MiB), `usage` (an invalid
  ///   name, method, path or header). `CancellationError`.
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
    /// Its name.
    public let rawValue: String

    /// A method of this name.
    public init(rawValue: String) { self.rawValue = rawValue }
    /// A method of this name.
    public init(stringLiteral value: String) { rawValue = value }

    /// `GET`
    public static let get: Method = "GET"
    /// `HEAD`
    public static let head: Method = "HEAD"
    /// `POST`
    public static let post: Method = "POST"
    /// `PUT`
    public static let put: Method = "PUT"
    /// `PATCH`
    public static let patch: Method = "PATCH"
    /// `DELETE`
    public static let delete: Method = "DELETE"
    /// `OPTIONS`
    public static let options: Method = "OPTIONS"
  }

  /// The body of a request, with its type.
  public struct Body: Sendable {
    /// Its bytes.
    public let bytes: [UInt8]
    /// The value of `Content-Type`, unless the call's headers have one.
    public let contentType: String

    /// A body of this type.
    public init(_ bytes: [UInt8], contentType: String) { (self.bytes, self.contentType) = (bytes, contentType) }

    /// JSON that is written already: `.json(#"{"user":42}"#)`.
    public static func json(_ text: String) -> Body { Body(Array(text.utf8), contentType: "application/json") }

    /// A JSON value.
    public static func json(_ value: JSONValue) -> Body { Body(Array(value.text), contentType: "application/json") }

    /// Text in UTF-8.
    public static func text(_ text: String) -> Body { Body(Array(text.utf8), contentType: "text/plain; charset=utf-8") }
  }

  /// The response of a service.
  public struct Response: Sendable {
    /// Status and headers.
    public let head: HTTPHead
    /// The body.
    public let body: [UInt8]
    /// The instance that returned it.
    public let instance: ServiceInstance
    /// Number of attempts, this one included.
    public let attempts: Int
    fileprivate let method: Method

    init(_ head: HTTPHead, _ body: [UInt8], _ instance: ServiceInstance, attempts: Int, to method: String) {
      (self.head, self.body, self.instance, self.attempts) = (head, body, instance, attempts)
      self.method = Method(rawValue: method)
    }

    /// The status code.
    public var status: Int { head.status }

    /// Returns the value of a header, of several the last. Case does not matter.
    public func header(_ name: String) -> String? { head.header(name) }

    /// The body as text; invalid UTF-8 is replaced.
    public var text: String { String(decoding: body, as: UTF8.self) }

    /// The body as JSON.
    /// - Throws: a ``Failure`` `badInput` if it is not JSON.
    public func json() throws(Failure) -> JSONValue {
      do { return try JSONValue(parsing: body) } catch {
        throw ServiceError.notJSON(service: instance.service, error).failure
      }
    }

    /// Returns the response if its status is 2xx.
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

  /// Looks up the instances of a service (`GET /v1/health/service/:service`).
  /// - Parameters:
  ///   - service: The name of the service.
  ///   - passing: Return only instances whose checks pass; else all, each with its ``ServiceInstance/status``.
  ///   - selection: Which instances; nil for the client's selection.
  /// - Returns: the instances; an empty list if there is no such service.
  /// - Throws: a ``Failure``: `unreachable`, `timedOut`, `denied` (the token may not read the service), `usage` (an invalid name).
  ///   `CancellationError`.
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

  /// Watches the instances of a service: the first list is what there is, and a new one comes with each change. Watching begins
  /// with the first iteration and ends with the loop.
  ///
  ///     for try await instances in services.instances(of: "user-service") {
  ///       print(instances.map(\.url))
  ///     }
  ///
  /// While the agent is unreachable, it is asked again after growing pauses. A slow loop gets the latest list only.
  /// - Parameters:
  ///   - service: The name of the service.
  ///   - passing: List only instances whose checks pass; else all, each with its ``ServiceInstance/status``.
  ///   - selection: Which instances; nil for the client's selection.
  /// - Returns: a sequence of lists. It throws a ``Failure`` if asking again cannot help: `denied` (the token may not read the
  ///   service), `usage` (an invalid name).
  public func instances(
    of service: String, passing: Bool = true, _ selection: ConsulAgent.Selection? = nil
  ) -> Instances {
    Instances(services: self, service: service, passing: passing, selection: selection ?? options.selection)
  }

  /// The instances of a service, as they change: see ``ServiceClient/instances(of:passing:_:)``.
  public struct Instances: AsyncSequence, Sendable {
    /// The instances.
    public typealias Element = [ServiceInstance]
    /// Iterates over the lists.
    public typealias AsyncIterator = AsyncThrowingStream<[ServiceInstance], any Error>.Iterator

    fileprivate let services: ServiceClient
    fileprivate let service: String
    fileprivate let passing: Bool
    fileprivate let selection: ConsulAgent.Selection

    /// Begins to watch.
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

  /// Registers an instance of a service for as long as the closure runs: see ``register(_:drain:deregisterAfter:while:)``.
  /// - Parameters:
  ///   - service: The name of the service.
  ///   - port: The port that the closure listens on.
  ///   - address: The address for callers; empty for that of the agent's node.
  ///   - tags: The instance's tags.
  ///   - drain: Time from maintenance to the closure's cancellation.
  ///   - body: The service.
  @discardableResult
  public func register<Value: Sendable>(
    _ service: String, port: Int, address: String = "", tags: [String] = [], drain: Duration = .zero,
    while body: @escaping @Sendable () async throws -> Value
  ) async throws -> Value {
    var registration = ServiceRegistration(name: service, address: address, port: port)
    registration.tags = tags
    return try await register(registration, drain: drain, while: body)
  }

  /// Registers an instance of a service for as long as the closure runs.
  ///
  /// The closure starts first. The instance is registered once its port accepts connections, and kept passing by a TTL check of
  /// 10 s, beside the checks of the registration. If the agent is unreachable, the closure goes on; if the agent has lost the
  /// instance, it is registered again.
  ///
  /// When the closure returns or throws, the instance is deregistered before this method returns. If the agent does not respond
  /// within 3 s, or the program is killed, the instance turns critical within 10 s, and the agent removes it after `deregisterAfter`.
  ///
  /// To shut the service down gracefully, cancel the task: the instance enters maintenance, so that callers leave it; after `drain`
  /// the closure, which runs in a task of its own, is cancelled; then the instance is deregistered.
  ///
  /// - Parameters:
  ///   - registration: The instance, without a check for its own life.
  ///   - drain: Time from maintenance to the closure's cancellation, for calls to finish.
  ///   - deregisterAfter: How long an instance that nobody refreshes stays critical before the agent removes it; nil for a minute,
  ///     the least.
  ///   - body: The service.
  /// - Returns: what the closure returns.
  /// - Throws: what the closure throws. If the agent refuses the registration, the closure is cancelled and the agent's ``Failure``
  ///   is thrown, such as `denied`; `usage` for an invalid name, id or port.
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
