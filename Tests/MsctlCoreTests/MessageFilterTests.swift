import Testing

@testable import MsctlCore

@Suite("A filter for all messages")
struct MessageFilterTests {
  private struct Run {
    var machine: MessageFilter
    var now = Deadline(nanoseconds: 0)
    var process = MessageFilter.Process()

    init(restarts: Bool = false, maxAttempts: Int? = nil, _ change: (inout MessageFilter.Options) -> Void = { _ in }) {
      var options = MessageFilter.Options()
      (options.restarts, options.maxAttempts) = (restarts, maxAttempts)
      change(&options)
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
        #expect(handle(.taken(number, Self.delivery(number))) == [.write(number, Self.delivery(number))])
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
      var message = AMQPMessage(body: Array("\(number)".utf8), exchange: "", routingKey: "q")
      // Two share an id, and the last has none.
      if number < 9 { message.properties.messageID = number == 8 ? "id 7" : "id \(number)" }
      return AMQPDelivery(message: message, tag: UInt64(number), connection: 1, redelivered: false)
    }
  }

  private static func ended(
    _ status: Int32, unanswered: Int, from first: Int, _ count: Int? = nil
  ) -> MessageFilter.Action {
    .fail(
      .ended(
        .init(status: status, wasKilled: false, fault: nil), unanswered: unanswered, doubt(first, count ?? unanswered)))
  }

  private static func doubt(_ first: Int, _ count: Int) -> MessageFilter.Doubt {
    .init(number: first, id: "id \(first)", count: count)
  }

  private static func acknowledged(_ numbers: ClosedRange<Int>) -> [MessageFilter.Action] {
    numbers.map { .acknowledge($0) }
  }

  @Test("each line is the answer to the oldest message, and one line too many ends it")
  func order() {
    var run = Run()
    run.take(1...2)
    #expect(run.handle(.line(.next)) == [.passOn(1)])
    #expect(run.handle(.line(.next)) == [.passOn(2)])
    #expect(run.handle(.line(.next)) == [.terminate, .fail(.tooManyLines(Self.doubt(1, 2)))])
    #expect(run.handle(.line(.next)).isEmpty && !run.machine.wantsLines)
    #expect(run.handle(.turn(run.process)).isEmpty)
    #expect(run.end(143).isEmpty)
    #expect(run.machine.handlerState.isFinished)
  }

  @Test(
    "one line too many leaves what is held unacknowledged, also where the run is told of its end after the filter's")
  func tooManyAtEnd() {
    var run = Run { $0.isFinite = true }
    run.take(1...2)
    for _ in 1...2 { run.handle(.line(.next)) }
    #expect(run.handle(.line(.next)) == [.terminate, .fail(.tooManyLines(Self.doubt(1, 2)))])
    #expect(run.end(143).isEmpty)
    #expect(run.handle(.finish).isEmpty)
  }

  @Test("messages are acknowledged where there are as many lines as messages")
  func count() {
    var run = Run()
    run.take(1...3)
    for number in 1...2 {
      #expect(run.handle(.line(.next)) == [.passOn(number)])
      #expect(run.handle(.turn(run.process)).isEmpty)
    }
    #expect(run.machine.handlerState.answered == 2)
    #expect(run.handle(.line(.next)) == [.passOn(3)])
    #expect(run.handle(.turn(run.process)) == Self.acknowledged(1...3))
    // Which of the last ones had another's line, nobody knows.
    #expect(run.handle(.line(.next)) == [.terminate, .fail(.tooManyLines(Self.doubt(1, 0)))])
  }

  @Test("a run that ends by itself acknowledges them at its end, or when it can do without them no longer")
  func finite() {
    var run = Run { ($0.isFinite, $0.window) = (true, 3) }
    run.take(1...2)
    for number in 1...2 { #expect(run.handle(.line(.next)) == [.passOn(number)]) }
    #expect(run.handle(.turn(run.process)).isEmpty)
    #expect(run.machine.wakeTime - run.now == MessageFilter.patience)
    #expect(run.handle(.turn(run.process), after: MessageFilter.patience) == Self.acknowledged(1...2))
    run.take(3...5)
    for _ in 3...5 { run.handle(.line(.next)) }
    #expect(run.handle(.turn(run.process)) == Self.acknowledged(3...5))
    run.take(6...6)
    run.handle(.line(.next))
    #expect(run.handle(.finish).isEmpty)
    #expect(run.end(0) == Self.acknowledged(6...6))
  }

  @Test("a filter that ends with messages unanswered has failed, whatever its status", arguments: [0, 7] as [Int32])
  func unanswered(status: Int32) {
    var run = Run()
    run.take(1...3)
    run.handle(.line(.next))
    run.handle(.finish)
    // The line may be that of the second or third.
    #expect(run.end(status) == [Self.ended(status, unanswered: 2, from: 1, 3)])
  }

  @Test(
    "one that leaves messages out at the end of its input is not started again: the others' lines would count for them")
  func content() {
    var run = Run(restarts: true)
    run.take(1...3)
    run.handle(.line(.next))
    run.handle(.finish)
    #expect(run.end(0) == [Self.ended(0, unanswered: 2, from: 1, 3)])
  }

  @Test("what one has written that was at work when time was up counts")
  func cutOff() {
    var run = Run()
    run.take(1...3)
    run.handle(.line(.next))
    run.handle(.finish)
    run.handle(.terminate)
    #expect(run.end(143) == [.acknowledge(1), Self.ended(143, unanswered: 2, from: 2)])
  }

  @Test("lines that name their messages may come in any order, and leave some out")
  func choice() {
    var run = Run { ($0.matches, $0.isFinite) = (true, true) }
    run.take(1...9)
    #expect(run.handle(.line(.number(9))) == [.passOn(9), .acknowledge(9)])
    #expect(run.handle(.line(.id(ByteKey("id 2")))) == [.passOn(2), .acknowledge(2)])
    #expect(run.handle(.line(.number(7))) == [.passOn(7), .acknowledge(7)])
    // Now it is one message's alone.
    #expect(run.handle(.line(.id(ByteKey("id 7")))) == [.passOn(8), .acknowledge(8)])
    run.handle(.finish)
    #expect(run.end(0) == [.note(.leftOut(5))])
    #expect(run.machine.handlerState.isFinished)
  }

  @Test(
    "a line that names no message, one that has a line, or several ends it",
    arguments: [
      (.unknown, .unnamedLine), (.next, .tooManyLines(nil)), (.number(1), .unknownMessage),
      (.number(10), .unknownMessage), (.id(ByteKey("id 1")), .unknownMessage),
      (.id(ByteKey("id 7")), .sharedID("id 7")),
    ] as [(MessageFilter.Subject, MessageFilter.Cause)])
  func wrongName(_ subject: MessageFilter.Subject, _ cause: MessageFilter.Cause) {
    var run = Run { $0.matches = true }
    run.take(1...8)
    run.handle(.line(.number(1)))
    if subject == .next { for number in 2...8 { run.handle(.line(.number(number))) } }
    #expect(run.handle(.line(subject)) == [.terminate, .fail(cause)])
    #expect(run.end(143).isEmpty)
  }

  @Test("one that chooses has failed where it has not read all, or not exited with 0")
  func unread() {
    for (status, hasReadAll) in [(0, false), (5, true)] as [(Int32, Bool)] {
      var run = Run { $0.matches = true }
      run.take(1...2)
      run.handle(.line(.number(2)))
      run.handle(.finish)
      run.process.hasReadAll = hasReadAll
      let end = MessageFilter.End(status: status, wasKilled: false, fault: nil)
      #expect(run.end(status) == [.fail(.ended(end, unanswered: 1, nil))])
    }
  }

  @Test("no more are left out than can be held")
  func tooManyLeft() {
    var run = Run { ($0.matches, $0.limit) = (true, 3) }
    run.take(1...2)
    #expect(run.handle(.taken(3, Run.delivery(3))) == [.terminate, .fail(.tooManyLeft(3, byPrefetch: false))])
  }

  @Test(
    "where lines are counted, one that is silent and has read all wants more, and is ended where no more can be held")
  func wantsMore() {
    for takesMore in [false, true] {
      var run = Run { ($0.isFinite, $0.limit) = (true, 3) }
      run.take(1...2)
      run.handle(.line(.next))
      #expect(run.handle(.turn(run.process)).isEmpty && !run.machine.handlerState.wantsMore)
      run.process.hasReadAll = false
      #expect(
        run.handle(.turn(run.process), after: MessageFilter.patience) == [.note(.silent(unanswered: 1, isFull: false))])
      #expect(!run.machine.handlerState.wantsMore)
      run.process.hasReadAll = true
      #expect(run.handle(.turn(run.process)).isEmpty && run.machine.handlerState.wantsMore)
      if takesMore {
        run.take(3...3)
        #expect(run.handle(.turn(run.process)) == [.terminate, .fail(.tooManyLeft(2, byPrefetch: false))])
      } else {
        #expect(run.handle(.line(.next)) == [.passOn(2)])
        #expect(!run.machine.handlerState.wantsMore)
      }
    }
  }

  @Test(
    "one that can have no more because of the prefetch is told of, and given up in the end if it has read all",
    arguments: [true, false])
  func full(_ matches: Bool) {
    var run = Run { ($0.isFinite, $0.mustReachEnd, $0.window, $0.matches) = (true, true, 2, matches) }
    run.take(1...2)
    #expect(
      run.handle(.turn(run.process), after: MessageFilter.patience) == [.note(.silent(unanswered: 2, isFull: true))])
    #expect(run.machine.wakeTime - run.now == MessageFilter.fullPatience - MessageFilter.patience)
    run.process.hasReadAll = false
    #expect(run.handle(.turn(run.process), after: MessageFilter.fullPatience - MessageFilter.patience).isEmpty)
    #expect(run.machine.wakeTime - run.now == MessageFilter.patience)
    run.process.hasReadAll = true
    #expect(
      run.handle(.turn(run.process), after: MessageFilter.patience)
        == [.terminate, .fail(.tooManyLeft(2, byPrefetch: true))])
    #expect(run.machine.wakeTime == .never)
  }

  @Test("a slow one that is full is not given up as long as it answers at times")
  func slow() {
    var run = Run { ($0.isFinite, $0.mustReachEnd, $0.window) = (true, true, 2) }
    run.take(1...2)
    for number in 1...3 {
      run.handle(.turn(run.process), after: MessageFilter.patience)
      #expect(run.handle(.line(.next), after: .seconds(280)) == [.passOn(number)])
      #expect(run.handle(.turn(run.process)).allSatisfy { if case .acknowledge = $0 { true } else { false } })
      run.take(number + 2...number + 2)
    }
  }

  @Test(
    "one that was at work until it was told to end has what it has answered acknowledged only in a run without an end",
    arguments: [true, false])
  func terminated(_ isFinite: Bool) {
    var run = Run { $0.isFinite = isFinite }
    run.take(1...3)
    run.handle(.line(.next))
    run.handle(.finish)
    #expect(run.handle(.terminate) == [.terminate])
    #expect(
      run.end(143)
        == (isFinite
          ? [Self.ended(143, unanswered: 2, from: 1, 3)] : [.acknowledge(1), Self.ended(143, unanswered: 2, from: 2)]))
  }

  @Test(
    "half a line at the end of its output is nobody's answer, and no sign that the rest was left out",
    arguments: [true, false])
  func halfLine(_ matches: Bool) {
    var run = Run { $0.matches = matches }
    run.take(1...3)
    run.handle(.line(matches ? .number(1) : .next))
    run.handle(.finish)
    run.process.endsLine = false
    #expect(run.end(0) == [.fail(.halfLine(unanswered: 2, matches ? nil : Self.doubt(1, 3)))])
  }

  @Test(
    "a line names its message by deliveryTag or messageId",
    arguments: [
      (#"{"body":1,"deliveryTag":7,"properties":{"messageId":"a"}}"#, .number(7)),
      (#"{"messageId":"b","properties":{"messageId":"a"}}"#, .id(ByteKey("a"))),
      (#"{"messageId":"b"}"#, .id(ByteKey("b"))),
      (#"{"properties":{}}"#, .unknown), (#"{"deliveryTag":1.5}"#, .unknown), ("7", .unknown), ("", .unknown),
      (#"{"deliveryTag":1"#, .unknown), (#"{"deliveryTag":9223372036854775807}"#, .number(.max)),
    ] as [(String, MessageFilter.Subject)])
  func names(_ line: String, _ subject: MessageFilter.Subject) {
    #expect(MessageFilter.Subject(of: Array(line.utf8)) == subject)
  }

  @Test("one that has answered everything fails by its status alone, and not once it was told to end")
  func answered() {
    for (status, isTerminated) in [(0, false), (5, false), (143, true)] as [(Int32, Bool)] {
      var run = Run()
      run.take(1...1)
      run.handle(.line(.next))
      run.handle(.finish)
      if isTerminated { #expect(run.handle(.terminate) == [.terminate]) }
      let end = MessageFilter.End(status: status, wasKilled: false, fault: nil)
      let expected: [MessageFilter.Action] =
        status == 0
        ? [] : isTerminated ? [.note(.ended(end))] : [.fail(.ended(end, unanswered: 0, nil))]
      #expect(run.end(status) == [.acknowledge(1)] + expected)
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
      #expect(run.handle(.line(.next), after: .seconds(9)) == [.passOn(1)])
      #expect(run.handle(.turn(run.process), after: .seconds(9)).isEmpty)
      #expect(run.handle(.turn(run.process), after: .seconds(1)) == [.terminate])
      let end = MessageFilter.End(status: 143, wasKilled: false, fault: fault)
      #expect(run.end(143) == [.fail(.ended(end, unanswered: 1, Self.doubt(1, 2)))])
    }
  }

  @Test("one that has answered everything and does not exit is ended, which is no failure")
  func deaf() {
    var run = Run()
    run.take(1...1)
    run.handle(.line(.next))
    run.handle(.turn(run.process))
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
    #expect(run.handle(.started) == [.write(1, Run.delivery(1)), .write(2, Run.delivery(2))])
    #expect(
      run.end(5) == [
        .note(.restarting(end, unanswered: 2, in: .milliseconds(400))),
        .note(.rejected(Run.delivery(1).message, attempts: 2, end)), .reject(1),
      ])
    // Nothing waits for it any more.
    #expect(run.handle(.terminate) == [Self.ended(5, unanswered: 1, from: 2)])
    #expect(run.machine.handlerState.isFinished && run.machine.wakeTime == .never)
  }

  @Test("one that cannot be run, or not be started again, is given up")
  func unrunnable() {
    var run = Run(restarts: true)
    run.take(1...1)
    #expect(run.end(127) == [Self.ended(127, unanswered: 1, from: 1)])
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
    #expect(
      run.handle(.turn(run.process), after: MessageFilter.patience) == [.note(.silent(unanswered: 2, isFull: false))])
    #expect(run.machine.wakeTime == .never)
  }
}
