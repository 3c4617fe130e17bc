extension Consumer {
  // MARK: Preparing the channel

  mutating func connected(_ connection: Connection) {
    guard link == .connecting else { return actions.append(.disconnect) }
    link = .opening
    connectionID = connection.id
    outage.connected(at: now)
    if hasReconnected { returnEnd = now + connection.heartbeat * 2 + .seconds(5) }
    if connection.isConsumerAsked {
      subscription = .asked
      questions = [Asked(question: .consumer, acknowledged: recent.mark)]
      replyEnd = now + Self.replyTimeout
    } else if !hasConsumed {
      // The queue is known to be there.
      consume()
    } else {
      prepareQueue()
    }
  }

  private mutating func prepareQueue() {
    let binding = binding
    switch binding?.queue {
    // What follows needs its name.
    case .brokerNamed?: return ask(.declareExclusive(""), .ownQueue)
    case .exclusive(let arguments)?: ask(.declareExclusive(queue, arguments: arguments), .queue)
    case .declared(let arguments)?: ask(.declare(queue, arguments: arguments), .queue)
    case .existing?, nil: ask(.inspect(queue), .queue)
    }
    for method in binding?.methods(queue) ?? [] { ask(method, .bound) }
    consume()
  }

  private var binding: Options.Binding? { if case .bound(let binding, _) = options.source { binding } else { nil } }

  mutating func consume() {
    ask(.setPrefetch(prefetch), .prefetch)
    let arguments = Options.arguments(
      streamOffset: traits.isStream ? streamOffset : nil, options.consumerArguments)
    ask(.consume(queue, arguments: arguments, isAutomatic: false), .consumer)
    subscription = .asked
  }

  private var streamOffset: AMQPValue {
    if let start = place.start { return .integer(start) }
    // Nothing came before the connection broke: what came meanwhile is found by its time.
    guard hasReconnected, options.offset == .string("next") else { return options.offset }
    return .timestamp(UInt64(clamping: options.began))
  }

  private mutating func ownQueueMade(_ name: String) {
    queue = name
    for method in binding?.methods(name) ?? [] { ask(method, .bound) }
    consume()
  }

  private mutating func opened() {
    guard link == .opening else { return }
    link = .open
    askTime = now
    if let idle = options.idle { (idleEnd, silenceEnd) = (now + idle, .never) }
    guard hasConsumed else { return hasConsumed = true }
    if outage.isFirstBreak { actions.append(.note(.reconnected)) }
    if let binding, binding.isExclusive { actions.append(.note(.newQueue(exchange: binding.exchange))) }
  }

  // MARK: Replies

  mutating func answered(_ reply: AMQPEvent) {
    // RabbitMQ's queue replies to some methods and its channel to others: only replies of one kind come in order.
    guard let place = questions.firstIndex(where: { $0.question.isAnswered(by: reply) }) else { return }
    let asked = questions.remove(at: place)
    let question = asked.question
    replyEnd = questions.isEmpty ? .never : now + Self.replyTimeout
    switch question {
    // After the end of the consumer, which waits for what was under way, what was put by has gone on.
    case .settlement: recent.arrived(upTo: asked.acknowledged)
    // To others, such as the barrier, the channel replies before what it has sent to the queue is there. Nor do these say anything
    // of what it has put by.
    case .cancel, .former, .emptiness, .arrival:
      if recent.underWay(at: asked.acknowledged) <= Self.channelLimit { recent.arrived(upTo: asked.acknowledged) }
    default: break
    }
    switch (question, reply) {
    case (.ownQueue, .queue(let state)): ownQueueMade(state.name)
    case (.consumer, .consuming(let tag)):
      consuming(tag)
      opened()
    case (.cancel, _): consumerEnded()
    case (.barrier, _):
      subscription = .none
      acknowledgeSaved()
    case (.emptiness, .queue(let state)): emptinessAnswered(state)
    case (.arrival(let id), _): arrivalAnswered(id)
    case (.existence, _): existenceAnswered()
    default: break
    }
  }

  private mutating func consuming(_ tag: String) {
    switch subscription {
    case .asked: subscription = .active(tag: tag)
    case .changing(let former):
      ask(.cancel(consumer: former), .former)
      subscription = .active(tag: tag)
    // The broker may have ended it at once.
    default: break
    }
  }

  private mutating func consumerEnded() {
    if subscription == .cancelling { ask(.setPrefetch(prefetch), .barrier) }
  }

  /// What is not wanted is not handed in, and a reply may stand behind it: then its time does not count.
  mutating func watchReplies() {
    guard replyEnd != .never else { return }
    if !wantsInput {
      replyEnd = now + Self.replyTimeout
    } else if now >= replyEnd {
      replyEnd = .never
      lost(
        AMQPError(kind: .timedOut, reason: "no response within \(Self.replyTimeout.shown)"), unsent: nil, unread: [])
    }
  }

  // MARK: The broker ends the consumer

  private static let cancelError = AMQPError(kind: .broken, reason: "the broker cancelled the consumer")

  /// That may mean that the queue is gone, or that a message was unacknowledged for too long (RabbitMQ 4.3;
  /// https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
  mutating func cancelled() {
    guard isRunning else {
      // Of what it has handled meanwhile, the broker does not take an acknowledgement any more.
      return lost(Self.cancelError, unsent: nil, unread: [])
    }
    guard subscription != .cancelled else { return }
    subscription = .cancelled
    acknowledge()
    ask(.inspect(queue), .existence)
  }

  private mutating func existenceAnswered() {
    guard subscription == .cancelled else { return }
    subscription = .none
    guard isRunning, outstanding > 0 else { return lost(Self.cancelError, unsent: nil, unread: []) }
    leave(Self.cancelError, unread: [])
    end(.consumerTimeout(Self.cancelError.reason))
  }

  /// The broker may have ended the consumer while messages wait here, and the queue still be there: then they are in the queue
  /// again, and are not handled here. That is asked on another connection. Of a queue that is gone they are handled, and the
  /// response that it is gone would close the channel.
  mutating func cancelAhead() {
    guard isRunning, link == .open, !wasAskedElsewhere else { return }
    wasAskedElsewhere = true
    isAskingElsewhere = true
    actions.append(.askElsewhere)
  }

  mutating func foundElsewhere(_ isFound: Bool) {
    guard isAskingElsewhere else { return }
    isAskingElsewhere = false
    if isFound { cancelled() }
  }

  // MARK: Another connection

  mutating func lost(_ error: AMQPError, unsent: AMQPMethod?, unread: [AMQPMessage]) {
    guard link == .open || link == .opening else { return }
    if !hasConsumed, !traits.isStream, error.isAboutStream { return becomeStream() }
    let isIdle = open == 0
    // It stood, and broke again before it was of use.
    let isOver = link == .opening && isLastAttempt
    let isGone = error.kind == .channelClosed(code: 404) && !error.isTransient
    let isDeleted = isAsked(.existence) && isGone
    let isDeletedInEnd = isAsked(.settlement) && isGone
    forgetUnsent(unsent)
    leave(error, unread: unread)
    guard isRunning else { return isDeletedInEnd ? deletedInEnd() : lostInEnd(error) }
    if isDeleted { return end(.queueDeleted, mayReconnect: false) }
    guard hasConsumed || now < outage.deadline else { return end(.broker(error), mayReconnect: false) }
    if case .channelClosed(code: 406) = error.kind, error.reason.holds(text: "timed out") {
      return end(.consumerTimeout(error.reason))
    }
    guard error.isTransient || isHeldByLastConnection(error), !options.peeks, options.reconnectFor > .zero else {
      return end(.broker(error), mayReconnect: false)
    }
    reconnect(after: error, isIdle, isOver)
  }

  /// Whether the queue is still that of the connection before, whose end the broker has not noticed yet.
  private func isHeldByLastConnection(_ error: AMQPError) -> Bool {
    error.kind == .channelClosed(code: 405) && hasConsumed && binding?.isExclusive ?? false
  }

  /// The broker refused the consumer because of what only queues have that are no streams.
  private mutating func becomeStream() {
    guard !options.drains, !options.peeks else {
      leave(AMQPError(kind: .broken, reason: ""), unread: [])
      return end(.neverEmpties, mayReconnect: false)
    }
    traits.isStream = true
    actions.append(.note(.isStream))
    questions = []
    ask(.openChannel, .channel)
    consume()
  }

  /// What was not acknowledged is delivered again: what is handled already is only acknowledged then, and what is being handled
  /// goes on being handled.
  private mutating func leave(_ error: AMQPError, unread: [AMQPMessage]) {
    link = .none
    actions.append(.disconnect)
    breakCause = error
    recent.connectionBroke(unhandled: waiting.map(\.message) + unread, window: prefetch)
    if !traits.isStream { for delivery in held { doubtful.add(delivery.message) } }
    held = []
    forgetWaiting()
    subscription = .none
    questions = []
    replyEnd = .never
    isAskingElsewhere = false
    wasAskedElsewhere = false
    emptyResponses = 0
    unknownEnd = .never
    open = 0
    saved = []
    hasReconnected = hasConsumed
    if !comesAgain { forgetReturning() }
  }

  /// Whether what is not acknowledged comes again on another connection. A queue of its own goes with its connection.
  var comesAgain: Bool { !(binding?.isExclusive ?? false) }

  private mutating func forgetReturning() {
    (doubtful, unrejected) = (HandledMessages(), HandledMessages())
    recent.trust()
  }

  private mutating func reconnect(after error: AMQPError, _ isIdle: Bool, _ isOver: Bool) {
    guard outage.broke(isIdle: isIdle, at: now), !isOver else {
      return end(
        .repeatedBreaks(error, breaks: outage.breaks, within: now - outage.begin, after: lastSettled),
        mayReconnect: false)
    }
    if outage.isFirstBreak { actions.append(.note(.reconnecting(error))) }
    pause()
  }

  /// When the last attempt begins.
  private var lastAttempt: Deadline {
    switch state {
    case .running: min(outage.deadline, end)
    case .ending(let ending):
      if case .reconnecting(let until) = ending.step { min(outage.deadline, until) } else { now }
    case .ended: now
    }
  }

  private mutating func pause() {
    link = .pausing(until: min(lastAttempt, now + outage.pause(using: &generator)))
  }

  /// The pause is over.
  mutating func connectWhenDue() {
    guard case .pausing(let until) = link, now >= until else { return }
    link = .connecting
    isLastAttempt = now >= lastAttempt
    actions.append(.connect)
  }

  mutating func connectFailed(_ failure: Failure) {
    guard link == .connecting else { return }
    guard failure.isTransient(awaitsPassword: options.awaitsPassword), !isLastAttempt else {
      link = .none
      return unconnected(.unconnected(failure))
    }
    if failure.code == .denied, options.awaitsPassword, outage.tellsRefusal() {
      actions.append(.note(.loginRefused(failure)))
    }
    pause()
  }

  private mutating func unconnected(_ cause: Cause) {
    if isRunning {
      end(cause, mayReconnect: false)
    } else if ending?.cause == nil {
      ending?.cause = cause
    }
  }

  // MARK: In the end

  /// For what is handled and not acknowledged. Whatever ended the last connection, another one may do.
  mutating func reconnectInEnd() {
    guard options.reconnectFor > .zero, outage.broke(isIdle: true, at: now) else { return }
    if outage.isFirstBreak, let breakCause { actions.append(.note(.reconnecting(breakCause))) }
    pause()
  }

  /// A queue that is deleted with its last consumer takes with it what could have come again.
  private mutating func deletedInEnd() {
    forgetReturning()
    ending?.mayReconnect = false
  }

  private mutating func lostInEnd(_ error: AMQPError) {
    guard case .reconnecting = ending?.step, error.isTransient, !isLastAttempt, outage.broke(isIdle: true, at: now)
    else { return }
    pause()
  }
}

extension AMQPError {
  /// Whether the broker refused a consumer because of what only queues have that are no streams.
  fileprivate var isAboutStream: Bool {
    kind == .channelClosed(code: 406) && reason.holds(text: "of queue type rabbit_stream_queue")
  }
}

extension Consumer.Question {
  fileprivate func isAnswered(by reply: AMQPEvent) -> Bool {
    switch (self, reply) {
    case (.ownQueue, .queue), (.queue, .queue), (.emptiness, .queue), (.arrival, .queue), (.settlement, .queue),
      (.existence, .queue),
      (.channel, .channelOpen), (.bound, .bound), (.prefetch, .prefetchSet), (.barrier, .prefetchSet),
      (.consumer, .consuming), (.cancel, .consumerEnded), (.former, .consumerEnded):
      true
    default: false
    }
  }
}
