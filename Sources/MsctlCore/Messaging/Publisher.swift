import DequeModule

/// Publishes messages and has each of them confirmed, over as many connections as it takes: what was not confirmed when one broke is
/// sent again, as it was, under its first `message_id`.
///
/// It only decides. Whoever drives it hands in what has happened and carries out the actions, in their order, before anything else
/// is handed in.
package struct Publisher: Sendable {
  /// A message above this is sent alone, unless one as large was confirmed: where it is too large for the broker, the channel is
  /// closed, and what became of the messages beside it would not be known.
  package static let safeSize = 1 << 20
  /// How long the broker may take to respond to a method.
  private static let replyTimeout = AMQPConnection.replyTimeout
  /// A longer wait for the time of a message is told, once.
  private static let silence: Duration = .seconds(10)

  /// Why a channel is prepared.
  private enum Occasion: Equatable {
    case first
    case reconnection(isLast: Bool)
    /// The broker closed the last one over a message.
    case refusal
  }

  /// Replies of the broker that are to come. RabbitMQ's queue gives some and its channel others, so that they may overtake each other.
  private struct Replies: OptionSet {
    let rawValue: Int
    static let channel = Replies(rawValue: 1)
    static let queue = Replies(rawValue: 2)
    static let consumer = Replies(rawValue: 4)
    static let confirms = Replies(rawValue: 8)
    static let exchange = Replies(rawValue: 16)
  }

  /// What a channel waits for before it is ready to publish.
  private struct Preparation {
    let occasion: Occasion
    /// Whether the queue was looked for in vain and is declared now.
    var isDeclaring = false
    var replies: Replies = []
    /// Until when the next reply must come.
    var end = Deadline.never
  }

  private enum State {
    /// The next attempt begins then.
    case pausing(until: Deadline)
    case connecting(Occasion)
    case preparing(Preparation)
    case open
    case ended(Cause?)
  }

  private enum Input {
    case open
    case ended
    /// No more is sent; what was sent before is still settled.
    case stopped(Cause)
  }

  /// A reply that is waited for, by its message's correlation id; replies are handed out in this order.
  private struct Expected {
    let number: Int
    let correlationID: String
    var deadline: Deadline
    var reply: AMQPMessage?
  }

  private let options: Options
  private var state = State.connecting(.first)
  private var input = Input.open
  private var generator: SplitMix
  private var outage: Outage
  private var schedule: Schedule
  private var window = ConfirmWindow()
  /// Why the broker takes no messages for now.
  private var blockedReason: String?
  /// Read, and sent once nothing is in flight.
  private var next: OutgoingMessage?
  /// When it may be sent.
  private var dueTime: Deadline
  private var isWaitTold = false
  /// To be sent again, before anything new, and when.
  private var again = Deque<OutgoingMessage>()
  private var retryTime: Deadline
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(5))
  /// How many messages are to be sent one by one: one of them makes the broker close the channel.
  private var suspects = 0
  /// Whether the message in flight was sent alone.
  private var isAlone = false
  private var largestConfirmed = 0
  /// The largest message that the broker takes, once it has said so.
  private var sizeLimit = Int.max
  private var expected = Deque<Expected>()
  /// Until when something in flight must be settled.
  private var confirmEnd = Deadline.never
  /// Until when a broker that was lost may refuse messages because it is coming up.
  private var recoveryEnd: Deadline
  private var now: Deadline
  private var actions: [Action] = []

  /// Whether a channel has been ready to publish.
  package private(set) var hasOpened = false
  package private(set) var confirmed = 0
  package private(set) var failed = 0

  package init(_ options: Options, seed: UInt64, at now: Deadline) {
    self.options = options
    self.now = now
    generator = SplitMix(seed: seed)
    outage = Outage(limit: options.reconnectFor, first: options.connectFor, at: now)
    schedule = Schedule(options.timing, at: now)
    (retryTime, recoveryEnd, dueTime) = (now, now, now)
  }

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    if case .ended = state {
      // What has failed last may be what cannot be kept.
      if case .failed(let failure) = event { state = .ended(.driver(failure)) }
      return
    }
    self.now = now
    swap(&self.actions, &actions)
    defer { swap(&self.actions, &actions) }
    switch event {
    case .message(let message): take(message)
    case .broker(let event): received(event)
    case .tick: tick()
    case .connected(let opening): connected(opening)
    case .connectFailed(let failure): connectFailed(failure)
    case .lost(let error): lost(error)
    case .unsendable(let number, let error):
      if let outgoing = window.remove(unsent: number) { fail(outgoing, .unsendable(error)) }
    case .inputEnded(let failure):
      guard case .open = input else { break }
      input = failure.map { .stopped(.input($0)) } ?? .ended
    case .outputLost(let failure):
      if case .stopped = input { break }
      input = .stopped(.output(failure))
    case .failed(let failure): end(.driver(failure))
    case .interrupted(let number): interrupted(number)
    }
    sendOn()
  }

  // MARK: Questions for the driver

  package var isEnded: Bool { if case .ended = state { true } else { false } }

  /// Why it failed, once it has ended; nil where all that was handed in is confirmed or was told to have failed.
  package var cause: Cause? { if case .ended(let cause) = state { cause } else { nil } }

  /// Whether another message may be handed in.
  package var wantsMessage: Bool {
    guard case .open = state, case .open = input else { return false }
    // A broker that takes none is given the time limit of a confirm, but only where there is a message for it.
    return again.isEmpty && next == nil && window.count < options.window && !isAlone && expected.count < options.window
  }

  /// When `tick` is due although nothing has happened.
  package var wakeTime: Deadline {
    switch state {
    case .pausing(let until): return until
    case .preparing(let preparation): return preparation.end
    case .connecting, .ended: return .never
    case .open:
      let retryTime = again.isEmpty || retryTime <= now ? .never : retryTime
      let dueTime = next == nil || dueTime <= now ? .never : dueTime
      return min(confirmEnd, retryTime, dueTime, expected.first?.deadline ?? .never)
    }
  }

  /// How many are in flight, or to be sent again.
  package var unconfirmed: Int { window.count + again.count }
  /// How many were handed in and are not in flight.
  package var unsent: Int { again.count + (next == nil ? 0 : 1) }
  /// What was handed in and is neither confirmed nor told to have failed, in its order. What of it is in flight may have arrived.
  package var left: [OutgoingMessage] {
    (window.messages + again + (next.map { [$0] } ?? [])).sorted { $0.message.number < $1.message.number }
  }

  // MARK: Sending

  private var hasRoom: Bool { window.count < options.window && blockedReason == nil }

  private mutating func take(_ message: OutgoingMessage) {
    next = message
    dueTime = schedule.due(message.message, at: now)
    guard case .replay = options.timing, dueTime > now + Self.silence, !isWaitTold else { return }
    isWaitTold = true
    actions.append(.note(.waiting(dueTime - now)))
  }

  /// Sends what can be sent, and ends where nothing is left to do.
  private mutating func sendOn() {
    guard case .open = state else { return }
    if window.isEmpty { isAlone = false }
    // What was refused while the broker was coming up, or was in flight when it closed the channel.
    while let message = again.first, retryTime <= now, maySend(message) {
      again.removeFirst()
      send(message)
    }
    if let message = next, again.isEmpty, !isStopped, dueTime <= now, maySend(message) {
      next = nil
      schedule.sent(at: now)
      send(message)
    }
    guard window.isEmpty else { return }
    limitBlocking()
    switch input {
    case .open: break
    case .ended where again.isEmpty && next == nil && expected.isEmpty: end(nil)
    case .ended: break
    case .stopped(let cause): end(cause)
    }
  }

  /// A message may wait for a broker that takes none for as long as one may wait for its confirm.
  private mutating func limitBlocking() {
    let isWaiting = blockedReason != nil && (next != nil && dueTime <= now || !again.isEmpty)
    if !isWaiting { confirmEnd = .never } else if confirmEnd == .never { confirmEnd = now + options.confirmTimeout }
  }

  private var isStopped: Bool { if case .stopped = input { true } else { false } }

  private func maySend(_ message: OutgoingMessage) -> Bool {
    hasRoom && !isAlone && (window.isEmpty || !goesAlone(message))
  }

  /// Whether nothing may be in flight beside a message.
  private func goesAlone(_ message: OutgoingMessage) -> Bool {
    suspects > 0 || message.message.body.count > max(Self.safeSize, largestConfirmed)
  }

  private mutating func send(_ outgoing: OutgoingMessage) {
    guard outgoing.message.body.count <= sizeLimit else { return fail(outgoing, .tooLarge(limit: sizeLimit)) }
    isAlone = goesAlone(outgoing)
    if suspects > 0 { suspects -= 1 }
    if options.wantsReplies, let id = outgoing.message.properties.correlationID {
      let deadline = now + options.replyTimeout
      // One that is sent again keeps its place.
      if let place = expected.firstIndex(where: { $0.number == outgoing.message.number }) {
        expected[place].deadline = deadline
      } else {
        expected.append(Expected(number: outgoing.message.number, correlationID: id, deadline: deadline))
      }
    }
    if window.isEmpty { confirmEnd = now + options.confirmTimeout }
    window.add(outgoing)
    actions.append(.send(.publish(outgoing.message)))
  }

  /// A message is lost to this run, and the others go on.
  private mutating func fail(_ outgoing: OutgoingMessage, _ reason: Reason) {
    failed += 1
    actions.append(.failed(outgoing, reason))
    guard options.wantsReplies else { return }
    // Replies to those after it may wait for its own, which does not come.
    expected.removeAll { $0.number == outgoing.message.number }
    handOutReplies()
  }

  // MARK: What the broker says

  private mutating func received(_ event: AMQPEvent) {
    switch event {
    case .ack(let tag, let multiple):
      window.confirm(tag, multiple: multiple, .confirmed)
      settle()
    case .nack(let tag, let multiple):
      window.confirm(tag, multiple: multiple, .nacked)
      settle()
    case .returned(let message, let code, let text): window.returned(message, code: code, text: text)
    case .blocked(let reason): blocked(reason)
    case .unblocked: unblocked()
    case .delivery(let delivery): takeReply(delivery.message)
    case .channelOpen: replied(.channel)
    case .exchange: replied(.exchange)
    case .queue: replied(.queue)
    case .consuming: replied(.consumer)
    case .confirmsSelected: replied(.confirms)
    case .cancelled, .bound, .prefetchSet, .consumerEnded: break
    }
  }

  private mutating func blocked(_ reason: String) {
    blockedReason = reason
    if options.waitsWhileBlocked { actions.append(.note(.blocked(reason: reason))) }
  }

  private mutating func unblocked() {
    blockedReason = nil
    // What is in flight is taken only now.
    if options.waitsWhileBlocked, !window.isEmpty { confirmEnd = now + options.confirmTimeout }
  }

  private mutating func settle() {
    while let (outgoing, outcome) = window.popSettled() { settle(outgoing, outcome) }
  }

  /// - Parameter isInOrder: whether all that was sent before is settled.
  private mutating func settle(
    _ outgoing: OutgoingMessage, _ outcome: AMQPPublisher.Outcome, isInOrder: Bool = true
  ) {
    confirmEnd = now + options.confirmTimeout
    switch outcome {
    case .confirmed:
      backoff.reset()
      outage.settled()
      confirmed += 1
      largestConfirmed = max(largestConfirmed, outgoing.message.body.count)
      actions.append(.confirmed(outgoing, isInOrder: isInOrder))
    case .nacked where now < recoveryEnd:
      // A queue whose node was lost has no quorum until another one leads it.
      again.append(outgoing)
      if retryTime <= now { retryTime = now + backoff.next(using: &generator) }
    case .nacked: fail(outgoing, .nacked)
    case .returned(let code, let text): fail(outgoing, .returned(code: code, text: text))
    }
  }

  private mutating func takeReply(_ message: AMQPMessage) {
    guard let id = message.properties.correlationID,
      let place = expected.firstIndex(where: { $0.correlationID.isSame(as: id) })
    else { return }
    expected[place].reply = message
    handOutReplies()
  }

  private mutating func handOutReplies() {
    while let reply = expected.first?.reply {
      actions.append(.reply(reply))
      expected.removeFirst()
    }
  }

  // MARK: Connections

  private mutating func connected(_ opening: Opening) {
    guard case .connecting(let occasion) = state else { return actions.append(.disconnect) }
    blockedReason = nil
    outage.connected(at: now)
    switch opening {
    case .bare: prepare(occasion)
    case .prepared(let sent):
      opened(occasion)
      guard let sent else { return }
      // Its message is the first of this channel.
      window.add(sent)
      confirmEnd = now + options.confirmTimeout
    case .refused(let error):
      state = .preparing(Preparation(occasion: occasion))
      lost(error)
    }
  }

  /// Makes sure of the queue, and has everything confirmed.
  /// - Parameter isDeclaring: whether the queue was looked for in vain, which has closed the channel.
  private mutating func prepare(_ occasion: Occasion, isDeclaring: Bool = false) {
    var preparation = Preparation(occasion: occasion, isDeclaring: isDeclaring, end: now + Self.replyTimeout)
    func ask(_ method: AMQPMethod, _ reply: Replies) {
      actions.append(.send(method))
      preparation.replies.insert(reply)
    }
    if isDeclaring || occasion == .refusal { ask(.openChannel, .channel) }
    if let exchange = options.exchange, occasion != .refusal { ask(.declareExchange(exchange), .exchange) }
    if let queue = options.queue, occasion != .refusal {
      let arguments = isDeclaring ? [] : options.arguments
      ask(arguments.map { .declare(queue, arguments: $0) } ?? .inspect(queue), .queue)
    }
    if options.wantsReplies { ask(.consume(AMQPConnection.directReply, arguments: [], isAutomatic: true), .consumer) }
    ask(.selectConfirms, .confirms)
    state = .preparing(preparation)
  }

  private mutating func replied(_ reply: Replies) {
    guard case .preparing(var preparation) = state else { return }
    preparation.replies.remove(reply)
    preparation.end = now + Self.replyTimeout
    if preparation.replies.isEmpty { opened(preparation.occasion) } else { state = .preparing(preparation) }
  }

  private mutating func opened(_ occasion: Occasion) {
    state = .open
    hasOpened = true
    isAlone = false
    if case .reconnection = occasion {
      if outage.isFirstBreak { actions.append(.note(.reconnected)) }
      recoveryEnd = now + options.reconnectFor
    }
    for outgoing in window.restart() { actions.append(.send(.publish(outgoing.message))) }
    if !window.isEmpty { confirmEnd = now + options.confirmTimeout }
  }

  private mutating func lost(_ error: AMQPError) {
    switch state {
    case .preparing(let preparation):
      let occasion = preparation.occasion
      // To look for a queue that does not exist closes the channel.
      if error.kind == .channelClosed(code: 404), !error.isTransient, !preparation.isDeclaring, options.mayDeclare,
        options.queue != nil, occasion != .refusal
      {
        return prepare(occasion, isDeclaring: true)
      }
      switch occasion {
      case .first where now >= outage.deadline: end(.unprepared(error))
      case .first, .reconnection:
        guard error.isTransient || error.kind == .timedOut else { return end(.unprepared(error)) }
        actions.append(.disconnect)
        // It stood, and broke again.
        _ = outage.broke(isIdle: false, at: now)
        if occasion == .reconnection(isLast: true) { endRepeated(error) } else { pause() }
      case .refusal: reconnect(after: error)
      }
    case .open:
      confirmReplied()
      if error.isAboutOneMessage, !window.isEmpty, !hasOtherReplies {
        reopen(after: error)
      } else {
        reconnect(after: error)
      }
    case .pausing, .connecting, .ended: break
    }
  }

  /// Who has replied to a message has it, though the broker's word for that is lost now: sent again, it would be handled twice.
  private mutating func confirmReplied() {
    guard options.wantsReplies else { return }
    window.confirm { message in !expected.contains { $0.number == message.number } }
    settle()
  }

  /// Whether replies are waited for that a new channel would not get.
  private var hasOtherReplies: Bool { options.wantsReplies && unconfirmed > 1 }

  /// Goes on after the broker closed the channel over a message: without it where it is known, else with each message that was
  /// in flight by itself, until it is.
  private mutating func reopen(after error: AMQPError) {
    if let limit = error.refusedSize?.limit { sizeLimit = limit }
    let culprit = window.culprit(of: error)
    var open: [OutgoingMessage] = []
    for (outgoing, outcome) in window.takeAll() {
      if let outcome {
        settle(outgoing, outcome)
      } else if outgoing.message.number == culprit {
        fail(outgoing, .refused(error))
      } else {
        open.append(outgoing)
      }
    }
    again.insert(contentsOf: open, at: 0)
    retryTime = now
    if culprit == nil { suspects = open.count }
    prepare(.refusal)
  }

  /// A reply comes to the connection of its request alone, so that requests are not sent again.
  private mutating func reconnect(after error: AMQPError) {
    guard error.isTransient, expected.isEmpty, options.reconnectFor > .zero else { return end(.broker(error)) }
    actions.append(.disconnect)
    guard outage.broke(isIdle: window.isEmpty, at: now) else { return endRepeated(error) }
    if outage.isFirstBreak { actions.append(.note(.reconnecting(error))) }
    pause()
  }

  private mutating func endRepeated(_ error: AMQPError) {
    let (breaks, time) = (outage.breaks, now - outage.begin)
    settleHeld()
    end(.repeatedBreaks(error, breaks: breaks, within: time, unconfirmed: window.count))
  }

  private mutating func pause() {
    state = .pausing(until: min(outage.deadline, now + outage.pause(using: &generator)))
  }

  private mutating func connectFailed(_ failure: Failure) {
    guard case .connecting(let occasion) = state else { return }
    let isLast =
      switch occasion {
      case .first: now >= outage.deadline
      case .reconnection(let isLast): isLast
      case .refusal: true
      }
    guard !isLast, failure.isTransient(awaitsPassword: options.awaitsPassword) else {
      return end(.unconnected(failure))
    }
    if failure.code == .denied, options.awaitsPassword, outage.tellsRefusal() {
      actions.append(.note(.loginRefused(failure)))
    }
    pause()
  }

  // MARK: Time, and the end

  private mutating func tick() {
    switch state {
    case .pausing(let until):
      guard now >= until else { return }
      state = .connecting(.reconnection(isLast: now >= outage.deadline))
      actions.append(.connect)
    case .preparing(let preparation):
      guard now >= preparation.end else { return }
      lost(AMQPError(kind: .timedOut, reason: "no response within \(Self.replyTimeout.shown)"))
    case .open:
      if now >= confirmEnd, blockedReason != nil, options.waitsWhileBlocked {
        confirmEnd = now + options.confirmTimeout
      } else if now >= confirmEnd {
        end(.unconfirmed(blocked: blockedReason))
      } else if let first = expected.first, now >= first.deadline {
        end(.noReply(number: first.number))
      }
    case .connecting, .ended: break
    }
  }

  /// What is in flight is still settled; nothing is waited for where there is no connection.
  private mutating func interrupted(_ number: Int32) {
    guard case .open = state else { return end(.interrupted(number)) }
    input = .stopped(.interrupted(number))
  }

  private mutating func end(_ cause: Cause?) {
    settleHeld()
    state = .ended(cause)
  }

  /// What is confirmed is not in doubt because an older message is.
  private mutating func settleHeld() {
    for (outgoing, outcome) in window.takeSettled() { settle(outgoing, outcome, isInOrder: false) }
  }
}
