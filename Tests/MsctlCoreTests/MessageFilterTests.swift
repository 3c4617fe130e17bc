import Testing

@testable import MsctlCore

@Suite("A filter for all messages")
struct MessageFilterTests {
  private struct Run {
    var machine: MessageFilter
    var now = Deadline(nanoseconds: 0)
    var process = MessageFilter.Process()

    init(restarts: Bool = false, maxAttempts: Int? = nil) {
      var options = MessageFilter.Options()
      (options.restarts, options.maxAttempts) = (restarts, maxAttempts)
      machine = MessageFilter(options)
    }

    /// - Returns: what is decided.
    @discardableResult
    mutating func handle(_ event: MessageFilter.Event, after pause: Duration = .zero) -> [MessageFilter.Action] {
      now = now + pause
      var actions: [MessageFilter.Action] = []
      machine.handle(event, at: now, into: &actions)
      return actions
    }

    mutating func take(_ numbers: ClosedRange<Int>) {
      for number in numbers {
        #expect(handle(.taken(number, Self.delivery(number))) == [.write(Self.delivery(number))])
      }
    }

    mutating func end(_ status: Int32) -> [MessageFilter.Action] {
      (process.status, process.hasOutput) = (status, false)
      defer { process = MessageFilter.Process() }
      return handle(.turn(process))
    }

    static func delivery(_ number: Int) -> AMQPDelivery {
      deliveries[number]
    }

    private static let deliveries = (0...9).map { number in
      let message = AMQPMessage(body: Array("\(number)".utf8), exchange: "", routingKey: "q")
      return AMQPDelivery(message: message, tag: UInt64(number), connection: 1, redelivered: false)
    }
  }

  private static func ended(_ status: Int32, unanswered: Int) -> MessageFilter.Action {
    .fail(.ended(.init(status: status, wasKilled: false, fault: nil), unanswered: unanswered))
  }

  @Test("each line is the answer to the oldest message, and one line too many ends it")
  func order() {
    var run = Run()
    run.take(1...2)
    #expect(run.handle(.line) == [.passOn(1)])
    #expect(run.handle(.line) == [.passOn(2)])
    #expect(run.handle(.line) == [.terminate, .fail(.tooManyLines)])
    #expect(run.handle(.line).isEmpty && !run.machine.wantsLines)
    #expect(run.end(143).isEmpty)
    #expect(run.machine.handlerState.isFinished)
  }

  @Test("a filter that ends with messages unanswered has failed, whatever its status", arguments: [0, 7] as [Int32])
  func unanswered(status: Int32) {
    var run = Run()
    run.take(1...3)
    run.handle(.line)
    run.handle(.finish)
    #expect(run.end(status) == [Self.ended(status, unanswered: 2)])
  }

  @Test("one that has answered everything fails by its status alone, and not once it was told to end")
  func answered() {
    for (status, isTerminated) in [(0, false), (5, false), (143, true)] as [(Int32, Bool)] {
      var run = Run()
      run.take(1...1)
      run.handle(.line)
      run.handle(.finish)
      if isTerminated { #expect(run.handle(.terminate) == [.terminate]) }
      let end = MessageFilter.End(status: status, wasKilled: false, fault: nil)
      let expected: [MessageFilter.Action] =
        status == 0 ? [] : isTerminated ? [.note(.ended(end))] : [.fail(.ended(end, unanswered: 0))]
      #expect(run.end(status) == expected)
      #expect(run.machine.handlerState.isFinished)
    }
  }

  @Test("one that can take or give nothing more is ended once it is silent")
  func pressed() {
    let faults: [(MessageFilter.Fault, (inout MessageFilter.Process) -> Void)] = [
      (.closedInput, { $0.readsInput = false }), (.closedOutput, { $0.hasOutput = false }),
      (.leftProcess, { $0.status = 0 }),
    ]
    for (fault, change) in faults {
      var run = Run()
      run.take(1...2)
      change(&run.process)
      #expect(run.handle(.turn(run.process)).isEmpty)
      #expect(!run.machine.handlerState.hasRoom)
      #expect(run.handle(.line, after: .seconds(9)) == [.passOn(1)])
      #expect(run.handle(.turn(run.process), after: .seconds(9)).isEmpty)
      #expect(run.handle(.turn(run.process), after: .seconds(1)) == [.terminate])
      let end = MessageFilter.End(status: 143, wasKilled: false, fault: fault)
      #expect(run.end(143) == [.fail(.ended(end, unanswered: 1))])
    }
  }

  @Test("one that has answered everything and does not exit is ended, which is no failure")
  func deaf() {
    var run = Run()
    run.take(1...1)
    run.handle(.line)
    run.handle(.finish)
    #expect(run.handle(.turn(run.process)).isEmpty)
    #expect(run.handle(.turn(run.process), after: .seconds(10)) == [.terminate])
    #expect(run.end(143) == [.note(.ended(.init(status: 143, wasKilled: false, fault: .deaf)))])
  }

  @Test("it is started again with what it has not answered, and the message that it dies on is rejected")
  func restart() {
    var run = Run(restarts: true, maxAttempts: 2)
    run.take(1...2)
    let end = MessageFilter.End(status: 5, wasKilled: false, fault: nil)
    #expect(run.end(5) == [.note(.restarting(end, unanswered: 2, in: .milliseconds(200)))])
    #expect(run.handle(.turn(nil)).isEmpty)
    #expect(run.handle(.turn(nil), after: .milliseconds(200)) == [.start])
    #expect(run.handle(.started) == [.write(Run.delivery(1)), .write(Run.delivery(2))])
    #expect(
      run.end(5) == [
        .note(.restarting(end, unanswered: 2, in: .milliseconds(400))),
        .note(.rejected(Run.delivery(1).message, attempts: 2, end)), .reject(1),
      ])
    // Nothing waits for it any more.
    #expect(run.handle(.terminate) == [Self.ended(5, unanswered: 1)])
    #expect(run.machine.handlerState.isFinished && run.machine.wakeTime == .never)
  }

  @Test("one that cannot be run, or not be started again, is given up")
  func unrunnable() {
    var run = Run(restarts: true)
    run.take(1...1)
    #expect(run.end(127) == [Self.ended(127, unanswered: 1)])
    var other = Run(restarts: true)
    other.take(1...1)
    _ = other.end(1)
    other.handle(.turn(nil), after: .seconds(1))
    let failure = Failure(.failed, "no processes")
    #expect(other.handle(.notStarted(failure)) == [.fail(.notStarted(failure))])
    #expect(other.machine.handlerState.isFinished)
  }

  @Test("silence is remarked on once")
  func silence() {
    var run = Run()
    run.take(1...2)
    #expect(run.machine.wakeTime - run.now == MessageFilter.patience)
    #expect(run.handle(.turn(run.process), after: MessageFilter.patience) == [.note(.silent(unanswered: 2))])
    #expect(run.machine.wakeTime == .never)
  }
}
