import Foundation
import MsctlCore
import Support
import Synchronization
import Testing

@Suite("The rate of calls, and how they went")
struct CallRateTests {
  private static func numbers(_ output: Output) throws -> JSONValue {
    try JSONValue(parsing: try #require(output.err.split(separator: "\n").last).utf8)
  }

  /// A server whose first response takes 300 ms.
  private static func slowOnce() throws -> TestServer {
    let isFirst = Mutex(true)
    return try TestServer { _ in
      if isFirst.withLock({ first in
        defer { first = false }
        return first
      }) {
        usleep(300_000)
      }
      return .kept("1")
    }
  }

  @Test("calls begin no faster than the rate says, whatever runs at a time")
  func rate() async throws {
    let server = try TestServer { _ in .kept("1") }
    let line = "msctl call \(server.url) --each --parallel 6 --stats=json --rate 10"
    let output = try await Tool.shell("seq 6 | " + line)
    let numbers = try Self.numbers(output)
    #expect(output.status == 0 && output.lines.count == 6)
    #expect(numbers["calls"]?.integer == 6 && numbers["statuses"]?["200"]?.integer == 6, "\(output)")
    #expect(try #require(numbers["seconds"]?.number) > 0.48)
    #expect(try #require(numbers["rate"]?.number) < 12.5)
    #expect(numbers["bytes"]?.integer == 6 && numbers["retries"]?.integer == 0)
  }

  @Test("nothing waits for its turn where nothing is left")
  func end() async throws {
    let server = try TestServer { _ in .kept("1") }
    let output = try await Tool.run("call", server.url, "--each", "--rate", "1/h", input: "1\n")
    #expect(output.status == 0 && output.lines.count == 1)
  }

  @Test("latency counts from when a call was due, not from when there was room for it")
  func due() async throws {
    let server = try Self.slowOnce()
    let output = try await Tool.run("call", server.url, "--each", "--rate", "100", "--stats=json", input: "1 2")
    let numbers = try Self.numbers(output)
    // The second was due 10 ms after the first, whose response took 300 ms.
    #expect(try #require(numbers["latency"]?["50%"]?.number) > 0.28, "\(output)")
    #expect(try #require(numbers["late"]?.integer) >= 1)
  }

  @Test(
    "a call that takes long makes all those late that were due meanwhile and after, where the rate leaves no time to catch up"
  )
  func stalled() async throws {
    let server = try Self.slowOnce()
    let output = try await Tool.shell("seq 12 | msctl call \(server.url) --each --rate 100 --stats=json")
    #expect(try #require(Self.numbers(output)["late"]?.integer) >= 11, "\(output)")
  }

  @Test("'--stats' says what was measured where the run is interrupted, and counts no value that was not called")
  func interruptedStatistics() async throws {
    let server = try TestServer { _ in .kept("1") }
    let words = ["call", server.url + "/{id}", "--each", "--keep-going", "--rate", "1/h", "--stats=json"]
    let call = try RunningProcess(Tool.binary, words, input: "{\"a\":1}{\"id\":1}{\"id\":2}")
    try await eventually("the first is out") { call.out == "1\n" }
    call.signal(SIGTERM)
    let output = try await call.end()
    let numbers = try #require(output.err.split(separator: "\n").compactMap { try? JSONValue(parsing: $0.utf8) }.first)
    #expect(output.status == 143 && numbers["calls"]?.integer == 1, "\(output)")
  }

  @Test("a value that waits for its turn is in the file of what failed, where the run is interrupted")
  func interrupted() async throws {
    let server = try TestServer { _ in .kept("1") }
    let failed = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("failed")).path
    defer { try? FileManager.default.removeItem(atPath: failed) }
    let words = ["call", server.url, "--each", "--parallel", "2", "--rate", "1/h", "--failed-to", failed]
    let call = try RunningProcess(Tool.binary, words, input: "1 2")
    try await eventually("the first is out") { call.out == "1\n" }
    call.signal(SIGTERM)
    #expect(try await call.end().status == 143)
    let line = try JSONValue(parsing: try String(contentsOfFile: failed, encoding: .utf8).utf8)
    #expect(line["input"]?.integer == 2 && line["error"]?["index"]?.integer == 2)
  }

  @Test("'--stats' tells retries and bytes, of one call too, and shows people a histogram")
  func statistics() async throws {
    let statuses = Mutex([503, 200])
    let server = try TestServer { _ in
      .status(statuses.withLock { $0.count > 1 ? $0.removeFirst() : $0[0] }, "So", "\"abc\"")
    }
    let one = try await Tool.run("call", server.url, "--retry", "3", "--stats=json")
    let numbers = try Self.numbers(one)
    #expect(one.out == "\"abc\"" && numbers["calls"]?.integer == 1 && numbers["retries"]?.integer == 1)
    #expect(numbers["bytes"]?.integer == 5 && numbers["latency"]?["99.9%"]?.kind == .number)
    let quiet = try await Tool.run("call", server.url, "--stats=json", "-q")
    #expect(try Self.numbers(quiet)["calls"]?.integer == 1)
    let text = try await Tool.run("call", server.url, "--stats")
    #expect(text.err.contains("1 call in ") && text.err.contains("99.9% ") && text.err.contains("; 5 bytes"))
    let shown = try await Tool.shell(
      "seq 20 > $HOME/in; script -qec 'msctl call \(server.url) --each --stats < '$HOME'/in' /dev/null")
    #expect(shown.out.contains("20 calls in ") && shown.out.contains("  <= ") && shown.out.contains(" ms  "))
    #expect(try await Tool.run("call", server.url, "--stats=yaml").status == 2)
    #expect(try await Tool.run("call", server.url, "--rate", "5").status == 2)
  }
}
