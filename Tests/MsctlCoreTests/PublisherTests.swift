import MsctlCore
import Testing

@Suite("Publisher")
struct PublisherTests {
  /// A machine with its time, and what it has decided.
  private struct Run {
    var machine: Publisher
    var now = Deadline(nanoseconds: 1_000_000_000)
    /// Each action since it was asked for, in words.
    var said: [String] = []

    init(_ change: (inout Publisher.Options) -> Void = { _ in }) {
      var options = Publisher.Options()
      change(&options)
      machine = Publisher(options, seed: 1, at: now)
    }

    /// - Returns: what is decided.
    @discardableResult
    mutating func handle(_ event: Publisher.Event, after pause: Duration = .zero) -> [String] {
      now = now + pause
      var actions: [Publisher.Action] = []
      machine.handle(event, at: now, into: &actions)
      return actions.map(shown)
    }

    /// A message whose number is its body.
    @discardableResult
    mutating func send(_ number: Int, size: Int = 1, id: String? = nil) -> [String] {
      #expect(machine.wantsMessage)
      var message = AMQPMessage(body: [UInt8](repeating: 0, count: size), exchange: "", routingKey: "q")
      message.properties.messageID = id ?? "\(number)"
      message.properties.correlationID = "reply to \(number)"
      message.number = number
      return handle(.message(OutgoingMessage(message)))
    }

    mutating func ack(_ tag: UInt64, multiple: Bool = false) -> [String] {
      handle(.broker(.ack(tag: tag, multiple: multiple)))
    }

    /// Waits until another connection is asked for.
    mutating func reconnect() -> [String] {
      #expect(handle(.tick, after: machine.wakeTime - now) == ["connect"])
      let asked = handle(.connected(.bare))
      return asked + handle(.broker(.confirmsSelected))
    }
  }

  private static let broken = AMQPError(kind: .broken, reason: "gone")

  private static func opened(_ change: (inout Publisher.Options) -> Void = { _ in }) -> Run {
    var run = Run(change)
    #expect(run.handle(.connected(.prepared(sent: nil))).isEmpty)
    return run
  }

  @Test("messages are confirmed in their order, however their confirms come")
  func order() {
    var run = Self.opened()
    for number in 1...5 { #expect(run.send(number) == ["publish \(number)"]) }
    #expect(run.ack(2).isEmpty)
    #expect(run.ack(9).isEmpty)
    #expect(run.ack(1) == ["confirmed 1", "confirmed 2"])
    run.handle(.inputEnded(nil))
    #expect(!run.machine.isEnded)
    #expect(run.ack(5, multiple: true) == ["confirmed 3", "confirmed 4", "confirmed 5"])
    #expect(run.machine.isEnded && run.machine.cause == nil && run.machine.left.isEmpty)
  }

  @Test("a returned message has failed although it is confirmed, and a nacked one where no broker was lost")
  func failures() {
    var run = Self.opened()
    for number in 1...3 { run.send(number, id: "same") }
    var message = AMQPMessage(body: [], exchange: "", routingKey: "q")
    message.properties.messageID = "same"
    #expect(run.handle(.broker(.returned(message, code: 312, text: "NO_ROUTE"))).isEmpty)
    #expect(run.handle(.broker(.nack(tag: 2, multiple: false))).isEmpty)
    #expect(run.ack(3, multiple: true) == ["failed 1", "failed 2", "confirmed 3"])
    #expect(run.machine.failed == 2 && run.machine.confirmed == 1)
  }

  @Test("the window is bounded, and a blocked broker gets nothing")
  func window() {
    var run = Self.opened { $0.window = 2 }
    run.send(1)
    run.handle(.broker(.blocked(reason: "low on disk")))
    #expect(run.send(2).isEmpty)
    #expect(!run.machine.wantsMessage)
    #expect(run.handle(.broker(.unblocked)) == ["publish 2"])
    #expect(!run.machine.wantsMessage)
    #expect(run.ack(1) == ["confirmed 1"])
    #expect(run.machine.wantsMessage)
  }

  @Test("a message waits for a blocked broker as long as for a confirm; without one it may be blocked for ever")
  func blocked() {
    var run = Self.opened()
    run.handle(.broker(.blocked(reason: "low on disk")))
    run.handle(.tick, after: .seconds(3600))
    #expect(!run.machine.isEnded && run.machine.wakeTime == .never)
    #expect(run.send(1).isEmpty)
    run.handle(.tick, after: .seconds(29))
    #expect(!run.machine.isEnded)
    run.handle(.tick, after: run.machine.wakeTime - run.now)
    #expect(run.machine.cause == .unconfirmed(blocked: "low on disk"))
    #expect(run.machine.left.map(\.message.number) == [1])

    // The limit ends with the alarm.
    run = Self.opened()
    run.handle(.broker(.blocked(reason: "low on disk")))
    run.send(1)
    #expect(run.handle(.broker(.unblocked), after: .seconds(20)) == ["publish 1"])
    #expect(run.machine.wakeTime == run.now + .seconds(30))
    #expect(run.ack(1) == ["confirmed 1"])
    #expect(run.machine.wakeTime == .never)
  }

  @Test("a blocked broker may be waited for without a limit, which begins again when it takes messages")
  func waitsWhileBlocked() {
    var run = Self.opened { $0.waitsWhileBlocked = true }
    run.send(1)
    #expect(run.handle(.broker(.blocked(reason: "low on disk"))) == ["blocked: low on disk"])
    for _ in 1...100 { run.handle(.tick, after: .seconds(40)) }
    #expect(!run.machine.isEnded && run.machine.wakeTime > run.now)
    run.handle(.broker(.unblocked))
    #expect(run.machine.wakeTime == run.now + .seconds(30))
    run.handle(.tick, after: .seconds(30))
    #expect(run.machine.cause == .unconfirmed(blocked: nil))
  }

  @Test("messages begin evenly, no more than the rate allows; a late one is made up for a little")
  func rate() {
    var run = Self.opened { $0.timing = .rate(Rate(10, per: .seconds(1))) }
    #expect(run.send(1) == ["publish 1"])
    #expect(run.send(2).isEmpty && !run.machine.wantsMessage)
    #expect(run.machine.wakeTime == run.now + .milliseconds(100))
    #expect(run.handle(.tick, after: .milliseconds(99)).isEmpty)
    #expect(run.handle(.tick, after: .milliseconds(6)) == ["publish 2"])
    run.send(3)
    #expect(run.machine.wakeTime == run.now + .milliseconds(95))
    #expect(run.handle(.tick, after: .seconds(10)) == ["publish 3"])
    run.send(4)
    #expect(run.machine.wakeTime == run.now + .milliseconds(90))

    // The end of the input is not waited for, and what waits is left.
    run.handle(.interrupted(2))
    #expect(run.ack(3, multiple: true).count == 3)
    #expect(run.machine.cause == .interrupted(2) && run.machine.left.map(\.message.number) == [4])
  }

  @Test("a blocked broker's time limit begins when a message is due")
  func blockedBeforeDue() {
    var run = Self.opened { $0.timing = .rate(Rate(1, per: .seconds(60))) }
    run.send(1)
    _ = run.ack(1)
    run.handle(.broker(.blocked(reason: "low on disk")))
    run.send(2)
    #expect(run.machine.wakeTime == run.now + .seconds(60))
    #expect(run.handle(.tick, after: .seconds(60)).isEmpty)
    #expect(!run.machine.isEnded && run.machine.wakeTime == run.now + .seconds(30))
  }

  @Test("messages are replayed as far apart as their times are, divided by the speed")
  func replay() {
    var run = Self.opened { $0.timing = .replay(speed: 4) }
    func replayed(_ number: Int, at time: UInt64?, precisely: Int64? = nil) -> Publisher.Event {
      var message = AMQPMessage(body: [], exchange: "", routingKey: "q")
      message.number = number
      message.properties.timestamp = time
      if let precisely { message.properties.headers = [AMQPField("timestamp_in_ms", .integer(precisely))] }
      return .message(OutgoingMessage(message))
    }
    #expect(run.handle(replayed(1, at: nil)) == ["publish 1"])
    #expect(run.handle(replayed(2, at: 1000)) == ["publish 2"])
    #expect(run.handle(replayed(3, at: 1002)).isEmpty)
    #expect(run.handle(.tick, after: .milliseconds(499)).isEmpty)
    #expect(run.handle(.tick, after: .milliseconds(1)) == ["publish 3"])
    #expect(run.handle(replayed(4, at: 990)) == ["publish 4"])
    #expect(run.handle(replayed(5, at: 1002, precisely: 1_002_400)).isEmpty)
    #expect(run.handle(.tick, after: .milliseconds(100)) == ["publish 5"])
    // A time that no clock will show.
    _ = run.ack(5, multiple: true)
    #expect(run.handle(replayed(6, at: .max)).map { $0.prefix(7) } == ["waiting"])
    #expect(run.machine.wakeTime > run.now + .seconds(1 << 30))
  }

  @Test("what is settled behind a message without a confirm is not in doubt at a failed end")
  func settledBehind() {
    var run = Self.opened()
    for number in 1...4 { run.send(number) }
    #expect(run.ack(2).isEmpty)
    #expect(run.handle(.broker(.nack(tag: 4, multiple: false))).isEmpty)
    let end = run.handle(.tick, after: run.machine.wakeTime - run.now)
    #expect(end == ["confirmed out of order 2", "failed 4"])
    #expect(run.machine.cause == .unconfirmed(blocked: nil))
    #expect(run.machine.left.map(\.message.number) == [1, 3])
    #expect(run.machine.confirmed == 1 && run.machine.failed == 1 && run.machine.unconfirmed == 2)

    // One that was nacked by a broker that comes up is tried again no more, and stands in its place.
    run = Self.opened()
    for number in 1...3 { run.send(number) }
    run.handle(.lost(Self.broken))
    _ = run.reconnect()
    #expect(run.handle(.broker(.nack(tag: 2, multiple: false))).isEmpty)
    run.handle(.failed(Failure(.failed, "no")))
    #expect(run.machine.left.map(\.message.number) == [1, 2, 3])
  }

  @Test("what was not confirmed when a connection broke is sent again, in its order, before anything new")
  func reconnection() {
    var run = Self.opened()
    for number in 1...3 { run.send(number) }
    #expect(run.ack(2).isEmpty)
    #expect(run.handle(.lost(Self.broken)) == ["disconnect", "reconnecting"])
    #expect(!run.machine.wantsMessage)
    #expect(run.reconnect() == ["confirm.select", "reconnected", "publish 1", "publish 3"])
    #expect(run.send(4) == ["publish 4"])
    #expect(run.ack(3, multiple: true) == ["confirmed 1", "confirmed 2", "confirmed 3", "confirmed 4"])
  }

  @Test("a message sent along with an opening that broke is in doubt, and sent again")
  func doubt() {
    var run = Run()
    var message = AMQPMessage(body: [], exchange: "", routingKey: "q")
    message.number = 1
    run.handle(.connected(.prepared(sent: OutgoingMessage(message))))
    run.handle(.inputEnded(nil))
    run.handle(.lost(Self.broken))
    #expect(run.machine.unconfirmed == 1)
    #expect(run.reconnect().contains("publish 1"))
    #expect(run.ack(1) == ["confirmed 1"])
    #expect(run.machine.isEnded && run.machine.cause == nil)
  }

  @Test("what breaks every connection at the same place does so for a bounded time")
  func repeatedBreaks() {
    var run = Self.opened { $0.reconnectFor = .seconds(10) }
    run.send(1)
    let begin = run.now
    run.handle(.lost(Self.broken))
    for _ in 0..<1000 where !run.machine.isEnded {
      _ = run.reconnect()
      run.handle(.lost(Self.broken))
    }
    guard case .repeatedBreaks(_, let breaks, _, unconfirmed: 1) = run.machine.cause else {
      Issue.record("ended with \(String(describing: run.machine.cause))")
      return
    }
    #expect(breaks > 2 && run.now - begin <= .seconds(10))
    #expect(run.machine.left.map(\.message.number) == [1])
  }

  @Test("a nack of a broker that comes up is tried again after a pause")
  func nackWhileRecovering() {
    var run = Self.opened()
    run.send(1)
    run.handle(.lost(Self.broken))
    _ = run.reconnect()
    #expect(run.handle(.broker(.nack(tag: 1, multiple: false))).isEmpty)
    run.handle(.inputEnded(nil))
    #expect(!run.machine.isEnded && run.machine.unconfirmed == 1)
    #expect(run.handle(.tick, after: .seconds(1)) == ["publish 1"])
    #expect(run.ack(2) == ["confirmed 1"])
    #expect(run.machine.isEnded)
  }

  @Test("a message over which the broker closes the channel is found among those in flight")
  func culprit() {
    var run = Self.opened()
    for number in 1...3 { run.send(number) }
    let refusal = AMQPError(kind: .channelClosed(code: 406), reason: "PRECONDITION_FAILED - user_id")
    #expect(run.handle(.lost(refusal)) == ["channel.open", "confirm.select"])
    // The replies may come in any order.
    #expect(run.handle(.broker(.confirmsSelected)).isEmpty)
    #expect(run.handle(.broker(.channelOpen)) == ["publish 1"])
    #expect(run.ack(1) == ["confirmed 1", "publish 2"])
    #expect(run.handle(.lost(refusal)) == ["failed 2", "channel.open", "confirm.select"])
    run.handle(.broker(.channelOpen))
    #expect(run.handle(.broker(.confirmsSelected)) == ["publish 3"])
    #expect(run.ack(1) == ["confirmed 3"])
  }

  @Test("a large message is sent alone, and one that is known to be too large not at all")
  func size() {
    var run = Self.opened()
    run.send(1)
    #expect(run.send(2, size: 2 << 20).isEmpty)
    #expect(!run.machine.wantsMessage)
    #expect(run.ack(1) == ["confirmed 1", "publish 2"])
    let refusal = AMQPError(
      kind: .channelClosed(code: 406),
      reason: "PRECONDITION_FAILED - message size 2097152 is larger than configured max size 1500000")
    #expect(run.handle(.lost(refusal)).first == "failed 2")
    run.handle(.broker(.channelOpen))
    run.handle(.broker(.confirmsSelected))
    #expect(run.send(3, size: 1_600_000) == ["failed 3"])
  }

  @Test("a message that cannot be sent takes no delivery tag from those after it")
  func unsendable() {
    var run = Self.opened()
    for number in 1...3 { run.send(number) }
    run.handle(.lost(Self.broken))
    _ = run.reconnect()
    let error = AMQPError(kind: .invalid, reason: "its headers do not fit")
    #expect(run.handle(.unsendable(number: 2, error)) == ["failed 2"])
    #expect(run.ack(1) == ["confirmed 1"])
    #expect(run.ack(2) == ["confirmed 3"])
  }

  @Test("replies come in the order of the messages, and are not asked for again")
  func replies() {
    func reply(to number: Int) -> Publisher.Event {
      var message = AMQPMessage(body: Array("\(number)".utf8), exchange: "", routingKey: "")
      message.properties.correlationID = "reply to \(number)"
      return .broker(.delivery(AMQPDelivery(message: message, tag: 1, connection: 1, redelivered: false)))
    }
    var run = Self.opened { $0.wantsReplies = true }
    for number in 1...2 { run.send(number) }
    #expect(run.ack(2, multiple: true) == ["confirmed 1", "confirmed 2"])
    #expect(run.handle(reply(to: 2)).isEmpty)
    #expect(run.handle(reply(to: 1)) == ["reply 1", "reply 2"])
    run.send(3)
    #expect(run.handle(.lost(Self.broken)).isEmpty)
    #expect(run.machine.cause == .broker(Self.broken))

    // One that has failed has no reply, and those that wait for it need not.
    run = Self.opened { $0.wantsReplies = true }
    for number in 1...2 { run.send(number) }
    #expect(run.handle(reply(to: 2)).isEmpty)
    #expect(run.handle(.broker(.nack(tag: 1, multiple: false))) == ["failed 1", "reply 2"])

    // Whoever has replied has the message, confirmed or not.
    run = Self.opened { $0.wantsReplies = true }
    run.send(1)
    #expect(run.handle(reply(to: 1)) == ["reply 1"])
    #expect(run.handle(.lost(Self.broken)).prefix(2) == ["confirmed 1", "disconnect"])
    #expect(run.reconnect().allSatisfy { $0 != "publish 1" })
  }

  @Test("what cannot be kept is told, also where it was the last")
  func unkept() {
    var run = Self.opened()
    run.send(1)
    run.handle(.inputEnded(nil))
    #expect(run.handle(.broker(.nack(tag: 1, multiple: false))) == ["failed 1"])
    let full = Failure(.failed, "No space left on device")
    run.handle(.failed(full))
    #expect(run.machine.cause == .driver(full))
  }

  @Test("a confirm, a reply and a response to a method have a time limit each")
  func limits() {
    var run = Self.opened()
    run.send(1)
    run.handle(.tick, after: .seconds(29))
    #expect(!run.machine.isEnded)
    run.handle(.tick, after: run.machine.wakeTime - run.now)
    #expect(run.machine.cause == .unconfirmed(blocked: nil))

    run = Self.opened { $0.wantsReplies = true }
    run.send(7)
    _ = run.ack(1)
    run.handle(.tick, after: run.machine.wakeTime - run.now)
    #expect(run.machine.cause == .noReply(number: 7))

    run = Run { $0.queue = "q" }
    #expect(run.handle(.connected(.bare)) == ["queue.declare (passive)", "confirm.select"])
    run.handle(.tick, after: run.machine.wakeTime - run.now)
    guard case .unprepared(let error) = run.machine.cause else {
      Issue.record("ended with \(String(describing: run.machine.cause))")
      return
    }
    #expect(error.kind == .timedOut)
  }

  @Test("a queue that does not exist is declared once, unless it must exist", arguments: [true, false])
  func missingQueue(mayDeclare: Bool) {
    let missing = AMQPError(kind: .channelClosed(code: 404), reason: "NOT_FOUND - no queue 'q'")
    var run = Run {
      $0.queue = "q"
      $0.mayDeclare = mayDeclare
    }
    let actions = run.handle(.connected(.refused(missing)))
    #expect(actions == (mayDeclare ? ["channel.open", "queue.declare", "confirm.select"] : []))
    run.handle(.broker(.channelOpen))
    run.handle(.lost(missing))
    #expect(run.machine.cause == .unprepared(missing) && !run.machine.hasOpened)
  }

  @Test("a signal stops the input, and what is in flight is still settled; one in an outage ends at once")
  func interruption() {
    var run = Self.opened()
    run.send(1)
    run.handle(.interrupted(2))
    #expect(!run.machine.wantsMessage && !run.machine.isEnded)
    #expect(run.ack(1) == ["confirmed 1"])
    #expect(run.machine.cause == .interrupted(2) && run.machine.left.isEmpty)

    run = Self.opened()
    run.send(1)
    run.handle(.lost(Self.broken))
    run.handle(.interrupted(2))
    #expect(run.machine.cause == .interrupted(2) && run.machine.left.count == 1)
  }

  @Test("a refused login is final, unless another password may come", arguments: [true, false])
  func refusedLogin(awaitsPassword: Bool) {
    var run = Self.opened { $0.awaitsPassword = awaitsPassword }
    run.send(1)
    run.handle(.lost(Self.broken))
    run.handle(.tick, after: run.machine.wakeTime - run.now)
    let failure = Failure(.denied, "no")
    #expect(run.handle(.connectFailed(failure)) == (awaitsPassword ? ["login refused"] : []))
    #expect(run.machine.cause == (awaitsPassword ? nil : .unconnected(failure)))
  }

  @Test("the first connection is tried for as long as was asked for, and at once only where nothing was")
  func firstConnection() {
    let failure = Failure(.unreachable, "nobody")
    var impatient = Run()
    impatient.handle(.connectFailed(failure))
    #expect(impatient.machine.cause == .unconnected(failure))

    var run = Run { $0.connectFor = .seconds(10) }
    let begin = run.now
    while !run.machine.isEnded {
      #expect(run.handle(.connectFailed(failure)).isEmpty)
      if !run.machine.isEnded { #expect(run.handle(.tick, after: run.machine.wakeTime - run.now) == ["connect"]) }
    }
    #expect(run.now == begin + .seconds(10) && run.machine.cause == .unconnected(failure))

    // One that is refused does not become another by waiting.
    var refused = Run { $0.connectFor = .seconds(10) }
    refused.handle(.connectFailed(Failure(.denied, "who are you")))
    #expect(refused.machine.isEnded)

    // A broker that comes up may break the first connections.
    var late = Run { $0.connectFor = .seconds(10) }
    late.handle(.connected(.bare))
    #expect(late.handle(.lost(Self.broken)) == ["disconnect"])
    #expect(late.reconnect() == ["confirm.select", "reconnected"])
    late.send(1)
    #expect(late.ack(1) == ["confirmed 1"])
  }
}

private func shown(_ action: Publisher.Action) -> String {
  switch action {
  case .send(.publish(let message)): "publish \(message.number)"
  case .send(.selectConfirms): "confirm.select"
  case .send(.openChannel): "channel.open"
  case .send(.declare): "queue.declare"
  case .send(.inspect): "queue.declare (passive)"
  case .send(let method): "\(method)"
  case .connect: "connect"
  case .disconnect: "disconnect"
  case .confirmed(let outgoing, isInOrder: true): "confirmed \(outgoing.message.number)"
  case .confirmed(let outgoing, isInOrder: false): "confirmed out of order \(outgoing.message.number)"
  case .failed(let outgoing, _): "failed \(outgoing.message.number)"
  case .reply(let message): "reply " + String(decoding: message.body, as: UTF8.self)
  case .note(.reconnecting): "reconnecting"
  case .note(.reconnected): "reconnected"
  case .note(.loginRefused): "login refused"
  case .note(.blocked(let reason)): "blocked: \(reason)"
  case .note(.waiting(let time)): "waiting \(time.shown)"
  }
}
