import MsctlCore
import Testing

@Suite("A command for each message")
struct MessageCommandsTests {
  private struct Run {
    var machine: MessageCommands
    var now = Deadline(nanoseconds: 0)

    init(_ change: (inout MessageCommands.Options) -> Void = { _ in }) {
      var options = MessageCommands.Options()
      options.parallel = 2
      change(&options)
      machine = MessageCommands(options)
    }

    /// - Returns: what is decided.
    @discardableResult
    mutating func handle(_ event: MessageCommands.Event, after pause: Duration = .zero) -> [MessageCommands.Action] {
      now = now + pause
      var actions: [MessageCommands.Action] = []
      machine.handle(event, at: now, into: &actions)
      return actions
    }

    /// - Returns: which attempt it is; nil where no command is started.
    mutating func take(_ number: Int, _ body: Int? = nil) -> Int? {
      guard case .start(_, _, let attempt) = handle(.taken(number, delivery(number, body))).first else { return nil }
      return attempt
    }
  }

  private static func settled(_ number: Int, _ outcome: Consumer.Settlement.Outcome) -> MessageCommands.Action {
    .settle(Consumer.Settlement(number, outcome))
  }

  @Test("a message is handled once all that its command wrote is passed on")
  func success() {
    var run = Run()
    #expect(run.take(1) == 1)
    #expect(run.machine.handlerState == .init(hasRoom: true, isFinished: false))
    _ = run.take(2)
    #expect(!run.machine.handlerState.hasRoom)
    #expect(run.handle(.passedOn(1)).isEmpty)
    #expect(run.handle(.succeeded(1)) == [.passOn(1)])
    #expect(!run.machine.handlerState.hasRoom)
    #expect(run.handle(.passedOn(1)) == [Self.settled(1, .acknowledge)])
    #expect(run.handle(.notStarted(2)) == [Self.settled(2, .requeue)])
    #expect(run.machine.handlerState == .init(hasRoom: true, isFinished: true))
  }

  @Test("one that fails goes back after a while that grows, and is rejected after so many attempts")
  func attempts() {
    var run = Run { $0.maxAttempts = 3 }
    for (attempt, delay) in [(1, 200), (2, 400)] {
      #expect(run.take(attempt, 7) == attempt)
      let pause = Duration.milliseconds(delay)
      #expect(
        run.handle(.failed(attempt, .exited(1)))
          == [.report(message(7), .exited(1), .requeued(attempt: attempt, after: pause))])
      #expect(run.machine.handlerState == .init(hasRoom: true, failed: 1, isFinished: true))
      #expect(run.handle(.tick).isEmpty)
      #expect(run.machine.wakeTime - run.now == pause)
      #expect(run.handle(.tick, after: pause) == [Self.settled(attempt, .requeue)])
    }
    #expect(run.take(3, 7) == 3)
    #expect(
      run.handle(.failed(3, .killed(137)))
        == [.report(message(7), .killed(137), .rejected(attempt: 3)), Self.settled(3, .reject)])
    #expect(run.take(4, 7) == 1)
  }

  @Test("what a command says of its message is done whatever else becomes of failures")
  func rejectedExits() {
    for onError in MessageCommands.OnError.allCases {
      var run = Run { ($0.onError, $0.rejectedExits) = (onError, [4, 127]) }
      for (number, status) in [(1, 4), (2, 127)] as [(Int, Int32)] {
        #expect(run.take(number) == 1)
        #expect(
          run.handle(.failed(number, .exited(status)))
            == [.report(message(number), .exited(status), .rejected(attempt: 1)), Self.settled(number, .reject)])
      }
      _ = run.take(3)
      #expect(run.handle(.failed(3, .killed(4))).contains(Self.settled(3, .reject)) == (onError == .reject))
    }
  }

  @Test(
    "a message whose reply the broker does not take is rejected, whatever follows a failure",
    arguments: MessageCommands.OnError.allCases)
  func unreplied(_ onError: MessageCommands.OnError) {
    var run = Run { $0.onError = onError }
    _ = run.take(1)
    #expect(run.handle(.succeeded(1)) == [.passOn(1)])
    let reason = MessageCommands.Reason.unreplied(Failure(.notDelivered, "nacked"))
    #expect(
      run.handle(.failed(1, reason)) == [.report(message(1), reason, .rejected(attempt: 1)), Self.settled(1, .reject)])
    #expect(run.handle(.passedOn(1)).isEmpty)
  }

  @Test(
    "what has no reply because none can be sent is not settled, which ends the run once",
    arguments: MessageCommands.OnError.allCases)
  func lostReplies(_ onError: MessageCommands.OnError) {
    var run = Run { ($0.onError, $0.maxAttempts) = (onError, 1) }
    for number in 1...2 { _ = run.take(number) }
    for number in 1...2 { run.handle(.succeeded(number)) }
    let denied = Failure(.denied, "access refused")
    #expect(run.handle(.replyLost(1, denied)) == [.fail(.output(denied))])
    #expect(run.handle(.replyLost(2, denied)).isEmpty)
    #expect(run.machine.handlerState == .init(hasRoom: false, isFinished: true))

    var late = Run()
    _ = late.take(1)
    late.handle(.succeeded(1))
    late.handle(.terminate)
    #expect(late.handle(.replyLost(1, denied)) == [.report(message(1), .unreplied(denied), .abandoned)])
  }

  @Test("what waits to go back goes back at once where no more comes")
  func finish() {
    var run = Run()
    _ = run.take(1)
    run.handle(.failed(1, .exited(1)))
    #expect(run.handle(.finish) == [Self.settled(1, .requeue)])
    #expect(run.machine.wakeTime == .never)
  }

  @Test("a failure that ends the run lets the others go on: success counts, and failure is no attempt")
  func stop() {
    var run = Run { $0.onError = .stop }
    for number in 1...2 { _ = run.take(number) }
    #expect(run.handle(.failed(1, .exited(3))) == [.fail(.stopped(message(1), .exited(3)))])
    #expect(!run.machine.handlerState.hasRoom)
    #expect(run.handle(.succeeded(2)) == [.passOn(2)])
    #expect(run.handle(.passedOn(2)) == [Self.settled(2, .acknowledge)])
    var other = Run { $0.onError = .reject }
    _ = other.take(1)
    #expect(other.handle(.terminate) == [.terminate])
    #expect(other.handle(.failed(1, .exited(143))) == [.report(message(1), .exited(143), .abandoned)])
  }

  @Test("a batch begins when it is full, some time after its first message, or when no more may come")
  func batches() {
    var run = Run { ($0.batch, $0.batchTime, $0.parallel) = (2, .seconds(5), 9) }
    #expect(run.take(1) == nil && run.machine.wakeTime - run.now == .seconds(5))
    #expect(run.machine.handlerState == .init(hasRoom: true, isFinished: false, gathered: 1))
    #expect(run.handle(.taken(2, delivery(2))) == [.start(1, [delivery(1), delivery(2)], attempt: 1)])
    #expect(run.machine.handlerState.gathered == 0 && run.machine.wakeTime == .never)
    _ = run.take(3)
    #expect(run.handle(.tick, after: .seconds(4)).isEmpty)
    #expect(run.handle(.tick, after: .seconds(1)) == [.start(3, [delivery(3)], attempt: 1)])
    _ = run.take(4)
    #expect(run.handle(.startBatch) == [.start(4, [delivery(4)], attempt: 1)])
    #expect(run.handle(.startBatch).isEmpty)
    for number in 5...7 { _ = run.take(number) }
    #expect(run.handle(.finish) == [Self.settled(7, .requeue)])
    #expect(run.handle(.succeeded(1)) == [.passOn(1)])
    #expect(run.handle(.passedOn(1)) == [Self.settled(1, .acknowledge), Self.settled(2, .acknowledge)])
    #expect(run.handle(.notStarted(5)) == [Self.settled(5, .requeue), Self.settled(6, .requeue)])
  }

  @Test("a batch of large bodies begins before it is full")
  func largeBatch() {
    var run = Run { $0.batch = 10 }
    let body = [UInt8](repeating: 0x30, count: MessageCommands.batchSize / 2)
    let large = AMQPDelivery(
      message: AMQPMessage(body: body, exchange: "", routingKey: "q"), tag: 1, connection: 1, redelivered: false)
    #expect(run.handle(.taken(1, large)).isEmpty)
    #expect(run.handle(.taken(2, large)).count == 1)
  }

  @Test("the failure of a batch is one of each of its messages, and of those that are alike one")
  func failedBatch() {
    var run = Run { ($0.batch, $0.maxAttempts) = (3, 2) }
    _ = (run.take(1), run.take(2, 1), run.take(3))
    let pause = Duration.milliseconds(200)
    #expect(
      run.handle(.failed(1, .exited(5)))
        == [.report(message(1), others: 2, .exited(5), .requeued(attempt: 1, after: pause))])
    #expect(run.handle(.tick, after: pause) == (1...3).map { Self.settled($0, .requeue) })
    _ = (run.take(4, 3), run.take(5, 7))
    #expect(
      run.handle(.taken(6, delivery(6, 8))) == [
        .start(4, [delivery(4, 3), delivery(5, 7), delivery(6, 8)], attempt: 2)
      ])
    #expect(
      run.handle(.failed(4, .exited(5))) == [
        .report(message(3), .exited(5), .rejected(attempt: 2)), Self.settled(4, .reject),
        .report(message(7), others: 1, .exited(5), .requeued(attempt: 1, after: pause)),
      ])
    #expect(run.machine.handlerState.failed == 2)
  }

  @Test("no batch begins once the run is to end")
  func stoppedBatch() {
    var run = Run { ($0.batch, $0.onError) = (2, .stop) }
    for number in 1...3 { _ = run.take(number) }
    #expect(
      run.handle(.failed(1, .exited(3))) == [.fail(.stopped(message(1), others: 1, .exited(3)))])
    #expect(run.handle(.tick, after: .seconds(9)).isEmpty)
    #expect(run.handle(.finish) == [Self.settled(3, .requeue)])
  }

  @Test("a command that cannot be run ends the run; a message that does not fit fails by itself")
  func unrunnable() {
    var run = Run { $0.onError = .reject }
    for number in 1...2 { _ = run.take(number) }
    #expect(
      run.handle(.failed(1, .doesNotFit("too long")))
        == [.report(message(1), .doesNotFit("too long"), .rejected(attempt: 1)), Self.settled(1, .reject)])
    #expect(run.handle(.failed(2, .exited(127))) == [.fail(.unrunnable(127))])
    let full = Failure(.failed, "the disk is full")
    var other = Run()
    for number in 1...2 { _ = other.take(number) }
    for number in 1...2 { other.handle(.succeeded(number)) }
    #expect(other.handle(.outputLost(1, full)) == [.fail(.output(full))])
    #expect(other.handle(.outputLost(2, full)) == [.reportCause(.output(full))])
  }
}

private func delivery(_ number: Int, _ body: Int? = nil) -> AMQPDelivery {
  AMQPDelivery(message: message(body ?? number), tag: UInt64(number), connection: 1, redelivered: false)
}

private func message(_ body: Int) -> AMQPMessage {
  AMQPMessage(body: Array("\(body)".utf8), exchange: "", routingKey: "q")
}
