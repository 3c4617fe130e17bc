import DequeModule

/// Takes messages from a queue, hands them on, and settles them with the broker once they are handled, over as many connections as
/// it takes.
///
/// However it ends, it takes nothing new from then on, gives what is under way a bounded time, acknowledges what succeeded, and
/// requeues the rest.
///
/// It only decides. Whoever drives it hands in what has happened and carries out the actions, in their order, before anything
/// else is handed in.
package struct Consumer: Sendable {
  /// How it stands with the broker.
  enum Link: Equatable {
    /// There is no connection, and none is wanted.
    case none
    /// The next attempt begins then.
    case pausing(until: Deadline)
    case connecting
    /// The channel is being prepared: replies are to come.
    case opening
    case open
  }

  /// How it stands with the consumer on this channel.
  enum Subscription: Equatable {
    case none
    /// `consume-ok` is to come.
    case asked
    case active(tag: String)
    /// `cancel-ok` is to come, and then `qos-ok`.
    case cancelling
    /// `consume-ok` of another consumer is to come, and then this one is ended: a queue may be deleted with its last consumer.
    case changing(from: String)
    /// The broker ended it, and is asked whether the queue is there.
    case cancelled
  }

  /// What the broker has been asked.
  enum Question: Equatable {
    case channel
    case ownQueue
    case bound
    case queue
    case prefetch
    case consumer
    case cancel
    /// To end the consumer that has another in its place.
    case former
    /// After `cancel-ok` a quorum queue may send something yet; not after the response to what is asked next.
    case barrier
    /// Whether the queue is empty.
    case emptiness
    /// Whether what was sent to settle a message has arrived: its id.
    case arrival(String?)
    /// Of the queue, after the end of the consumer: see `Ending.needsReply`.
    case settlement
    /// Whether the queue is there whose consumer the broker ended.
    case existence
  }

  struct Asked {
    let question: Question
    /// What was acknowledged before.
    let acknowledged: AcknowledgedMessages.Mark
  }

  enum State {
    case running
    case ending(Ending)
    case ended(Cause?)
  }

  /// A message that was taken and is not settled.
  struct UnderWay {
    let number: Int
    var delivery: AMQPDelivery
  }

  /// How long the broker may take to respond to a method.
  static let replyTimeout = AMQPConnection.replyTimeout
  /// Time limit in the end for handled messages to come again, so that they can be acknowledged.
  static let patience: Duration = .seconds(2)

  let options: Options
  package internal(set) var traits: QueueTraits
  var state = State.running
  var generator: SplitMix

  // What this call of `handle` was given, and what it decides.
  var now: Deadline
  var actions: [Action] = []

  // The connection.
  var link = Link.connecting
  var connectionID: UInt64 = 0
  /// The queue's name, which is another one on each connection where the broker makes it.
  package internal(set) var queue: String
  var subscription = Subscription.none
  var prefetch: Int
  var questions = Deque<Asked>()
  /// Until when the next reply must come; never where none is waited for.
  var replyEnd = Deadline.never
  var outage: Outage
  /// Whether there was a consumer on any connection, and on an earlier one.
  var hasConsumed = false
  var hasReconnected = false
  /// Why the last connection was lost.
  var breakCause: AMQPError?
  /// Whether no attempt follows the one that is being made.
  var isLastAttempt = false
  /// Whether another connection is asked for the queue, and whether one has been, of this one.
  var isAskingElsewhere = false
  var wasAskedElsewhere = false
  /// Until when what an earlier connection held may come again.
  var returnEnd: Deadline

  // Messages.
  var handler: HandlerState
  var pace: Pace?
  /// Whether `taken` is to come.
  var isTaking = false
  /// Whether the handler was told that no more comes.
  var isHandlerTold = false
  package internal(set) var taken = 0
  /// Rejected ones among them.
  package internal(set) var handled = 0
  package internal(set) var rejected = 0
  /// Come, but not wanted yet, and the size of their bodies.
  var waiting = Deque<AMQPDelivery>()
  var waitingBytes = 0
  /// In the order of their numbers.
  var underWay = Deque<UnderWay>()
  /// Settled by the handler, and not flushed; `flushing` of them are covered by the flush that is under way.
  var written: [Settlement] = []
  var flushing = 0
  var isOutputLost = false
  /// When a flush that was interrupted is given up.
  var flushEnd = Deadline.never

  // Settling.
  /// How many deliveries of this connection are not settled.
  var open = 0
  /// Handled, but not yet acknowledged: see `acknowledge`.
  var held: [AMQPDelivery] = []
  var acknowledged = 0
  /// How many were requeued one by one.
  var returned = 0
  /// Whether the last ones that are handled stay unacknowledged until the end: see `acknowledge`.
  var holdsLast = true
  /// What was acknowledged last, in case that was not sent.
  var latest: [AMQPDelivery] = []
  var doubtful = HandledMessages()
  /// To be rejected once they come again: that could not be said of an earlier connection's.
  var unrejected = HandledMessages()
  var recent = AcknowledgedMessages()
  var place = StreamPlace()
  /// The place that was kept last.
  var keptPlace: Int64?
  /// How many have come, as far as a sample counts them.
  var counted = 0
  /// The id of the message that was settled last.
  var lastSettled: String?

  // Peeking.
  var firstPeeked: AMQPDelivery?
  /// How many are being saved, and which were and are not acknowledged yet.
  var saving = 0
  var saved: [AMQPDelivery] = []

  // Ends.
  var end: Deadline
  var idleEnd = Deadline.never
  var silenceEnd = Deadline.never
  /// Whether something was taken or settled since that was computed.
  var hasMoved = false
  /// How many were taken at the last turn.
  var turnTaken = 0
  /// How many were requeued and are to come again, and until when that is waited for: the broker may take a moment.
  var requeued = 0
  var requeueEnd: Deadline
  /// How many responses have said that the queue is empty since the last delivery, and when it may be asked again.
  var emptyResponses = 0
  var askTime: Deadline
  /// Whether what the broker sent was put by at the last turn.
  var hasMore = false
  /// Until when the broker must know again how many messages there are.
  var unknownEnd = Deadline.never
  /// Whether everything was settled with the broker.
  var isSettled = false

  /// - Parameter handler: how it is before the first message.
  package init(_ options: Options, handler: HandlerState, seed: UInt64, at now: Deadline) {
    self.options = options
    self.handler = handler
    self.now = now
    traits = options.traits
    generator = SplitMix(seed: seed)
    prefetch = options.prefetch
    pace = options.rate.map { Pace($0, at: now) }
    outage = Outage(limit: options.reconnectFor, first: options.connectFor, at: now)
    switch options.source {
    case .queue(let name), .bound(_, let name): queue = name
    }
    end = options.time.map { now + $0 } ?? .never
    (returnEnd, requeueEnd, askTime) = (now, now, now)
  }

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    if case .ended = state { return }
    self.now = now
    swap(&self.actions, &actions)
    defer { swap(&self.actions, &actions) }
    take(event)
    watchReplies()
    handOn()
    checkEnds()
    checkEnding()
  }

  private mutating func take(_ event: Event) {
    switch event {
    case .broker(let event): received(event)
    case .taken(let state):
      isTaking = false
      handler = state
    case .settled(let settlements, let state):
      handler = state
      settled(settlements)
    case .handler(let state):
      if state.answered != handler.answered { hasMoved = true }
      handler = state
    case .handlerFailed(let failure): end(.handling(failure))
    case .flushed: flushed()
    case .outputLost(let failure): outputLost(failure)
    case .saved(let delivery, let isSaved): saved(delivery, isSaved)
    case .connected(let connection): connected(connection)
    case .connectFailed(let failure): connectFailed(failure)
    case .lost(let error, let unsent, let unread): lost(error, unsent: unsent, unread: unread)
    case .closed: closed()
    case .cancelAhead: cancelAhead()
    case .foundElsewhere(let isFound): foundElsewhere(isFound)
    case .interrupted(let number): interrupted(number)
    case .turn(let hasMore): turned(hasMore)
    }
  }

  // MARK: Questions for the driver

  package var isEnded: Bool { if case .ended = state { true } else { false } }

  /// Why it failed, once it has ended; nil where it has not failed.
  package var cause: Cause? { if case .ended(let cause) = state { cause } else { nil } }

  /// Whether what the broker has sent is to be handed in. What is not is put by, so that heartbeats go on.
  package var wantsInput: Bool {
    switch (link, state) {
    case (.opening, _): return true
    case (.open, .running):
      if subscription == .cancelled { return true }
      // Once there was another connection, what is wanted may stand behind what is not.
      let mayTake = canTake || hasRoom && waiting.isEmpty
      return !isAskingElsewhere && (mayTake || hasReconnected && waitingBytes < Self.waitingLimit)
    case (.open, .ending(let ending)):
      return ending.step != .finishing || waitingBytes < Self.waitingLimit
    default: return false
    }
  }

  /// When `turn` is due although nothing has happened.
  package var wakeTime: Deadline {
    var time = min(replyEnd, flushEnd)
    if case .pausing(let until) = link { time = min(time, until) }
    switch state {
    case .running where link == .open:
      time = min(time, end, idleEnd)
      if let pace, pace.next > now { time = min(time, pace.next) }
      if options.drains || options.peeks {
        // After the last message, whether the queue is empty is asked at once.
        if turnTaken != taken { return now }
        if mayAskEmptiness { time = min(time, max(askTime, requeued > 0 ? requeueEnd : askTime)) }
      }
    case .running, .ended: break
    case .ending(let ending):
      time = min(time, ending.graceEnd)
      if case .recalling(let until) = ending.step, until > now { time = min(time, until) }
    }
    return time
  }

  // MARK: Means

  package var isRunning: Bool { if case .running = state { true } else { false } }

  /// Whether messages come and are handled.
  package var isReady: Bool {
    switch (state, link, subscription) {
    case (.running, .open, .active), (.running, .open, .changing): true
    default: false
    }
  }

  /// How many the handler is at work on, or has not told of.
  var outstanding: Int { underWay.count - written.count }
  /// How many of them have no answer.
  var unanswered: Int { outstanding - handler.answered }

  /// Whether the handler is at work on the message of this number, as far as is known here.
  func isUnderWay(_ number: Int) -> Bool { underWay.contains { $0.number == number } }

  func isCurrent(_ delivery: AMQPDelivery) -> Bool {
    (link == .open || link == .opening) && delivery.connection == connectionID
  }

  func isAsked(_ question: Question) -> Bool { questions.contains { $0.question == question } }

  mutating func send(_ method: AMQPMethod) { actions.append(.send(method)) }

  /// Sends a method that has a reply.
  mutating func ask(_ method: AMQPMethod, _ question: Question) {
    send(method)
    questions.append(Asked(question: question, acknowledged: recent.mark))
    if questions.count == 1 { replyEnd = now + Self.replyTimeout }
  }
}
