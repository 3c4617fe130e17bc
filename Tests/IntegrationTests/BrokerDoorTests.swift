import Foundation
import MsctlCore
import Support
import Synchronization
import Testing

/// The door for Swift programs, on a real broker.
@Suite("Broker", .serialized)
struct BrokerDoorTests {
  @Test("a message is in the queue once publish has returned")
  func publishes() async throws {
    try await withQueue { queue in
      let broker = try await Broker.connect(to: Services.broker)
      try await broker.declareQueue(queue)
      try await broker.publish(#"{"id":1}"#, to: queue)
      let output = try await Tool.run("consume", queue, "--drain", "--envelope")
      let envelope = try JSONValue(parsing: Array(output.lines[0].utf8))
      #expect(envelope["body"]?["id"]?.description == "1")
      #expect(envelope["properties"]?["deliveryMode"]?.description == "2")
      #expect(envelope["properties"]?["messageId"] != nil)
    }
  }

  @Test("a message that no queue takes fails by itself; the others go on")
  func returned() async throws {
    try await withQueue { queue in
      let broker = try await Broker.connect(to: Services.broker)
      try await broker.declareQueue(queue)
      let failure = await #expect(throws: Failure.self) {
        try await broker.publish("1", to: "nowhere-" + queue)
      }
      #expect(failure?.code == .notDelivered)
      #expect(failure?.cause == .messaging(.returned(code: 312, "NO_ROUTE")))
      try await broker.publish("2", to: queue)
    }
  }

  @Test("a thousand tasks publish over a connection that is cut again and again: all arrive, twice only under one id")
  func publishesOverBreaks() async throws {
    try await withQueue { queue in
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let broker = try await Broker.connect(to: "amqp://guest:guest@127.0.0.1:\(proxy.port)")
      try await broker.declareQueue(queue)
      let published = Counter()
      let cutter = Task {
        // However slow the machine is, something goes through between two cuts.
        for count in stride(from: 50, to: 1000, by: 50) {
          while published.value < count { try await Task.sleep(for: .milliseconds(1)) }
          proxy.cutAll()
        }
      }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 1...1000 {
          group.addTask {
            try await Task.sleep(for: .milliseconds(number / 2))
            try await broker.publish("\(number)", to: queue)
            published.next()
          }
        }
        try await group.waitForAll()
      }
      cutter.cancel()
      let output = try await Tool.run("consume", queue, "--drain", "--envelope")
      let all = try output.lines.map { try JSONValue(parsing: Array($0.utf8)) }
      let bodies = Set(all.compactMap { $0["body"]?.description })
      #expect(bodies == Set((1...1000).map(String.init)))
      #expect(Set(all.compactMap { $0["properties"]?["messageId"]?.description }).count == 1000)
    }
  }

  @Test("messages are acknowledged one by one; what the loop leaves goes back to the queue")
  func consumes() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) -q")
      let broker = try await Broker.connect(to: Services.broker)
      var received: [String] = []
      for try await message in broker.messages(of: queue, prefetch: 5) {
        if received.count == 4 { break }
        received.append(message.text)
        if message.text == "2" { try await message.reject() } else { try await message.acknowledge() }
      }
      #expect(received == ["1", "2", "3", "4"])
      try await eventually("the others are back") {
        let rest = try await Services.messages(in: queue).compactMap { $0["payload"] as? String }
        return rest == (5...10).map(String.init)
      }
    }
  }

  @Test("a consumer goes on over connections that break, and hands nothing out twice that it has acknowledged")
  func consumesOverBreaks() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 500 | msctl publish \(queue) -q")
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let broker = try await Broker.connect(to: "amqp://guest:guest@127.0.0.1:\(proxy.port)")
      var received: [String] = []
      for try await message in broker.messages(of: queue, prefetch: 20) {
        received.append(message.text)
        try await message.acknowledge()
        if received.count % 100 == 50 { proxy.cutAll() }
        if Set(received).count == 500 { break }
      }
      #expect(received.sorted() == (1...500).map(String.init).sorted())
      try await eventually("the queue is empty") {
        try await Services.messages(in: queue).isEmpty
      }
    }
  }

  @Test("a task that is cancelled gives its messages back")
  func cancellation() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) -q")
      let broker = try await Broker.connect(to: Services.broker)
      let (seen, continuation) = AsyncStream.makeStream(of: String.self)
      let task = Task {
        for try await message in broker.messages(of: queue) { continuation.yield(message.text) }
      }
      var iterator = seen.makeAsyncIterator()
      for number in 1...3 { #expect(await iterator.next() == "\(number)") }
      task.cancel()
      _ = await task.result
      try await eventually("all are back") { try await Services.messages(in: queue).count == 3 }
    }
  }

  @Test("a queue that does not exist ends the loop, and so does a broker that is not there the connection")
  func failures() async throws {
    let broker = try await Broker.connect(to: Services.broker)
    let missing = await #expect(throws: Failure.self) {
      for try await _ in broker.messages(of: "missing-queue") {}
    }
    #expect(missing?.code == .nothingThere)
    let port = try Services.freePort()
    let unreachable = await #expect(throws: Failure.self) {
      _ = try await Broker.connect(to: "amqp://127.0.0.1:\(port)")
    }
    #expect(unreachable?.code == .unreachable)
    let malformed = await #expect(throws: Failure.self) { _ = try await Broker.connect(to: "http://x") }
    #expect(malformed?.code == .usage)
  }

  @Test("an iteration holds its broker; what a loop has left goes back though nobody holds the broker any more")
  func temporary() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) -q")
      for _ in 0..<3 {
        for try await message in try await Broker.connect(to: Services.broker).messages(of: queue, prefetch: 5) {
          #expect(message.text == "1")
          break
        }
        try await eventually("all are back") { try await Services.messages(in: queue).count == 10 }
      }
      // A task that is cancelled before it begins consumes nothing.
      let broker = try await Broker.connect(to: Services.broker)
      let task = Task {
        withUnsafeCurrentTask { $0?.cancel() }
        for try await _ in broker.messages(of: queue) {}
      }
      _ = await task.result
      try await eventually("nobody has them") { try await Services.messages(in: queue).count == 10 }
    }
  }

  @Test("a publish that the broker takes nothing of holds up no consumer")
  func stalledPublish() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 100 | msctl publish \(queue) -q")
      let limit = 1 << 20
      // The first connection is the publisher's.
      let proxy = try FaultProxy(to: brokerPort) { $0 == 0 ? .stall(.up, after: limit) : .none }
      var options = Broker.Options()
      options.confirmTimeout = .seconds(3600)
      let broker = try await Broker.connect(to: "amqp://guest:guest@127.0.0.1:\(proxy.port)", options: options)
      let isSettled = Mutex(false)
      let publishing = Task {
        // More than the buffers on the way hold.
        _ = try? await broker.publish(String(repeating: "x", count: 15 << 20), to: queue)
        isSettled.withLock { $0 = true }
      }
      try await eventually("nothing more is taken") { proxy.recorded.up.count >= limit }
      var received = 0
      for try await message in broker.messages(of: queue) {
        try await message.acknowledge()
        received += 1
        if received == 100 { break }
      }
      try await broker.declareQueue(queue)
      #expect(!isSettled.withLock { $0 })
      publishing.cancel()
      await publishing.value
    }
  }

  @Test("a program that starts before its broker waits for it")
  func startsFirst() async throws {
    try await withQueue { queue in
      let isAway = Mutex(true)
      let proxy = try FaultProxy(to: brokerPort) { _ in isAway.withLock { $0 } ? .cut(.down, after: 0) : .none }
      let broker = try Broker(at: "amqp://guest:guest@127.0.0.1:\(proxy.port)")
      let consuming = Task {
        try await broker.declareQueue(queue)
        for try await message in broker.messages(of: queue) {
          try await message.acknowledge()
          return message.text
        }
        return ""
      }
      let publishing = Task {
        while true {
          do { return try await broker.publish("1", to: queue) } catch let failure as Failure {
            // The queue is declared meanwhile.
            guard failure.code == .notDelivered else { throw failure }
          }
        }
      }
      try await eventually("each has tried twice") { proxy.connections >= 4 }
      isAway.withLock { $0 = false }
      #expect(try await consuming.value == "1")
      try await publishing.value
    }
  }

  @Test("a broker that stays away fails what waits for it, once its time is over")
  func staysAway() async throws {
    var options = Broker.Options()
    options.reconnectFor = .milliseconds(500)
    let broker = try Broker(at: "amqp://127.0.0.1:\(Services.freePort())", options: options)
    for work in [
      { try await broker.publish("1", to: "nowhere") }, { try await broker.declareQueue("nowhere") },
      { for try await _ in broker.messages(of: "nowhere") {} },
    ] as [@Sendable () async throws -> Void] {
      let begin = Deadline.now
      let failure = await #expect(throws: Failure.self) { try await work() }
      #expect(failure?.code == .unreachable)
      #expect(begin.secondsSince >= 0.5)
    }
  }
}
