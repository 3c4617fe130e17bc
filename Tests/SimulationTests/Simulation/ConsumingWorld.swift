import DequeModule
import MsctlCore

/// One run of a consumer: the real machine against a broker, a network and a handler that do what they can against it.
enum ConsumingWorld: World {
  static let name = "consuming"

  static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    try ConsumeRun(choices, story).run()
  }
}

private final class ConsumeRun {
  /// No schedule has this many turns, unless it goes round without end.
  private static let turnLimit = 20_000
  /// The longest that a run may take after the end was asked for: what is under way gets 10 s, and 10 s to be killed; a reply 30 s;
  /// what is handled 2 s to come again.
  private static let endLimit: Duration = .seconds(120)

  private enum End: CaseIterable { case drain, count, time, idle, peek, signal }

  private let choices: Choices
  private let story: Story
  private let timeline = Timeline()
  private let broker: SimulatedBroker
  private let network: Network
  private let queue: SimulatedBroker.Queue
  private let handler: SimulatedHandler
  private let options: Consumer.Options
  private let end: End
  private var machine: Consumer
  private var actions: [Consumer.Action] = []
  private var pending = Deque<Consumer.Event>()
  private var link: Link?
  private var inbox = Deque<AMQPEvent>()
  private var loss: AMQPError?
  private var isConnecting = false
  private var awaitsPrefetch = false
  private var lastState: Consumer.HandlerState
  /// Whether the machine is to be told the state, changed or not.
  private var isStateDue = false

  // What the rules look at:
  private let total: Int
  /// Whether each message has an id of its own.
  private let hasIDs: Bool
  /// How many messages of each content there were.
  private var copies: [String: Int] = [:]
  private var unflushed: [(number: Int, key: String)] = []
  private var handled: [String: Int] = [:]
  private var acknowledged: [String: Int] = [:]
  private var saved: Set<String> = []
  private var unsaved: Set<String> = []
  private var breaks = 0
  /// Whether nothing has happened that could keep a message from being handled.
  private var isQuiet = true
  /// Whether it was told that something may come again.
  private var isDoubtTold = false
  private var isOutputClosed = false
  private var isFlushing = false
  private var askedToEnd: Deadline?
  private var violation: Violation?

  init(_ choices: Choices, _ story: Story) {
    self.choices = choices
    self.story = story
    let release = choices.pick(from: [SimulatedBroker.Release.v43, .v40, .v3])
    broker = SimulatedBroker(release, timeline, choices, story)
    network = Network(timeline, choices, story, broker)
    let kind = choices.pick(from: [SimulatedBroker.Kind.classic, .quorum, .quorum, .stream])
    let limit = kind == .quorum && choices.chance(30) ? choices.pick(2...5) : nil
    queue = broker.makeQueue("q", kind, deliveryLimit: limit)
    total = choices.pick(from: [3, 0, 1, 10, 60])
    let isNamed = !choices.chance(25)
    let isShared = choices.chance(isNamed ? 10 : 50)
    hasIDs = isNamed && !isShared
    for number in 0..<total {
      // Who gives two messages one id and one content has one message.
      let key = isShared && !isNamed ? "body \(number % 3)" : "body \(number)"
      copies[key, default: 0] += 1
      var message = AMQPMessage(body: Array(key.utf8), exchange: "", routingKey: "q")
      if isNamed { message.properties.messageID = isShared ? "id \(number / 3)" : "id \(number)" }
      broker.put(message, into: queue)
    }
    let handling = choices.pick(
      from: [Consumer.Handling.output, .filter, .commands(parallel: choices.pick(from: [1, 4]))])
    handler = SimulatedHandler(handling, timeline, choices, story)
    lastState = handler.state
    var end = choices.pick(from: End.allCases)
    if kind == .stream, end == .drain || end == .peek { end = .count }
    if end == .peek, handling != .output { end = .drain }
    self.end = end
    if let limit, end == .peek {
      // Some came back before, which looking at them must not end.
      for stored in queue.ready where choices.chance(30) { stored.age(returns: choices.pick(limit + 1)) }
    }
    options = Self.options(end, handling, kind, total, limit, release, choices)
    machine = Consumer(options, handler: lastState, seed: choices.seed(), at: timeline.now)
    broker.onAcknowledged = { [unowned self] stored in acknowledge(stored) }
    story.tell(
      timeline.now,
      "\(total) messages in a \(kind.rawValue) queue of \(release.rawValue), \(handling), \(end), prefetch \(options.prefetch)"
    )
  }

  private static func options(
    _ end: End, _ handling: Consumer.Handling, _ kind: SimulatedBroker.Kind, _ total: Int, _ limit: Int?,
    _ release: SimulatedBroker.Release, _ choices: Choices
  ) -> Consumer.Options {
    var options = Consumer.Options(.queue("q"))
    options.handling = handling
    options.traits.isStream = kind == .stream && choices.chance(70)
    let countsReturns = release == .v40 || release == .v3 && limit != nil
    options.traits.deliveryLimit = kind == .quorum && countsReturns ? limit ?? (release == .v40 ? 20 : nil) : nil
    options.reconnectFor = .seconds(60)
    switch end {
    case .drain: options.drains = true
    case .count:
      options.limit = choices.pick(1...max(1, total))
    case .time: options.time = .milliseconds(choices.pick(1...3000))
    case .idle: options.idle = .milliseconds(choices.pick(100...3000))
    case .peek:
      options.peeks = true
      options.limit = total
      options.prefetch = options.traits.deliveryLimit == nil ? max(1, total) : 1
      return options
    case .signal: break
    }
    options.prefetch = Consumer.prefetch(
      choices.pick(from: [nil, 1, 3, 10]), for: handling, limit: options.limit,
      endsInTime: ![.drain, .signal].contains(end),
      countsReturns: options.traits.deliveryLimit != nil && release == .v40)
    return options
  }

  // MARK: The run

  func run() throws(Violation) {
    planFaults()
    connect(isFirst: true)
    var turns = 0
    while !machine.isEnded {
      turns += 1
      guard turns < Self.turnLimit else { throw Violation("every wait is bounded", "it goes round without end") }
      turn()
      if let violation { throw violation }
      if machine.isEnded { break }
      if let askedToEnd, timeline.now - askedToEnd > Self.endLimit {
        throw Violation("every wait is bounded", "still there \(Self.endLimit.shown) after its end was asked for")
      }
      let isReady = isStateDue || machine.wantsInput && !inbox.isEmpty
      let time = isReady ? timeline.now : min(timeline.next, machine.wakeTime, handler.wakeTime)
      guard time != .never else { throw Violation("every wait is bounded", "it waits for nothing") }
      timeline.advance(to: max(time, timeline.now))
      if let violation { throw violation }
    }
    story.tell(timeline.now, "ended: \(machine.cause.map { "\($0)" } ?? "done")")
    try settleDown()
    try judge()
  }

  /// Everything that is ready is handed in, and what follows from it is carried out.
  private func turn() {
    if let loss, inbox.isEmpty || choices.chance(50) {
      let unread = inbox.compactMap { event -> AMQPMessage? in
        if case .delivery(let delivery) = event { delivery.message } else { nil }
      }
      self.loss = nil
      inbox = []
      hand(.lost(loss, unsent: nil, unread: unread))
    }
    while machine.wantsInput, let event = inbox.popFirst() { hand(.broker(event)) }
    if inbox.contains(.cancelled) { hand(.cancelAhead) }
    switch handler.proceed({ number, key in unflushed.append((number, key)) }) {
    case .failure(let failure): hand(.handlerFailed(failure))
    case .success(let settled):
      if !settled.isEmpty { hand(.settled(settled, handler.state)) }
    }
    if handler.state != lastState || isStateDue {
      isStateDue = false
      lastState = handler.state
      hand(.handler(lastState))
    }
    if isOutputClosed, options.handling == .output { closeOutput() }
    hand(.turn(hasMore: !inbox.isEmpty))
  }

  private func hand(_ event: Consumer.Event) {
    pending.append(event)
    drainPending()
  }

  private func drainPending() {
    while let next = pending.popFirst(), !machine.isEnded {
      actions.removeAll(keepingCapacity: true)
      machine.handle(next, at: timeline.now, into: &actions)
      for action in actions { perform(action) }
    }
  }

  private func perform(_ action: Consumer.Action) {
    story.tell(timeline.now, "> \(action.told)")
    switch action {
    case .send(let method): if let link { network.send(method, on: link) }
    case .connect: connect(isFirst: false)
    case .stopConnecting: isConnecting = false
    case .disconnect:
      if let link { network.close(link) {} }
      link = nil
      loss = nil
    case .close:
      guard let link else { return }
      network.close(link) { [unowned self] in
        guard link === self.link else { return }
        self.link = nil
        hand(.closed)
      }
    case .take(let number, let delivery):
      handler.take(number, delivery.key)
      lastState = handler.state
      pending.append(.taken(lastState))
    case .finish:
      handler.finish()
      isStateDue = true
    case .terminate: handler.terminate()
    case .flush: flush()
    case .discardOutput: unflushed = []
    case .dropBodies: break
    case .save(let delivery, _):
      let isSaved = !choices.chance(10)
      if isSaved {
        saved.insert(delivery.key)
        broker.put(delivery.message, into: queue)
      } else {
        // That is told, and it is lost if it does not come back once more.
        unsaved.insert(delivery.key)
      }
      pending.append(.saved(delivery, isSaved))
    case .askElsewhere:
      timeline.after(choices.time(50)) { [unowned self] in
        // Another connection sees the queue as it is.
        hand(.foundElsewhere(!queue.isDeleted))
      }
    case .note(.unacknowledged): isDoubtTold = true
    case .renew, .note, .report: break
    }
  }

  private func connect(isFirst: Bool) {
    isConnecting = true
    timeline.after(isFirst ? .zero : choices.time(100)) { [unowned self] in
      guard isConnecting else { return }
      isConnecting = false
      guard !broker.isDown else {
        return hand(.connectFailed(Failure(.unreachable, "connection refused")))
      }
      let link = network.open()
      link.onEvent = { [unowned self] event in arrive(event, on: link) }
      link.onLoss = { [unowned self] error in
        guard link === self.link else { return }
        breaks += 1
        loss = error
      }
      self.link = link
      inbox = []
      loss = nil
      let isAsked = isFirst && !options.traits.isStream && choices.chance(50)
      story.tell(timeline.now, "connected")
      hand(.connected(Consumer.Connection(id: link.id, heartbeat: .seconds(10), isConsumerAsked: isAsked)))
      guard isAsked else { return }
      awaitsPrefetch = true
      network.send(.setPrefetch(options.prefetch), on: link)
      network.send(
        .consume("q", arguments: [AMQPField("x-priority", .narrow(.int32, 0))], isAutomatic: false), on: link)
    }
  }

  private func arrive(_ event: AMQPEvent, on link: Link) {
    guard link === self.link else { return }
    if awaitsPrefetch, event == .prefetchSet {
      awaitsPrefetch = false
      return
    }
    story.tell(timeline.now, "< \(event.shown)")
    inbox.append(event)
  }

  // MARK: The output

  private func flush() {
    guard !isOutputClosed else { return closeOutput() }
    let count = unflushed.count
    isFlushing = true
    // A reader may be slow.
    let delay: Duration = choices.chance(90) ? .zero : .milliseconds(choices.pick(3000))
    let written = { [unowned self] in
      isFlushing = false
      guard !isOutputClosed else { return closeOutput() }
      for (_, key) in unflushed.prefix(count) { handled[key, default: 0] += 1 }
      unflushed.removeFirst(min(count, unflushed.count))
      story.tell(timeline.now, "flushed \(count)")
      pending.append(.flushed)
    }
    if delay == .zero {
      written()
    } else {
      timeline.after(delay) { [unowned self] in
        written(); drainPending()
      }
    }
  }

  private func closeOutput() {
    guard !isOutputTold else { return }
    isOutputTold = true
    if askedToEnd == nil { askedToEnd = timeline.now }
    pending.append(.outputLost(Failure(.outputClosed, "standard output is closed")))
  }
  private var isOutputTold = false

  // MARK: Faults

  private func planFaults() {
    for _ in 0..<choices.pick(from: [0, 0, 1, 2, 4]) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [50, 500, 5000])))) { [unowned self] in fault() }
    }
    if choices.chance(10) {
      timeline.after(.milliseconds(choices.pick(1000))) { [unowned self] in
        story.tell(timeline.now, "-- the output is closed")
        isQuiet = false
        isOutputClosed = true
      }
    }
    if choices.chance(10) {
      broker.consumerTimeout = .seconds(choices.pick(1...5))
      isQuiet = false
    }
    if end == .signal || choices.chance(10) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [100, 1000, 10_000])))) { [unowned self] in
        guard !machine.isEnded else { return }
        story.tell(timeline.now, "-- SIGTERM")
        isQuiet = false
        askedToEnd = timeline.now
        hand(.interrupted(15))
      }
    }
    // Where it is sure to end it does so soon.
    if let time = options.time { timeline.after(time) { [unowned self] in askedToEnd = askedToEnd ?? timeline.now } }
    timeline.after(.seconds(600)) { [unowned self] in
      guard !machine.isEnded, askedToEnd == nil else { return }
      // Whatever it waits for, a signal ends it.
      story.tell(timeline.now, "-- SIGTERM, after ten minutes")
      askedToEnd = timeline.now
      hand(.interrupted(15))
    }
  }

  private func fault() {
    guard !machine.isEnded else { return }
    isQuiet = false
    switch choices.pick(10) {
    case 0...5:
      breaks += 1
      if let link { network.cut(link) }
    case 6:
      breaks += 1
      let outage: Duration = choices.chance(10) ? .seconds(100) : .milliseconds(choices.pick(5000))
      broker.crash(for: outage) { if let link { network.cut(link, "the broker died") } }
    case 7: broker.loseLeader(of: queue, for: choices.chance(10) ? .seconds(200) : .milliseconds(choices.pick(5000)))
    case 8:
      broker.put(AMQPMessage(body: [], exchange: "", routingKey: "other"), into: broker.makeQueue("other", .classic))
    default: if choices.chance(20), !queue.isDeleted { broker.delete(queue) }
    }
  }

  // MARK: The rules

  private func acknowledge(_ stored: SimulatedBroker.Stored) {
    let key = stored.message.key
    acknowledged[key, default: 0] += 1
    // In a stream it only makes room.
    guard queue.kind != .stream, !saved.contains(key) else { return }
    if acknowledged[key, default: 0] > handled[key, default: 0] + reappeared(key) {
      violation = Violation("acknowledged is a part of handled", "\(key) is acknowledged, and was not handled")
    }
  }

  /// How often a message that was acknowledged has come back after a crash of the broker: acknowledging it again is right.
  private func reappeared(_ key: String) -> Int { broker.reappeared.count { $0.message.key == key } }

  /// The process has ended: its connection goes, and the broker takes in what has arrived.
  private func settleDown() throws(Violation) {
    if let link, !link.isOver { network.cut(link) }
    let end = timeline.now + .seconds(130)
    while timeline.next <= end {
      timeline.advance(to: timeline.next)
      if let violation { throw violation }
    }
  }

  private func judge() throws(Violation) {
    guard !queue.isDeleted else { return }
    let contents = broker.contents(of: queue)
    var present: [String: Int] = [:]
    for stored in contents { present[stored.message.key, default: 0] += 1 }
    for stored in queue.rejected {
      let key = stored.message.key
      present[key, default: 0] += 1
      if handler.rejected[key] == nil { throw Violation("rejected is only what its handler rejects", key) }
    }
    let dropped = Dictionary(grouping: queue.dropped, by: { $0.message.key }).mapValues(\.count)
    for (key, count) in copies.sorted(by: { $0.key < $1.key }) {
      let there = present[key, default: 0] + dropped[key, default: 0] + handled[key, default: 0]
      if queue.kind != .stream, there < count { throw Violation("no message is lost", "\(key)") }
      if let times = dropped[key], breaks == 0, !unsaved.contains(key),
        handler.requeued[key, default: 0] < queue.deliveryLimit ?? 0
      {
        throw Violation(
          "a message is not dropped because it came back unhandled", "\(key), \(times) time\(times == 1 ? "" : "s")")
      }
      if options.peeks { continue }
      if hasIDs, handled[key, default: 0] > count, broker.reappeared.isEmpty || queue.kind == .stream {
        throw Violation("handled once in a run", "\(key) was handled \(handled[key, default: 0]) times")
      }
      if machine.cause == nil, queue.kind != .stream, !isDoubtTold, handled[key, default: 0] >= count,
        present[key, default: 0] > reappeared(key)
      {
        throw Violation("nothing handled is left unacknowledged at a good end", "\(key)")
      }
    }
    let count = handled.values.reduce(0, +)
    if isQuiet, handler.isReliable, end == .drain || end == .count && total > 0 || end == .peek,
      let cause = machine.cause, cause != .spent
    {
      throw Violation("all is handled where nothing happens", "\(cause)")
    }
    guard machine.cause == nil else { return }
    if let limit = options.limit, !options.peeks, count < limit, handler.rejected.isEmpty {
      throw Violation("exit 0 with a limit means that so many were handled", "\(count) of \(limit)")
    }
    if let limit = options.limit, count > limit, broker.reappeared.isEmpty {
      throw Violation("no more are handled than were wanted", "\(count) of \(limit)")
    }
    // Which of those that are alike came back after a crash, nobody can tell.
    let left = contents.count - broker.reappeared.count
    if options.drains, left > 0, !isDoubtTold {
      throw Violation("exit 0 of --drain means an empty queue", "\(left) left")
    }
  }
}

extension AMQPMessage {
  fileprivate var key: String { String(decoding: body, as: UTF8.self) }
}

extension AMQPDelivery {
  fileprivate var key: String { message.key }
}

extension Consumer.Action {
  fileprivate var told: String {
    switch self {
    case .take(let number, let delivery): "take \(number): \(delivery.key), tag \(delivery.tag)"
    case .save(let delivery, _): "save \(delivery.key)"
    case .send(let method): "\(method)".replacingModule
    default: "\(self)".replacingModule
    }
  }
}

extension String {
  /// Without the module's name before each type.
  fileprivate var replacingModule: String { split(separator: "MsctlCore.").joined() }
}
