import DequeModule
import Glibc
import MsctlCore

/// One run of `consume`: takes messages, hands them on, and settles them with the broker once they are handled.
struct ConsumeSession {
  /// How long commands may go on once a signal or the end of the time has come.
  private static let grace: Duration = .seconds(10)
  /// How long is waited in the end for messages that are handled to come again, so that they can be acknowledged.
  private static let patience: Duration = .seconds(2)

  private var queue: String
  private let options: Consume.Options
  private(set) var connection: AMQPConnection
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
  /// Settled by the handler, and not yet taken in.
  private var unsettled: [Settlement] = []
  /// The ids of messages that are handled, but whose acknowledgement was lost with a connection: they come again.
  private var doubtful: Set<String> = []
  /// The ids of those acknowledged last, since acknowledgements may be lost: with a connection those under way, with a
  /// broker those that it had not written to disk.
  private var recent = RecentIDs()
  private var hasReconnected = false
  /// Come, but not wanted yet.
  private var waiting = Deque<AMQPDelivery>()
  /// The last offset that a stream has delivered.
  private var streamOffset: Int64?
  private let end: Deadline
  private var isEnding = false

  init(
    _ queue: String, _ options: Consume.Options, _ connection: AMQPConnection, _ handler: any MessageHandler,
    _ console: Console
  ) throws(AMQPError) {
    self.queue = queue
    self.options = options
    self.connection = connection
    self.handler = handler
    self.console = console
    end = options.time.map { .after($0) } ?? .never
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
    while true {
      do { return try work(signals) } catch let failure as Failure {
        // Whatever ends it, nothing handled stays unacknowledged.
        try? acknowledgeAll()
        throw failure
      } catch let error as AMQPError where error.isPassing && !isEnding && !options.peeks {
        try goOn(after: error, signals)
      }
    }
  }

  /// Goes on with another connection. What was not acknowledged is delivered again: what is handled already is only
  /// acknowledged then, and what is being handled goes on being handled.
  private mutating func goOn(after error: AMQPError, _ signals: Signals) throws {
    let (options, name, prefetch) = (options, queue, prefetch)
    var arguments = options.consumeArguments
    if options.isStream, let streamOffset { arguments = [AMQPField("x-stream-offset", .integer(streamOffset + 1))] }
    let reconnection = Reconnection(options.broker, as: "consume", console, signals)
    (connection, queue, consumer) = try reconnection.connect(after: error, connection) { connection in
      var queue = name
      if let exchange = options.exchange?.text {
        queue = try connection.declareOwnQueue(boundTo: exchange, keys: options.bindingKeys)
      } else {
        do throws(AMQPError) { _ = try connection.inspectQueue(name) } catch {
          if error.isPassing { throw error }
          throw options.broker.failure(error, queue: name, connection.uri)
        }
      }
      try connection.setPrefetch(prefetch)
      return (connection, queue, try connection.consume(queue, arguments: arguments))
    }
    if options.exchange != nil {
      console.note("what came to '\(options.exchange?.text ?? "")' meanwhile is not in the new queue")
    }
    hasReconnected = true
    for delivery in held { doubt(delivery) }
    held = []
    waiting = []
  }

  /// It is handled, but can only be acknowledged when it comes again. Without an id it will not be known then.
  private mutating func doubt(_ delivery: AMQPDelivery) {
    if let id = delivery.message.properties.messageID { doubtful.insert(id) } else { handled -= 1 }
  }

  private mutating func work(_ signals: Signals) throws {
    var idleEnd = options.idle.map(Deadline.after) ?? .never
    var graceEnd = Deadline.never
    var ending: Failure?

    while true {
      let before = taken
      // What is written already must be known as that before it comes again.
      if !isEnding, unsettled.isEmpty { try takeDeliveries() }
      unsettled += try handler.work()
      try console.flush(serving: connection, signals)
      try settle()
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
        var isEnd = limit.map { handled >= $0 } ?? false || handler.hasEnded
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

  /// Whether another message is wanted, and can be taken.
  private var canTake: Bool { handler.hasRoom && (limit.map { handled + handler.outstanding < $0 } ?? true) }

  /// Hands on what has come, as far as it is wanted.
  private mutating func takeDeliveries() throws {
    while canTake, let delivery = waiting.popFirst() { try take(delivery) }
    // Once there was another connection, what is wanted may stand behind what is not.
    while hasReconnected || canTake, let event = try connection.nextEvent() {
      switch event {
      case .delivery(let delivery):
        if options.isStream, let offset = delivery.message.properties.header("x-stream-offset")?.wholeNumber {
          streamOffset = offset
        }
        if try isKnown(delivery) { continue }
        if canTake { try take(delivery) } else { waiting.append(delivery) }
      case .cancelled:
        throw Failure(
          .nothingThere, "the queue '\(queue)' was deleted, or its node went away, while it was consumed",
          hint: "What had been handled is acknowledged.")
      default: break
      }
    }
  }

  private mutating func take(_ delivery: AMQPDelivery) throws(Failure) {
    try handler.take(delivery)
    taken += 1
  }

  /// Whether it comes again after a break, and is handled already or being handled.
  private mutating func isKnown(_ delivery: AMQPDelivery) throws(AMQPError) -> Bool {
    guard hasReconnected, delivery.redelivered, let id = delivery.message.properties.messageID else { return false }
    let isDoubtful = doubtful.remove(id) != nil
    guard isDoubtful || recent.contains(id) else { return handler.adopt(delivery) }
    try connection.acknowledge(delivery.tag, multiple: false)
    if isDoubtful { acknowledged += 1 }
    return true
  }

  private mutating func settle() throws(AMQPError) {
    let settlements = unsettled
    for settlement in settlements {
      // Taken in even where telling the broker fails: its word then comes too late.
      unsettled.removeFirst()
      switch settlement {
      case .acknowledge(let delivery):
        handled += 1
        if delivery.connection == connection.id { held.append(delivery) } else { doubt(delivery) }
      // One of an earlier connection is delivered again, whatever is said of it.
      case .reject(let delivery) where delivery.connection == connection.id:
        handled += 1
        rejected += 1
        try connection.reject(delivery.tag, requeue: false)
        acknowledged += 1
      case .requeue(let delivery) where delivery.connection == connection.id:
        try connection.reject(delivery.tag, requeue: true)
      case .reject, .requeue: break
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
    let patience = Deadline.after(Self.patience)
    while !doubtful.isEmpty, !patience.isPast {
      while let event = try connection.nextEvent() {
        if case .delivery(let delivery) = event { _ = try isKnown(delivery) }
      }
      var polls = PollSet()
      polls.add(connection.descriptor)
      if !doubtful.isEmpty { polls.wait(until: patience) }
    }
    if let consumer = consumer.take() { try connection.cancel(consumer: consumer) }
    try acknowledge(held.count)
  }

  private mutating func acknowledge(_ count: Int) throws(AMQPError) {
    guard count > 0, !options.peeks else { return }
    let now = held[..<count]
    // Only a run of commands beside each other settles out of order; in order, one acknowledgement does for all.
    if options.exec == nil, !hasReconnected, let last = now.last {
      try connection.acknowledge(last.tag, multiple: true)
    } else {
      for delivery in now { try connection.acknowledge(delivery.tag, multiple: false) }
    }
    for delivery in now { if let id = delivery.message.properties.messageID { recent.add(id) } }
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
    if !isEnding, connection.hasEvents || !waiting.isEmpty, canTake || hasReconnected && connection.hasEvents { return }
    var polls = PollSet()
    polls.add(connection.descriptor)
    polls.add(signals.descriptor)
    handler.addInterests(to: &polls)
    polls.wait(until: deadline)
  }
}

/// Ids, of which the oldest are forgotten.
private struct RecentIDs {
  private static let limit = 10_000

  private var order = Deque<String>()
  private var known: Set<String> = []

  mutating func add(_ id: String) {
    guard known.insert(id).inserted else { return }
    order.append(id)
    if order.count > Self.limit, let oldest = order.popFirst() { known.remove(oldest) }
  }

  func contains(_ id: String) -> Bool { known.contains(id) }
}
