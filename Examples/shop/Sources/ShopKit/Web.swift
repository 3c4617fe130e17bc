import MsctlCore

/// A request to a service.
public struct WebRequest: Sendable {
  /// The part of the path that the route calls `:id`.
  public let id: String?
  public let body: [UInt8]
  public let idempotencyKey: String?
  /// What the gateway calls this request.
  public let requestID: String?
  /// The step that asked.
  public let caller: TraceContext
  /// This step: what the service's own calls and messages carry on.
  public let step: TraceContext

  /// What calls to other services carry on.
  public var headers: [String: String] {
    var headers = ["traceparent": step.traceparent]
    headers["X-Request-Id"] = requestID
    return headers
  }

  /// The body as a JSON object.
  public func object() throws -> JSONValue {
    guard let value = try? JSONValue(parsing: body), value.kind == .object else {
      throw WebError(400, "the body must be a JSON object")
    }
    return value
  }
}

/// A JSON answer.
public struct WebAnswer: Sendable {
  let status: Int
  let body: [UInt8]

  public init(_ status: Int, _ body: JSONValue) {
    self.status = status
    self.body = Array(body.text) + [0x0A]
  }

  /// 200 with a list under a name.
  public init(_ name: String, _ list: [JSONValue]) {
    self.init(200) { body in
      body.key(name)
      body.array { elements in list.forEach { elements.raw($0) } }
    }
  }

  public init(_ status: Int, _ members: (inout JSONWriter) -> Void) {
    var writer = JSONWriter()
    writer.object(members)
    self.init(status, writer.value)
  }
}

/// What a handler throws where it cannot do what was asked.
public struct WebError: Error {
  let status: Int
  let message: String

  public init(_ status: Int, _ message: String) {
    self.status = status
    self.message = message
  }
}

public struct Route: Sendable {
  let pattern: String
  let handle: @Sendable (WebRequest) async throws -> WebAnswer

  /// - Parameter pattern: a method and a path, in which `:id` stands for any part: `GET /users/:id`.
  public init(_ pattern: String, _ handle: @escaping @Sendable (WebRequest) async throws -> WebAnswer) {
    self.pattern = pattern
    self.handle = handle
  }
}
