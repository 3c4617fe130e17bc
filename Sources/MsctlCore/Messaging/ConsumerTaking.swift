extension Consumer {
  /// How much may have come without being wanted, in bytes, before no more is looked through for what comes again.
  static let waitingLimit = 64 << 20

  // MARK: What the broker sends

  mutating func received(_ event: AMQPEvent) {
    guard link == .open || link == .opening else { return }
    switch event {
    case .delivery(let delivery): arrived(delivery)
    case .cancelled: cancelled()
    case .queue, .consuming, .channelOpen, .bound, .prefetchSet, .consumerEnded, .confirmsSelected: answered(event)
    case .exchange, .returned, .ack, .nack, .blocked, .unblocked: break
    }
  }

  private mutating func arrived(_ delivery: AMQPDelivery) {
    guard delivery.connection == connectionID else { return }
    open += 1
    emptyResponses = 0
    if !isAsked(.emptiness) { askTime = now }
    if let left = traits.returnsLeft(delivery.message), left <= 1, options.saves {
      return save(delivery, returnsLeft: left)
    }
    guard !isKnown(delivery), !isPassedOver(delivery) else { return }
    if isRunning { peekOn(after: delivery) }
    wait(delivery)
  }

  /// Acknowledges what is no part of the sample.
  private mutating func isPassedOver(_ delivery: AMQPDelivery) -> Bool {
    guard options.sample > 1 else { return false }
    counted = (counted + 1) % options.sample
    guard counted != 0 else { return false }
    hasMoved = true
    send(.acknowledge(delivery.tag, multiple: false))
    open -= 1
    finishStreamed(delivery)
    return true
  }

  mutating func wait(_ delivery: AMQPDelivery) {
    waiting.append(delivery)
    waitingBytes += delivery.message.body.count
  }

  mutating func forgetWaiting() {
    waiting = []
    waitingBytes = 0
  }

  /// A delivery that must not be requeued is saved at once, also where it is not looked at.
  private mutating func save(_ delivery: AMQPDelivery, returnsLeft left: Int) {
    saving += 1
    actions.append(.save(delivery, returnsLeft: left))
    if isRunning || ending.map({ $0.cause == nil }) ?? false { end(.spent, mayReconnect: false) }
  }

  mutating func saved(_ delivery: AMQPDelivery, _ isSaved: Bool) {
    saving -= 1
    guard isSaved, isCurrent(delivery) else { return }
    saved.append(delivery)
    acknowledgeSaved()
  }

  /// An acknowledgement must not bring another message: so it waits for the end of the consumer.
  mutating func acknowledgeSaved() {
    guard isStopped else { return }
    for delivery in saved where isCurrent(delivery) {
      send(.acknowledge(delivery.tag, multiple: false))
      open -= 1
    }
    saved = []
  }

  // MARK: Handing on

  /// Whether another message is wanted now, and can be taken.
  var canTake: Bool { hasRoom && isDue }

  /// Whether the rate lets another message be handed on.
  var isDue: Bool { pace.map { $0.next <= now } ?? true }

  /// Whether another message is wanted, and can be taken as soon as one is due.
  var hasRoom: Bool {
    guard isRunning, link == .open, !isTaking, written.isEmpty, subscription != .cancelled, !isAskingElsewhere,
      handler.hasRoom
    else { return false }
    // In a stream a failed message is tried again before others.
    if traits.isStream, let parallel = options.parallel, underWay.count >= parallel { return false }
    if traits.isStream, options.handling.isOfBatches, handler.failed > 0 { return false }
    // One that has failed counts for nothing, and others may come before it. In a stream they may not.
    let counted = underWay.count - (traits.isStream ? 0 : handler.failed)
    return options.limit.map { handled + counted < $0 } ?? true
  }

  mutating func handOn() {
    if canTake, let delivery = waiting.popFirst() {
      waitingBytes -= delivery.message.body.count
      (isTaking, hasMoved) = (true, true)
      pace?.began(at: now)
      taken += 1
      underWay.append(UnderWay(number: taken, delivery: kept(delivery)))
      actions.append(.take(taken, delivery))
      if delivery.redelivered { requeued = max(0, requeued - 1) }
    }
    makeRoom()
  }

  /// Once `--peek` has seen that the first message can be requeued, it looks at the others.
  private mutating func peekOn(after delivery: AMQPDelivery) {
    guard options.saves, prefetch == 1, firstPeeked == nil, let limit = options.limit, limit > 1,
      case .active(let tag) = subscription
    else { return }
    firstPeeked = delivery
    consumeAnew(tag, limit > UInt16.max ? 0 : limit - 1)
  }

  /// A filter may hold many, which it keeps itself: here their bodies are only to be compared.
  private func kept(_ delivery: AMQPDelivery) -> AMQPDelivery {
    options.handling.isFilter ? delivery.withoutBody : delivery
  }

  private mutating func makeRoom() {
    makeRoomForSilence()
    makeRoomForFailed()
  }

  /// A filter that writes nothing may be slow, leave messages out, or want all of them before it answers the first. Only with more
  /// messages the last two come to an end; and a slow one should not have them from the start, since others may handle them, and the
  /// broker limits the time that a message is unacknowledged.
  private mutating func makeRoomForSilence() {
    guard handler.wantsMore, let most = options.roomForSilence, prefetch < most, open >= prefetch, isRunning,
      link == .open, !traits.isStream, case .active(let tag) = subscription
    else { return }
    consumeAnew(tag, most)
  }

  /// With a limit few messages may be under way, and the last ones are held. Those that have failed and wait must not keep the
  /// others from coming: then some are taken that may not be wanted in the end.
  private mutating func makeRoomForFailed() {
    guard handler.failed > 0, holdsLast, options.limit != nil, isRunning, link == .open, !traits.isStream,
      case .active(let tag) = subscription
    else { return }
    holdsLast = false
    let most = (options.parallel ?? 1) + Self.waitingRoom
    if prefetch < most { consumeAnew(tag, most) }
  }

  /// What a consumer may hold is settled when it begins. The queue has one all the while: with the last one it may be deleted.
  private mutating func consumeAnew(_ tag: String, _ prefetch: Int) {
    self.prefetch = prefetch
    consume()
    subscription = .changing(from: tag)
  }

  // MARK: What comes again

  /// Whether it comes again after a break, and is handled already or being handled.
  private mutating func isKnown(_ delivery: AMQPDelivery) -> Bool {
    if traits.isStream, let offset = delivery.message.streamOffset {
      let isHandled = place.isHandled(offset)
      let isAgain = !isHandled && place.hasSeen(offset)
      place.deliver(offset)
      guard isHandled else { return isAgain && adopt(delivery) }
    } else {
      // What comes again after a break comes as redelivered; anything else is new, however much it is like another.
      guard hasReconnected, delivery.redelivered else { return false }
      if doubtful.take(delivery.message) {
        acknowledged += 1
        // This acknowledgement may be lost as well.
        recent.add(delivery)
      } else if unrejected.take(delivery.message) {
        reject(delivery)
        return true
      } else if adopt(delivery) {
        return true
      } else if !recent.take(delivery.message) {
        return false
      }
    }
    send(.acknowledge(delivery.tag, multiple: false))
    // In a stream that only makes room: what comes again after each break is no progress.
    if traits.isStream { open -= 1 } else { noteSettled(1, delivery) }
    return true
  }

  /// Whether the same message is under way, delivered by an earlier connection: then this delivery takes its place.
  private mutating func adopt(_ delivery: AMQPDelivery) -> Bool {
    guard let place = underWay.firstIndex(where: { delivery.isAgain($0.delivery) }) else { return false }
    underWay[place].delivery = kept(delivery)
    actions.append(.renew(underWay[place].number, delivery))
    return true
  }

  /// Whether something may come again whose acknowledgement was under way when a connection broke.
  var mayReturn: Bool { recent.mayReturn && now < returnEnd }

  // MARK: Whether the queue is empty

  /// Whether nothing is under way here, but what a filter may keep, or waits for its batch.
  var isAtRest: Bool { written.isEmpty && (underWay.count == handler.gathered || options.handling.isFilter) }

  /// Whether the broker is to be asked once the time for it has come.
  var mayAskEmptiness: Bool { isAtRest && waiting.isEmpty && !hasMore && !isAskingElsewhere && !isAsked(.emptiness) }

  /// Whether nothing is ready, nothing waits here, and nothing is under way. The broker's response is not waited for, since it
  /// comes after all that was delivered before it, which may be more than memory holds. A delivery may overtake the first
  /// response, so there is a second one.
  mutating func isEmpty(_ hasMore: Bool) -> Bool {
    guard waiting.isEmpty, !hasMore, requeued == 0 || now >= requeueEnd else { return false }
    if emptyResponses >= 2 { return true }
    if now >= askTime, !isAsked(.emptiness) { ask(.inspect(queue), .emptiness) }
    return false
  }

  mutating func emptinessAnswered(_ state: AMQPConnection.QueueState) {
    // What a lost connection held is requeued when the broker has noticed its end, and its consumer is gone.
    var isEmpty = state.messages == 0 && !(hasReconnected && state.consumers > 1 && now < returnEnd)
    // A quorum queue without a leader is said to have nothing (`stat` in rabbit_quorum_queue.erl), and no consumer: we are one.
    if state.consumers > 0 {
      unknownEnd = .never
    } else {
      isEmpty = false
      unknownEnd = min(unknownEnd, now + Self.replyTimeout)
      if now >= unknownEnd {
        return lost(
          AMQPError(kind: .timedOut, reason: "the queue '\(queue)' has had no leader for \(Self.replyTimeout.shown)"),
          unsent: nil, unread: [])
      }
    }
    emptyResponses = isEmpty ? emptyResponses + 1 : 0
    askTime = isEmpty ? now : now + .seconds(1)
  }
}
