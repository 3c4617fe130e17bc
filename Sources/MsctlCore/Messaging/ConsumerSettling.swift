extension Consumer {
  /// How many messages may be settled one by one in the end. A channel of RabbitMQ puts by what it has above 32 under way to
  /// a quorum queue (`soft_limit` of rabbit_fifo_client.erl), and drops that when it is closed: acknowledgements, too. What
  /// came before the consumer was cancelled is no part of that, since `cancel-ok` waits for it, and a reply of the queue after that for
  /// what was put by. (The reply to a passive declaration alone waits for neither.)
  static let settlementsInEnd = 16
  /// How many settlements a channel has under way to a quorum queue.
  static let channelLimit = 32
  /// How long a flush may go on after an interruption, so that a line does not stand half written.
  private static let flushPatience: Duration = .seconds(2)

  // MARK: Written, flushed, settled

  /// What was written for a message must be out before the message is acknowledged.
  mutating func settled(_ settlements: [Settlement]) {
    guard !settlements.isEmpty else { return }
    hasMoved = true
    written += settlements
    if isOutputLost { dropUnwritten() } else { flush() }
  }

  private mutating func flush() {
    guard flushing == 0, !written.isEmpty else { return }
    flushing = written.count
    actions.append(.flush)
  }

  mutating func flushed() {
    guard flushing > 0 else { return }
    let settlements = written[..<flushing]
    written.removeFirst(flushing)
    flushing = 0
    flushEnd = .never
    for settlement in settlements { settle(settlement) }
    keepPlace()
    acknowledge()
    flush()
  }

  /// Only what is flushed is handled, or has nothing to be written.
  private mutating func keepPlace() {
    guard options.keepsPlace, traits.isStream, let offset = place.start, offset != keptPlace else { return }
    keptPlace = offset
    actions.append(.keepPlace(offset))
  }

  /// Lets a line be ended that stands half written.
  mutating func interrupted(_ number: Int32) {
    end(.interrupted(number))
    // Nothing is handled any more, and nothing is waited for where there is no connection.
    if case .reconnecting = ending?.step { stopConnecting() }
    if flushing > 0, flushEnd == .never { flushEnd = now + Self.flushPatience }
  }

  mutating func outputLost(_ failure: Failure?) {
    if let failure { end(.output(failure)) }
    guard !isOutputLost else { return }
    isOutputLost = true
    flushing = 0
    flushEnd = .never
    actions.append(.discardOutput)
    dropUnwritten()
  }

  /// What could not be written is not handled.
  private mutating func dropUnwritten() {
    let settlements = written
    written = []
    for settlement in settlements {
      if settlement.outcome == .acknowledge {
        if let delivery = finishWork(settlement.number) { giveBack(delivery) }
      } else {
        settle(settlement)
      }
    }
    keepPlace()
    acknowledge()
  }

  /// It goes back in the end. What was peeked at goes back with all others.
  private mutating func giveBack(_ delivery: AMQPDelivery) {
    if isCurrent(delivery), !options.peeks, !traits.isStream { wait(delivery) }
  }

  /// The handler has done with what it took under this number.
  private mutating func finishWork(_ number: Int) -> AMQPDelivery? {
    let place = underWay.firstPlace(after: { $0.number < number })
    guard place < underWay.count, underWay[place].number == number else { return nil }
    return underWay.remove(at: place).delivery
  }

  /// The handler is over: what it leaves is not handled.
  mutating func abandonWork() {
    for work in underWay { giveBack(work.delivery) }
    underWay = []
  }

  private mutating func settle(_ settlement: Settlement) {
    guard let delivery = finishWork(settlement.number) else { return }
    switch settlement.outcome {
    case .acknowledge:
      handled += 1
      finishStreamed(delivery)
      if options.peeks { return }
      if isCurrent(delivery) {
        held.append(delivery)
      } else if !traits.isStream, comesAgain {
        doubtful.add(delivery.message)
      }
    case .reject where traits.isStream:
      handled += 1
      rejected += 1
      finishStreamed(delivery)
      if isCurrent(delivery) { held.append(delivery) }
    case .reject where isCurrent(delivery): reject(delivery)
    case .reject where comesAgain: unrejected.add(delivery.message)
    case .reject:
      handled += 1
      rejected += 1
    case .requeue where isCurrent(delivery):
      if traits.isStream {
        // Others of its batch may be there already.
        waiting.insert(delivery, at: waiting.firstPlace { $0.tag < delivery.tag })
        waitingBytes += delivery.message.body.count
      } else {
        requeued += 1
        requeueEnd = now + Self.patience
        emptyResponses = 0
        requeue(delivery)
      }
    case .requeue: break
    }
  }

  mutating func reject(_ delivery: AMQPDelivery) {
    handled += 1
    rejected += 1
    send(.reject(delivery.tag, requeue: false))
    acknowledged += 1
    noteSettled(1, delivery)
  }

  mutating func requeue(_ delivery: AMQPDelivery) {
    send(.refuse(delivery.tag, multiple: false, requeue: true))
    open -= 1
    returned += 1
  }

  mutating func finishStreamed(_ delivery: AMQPDelivery) {
    if traits.isStream, let offset = delivery.message.streamOffset { place.handle(offset) }
  }

  // MARK: Acknowledging

  /// Acknowledges what is handled.
  ///
  /// With a limit, the broker must not be made to deliver messages beyond it: they would come back marked as redelivered.
  /// So the last ones, as many as may be under way, are held until the end.
  mutating func acknowledge() {
    switch subscription {
    case .asked, .active, .changing, .cancelling:
      guard let limit = options.limit, holdsLast else { fallthrough }
      acknowledge(min(held.count, max(0, limit - prefetch - acknowledged)))
    case .none, .cancelled: acknowledge(held.count)
    }
  }

  mutating func acknowledge(_ count: Int) {
    guard count > 0, link == .open else { return }
    // In order, one acknowledgement does for all.
    if options.handling.isInOrder, !hasReconnected, let last = held[..<count].last {
      send(.acknowledge(last.tag, multiple: true))
    } else {
      for delivery in held[..<count] { send(.acknowledge(delivery.tag, multiple: false)) }
    }
    noteAcknowledged(count)
  }

  /// The first ones that are held were acknowledged.
  private mutating func noteAcknowledged(_ count: Int) {
    latest = Array(held[..<count])
    held.removeFirst(count)
    if !traits.isStream { for delivery in latest { recent.add(delivery) } }
    acknowledged += count
    noteSettled(count, latest.last)
  }

  /// Whether what is handled, or may be, takes more methods in the end than a channel takes at once.
  var mayTakeMany: Bool {
    held.count + underWay.count > Self.settlementsInEnd && (!underWay.isEmpty || runs.count > Self.settlementsInEnd)
  }

  /// What is open and not under way, in the order in which it came: how many beside each other are handled, or are not.
  private var runs: [(isHandled: Bool, last: UInt64)] {
    let all = (held.map { ($0.tag, true) } + waiting.map { ($0.tag, false) }).sorted { $0.0 < $1.0 }
    var runs: [(isHandled: Bool, last: UInt64)] = []
    for (tag, isHandled) in all {
      if runs.last?.isHandled == isHandled { runs.removeLast() }
      runs.append((isHandled, tag))
    }
    return runs
  }

  /// Settles all that is open, where nothing is under way: each method acknowledges, or requeues, those beside each other.
  mutating func settleTogether() {
    guard !traits.isStream, link == .open, open == held.count + waiting.count else { return acknowledge(held.count) }
    for run in runs {
      send(
        run.isHandled
          ? .acknowledge(run.last, multiple: true) : .refuse(run.last, multiple: true, requeue: true))
    }
    open -= waiting.count
    forgetWaiting()
    noteAcknowledged(held.count)
  }

  mutating func noteSettled(_ count: Int, _ last: AMQPDelivery?) {
    open -= count
    let id = last?.message.properties.messageID
    guard outage.isLasting else {
      lastSettled = id
      return
    }
    // That it was sent says nothing of its arrival; the reply to what is sent after it does.
    if !questions.contains(where: { if case .arrival = $0.question { true } else { false } }) {
      ask(.inspect(queue), .arrival(id))
    }
  }

  mutating func arrivalAnswered(_ id: String?) {
    lastSettled = id
    outage.settled()
  }

  /// An acknowledgement that could not be sent is in doubt, with those after it.
  mutating func forgetUnsent(_ method: AMQPMethod?) {
    guard case .acknowledge(let tag, let isMultiple) = method, !traits.isStream,
      let last = latest.firstIndex(where: { $0.tag == tag && $0.connection == connectionID })
    else { return }
    let unsent = isMultiple ? latest[...last] : latest[last...]
    for delivery in unsent { doubtful.add(delivery.message) }
    recent.remove(last: unsent)
    latest = []
  }
}
