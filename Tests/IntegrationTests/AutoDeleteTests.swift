import Support
import Testing

/// Such a queue is deleted, with what it holds, when its last consumer ends: so a run that needs another consumer begins it before it
/// ends the first.
@Suite("A queue that goes with its last consumer", .serialized)
struct AutoDeleteTests {
  private func withAutoDeleteQueue(_ body: (String) async throws -> Void) async throws {
    try await withQueue { queue in
      _ = try await Services.management(
        "PUT", "/queues/%2F/\(queue)", body: #"{"durable":true,"auto_delete":true}"#)
      _ = try await Tool.shell("seq 300 | msctl publish \(queue) -q")
      try await body(queue)
    }
  }

  @Test("a filter that wants more messages than are held at a time gets them all")
  func silence() async throws {
    try await withAutoDeleteQueue { queue in
      let output = try await Tool.run("consume", queue, "--drain", "--through", "tac")
      #expect(output.status == 0 && output.lines == (1...300).reversed().map(String.init), "\(output)")
    }
  }

  @Test("messages that failed and wait do not keep others from coming, nor themselves from coming again")
  func failed() async throws {
    try await withAutoDeleteQueue { queue in
      let output = try await Tool.run(
        "consume", queue, "--count", "30", "--exec", "cat; echo; test $MSCTL_ATTEMPT -gt 1 || exit 1")
      #expect(output.status == 0 && Set(output.lines.filter { !$0.isEmpty }).count >= 30, "\(output)")
    }
  }
}
