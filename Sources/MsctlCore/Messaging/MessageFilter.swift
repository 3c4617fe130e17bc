import DequeModule

/// One long-lived filter for all messages: each line that it writes is the answer to the oldest message that has none.
///
/// It decides which message a line belongs to, and what is done about a filter that writes too many lines, falls silent, closes its
/// input or its output, leaves somebody behind who holds its output, or ends. Whoever drives it owns the process and the pipes,
/// hands in what has happened and carries out the actions, in their order.
package struct MessageFilter: Sendable {
  /// After how long without an answer there is a remark; so long, too, a filter that can take or give nothing more may be silent
  /// before it is ended.
  package static let patience: Duration = .seconds(10)
  private static let shortestPause: Duration = .milliseconds(200)
  private static let longestPause: Duration = .seconds(30)

  package struct Options: Sendable {
    /// Whether a filter that has failed is started again.
    package var restarts = false
    /// After how many deaths of the filter a message is rejected on which it dies.
    package var maxAttempts: Int?

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

    package init() {}
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
    case line
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
    /// Adds a message to its input.
    case write(AMQPDelivery)
    /// The line is the answer to the message of this number: once it is passed on, the message is handled.
    case passOn(Int)
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
    /// It has written nothing for a while, with so many messages unanswered.
    case silent(unanswered: Int)
    /// It was told to end, and has.
    case ended(End)
    case restarting(End, unanswered: Int, in: Duration)
    /// It died so often on this message.
    case rejected(AMQPMessage, attempts: Int, End)
  }

  package enum Cause: Sendable, Equatable {
    case tooManyLines
    /// With so many messages unanswered.
    case ended(End, unanswered: Int)
    case notStarted(Failure)
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
  }

  private let options: Options
  private var state = State.running
  /// Taken and not answered, in the order in which they were handed on.
  private var unanswered = Deque<(number: Int, delivery: AMQPDelivery)>()
  private var attempts = Attempts()
  private var pause = shortestPause
  private var remarkTime = Deadline.never
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
    return Consumer.HandlerState(hasRoom: isRunning && !isFinishing, isFinished: hasEnded, hasEnded: hasEnded)
  }

  /// Whether its lines are of use.
  package var wantsLines: Bool { !isBroken }

  /// When `turn` is due although nothing has happened.
  package var wakeTime: Deadline {
    switch state {
    case .running: remarkTime
    case .over(let until), .pausing(let until, _): until
    case .terminated, .starting, .ended: .never
    }
  }

  // MARK: Events

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    switch event {
    case .taken(let number, let delivery):
      if unanswered.isEmpty { remarkTime = now + Self.patience }
      unanswered.append((number, delivery))
      if state.hasProcess { actions.append(.write(delivery)) }
    case .line: answered(now, &actions)
    case .unreadable:
      isBroken = true
      actions.append(.terminate)
    case .turn(let process): turned(process, now, &actions)
    case .started:
      state = .running
      if !unanswered.isEmpty { remarkTime = now + Self.patience }
      for message in unanswered { actions.append(.write(message.delivery)) }
    case .notStarted(let failure): fail(.notStarted(failure), &actions)
    case .finish:
      isFinishing = true
      if !state.hasProcess, unanswered.isEmpty { state = .ended }
    case .terminate:
      isTerminated = true
      if state.hasProcess {
        actions.append(.terminate)
      } else if case .pausing(_, let end) = state {
        fail(.ended(end, unanswered: unanswered.count), &actions)
      }
    }
  }

  private mutating func answered(_ now: Deadline, _ actions: inout [Action]) {
    guard !isBroken else { return }
    guard let (number, delivery) = unanswered.popFirst() else {
      isBroken = true
      return actions += [.terminate, .fail(.tooManyLines)]
    }
    switch state {
    case .running: remarkTime = unanswered.isEmpty ? .never : now + Self.patience
    case .over: state = .over(until: now + Self.patience)
    default: break
    }
    attempts.forget(delivery.message)
    pause = Self.shortestPause
    actions.append(.passOn(number))
  }

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
      actions.append(.note(.silent(unanswered: unanswered.count)))
    }
    if let status = process.status, !process.hasOutput {
      ended(status, process.wasKilled, now, &actions)
    } else if process.status != nil || !process.hasOutput || !process.readsInput || isFinishing && unanswered.isEmpty {
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

  private mutating func ended(_ status: Int32, _ wasKilled: Bool, _ now: Deadline, _ actions: inout [Action]) {
    let fault: Fault? = if case .terminated(let fault) = state { fault } else { nil }
    let end = End(status: status, wasKilled: wasKilled, fault: fault)
    remarkTime = .never
    // Why has been told.
    if isBroken { return state = .ended }
    let cause = Cause.ended(end, unanswered: unanswered.count)
    // To start it again does not help.
    if end.isUnrunnable { return fail(cause, &actions) }
    if unanswered.isEmpty, status == 0 || isTerminated || !options.restarts || isFinishing {
      state = .ended
      if wasKilled || isTerminated, status != 0 { actions.append(.note(.ended(end))) }
      if status != 0, !isTerminated { actions.append(.fail(cause)) }
      return
    }
    guard options.restarts, !isTerminated else { return fail(cause, &actions) }
    state = .pausing(until: now + pause, end)
    actions.append(.note(.restarting(end, unanswered: unanswered.count, in: pause)))
    pause = min(pause * 2, Self.longestPause)
    countDeath(end, &actions)
  }

  /// The oldest message is what it died on, as far as anybody can know.
  private mutating func countDeath(_ end: End, _ actions: inout [Action]) {
    guard let (number, delivery) = unanswered.first, let maxAttempts = options.maxAttempts,
      attempts.add(delivery.message) >= maxAttempts
    else { return }
    unanswered.removeFirst()
    attempts.forget(delivery.message)
    if isFinishing, unanswered.isEmpty { state = .ended }
    actions += [.note(.rejected(delivery.message, attempts: maxAttempts, end)), .reject(number)]
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
