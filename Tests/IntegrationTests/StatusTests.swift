import Support
import Synchronization
import Testing

@Suite("Statuses that count")
struct StatusTests {
  /// A server that returns one status after the other, and the last one for ever.
  private func server(_ statuses: Int...) throws -> TestServer {
    let left = Mutex(statuses)
    return try TestServer { request in
      let status = left.withLock { $0.count > 1 ? $0.removeFirst() : $0[0] }
      return .status(status, "So", "{\"status\":\(status)}", headers: ["Content-Type: application/json"])
    }
  }

  @Test("'--ok' makes a success of statuses and classes, of one call, of a file and of many calls")
  func accepted() async throws {
    let gone = try server(404)
    #expect(try await Tool.run("call", "DELETE", gone.url).status == 4)
    #expect(try await Tool.run("call", "DELETE", gone.url, "--ok", "410,5xx").status == 4)
    for words in ["404", "409,404", "4xx"] {
      let output = try await Tool.run("call", "DELETE", gone.url, "--ok", words)
      #expect(output.status == 0 && output.out == "{\"status\":404}\n" && output.err == "")
    }
    let many = try await Tool.run("call", gone.url + "/{id}", "--each", "--ok", "4XX", input: "{\"id\":1}{\"id\":2}")
    #expect(many.status == 0 && many.lines.count == 2)
    let file = try await Tool.shell("msctl call \(gone.url) --ok 404 -o $HOME/f && cat $HOME/f")
    #expect(file.out == "{\"status\":404}")
  }

  @Test("what counts as success is not retried, unless it is to be")
  func acceptedOrRetried() async throws {
    let busy = try server(503, 200)
    let output = try await Tool.run("call", busy.url, "--retry", "5", "--ok", "503")
    #expect(output.status == 0 && busy.requests.count == 1)
    let leaving = try server(200, 200, 404)
    let gone = try await Tool.run("call", leaving.url, "--retry", "5", "--retry-on", "2xx", "--ok", "404")
    #expect(gone.status == 0 && gone.out == "{\"status\":404}\n" && leaving.requests.count == 3)
  }

  @Test("'--retry-on' waits until it is there")
  func until() async throws {
    let server = try server(404, 500, 404, 200)
    let output = try await Tool.run("call", server.url, "--retry", "9", "--retry-on", "404,5xx")
    #expect(output.status == 0 && output.out == "{\"status\":200}\n" && server.requests.count == 4)
    let never = try self.server(404)
    let failed = try await Tool.run("call", never.url, "--retry", "2", "--retry-on", "404")
    #expect(failed.status == 4 && failed.out == "{\"status\":404}\n" && never.requests.count == 3)
  }

  @Test("no POST is sent again because of its status, unless the service can tell")
  func unsafeMethod() async throws {
    let server = try server(500)
    #expect(try await Tool.run("call", "POST", server.url, "--retry", "2", "--retry-on", "500").status == 5)
    #expect(server.requests.count == 1)
    _ = try await Tool.run("call", "POST", server.url, "--retry", "2", "--retry-on", "500", "--idempotency-key")
    #expect(server.requests.count == 4)
  }

  @Test("QUERY has a body, and may be sent again")
  func query() async throws {
    let server = try server(503, 200)
    let output = try await Tool.run("call", "QUERY", server.url + "/users", "name=Ada", "--retry", "5")
    #expect(output.status == 0)
    #expect(server.requests.map { "\($0.method) \($0.body)" } == Array(repeating: #"QUERY {"name":"Ada"}"#, count: 2))
    let each = try await Tool.run("call", "QUERY", server.url + "/{id}", "--each", input: "{\"id\":7}")
    #expect(each.status == 0)
    #expect(server.requests.last?.target == "/7" && server.requests.last?.body == #"{"id":7}"#)
  }

  @Test("what cannot be meant is refused", arguments: ["40", "4x", "600", "xx", "404,", "", "-404", "99x", "0xx"])
  func refused(_ statuses: String) async throws {
    #expect(try await Tool.run("call", ":1/", "--ok=" + statuses).status == 2)
    #expect(try await Tool.run("call", ":1/", "--retry", "1", "--retry-on=" + statuses).status == 2)
  }

  @Test("what has no effect is refused")
  func withoutEffect() async throws {
    #expect(try await Tool.run("call", ":1/", "--retry-on", "404").status == 2)
    #expect(try await Tool.run("call", ":1/", "--ok", "404", "--no-fail").status == 2)
  }
}
