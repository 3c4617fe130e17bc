/// A command for each message, or for each batch of them, several at a time: what becomes of the messages whose command has ended.
///
/// A command is known by the number of its message, or of the first one of its batch. One exit code decides for all of a batch; a
/// failure is an attempt of each.
///
/// After a failure that ends the run, and after `terminate`, the commands that run go on: the success of each still counts, and a
/// message whose command fails then goes back to the queue.
///
/// It only decides. Whoever drives it owns the processes, hands in what has happened and carries out the actions, in their order.
package struct MessageCommands: Sendable {
  /// How long a failed message is kept before it goes back, at first and at most: without it, one bad message would spin.
  private static let shortestDelay: Duration = .milliseconds(200)
  private static let longestDelay: Duration = .seconds(30)
  /// A batch begins before it is full where its bodies are as large as this, in bytes.
  package static let batchSize = 64 << 20

  /// What happens with a message whose command failed.
  package enum OnError: String, Sendable, CaseIterable {
    /// It goes back to the queue, after a while that grows with its attempts.
    case requeue
    /// It is dropped, or handed to the dead-letter exchange.
    case reject
    /// The run ends, and the message goes back.
    case stop
  }

  package struct Options: Sendable {
    /// How many commands run at a time.
    package var parallel = 1
    /// How many messages a command gets at most.
    package var batch = 1
    /// How long a batch waits for more.
    package var batchTime = standardBatchTime
    package var onError = OnError.requeue
    /// After how many failures a message is rejected.
    package var maxAttempts: Int?
    /// What a command exits with to have its message rejected at once.
    package var rejectedExits: Set<Int32> = []

    package init() {}
  }

  package static let standardBatchTime: Duration = .seconds(1)

  /// How a command has failed.
  package enum Reason: Sendable, Equatable {
    case exited(Int32)
    /// It did not end when it was told to.
    case killed(Int32)
    /// The message does not fit its environment.
    case doesNotFit(String)
    /// What it wrote cannot be kept.
    case output(Failure, status: Int32)
    /// It has succeeded, and the broker does not take its reply. That is about this message alone, and would be so again.
    case unreplied(Failure)

    package var status: Int32 {
      switch self {
      case .exited(let status), .killed(let status), .output(_, let status): status
      case .unreplied: 0
      case .doesNotFit: 126
      }
    }
  }

  /// What becomes of a message whose command has failed.
  package enum Verdict: Sendable, Equatable {
    case requeued(attempt: Int, after: Duration)
    case rejected(attempt: Int)
    /// It goes back, and it was no attempt of its own: the command was ended by us, or nothing waits for it any more.
    case abandoned
  }

  package enum Event: Sendable {
    /// A message was handed on, under this number.
    case taken(Int, AMQPDelivery)
    /// For a while no more messages may come.
    case startBatch
    /// The message of this number was delivered anew, by another connection.
    case renewed(Int, AMQPDelivery)
    /// The command could not be started, which is told as a failure already.
    case notStarted(Int)
    case succeeded(Int)
    case failed(Int, Reason)
    /// All that the command wrote is passed on.
    case passedOn(Int)
    /// What the command wrote cannot be read again.
    case outputLost(Int, Failure)
    /// The reply to this message was not sent, and no other can be: it says nothing of the message.
    case replyLost(Int, Failure)
    /// No more messages come.
    case finish
    /// Time is up.
    case terminate
    /// `wakeTime` has come.
    case tick
  }

  package enum Action: Sendable, Equatable {
    /// Runs a command for these messages, known by this number from now on.
    /// - attempt: of the message among them that has failed most often.
    case start(Int, [AMQPDelivery], attempt: Int)
    /// Writes what the command wrote: `passedOn` or `outputLost` tells.
    case passOn(Int)
    case settle(Consumer.Settlement)
    /// All commands that run are told to end.
    case terminate
    /// - others: how many more messages of its batch have failed with it.
    case report(AMQPMessage, others: Int = 0, Reason, Verdict)
    /// The run cannot go on.
    case fail(Cause)
    /// Another one, beside that.
    case reportCause(Cause)
  }

  package enum Cause: Sendable, Equatable {
    /// The command cannot be run, or was not found.
    case unrunnable(Int32)
    /// A message has failed, with others of its batch, and that ends the run.
    case stopped(AMQPMessage, others: Int = 0, Reason)
    case output(Failure)
  }

  private struct Member {
    let number: Int
    var delivery: AMQPDelivery
  }

  private struct Run {
    let number: Int
    var members: [Member]
    var hasSucceeded = false
  }

  private let options: Options
  private var runs: [Run] = []
  /// Taken for the next command, and when that begins at the latest.
  private var gathered: [Member] = []
  private var gatheredBytes = 0
  private var startTime = Deadline.never
  private var delayed: [(number: Int, until: Deadline)] = []
  private var attempts = Attempts()
  /// No other command is started.
  private var isStopping = false
  private var isTerminated = false
  private var hasLostReplies = false

  package init(_ options: Options) { self.options = options }

  /// The shell's word that a command cannot be run or was not found: then it does not help to run it again.
  package static func isUnrunnable(_ status: Int32) -> Bool { status == 126 || status == 127 }

  // MARK: Questions for the driver

  /// As far as it is known here: what is settled may not be told yet.
  package var handlerState: Consumer.HandlerState {
    Consumer.HandlerState(
      hasRoom: !isStopping && runs.count < options.parallel, failed: delayed.count,
      isFinished: runs.isEmpty && gathered.isEmpty, gathered: gathered.count)
  }

  /// When `tick` is due although nothing has happened.
  package var wakeTime: Deadline { min(startTime, delayed.map(\.until).min() ?? .never) }

  // MARK: Events

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    switch event {
    case .taken(let number, let delivery): take(number, delivery, now, &actions)
    case .startBatch: start(&actions)
    case .renewed(let number, let delivery): renew(number, delivery)
    case .notStarted(let number): requeue(end(number)?.members ?? [], &actions)
    case .succeeded(let number):
      guard let place = place(of: number) else { return }
      runs[place].hasSucceeded = true
      actions.append(.passOn(number))
    case .failed(let number, let reason):
      if let run = end(number) { failed(run, reason, now, &actions) }
    case .passedOn(let number):
      // Only what has succeeded is handled.
      guard let place = place(of: number), runs[place].hasSucceeded else { return }
      for member in runs.remove(at: place).members {
        attempts.forget(member.delivery.message)
        actions.append(.settle(Consumer.Settlement(member.number, .acknowledge)))
      }
    case .outputLost(let number, let failure):
      if end(number) != nil { stop(.output(failure), &actions) }
    case .replyLost(let number, let failure):
      if let run = end(number) { replyLost(run, failure, &actions) }
    case .finish:
      requeue(gathered, &actions)
      forgetGathered()
      for message in delayed { actions.append(.settle(Consumer.Settlement(message.number, .requeue))) }
      delayed = []
    case .terminate:
      isTerminated = true
      actions.append(.terminate)
    case .tick:
      for message in delayed where message.until <= now {
        actions.append(.settle(Consumer.Settlement(message.number, .requeue)))
      }
      delayed.removeAll { $0.until <= now }
      if startTime <= now { start(&actions) }
    }
  }

  // MARK: Batches

  private mutating func take(
    _ number: Int, _ delivery: AMQPDelivery, _ now: Deadline, _ actions: inout [Action]
  ) {
    if gathered.isEmpty { startTime = now + options.batchTime }
    gathered.append(Member(number: number, delivery: delivery))
    gatheredBytes += delivery.message.body.count
    if gathered.count >= options.batch || gatheredBytes >= Self.batchSize { start(&actions) }
  }

  private mutating func start(_ actions: inout [Action]) {
    guard !isStopping, let first = gathered.first else { return }
    let attempt = (gathered.map { attempts.count($0.delivery.message) }.max() ?? 0) + 1
    runs.append(Run(number: first.number, members: gathered))
    actions.append(.start(first.number, gathered.map(\.delivery), attempt: attempt))
    forgetGathered()
  }

  private mutating func forgetGathered() { (gathered, gatheredBytes, startTime) = ([], 0, .never) }

  private func requeue(_ members: [Member], _ actions: inout [Action]) {
    for member in members { actions.append(.settle(Consumer.Settlement(member.number, .requeue))) }
  }

  private mutating func renew(_ number: Int, _ delivery: AMQPDelivery) {
    if let place = gathered.firstIndex(where: { $0.number == number }) { gathered[place].delivery = delivery }
    for run in runs.indices {
      guard let place = runs[run].members.firstIndex(where: { $0.number == number }) else { continue }
      runs[run].members[place].delivery = delivery
    }
  }

  // MARK: Ends of commands

  private func place(of number: Int) -> Int? { runs.firstIndex { $0.number == number } }

  private mutating func end(_ number: Int) -> Run? { place(of: number).map { runs.remove(at: $0) } }

  private mutating func failed(_ run: Run, _ reason: Reason, _ now: Deadline, _ actions: inout [Action]) {
    let isRejected =
      switch reason {
      case .exited(let status): options.rejectedExits.contains(status)
      // To run the command again would not help, and neither would another run of ours.
      case .unreplied: true
      default: false
      }
    if Self.isUnrunnable(reason.status), !reason.isOfMessage, !isRejected {
      return stop(.unrunnable(reason.status), &actions)
    }
    let messages = run.members.map(\.delivery.message)
    guard let first = messages.first else { return }
    // What a command says of its message holds, unless it was ended by us.
    guard !isStopping || isRejected, !isTerminated else {
      return actions.append(.report(first, others: messages.count - 1, reason, .abandoned))
    }
    guard options.onError != .stop || isRejected else {
      return stop(.stopped(first, others: messages.count - 1, reason), &actions)
    }
    let failed = zip(run.members, attempts.add(batch: messages))
    let isLast = options.onError == .reject || isRejected
    let most = options.maxAttempts ?? .max
    reject(failed.filter { isLast || $1 >= most }, reason, &actions)
    delay(failed.filter { !isLast && $1 < most }, reason, now, &actions)
  }

  private mutating func reject(_ failed: [(Member, count: Int)], _ reason: Reason, _ actions: inout [Action]) {
    guard let first = failed.first?.0.delivery.message, let attempt = failed.map(\.count).max() else { return }
    actions.append(.report(first, others: failed.count - 1, reason, .rejected(attempt: attempt)))
    for (member, _) in failed {
      attempts.forget(member.delivery.message)
      actions.append(.settle(Consumer.Settlement(member.number, .reject)))
    }
  }

  private mutating func delay(
    _ failed: [(Member, count: Int)], _ reason: Reason, _ now: Deadline, _ actions: inout [Action]
  ) {
    guard let first = failed.first?.0.delivery.message, let attempt = failed.map(\.count).max() else { return }
    let delay = min(Self.longestDelay, Self.shortestDelay * (1 << min(attempt - 1, 10)))
    delayed += failed.map { ($0.0.number, now + delay) }
    actions.append(.report(first, others: failed.count - 1, reason, .requeued(attempt: attempt, after: delay)))
  }

  /// Its message goes back in the end, since nobody has the reply.
  private mutating func replyLost(_ run: Run, _ failure: Failure, _ actions: inout [Action]) {
    if isTerminated {
      for member in run.members { actions.append(.report(member.delivery.message, .unreplied(failure), .abandoned)) }
    } else if !hasLostReplies {
      hasLostReplies = true
      stop(.output(failure), &actions)
    }
  }

  private mutating func stop(_ cause: Cause, _ actions: inout [Action]) {
    actions.append(isStopping ? .reportCause(cause) : .fail(cause))
    isStopping = true
  }
}

extension MessageCommands.Reason {
  /// Whether another message may fare better.
  fileprivate var isOfMessage: Bool { if case .doesNotFit = self { true } else { false } }
}
