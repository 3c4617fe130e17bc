import Glibc
import MsctlCore

/// One run of `consume`: takes messages, hands them on, and settles them with the broker once they are handled.
struct ConsumeSession {
  /// How long commands may go on once a signal or the end of the time has come.
  private static let grace: Duration = .seconds(10)

  private let queue: String
  private let options: Consume.Options
  private let connection: AMQPConnection
  private let handler: any MessageHandler
  private let console: Console
  /// The consumer's tag; nil once it is cancelled.
  private var consumer: String?
  private let prefetch: Int
  /// How many messages are wanted.
  private let limit: Int?
  private var taken = 0
  private var handled = 0
  private var rejected = 0
  /// Handled, but not yet acknowledged: see `acknowledge`.
  private var held: [AMQPDelivery] = []
  private var acknowledged = 0

  init(
    _ queue: String, _ options: Consume.Options, _ connection: AMQPConnection, _ handler: any MessageHandler,
    _ console: Console
  ) throws(AMQPError) {
    self.queue = queue
    self.options = options
    self.connection = connection
    self.handler = handler
    self.console = console
    if options.peeks {
      // No more are taken than are shown, since all of them come back marked as redelivered; 0 is no bound.
      let wanted = try min(options.count ?? .max, connection.inspectQueue(queue).messages)
      limit = wanted
      prefetch = wanted > Int(UInt16.max) ? 0 : max(1, wanted)
    } else {
      prefetch = Self.prefetch(options)
      limit = options.count
    }
    try connection.setPrefetch(prefetch)
    consumer = try connection.consume(queue, arguments: options.consumeArguments)
  }

  /// With a limit, few beyond the last one wanted: see `acknowledge`. A filter may need many before it answers the first.
  private static func prefetch(_ options: Consume.Options) -> Int {
    let most =
      options.prefetch ?? (options.exec == nil ? Consume.standardPrefetch : options.parallel + Consume.waitingRoom)
    guard let count = options.count else { return most }
    if options.through != nil { return min(most, count) }
    return max(min(options.parallel, count), min(most, count / 10))
  }

  mutating func run(_ signals: Signals) throws {
    do { try work(signals) } catch let failure as Failure {
      // Whatever ends it, nothing handled stays unacknowledged.
      try? acknowledgeAll()
      throw failure
    }
  }

  private mutating func work(_ signals: Signals) throws {
    let end = options.time.map(Deadline.after) ?? .never
    var idleEnd = options.idle.map(Deadline.after) ?? .never
    var graceEnd = Deadline.never
    var isEnding = false
    var ending: Failure?

    while true {
      let before = taken
      if !isEnding { try takeDeliveries() }
      let settlements = try handler.work()
      try console.flush(serving: connection, signals)
      try settle(settlements)
      if taken > before || handler.outstanding > 0, let idle = options.idle { idleEnd = .after(idle) }

      if isEnding {
        if handler.isFinished { break }
        if let number = signals.take() {
          ending = Failure(.signal(number), "interrupted")
          graceEnd = .after(Self.grace)
        }
        if graceEnd.isPast {
          handler.terminate()
          graceEnd = .never
        }
      } else {
        var isEnd = handled == limit || handler.hasEnded
        // Nothing more will come for it: a filter that holds back its answers gives them at the end of its input.
        if let limit, handled + handler.outstanding == limit { handler.finish() }
        if let number = signals.take() {
          ending = Failure(.signal(number), "interrupted")
          graceEnd = .after(Self.grace)
          isEnd = true
        } else if end.isPast || idleEnd.isPast {
          ending = countFailure
          graceEnd = .after(Self.grace)
          isEnd = true
        } else if !isEnd, options.drains || options.peeks, taken == before,
          handler.outstanding == 0 || options.through != nil
        {
          isEnd = try isEmpty()
        }
        if isEnd {
          isEnding = true
          handler.finish()
          continue
        }
      }
      try wait(signals, until: min(end, idleEnd, graceEnd, handler.wakeTime, .after(.seconds(1))), isEnding)
    }
    try acknowledgeAll()
    if let ending { throw ending }
    if rejected > 0 { throw Failure(.failed, "\(counted(rejected)) rejected") }
    if taken == 0, options.requires { throw Failure(.nothingThere, "the queue '\(queue)' held no message") }
  }

  /// Hands on what has come, as far as it is wanted.
  private mutating func takeDeliveries() throws {
    while limit.map({ handled + handler.outstanding < $0 }) ?? true, handler.hasRoom,
      let event = try connection.nextEvent()
    {
      switch event {
      case .delivery(let delivery):
        try handler.take(delivery)
        taken += 1
      case .cancelled:
        throw Failure(
          .nothingThere, "the queue '\(queue)' was deleted, or its node went away, while it was consumed",
          hint: "What had been handled is acknowledged.")
      default: break
      }
    }
  }

  private mutating func settle(_ settlements: [Settlement]) throws(AMQPError) {
    for settlement in settlements {
      switch settlement {
      case .acknowledge(let delivery):
        handled += 1
        held.append(delivery)
      case .reject(let delivery):
        handled += 1
        rejected += 1
        try connection.reject(delivery.tag, requeue: false)
        acknowledged += 1
      case .requeue(let delivery):
        try connection.reject(delivery.tag, requeue: true)
      }
    }
    try acknowledge()
  }

  /// Acknowledges what is handled.
  ///
  /// With a limit, the broker must not be made to deliver messages beyond it: they would come back marked as redelivered.
  /// So the last ones, as many as may be under way, are held until the end: see `acknowledgeAll`.
  private mutating func acknowledge() throws(AMQPError) {
    try acknowledge(limit.map { min(held.count, max(0, $0 - prefetch - acknowledged)) } ?? held.count)
  }

  /// Acknowledges everything that is handled, once the consumer is cancelled.
  private mutating func acknowledgeAll() throws(AMQPError) {
    if let consumer = consumer.take() { try connection.cancel(consumer: consumer) }
    try acknowledge(held.count)
  }

  private mutating func acknowledge(_ count: Int) throws(AMQPError) {
    guard count > 0, !options.peeks else { return }
    let now = held[..<count]
    // Only a run of commands beside each other settles out of order; in order, one acknowledgement does for all.
    if options.exec == nil, let last = now.last {
      try connection.acknowledge(last.tag, multiple: true)
    } else {
      for delivery in now { try connection.acknowledge(delivery.tag, multiple: false) }
    }
    held.removeFirst(count)
    acknowledged += count
  }

  /// Whether nothing is left in the queue or on its way here. A delivery may overtake the first answer, so there is a
  /// second round.
  private func isEmpty() throws(AMQPError) -> Bool {
    for _ in 0..<2 {
      guard try connection.inspectQueue(queue).messages == 0 else { return false }
      try connection.pump()
      guard !connection.hasEvents else { return false }
    }
    return true
  }

  private var countFailure: Failure? {
    guard let count = options.count else { return nil }
    return Failure(.timedOut, "\(handled) of \(count) messages came in time from '\(queue)'")
  }

  private func wait(
    _ signals: Signals, until deadline: Deadline, _ isEnding: Bool
  ) throws(AMQPError) {
    try connection.pump()
    if connection.hasEvents, !isEnding, handler.hasRoom, limit.map({ handled + handler.outstanding < $0 }) ?? true {
      return
    }
    var polls = PollSet()
    polls.add(connection.descriptor)
    polls.add(signals.descriptor)
    handler.addInterests(to: &polls)
    polls.wait(until: deadline)
  }
}
