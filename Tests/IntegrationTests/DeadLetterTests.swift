import Foundation
import MsctlCore
import Support
import Synchronization
import Testing

@testable import MsctlCommands

@Suite("Where rejected messages go", .serialized)
struct DeadLetterTests {
  /// Has messages rejected until it is known what becomes of them.
  private func reject(_ queue: String, until entry: String, _ values: [String: String] = [:]) async throws -> Output {
    let consumer = try Tool.start(
      "consume", queue, "--on-error", "reject", "--exec", "exit 3",
      environment: ["MSCTL_MANAGEMENT_URL": Services.managementAPI])
    try await eventually("it is known") {
      _ = try await Tool.run("publish", queue, "--passive", "1")
      return consumer.err.shows(entry, values)
    }
    consumer.signal(SIGTERM)
    return try await consumer.end()
  }

  @Test("a message without a dead-letter exchange is told as discarded, in the end too")
  func discarded() async throws {
    try await withQueue(arguments: "{}") { queue in
      let output = try await reject(queue, until: "exec discarded")
      #expect(output.err.shows("note discarding", ["queue": queue]), "\(output)")
      // At its end, a run waits for the answer, though not for long.
      try await eventually("the last one is told, too") {
        _ = try await Tool.run("publish", queue, "--passive", "1")
        let output = try await Tool.run(
          "consume", queue, "--drain", "--max-attempts", "1", "--exec", "exit 3",
          environment: ["MSCTL_MANAGEMENT_URL": Services.managementAPI])
        return output.status == 1 && output.err.shows("note discarding", ["queue": queue])
      }
    }
  }

  @Test("a dead-letter exchange is named, be it the queue's or a policy's")
  func deadLettered() async throws {
    try await withQueue(arguments: #"{"x-dead-letter-exchange":"amq.fanout"}"#) { queue in
      let output = try await reject(queue, until: "exec dead-lettered", ["exchange": "amq.fanout"])
      #expect(!output.err.shows("note discarding"), "\(output)")
    }
    try await withQueue(arguments: "{}") { queue in
      let policy = "/policies/%2F/\(queue)"
      _ = try await Services.management(
        "PUT", policy,
        body: #"{"pattern":"^\#(queue)$","apply-to":"queues","definition":{"dead-letter-exchange":"amq.topic"}}"#)
      do {
        // The API says it only after a while.
        try await eventually("the policy is in force") {
          try await Services.management("GET", "/queues/%2F/\(queue)").contains("amq.topic")
        }
        _ = try await reject(queue, until: "exec dead-lettered", ["exchange": "amq.topic"])
      } catch {
        _ = try? await Services.management("DELETE", policy)
        throw error
      }
      _ = try await Services.management("DELETE", policy)
    }
  }

  @Test("an API that is away, denies, or never answers costs a run nothing")
  func noAnswer() async throws {
    let silent = try TestServer { _ in .silence }
    for url in ["http://127.0.0.1:1/api", Services.managementAPI + "/denied", "http://127.0.0.1:\(silent.port)/api"] {
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "--passive", "1")
        let output = try await Tool.run(
          "consume", queue, "--drain", "--on-error", "reject", "--exec", "exit 3",
          environment: ["MSCTL_MANAGEMENT_URL": url])
        #expect(output.status == 1 && output.err.shows("exec rejected"), "\(output)")
        #expect(!output.err.shows("note discarding"), "\(output)")
      }
    }
  }

  @Test("the API is asked again for later rejections alone, and not while its answer holds")
  func asksSeldom() throws {
    let answers = ["", #"{"arguments":{"x-dead-letter-exchange":"dead"},"effective_policy_definition":{}}"#]
    let asked = Mutex(0)
    let server = try TestServer { _ in
      let number = asked.withLock {
        $0 += 1
        return $0
      }
      return .ok(answers[min(number, answers.count) - 1])
    }
    let loop = EventLoop()
    let deadLetters = DeadLetters(
      "http://127.0.0.1:\(server.port)/api", Console(environment: [:]), loop, pause: .zero)
    func note(_ rejections: Int) -> Int {
      deadLetters.noteRejections(rejections, from: "q", AMQPURI())
      while !deadLetters.isOver { loop.turn() }
      return asked.withLock { $0 }
    }
    #expect(note(0) == 0)
    #expect(note(1) == 1 && deadLetters.fate == .unknown)
    #expect(note(1) == 1, "no more was rejected")
    #expect(note(2) == 2 && deadLetters.fate == .exchange("dead"))
    #expect(note(2) == 2 && note(3) == 2, "the answer holds")
  }
}
