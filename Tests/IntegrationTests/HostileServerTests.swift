import Support
import Testing

@Suite("What a hostile server answers", .serialized)
struct HostileServerTests {
  @Test("headers that begin with a space are an error of that call, however often the connection was used")
  func foldedFirstHeader() async throws {
    let server = try TestServer { request in
      let isGood = Int(request.target.dropFirst()).map { $0 % 2 == 1 } ?? true
      let fold = isGood ? "X-Long: \(String(repeating: "x", count: 60))" : "\tfolded: \(request.target)"
      var answer = TestServer.Answer(["HTTP/1.1 200 OK\r\n\(fold)\r\nContent-Length: 1\r\n\r\n1"])
      answer.keepsConnection = true
      return answer
    }
    let output = try await Tool.shell("seq 200 | jq -c '{n:.}' | msctl call '\(server.url)/{n}' --each --keep-going")
    #expect(output.status == 6 && output.lines.count == 100, "\(output.status) \(output.err)")
    #expect(output.err.shows("http broken", ["reason": "the response headers begin with a continuation line"]))
  }
}
