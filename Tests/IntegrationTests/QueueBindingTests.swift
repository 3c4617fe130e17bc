import Foundation
import MsctlCore
import Support
import Testing

/// `consume` of a queue that it binds to an exchange.
@Suite("A queue bound to an exchange", .serialized)
struct QueueBindingTests {
  private func isThere(_ queue: String) async throws -> Bool {
    try await Services.management("GET", "/queues/%2F/\(queue)").contains("\"name\":\"\(queue)\"")
  }

  /// Publishes until a queue takes it.
  private func publish(_ words: String..., message: String) async throws {
    try await eventually("a queue takes it") {
      try await RunningProcess(Tool.binary, ["publish", "-q"] + words + [message]).end().status == 0
    }
  }

  @Test("is declared durable and keeps its bindings, so that it collects what comes after the run")
  func durable() async throws {
    try await withQueue { queue in
      let words = ["consume", queue, "-x", "amq.topic", "-b", "\(queue).*", "-b", "\(queue).a.b"]
      let consumer = try RunningProcess(Tool.binary, words + ["--count", "1"])
      try await publish("-x", "amq.topic", "-k", "\(queue).a", message: "1")
      let first = try await consumer.end()
      #expect(first.out == "1\n" && first.err.showsOnly("note declaredQueue"), "\(first)")
      for key in ["a.b", "b"] {
        #expect(try await Tool.run("publish", "-x", "amq.topic", "-k", "\(queue).\(key)", "2", "-q").status == 0)
      }
      #expect(try await Tool.run("publish", "-x", "amq.topic", "-k", "\(queue).b.b", "3", "-q").status == 7)
      // It is taken as it is.
      let second = try await RunningProcess(Tool.binary, words + ["--drain"]).end()
      #expect(second.out == "2\n2\n" && second.err == "", "\(second)")
      try await eventually("the management API knows it as durable") {
        let state = try await Services.management("GET", "/queues/%2F/\(queue)")
        return state.contains(#""durable":true"#) && state.contains(#""exclusive":false"#)
      }
    }
  }

  @Test("gets from a headers exchange what has all headers of --bind-argument, or any of them")
  func headers() async throws {
    try await withQueue { queue in
      let id = Services.uniqueName("id")
      let words = ["consume", queue, "-x", "amq.headers", "--bind-argument", "run=\(id)", "--bind-argument", "size=5"]
      let consumer = try RunningProcess(Tool.binary, words + ["--count", "2"])
      try await publish("-x", "amq.headers", "-k", "", "-H", "run=\(id)", "-H", "size:=5", message: "1")
      for size in ["size:=6", "size=5", "other=5"] {
        let other = try await Tool.run(
          "publish", "-x", "amq.headers", "-k", "", "-H", "run=\(id)", "-H", size, "0", "-q")
        #expect(other.status == 7, "\(other)")
      }
      try await publish("-x", "amq.headers", "-k", "", "-H", "run=\(id)", "-H", "size:=5", "-H", "n=1", message: "2")
      #expect(try await consumer.end().out == "1\n2\n")
    }
    let any = Services.uniqueName("any")
    let consumer = try Tool.start(
      "consume", "-x", "amq.headers", "--bind-argument", "\(any)=a", "--bind-argument", "\(any)-2=b", "--bind-argument",
      "x-match=any", "--count", "2")
    try await publish("-x", "amq.headers", "-k", "", "-H", "\(any)=a", message: "1")
    try await publish("-x", "amq.headers", "-k", "", "-H", "\(any)-2=b", message: "2")
    #expect(try await consumer.end().out == "1\n2\n")
  }

  @Test(
    "is not made where the exchange would ignore what it is bound with, and get everything or nothing",
    arguments: [
      (["-x", "amq.headers", "-b", "type=pdf"], 2, "unfitBinding"),
      (["-x", "amq.headers", "-b", "pdf.#"], 2, "unfitBinding 2"),
      (["-x", "amq.fanout", "-b", "eu.#"], 2, "unfitBinding 3"),
      (["-x", "amq.topic", "--bind-argument", "type=pdf"], 2, "unfitBinding 4"),
      (["-x", "amq.direct"], 2, "unfitBinding 5"), (["-x", "no-such-exchange"], 3, "broker channelClosed 3"),
    ] as [([String], Int32, String)])
  func misfit(_ words: [String], _ status: Int32, _ entry: String) async throws {
    let queue = Services.uniqueName("queue")
    for name in [[queue], []] {
      let output = try await RunningProcess(Tool.binary, ["consume"] + name + words).end()
      #expect(output.status == status, "\(output)")
      if status == 2 {
        let type = String(words[1].dropFirst(4))
        #expect(
          output.err.shows(
            entry, ["exchange": words[1], "name": "type", "value": "pdf", "key": "eu.#", "headers": type]),
          "\(output)")
      }
    }
    #expect(try await !isThere(queue))
    #expect(try await Services.management("GET", "/exchanges/%2F/no-such-exchange").contains("Not Found"))
  }

  @Test("takes a fanout exchange with the empty key that others write")
  func fanout() async throws {
    for words in [[], ["-b", ""], ["-b", "#"]] {
      let exchange = Services.uniqueName("fanout")
      _ = try await Services.management("PUT", "/exchanges/%2F/\(exchange)", body: #"{"type":"fanout"}"#)
      let consumer = try RunningProcess(Tool.binary, ["consume", "-x", exchange, "--count", "1"] + words)
      try await publish("-x", exchange, "-k", "any", message: "1")
      #expect(try await consumer.end().out == "1\n")
      _ = try await Services.management("DELETE", "/exchanges/%2F/\(exchange)")
    }
  }

  @Test("is one connection's alone with --exclusive, and goes with it")
  func exclusive() async throws {
    let queue = Services.uniqueName("queue")
    let consumer = try Tool.start(
      "consume", queue, "-x", "amq.topic", "-b", "\(queue).#", "--exclusive", "--queue-argument", "x-max-length=9")
    try await publish("-x", "amq.topic", "-k", queue, message: "1")
    try await eventually("it came") { consumer.out == "1\n" }
    let other = try await Tool.run("consume", queue, "--drain")
    #expect(other.status == 1 && other.err.contains("exclusive to another connection"), "\(other)")
    let same = try await Tool.run("consume", queue, "-x", "amq.topic", "--exclusive")
    #expect(same.status == 1 && same.err.contains("exclusive to another connection"), "\(same)")
    #expect(try await Services.management("GET", "/queues/%2F/\(queue)").contains(#""x-max-length":9"#))
    consumer.signal(SIGTERM)
    #expect(try await consumer.end().status == 143)
    try await eventually("it is gone") { try await !isThere(queue) }
    try await withQueue(arguments: "{}") { queue in
      let shared = try await Tool.run("consume", queue, "-x", "amq.topic", "--exclusive")
      #expect(shared.status == 1 && shared.err.showsOnly("notExclusive", with: ["queue": queue]), "\(shared)")
    }
  }

  @Test("is bound anew by each connection, under its name")
  func reconnection() async throws {
    let queue = Services.uniqueName("queue")
    for words in [
      [queue, "--exclusive"], [queue, "--expires", "1h"], [queue, "--queue-argument", "x-max-length=9"], [],
    ] {
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let consumer = try RunningProcess(
        Tool.binary, ["consume", "-x", "amq.topic", "-b", "\(queue).#"] + words,
        environment: ["AMQP_URL": "amqp://guest:guest@127.0.0.1:\(proxy.port)"])
      try await publish("-x", "amq.topic", "-k", queue, message: "1")
      try await eventually("it came") { consumer.out == "1\n" }
      proxy.cutAll()
      try await eventually("it is there again") { consumer.err.shows("consuming reconnected") }
      try await publish("-x", "amq.topic", "-k", queue, message: "2")
      try await eventually("it came") { consumer.out == "1\n2\n" }
      // What was published meanwhile is told where it went with the queue.
      #expect(
        consumer.err.shows("consuming newQueue", ["exchange": "amq.topic"])
          == (words.isEmpty || words.contains("--exclusive")), "\(words): \(consumer.err)")
      consumer.signal(SIGTERM)
      _ = try await consumer.end()
      try await Services.deleteQueue(queue)
      try await eventually("it is gone") { try await !isThere(queue) }
    }
  }

  @Test("is deleted with --expires, once nobody has consumed it for that time")
  func expires() async throws {
    let queue = Services.uniqueName("queue")
    let consumer = try Tool.start("consume", queue, "-x", "amq.topic", "-b", queue, "--expires", "1s", "--count", "1")
    try await publish("-x", "amq.topic", "-k", queue, message: "1")
    #expect(try await consumer.end().out == "1\n")
    try await eventually("it is gone") { try await !isThere(queue) }
    try await withQueue(arguments: "{}") { queue in
      let other = try await Tool.run("consume", queue, "-x", "amq.topic", "-b", queue, "--expires", "1s")
      #expect(other.status == 1 && other.err.shows("queue with other arguments", ["queue": queue]), "\(other)")
    }
  }

  @Test("stays when its consumer is replaced, so that failed messages do not keep others from making the count")
  func replacedConsumer() async throws {
    let key = Services.uniqueName("key")
    let consumer = try Tool.start(
      "consume", "-x", "amq.topic", "-b", key, "--count", "2", "--exec", "read x; test $x != 1 && echo $x")
    try await publish("-x", "amq.topic", "-k", key, message: "1")
    #expect(try await Tool.run("publish", "-x", "amq.topic", "-k", key, "-q", input: "1 1 1 1 2 3").status == 0)
    let output = try await consumer.end()
    #expect(output.status == 0 && output.lines == ["2", "3"], "\(output)")
  }

  @Test(
    "needs what it needs",
    arguments: [
      ["q", "--bind", "k"], ["q", "--bind-argument", "a=b"], ["-x", "amq.topic", "--exclusive"],
      ["-x", "amq.topic", "--expires", "1s"], ["q", "--exclusive"], ["q", "-x", "e", "--exclusive", "--drain"],
      ["q", "-x", "e", "--expires", "1s", "--passive"],
    ])
  func usage(_ words: [String]) async throws {
    #expect(try await RunningProcess(Tool.binary, ["consume"] + words).end().status == 2)
  }

  @Test(
    "is refused where the options would do nothing, or more than they say",
    arguments: [
      (["-x", "e", "--drain"], "'--drain' and '--peek' require QUEUE: a temporary queue is empty at first"),
      (["-x", "e", "--peek"], "'--drain' and '--peek' require QUEUE: a temporary queue is empty at first"),
      (["q", "-x", "e", "--peek"], "'--peek' cannot be combined with '--exchange', which binds QUEUE to it for good"),
    ])
  func misuse(_ words: [String], _ message: String) async throws {
    let output = try await RunningProcess(Tool.binary, ["consume"] + words).end()
    #expect(output.status == 2 && output.err.hasPrefix("msctl: \(message)\n"), "\(output)")
  }
}
