import DequeModule

/// One long-lived filter for all messages: each line that it writes is the answer to one of them.
///
/// A line names its message, whatever the order, and what has no line in the end goes back: so a filter may choose. Or lines come in
/// the order of the messages, one for each. Then a line shows only by their number that it is the answer to its message: one that a
/// filter has left out makes each later one the answer to the message before its own. So what was answered is acknowledged where
/// there are as many lines as messages; in a run that ends by itself at the end, as far as it can wait for that.
///
/// It decides which message a line belongs to, and what is done about a filter that writes too many lines, falls silent, closes its
/// input or its output, leaves somebody behind who holds its output, or ends. Whoever drives it owns the process and the pipes,
/// hands in what has happened and carries out the actions, in their order.
package struct MessageFilter: Sendable {
  /// After how long without an answer there is a remark; so long, too, a filter that can take or give nothing more may be silent
  /// before it is ended.
  package static let patience: Duration = .seconds(10)
  /// After how long without an answer one is given up that can have no more messages because of the prefetch that was asked for. It
  /// may only be slow, and RabbitMQ ends the consumer after 30 min.
  package static let fullPatience: Duration = .seconds(300)
  /// How much is kept for a filter that is started again and left without a line, in bytes of bodies.
  package static let sizeLimit = 256 << 20
  private static let shortestPause: Duration = .milliseconds(200)
  private static let longestPause: Duration = .seconds(30)

  package struct Options: Sendable {
    /// Whether a filter that has failed is started again.
    package var restarts = false
    /// After how many deaths of the filter a message is rejected on which it dies.
    package var maxAttempts: Int?
    /// Whether each line names its message. Else they come in the order of the messages.
    package var matches = false
    /// Whether no more messages come after a while, by themselves.
    package var isFinite = false
    /// Whether the run is over only when the filter has had all messages: to end by itself before that is a failure.
    package var mustReachEnd = false
    /// How many messages may be taken and not settled.
    package var window = Consumer.standardPrefetch
    /// How many may be left without a line; nil: as many as there are.
    package var limit: Int?

    package init() {}
  }

  /// The process, as it is now.
  package struct Process: Sendable, Equatable {
    /// How it ended: its exit code, or 128 + the signal; nil while it runs.
    package var status: Int32?
    /// Whether it did not end when it was told to.
    package var wasKilled = false
    package var readsInput = true
    /// Whether its output is open, be it through what it has left behind.
    package var hasOutput = true
    /// Whether it has read all that it was given, as far as is known.
    package var hasReadAll = true
    /// Whether what it has written ends with a whole line.
    package var endsLine = true

    package init() {}
  }

  /// Which message a line is the answer to.
  package enum Subject: Sendable, Equatable {
    /// The oldest that has none.
    case next
    /// The one of this number.
    case number(Int)
    case id(ByteKey)
    /// The line does not say.
    case unknown
  }

  /// Where a failure in the count of lines may have begun: from this message on a line may have been taken for the answer to another.
  package struct Doubt: Sendable, Equatable {
    package let number: Int
    package let id: String?
    /// How many messages go back because of it.
    package let count: Int

    package init(number: Int, id: String?, count: Int) { (self.number, self.id, self.count) = (number, id, count) }
  }

  /// Why it was told to end.
  package enum Fault: Sendable, Equatable {
    case closedInput
    case closedOutput
    /// It has ended, and left a process behind that holds its output.
    case leftProcess
    /// It has answered everything, and did not exit at the end of its input.
    case deaf
  }

  /// How it ended.
  package struct End: Sendable, Equatable {
    package let status: Int32
    package let wasKilled: Bool
    package let fault: Fault?
  }

  package enum Event: Sendable {
    /// A message was handed on, under this number.
    case taken(Int, AMQPDelivery)
    /// The filter has written a line.
    case line(Subject)
    /// What it writes cannot be read any more: its end is told as a failure already.
    case unreadable
    /// All that it had written is handed in. Nil: there is no process.
    case turn(Process?)
    /// The responses to `start`.
    case started
    case notStarted(Failure)
    /// No more messages come.
    case finish
    /// Time is up.
    case terminate
  }

  package enum Action: Sendable, Equatable {
    /// Adds a message to its input, with its number.
    case write(Int, AMQPDelivery)
    /// The line is the answer to the message of this number.
    case passOn(Int)
    /// The message is handled, once its line is passed on.
    case acknowledge(Int)
    case reject(Int)
    /// `started` or `notStarted` tells.
    case start
    /// It is told to end, and killed where it does not.
    case terminate
    case note(Note)
    /// The run cannot go on.
    case fail(Cause)
  }

  package enum Note: Sendable, Equatable {
    /// It has written nothing for a while, with so many messages unanswered; whether it can have no more, though the end of the run
    /// may wait for that.
    case silent(unanswered: Int, isFull: Bool)
    /// It was told to end, and has.
    case ended(End)
    case restarting(End, unanswered: Int, in: Duration)
    /// It died so often on this message.
    case rejected(AMQPMessage, attempts: Int, End)
    /// It has ended well, and has written no line for so many: they go back.
    case leftOut(Int)
  }

  package enum Cause: Sendable, Equatable {
    case tooManyLines(Doubt?)
    /// With so many messages unanswered; and where lines are counted, which may have the line of another.
    case ended(End, unanswered: Int, Doubt?)
    case notStarted(Failure)
    /// A line does not say which message it is the answer to.
    case unnamedLine
    /// A line names a message that has a line, or was never given.
    case unknownMessage
    /// A line names an id that several messages have.
    case sharedID(String)
    /// It has left so many messages without a line that no more can be held, be it because of the prefetch that was asked for.
    case tooManyLeft(Int, byPrefetch: Bool)
    /// At the end of its input it has written half a line last, with so many messages unanswered: of them it may be one's.
    case halfLine(unanswered: Int, Doubt?)
  }

  private enum State {
    case running
    /// It can take or give nothing more, but is still there: it may answer what it has read, as long as it is not silent.
    case over(until: Deadline)
    case terminated(Fault)
    /// It has ended, and is started again then.
    case pausing(until: Deadline, End)
    case starting
    case ended

    var hasProcess: Bool {
      switch self {
      case .running, .over, .terminated: true
      case .pausing, .starting, .ended: false
      }
    }

    /// Whether there is none, and will be one.
    var isBetween: Bool {
      switch self {
      case .pausing, .starting: true
      case .running, .over, .terminated, .ended: false
      }
    }
  }

  private let options: Options
  private var state = State.running
  /// Taken and not answered, in the order in which they were handed on.
  private var unanswered = Deque<(number: Int, delivery: AMQPDelivery)>()
  /// The numbers of those that have an id, where lines name their messages.
  private var numbers: [ByteKey: [Int]] = [:]
  /// How large their bodies are, as far as they are kept.
  private var unansweredBytes = 0
  /// Answered and not acknowledged, until the number of lines is right.
  private var held = Deque<(number: Int, id: String?)>()
  private var heldSince = Deadline.never
  /// The first of those that were acknowledged last.
  private var lastSettled: (number: Int, id: String?)?
  private var attempts = Attempts()
  private var pause = shortestPause
  private var remarkTime = Deadline.never
  /// Whether there was a remark since its last line.
  private var isSilent = false
  /// When one is given up that can have no more messages, and is silent.
  private var fullEnd = Deadline.never
  /// Whether it had read all that it was given at the last turn.
  private var hasReadAll = false
  /// Its output is of no use any more.
  private var isBroken = false
  private var isTerminated = false
  /// Whether no more messages come.
  package private(set) var isFinishing = false

  package init(_ options: Options) { self.options = options }

  // MARK: Questions for the driver

  /// As far as it is known here: its input may be full, and a failure may not be told yet.
  package var handlerState: Consumer.HandlerState {
    let hasEnded = if case .ended = state { true } else { false }
    let isRunning = if case .running = state { true } else { false }
    return Consumer.HandlerState(
      hasRoom: isRunning && !isFinishing, isFinished: hasEnded, hasEnded: hasEnded, answered: held.count,
      wantsMore: isRunning && isSilent && hasReadAll)
  }

  /// Whether its lines are of use.
  package var wantsLines: Bool { !isBroken }

  /// When `turn` is due although nothing has happened.
  package var wakeTime: Deadline {
    switch state {
    case .running:
      min(
        remarkTime, isSilent && isFull ? fullEnd : .never,
        unanswered.isEmpty && !held.isEmpty ? heldSince + Self.patience : .never)
    case .over(let until), .pausing(let until, _): until
    case .terminated, .starting, .ended: .never
    }
  }

  // MARK: Events

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    switch event {
    case .taken(let number, let delivery): take(number, delivery, now, &actions)
    case .line(let subject): answered(subject, now, &actions)
    case .unreadable:
      isBroken = true
      actions.append(.terminate)
    case .turn(let process): turned(process, now, &actions)
    case .started:
      state = .running
      isSilent = false
      if !unanswered.isEmpty { remarkTime = now + Self.patience }
      for message in unanswered { actions.append(.write(message.number, message.delivery)) }
    case .notStarted(let failure): fail(.notStarted(failure), &actions)
    case .finish:
      isFinishing = true
      if state.isBetween, unanswered.isEmpty { end(&actions) }
    case .terminate:
      isTerminated = true
      if state.hasProcess {
        actions.append(.terminate)
      } else if case .pausing(_, let end) = state {
        acknowledgeAsFarAsKnown(&actions)
        fail(cause(end), &actions)
      }
    }
  }

  private mutating func take(
    _ number: Int, _ delivery: AMQPDelivery, _ now: Deadline, _ actions: inout [Action]
  ) {
    if unanswered.isEmpty { remarkTime = now + Self.patience }
    // Bodies are kept only for a filter that is given them again.
    let kept = options.restarts ? delivery : delivery.withoutBody
    unanswered.append((number, kept))
    unansweredBytes += kept.message.body.count
    if options.matches, let id = delivery.message.idKey { numbers[id, default: []].append(number) }
    if options.matches && unanswered.count >= options.limit ?? .max
      || options.limit != nil && unansweredBytes > Self.sizeLimit
    {
      return giveUp(.tooManyLeft(unanswered.count, byPrefetch: false), &actions)
    }
    if state.hasProcess { actions.append(.write(number, delivery)) }
  }

  // MARK: Lines

  private mutating func answered(_ subject: Subject, _ now: Deadline, _ actions: inout [Action]) {
    guard !isBroken else { return }
    let place: Int
    switch self.place(of: subject) {
    case .success(let found): place = found
    case .failure(let wrong): return giveUp(wrong.cause, &actions)
    }
    let (number, delivery) = unanswered.remove(at: place)
    unansweredBytes -= delivery.message.body.count
    isSilent = false
    switch state {
    case .running: remarkTime = unanswered.isEmpty ? .never : now + Self.patience
    case .over: state = .over(until: now + Self.patience)
    default: break
    }
    attempts.forget(delivery.message)
    pause = Self.shortestPause
    actions.append(.passOn(number))
    if options.matches {
      forget(number, delivery.message)
      actions.append(.acknowledge(number))
    } else {
      if held.isEmpty { heldSince = now }
      held.append((number, delivery.message.properties.messageID))
    }
  }

  private struct WrongLine: Error { let cause: Cause }

  /// Where the message stands that a line is the answer to.
  private func place(of subject: Subject) -> Result<Int, WrongLine> {
    let number: Int
    switch subject {
    case .next: return unanswered.isEmpty ? .failure(WrongLine(cause: .tooManyLines(doubt))) : .success(0)
    case .unknown: return .failure(WrongLine(cause: .unnamedLine))
    case .number(let named): number = named
    case .id(let id):
      let candidates = numbers[id] ?? []
      guard candidates.count <= 1 else { return .failure(WrongLine(cause: .sharedID(id.text))) }
      number = candidates.first ?? 0
    }
    guard let place = place(of: number) else { return .failure(WrongLine(cause: .unknownMessage)) }
    return .success(place)
  }

  private func place(of number: Int) -> Int? {
    let place = unanswered.firstPlace(after: { $0.number < number })
    return place < unanswered.count && unanswered[place].number == number ? place : nil
  }

  private mutating func forget(_ number: Int, _ message: AMQPMessage) {
    guard let id = message.idKey else { return }
    numbers[id]?.removeAll { $0 == number }
    if numbers[id]?.isEmpty ?? false { numbers[id] = nil }
  }

  /// Whether it can have no more messages before it answers, because of the prefetch that was asked for, and the run may wait for ever.
  private var isFull: Bool {
    options.mustReachEnd && options.limit == nil && options.window > 0 && !isFinishing && !isBroken
      && held.count + unanswered.count >= options.window
  }

  /// What it writes from here on says nothing.
  private mutating func giveUp(_ cause: Cause, _ actions: inout [Action]) {
    isBroken = true
    actions += [.terminate, .fail(cause)]
  }

  // MARK: The number of lines

  private var doubt: Doubt? {
    guard !options.matches else { return nil }
    let count = held.count + unanswered.count
    if let (number, id) = held.first ?? unanswered.first.map({ ($0.number, $0.delivery.message.properties.messageID) })
    {
      return Doubt(number: number, id: id, count: count)
    }
    return lastSettled.map { Doubt(number: $0.number, id: $0.id, count: 0) }
  }

  private func cause(_ end: End) -> Cause {
    .ended(end, unanswered: unanswered.count, unanswered.isEmpty ? nil : doubt)
  }

  /// There are as many lines as messages. A run that ends by itself waits with the acknowledgements until then, since a line too many
  /// may be on its way; but for no longer than it can do without them.
  private mutating func settleWhenRight(_ now: Deadline, _ actions: inout [Action]) {
    guard unanswered.isEmpty, !held.isEmpty, !isBroken else { return }
    if options.isFinite, isFinishing || held.count < options.window, now < heldSince + Self.patience { return }
    acknowledgeHeld(&actions)
  }

  /// One that was at work until we ended it may have left messages out; a run that ends by itself acknowledges none on trust. In
  /// another they would have been acknowledged sooner or later.
  private mutating func acknowledgeAsFarAsKnown(_ actions: inout [Action]) {
    if isTerminated, !options.isFinite { acknowledgeHeld(&actions) }
  }

  private mutating func acknowledgeHeld(_ actions: inout [Action]) {
    if let first = held.first { lastSettled = first }
    for message in held { actions.append(.acknowledge(message.number)) }
    held = []
  }

  // MARK: The process

  private mutating func turned(_ process: Process?, _ now: Deadline, _ actions: inout [Action]) {
    guard let process else {
      if case .pausing(let until, _) = state, now >= until {
        state = .starting
        actions.append(.start)
      }
      return
    }
    if now >= remarkTime {
      remarkTime = .never
      isSilent = true
      fullEnd = now + (Self.fullPatience - Self.patience)
      actions.append(.note(.silent(unanswered: unanswered.count, isFull: isFull)))
    }
    hasReadAll = process.hasReadAll
    if let status = process.status, !process.hasOutput { return ended(status, process, now, &actions) }
    settleWhenRight(now, &actions)
    // Nothing more can come before it answers, and it waits for more.
    if isSilent, hasReadAll, !isFinishing, !isBroken, held.count + unanswered.count >= options.limit ?? .max {
      return giveUp(.tooManyLeft(unanswered.count, byPrefetch: false), &actions)
    }
    if isSilent, isFull, now >= fullEnd {
      guard !hasReadAll else { return giveUp(.tooManyLeft(unanswered.count, byPrefetch: true), &actions) }
      fullEnd = now + Self.patience
    }
    if process.status != nil || !process.hasOutput || !process.readsInput || isFinishing && unanswered.isEmpty {
      pressForEnd(process, now, &actions)
    }
  }

  private mutating func pressForEnd(_ process: Process, _ now: Deadline, _ actions: inout [Action]) {
    remarkTime = .never
    if case .running = state { state = .over(until: now + Self.patience) }
    guard case .over(let until) = state, now >= until else { return }
    state = .terminated(
      !process.readsInput
        ? .closedInput : process.status != nil ? .leftProcess : process.hasOutput ? .deaf : .closedOutput
    )
    // With every message handled, that it does not end by itself is no failure.
    if unanswered.isEmpty, isFinishing { isTerminated = true }
    actions.append(.terminate)
  }

  private mutating func ended(_ status: Int32, _ process: Process, _ now: Deadline, _ actions: inout [Action]) {
    let fault: Fault? = if case .terminated(let fault) = state { fault } else { nil }
    let end = End(status: status, wasKilled: process.wasKilled, fault: fault)
    remarkTime = .never
    // Why has been told.
    if isBroken { return state = .ended }
    // To start it again does not help.
    if end.isUnrunnable { return fail(cause(end), &actions) }
    if unanswered.isEmpty, status == 0 || isTerminated || !options.restarts || isFinishing {
      let cause = cause(end)
      self.end(&actions)
      if process.wasKilled || isTerminated, status != 0 { actions.append(.note(.ended(end))) }
      let isEarly = options.mustReachEnd && !isFinishing
      if status != 0 || isEarly, !isTerminated { actions.append(.fail(cause)) }
      return
    }
    // It was at the end of its input, and is content.
    let isContent = status == 0 && isFinishing && process.hasReadAll
    if isContent, !process.endsLine {
      return fail(.halfLine(unanswered: unanswered.count, doubt), &actions)
    }
    if isContent, options.matches {
      actions.append(.note(.leftOut(unanswered.count)))
      return self.end(&actions)
    }
    guard options.restarts, !isTerminated, !isContent else {
      acknowledgeAsFarAsKnown(&actions)
      return fail(cause(end), &actions)
    }
    state = .pausing(until: now + pause, end)
    actions.append(.note(.restarting(end, unanswered: unanswered.count, in: pause)))
    pause = min(pause * 2, Self.longestPause)
    countDeath(end, &actions)
  }

  /// There are as many lines as messages, or lines name theirs.
  private mutating func end(_ actions: inout [Action]) {
    state = .ended
    acknowledgeHeld(&actions)
  }

  /// The oldest message is what it died on, as far as anybody can know.
  private mutating func countDeath(_ end: End, _ actions: inout [Action]) {
    guard let (number, delivery) = unanswered.first, let maxAttempts = options.maxAttempts,
      attempts.add(delivery.message) >= maxAttempts
    else { return }
    unanswered.removeFirst()
    unansweredBytes -= delivery.message.body.count
    attempts.forget(delivery.message)
    if options.matches { forget(number, delivery.message) }
    actions += [.note(.rejected(delivery.message, attempts: maxAttempts, end)), .reject(number)]
    if isFinishing, unanswered.isEmpty { self.end(&actions) }
  }

  private mutating func fail(_ cause: Cause, _ actions: inout [Action]) {
    state = .ended
    actions.append(.fail(cause))
  }
}

extension MessageFilter.End {
  /// The shell's word that a command cannot be run or was not found.
  package var isUnrunnable: Bool { MessageCommands.isUnrunnable(status) }
}

extension MessageFilter.Subject {
  private static let places = JSONPlaces([["deliveryTag"], ["messageId"], ["properties", "messageId"]])

  /// The message that a line names: an envelope, or any other object with its `deliveryTag` or `messageId`.
  package init(of line: some Collection<UInt8>) {
    guard let value = try? JSONValue(parsing: line) else {
      self = .unknown
      return
    }
    let found = value[Self.places]
    if let number = found[0]?.integer {
      self = .number(Int(clamping: number))
    } else if let id = (found[2] ?? found[1])?.string {
      self = .id(ByteKey(id))
    } else {
      self = .unknown
    }
  }
}
