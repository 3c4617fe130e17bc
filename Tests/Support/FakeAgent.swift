import Synchronization

/// An agent of Consul that answers as a test wants it: for what the real one here (1.8) cannot be brought to say.
///
/// Forms and words are those of Consul's HTTP API (https://developer.hashicorp.com/consul/api-docs) and of its handlers. Files are
/// those of github.com/hashicorp/consul.
package final class FakeAgent: Sendable {
  package let server: TestServer

  /// - Parameter handler: its answer; nil: 404, as for an endpoint that the agent does not know (`Index` in agent/http.go).
  package init(_ handler: @escaping @Sendable (TestServer.Request) -> TestServer.Answer?) throws {
    server = try TestServer { request in handler(request) ?? .status(404, "Not Found", "Invalid URL path") }
  }

  package var environment: [String: String] { ["CONSUL_HTTP_ADDR": server.url] }
  package var requests: [TestServer.Request] { server.requests }

  /// An answer to a query: agent/http.go, `setMeta`.
  package static func answer(_ body: String, index: Int = 1, knownLeader: Bool = true) -> TestServer.Answer {
    var answer = TestServer.Answer([
      """
      HTTP/1.1 200 OK\r
      Content-Type: application/json\r
      X-Consul-Index: \(index)\r
      X-Consul-KnownLeader: \(knownLeader)\r
      Content-Length: \(body.utf8.count)\r
      \r
      \(body)
      """
    ])
    answer.keepsConnection = true
    return answer
  }

  /// An error: agent/http.go, `handleErr`, writes its words as text.
  package static func error(_ status: Int, _ words: String) -> TestServer.Answer {
    .status(status, "Error", words, headers: ["Content-Type: text/plain; charset=utf-8"])
  }

  /// `ErrNoLeader` of agent/structs/errors.go.
  package static let noLeader = error(500, "No cluster leader")

  /// An element of `GET /v1/health/service/:service`: https://developer.hashicorp.com/consul/api-docs/health, and
  /// `CheckServiceNode`, `NodeService` and `HealthCheck` in agent/structs/structs.go.
  /// - Parameter more: further members of `Service`.
  package static func instance(
    _ service: String, _ id: String, port: Int, status: String = "passing", more: String = ""
  ) -> String {
    """
    {"Node":{"Node":"n","Address":"127.0.0.1"},"Service":{"ID":"\(id)","Service":"\(service)","Address":"127.0.0.1",\
    "Port":\(port),"Tags":[],"Meta":{},"Weights":{"Passing":1,"Warning":1}\(more)},\
    "Checks":[{"Node":"n","CheckID":"c","Name":"c","Status":"\(status)","Output":"","ServiceID":"\(id)"}]}
    """
  }

  package static func health(_ instances: String...) -> String { "[" + instances.joined(separator: ",") + "]" }
}

/// A number that threads count up.
package final class Counter: Sendable {
  private let count = Mutex(0)

  package init() {}

  /// - Returns: the new number.
  @discardableResult
  package func next() -> Int {
    count.withLock {
      $0 += 1
      return $0
    }
  }

  package var value: Int { count.withLock { $0 } }
}
