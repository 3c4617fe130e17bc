import Foundation
import Support
import Testing

/// RabbitMQ's tutorials (https://www.rabbitmq.com/tutorials), each with one side written for pika, as their readers have it, and
/// the other side in msctl: both ways round.
@Suite("RabbitMQ's tutorials")
struct TutorialTests {
  private static let opening = """
    import os, sys, pika
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    def handle(channel, method, properties, body):
      print(body.decode(), flush=True)
      channel.basic_ack(method.delivery_tag)
    def take(queue):
      channel.basic_qos(prefetch_count=1)
      channel.basic_consume(queue, handle)
      channel.start_consuming()

    """

  /// Starts a program that has a channel of pika's.
  private func pika(_ script: String, _ words: String...) throws -> RunningProcess {
    try RunningProcess("/usr/bin/python3", ["-c", Self.opening + script] + words)
  }

  private func runPika(_ script: String, _ words: String...) async throws {
    let output = try await RunningProcess("/usr/bin/python3", ["-c", Self.opening + script] + words).end()
    try #require(output.status == 0, "\(output.err)")
  }

  /// An exchange of a test's own, as pika declares it.
  private func withExchange(_ type: String, _ body: (String) async throws -> Void) async throws {
    let exchange = Services.uniqueName("exchange")
    try await runPika("channel.exchange_declare(sys.argv[1], sys.argv[2], durable=True)", exchange, type)
    do { try await body(exchange) } catch {
      _ = try? await Services.management("DELETE", "/exchanges/%2F/\(exchange)")
      throw error
    }
    _ = try await Services.management("DELETE", "/exchanges/%2F/\(exchange)")
  }

  private func areBound(_ count: Int, to exchange: String) async throws {
    try await eventually("\(count) queues are bound") {
      let answer = try await Services.management("GET", "/exchanges/%2F/\(exchange)/bindings/source")
      return (try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [Any])?.count == count
    }
  }

  @Test("1: Hello World")
  func helloWorld() async throws {
    try await withQueue { queue in
      try await runPika(
        """
        channel.queue_declare(sys.argv[1], durable=True)
        channel.basic_publish("", sys.argv[1], "Hello World!")
        """, queue)
      let output = try await Tool.run("consume", queue, "-n", "1")
      #expect(output.out == "\"Hello World!\"\n" && output.status == 0)

      let receiver = try pika("channel.queue_declare(sys.argv[1], durable=True); take(sys.argv[1])", queue)
      #expect(try await Tool.run("publish", queue, "--text", "Hello World!").status == 0)
      try await eventually("it has arrived") { receiver.out == "Hello World!\n" }
    }
  }

  @Test("2: a work queue, whose tasks are shared by workers, and are not lost with one of them")
  func workQueue() async throws {
    let tasks = (1...6).map { "Task \($0)." }
    try await withQueue { queue in
      try await runPika(
        """
        channel.queue_declare(sys.argv[1], durable=True)
        for task in sys.argv[2].splitlines():
          channel.basic_publish("", sys.argv[1], task, pika.BasicProperties(delivery_mode=2))
        """, queue, tasks.joined(separator: "\n"))
      // The first worker takes one, and dies with it.
      let dying = try Tool.start(
        "consume", queue, "--prefetch", "1", "--exec", "echo begun >&2; while kill -0 $PPID; do sleep 0.1; done")
      try await eventually("the first worker works") { dying.err.contains("begun") }
      let workers = try (0..<2).map { _ in
        try Tool.start("consume", queue, "--prefetch", "1", "--exec", "cat; echo")
      }
      try await eventually("five are done") { workers.flatMap { $0.out.split(separator: "\n") }.count == 5 }
      dying.signal(SIGKILL)
      try await eventually("the last one, too") { workers.flatMap { $0.out.split(separator: "\n") }.count == 6 }
      #expect(workers.flatMap { $0.out.split(separator: "\n").map(String.init) }.sorted() == tasks)
      for worker in workers { worker.signal(SIGTERM) }
      for worker in workers { #expect(try await worker.end().status == 128 + SIGTERM) }

      let output = try await Tool.run("publish", queue, "-l", input: tasks.joined(separator: "\n"))
      #expect(output.status == 0)
      let others = try (0..<2).map { _ in try pika("take(sys.argv[1])", queue) }
      try await eventually("all are done") { others.flatMap { $0.out.split(separator: "\n") }.count == 6 }
      #expect(others.flatMap { $0.out.split(separator: "\n").map(String.init) }.sorted() == tasks)
    }
  }

  @Test("3: publish and subscribe: each subscriber of a fanout exchange has each message")
  func publishSubscribe() async throws {
    try await withExchange("fanout") { exchange in
      // Declared by both sides alike.
      let none = try await Tool.run(
        "publish", "-x", exchange, "--exchange-type", "fanout", "--no-mandatory", "--text", "info: nobody listens yet")
      #expect(none.status == 0)
      let subscriber = """
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, sys.argv[1])
        take(queue)
        """
      let theirs = try [pika(subscriber, exchange), pika(subscriber, exchange)]
      let ours = try [Tool.start("consume", "-x", exchange), Tool.start("consume", "-x", exchange)]
      try await areBound(4, to: exchange)
      #expect(try await Tool.run("publish", "-x", exchange, "--text", "info: one").status == 0)
      try await eventually("the first is everywhere") {
        theirs.allSatisfy { $0.out == "info: one\n" } && ours.allSatisfy { $0.out == "\"info: one\"\n" }
      }
      try await runPika(#"channel.basic_publish(sys.argv[1], "", "info: two")"#, exchange)
      try await eventually("the second, too") {
        theirs.allSatisfy { $0.out == "info: one\ninfo: two\n" }
          && ours.allSatisfy { $0.out == "\"info: one\"\n\"info: two\"\n" }
      }
    }
  }

  @Test(
    "4 and 5: routing by key, and by pattern",
    arguments: [
      ("direct", ["warning", "error"], ["info", "warning", "error"], ["warning", "error"]),
      (
        "topic", ["kern.*", "*.critical"], ["kern.info", "cron.info", "cron.critical", "kern.critical"],
        ["kern.info", "cron.critical", "kern.critical"]
      ),
    ])
  func routing(_ type: String, _ patterns: [String], _ keys: [String], _ expected: [String]) async throws {
    try await withExchange(type) { exchange in
      let theirs = try pika(
        """
        queue = channel.queue_declare("", exclusive=True).method.queue
        for key in sys.argv[2].split(): channel.queue_bind(queue, sys.argv[1], key)
        take(queue)
        """, exchange, patterns.joined(separator: " "))
      let ours = try RunningProcess(
        Tool.binary, ["consume", "--raw", "-x", exchange] + patterns.flatMap { ["-b", $0] })
      try await areBound(2 * patterns.count, to: exchange)
      try await runPika(
        """
        for key in sys.argv[2].split(): channel.basic_publish(sys.argv[1], key, key)
        """, exchange, keys.joined(separator: " "))
      let first = expected.map { $0 + "\n" }.joined()
      try await eventually("what pika sent is there") { theirs.out == first && ours.out == first }
      for key in keys {
        let output = try await Tool.run("publish", "-x", exchange, "-k", key, "--text", key)
        // What nobody is bound for is told, and no success.
        let isTaken = expected.contains(key)
        #expect(output.status == (isTaken ? 0 : 7))
      }
      try await eventually("what msctl sent is there") { theirs.out == first + first && ours.out == first + first }
    }
  }

  private static let server = """
    def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
    def answer(channel, method, properties, body):
      channel.basic_publish("", properties.reply_to, str(fib(int(body))),
        pika.BasicProperties(correlation_id=properties.correlation_id))
      channel.basic_ack(method.delivery_tag)
    channel.queue_declare(sys.argv[1], durable=True)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(sys.argv[1], answer)
    channel.start_consuming()
    """

  @Test("6: remote procedure calls: msctl asks, pika answers")
  func remoteCall() async throws {
    try await withQueue { queue in
      let server = try pika(Self.server, queue)
      defer { server.signal(SIGKILL) }
      let output = try await Tool.run("publish", queue, "--reply", input: "10 20\n")
      #expect(output.out == "55\n6765\n" && output.status == 0)
    }
  }

  private static let client = """
    replies = channel.queue_declare("", exclusive=True).method.queue
    for n in sys.argv[2:]:
      channel.basic_publish("", sys.argv[1], n, pika.BasicProperties(reply_to=replies, correlation_id="for " + n))
    def answer(channel, method, properties, body): print(properties.correlation_id, body.decode(), flush=True)
    channel.basic_consume(replies, answer, auto_ack=True)
    channel.start_consuming()
    """

  @Test(
    "6: remote procedure calls: pika asks, msctl answers, by a command for each or by a filter for all",
    arguments: [["--exec", "jq -j '. * .'"], ["--through", "jq --unbuffered '. * .'"]])
  func remoteAnswer(_ how: [String]) async throws {
    try await withQueue(arguments: "{}") { queue in
      let client = try pika(Self.client, queue, "3", "4")
      defer { client.signal(SIGKILL) }
      let server = try RunningProcess(Tool.binary, ["consume", queue, "--reply"] + how)
      try await eventually("both are answered") { client.out == "for 3 9\nfor 4 16\n" }
      server.signal(SIGTERM)
      #expect(try await server.end().status == 128 + SIGTERM)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("streams: what one has published any number can read, from the first or from an offset on")
  func stream() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { stream in
      try await runPika(
        """
        channel.queue_declare(sys.argv[1], durable=True, arguments={"x-queue-type": "stream"})
        channel.confirm_delivery()
        for n in range(5): channel.basic_publish("", sys.argv[1], f"hello {n}")
        """, stream)
      #expect(try await Tool.run("publish", stream, "-l", input: "hello 5\nhello 6\n").status == 0)
      let all = (0..<7).map { "hello \($0)\n" }.joined()
      let reader = """
        channel.basic_qos(prefetch_count=100)
        channel.basic_consume(sys.argv[1], handle, arguments={"x-stream-offset": int(sys.argv[2])})
        channel.start_consuming()
        """
      let theirs = try [pika(reader, stream, "0"), pika(reader, stream, "5")]
      try await eventually("pika reads both") { theirs.map(\.out) == [all, "hello 5\nhello 6\n"] }
      for (offset, expected) in [("first", all), ("5", "hello 5\nhello 6\n")] {
        let count = expected.utf8.count / "hello 0\n".utf8.count
        let output = try await Tool.run(
          "consume", stream, "--stream", "--offset", offset, "-n", "\(count)", "--raw")
        #expect(output.out == expected && output.status == 0)
      }
    }
  }
}
