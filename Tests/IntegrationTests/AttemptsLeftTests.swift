import Foundation
import Support
import Testing

@Suite("What a failure says of attempts that are left", .serialized)
struct AttemptsLeftTests {
  /// The remark of the first failure of a message in a queue with these arguments.
  private func remark(_ arguments: String, policy: String? = nil, _ words: String...) async throws -> String {
    var remark = ""
    try await withQueue(arguments: arguments) { queue in
      if let policy {
        _ = try await Services.management(
          "PUT", "/policies/%2F/\(queue)",
          body: #"{"pattern":"^\#(queue)$","definition":\#(policy),"apply-to":"queues"}"#)
      }
      _ = try await Tool.run("publish", queue, "--passive", "1", "--message-id", "m")
      let output = try await RunningProcess(
        Tool.binary, ["consume", queue, "--count", "1", "--exec", "test $MSCTL_ATTEMPT = 2"] + words
      ).end()
      #expect(output.status == 0, "\(output)")
      remark = output.err.split(separator: "\n").first.map(String.init) ?? ""
      if policy != nil { _ = try await Services.management("DELETE", "/policies/%2F/\(queue)") }
    }
    return remark
  }

  @Test("holds whatever the queue's arguments and a policy say, which AMQP does not tell")
  func neverFalse() async throws {
    let head = "msctl: message m: the command exited with 1 (attempt 1); requeued in 200 ms"
    let assumed = Services.promises.countsReturns ? ", 20 attempts left by default (delivery limit 20)" : ""
    #expect(try await remark(#"{"x-queue-type":"quorum"}"#) == head + assumed)
    #expect(try await remark(#"{"x-queue-type":"quorum"}"#, policy: #"{"delivery-limit":3}"#) == head + assumed)
    #expect(try await remark(#"{"x-queue-type":"quorum","x-delivery-limit":5}"#) == head + assumed)
    let argument = "x-delivery-limit=5"
    // Where a requeue does not count (4.3), nothing is said of it.
    let counts = Services.promises.countsReturns || !Services.promises.limitsDeliveries
    #expect(
      try await remark(
        #"{"x-queue-type":"quorum","x-delivery-limit":5}"#, policy: #"{"delivery-limit":3}"#, "--queue-argument",
        argument) == head + (counts ? ", at most 5 attempts left (x-delivery-limit=5)" : ""))
    #expect(
      try await remark(#"{"x-queue-type":"quorum"}"#, "--queue-argument", "x-delivery-limit=-1") == head)
    #expect(try await remark("{}") == head)
  }
}
