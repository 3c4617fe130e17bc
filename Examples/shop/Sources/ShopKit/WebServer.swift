import FlyingFox
import Foundation
import Synchronization

// Both libraries have an HTTPRequest; here it is the server's.
import struct MsctlCore.TraceContext

/// What the shop answers with (RFC 9110, section 15).
private let phrases = [
  200: "OK", 201: "Created", 400: "Bad Request", 404: "Not Found", 422: "Unprocessable Content",
  500: "Internal Server Error", 503: "Service Unavailable",
]

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
        idempotencyKey: header("Idempotency-Key"), requestID: header("X-Request-Id"), caller: caller,
        step: caller.child())
      answer = try await route.handle(question)
    } catch let error as WebError {
      answer = WebAnswer(error.status) { $0.field("error", error.message) }
    } catch {
      complain("\(route.pattern): \(error)")
      answer = WebAnswer(500) { $0.field("error", "it failed in a way that was not foreseen") }
    }
    return HTTPResponse(
      statusCode: HTTPStatusCode(answer.status, phrase: phrases[answer.status] ?? ""),
      headers: [.contentType: "application/json"],
      body: Data(answer.body))
  }
}
