extension Consumer {
  /// How long commands may go on once a signal, a failure or the end of the time has come.
  static let grace: Duration = .seconds(10)

  /// Why the run ends, and how far it has come with that.
  struct Ending {
    enum Step: Equatable {
      /// The broker is to be told that nothing more is wanted.
      case begun
      /// It has been told; what it has sent until then is to come.
      case stopping
      /// What is under way gets its time.
      case finishing
      /// There is another connection, to acknowledge what is handled.
      case reconnecting(until: Deadline)
      /// What is handled is to come again, so that it can be acknowledged.
      case recalling(until: Deadline)
      /// As `stopping`, for a consumer that was kept until now.
      case stoppingAtLast
      /// All is settled, as far as it can be; replies may be to come.
      case settled
      case closing
    }

    var cause: Cause?
    /// When commands are told to end; `never` where nothing presses.
    var graceEnd: Deadline
    /// Whether a lost connection may be replaced once more, to acknowledge what is handled.
    var mayReconnect: Bool
    var step = Step.begun
    /// Whether a reply of the queue must come between the end of the consumer and that of the channel, which takes in what it has put by.
    var needsReply = false
  }

  var ending: Ending? {
    get { if case .ending(let ending) = state { ending } else { nil } }
    set { if let newValue, case .ending = state { state = .ending(newValue) } }
  }

  /// Nothing new is taken from here on.
  /// - Parameter isPressing: whether what is under way must end within the grace.
  mutating func end(_ cause: Cause?, isPressing: Bool = true, mayReconnect: Bool = true) {
    let graceEnd = isPressing ? now + Self.grace : .never
    guard let ending else {
      state = .ending(Ending(cause: cause, graceEnd: graceEnd, mayReconnect: mayReconnect))
      // All that comes now is requeued, unless it must be saved.
      if options.peeks, !options.saves { actions.append(.dropBodies) }
      stopConnecting()
      return finishHandler()
    }
    // What fails while it ends says more than why it was to end.
    if let cause {
      if ending.cause.map({ $0.isOutweighed && !cause.isOutputClosed }) ?? true {
        self.ending?.cause = cause
      } else {
        actions.append(.report(cause))
      }
    }
    if ending.graceEnd == .never { self.ending?.graceEnd = graceEnd }
  }

  /// No other connection is wanted.
  mutating func stopConnecting() {
    switch link {
    case .connecting:
      actions.append(.stopConnecting)
      link = .none
    case .pausing: link = .none
    default: break
    }
  }

  private mutating func finishHandler() {
    isHandlerTold = true
    // What it has put by may still be told.
    handler.isFinished = false
    actions.append(.finish)
  }

  // MARK: When it ends

  /// All that was ready is handed in.
  mutating func turned(_ hasMore: Bool) {
    connectWhenDue()
    self.hasMore = hasMore
    defer { turnTaken = taken }
    guard isRunning, link == .open, turnTaken == taken, options.drains || options.peeks, isAtRest else { return }
    guard isEmpty(hasMore) else { return }
    if handler.gathered > 0 { startBatch() } else { end(nil, isPressing: false) }
  }

  /// What comes of it may be that something is requeued: so it is no end yet.
  private mutating func startBatch() {
    actions.append(.startBatch)
    hasMoved = true
    emptyResponses = 0
  }

  mutating func checkEnds() {
    if now >= flushEnd { outputLost(nil) }
    guard isRunning else { return }
    noteBusy()
    if options.limit.map({ handled >= $0 }) ?? false || handler.hasEnded { return end(nil, isPressing: false) }
    guard link == .open else { return }
    if now >= idleEnd, now < end, handler.gathered > 0 {
      startBatch()
      noteBusy()
    }
    if now >= end || now >= idleEnd {
      if now < end, unanswered > 0 { actions.append(.note(.idleFilter(unprocessed: unanswered))) }
      return end(options.limit.map { .tooFew(handled: handled, of: $0) })
    }
    // Nothing more will come for it: a filter that holds back its output gives it at the end of its input.
    let isLast = options.limit == handled + underWay.count && handler.failed == 0 && !isTaking
    if isLast, !isHandlerTold {
      if handler.gathered > 0 { startBatch() }
      finishHandler()
    } else if !isLast {
      isHandlerTold = false
    }
  }

  /// Idle is the time without a message and without work.
  private mutating func noteBusy() {
    guard let idle = options.idle else { return }
    let hasMoved = hasMoved
    self.hasMoved = false
    if options.handling.isFilter, unanswered > 0 {
      // A filter may be at work on what it owes, or keep it: so it gets more time.
      if hasMoved { silenceEnd = now + max(idle, Self.grace) }
      idleEnd = silenceEnd
    } else if hasMoved || outstanding > handler.answered + handler.gathered || !written.isEmpty || !waiting.isEmpty {
      idleEnd = now + idle
    }
  }

  // MARK: Step by step

  mutating func checkEnding() {
    guard let ending else { return }
    if now >= ending.graceEnd {
      self.ending?.graceEnd = .never
      actions.append(.terminate)
    }
    while let step = self.ending?.step, let next = nextStep(after: step) { self.ending?.step = next }
  }

  /// - Returns: nil where something must happen first, or nothing is left.
  private mutating func nextStep(after step: Ending.Step) -> Ending.Step? {
    switch step {
    case .begun:
      guard link == .open else { return link == .opening ? nil : .finishing }
      // What is handled or being handled may still have to come again.
      if hasReconnected, isAwaiting || outstanding > 0 || mayReturn { return .finishing }
      // And what may be more than a channel takes at once is settled while there is a consumer.
      if settlesSingly, mayTakeMany { return .finishing }
      return stopConsumer() ? .stopping : nil
    case .stopping:
      guard link == .open else { return .finishing }
      guard isStopped else { return nil }
      if traits.isStream { forgetWaiting() }
      if underWay.isEmpty, open == held.count + waiting.count {
        settleAll()
      } else if waiting.count <= Self.settlementsInEnd / 2 {
        // Another consumer can have them at once.
        while let delivery = waiting.popFirst() { requeue(delivery) }
        forgetWaiting()
      }
      acknowledge()
      return .finishing
    case .finishing:
      guard handler.isFinished, !isTaking, written.isEmpty, saving == 0, link != .opening else { return nil }
      abandonWork()
      return link == .open ? .recalling(until: now + Self.patience) : reconnectAtLast()
    case .reconnecting:
      switch link {
      case .open: return .recalling(until: now + Self.patience)
      case .none: return over()
      default: return nil
      }
    case .recalling(let until):
      guard link == .open else { return .finishing }
      guard !isAwaiting && !mayReturn || now >= until || subscription == .none else { return nil }
      if settlesSingly, mayTakeMany { acknowledge(held.count) }
      return stopConsumer() ? .stoppingAtLast : nil
    case .stoppingAtLast:
      guard link == .open else { return .finishing }
      guard isStopped, !isAsked(.settlement) else { return nil }
      if self.ending?.needsReply ?? false {
        self.ending?.needsReply = false
        ask(.inspect(queue), .settlement)
        return nil
      }
      settleAll()
      return .settled
    case .settled:
      guard link == .open else { return .finishing }
      guard questions.isEmpty else { return nil }
      // What was sent last arrives before the connection is closed in good order.
      actions.append(.close)
      return .closing
    case .closing: return link == .open ? nil : .finishing
    }
  }

  /// Whether nothing more is delivered.
  var isStopped: Bool { subscription == .none }

  /// Ends the consumer, and makes sure that all it was sent has come.
  /// - Returns: false where a reply must come first.
  private mutating func stopConsumer() -> Bool {
    switch subscription {
    case .none, .cancelling: return true
    case .asked, .changing, .cancelled: return false
    case .active(let tag):
      ask(.cancel(consumer: tag), .cancel)
      subscription = .cancelling
      let needsReply = settlesSingly && acknowledged + returned > Self.settlementsInEnd
      ending?.needsReply = needsReply
    }
    return true
  }

  /// Whether messages are settled one by one, since they are handled in any order.
  private var settlesSingly: Bool {
    (!options.handling.isInOrder || hasReconnected) && !traits.isStream && !options.peeks
  }

  /// Whether something is done with that must come again, so that it can be said.
  private var isAwaiting: Bool { !doubtful.isEmpty || !unrejected.isEmpty }

  /// Only for what is handled there is another connection now, and only one.
  private mutating func reconnectAtLast() -> Ending.Step? {
    guard let ending, ending.mayReconnect, isAwaiting || recent.mayReturn else { return over() }
    self.ending?.mayReconnect = false
    reconnectInEnd()
    return .reconnecting(until: ending.cause == nil ? .never : now + Self.patience)
  }

  /// Acknowledges everything that is handled, and requeues the rest.
  private mutating func settleAll() {
    if held.count > Self.settlementsInEnd { settleTogether() } else { acknowledge(held.count) }
    // The broker requeues what two consumers held consumer by consumer, and not in order.
    if let firstPeeked, isCurrent(firstPeeked) {
      send(.refuse(firstPeeked.tag, multiple: false, requeue: true))
      open -= 1
    }
    firstPeeked = nil
    guard open > 0, !traits.isStream else { return }
    send(.requeueAll)
    open = 0
    forgetWaiting()
  }

  mutating func closed() {
    guard ending?.step == .closing else { return }
    isSettled = true
    if now >= returnEnd { recent.trust() }
    link = .none
    _ = over()
  }

  private mutating func over() -> Ending.Step? {
    state = .ended(finalCause())
    return nil
  }

  private mutating func finalCause() -> Cause? {
    if let cause = ending?.cause { return cause }
    let unacknowledged = doubtful.count + unrejected.count + recent.inDoubt
    if unacknowledged > 0 {
      guard isSettled else { return .unacknowledged(unacknowledged, breakCause) }
      actions.append(.note(.unacknowledged(unacknowledged)))
    }
    if rejected > 0 { return .rejected(rejected) }
    return taken == 0 && options.requires ? .noMessages : nil
  }
}
