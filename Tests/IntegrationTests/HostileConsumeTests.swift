import Foundation
import Support
import Synchronization
import Testing

/// A folder of a test's own, in which commands leave what they did.
private func withFolder(_ body: (String) async throws -> Void) async throws {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("consume"))
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  try await body(folder.path)
}

private func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

/// A broker that can be out of reach for a while.
private final class Away: Sendable {
  let isAway = Mutex(false)

  func proxy() throws -> FaultProxy {
    try FaultProxy(to: brokerPort) { [self] _ in isAway.withLock { $0 } ? .cut(.down, after: 0) : .none }
  }

  func go(_ proxy: FaultProxy) {
    isAway.withLock { $0 = true }
    proxy.cutAll()
  }

  func comeBack() { isAway.withLock { $0 = false } }
}

private func through(_ proxy: FaultProxy) -> [String: String] { ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)"] }

private func ready(_ queue: String) async throws -> Int {
  let text = try await Services.management("GET", "/queues/%2F/\(queue)")
  let state = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
  return state?["messages_ready"] as? Int ?? -1
}

/// Publishes beside msctl, since msctl itself does not write a broker's headers.
private func publish(_ body: String, to queue: String, properties: String) async throws {
  _ = try await Services.management(
    "POST", "/exchanges/%2F/amq.default/publish",
    body: #"{"routing_key":"\#(queue)","payload":"\#(body)","payload_encoding":"string","properties":\#(properties)}"#)
}

@Suite("A consumer whose connection breaks", .serialized)
struct BrokenConsumerTests {
  @Test("a connection that breaks at the same place again and again is one outage, and ends")
  func oneOutage() async throws {
    try await withQueue(arguments: "{}") { queue in
      _ = try await Tool.shell("head -c 300000 /dev/zero | tr '\\0' x | msctl publish \(queue) --raw -q")
      let proxy = try FaultProxy(to: brokerPort) { _ in .cut(.down, after: 100_000) }
      let output = try await Tool.shell(
        "timeout 300 msctl consume \(queue) --reconnect-for 4s", environment: through(proxy))
      #expect(output.status == 6)
      #expect(output.err.shows("consume repeatedBreaks", ["queue": queue]))
      #expect(proxy.connections >= 2 && proxy.connections < 60)
      #expect(try await Tool.run("consume", queue, "--drain").out.utf8.count > 300_000)

      let publisher = try FaultProxy(to: brokerPort) { _ in .cut(.up, after: 100_000) }
      let published = try await Tool.shell(
        "head -c 300000 /dev/zero | tr '\\0' x | timeout 300 msctl publish \(queue) --raw --reconnect-for 4s",
        environment: through(publisher))
      #expect(published.status == 7)
      #expect(published.err.shows("publish repeatedBreaks", ["queue": queue]))
      #expect(publisher.connections >= 2 && publisher.connections < 60)
    }
  }

  @Test("breaks after each of which something was settled are outages of their own")
  func manyOutages() async throws {
    try await withQueue(arguments: "{}") { queue in
      _ = try await Tool.shell("seq 12 | msctl publish \(queue) -q")
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      // In all longer than one outage may last.
      let consumer = try RunningProcess(
        Tool.binary,
        [
          "consume", queue, "--count", "12", "--exec", "cat; echo; sleep 0.5", "--prefetch", "1", "--reconnect-for",
          "2s", "-v",
        ],
        environment: through(proxy))
      for count in stride(from: 1, through: 11, by: 2) {
        try await eventually("\(count) are handled, and the broker has said so since the last break") {
          let last = consumer.err.components(separatedBy: "connected again to ").last ?? ""
          let isSettled =
            count == 1
            || last.components(separatedBy: "> basic.ack").dropFirst().contains {
              $0.contains("< queue.declare-ok")
            }
          return isSettled && consumer.out.split(separator: "\n").count >= count
        }
        proxy.cutAll()
      }
      let output = try await consumer.end()
      #expect(output.status == 0, "\(output.err)")
      #expect(Set(output.lines).count == 12)
    }
  }

  @Test("a stream goes on after the last message that was handled, however often the connection breaks")
  func streamPlace() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { queue in
      _ = try await Tool.shell("seq 60 | msctl publish \(queue) --passive -q")
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let consumer = try RunningProcess(
        Tool.binary,
        ["consume", queue, "--stream", "--count", "60", "--prefetch", "20", "--exec", "cat; echo; sleep 0.03"],
        environment: through(proxy))
      for count in [5, 15, 30] {
        try await eventually("\(count) are handled") { consumer.out.split(separator: "\n").count >= count }
        proxy.cutAll()
      }
      let output = try await consumer.end()
      #expect(output.status == 0)
      // None is missing, none came twice.
      #expect(output.lines == (1...60).map(String.init))
    }
  }

  @Test("what came to a stream while its consumer was away is not lost", arguments: [0, 3])
  func streamNext(_ before: Int) async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { queue in
      let away = Away()
      let proxy = try away.proxy()
      let consumer = try RunningProcess(Tool.binary, ["consume", queue, "--stream"], environment: through(proxy))
      try await eventually("it consumes") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains("\"consumers\":1")
      }
      if before > 0 { _ = try await Tool.shell("seq \(before) | msctl publish \(queue) --passive -q") }
      try await eventually("they have come") { consumer.out.split(separator: "\n").count == before }
      away.go(proxy)
      try await eventually("it is away") { consumer.err.shows("consuming reconnecting") }
      _ = try await Tool.shell("seq \(before + 1) \(before + 5) | msctl publish \(queue) --passive -q")
      away.comeBack()
      try await eventually("all have come") { consumer.out.split(separator: "\n").count == before + 5 }
      consumer.signal(SIGTERM)
      #expect(try await consumer.end().lines == (1...(before + 5)).map(String.init))
    }
  }

  @Test(
    "--drain after a break leaves nothing",
    arguments: [["--exec", "cat; echo; sleep 0.05"], ["--through", "while read x; do sleep 0.05; echo $x; done"]])
  func drain(_ words: [String]) async throws {
    try await withQueue(arguments: "{}") { queue in
      _ = try await Tool.shell("seq 20 | msctl publish \(queue) -q")
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let consumer = try RunningProcess(
        Tool.binary, ["consume", queue, "--drain", "--prefetch", "20"] + words, environment: through(proxy))
      try await eventually("some are handled") { consumer.out.split(separator: "\n").count >= 5 }
      proxy.cutAll()
      let output = try await consumer.end()
      #expect(output.status == 0, "\(output.err)")
      #expect(output.lines.count == 20 && Set(output.lines).count == 20)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test(
    "messages that share an id are all handled, also where they are alike in all else",
    arguments: [true, false], [["--exec", "cat; echo; sleep 0.02"], ["--prefetch", "10"]])
  func sharedID(_ isAlike: Bool, _ words: [String]) async throws {
    try await withQueue(arguments: "{}") { queue in
      let envelopes = (1...50).map { number in
        #"{"body":\#(isAlike ? 7 : number),"exchange":"","routingKey":"\#(queue)","properties":{"messageId":"same"}}"#
      }
      _ = try await Tool.run("publish", queue, "--envelope", "-q", input: envelopes.joined(separator: "\n"))
      #expect(try await Services.messages(in: queue).count == 50)
      // Some arrive, and some are lost on the way. Of one alone it could not be known that others are like it.
      let proxy = try FaultProxy(to: brokerPort) { $0 == 0 ? .stall(.down, after: 4000) : .none }
      let consumer = try RunningProcess(
        Tool.binary, ["consume", queue, "--drain"] + words, environment: through(proxy))
      try await eventually("some are handled") { consumer.out.split(separator: "\n").count >= 10 }
      proxy.cutAll()
      let output = try await consumer.end()
      #expect(output.status == 0, "\(output.err)")
      #expect(proxy.connections > 1)
      #expect(output.lines.count >= 50)
      if !isAlike { #expect(Set(output.lines).count == 50) }
    }
  }

  @Test(
    "a signal while it is away lets what runs end, and its success counts when the broker is back",
    arguments: [true, false])
  func signalWhileAway(_ comesBack: Bool) async throws {
    try await withFolder { folder in
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "1")
        let away = Away()
        let proxy = try away.proxy()
        let consumer = try RunningProcess(
          Tool.binary,
          [
            "consume", queue, "--exec",
            "touch \(folder)/begun; while ! test -e \(folder)/go; do sleep 0.05; done; touch \(folder)/done",
          ],
          environment: through(proxy))
        try await eventually("it has begun") { exists(folder + "/begun") }
        away.go(proxy)
        try await eventually("it tries again") { consumer.err.shows("consuming reconnecting") }
        consumer.signal(SIGTERM)
        if comesBack { away.comeBack() }
        try Data().write(to: URL(fileURLWithPath: folder + "/go"))
        #expect(try await consumer.end().status == 128 + SIGTERM)
        #expect(exists(folder + "/done"))
        try await eventually("the broker has noticed") {
          try await Services.messages(in: queue).count == (comesBack ? 0 : 1)
        }
      }
    }
  }
}

@Suite("How a consumer ends", .serialized)
struct ConsumerEndTests {
  @Test("a failure that ends it lets what runs end, and acknowledges it")
  func stop() async throws {
    try await withFolder { folder in
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "-q", input: "1 2 3 4")
        let output = try await Tool.run(
          "consume", queue, "--parallel", "4", "--on-error", "stop", "--exec",
          "read x; touch \(folder)/$x; until [ $(ls \(folder) | wc -l) = 4 ]; do sleep 0.05; done; test $x = 1 && exit 42; sleep 0.5; echo $x"
        )
        #expect(output.status == 42)
        #expect(Set(output.lines) == ["2", "3", "4"])
        #expect(try await Services.messages(in: queue).map { $0["payload"] as? String } == ["1"])
      }
    }
  }

  @Test("a queue that is deleted lets what runs end")
  func deleted() async throws {
    try await withFolder { folder in
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "1")
        let consumer = try Tool.start(
          "consume", queue, "--exec",
          "touch \(folder)/begun; while ! test -e \(folder)/go; do sleep 0.05; done; touch \(folder)/done")
        try await eventually("it has begun") { exists(folder + "/begun") }
        try await Services.deleteQueue(queue)
        try await Task.sleep(for: .milliseconds(200))
        try Data().write(to: URL(fileURLWithPath: folder + "/go"))
        let output = try await consumer.end()
        #expect(output.status == 3)
        #expect(output.err.shows("consume queueDeleted", ["queue": queue]))
        #expect(exists(folder + "/done"))
      }
    }
  }

  @Test("idle is time without a message and without work")
  func idle() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, "-q", input: "1 2 3")
      let output = try await Tool.run(
        "consume", queue, "--idle", "5s", "--prefetch", "1", "--exec", "sleep 5.5; cat; echo")
      #expect(output.status == 0)
      #expect(output.lines == ["1", "2", "3"])
    }
  }

  @Test("a filter that answers at the end of its input gets as many as are wanted")
  func filterWithCount() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 151 | msctl publish \(queue) -q")
      let output = try await Tool.shell("timeout 300 msctl consume \(queue) --count 150 --through tac")
      #expect(output.status == 0)
      #expect(output.lines.count == 150)
      #expect(try await Services.messages(in: queue).count == 1)
    }
  }

  @Test("a message that fails again and again does not keep the others from making the count", arguments: [2, 13])
  func poisonAndCount(_ count: Int) async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 0 \(count + 2) | msctl publish \(queue) -q")
      let output = try await Tool.shell(
        "timeout 300 msctl consume \(queue) --count \(count) --exec 'read x; test $x != 0 && echo $x'")
      #expect(output.status == 0, "\(output.err)")
      #expect(output.lines == (1...count).map(String.init))
      #expect(try await Services.messages(in: queue).count == 3)
    }
  }

  @Test("a reader that goes away is noticed although nothing more is written")
  func readerGone() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, "1")
      let output = try await Tool.shell("timeout 300 msctl consume \(queue) | head -n 1; echo ${PIPESTATUS[0]}")
      #expect(output.out == "1\n141\n")
      #expect(output.err == "")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("--peek shows and forgets")
  func peekMemory() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell(
        "head -c 2000000 /dev/zero | tr '\\0' x > $HOME/m; for i in $(seq 80); do msctl publish \(queue) --raw -q < $HOME/m; done"
      )
      // In KiB. All of it is 160 MB.
      let output = try await Tool.shell(
        """
        python3 -c 'import resource, subprocess, sys
        code = subprocess.run(["msctl", "consume", "\(queue)", "--peek"], stdout=open("/dev/null", "w")).returncode
        print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)'
        """)
      let numbers = output.out.split(separator: " ").compactMap { Int($0.trimmingCharacters(in: .newlines)) }
      try #require(numbers.count == 2, "\(output)")
      #expect(numbers[0] == 0)
      #expect(numbers[1] < 110_000)
      try await eventually("they are back") { try await ready(queue) == 80 }
    }
  }

  @Test("what a run that ends took and did not handle is not lost, however often", arguments: ["classic", "quorum"])
  func manyRuns(_ type: String) async throws {
    try await withFolder { folder in
      try await withQueue(arguments: #"{"x-queue-type":"\#(type)"}"#) { queue in
        _ = try await Tool.shell("seq 60 | msctl publish \(queue) --passive -q")
        for _ in 1...25 {
          let output = try await Tool.shell(
            "msctl consume \(queue) --exec 'sleep 0.2; cat >> \(folder)/got; echo >> \(folder)/got' --prefetch 60 --for 0.1s"
          )
          #expect(output.status == 0, "\(output.err)")
        }
        // A busy machine may not have come to any.
        let got = (try? String(contentsOfFile: folder + "/got", encoding: .utf8)) ?? ""
        let handled = got.split(separator: "\n").map(String.init)
        let rest = try await Tool.run("consume", queue, "--drain").lines
        #expect(Set(handled + rest) == Set((1...60).map(String.init)))
        #expect(handled.count + rest.count == 60)
      }
    }
  }

  // RabbitMQ drops what a channel has above 32 methods under way to a quorum queue when it is closed: acknowledgements, too.
  @Test("a run that ends settles by few methods, and acknowledges before it requeues")
  func fewMethods() async throws {
    let settled = Mutex<[String]>([])
    let broker = try FakeBroker { peer, method in
      switch method.name {
      case .consume:
        peer.send(FakeBroker.consuming() + (1...60).flatMap { FakeBroker.deliver(tag: $0, body: [0x31]) })
        return true
      case .acknowledge, .nack:
        let tag = method.arguments.prefix(8).reduce(0) { $0 << 8 | Int($1) }
        let isMultiple = method.arguments[8] & 1 == 1
        let name = method.name == .nack ? "nack" : "ack"
        settled.withLock { $0.append("\(name) \(tag)\(isMultiple ? " and before" : "")") }
        return true
      case .cancel:
        settled.withLock { $0.append("cancel") }
        return false
      default: return false
      }
    }
    try await withFolder { folder in
      // The command goes on until the run has ended its consumer, and then for all that was delivered.
      let consumer = try Tool.start(
        "consume", "q", "--prefetch", "60", "--passive", "--exec",
        "touch \(folder)/begun; while ! test -e \(folder)/go; do sleep 0.05; done",
        environment: ["AMQP_URL": broker.uri])
      try await eventually("it runs") { exists(folder + "/begun") }
      consumer.signal(SIGTERM)
      try await eventually("it ends") { settled.withLock { $0 == ["cancel"] } }
      try Data().write(to: URL(fileURLWithPath: folder + "/go"))
      #expect(try await consumer.end().status == 128 + SIGTERM)
    }
    // 0 and before is all that is left.
    #expect(settled.withLock { $0 } == ["cancel", "ack 1", "nack 0 and before"])
  }

  @Test("what was delivered and never tried has used no attempt")
  func attempts() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"quorum"}"#) { queue in
      _ = try await Tool.run("publish", queue, "--passive", "1")
      for _ in 1...3 { #expect(try await Tool.run("consume", queue, "--peek").out == "1\n") }
      let output = try await Tool.run(
        "consume", queue, "--drain", "--max-attempts", "3", "--exec", "echo variable $MSCTL_ATTEMPT >&2; exit 1")
      #expect(output.status == 1)
      for number in 1...3 {
        #expect(output.err.contains("variable \(number)\n"))
        #expect(output.err.contains("(attempt \(number)); \(number == 3 ? "rejected" : "requeued in")"))
      }
    }
  }

  @Test("a delivery count that does not fit is no trap")
  func hugeCount() async throws {
    try await withQueue(arguments: "{}") { queue in
      try await publish("1", to: queue, properties: #"{"headers":{"x-delivery-count":9223372036854775807}}"#)
      let output = try await Tool.run("consume", queue, "--drain", "--max-attempts", "1", "--exec", "exit 3")
      #expect(output.status == 1)
      #expect(output.err.contains("(attempt 1); rejected"))
    }
  }
}

@Suite("A stream under a consumer", .serialized)
struct StreamConsumerTests {
  private static let stream = #"{"x-queue-type":"stream"}"#

  @Test("what failed is tried again, in order, and never requeued")
  func retried() async throws {
    try await withFolder { folder in
      try await withQueue(arguments: Self.stream) { queue in
        _ = try await Tool.shell("seq 5 | msctl publish \(queue) --passive -q")
        let output = try await Tool.run(
          "consume", queue, "--stream", "--count", "5", "--exec",
          "read x; test $x = 3 && ! test -e \(folder)/tried && touch \(folder)/tried && exit 1; echo $x")
        #expect(output.status == 0)
        #expect(output.lines == ["1", "2", "3", "4", "5"])
        #expect(output.err.contains("(attempt 1); tried again in 200 ms\n"))
        let stopped = try await Tool.run(
          "consume", queue, "--stream", "--count", "5", "--on-error", "stop", "--exec",
          "read x; test $x != 3 && echo $x")
        #expect(stopped.status == 1)
        #expect(stopped.lines == ["1", "2"])
        #expect(stopped.err.contains("Its offset is 2.\n"))
        let skipped = try await Tool.run(
          "consume", queue, "--stream", "--count", "5", "--on-error", "reject", "--exec",
          "read x; test $x != 3 && echo $x")
        #expect(skipped.status == 1)
        #expect(skipped.lines == ["1", "2", "4", "5"])
        #expect(skipped.err.shows("consume rejected of stream", ["3": "1"]))
      }
    }
  }

  @Test("a stream is recognised without --stream, and what cannot be done with it is told")
  func recognised() async throws {
    try await withQueue(arguments: Self.stream) { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) --passive -q")
      for words in [["--drain"], ["--peek"]] {
        let output = try await Tool.shell("timeout 300 msctl consume \(queue) \(words[0])")
        #expect(output.status == 2)
        #expect(output.err.shows("consume neverEmpties", ["queue": queue]))
      }
      // A run that ends by itself begins at the beginning.
      #expect(try await Tool.run("consume", queue, "--count", "3", "--for", "10m").lines == ["1", "2", "3"])
      #expect(try await Tool.run("consume", queue, "--stream", "--idle", "8s").lines == ["1", "2", "3"])
      let consumer = try Tool.start("consume", queue)
      try await eventually("it says so") {
        consumer.err.shows("consuming isStream", ["queue": queue, "offset": "next"])
      }
      try await eventually("it consumes") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains("\"consumers\":1")
      }
      _ = try await Tool.run("publish", queue, "--passive", "4")
      try await eventually("the next one comes") { consumer.out == "4\n" }
    }
  }
}

@Suite("The delivery limit of a quorum queue", .serialized)
struct DeliveryLimitTests {
  private static let quorum = #"{"x-queue-type":"quorum"}"#

  @Test("--peek never makes the last return, and says when there are no more")
  func peek() async throws {
    try await withQueue(arguments: Self.quorum) { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) --passive -q")
      var statuses: Set<Int32> = []
      for _ in 1...25 {
        let output = try await Tool.run("consume", queue, "--peek")
        statuses.insert(output.status)
        if output.status == 1 { #expect(output.err.contains("the broker drops it after 20 (delivery limit)")) }
      }
      #expect(statuses == (Services.promises.countsReturns ? [0, 1] : [0]))
      #expect(Set(try await Tool.run("consume", queue, "--drain").lines) == ["1", "2", "3"])
    }
  }

  @Test("each failure says how many attempts are left, and the last one what becomes of the message")
  func attemptsLeft() async throws {
    // Where each return counts: also before 4.0, if a limit is set.
    guard Services.promises.countsReturns || !Services.promises.limitsDeliveries else { return }
    try await withQueue(arguments: #"{"x-queue-type":"quorum","x-delivery-limit":1}"#) { queue in
      _ = try await Tool.run("publish", queue, "--passive", "1")
      let output = try await Tool.run(
        "consume", queue, "--drain", "--queue-argument", "x-queue-type=quorum", "--queue-argument",
        "x-delivery-limit=1",
        "--exec", "exit 1")
      #expect(output.err.contains("(attempt 1); requeued in 200 ms, at most 1 attempt left (x-delivery-limit=1)\n"))
      #expect(
        output.err.contains("(attempt 2); requeued in 400 ms, beyond x-delivery-limit=1: the broker dead-letters it"))
    }
  }
}
