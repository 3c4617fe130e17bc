import Foundation
import Support
import Synchronization
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

  private func bodies(in queue: String) async throws -> [String] {
    try await Services.messages(in: queue).compactMap { $0["payload"] as? String }
  }

  @Test(
    "a request whose reply the broker does not take is rejected, and the service goes on",
    arguments: [
      ["--exec", "cat"], ["--exec", "cat", "--on-error", "stop"], ["--through", "cat"],
      ["--envelope", "--through", "cat"],
    ])
  func refusedReply(_ words: [String]) async throws {
    try await withDeadLetters { queue, dead in
      try await withQueue(arguments: #"{"x-max-length":0,"x-overflow":"reject-publish"}"#) { full in
        try await withQueue(arguments: "{}") { replies in
          _ = try await Tool.run("publish", queue, "--passive", "1", "--reply-to", full, "--message-id", "m1")
          _ = try await Tool.run("publish", queue, "--passive", "2", "--reply-to", replies)
          let output = try await RunningProcess(
            Tool.binary, ["consume", queue, "--count", "2", "--prefetch", "1", "--reply"] + words
          ).end()
          #expect(output.status == 1 && output.out == "", "\(output)")
          #expect(output.err.shows("exec unreplied", ["id": "m1", "queue": full], hint: false), "\(output)")
          #expect(try await bodies(in: dead) == ["1"])
          #expect(try await bodies(in: replies) == ["2"])
          #expect(try await Services.messages(in: queue).isEmpty)
        }
      }
    }
  }

  @Test("a requester whose queue is full holds up its other replies no more")
  func fullRequester() async throws {
    let requests = 5
    let publishes = Mutex(0)
    let broker = try FakeBroker { peer, method in
      switch method.name {
      case .consume:
        peer.send(FakeBroker.consuming())
        for tag in 1...requests { peer.send(FakeBroker.deliver(tag: UInt64(tag), body: [0x31], replyTo: "full")) }
      case .publish:
        publishes.withLock { $0 += 1 }
        peer.send(FakeBroker.nack(peer.publishes))
      default: return false
      }
      return true
    }
    let output = try await Tool.run(
      "consume", "q", "--count", "\(requests)", "--reply", "--exec", "cat", environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 1, "\(output)")
    #expect(output.err.components(separatedBy: "rejected: ").count == requests + 1, "\(output)")
    let count = publishes.withLock { $0 }
    // 5 and 1 for each later one. On a machine that is very slow, that the queue is full is forgotten in between.
    #expect(count >= 9 && count < 5 * requests, "\(count)")
  }

  @Test("a request that is not rejected, since its filter does not go on, is not told as rejected")
  func notRejected() async throws {
    let consumer = Mutex<FakeBroker.Peer?>(nil)
    let broker = try FakeBroker { peer, method in
      switch method.name {
      case .consume:
        consumer.withLock { $0 = peer }
        peer.send(FakeBroker.consuming())
        peer.send(FakeBroker.deliver(tag: 1, body: [0x31], replyTo: "full"))
      case .publish:
        peer.send(FakeBroker.nack(peer.publishes))
        // The reply is refused for good. The filter never writes a line for the next message, and so none is settled.
        guard peer.publishes == 5 else { return true }
        _ = consumer.withLock { $0?.send(FakeBroker.deliver(tag: 2, body: [0x32])) }
      default: return false
      }
      return true
    }
    let service = try Tool.start(
      "consume", "q", "--count", "3", "--reply", "--through",
      "read x; echo $x; read x; echo up >&2; cat >/dev/null", environment: ["AMQP_URL": broker.uri])
    try await eventually("the second is read") { service.err.contains("up\n") }
    service.signal(SIGTERM)
    let output = try await service.end()
    #expect(output.status != 0 && !output.err.contains("rejected"), "\(output)")
  }

  @Test("a filter's requests are not held in memory")
  func requestMemory() async throws {
    try await withQueue(arguments: "{}") { queue in
      try await withQueue(arguments: "{}") { replies in
        _ = try await Tool.shell(
          "head -c 3000000 /dev/zero | tr '\\0' x > $HOME/m; "
            + "for i in $(seq 60); do msctl publish \(queue) --passive --raw -q --reply-to \(replies) < $HOME/m; done")
        // It replies at the end of its input. In KiB: all of it is 180 MB.
        let filter = "sed s/.*/1/; grep VmHWM /proc/$PPID/status >&2"
        let output = try await Tool.run("consume", queue, "--drain", "--reply", "--through", filter)
        let peak = output.err.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }.first
        #expect(output.status == 0 && (peak ?? .max) < 120_000, "\(output)")
        #expect(try await bodies(in: replies).count == 60)
      }
    }
  }

  @Test("a reply larger than the broker takes is about its request alone")
  func tooLarge() async throws {
    try await withDeadLetters { queue, dead in
      try await withQueue(arguments: "{}") { replies in
        _ = try await Tool.run("publish", queue, "--passive", "--reply-to", replies, input: "1 2 3")
        let large = "head -c \(Services.promises.largestMessage + 1) /dev/zero"
        let command = "read x; if [ $x = 2 ]; then \(large); else echo $x; fi"
        let output = try await Tool.run("consume", queue, "--drain", "--reply", "--exec", command)
        #expect(output.status == 1 && output.err.contains("refused by the broker: "), "\(output)")
        #expect(try await bodies(in: dead) == ["2"])
        #expect(try await bodies(in: replies) == ["1", "3"])
      }
    }
  }

  @Test(
    "a user who may not reply loses no request, whatever follows a failure",
    arguments: [
      ["--exec", "cat", "--max-attempts", "1"], ["--exec", "cat", "--parallel", "3"], ["--through", "cat"],
    ])
  func denied(_ words: [String]) async throws {
    try await withUser(writes: false) { uri, _ in
      try await withDeadLetters { queue, dead in
        _ = try await Tool.run("publish", queue, "--passive", "--reply-to", queue, input: "1 2 3")
        let output = try await RunningProcess(
          Tool.binary, ["consume", queue, "--drain", "--passive", "--reply"] + words, environment: ["AMQP_URL": uri]
        ).end()
        #expect(output.status == 6, "\(output)")
        #expect(output.err.components(separatedBy: "cannot reply: ").count == 2, "\(output)")
        #expect(try await bodies(in: queue).sorted() == ["1", "2", "3"])
        #expect(try await Services.messages(in: dead).isEmpty)
      }
    }
  }

  @Test("a blocked broker is waited for, and a signal ends the run all the same")
  func blocked() async throws {
    let services = try [["--exec", "cat"], ["--through", "cat"]].map { words in
      let broker = try FakeBroker { peer, method in
        switch method.name {
        case .consume:
          peer.send(FakeBroker.consuming())
          peer.send(FakeBroker.deliver(tag: 1, body: [0x31], messageID: "m1", replyTo: "replies"))
        // From then on RabbitMQ does not read what comes on this connection.
        case .publish: peer.send(FakeBroker.blocked("low on memory"))
        case .connectionClose: return peer.publishes > 0
        case .acknowledge, .reject: Issue.record("it has no reply")
        default: return false
        }
        return true
      }
      let words = ["consume", "q", "--reply"] + words
      return (broker, try RunningProcess(Tool.binary, words, environment: ["AMQP_URL": broker.uri]))
    }
    for (_, service) in services {
      try await eventually("it waits") { service.err.shows("publish blocked", ["reason": "low on memory"]) }
      service.signal(SIGTERM)
    }
    for (_, service) in services { #expect(try await service.end().status == 143) }
  }

  @Test("a line that is no envelope is no reply")
  func notEnvelope() async throws {
    try await withQueue(arguments: "{}") { queue in
      try await withQueue(arguments: "{}") { replies in
        _ = try await Tool.run("publish", queue, "--message-id", "m1", "--reply-to", replies, "1")
        let output = try await Tool.run(
          "consume", queue, "--drain", "--reply", "--envelope", "--through", "jq -c --unbuffered '{deliveryTag}'")
        #expect(output.status == 1 && output.err.shows("replyNotEnvelope", ["id": "m1"]), "\(output)")
        #expect(try await Services.messages(in: replies).isEmpty)
        #expect(try await bodies(in: queue) == ["1"])
      }
    }
  }

  @Test("--reject-exit rejects at once what the command says so of, and the others are tried again")
  func rejectExit() async throws {
    try await withDeadLetters { queue, dead in
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
