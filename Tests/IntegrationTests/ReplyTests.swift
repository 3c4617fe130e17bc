import Foundation
import Support
import Testing

/// A program for pika, the AMQP client of Python.
private func pika(_ script: String, _ words: String...) throws -> RunningProcess {
  let opening = """
    import os, sys, pika
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()

    """
  return try RunningProcess("/usr/bin/python3", ["-c", opening + script] + words)
}

@Suite("Replies and verdicts", .serialized)
struct ReplyTests {
  private static let requests = (1...20).map { #"{"n":\#($0)}"# }.joined()
  private static let results = (1...20).map { #"{"twice":\#($0 * 2)}"# }

  @Test("a command for each message is a service", arguments: ["1", "4"])
  func commands(_ parallel: String) async throws {
    try await withQueue { queue in
      let service = try Tool.start(
        "consume", queue, "--exec", "jq -c '{twice:(.n*2)}'", "--reply", "--parallel", parallel)
      try await eventually("it consumes") { service.err.shows("note declaredQueue") }
      let output = try await Tool.run("publish", queue, "--reply", "--reply-timeout", "10m", "-q", input: Self.requests)
      #expect(output.lines == Self.results && output.err == "", "\(output)")
      service.signal(SIGTERM)
      let end = try await service.end()
      #expect(end.status == 143 && end.out == "", "\(end)")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test(
    "a filter for all messages is a service",
    arguments: [
      ["jq -c --unbuffered '{twice:(.n*2)}'"], ["jq -c --unbuffered '.body={twice:(.body.n*2)}'", "--envelope"],
    ])
  func filter(_ words: [String]) async throws {
    try await withQueue { queue in
      let service = try RunningProcess(Tool.binary, ["consume", queue, "--reply", "--through"] + words)
      try await eventually("it consumes") { service.err.shows("note declaredQueue") }
      let output = try await Tool.run("publish", queue, "--reply", "--reply-timeout", "10m", "-q", input: Self.requests)
      #expect(output.lines == Self.results && output.err == "", "\(output)")
      service.signal(SIGTERM)
      let end = try await service.end()
      #expect(end.out == "", "\(end)")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("pika asks a service of msctl, and msctl one of pika")
  func otherClients() async throws {
    try await withQueue(arguments: "{}") { queue in
      let service = try Tool.start("consume", queue, "--count", "1", "--exec", "jq -c '{twice:(.n*2)}'", "--reply")
      let client = try pika(
        """
        answers = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", sys.argv[1], b'{"n":21}', pika.BasicProperties(reply_to=answers, correlation_id="c 1"))
        for method, properties, body in channel.consume(answers, auto_ack=True):
          print(properties.correlation_id, properties.content_type, body.decode(), flush=True)
          break
        """, queue)
      let answer = try await client.end()
      #expect(answer.out == "c 1 application/json {\"twice\":42}\n", "\(answer)")
      #expect(try await service.end().status == 0)

      let server = try pika(
        """
        def handle(channel, method, properties, body):
          channel.basic_publish("", properties.reply_to, body.upper(), pika.BasicProperties(correlation_id=properties.correlation_id))
          channel.basic_ack(method.delivery_tag)
        channel.basic_consume(sys.argv[1], handle)
        channel.start_consuming()
        """, queue)
      let output = try await Tool.run("publish", queue, #""a b""#, "--reply", "--reply-timeout", "10m", "-q")
      #expect(output.status == 0 && output.out == "\"A B\"\n", "\(output)")
      server.signal(SIGKILL)
    }
  }

  @Test("a message without reply_to is handled and told, and a requester that is gone is no failure")
  func nobodyWaits() async throws {
    try await withQueue(arguments: "{}") { queue in
      let gone = Services.uniqueName("gone")
      for words in [["--exec", "cat"], ["--through", "cat"]] {
        _ = try await Tool.run("publish", queue, "1", "--message-id", "m1")
        _ = try await Tool.run("publish", queue, "2", "--reply-to", gone)
        let output = try await RunningProcess(Tool.binary, ["consume", queue, "--drain", "--reply"] + words).end()
        #expect(output.status == 0 && output.out.hasPrefix("1"), "\(output)")
        #expect(output.err.shows("note noReplyTo 2", ["id": "m1"]), "\(output)")
        #expect(output.err.shows("note requesterGone", ["queue": gone]), "\(output)")
        #expect(try await Services.messages(in: queue).isEmpty)
      }
    }
  }

  @Test("a message whose reply is not confirmed has failed", arguments: [["--exec", "cat"], ["--through", "cat"]])
  func refusedReply(_ words: [String]) async throws {
    try await withQueue(arguments: "{}") { queue in
      try await withQueue(arguments: #"{"x-max-length":0,"x-overflow":"reject-publish"}"#) { full in
        _ = try await Tool.run("publish", queue, "1", "--reply-to", full)
        let output = try await RunningProcess(
          Tool.binary,
          ["consume", queue, "--drain", "--reply"] + words + (words[0] == "--exec" ? ["--on-error", "stop"] : [])
        ).end()
        #expect(output.status != 0 && output.err.contains("cannot reply: "), "\(output)")
        #expect(try await Services.messages(in: queue).count == 1)
      }
    }
  }

  @Test("--reject-exit rejects at once what the command says so of, and the others are tried again")
  func rejectExit() async throws {
    try await withQueue(arguments: "{}") { dead in
      try await withQueue(arguments: #"{"x-dead-letter-exchange":"","x-dead-letter-routing-key":"\#(dead)"}"#) {
        queue in
        _ = try await Tool.run("publish", queue, "--passive", input: "4 5 9")
        let output = try await Tool.run(
          "consume", queue, "--drain", "--reject-exit", "4,7-9", "--max-attempts", "2", "--exec", "read x; exit $x")
        #expect(output.status == 1)
        func attempts(_ text: String) -> Int { output.err.components(separatedBy: text).count - 1 }
        #expect(attempts("exited with 4 ") == 1 && attempts("exited with 9 ") == 1, "\(output)")
        #expect(attempts("exited with 5 ") == 2, "\(output)")
        #expect(Set(try await Services.messages(in: dead).compactMap { $0["payload"] as? String }) == ["4", "5", "9"])
        #expect(try await Tool.run("consume", queue, "--reject-exit", "4", "--through", "cat").status == 2)
        for wrong in ["0", "256", "4,", "9-4", "x"] {
          #expect(try await Tool.run("consume", queue, "--exec", "cat", "--reject-exit", wrong).status == 2, "\(wrong)")
        }
      }
    }
  }
}
