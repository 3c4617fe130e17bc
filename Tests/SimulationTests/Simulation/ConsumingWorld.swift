import MsctlCore

/// One run of a consumer: the real machine and its driver against a broker, a network and a handler that do what they can against them.
enum ConsumingWorld: World {
  static let name = "consuming"

  static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    let run = ConsumeRun(choices, story)
    defer { run.leave() }
    try run.run()
  }
}

private final class ConsumeRun: ConsumerHost {
  /// No schedule has this many turns, unless it goes round without end.
  private static let turnLimit = 100_000
  /// The longest that a run may take after the end was asked for: what is under way gets 10 s, and 10 s to be killed; a reply 30 s;
  /// what is handled 2 s to come again.
  private static let endLimit: Duration = .seconds(120)

  /// Slower than a run takes to end after the last message.
  private static let slowRate = Rate(1, per: .seconds(10))

  private enum End: CaseIterable { case drain, count, time, idle, peek, signal }

  private let choices: Choices
  private let story: Story
  private let timeline = Timeline()
  private let broker: SimulatedBroker
  private let network: Network
  private let queue: SimulatedBroker.Queue
  private let handler: any SimulatedHandler
  private let options: Consumer.Options
  private let end: End
  /// Nil before the first connection, where that is not the driver's.
  private var driver: ConsumerDriver?
  /// What it is told once it is there.
  private var early: [Consumer.Event] = []
  private var connection: SimulatedConnection?

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
  /// Whether the broker has ended consumers: what they held went back, and the next connection is another.
  private var hasCancelled = false
  /// Whether nothing has happened that could keep a message from being handled.
  private var isQuiet = true
  /// Whether it was told that something may come again.
  private var isDoubtTold = false
  /// Whether nothing more gets out, and whether that is because the disk is full.
  private var isOutputClosed = false
  private var isDiskFull = false
  /// Whether its handler takes nothing, from here on.
  private var isHandlerBroken = false
  private var askedToEnd: Deadline?
  private var violation: Violation?
  /// Whether the broker has as many connections as it takes.
  private var isConnectionRefused = false
  private var isSignalled = false
  /// Whether the process was killed, which a second signal does, too: it has not ended by itself.
  private var isKilled = false
  /// Whether the reader of the output has stopped: it takes nothing, and is there.
  private var isOutputStuck = false
  /// The messages that were delivered on the last connection, by their tags, and how often an acknowledgement of each was sent.
  private var tags: [UInt64: String] = [:]
  private var sent: [String: Int] = [:]
  /// The messages under way: what each is, by the number with which it was taken.
  private var keys: [Int: String] = [:]
  /// What the handler has rejected while there was no connection to say so on.
  private var toReject: Set<String> = []
  /// In a stream, the offset after the last one that was handed over.
  private var nextOffset: Int64 = 0
  /// The offset that was kept last.
  private var kept = 0
  /// When something was handed over or settled last, and how many are handed over and not settled.
  private var lastMove = Clock.start
  private var endTime = Clock.start
  private var pace: PaceRule?
  private var outstanding = 0
  /// The same when the handler was told that no more comes.
  private var finished: (time: Deadline, lastMove: Deadline, outstanding: Int, hasEnded: Bool)?
  /// What breaks each connection on which it comes, and since when nothing was acknowledged.
  private var curse: String?
  private var lastProgress = Clock.start
  /// Since when connections are opened anew and nothing has come of that.
  private var retriesSince: Deadline?
  /// How many were rejected when a connection was last opened.
  private var rejectedBefore = 0

  init(_ choices: Choices, _ story: Story) {
    self.choices = choices
    self.story = story
    let release = choices.pick(from: [SimulatedBroker.Release.v43, .v40, .v3])
    broker = SimulatedBroker(release, timeline, choices, story)
    network = Network(timeline, choices, story, broker)
    let kind = choices.pick(from: [SimulatedBroker.Kind.classic, .quorum, .quorum, .stream])
    let limit = kind == .quorum && choices.chance(30) ? choices.pick(2...5) : nil
    queue = broker.makeQueue("q", kind, deliveryLimit: limit)
    let handling = choices.pick(
      from: [
        Consumer.Handling.output, .filter(chooses: choices.chance(50)),
        .commands(parallel: choices.pick(from: [1, 4, 40]), batch: choices.pick(from: [1, 1, 3, 20])),
      ])
    // More than a channel takes settlements at once.
    let isLong = kind == .quorum && handling != .output && choices.chance(25)
    total = isLong ? 150 : choices.pick(from: [3, 0, 1, 10, 60])
    let isNamed = !choices.chance(30)
    let isShared = choices.chance(isNamed ? 10 : 30)
    hasIDs = isNamed && !isShared
    for number in 0..<total {
      // Who gives two messages one id and one content has one message.
      let key = isShared && !isNamed ? "body \(number % 3)" : "body \(number)"
      copies[key, default: 0] += 1
      var message = AMQPMessage(body: Array(key.utf8), exchange: "", routingKey: "q")
      if isNamed { message.properties.messageID = isShared ? "id \(number / 3)" : "id \(number)" }
      broker.put(message, into: queue)
    }
    var end = choices.pick(from: End.allCases)
    if kind == .stream, end == .drain || end == .peek { end = .count }
    if end == .peek, handling != .output { end = .drain }
    self.end = end
    if let limit, end == .peek {
      // Some came back before, which looking at them must not end.
      for stored in queue.ready where choices.chance(30) { stored.age(returns: choices.pick(limit + 1)) }
    }
    var options = Self.options(end, handling, kind, total, limit, release, choices)
    if choices.chance(15) {
      let isSlow = total <= 10 && choices.chance(40)
      options.rate = isSlow ? Self.slowRate : Rate(choices.pick(from: [1, 20, 500]), per: .seconds(1))
    }
    // Only doors wait for their first connection, and those neither drain a queue nor look at it.
    if !options.drains, !options.peeks { options.connectFor = choices.pick(from: [.zero, .zero, .seconds(5)]) }
    self.options = options
    pace = options.rate.map { PaceRule($0) }
    handler = makeHandler(options, isStream: kind == .stream, timeline, choices, story)
    broker.onAcknowledged = { [unowned self] stored in acknowledge(stored) }
    broker.onLastCancelled = { [unowned self] in
      guard driver?.consumer.isRunning ?? false else { return }
      violation = Violation("a queue has a consumer until the run ends", "the last one was cancelled")
    }
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
    options.keepsPlace = kind == .stream
    let countsReturns = release == .v40 || release == .v3 && limit != nil
    options.traits.deliveryLimit = kind == .quorum && countsReturns ? limit ?? (release == .v40 ? 20 : nil) : nil
    options.reconnectFor = .seconds(60)
    switch end {
    case .drain:
      options.drains = true
      if handling == .filter(chooses: false), choices.chance(80) { options.roomForSilence = Consumer.mostHeld }
    case .count:
      options.limit = choices.pick((total > 60 ? total / 2 : 1)...max(1, total))
    case .time: options.time = .milliseconds(choices.pick(1...3000))
    case .idle: options.idle = .milliseconds(choices.pick(100...3000))
    case .peek:
      options.peeks = true
      options.limit = total
      options.prefetch = options.traits.deliveryLimit == nil ? max(1, total) : 1
      return options
    case .signal: break
    }
    // What a filter does not choose is held until the end.
    let asked = handling == .filter(chooses: true) && end != .signal ? Consumer.mostHeld : nil
    options.prefetch = Consumer.prefetch(
      asked ?? choices.pick(from: [nil, 1, 3, 10]), for: handling, limit: options.limit,
      endsInTime: ![.drain, .signal].contains(end),
      countsReturns: options.traits.deliveryLimit != nil && release == .v40)
    return options
  }

  // MARK: The run

  func run() throws(Violation) {
    planFaults()
    let driver = try begin()
    var turns = 0
    while !driver.consumer.isEnded, !isKilled {
      turns += 1
      guard turns < Self.turnLimit else { throw Violation("every wait is bounded", "it goes round without end") }
      driver.proceed()
      if let violation { throw violation }
      if driver.consumer.isEnded || isKilled { break }
      // What its reader does not take is waited for, until a signal.
      if let askedToEnd, !isOutputStuck || isSignalled, timeline.now - askedToEnd > Self.endLimit {
        throw Violation("every wait is bounded", "still there \(Self.endLimit.shown) after its end was asked for")
      }
      let time = min(timeline.next, driver.wakeTime)
      guard time != .never else { throw Violation("every wait is bounded", "it waits for nothing") }
      timeline.advance(to: max(time, timeline.now))
      if let violation { throw violation }
    }
    endTime = timeline.now
    story.tell(endTime, isKilled ? "killed" : "ended: \(cause.map { "\($0)" } ?? "done")")
    try settleDown()
    try judge()
  }

  /// Driver and host hold each other.
  func leave() { driver = nil }

  /// As the verb does it, which asks for the consumer along with the opening; or as the door does.
  private func begin() throws(Violation) -> ConsumerDriver {
    if choices.chance(5) {
      isQuiet = false
      broker.stop(for: choices.time(10_000))
    }
    var opened: SimulatedConnection?
    if !options.traits.isStream, choices.chance(50) {
      let opening = open(
        after: .zero,
        asking: [
          .setPrefetch(options.prefetch),
          .consume("q", arguments: Consumer.Options.arguments(streamOffset: nil, []), isAutomatic: false),
        ])
      do throws(Failure) {
        repeat {
          opened = try opening.finished()
          if opened == nil { timeline.advance(to: timeline.next) }
          if let violation { throw Failure(.failed, violation.rule) }
        } while opened == nil
      } catch { story.tell(timeline.now, "no first connection: \(error)") }
      if let violation { throw violation }
    }
    let driver = ConsumerDriver(
      options, self, on: opened, seed: choices.seed(), clock: { [timeline] in timeline.now })
    self.driver = driver
    for event in early { driver.tell(event) }
    return driver
  }

  private func open(
    after delay: Duration, asking methods: [AMQPMethod] = []
  ) -> SimulatedOpening {
    SimulatedOpening(
      network, after: delay, refusal: { [unowned self] in refusal },
      { [unowned self] connection in
        connection.onLoss = { [unowned self] in breaks += 1 }
        tags = [:]
        connection.onRead = { [unowned self] event, _ in
          if case .delivery(let delivery) = event { tags[delivery.tag] = delivery.key }
        }
        connection.onMethod = { [unowned self] method, isSent in
          if case .reject(let tag, _) = method, let key = tags[tag] { toReject.remove(key) }
          guard isSent, case .acknowledge(let last, let isMultiple) = method else { return }
          for (tag, key) in tags where isMultiple ? tag <= last : tag == last {
            sent[key, default: 0] += 1
            tags[tag] = nil
          }
        }
        connection.canRead = { [unowned self] event in
          guard let curse, case .delivery(let delivery) = event else { return true }
          return delivery.key != curse
        }
        self.connection = connection
      }, asking: methods)
  }

  /// Why nobody is let in.
  private var refusal: Failure? {
    if broker.isDown { return Failure(.unreachable, "connection refused") }
    return isConnectionRefused ? Failure(.failed, "NOT_ALLOWED - connection limit (1) is reached") : nil
  }

  private func tell(_ event: Consumer.Event) { if let driver { driver.tell(event) } else { early.append(event) } }

  private var isEnded: Bool { driver?.consumer.isEnded ?? false }
  private var cause: Consumer.Cause? { driver?.consumer.cause }

  // MARK: What the driver asks for

  var state: Consumer.HandlerState { handler.state }
  var wakeTime: Deadline { handler.wakeTime }

  func work(_ driver: ConsumerDriver) {
    let answered = handler.state.answered
    let result = handler.proceed { number, key in unflushed.append((number, key)) }
    if handler.state.answered > answered { lastMove = timeline.now }
    violation = violation ?? handler.violation
    switch result {
    case .failure(let failure): driver.tell(.handlerFailed(failure))
    case .success(let settled):
      guard !settled.isEmpty else { break }
      outstanding -= settled.count
      lastMove = timeline.now
      if connection?.isLost ?? true { noteRejected(settled) }
      driver.settled(settled)
    }
    if isOutputClosed, options.handling == .output { closeOutput() }
  }

  func take(_ number: Int, _ delivery: AMQPDelivery) throws(Failure) {
    story.tell(timeline.now, "> take \(number): \(delivery.key), tag \(delivery.tag)")
    guard !isHandlerBroken else { throw Failure(.failed, "it cannot be started") }
    do { try pace?.check(at: timeline.now) } catch { violation = violation ?? error }
    if !handler.state.hasRoom { violation = Violation("nothing is handed over without room for it", delivery.key) }
    if queue.kind == .stream, let offset = delivery.message.streamOffset {
      // It is read from its begin.
      if offset > nextOffset {
        violation = Violation("nothing in a stream is skipped", "\(nextOffset) to \(offset - 1)")
      }
      nextOffset = max(nextOffset, offset + 1)
    }
    lastMove = timeline.now
    if toReject.contains(delivery.key), copies[delivery.key] == 1, reappeared(delivery.key) == 0 {
      violation = Violation(
        "what was rejected without a connection is rejected when it comes again", delivery.key)
    }
    keys[number] = delivery.key
    try handler.take(number, delivery.key, delivery)
    outstanding += 1
    violation = violation ?? handler.violation
  }

  func keepPlace(_ offset: Int64) {
    story.tell(timeline.now, "> keep \(offset)")
    let offset = Int(clamping: offset)
    if offset < kept { violation = Violation("the place that is kept never goes back", "\(kept) to \(offset)") }
    for number in kept..<max(kept, offset) where !isHandled(at: number) {
      violation = Violation("a place is kept only when all before it is handled", "\(offset), and \(number) is not")
    }
    kept = offset
  }

  private func isHandled(at offset: Int) -> Bool {
    guard offset < queue.log.count else { return false }
    let key = queue.log[offset].message.key
    return handled[key] != nil || handler.rejected[key] != nil
  }

  private func noteRejected(_ settled: [Consumer.Settlement]) {
    guard queue.kind != .stream else { return }
    for one in settled where one.outcome == .reject { if let key = keys[one.number] { toReject.insert(key) } }
  }

  func renew(_ number: Int, _ delivery: AMQPDelivery) {
    toReject.remove(delivery.key)
    handler.renew(number, delivery)
  }

  func startBatch() { handler.startBatch() }

  func finish() {
    finished = (timeline.now, lastMove, outstanding - handler.state.answered, handler.state.hasEnded)
    // From here on a filter's end is bounded, whatever it does.
    if isQuiet, let filter = handler as? SimulatedFilter, !filter.restarts { askedToEnd = askedToEnd ?? timeline.now }
    handler.finish()
  }

  func terminate() { handler.terminate() }
  func discardOutput() { unflushed = [] }

  func save(_ delivery: AMQPDelivery, returnsLeft: Int, _ driver: ConsumerDriver) {
    story.tell(timeline.now, "> save \(delivery.key)")
    let isSaved = !choices.chance(10)
    if isSaved {
      saved.insert(delivery.key)
      broker.put(delivery.message, into: queue)
    } else {
      // That is told, and it is lost if it does not come back once more.
      unsaved.insert(delivery.key)
    }
    driver.tell(.saved(delivery, isSaved))
  }

  func note(_ note: Consumer.Note, _ driver: ConsumerDriver) {
    story.tell(timeline.now, "> \(note)")
    if case .unacknowledged = note { isDoubtTold = true }
  }

  func report(_ cause: Consumer.Cause, _ driver: ConsumerDriver) {}
  func ended(_ driver: ConsumerDriver) {}
  func addInterests(to polls: inout PollSet) {}

  func connect() -> any BrokerOpening {
    // What is rejected is done with, too.
    if queue.kind != .stream, queue.rejected.count > rejectedBefore {
      rejectedBefore = queue.rejected.count
      noteProgress()
    }
    let begin = retriesSince ?? timeline.now
    retriesSince = begin
    if curse != nil, !isOutputStuck, timeline.now - begin > options.reconnectFor + .seconds(40) {
      violation = Violation("what breaks at the same place again and again ends", "\(timeline.now - begin)")
    }
    return open(after: choices.time(100))
  }

  func connect(askingFor queue: String) -> any BrokerOpening {
    // Another connection sees the queue as it is.
    SimulatedOpening(
      network, after: choices.time(50), refusal: { [unowned self] in refusal },
      { [unowned self] connection in connection.setup.hasQueue = !self.queue.isDeleted })
  }

  // MARK: The output

  func flush() -> Bool {
    let count = unflushed.count
    // A reader may be slow, or have stopped.
    if isOutputStuck || choices.chance(1) && choices.chance(50) {
      story.tell(timeline.now, "the output takes nothing any more")
      (isOutputStuck, isQuiet) = (true, false)
      // After a signal, whoever writes does not wait for ever.
      if isSignalled { timeline.after(.seconds(2)) { [unowned self] in if !isEnded { tell(.outputLost(nil)) } } }
      return false
    }
    let delay: Duration = choices.chance(90) ? .zero : .milliseconds(choices.pick(3000))
    if delay == .zero { return written(count) }
    timeline.after(delay) { [unowned self] in if written(count) { tell(.flushed) } }
    return false
  }

  /// - Returns: whether it is out.
  private func written(_ count: Int) -> Bool {
    guard !isOutputClosed else {
      closeOutput()
      return false
    }
    for (_, key) in unflushed.prefix(count) { handled[key, default: 0] += 1 }
    if count > 0 { noteProgress() }
    unflushed.removeFirst(min(count, unflushed.count))
    story.tell(timeline.now, "flushed \(count)")
    return true
  }

  private func noteProgress() { (lastProgress, retriesSince) = (timeline.now, nil) }

  private func closeOutput() {
    guard !isOutputTold else { return }
    isOutputTold = true
    if askedToEnd == nil { askedToEnd = timeline.now }
    if isEnded { return }
    isOutputLost = true
    tell(
      .outputLost(
        isDiskFull ? Failure(.failed, "No space left on device") : Failure(.outputClosed, "standard output is closed")))
  }
  private var isOutputTold = false
  /// Whether something that was written did not get out, and the run was told.
  private var isOutputLost = false

  // MARK: Faults

  private func planFaults() {
    // Of a stream everything comes again that is not handled.
    if total > 0, choices.chance(queue.kind == .stream ? 20 : 5) {
      isQuiet = false
      breaks += 1
      // Of a stream, what is handled before it may come again each time.
      let isLast = queue.kind == .stream && choices.chance(50)
      curse = "body \(isLast ? total - 1 : choices.pick(total))"
      return planEnds()
    }
    for _ in 0..<choices.pick(from: [0, 0, 1, 2, 4]) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [50, 500, 5000])))) { [unowned self] in fault() }
    }
    if choices.chance(10) {
      timeline.after(.milliseconds(choices.pick(1000))) { [unowned self] in
        isDiskFull = choices.chance(30)
        story.tell(timeline.now, isDiskFull ? "-- the disk is full" : "-- the output is closed")
        isQuiet = false
        isOutputClosed = true
      }
    }
    if choices.chance(3) {
      timeline.after(.milliseconds(choices.pick(500))) { [unowned self] in (isHandlerBroken, isQuiet) = (true, false) }
    }
    if choices.chance(10) {
      broker.consumerTimeout = .seconds(choices.pick(1...5))
      isQuiet = false
    }
    planEnds()
  }

  private func planEnds() {
    if end == .signal || choices.chance(10) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [100, 1000, 10_000])))) { [unowned self] in
        guard !isEnded else { return }
        story.tell(timeline.now, "-- SIGTERM")
        isQuiet = false
        isSignalled = true
        askedToEnd = timeline.now
        tell(.interrupted(15))
        // What is under way is not waited for then.
        if choices.chance(20) { timeline.after(choices.time(3000)) { [unowned self] in kill("a second SIGTERM") } }
      }
    }
    if choices.chance(5) { timeline.after(choices.time(1000)) { [unowned self] in kill("SIGKILL") } }
    // Where it is sure to end it does so soon.
    if let time = options.time { timeline.after(time) { [unowned self] in askedToEnd = askedToEnd ?? timeline.now } }
    timeline.after(.seconds(600)) { [unowned self] in
      guard !isEnded, askedToEnd == nil || isOutputStuck && !isSignalled else { return }
      // Whatever it waits for, a signal ends it.
      story.tell(timeline.now, "-- SIGTERM, after ten minutes")
      isSignalled = true
      askedToEnd = timeline.now
      tell(.interrupted(15))
    }
  }

  private func kill(_ signal: String) {
    guard !isEnded else { return }
    story.tell(timeline.now, "-- \(signal)")
    (isKilled, isQuiet) = (true, false)
  }

  private func fault() {
    guard !isEnded else { return }
    isQuiet = false
    switch choices.pick(13) {
    case 10:
      breaks += 1
      broker.loseNode(for: choices.chance(10) ? .seconds(100) : .milliseconds(choices.pick(5000))) {
        if let link = connection?.link { network.cut(link, "the node is lost") }
      }
    case 11:
      breaks += 1
      if choices.chance(50) {
        broker.stop(for: .milliseconds(choices.pick(5000)))
      } else {
        broker.forceClosed("closed")
      }
    case 12:
      hasCancelled = true
      broker.cancelConsumers(of: queue)
    case 0...5:
      breaks += 1
      if let link = connection?.link { network.cut(link) }
    case 6:
      breaks += 1
      let outage: Duration = choices.chance(10) ? .seconds(100) : .milliseconds(choices.pick(5000))
      broker.crash(for: outage) { if let link = connection?.link { network.cut(link, "the broker died") } }
    case 7: broker.loseLeader(of: queue, for: choices.chance(10) ? .seconds(200) : .milliseconds(choices.pick(5000)))
    case 8: isConnectionRefused = true
    default: if choices.chance(20), !queue.isDeleted { broker.delete(queue) }
    }
  }

  // MARK: The rules

  private func acknowledge(_ stored: SimulatedBroker.Stored) {
    let key = stored.message.key
    acknowledged[key, default: 0] += 1
    // In a stream it only makes room.
    guard queue.kind != .stream else { return }
    noteProgress()
    guard !saved.contains(key) else { return }
    if acknowledged[key, default: 0] > handled[key, default: 0] + reappeared(key) {
      violation = Violation("acknowledged is a part of handled", "\(key) is acknowledged, and was not handled")
    }
  }

  /// How often a message that was acknowledged has come back after a crash of the broker: acknowledging it again is right.
  private func reappeared(_ key: String) -> Int { broker.reappeared.count { $0.message.key == key } }

  /// The process has ended: its connection goes, and the broker takes in what has arrived.
  private func settleDown() throws(Violation) {
    if let link = connection?.link, !link.isOver { network.cut(link) }
    let end = timeline.now + .seconds(130)
    while timeline.next <= end {
      timeline.advance(to: timeline.next)
      if let violation { throw violation }
    }
  }

  private func judge() throws(Violation) {
    if !isKilled { try judgeCause() }
    // The lines of a filter that has failed may be those of other messages.
    let isInDoubt = cause != nil && options.handling.isFilter
    if queue.kind == .stream, hasIDs, !isInDoubt, !isKilled, isHandled(at: kept) {
      throw Violation("the place that is kept is not behind what is handled", "\(kept)")
    }
    if broker.hasStreamReturns { throw Violation("a stream is never requeued", queue.name) }
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
      // Of more copies than a channel takes settlements, the originals may go back: nothing is lost by that.
      let isSaved = saved.contains(key) && saved.count > 32
      if let times = dropped[key], breaks == 0, !isKilled, !hasCancelled, !unsaved.contains(key), !isSaved,
        handler.requeued[key, default: 0] < queue.deliveryLimit ?? 0
      {
        throw Violation(
          "a message is not dropped because it came back unhandled", "\(key), \(times) time\(times == 1 ? "" : "s")")
      }
      if options.peeks { continue }
      // What was to be sent behind a rejection that met the break is not told.
      if count == 1, queue.kind != .stream, handler.rejected.isEmpty, handler.requeued.isEmpty,
        handled[key, default: 0] > 1 + sent[key, default: 0]
      {
        throw Violation("handled again is only what an acknowledgement was sent for", key)
      }
      if hasIDs, handled[key, default: 0] > count, broker.reappeared.isEmpty || queue.kind == .stream {
        throw Violation("handled once in a run", "\(key) was handled \(handled[key, default: 0]) times")
      }
      // Without ids, another one that the broker has brought back may be taken for the one in doubt; and what was in doubt when a
      // connection broke is handled again, so that as many handlings are no proof that all of them are handled.
      if cause == nil, !isKilled, queue.kind != .stream, !isDoubtTold,
        hasIDs || broker.reappeared.isEmpty && breaks == 0,
        handled[key, default: 0] >= count, present[key, default: 0] > reappeared(key)
      {
        throw Violation("nothing handled is left unacknowledged at a good end", "\(key)")
      }
    }
    if isKilled { return }
    let count = handled.values.reduce(0, +)
    if isQuiet, handler.isReliable, end == .drain || end == .count && total > 0 || end == .peek,
      let cause, cause != .spent
    {
      throw Violation("all is handled where nothing happens", "\(cause)")
    }
    if let commands = handler as? SimulatedCommands, isQuiet, end == .count, queue.kind != .stream,
      commands.triesForEver, let limit = options.limit, let cause,
      copies.reduce(0, { $0 + (commands.isGood($1.key) ? $1.value : 0) }) >= limit
    {
      throw Violation(
        "a message that fails again and again does not keep the others from making the count", "\(cause)")
    }
    guard cause == nil else { return }
    if let limit = options.limit, !options.peeks, count + handler.unanswered < limit, handler.rejected.isEmpty {
      throw Violation("exit 0 with a limit means that so many were handled", "\(count) of \(limit)")
    }
    if let limit = options.limit, count > limit, broker.reappeared.isEmpty {
      throw Violation("no more are handled than were wanted", "\(count) of \(limit)")
    }
    // Which of those that are alike came back after a crash, nobody can tell.
    let left = contents.count - broker.reappeared.count - handler.unanswered
    // It may be asked twice whether the queue is empty, and again after a second.
    if isQuiet, options.drains, options.rate == Self.slowRate, options.handling == .output,
      endTime - lastProgress > .seconds(5)
    {
      throw Violation("a rate does not hold up the end", "\((endTime - lastProgress).shown)")
    }
    if options.drains, left > 0, !isDoubtTold, !(broker.hidesMessages && breaks > 0) {
      throw Violation("exit 0 of --drain means an empty queue", "\(left) left")
    }
  }
}

extension ConsumeRun {
  /// What is told is so, and 0 is told only where nothing failed.
  private func judgeCause() throws(Violation) {
    guard let cause else {
      if handler.unanswered > 0, !((handler as? SimulatedFilter)?.mayLeaveOut ?? false) {
        throw Violation("a filter that leaves messages unanswered has failed", "\(handler.unanswered)")
      }
      if isOutputLost { throw Violation("exit 0 means that the output is whole", "it was lost") }
      if !unsaved.isEmpty { throw Violation("a message that could not be saved is told", "\(unsaved.sorted())") }
      return try judgeIdle()
    }
    let isSo =
      switch cause {
      case .queueDeleted: queue.isDeleted
      case .consumerTimeout: broker.hasEndedConsumers || queue.isDeleted
      case .interrupted: isSignalled
      case .rejected: !handler.rejected.isEmpty
      case .spent: options.peeks
      case .neverEmpties: queue.kind == .stream
      case .unconnected where connection == nil && !isConnectionRefused:
        !isQuiet && timeline.now - Clock.start >= min(options.connectFor, options.time ?? options.connectFor)
      case .repeatedBreaks, .unconnected: !isQuiet
      default: true
      }
    if !isSo { throw Violation("what is told is so", "\(cause)") }
  }

  /// Idle is time without a message and without work.
  private func judgeIdle() throws(Violation) {
    guard let idle = options.idle, let finished, !finished.hasEnded, !isSignalled else { return }
    let isFilter = handler is SimulatedFilter
    let wanted = isFilter && finished.outstanding > 0 ? max(idle, .seconds(10)) : idle
    guard finished.time - finished.lastMove >= wanted, finished.outstanding == 0 || isFilter else {
      throw Violation(
        "idle is time without a message and without work",
        "\(finished.time - finished.lastMove) after the last, with \(finished.outstanding) under way")
    }
  }
}

extension AMQPMessage {
  fileprivate var key: String { String(decoding: body, as: UTF8.self) }
}

extension AMQPDelivery {
  fileprivate var key: String { message.key }
}
