import Testing

@testable import MsctlCore

/// A consumer, and what has to happen around it.
private struct Rig {
  var consumer: Consumer
  var now = Deadline(nanoseconds: 0)
  /// What was decided since the last look.
  var actions: [Consumer.Action] = []
  var connection: UInt64 = 1

  init(_ change: (inout Consumer.Options) -> Void = { _ in }) {
    var options = Consumer.Options(.queue("q"))
    change(&options)
    consumer = Consumer(options, handler: .init(isFinished: true), seed: 1, at: now)
    hand(.connected(.init(id: 1, heartbeat: .seconds(10))))
    reply(.prefetchSet, .consuming(tag: "c"))
    actions = []
  }

  mutating func hand(_ events: Consumer.Event...) {
    for event in events { consumer.handle(event, at: now, into: &actions) }
  }

  mutating func reply(_ events: AMQPEvent...) { for event in events { hand(.broker(event)) } }

  mutating func deliver(_ tag: UInt64, _ body: String, redelivered: Bool = false) {
    var message = AMQPMessage(body: Array(body.utf8), exchange: "", routingKey: "q")
    message.properties.messageID = body
    reply(
      .delivery(AMQPDelivery(message: message, tag: tag, connection: connection, redelivered: redelivered)))
    if actions.contains(where: { if case .take = $0 { true } else { false } }) {
      hand(.taken(.init(isFinished: false)))
    }
  }

  mutating func settle(_ numbers: ClosedRange<Int>) {
    hand(.settled(numbers.map { .init($0, .acknowledge) }, .init(isFinished: true)))
  }

  /// The methods that were sent since the last look.
  mutating func sent() -> [AMQPMethod] {
    defer { actions = [] }
    return actions.compactMap { if case .send(let method) = $0 { method } else { nil } }
  }

  mutating func lose() {
    hand(.lost(AMQPError(kind: .broken, reason: "reset"), unsent: nil, unread: []))
  }

  mutating func connectAgain() {
    now = max(now, consumer.wakeTime)
    hand(.turn(hasMore: false))
    connection += 1
    hand(.connected(.init(id: connection, heartbeat: .seconds(10))))
    reply(.queue(.init(name: "q", messages: 1, consumers: 0)), .prefetchSet, .consuming(tag: "c"))
    actions = []
  }
}

@Suite("A consumer's decisions")
struct ConsumerTests {
  @Test("of a sample, what is left out is acknowledged at once, and does not count")
  func sample() {
    var rig = Rig {
      $0.sample = 3
      $0.limit = 1
    }
    rig.deliver(1, "a")
    rig.deliver(2, "b")
    #expect(rig.sent() == [.acknowledge(1, multiple: false), .acknowledge(2, multiple: false)])
    #expect(rig.consumer.taken == 0)
    rig.deliver(3, "c")
    #expect(rig.consumer.taken == 1)
  }

  @Test("a filter that has read as many as may be under way, and is silent, gets more")
  func roomForSilence() {
    var rig = Rig {
      ($0.handling, $0.prefetch, $0.drains) = (.filter(chooses: false), 2, true)
      $0.roomForSilence = 50
    }
    let silent = Consumer.HandlerState(isFinished: false, wantsMore: true)
    rig.deliver(1, "a")
    rig.hand(.handler(silent))
    #expect(rig.sent().isEmpty)
    rig.hand(.handler(.init(isFinished: false)))
    rig.deliver(2, "b")
    #expect(rig.sent().isEmpty)
    rig.hand(.handler(silent))
    // A queue may be deleted with its last consumer: so it has another one first.
    let arguments = Consumer.Options.arguments(streamOffset: nil, [])
    #expect(rig.sent() == [.setPrefetch(50), .consume("q", arguments: arguments, isAutomatic: false)])
    #expect(rig.consumer.isReady)
    rig.reply(.prefetchSet, .consuming(tag: "d"))
    #expect(rig.sent() == [.cancel(consumer: "c")])
    rig.hand(.handler(silent))
    #expect(rig.sent().isEmpty && rig.consumer.isReady)
    // The response to that is not that of the end.
    rig.hand(.interrupted(15))
    #expect(rig.sent() == [.cancel(consumer: "d")])
    rig.reply(.consumerEnded)
    #expect(rig.sent().isEmpty)
    rig.reply(.consumerEnded)
    #expect(rig.sent() == [.setPrefetch(50)])
  }

  @Test("a run that is to end while it changes its consumer ends both")
  func endsWhileChanging() {
    var rig = Rig {
      ($0.handling, $0.prefetch, $0.drains) = (.filter(chooses: false), 1, true)
      $0.roomForSilence = 50
    }
    rig.deliver(1, "a")
    rig.hand(.handler(.init(isFinished: false, wantsMore: true)))
    _ = rig.sent()
    rig.hand(.interrupted(15), .handler(.init(isFinished: true)))
    #expect(rig.sent().isEmpty)
    rig.reply(.prefetchSet, .consuming(tag: "d"))
    #expect(rig.sent() == [.cancel(consumer: "c"), .cancel(consumer: "d")])
    rig.reply(.consumerEnded, .consumerEnded)
    #expect(rig.sent() == [.setPrefetch(50)])
    rig.reply(.prefetchSet)
    #expect(rig.sent() == [.requeueAll] && rig.actions.isEmpty)
    rig.hand(.closed)
    #expect(rig.consumer.cause == .interrupted(15))
  }

  @Test("bodies that are only compared are not held, and a message is known again all the same")
  func withoutBodies() {
    let body = String(repeating: "a", count: 100_000)
    var rig = Rig { $0.handling = .filter(chooses: false) }
    rig.deliver(1, body)
    rig.lose()
    rig.connectAgain()
    rig.deliver(1, body, redelivered: true)
    #expect(rig.consumer.taken == 1 && rig.actions.contains { if case .renew = $0 { true } else { false } })
    rig.deliver(2, body + "b", redelivered: true)
    #expect(rig.consumer.taken == 2)
    #expect(rig.consumer.underWay.allSatisfy { $0.delivery.message.body.isEmpty })
  }

  @Test("a queue of its own is asked for again while the broker still takes it for that of the connection before")
  func ownQueue() {
    let binding = Consumer.Options.Binding(.exclusive(arguments: []), to: "e", keys: ["k"])
    var rig = Rig { $0 = Consumer.Options(.bound(binding, queue: "q")) }
    rig.lose()
    for _ in 1...3 {
      rig.now = max(rig.now, rig.consumer.wakeTime)
      rig.hand(.turn(hasMore: false))
      #expect(rig.actions.contains(.connect))
      rig.actions = []
      rig.connection += 1
      rig.hand(.connected(.init(id: rig.connection, heartbeat: .seconds(10))))
      #expect(
        rig.sent().prefix(2) == [
          .declareExclusive("q", arguments: []), .bind("q", exchange: "e", key: "k", arguments: []),
        ])
      rig.hand(
        .lost(AMQPError(kind: .channelClosed(code: 405), reason: "RESOURCE_LOCKED"), unsent: nil, unread: []))
    }
    #expect(rig.consumer.isRunning)
    // As long as an outage may last.
    rig.now = rig.now + .seconds(60)
    rig.hand(.turn(hasMore: false))
    rig.connection += 1
    rig.hand(.connected(.init(id: rig.connection, heartbeat: .seconds(10))))
    rig.hand(.lost(AMQPError(kind: .channelClosed(code: 405), reason: "RESOURCE_LOCKED"), unsent: nil, unread: []))
    #expect(!rig.consumer.isRunning)
  }

  @Test("what a queue of its own held does not come again, so that nothing is in doubt")
  func ownQueueGone() {
    let binding = Consumer.Options.Binding(.brokerNamed, to: "e", keys: ["k"])
    var rig = Rig { $0 = Consumer.Options(.bound(binding, queue: "q")) }
    rig.deliver(1, "a")
    rig.deliver(2, "b")
    rig.deliver(3, "c")
    rig.settle(1...1)
    rig.hand(.flushed)
    #expect(rig.sent() == [.acknowledge(1, multiple: true)])
    rig.lose()
    rig.settle(2...2)
    rig.hand(.flushed)
    rig.hand(.settled([.init(3, .reject)], .init(isFinished: true)))
    rig.hand(.flushed)
    rig.now = max(rig.now, rig.consumer.wakeTime)
    rig.hand(.turn(hasMore: false))
    rig.connection += 1
    rig.hand(.connected(.init(id: rig.connection, heartbeat: .seconds(10))))
    rig.reply(
      .queue(.init(name: "q2", messages: 0, consumers: 0)), .bound, .prefetchSet, .consuming(tag: "c"))
    rig.hand(.interrupted(15), .handler(.init(isFinished: true)))
    rig.reply(.consumerEnded, .prefetchSet)
    rig.hand(.closed)
    #expect(rig.consumer.isEnded && rig.consumer.handled == 3 && rig.consumer.rejected == 1)
    #expect(rig.consumer.cause == .interrupted(15))
    let doubts = rig.actions.contains { if case .note(.unacknowledged) = $0 { true } else { false } }
    #expect(!doubts)
  }

  @Test("a message is acknowledged when it is flushed, not when it is written")
  func flushes() {
    var rig = Rig()
    rig.deliver(1, "a")
    rig.settle(1...1)
    #expect(rig.actions.contains(.flush))
    #expect(rig.sent() == [])
    rig.hand(.flushed)
    #expect(rig.sent() == [.acknowledge(1, multiple: true)])
  }

  @Test("what could not be written goes back")
  func loses() {
    var rig = Rig()
    rig.deliver(1, "a")
    rig.settle(1...1)
    rig.hand(.outputLost(Failure(.outputClosed, "")), .handler(.init(isFinished: true)))
    #expect(rig.sent() == [.cancel(consumer: "c")])
    rig.reply(.consumerEnded, .prefetchSet)
    #expect(rig.sent() == [.setPrefetch(100), .requeueAll])
    rig.hand(.closed)
    #expect(rig.consumer.cause == .output(Failure(.outputClosed, "")))
  }

  @Test("an end takes few methods, once all has come that the broker had sent")
  func ends() {
    var rig = Rig { $0.limit = 2 }
    rig.deliver(1, "a")
    rig.deliver(2, "b")
    rig.settle(1...2)
    rig.hand(.flushed, .handler(.init(isFinished: true)))
    #expect(rig.sent() == [.cancel(consumer: "c")])
    // A quorum queue may send something after the response to that.
    rig.reply(.consumerEnded)
    rig.deliver(3, "c")
    #expect(rig.sent() == [.setPrefetch(100)])
    rig.reply(.prefetchSet)
    #expect(rig.actions.contains(.close))
    #expect(rig.sent() == [.acknowledge(2, multiple: true), .requeueAll])
    rig.hand(.closed)
    #expect(rig.consumer.isEnded && rig.consumer.cause == nil)
  }

  @Test("what is handled while there is no connection is acknowledged when it comes again, and not handled again")
  func recognises() {
    var rig = Rig()
    rig.deliver(1, "a")
    rig.deliver(2, "b")
    rig.lose()
    rig.settle(1...1)
    rig.hand(.flushed)
    #expect(rig.sent() == [])
    rig.connectAgain()
    rig.deliver(1, "a", redelivered: true)
    rig.deliver(2, "b", redelivered: true)
    let renewed = rig.actions.contains { if case .renew(2, _) = $0 { true } else { false } }
    #expect(renewed && !rig.actions.contains { if case .take = $0 { true } else { false } })
    // Whether it has arrived is asked, since that ends the outage.
    #expect(rig.sent() == [.acknowledge(1, multiple: false), .inspect("q")])
    rig.settle(2...2)
    rig.hand(.flushed)
    #expect(rig.sent() == [.acknowledge(2, multiple: false)])
  }

  @Test("what is rejected while there is no connection is rejected when it comes again")
  func rejects() {
    var rig = Rig()
    rig.deliver(1, "a")
    rig.lose()
    rig.hand(.settled([.init(1, .reject)], .init(isFinished: true)))
    rig.hand(.flushed)
    rig.connectAgain()
    rig.deliver(1, "a", redelivered: true)
    #expect(!rig.actions.contains { if case .take = $0 { true } else { false } })
    #expect(rig.sent() == [.reject(1, requeue: false), .inspect("q")])
  }

  @Test("an acknowledgement that could not be sent is in doubt, also without an id of its own")
  func unsent() {
    var rig = Rig()
    rig.deliver(1, "a")
    rig.settle(1...1)
    rig.hand(.flushed)
    rig.hand(
      .lost(AMQPError(kind: .broken, reason: "reset"), unsent: .acknowledge(1, multiple: true), unread: []),
      .interrupted(15), .handler(.init(isFinished: true)))
    #expect(rig.actions.contains(.disconnect))
    rig.connectAgain()
    rig.deliver(1, "a", redelivered: true)
    #expect(rig.sent().contains(.acknowledge(1, multiple: false)))
  }

  @Test("a connection that is being made is given up where the run ends, unless something must be acknowledged")
  func givesUp() {
    var rig = Rig()
    rig.lose()
    rig.now = rig.consumer.wakeTime
    rig.hand(.turn(hasMore: false))
    #expect(rig.actions.last == .connect)
    rig.hand(.interrupted(15), .handler(.init(isFinished: true)))
    #expect(rig.actions.contains(.stopConnecting))
    #expect(rig.consumer.cause == .interrupted(15))
  }

  @Test("a broker that does not respond is not waited for without end")
  func timeLimit() {
    var rig = Rig { $0.drains = true }
    rig.hand(.turn(hasMore: false))
    #expect(rig.sent() == [.inspect("q")])
    // As long as what has come is not wanted, a response may stand behind it.
    rig.deliver(1, "a")
    rig.settle(1...1)
    rig.now = rig.now + .seconds(40)
    rig.hand(.turn(hasMore: true))
    #expect(rig.consumer.isRunning)
    rig.hand(.flushed)
    rig.now = rig.consumer.wakeTime
    #expect(rig.now < .never)
    rig.now = rig.now + .seconds(31)
    rig.hand(.turn(hasMore: false), .handler(.init(isFinished: true)))
    guard case .broker(let error) = rig.consumer.cause else {
      Issue.record("\(String(describing: rig.consumer.cause))")
      return
    }
    #expect(error.kind == .timedOut)
  }

  @Test("a queue that turns out to be a stream is read as one, but not until it is empty")
  func streams() {
    for drains in [false, true] {
      var options = Consumer.Options(.queue("q"))
      options.drains = drains
      var rig = Rig()
      rig.consumer = Consumer(options, handler: .init(isFinished: true), seed: 1, at: rig.now)
      rig.hand(.connected(.init(id: 1, heartbeat: .seconds(10), isConsumerAsked: true)))
      let error = AMQPError(kind: .channelClosed(code: 406), reason: "queue 'q' of queue type rabbit_stream_queue")
      rig.hand(.lost(error, unsent: nil, unread: []), .handler(.init(isFinished: true)))
      if drains {
        #expect(rig.consumer.cause == .neverEmpties)
      } else {
        let offset = [AMQPField("x-stream-offset", .string("first"))]
        #expect(
          rig.sent() == [.openChannel, .setPrefetch(100), .consume("q", arguments: offset, isAutomatic: false)])
        #expect(rig.consumer.traits.isStream)
      }
    }
  }
  @Test("the first connection is tried for as long as was asked for, also over connections that break at once")
  func firstConnection() {
    var options = Consumer.Options(.queue("q"))
    options.connectFor = .seconds(10)
    let failure = Failure(.unreachable, "nobody")
    for comesLate in [false, true] {
      var rig = Rig()
      rig.consumer = Consumer(options, handler: .init(isFinished: true), seed: 1, at: rig.now)
      rig.hand(.connectFailed(failure))
      #expect(!rig.consumer.isEnded)
      if comesLate {
        rig.now = rig.consumer.wakeTime
        rig.hand(.turn(hasMore: false))
        #expect(rig.actions == [.connect])
        rig.hand(.connected(.init(id: 1, heartbeat: .seconds(10))))
        rig.lose()
        rig.connectAgain()
        rig.deliver(1, "a")
        #expect(rig.consumer.taken == 1)
      } else {
        while !rig.consumer.isEnded, rig.now < .never {
          rig.now = rig.consumer.wakeTime
          rig.hand(.turn(hasMore: false), .connectFailed(failure), .handler(.init(isFinished: true)))
        }
        #expect(rig.now == Deadline(nanoseconds: 0) + .seconds(10) && rig.consumer.cause == .unconnected(failure))
      }
    }
  }
}
