import FlyingFox
import Foundation
import MsctlCore
import Synchronization

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

private let isStopping = Atomic(false)

extension Shop {
  /// Serves until SIGTERM or SIGINT: then requests that are under way are answered, and no others are taken.
  public func serve(_ routes: [Route]) async throws {
    let server = HTTPServer(address: try .inet(ip4: "127.0.0.1", port: port), logger: .disabled)
    for route in routes {
      let handler: @Sendable (HTTPRequest) async throws -> HTTPResponse = { await self.answer($0, by: route) }
      await server.appendRoute(HTTPRoute(route.pattern), handler: handler)
    }
    var sources: [any DispatchSourceSignal] = []
    for number in [SIGTERM, SIGINT] {
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number)
      source.setEventHandler {
        isStopping.store(true, ordering: .relaxed)
        Task {
          await server.stop(timeout: 3)
          exit(0)
        }
      }
      source.activate()
      sources.append(source)
    }
    do { try await server.run() } catch {
      guard isStopping.load(ordering: .relaxed) else { throw error }
      // The process ends above, once the last answer is out.
      try await Task.sleep(for: .seconds(10))
    }
    withExtendedLifetime(sources) {}
  }

  private func answer(_ request: HTTPRequest, by route: Route) async -> HTTPResponse {
    func header(_ name: String) -> String? { request.headers[HTTPHeader(name)] }
    let caller = header("traceparent").flatMap { TraceContext($0) } ?? TraceContext()
    let answer: WebAnswer
    do {
      let question = WebRequest(
        id: request.routeParameters["id"], body: Array(try await request.bodyData),
        idempotencyKey: header("Idempotency-Key"), requestID: header("X-Request-Id"), caller: caller, step: caller.child())
      answer = try await route.handle(question)
    } catch let error as WebError {
      answer = WebAnswer(error.status) { $0.field("error", error.message) }
    } catch {
      complain("\(route.pattern): \(error)")
      answer = WebAnswer(500) { $0.field("error", "it failed in a way that was not foreseen") }
    }
    return HTTPResponse(
      statusCode: HTTPStatusCode(answer.status, phrase: ""), headers: [.contentType: "application/json"],
      body: Data(answer.body))
  }
}
