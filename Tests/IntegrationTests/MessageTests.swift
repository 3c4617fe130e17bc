import Foundation
import Support
import Testing

private let longHeader = String(repeating: "x", count: 256) + "=v"

@Suite("msctl publish and consume", .serialized)
struct MessageTests {
  @Test("one message goes to a durable queue, persistent and with its properties")
  func oneMessage() async throws {
    try await withQueue { queue in
      let output = try await Tool.run(
        "publish", queue, #"{"id" : 1, "total": 9.90}"#, "--header", "k=v", "--priority", "3", "--type",
        "order.created",
        "--correlation-id", "c1", "--ttl", "1h",
        environment: ["TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
      #expect(output.status == 0)
      #expect(output.out == "")
      #expect(output.err.showsOnly("note confirmed", with: ["3": "1"]))
      let message = try #require(try await Services.messages(in: queue).first)
      #expect(message["payload"] as? String == #"{"id":1,"total":9.90}"#)
      let properties = try #require(message["properties"] as? [String: Any])
      #expect(properties["delivery_mode"] as? Int == 2)
      #expect(properties["content_type"] as? String == "application/json")
      #expect(properties["app_id"] as? String == "msctl")
      #expect((properties["message_id"] as? String)?.count == 36)
      #expect((properties["timestamp"] as? Int ?? 0) > 1_700_000_000)
      #expect(properties["priority"] as? Int == 3 && properties["type"] as? String == "order.created")
      #expect(properties["correlation_id"] as? String == "c1" && properties["expiration"] as? String == "3600000")
      let headers = try #require(properties["headers"] as? [String: Any])
      #expect(headers["k"] as? String == "v")
      #expect((headers["traceparent"] as? String)?.hasPrefix("00-0af7651916cd43dd8448eb211c80319c-") == true)
    }
  }

  @Test("a stream of values comes out as it went in")
  func stream() async throws {
    try await withQueue { queue in
      let published = try await Tool.run(
        "publish", queue, input: #"{"a":1.10}{"a":12345678901234567890}"# + "\n[1,\n 2]\n")
      #expect(published.err.showsOnly("note confirmed"))
      let consumed = try await Tool.run("consume", queue, "--count", "3")
      #expect(consumed.out == "{\"a\":1.10}\n{\"a\":12345678901234567890}\n[1,2]\n")
      #expect(consumed.status == 0)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("twenty thousand messages go through a window and arrive in order")
  func many() async throws {
    try await withQueue { queue in
      let output = try await Tool.shell(
        "seq 20000 | msctl publish \(queue) --window 50 && msctl consume \(queue) --drain > $HOME/o && seq 20000 | cmp - $HOME/o && echo same"
      )
      #expect(output.out == "same\n")
      #expect(output.err.showsOnly("note confirmed", with: ["3": "20000"]))
    }
  }

  @Test("lines, text and raw bytes come out as strings")
  func kinds() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell(
        """
        printf 'one\\n42\\n\\nlast' | msctl publish \(queue) --lines
        msctl publish \(queue) --text 'hello "you"'
        printf '\\xff\\x00' | msctl publish \(queue) --raw
        """)
      let output = try await Tool.run("consume", queue, "--drain")
      #expect(output.lines == [#""one""#, #""42""#, #""""#, #""last""#, #""hello \"you\"""#, #""/wA=""#])
    }
  }

  @Test("a message that no queue takes is an error that names it")
  func returned() async throws {
    try await withQueue(arguments: "{}") { queue in
      let output = try await Tool.run(
        "publish", "--exchange", "amq.direct", "--routing-key", queue, "--message-id", "m-1", #"{"a":1}"#)
      #expect(output.status == 7)
      #expect(
        output.err.shows(
          "message returned by exchange",
          ["3": "1", "id": "m-1", "reason": "NO_ROUTE", "exchange": "amq.direct", "queue": queue]))
      #expect(output.err.showsOnly("message returned by exchange", "note confirmed", "undelivered"))
      _ = try await Services.management(
        "POST", "/bindings/%2F/e/amq.direct/q/\(queue)", body: #"{"routing_key":"\#(queue)"}"#)
      #expect(try await Tool.run("publish", "-x", "amq.direct", "-k", queue, "1").status == 0)
      #expect(try await Services.messages(in: queue).count == 1)
    }
  }

  @Test("a message that the broker refuses is an error that names it")
  func nacked() async throws {
    try await withQueue(arguments: #"{"x-max-length":1,"x-overflow":"reject-publish"}"#) { queue in
      let output = try await Tool.run("publish", queue, "--passive", input: "1 2 3")
      #expect(output.status == 7)
      #expect(output.err.showsOnly("message nacked", "message nacked", "note confirmed", "undelivered"))
      #expect(output.err.shows("undelivered", ["2": "2", "3": "3"]))
      #expect(try await Services.messages(in: queue).count == 1)
    }
  }

  @Test("an exchange that does not exist is told, with what was not confirmed")
  func noExchange() async throws {
    let output = try await Tool.run("publish", "-x", "no-such-exchange", "-k", "k", "1")
    #expect(output.status == 7)
    let reason = "NOT_FOUND - no exchange 'no-such-exchange' in vhost '/'"
    #expect(output.err.shows("publish broker no exchange", ["3": "1", "reason": reason]))
  }

  @Test("a queue with other arguments than those asked for is told, with the way on")
  func otherArguments() async throws {
    try await withQueue(arguments: #"{"x-max-length":7}"#) { queue in
      let output = try await Tool.run("publish", queue, "1", "--queue-argument", "x-max-length=8")
      #expect(output.status == 1)
      #expect(
        output.err.shows("queue with other arguments", ["queue": queue]) && output.err.contains("arg 'x-max-length'"))
      #expect(try await Tool.run("publish", queue, "1", "--passive").status == 0)
      #expect(try await Tool.run("publish", queue, "1", "--queue-argument", "x-max-length=7").status == 0)
      let consumed = try await Tool.run("consume", queue, "--queue-argument", "x-max-length=8", "--count", "2")
      #expect(consumed.status == 1 && consumed.out.isEmpty, "\(consumed)")
      #expect(consumed.err.shows("queue with other arguments", ["queue": queue]), "\(consumed)")
      let same = try await Tool.run("consume", queue, "--queue-argument", "x-max-length=7", "--count", "2")
      #expect(same.out == "1\n1\n", "\(same)")
    }
  }

  @Test("a queue that is no stream is named with its type", arguments: ["classic", "quorum"])
  func noStream(_ type: String) async throws {
    try await withQueue(arguments: #"{"x-queue-type":"\#(type)"}"#) { queue in
      let output = try await Tool.run("consume", queue, "--stream", "--count", "1")
      #expect(output.status == 1, "\(output)")
      #expect(
        output.err
          == "msctl: the queue '\(queue)' is a \(type) queue, not a stream\n       Leave out '--stream'.\n", "\(output)"
      )
    }
  }

  @Test(
    "the password file of the environment is not for a broker that '--broker' names; a refused login tells the file")
  func passwordFile() async throws {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("password"))
    try Data("not-the-password\n".utf8).write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    try await withQueue { queue in
      let environment = ["AMQP_URL": Services.broker, "AMQP_PASSWORD_FILE": file.path]
      let named = try await Tool.run(
        "publish", queue, "1", "--broker", Services.broker, environment: environment)
      #expect(named.status == 0, "\(named)")
      for words in [[], ["--broker", Services.broker, "--password-file", file.path]] {
        let refused = try await RunningProcess(
          Tool.binary, ["publish", queue, "1"] + words, environment: environment
        ).end()
        #expect(refused.status == 6, "\(words): \(refused)")
        #expect(
          refused.err.contains("Check the user name in the URI and the password in '\(file.path)'."), "\(refused)")
        #expect(!refused.err.contains("not-the-password"))
      }
    }
  }

  @Test("input that is not JSON stops at its place, and what came before is published")
  func brokenInput() async throws {
    try await withQueue { queue in
      let output = try await Tool.run("publish", queue, input: "{\"a\":1}\n{\"a\":2}\n{oops}\n{\"a\":4}\n")
      #expect(output.status == 9)
      #expect(
        output.err.showsOnly("note confirmed", "publish inputNotJSON", with: ["3": "2"])
          && output.err.contains("line 3, column 2: expected a name in quotes, found 'o'"))
      #expect(try await Services.messages(in: queue).count == 2)
      let message = try await Tool.run("publish", queue, "{oops}")
      #expect(message.status == 9)
      #expect(message.err.shows("messageNotJSON") && message.err.contains("line 1, column 2: "))
    }
  }

  @Test("a count that is not reached in time is a time-out, and an empty queue is found empty")
  func ends() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2")
      let few = try await Tool.run("consume", queue, "--count", "3", "--for", "8s")
      #expect(few.out == "1\n2\n")
      #expect(few.status == 8)
      #expect(few.err.showsOnly("consume tooFew", with: ["2": "2", "3": "3", "queue": queue]))
      let idle = try await Tool.run("consume", queue, "--idle", "200ms")
      #expect(idle.status == 0 && idle.out == "")
      let empty = try await Tool.run("consume", queue, "--drain", "--require")
      #expect(empty.status == 3)
      #expect(empty.err.showsOnly("consume noMessages", with: ["queue": queue]))
    }
  }

  @Test("messages beyond the count stay in the queue untouched", arguments: [1, 5, 37])
  func countLeavesTheRest(_ count: Int) async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 100 | msctl publish \(queue)")
      #expect(try await Tool.run("consume", queue, "--count", "\(count)").lines.count == count)
      let rest = try await Services.messages(in: queue)
      #expect(rest.count == 100 - count)
      #expect(rest.allSatisfy { $0["redelivered"] as? Bool == false })
    }
  }

  @Test(
    "however it ends short of its count, what was written is acknowledged",
    arguments: [["--for", "8s"], ["--idle", "5s"], ["--drain"]])
  func countNotReached(_ ending: [String]) async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 36 | msctl publish \(queue)")
      let output = try await RunningProcess(Tool.binary, ["consume", queue, "--count", "37"] + ending).end()
      #expect(output.lines.count == 36)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("a consumer that is interrupted short of its count has acknowledged what was written")
  func countInterrupted() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 36 | msctl publish \(queue)")
      let consumer = try Tool.start("consume", queue, "--count", "37")
      try await eventually("36 lines") { consumer.out.split(separator: "\n").count == 36 }
      consumer.signal(SIGTERM)
      #expect(try await consumer.end().status == 128 + SIGTERM)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("a look at some leaves the others as they are")
  func peekSome() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 100 | msctl publish \(queue)")
      #expect(try await Tool.run("consume", queue, "--peek", "--count", "2").out == "1\n2\n")
      let rest = try await Services.messages(in: queue)
      #expect(rest.count { $0["redelivered"] as? Bool == true } == 2)
    }
  }

  @Test("a look changes nothing")
  func peek() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      #expect(try await Tool.run("consume", queue, "--peek").out == "1\n2\n3\n")
      #expect(try await Tool.run("consume", queue, "--peek", "--count", "2").out == "1\n2\n")
      #expect(try await Services.messages(in: queue).count == 3)
    }
  }

  @Test("a queue that is missing is made by a consumer that waits, and told by one that does not")
  func missingQueue() async throws {
    try await withQueue { queue in
      for words in [["--drain"], ["--peek"], ["--passive"]] {
        let output = try await RunningProcess(Tool.binary, ["consume", queue] + words).end()
        #expect(output.status == 3)
        #expect(output.err.shows("queue channelClosed(code: 404)", ["queue": queue]))
      }
      let consumer = try Tool.start("consume", queue, "--count", "1")
      try await eventually("the queue is made") {
        consumer.err.shows("note declaredQueue", ["queue": queue])
      }
      _ = try await Tool.run("publish", queue, "1")
      #expect(try await consumer.end().out == "1\n")
    }
  }

  @Test("a signal ends it cleanly: what was written is acknowledged", arguments: [SIGINT, SIGTERM])
  func signals(_ signal: Int32) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let consumer = try Tool.start("consume", queue)
      try await eventually("the messages are written") { consumer.out == "1\n2\n3\n" }
      consumer.signal(signal)
      let output = try await consumer.end()
      #expect(output.status == 128 + signal)
      #expect(output.err == "")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("a publisher that is interrupted has the broker's word for what it says")
  func interruptedPublisher() async throws {
    try await withQueue { queue in
      let publisher = try Tool.start("publish", queue, input: nil)
      try publisher.write("1 2 3 ")
      try await eventually("they have arrived") { try await Services.messages(in: queue).count == 3 }
      publisher.signal(SIGINT)
      let output = try await publisher.end()
      #expect(output.status == 130)
      #expect(output.err.showsOnly("note confirmed 2"))
    }
  }

  @Test("a closed pipe ends it quietly, and what was not handed over stays in the queue")
  func closedPipe() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 100000 | msctl publish \(queue) -q")
      let output = try await Tool.shell("msctl consume \(queue) | head -n 1; echo ${PIPESTATUS[0]}")
      #expect(output.out == "1\n141\n")
      #expect(output.err == "")
      let rest = try await Tool.shell(
        "msctl consume \(queue) --drain | sort -n > $HOME/o; tail -n 1 $HOME/o; sort -u $HOME/o | wc -l")
      let counts = rest.lines.compactMap { Int($0) }
      #expect(counts.first == 100000)
      #expect((counts.last ?? 0) > 80_000)
    }
  }

  @Test("a reader that stops for a while costs neither the connection nor a message")
  func slowReader() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 20000 | msctl publish \(queue) -q")
      let output = try await Tool.shell(
        "msctl consume \(queue) --drain --broker '\(Services.broker)?heartbeat=4' | { sleep 15; cat; } > $HOME/o; seq 20000 | cmp - $HOME/o && echo same"
      )
      #expect(output.out == "same\n")
      #expect(output.err == "")
    }
  }

  @Test("a queue that is deleted under a consumer ends it")
  func deletedQueue() async throws {
    try await withQueue(arguments: "{}") { queue in
      let consumer = try Tool.start("consume", queue)
      try await eventually("it consumes") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains("\"consumers\":1")
      }
      try await Services.deleteQueue(queue)
      let output = try await consumer.end()
      #expect(output.status == 3)
      #expect(output.err.shows("consume queueDeleted", ["queue": queue]))
    }
  }

  @Test("a broker that is away, a wrong login and a wrong virtual host are told apart, without a password in the text")
  func noBroker() async throws {
    let port = try Services.freePort()
    let away = try await Tool.run("publish", "q", "1", environment: ["AMQP_URL": "amqp://u:hunter2@127.0.0.1:\(port)"])
    #expect(away.status == 6)
    #expect(
      away.err.showsOnly("broker unreachable", with: ["reason": "connection refused"])
        && away.err.contains("amqp://u@127.0.0.1:\(port)"))

    let base = Services.broker.replacingOccurrences(of: "guest:guest", with: "guest:hunter2")
    let login = try await Tool.run("consume", "q", "--broker", base)
    #expect(login.status == 6)
    #expect(login.err.shows("broker denied") && login.err.contains("ACCESS_REFUSED"))

    let vhost = try await Tool.run("consume", "q", "--broker", Services.broker + "/nowhere")
    #expect(vhost.status == 6)
    #expect(vhost.err.shows("broker denied vhost") && vhost.err.contains("vhost nowhere not found"))

    let empty = try await Tool.run("consume", "q", "--broker", Services.broker + "/")
    #expect(empty.status == 6)
    #expect(empty.err.shows("broker denied empty vhost"))

    let malformed = try await Tool.run(
      "publish", "q", "1", "--json-errors", environment: ["AMQP_URL": "amqp://u:hunter2@h:x"])
    #expect(malformed.status == 2)
    #expect(
      malformed.err.hasPrefix(
        #"{"error":{"code":"usage","message":"AMQP_URL: the value is not an AMQP URI: it has a port that"#))
    for output in [away, login, vhost, empty, malformed] { #expect(!output.err.contains("hunter2")) }

    let second = try await Tool.run(
      "publish", "--broker", "amqp://127.0.0.1:\(port),\(Services.broker)", "--exchange", "amq.fanout", "1")
    #expect(second.err.contains("NO_ROUTE"))
  }

  @Test("something that listens but does not speak AMQP is told")
  func notABroker() async throws {
    let server = try TestServer { _ in .ok("") }
    let output = try await Tool.run(
      "publish", "q", "1", "--broker", "amqp://127.0.0.1:\(server.port)?connection_timeout=500")
    #expect(output.status == 8 || output.status == 6)
    #expect(output.err.contains("RabbitMQ at amqp://guest@127.0.0.1:\(server.port)"))
  }

  @Test(
    "refuses what cannot be combined",
    arguments: [
      (["publish"], "'publish' requires QUEUE, or '--exchange NAME' with '--routing-key KEY'"),
      (
        ["publish", "q", "1", "--lines"],
        "'--lines', '--raw' and '--envelope' read standard input and cannot be combined with MESSAGE"
      ),
      (["publish", "q", "--text"], "'--text' requires MESSAGE; for standard input, use '--lines' or '--raw'"),
      (
        ["publish", "q", "1", "-x", "e"],
        "QUEUE cannot be combined with '--exchange'; quote a MESSAGE that contains spaces"
      ),
      (["publish", "q", "1", "--routing-key", "k"], "'--routing-key' requires '--exchange'"),
      (["publish", "q", "1", "--priority", "300"], "--priority: '300' must be between 0 and 255"),
      (["consume", "q", "--count", "0"], "--count: '0' must be 1 or more"),
      (["publish", "q", "1", "-H", longHeader], "-H: '\(longHeader)' has a name longer than 255 bytes"),
      (
        ["consume", "q", "--peek", "--drain"],
        "'--peek' cannot be combined with '--drain', '--idle' or '--for'"
      ),
      (["publish", "-x", "e", "1", "--queue-argument", "a=1"], "'--queue-argument' requires QUEUE, which it declares"),
      (["publish", "q", "1", "--reply-timeout", "1s"], "'--reply-timeout' requires '--reply'"),
      (["publish", "q", "1", "--dry-run", "--reply"], "'--dry-run' cannot be combined with '--reply'"),
      (["consume", "q", "--peek", "--ready-file", "f"], "'--peek' cannot be combined with '--ready-file'"),
      (
        ["consume", "q", "--exec", "x", "--max-attempts", "2", "--on-error", "reject"],
        "'--max-attempts' cannot be combined with '--on-error reject', which allows one attempt"
      ),
      (
        ["consume", "q", "--exec", "x", "--max-attempts", "2", "--on-error", "stop"],
        "'--max-attempts' cannot be combined with '--on-error stop', which allows one attempt"
      ),
      (["consume", "q", "-x", "e", "--expires", "0s"], "'--expires' must be at least 1ms"),
      (["consume", ""], "QUEUE: invalid queue name '': must not be empty"),
    ])
  func usage(_ words: [String], _ message: String) async throws {
    let output = try await RunningProcess(Tool.binary, words).end()
    #expect(output.status == 2)
    #expect(output.err.hasPrefix("msctl: \(message)\n"))
  }
}
