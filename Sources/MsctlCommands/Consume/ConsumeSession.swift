import DequeModule
import Glibc
import MsctlCore

/// One run of `consume`: takes messages, hands them on, and settles them with the broker once they are handled.
///
/// However it ends, it takes nothing new from then on, gives what is under way a bounded time, acknowledges what succeeded, and
/// requeues the rest.
struct ConsumeSession {
  /// How much may have come without being wanted, in bytes, before no more is looked through for what comes again.
  private static let waitingLimit = 64 << 20
  /// How long commands may go on once a signal, a failure or the end of the time has come.
  private static let grace: Duration = .seconds(10)
  /// Time limit in the end for handled messages to come again, so that they can be acknowledged.
  private static let patience: Duration = .seconds(2)
  /// How many methods may settle messages one by one in the end. A channel of RabbitMQ puts by what it has above 32 under way to
  /// a quorum queue (`soft_limit` of rabbit_fifo_client.erl), and drops that when it is closed: acknowledgements, too. What
  /// came before the consumer was cancelled is no part of that, since `cancel-ok` waits for it.
  private static let settlementsInEnd = 16

  /// Why the run ends, and what may still be done.
  private struct Ending {
    var failure: Failure?
    /// When commands are told to end; `never` where nothing presses.
    var graceEnd: Deadline
    /// Whether a lost connection may be replaced once more, to acknowledge what is handled.
    var mayReconnect: Bool
    /// Whether the broker was told that nothing more is wanted.
    var hasStopped = false
    /// How many more methods may settle single messages.
    var settlementsLeft = ConsumeSession.settlementsInEnd
  }

  private var queue: String
  private let options: Consume.Options
  private(set) var connection: AMQPConnection
  private var isConnected = true
  /// Whether `isTimedOut` has been asked.
  private var isCancelSeen = false
  /// Why it was lost.
  private var breakCause: AMQPError?
  private let handler: any MessageHandler
  private let traits: QueueTraits
  private let console: Console
  private var reconnection: Reconnection
  /// The consumer's tag; nil once it is cancelled.
  private var consumer: String?
  private var prefetch: Int
  /// How many messages are wanted.
  private let limit: Int?
  /// Whether the last ones that are handled stay unacknowledged until the end: see `acknowledge`.
  private var holdsLast = true
  private var taken = 0
  private var handled = 0
  private var rejected = 0
  /// Handled, but not yet acknowledged: see `acknowledge`.
  private var held: [AMQPDelivery] = []
  private var acknowledged = 0
  /// How many deliveries of this connection are not settled.
  private var open = 0
  /// Settled by the handler, and not yet taken in.
  private var unsettled: [Settlement] = []
  /// Whether what is written can arrive.
  private var isOutputLost = false
  private var doubtful = HandledMessages()
  private var recent = AcknowledgedMessages()
  private var hasReconnected = false
  /// Until when what an earlier connection held may come again.
  private var returnEnd = Deadline.now
  /// The id of the message that was settled last.
  private var lastSettled: String?
  /// How many were requeued and are to come again, and until when that is waited for: the broker may take a moment.
  private var requeued = 0
  private var requeueEnd = Deadline.now
  /// Whether a response to `isEmpty` is to come, how many have said so since the last delivery, and until when to wait for one, or
  /// before asking again.
  private var isAsked = false
  private var emptyResponses = 0
  private var askTime = Deadline.now
  /// Come, but not wanted yet.
  private var waiting = Deque<AMQPDelivery>()
  private var place = StreamPlace()
  /// Where the broker counts what `--peek` requeues: what saves a message at its last return.
  private var saver: SpentMessages?
  private var firstPeeked: AMQPDelivery?
  /// When consuming began, in seconds since 1970.
  private let began = unixTime()
  private let end: Deadline
  private var ending: Ending?
  /// Whether everything was settled with the broker.
  private var isSettled = false

  init(
    _ queue: String, _ options: Consume.Options, _ connection: AMQPConnection, _ handler: any MessageHandler,
    _ traits: QueueTraits, _ console: Console, _ signals: Signals
  ) throws {
    self.queue = queue
    self.options = options
    self.connection = connection
    self.handler = handler
    self.traits = traits
    self.console = console
    reconnection = Reconnection(options.broker, as: "consume", console)
    end = options.time.map { .after($0) } ?? .never
    if !traits.isStream, options.exchange == nil,
      connection.countsReturns || options.deliveryLimit != nil || options.peeks && connection.countsLimitedReturns,
      try connection.isQuorum(queue)
    {
      let declared = options.peeks ? try connection.declaredDeliveryLimit(of: queue) : nil
      traits.deliveryLimit = connection.deliveryLimit(set: options.deliveryLimit ?? declared)
    }
    if options.peeks {
      // No more are taken than are shown, since all of them come back marked as redelivered; 0 is no bound.
      let wanted = try min(options.count ?? .max, connection.inspectQueue(queue).messages)
      limit = wanted
      // Where that counts, the first one says whether the others can be looked at.
      prefetch = traits.deliveryLimit != nil ? 1 : wanted > UInt16.max ? 0 : max(1, wanted)
      if let limit = traits.deliveryLimit { saver = try SpentMessages(of: queue, options.broker, limit, console) }
    } else {
      let countsReturns = connection.countsReturns && traits.deliveryLimit != nil
      prefetch = Self.prefetch(options, countsReturns)
      limit = options.count
      if let asked = options.prefetch, asked > prefetch, countsReturns, options.count == nil {
        console.note(
          "using a prefetch of \(prefetch), not \(asked): each requeued message counts towards the queue's delivery limit"
        )
      }
    }
    try startConsuming(isFirst: true)
  }

  /// With a limit, few beyond the last one wanted: see `acknowledge`. A filter may need all of them before it answers the first.
  ///
  /// What is delivered and not handled in the end is requeued. Where the broker counts that towards the delivery limit, a run
  /// that is sure to end takes no more than it can handle.
  private static func prefetch(_ options: Consume.Options, _ countsReturns: Bool) -> Int {
    var most =
      options.prefetch ?? (options.exec == nil ? Consume.standardPrefetch : options.parallel + Consume.waitingRoom)
    if countsReturns, options.count != nil || options.time != nil || options.idle != nil, options.through == nil {
      most = min(most, options.exec == nil ? Consume.waitingRoom : options.parallel)
    }
    guard let count = options.count else { return most }
    if options.through != nil { return min(options.prefetch ?? Int(UInt16.max), count) }
    return max(min(options.parallel, count), min(most, count / 10))
  }

  // MARK: Consuming

  /// `basic.qos` and `basic.consume`.
  private mutating func startConsuming(isFirst: Bool) throws {
    do throws(AMQPError) {
      if isFirst, connection.setup.hasConsumer {
        if let error = connection.setup.error { throw error }
        consumer = connection.setup.consumer
      } else {
        try connection.setPrefetch(prefetch)
        consumer = try connection.consume(queue, arguments: traits.isStream ? streamArguments : Self.queueArguments)
      }
    } catch {
      guard isFirst, !traits.isStream, error.isAboutStream else { throw error }
      guard !options.drains, !options.peeks else {
        throw Failure(
          .usage, "'\(queue)' is a stream, which never empties: '--drain' and '--peek' cannot be used",
          hint: "'msctl consume \(queue) --stream --idle 1s' reads it to its end.")
      }
      traits.isStream = true
      console.note("'\(queue)' is a stream, reading from '\(options.startWord)'")
      try connection.openChannel()
      try connection.setPrefetch(prefetch)
      consumer = try connection.consume(queue, arguments: streamArguments)
    }
  }

  /// A priority of 0 is that of every consumer. A stream refuses it, and with that says what it is.
  private static let queueArguments = [AMQPField("x-priority", .narrow(.int32, 0))]

  /// The consumer, as far as it is known before the queue is: so that it is asked for while the connection is opened.
  static func firstConsumer(of queue: String, _ options: Consume.Options) -> AMQPConnection.Consumer? {
    guard !options.peeks, options.deliveryLimit == nil else { return nil }
    return AMQPConnection.Consumer(
      queue, prefetch: prefetch(options, false),
      arguments: options.isStream ? [AMQPField("x-stream-offset", options.firstOffset)] : queueArguments)
  }

  private var streamArguments: [AMQPField] {
    let offset: AMQPValue =
      if let start = place.start {
        .integer(start)
      } else if hasReconnected, options.offset ?? .word(options.startWord) == .word("next") {
        // Nothing came before the connection broke: what came meanwhile is found by its time.
        .timestamp(UInt64(clamping: began))
      } else {
        options.firstOffset
      }
    return [AMQPField("x-stream-offset", offset)]
  }

  mutating func run(_ signals: Signals) throws(Failure) {
    while true {
      do {
        try work(signals)
        try settleAll(signals)
        break
      } catch let error as AMQPError {
        lost(error, signals)
      } catch let failure as Failure {
        end(failure)
      } catch {
        end(Failure(.failed, "\(error)"))
      }
    }
    if let failure = ending?.failure { throw failure }
    if !doubtful.isEmpty {
      var failure = breakCause.map(brokerFailure) ?? Failure(.unreachable, "lost the connection to RabbitMQ")
      failure.hint = "\(counted(doubtful.count)) handled and not acknowledged; the broker delivers them again."
      guard isSettled else { throw failure }
      console.note("\(counted(doubtful.count)) handled and not acknowledged; the broker may deliver them again")
    }
    if rejected > 0 { throw Failure(.failed, "\(counted(rejected)) \(traits.isStream ? "skipped" : "rejected")") }
    if taken == 0, options.requires { throw Failure(.nothingThere, "the queue '\(queue)' had no messages") }
  }

  /// Takes and hands on messages, until it ends and nothing is under way any more.
  private mutating func work(_ signals: Signals) throws {
    var idleEnd = options.idle.map(Deadline.after) ?? .never
    // A filter may be at work on what it owes, or keep it: so it gets more time.
    let silence = options.idle.map { max($0, Self.grace) }
    var silenceEnd = Deadline.never
    while true {
      let before = taken
      var isBusy = handler.outstanding > 0
      // What is written already must be known as that before it comes again.
      if ending == nil, unsettled.isEmpty { try takeDeliveries() }
      if ending == nil, isTimedOut() { try cancelled() }
      do { unsettled += try handler.work() } catch { end(error) }
      let hasMoved = taken > before || !unsettled.isEmpty
      isBusy = isBusy || hasMoved || handler.outstanding > 0
      try writeOut(signals)
      try settle()
      // Idle is the time without a message and without work.
      if let idle = options.idle, let silence {
        if hasMoved { silenceEnd = .after(silence) }
        if options.through != nil, handler.outstanding > 0 {
          idleEnd = silenceEnd
        } else if isBusy || !waiting.isEmpty || connection.hasEvents {
          idleEnd = .after(idle)
        }
      }

      if let number = signals.take() { end(Failure(.signal(number), "interrupted")) }
      if ending == nil {
        if end.isPast || idleEnd.isPast {
          if !end.isPast, handler.outstanding > 0 {
            console.note("idle with \(counted(handler.outstanding)) unprocessed; closing the filter's input")
          }
          end(countFailure)
        } else if limit.map({ handled >= $0 }) ?? false || handler.hasEnded {
          end(nil, isPressing: false)
        } else if taken == before {
          if console.isOutputClosed {
            isOutputLost = true
            end(Failure(.outputClosed, "standard output is closed"))
          } else if options.drains || options.peeks, handler.outstanding == 0 || options.through != nil, try isEmpty() {
            end(nil, isPressing: false)
          }
        }
        // Nothing more will come for it: a filter that holds back its output gives it at the end of its input.
        if ending == nil, let limit, handled + handler.outstanding == limit, handler.failed == 0 { handler.finish() }
      }
      if let ending {
        if ending.graceEnd.isPast {
          handler.terminate()
          self.ending?.graceEnd = .never
        }
        if !ending.hasStopped, isConnected { try stopDeliveries() }
        if handler.isFinished, unsettled.isEmpty { return }
      }
      let deadline = ending.map(\.graceEnd) ?? min(end, idleEnd)
      // After the last message, whether the queue is empty is asked at once.
      let asksNow = ending == nil && taken > before && (options.drains || options.peeks)
      try wait(signals, until: asksNow ? .now : min(deadline, handler.wakeTime, .after(.seconds(1))))
    }
  }

  /// Nothing new is taken from here on.
  /// - Parameter isPressing: whether what is under way must end within the grace.
  private mutating func end(_ failure: Failure?, isPressing: Bool = true, mayReconnect: Bool = true) {
    let graceEnd = isPressing ? Deadline.after(Self.grace) : .never
    guard let ending else {
      self.ending = Ending(failure: failure, graceEnd: graceEnd, mayReconnect: mayReconnect)
      // All that comes now is requeued, unless it must be saved.
      if options.peeks, saver == nil { connection.dropBodies() }
      return handler.finish()
    }
    // What fails while it ends says more than why it was to end.
    let isOutweighed =
      switch ending.failure?.code {
      case nil, .signal, .timedOut: true
      default: false
      }
    if let failure {
      if ending.failure == nil || isOutweighed && failure.code != .outputClosed {
        self.ending?.failure = failure
      } else {
        console.report(failure)
      }
    }
    if ending.graceEnd == .never { self.ending?.graceEnd = graceEnd }
  }

  // MARK: Deliveries

  /// Whether another message is wanted, and can be taken.
  private var canTake: Bool {
    // One that has failed counts for nothing, and others may come before it. In a stream they may not.
    let underWay = handler.outstanding - (traits.isStream ? 0 : handler.failed)
    if traits.isStream, options.exec != nil, handler.outstanding >= options.parallel { return false }
    return handler.hasRoom && (limit.map { handled + underWay < $0 } ?? true)
  }

  /// The size of what has come and is not wanted yet.
  private var waitingBytes: Int { waiting.reduce(0) { $0 + $1.message.body.count } }

  /// Hands on what has come, as far as it is wanted.
  private mutating func takeDeliveries() throws {
    while canTake, let delivery = waiting.popFirst() { try take(delivery) }
    // Once there was another connection, what is wanted may stand behind what is not.
    while ending == nil, canTake || hasReconnected && waitingBytes < Self.waitingLimit,
      let event = try connection.nextEvent()
    {
      guard let delivery = try delivery(event), try !isKnown(delivery) else { continue }
      try peekOn(after: delivery)
      if canTake { try take(delivery) } else { waiting.append(delivery) }
    }
    try makeRoom()
  }

  private mutating func delivery(_ event: AMQPEvent) throws -> AMQPDelivery? {
    switch event {
    case .delivery(let delivery):
      return try arrived(delivery) ? delivery : nil
    case .cancelled:
      try cancelled()
      return nil
    case .queue(let state):
      // What a lost connection held is requeued when the broker has noticed its end, and its consumer is gone.
      let isEmpty = state.messages == 0 && !(hasReconnected && state.consumers > 1 && !returnEnd.isPast)
      isAsked = false
      emptyResponses = isEmpty ? emptyResponses + 1 : 0
      askTime = isEmpty ? .now : .after(.seconds(1))
      return nil
    default: return nil
    }
  }

  private mutating func take(_ delivery: AMQPDelivery) throws(Failure) {
    try handler.take(delivery)
    taken += 1
    if delivery.redelivered { requeued = max(0, requeued - 1) }
  }

  /// Takes note of a delivery. One that `--peek` must not requeue is saved at once, also where it is not looked at.
  /// - Returns: whether it is still to be settled.
  private mutating func arrived(_ delivery: AMQPDelivery) throws(AMQPError) -> Bool {
    open += 1
    emptyResponses = 0
    askTime = isAsked ? .after(AMQPConnection.replyTimeout) : .now
    guard let left = traits.returnsLeft(delivery.message), left <= 1, var saver else { return true }
    // The acknowledgement must not bring another one.
    try stopConsumer()
    let isSaved = saver.save(delivery.message, returnsLeft: left)
    self.saver = saver
    if isSaved {
      try connection.acknowledge(delivery.tag, multiple: false)
      open -= 1
    }
    if ending == nil || ending?.failure == nil { end(saver.failure, mayReconnect: false) }
    return !isSaved
  }

  /// Once `--peek` has seen that the first message can be requeued, it looks at the others.
  private mutating func peekOn(after delivery: AMQPDelivery) throws {
    guard saver != nil, prefetch == 1, firstPeeked == nil, let limit, limit > 1, let old = consumer.take() else {
      return
    }
    firstPeeked = delivery
    try connection.cancel(consumer: old)
    prefetch = limit > UInt16.max ? 0 : limit - 1
    try startConsuming(isFirst: false)
  }

  /// With a limit few messages may be under way, and the last ones are held. Those that have failed and wait must not keep the
  /// others from coming: then some are taken that may not be wanted in the end.
  private mutating func makeRoom() throws {
    guard limit != nil, holdsLast, handler.failed > 0, !traits.isStream else { return }
    holdsLast = false
    let most = options.parallel + Consume.waitingRoom
    // What a consumer may hold is settled when it begins.
    guard prefetch < most, let old = consumer.take() else { return }
    try connection.cancel(consumer: old)
    prefetch = most
    try startConsuming(isFirst: false)
  }

  /// Whether it comes again after a break, and is handled already or being handled.
  private mutating func isKnown(_ delivery: AMQPDelivery) throws(AMQPError) -> Bool {
    if traits.isStream, let offset = delivery.message.streamOffset {
      let isHandled = place.isHandled(offset)
      let isAgain = !isHandled && place.hasSeen(offset)
      place.deliver(offset)
      guard isHandled else { return isAgain && handler.adopt(delivery) }
    } else {
      // What comes again after a break comes as redelivered; anything else is new, however much it is like another.
      guard hasReconnected, delivery.redelivered else { return false }
      if doubtful.take(delivery.message) {
        acknowledged += 1
      } else if handler.adopt(delivery) {
        return true
      } else if !recent.take(delivery.message) {
        return false
      }
    }
    try connection.acknowledge(delivery.tag, multiple: false)
    try noteSettled(1, delivery)
    return true
  }

  /// The broker ended the consumer. That may mean that the queue is gone, or that a message was unacknowledged for too long
  /// (RabbitMQ 4.3; https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
  private mutating func cancelled() throws {
    consumer = nil
    try acknowledge(held.count)
    do throws(AMQPError) { _ = try connection.inspectQueue(queue) } catch {
      guard error.kind == .channelClosed(code: 404), !error.isTransient else { throw error }
      leaveConnection(because: error)
      return end(
        Failure(.nothingThere, "the queue '\(queue)' was deleted while it was consumed"), mayReconnect: false)
    }
    let error = AMQPError(kind: .broken, reason: "the broker cancelled the consumer")
    guard handler.outstanding > 0 else { throw error }
    leaveConnection(because: error)
    end(timeoutFailure("the broker cancelled the consumer"))
  }

  /// Whether the broker has ended the consumer while messages wait here, and the queue is still there: then they are in the queue
  /// again, and are not handled here. That is asked on another connection. Of a queue that is gone they are handled, and the
  /// response that it is gone would close the channel.
  private mutating func isTimedOut() -> Bool {
    guard connection.isCancelled, isConnected, !isCancelSeen else { return false }
    isCancelSeen = true
    guard let uris = try? options.broker.currentURIs(),
      let other = try? AMQPConnection.open(anyOf: uris, name: "msctl consume", trace: console.amqpTrace)
    else { return false }
    defer { other.close() }
    return (try? other.inspectQueue(queue)) != nil
  }

  private func timeoutFailure(_ reason: String) -> Failure {
    Failure(
      .timedOut, "the broker requeued the messages of '\(queue)' (consumer timeout): \(reason)",
      hint: "Handle each message in less time, or raise consumer_timeout in RabbitMQ's configuration.")
  }

  // MARK: Another connection

  /// The connection is of no use any more.
  private mutating func lost(_ error: AMQPError, _ signals: Signals) {
    var error = error
    while true {
      let isIdle = open == 0
      leaveConnection(because: error)
      if ending != nil { return }
      if case .channelClosed(code: 406) = error.kind, error.reason.holds(text: "timed out") {
        return end(timeoutFailure(error.reason))
      }
      guard error.isTransient, !options.peeks else { return end(brokerFailure(error), mayReconnect: false) }
      do { return try reconnect(after: error, isIdle, until: end, signals) } catch let again as AMQPError {
        // It broke again at once.
        error = again
      } catch {
        // What is under way has ended the run meanwhile.
        if ending != nil { return }
        // A signal says nothing about the broker.
        let failure = error as? Failure ?? Failure(.failed, "\(error)")
        let isSignal = if case .signal = failure.code { true } else { false }
        return end(failure, mayReconnect: isSignal)
      }
    }
  }

  /// What was not acknowledged is delivered again: what is handled already is only acknowledged then, and what is being handled
  /// goes on being handled.
  private mutating func leaveConnection(because error: AMQPError) {
    guard isConnected else { return }
    isConnected = false
    isCancelSeen = false
    isAsked = false
    emptyResponses = 0
    askTime = .now
    breakCause = error
    connection.close()
    recent.connectionBroke(unhandled: waiting.map(\.message) + connection.waitingMessages)
    if !traits.isStream { for delivery in held { doubtful.add(delivery.message) } }
    held = []
    waiting = []
    consumer = nil
    open = 0
    hasReconnected = true
  }

  /// - Throws: an AMQPError where the new connection broke at once.
  private mutating func reconnect(
    after error: AMQPError, _ isIdle: Bool, until limit: Deadline, _ signals: Signals
  ) throws {
    let (options, name, old) = (options, queue, connection)
    let place = "consuming '\(name)'" + (lastSettled.map { " after message \($0)" } ?? "")
    let mayEnd = ending == nil
    var reconnection = reconnection
    defer { self.reconnection = reconnection }
    do {
      (connection, queue) = try reconnection.connect(
        after: error, old, at: place, isIdle: isIdle, until: limit,
        serving: { descriptor, deadline throws(Failure) in
          try serveHandler(and: descriptor, until: deadline, signals)
          if mayEnd, ending != nil { throw Failure(.failed, "the run has ended") }
        }
      ) { connection in
        guard let exchange = options.exchange?.text else {
          do throws(AMQPError) { _ = try connection.inspectQueue(name) } catch {
            if error.isTransient { throw error }
            throw options.broker.failure(error, queue: name, connection.uri)
          }
          return (connection, name)
        }
        return (connection, try connection.declareOwnQueue(boundTo: exchange, keys: options.bindingKeys))
      }
    } catch let error as AMQPError {
      throw brokerFailure(error)
    }
    isConnected = true
    returnEnd = .after(.seconds(2 * connection.uri.heartbeat + 5))
    try startConsuming(isFirst: false)
    if options.exchange != nil {
      console.note("messages published to '\(options.exchange?.text ?? "")' meanwhile are not in the new queue")
    }
  }

  /// What is under way goes on while there is no connection: waits for it, and takes in what it has done.
  private mutating func serveHandler(
    and descriptor: Int32?, until deadline: Deadline, _ signals: Signals
  ) throws(Failure) {
    var polls = PollSet()
    if let descriptor { polls.add(descriptor) }
    polls.add(signals.descriptor)
    handler.addInterests(to: &polls)
    polls.wait(until: min(deadline, handler.wakeTime, .after(.seconds(1))))
    do { unsettled += try handler.work() } catch { end(error) }
    // Neither meets the broker, since there is none.
    do {
      try writeOut(signals)
      try settle()
    } catch { throw brokerFailure(error) }
    if let number = signals.take() { throw Failure(.signal(number), "interrupted") }
  }

  private func brokerFailure(_ error: AMQPError) -> Failure {
    options.broker.failure(error, queue: queue, connection.uri)
  }

  // MARK: Settling

  /// Writes out what the handler has added. What could not be written is not handled.
  private mutating func writeOut(_ signals: Signals) throws(AMQPError) {
    if !isOutputLost {
      do {
        return try console.flush(serving: isConnected ? connection : nil, signals)
      } catch let error as AMQPError {
        throw error
      } catch {
        isOutputLost = true
        end(error as? Failure ?? Failure(.failed, "\(error)"))
      }
    } else if !console.hasUnwritten {
      return
    }
    console.discard()
    unsettled.removeAll { settlement in
      if case .acknowledge = settlement { true } else { false }
    }
  }

  private mutating func settle() throws(AMQPError) {
    let settlements = unsettled
    for settlement in settlements {
      // Taken in even where telling the broker fails: its word then comes too late.
      unsettled.removeFirst()
      switch settlement {
      case .acknowledge(let delivery):
        handled += 1
        finishStreamed(delivery)
        if options.peeks { continue }
        if isCurrent(delivery) {
          held.append(delivery)
        } else if !traits.isStream {
          doubtful.add(delivery.message)
        }
      case .reject(let delivery):
        // One of an earlier connection is delivered again, whatever is said of it.
        guard isCurrent(delivery) || traits.isStream else { continue }
        handled += 1
        rejected += 1
        finishStreamed(delivery)
        guard isCurrent(delivery) else { continue }
        if traits.isStream {
          held.append(delivery)
        } else {
          try connection.reject(delivery.tag, requeue: false)
          ending?.settlementsLeft -= 1
          acknowledged += 1
          try noteSettled(1, delivery)
        }
      case .requeue(let delivery) where isCurrent(delivery):
        if traits.isStream {
          waiting.prepend(delivery)
        } else {
          requeued += 1
          requeueEnd = .after(Self.patience)
          emptyResponses = 0
          if ending.map({ $0.settlementsLeft > 0 }) ?? true { try requeue(delivery) } else { waiting.append(delivery) }
        }
      case .requeue: break
      }
    }
    try acknowledge()
  }

  private mutating func requeue(_ delivery: AMQPDelivery) throws(AMQPError) {
    try connection.refuse(delivery.tag, requeue: true)
    open -= 1
    ending?.settlementsLeft -= 1
  }

  private func isCurrent(_ delivery: AMQPDelivery) -> Bool { isConnected && delivery.connection == connection.id }

  private mutating func finishStreamed(_ delivery: AMQPDelivery) {
    if traits.isStream, let offset = delivery.message.streamOffset { place.handle(offset) }
  }

  /// Acknowledges what is handled.
  ///
  /// With a limit, the broker must not be made to deliver messages beyond it: they would come back marked as redelivered.
  /// So the last ones, as many as may be under way, are held until the end.
  private mutating func acknowledge() throws(AMQPError) {
    guard let limit, holdsLast, consumer != nil else { return try acknowledge(held.count) }
    try acknowledge(min(held.count, max(0, limit - prefetch - acknowledged)))
  }

  private mutating func acknowledge(_ count: Int) throws(AMQPError) {
    guard count > 0, isConnected else { return }
    let now = held[..<count]
    // Only a run of commands beside each other settles out of order; in order, one acknowledgement does for all.
    if options.exec == nil, !hasReconnected, let last = now.last {
      try connection.acknowledge(last.tag, multiple: true)
    } else {
      // The others are settled together at last.
      if let ending, ending.hasStopped, count > ending.settlementsLeft { return }
      for delivery in now { try connection.acknowledge(delivery.tag, multiple: false) }
      ending?.settlementsLeft -= count
    }
    try noteAcknowledged(count)
  }

  /// The first ones that are held were acknowledged.
  private mutating func noteAcknowledged(_ count: Int) throws(AMQPError) {
    let now = held[..<count]
    if !traits.isStream { for delivery in now { recent.add(delivery) } }
    let last = now.last
    held.removeFirst(count)
    acknowledged += count
    try noteSettled(count, last)
  }

  /// Settles all that is open by as few methods as can be, where nothing is under way: each one acknowledges, or requeues, those
  /// beside each other.
  private mutating func settleTogether() throws(AMQPError) {
    guard open > 0, !traits.isStream, open == held.count + waiting.count else { return }
    let all = (held.map { ($0, isHandled: true) } + waiting.map { ($0, isHandled: false) }).sorted {
      $0.0.tag < $1.0.tag
    }
    for (place, (delivery, isHandled)) in all.enumerated() {
      if place + 1 < all.count, all[place + 1].isHandled == isHandled { continue }
      if isHandled {
        try connection.acknowledge(delivery.tag, multiple: true)
      } else {
        try connection.refuse(delivery.tag, multiple: true, requeue: true)
      }
    }
    open -= waiting.count
    waiting = []
    if !held.isEmpty { try noteAcknowledged(held.count) }
  }

  private mutating func noteSettled(_ count: Int, _ last: AMQPDelivery?) throws(AMQPError) {
    open -= count
    guard reconnection.isInOutage else {
      lastSettled = last?.message.properties.messageID
      return
    }
    // That it was sent says nothing of its arrival; the reply to what is sent after it does.
    _ = try connection.inspectQueue(queue)
    lastSettled = last?.message.properties.messageID
    reconnection.settled()
  }

  // MARK: The end

  /// Tells the broker that nothing more is wanted, and requeues what came and was not handed on.
  private mutating func stopDeliveries() throws(AMQPError) {
    // What is handled or being handled may still have to come again.
    if !hasReconnected || doubtful.isEmpty && handler.outstanding == 0 {
      try stopConsumer()
      while let event = try connection.nextEvent() {
        if case .delivery(let delivery) = event, try arrived(delivery) { waiting.append(delivery) }
      }
      if traits.isStream { waiting = [] }
      if handler.outstanding == 0, unsettled.isEmpty {
        try settleTogether()
      } else if waiting.count <= Self.settlementsInEnd / 2 {
        // Another consumer can have them at once.
        while let delivery = waiting.popFirst() { try requeue(delivery) }
      }
    }
    ending?.hasStopped = true
    try acknowledge()
  }

  /// Ends the consumer, and makes sure that all it was sent has come: a quorum queue may send something after `cancel-ok`, but
  /// not after the response to what is asked next.
  private mutating func stopConsumer() throws(AMQPError) {
    guard let tag = consumer.take() else { return }
    try connection.cancel(consumer: tag)
    try connection.setPrefetch(prefetch)
  }

  /// Acknowledges everything that is handled, and requeues the rest.
  private mutating func settleAll(_ signals: Signals) throws {
    if !isConnected {
      guard let ending, ending.mayReconnect, let breakCause, !doubtful.isEmpty else { return }
      self.ending?.mayReconnect = false
      let limit = ending.failure == nil ? Deadline.never : .after(Self.patience)
      do { try reconnect(after: Self.renewable(breakCause), true, until: limit, signals) } catch {
        if ending.failure == nil { self.ending?.failure = error as? Failure }
        return
      }
    }
    let patience = Deadline.after(Self.patience)
    while true {
      while let event = try connection.nextEvent() {
        if case .delivery(let delivery) = event, try arrived(delivery) { _ = try isKnown(delivery) }
      }
      guard !doubtful.isEmpty, !patience.isPast, consumer != nil else { break }
      var polls = PollSet()
      polls.add(connection.descriptor)
      polls.wait(until: patience)
    }
    if consumer != nil {
      try stopConsumer()
      while let event = try connection.nextEvent() {
        if case .delivery(let delivery) = event { _ = try arrived(delivery) }
      }
    }
    try settleTogether()
    ending?.settlementsLeft = .max
    try acknowledge(held.count)
    if let saver {
      saver.close()
      if saver.isUsed, ending?.failure?.code == .failed { ending?.failure = saver.failure }
    }
    // The broker requeues what two consumers held consumer by consumer, and not in order.
    if let firstPeeked, isCurrent(firstPeeked) {
      try connection.refuse(firstPeeked.tag, requeue: true)
      open -= 1
    }
    if open > 0, !traits.isStream { try connection.requeueAll() }
    // What was sent last arrives before the connection is closed in good order.
    connection.close()
    isConnected = false
    isSettled = true
  }

  /// Whatever ended the connection, another one may do.
  private static func renewable(_ error: AMQPError) -> AMQPError {
    error.isTransient ? error : AMQPError(kind: .broken, reason: error.reason)
  }

  /// Whether nothing is ready, nothing waits here, and nothing is under way. The broker's response is not waited for here, since
  /// it comes after all that was delivered before it, which may be more than memory holds. A delivery may overtake the first
  /// response, so there is a second one.
  private mutating func isEmpty() throws(AMQPError) -> Bool {
    guard waiting.isEmpty, !connection.hasEvents, requeued == 0 || requeueEnd.isPast else { return false }
    if emptyResponses >= 2 { return true }
    guard askTime.isPast else { return false }
    if isAsked {
      throw AMQPError(kind: .timedOut, reason: "no response within \(AMQPConnection.replyTimeout.shown)")
    }
    try connection.askFor(queue: queue)
    isAsked = true
    askTime = .after(AMQPConnection.replyTimeout)
    return false
  }

  private var countFailure: Failure? {
    guard let count = options.count else { return nil }
    return Failure(.timedOut, "received \(handled) of \(count) messages from '\(queue)' in time")
  }

  private mutating func wait(_ signals: Signals, until deadline: Deadline) throws(AMQPError) {
    var polls = PollSet()
    polls.add(signals.descriptor)
    handler.addInterests(to: &polls)
    var deadline = deadline
    if isConnected {
      try connection.pump()
      if ending == nil, canTake && !waiting.isEmpty || connection.hasEvents && (canTake || hasReconnected) { return }
      if !connection.isFull {
        polls.add(connection.descriptor)
        if !connection.hasEvents, connection.hasInput { deadline = .now }
      }
    }
    polls.wait(until: deadline)
  }
}

extension AMQPError {
  /// Whether the broker refused a consumer because of what only queues have that are no streams.
  fileprivate var isAboutStream: Bool {
    kind == .channelClosed(code: 406) && reason.holds(text: "of queue type rabbit_stream_queue")
  }
}
