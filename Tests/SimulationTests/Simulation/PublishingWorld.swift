import MsctlCore

/// One run of a publisher: the real machine and its driver against a broker and a network that do what they can against them.
enum PublishingWorld: World {
  static let name = "publishing"

  static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    let run = PublishRun(choices, story)
    defer { run.leave() }
    try run.run()
  }
}

private final class PublishRun: PublisherHost {
  /// No schedule has this many turns, unless it goes round without end.
  private static let turnLimit = 20_000

  private let choices: Choices
  private let story: Story
  private let timeline = Timeline()
  private let broker: SimulatedBroker
  private let network: Network
  private let queue: SimulatedBroker.Queue
  private let options: Publisher.Options
  /// The longest that a run may take after the end was asked for.
  private let endLimit: Duration
  /// Nil before the first connection, where that is not the driver's.
  private var driver: PublisherDriver?
  /// What it is told once it is there.
  private var early: [Publisher.Event] = []
  private var connection: SimulatedConnection?
  /// Until when the output takes nothing; never again: a reader that has stopped.
  private var busyEnd = Clock.start
  private let isOutputSlow: Bool

  // The input:
  private var input: [AMQPMessage] = []
  private var read = 0
  /// How many have come so far.
  private var available = 0
  private var inputFailure: Failure?
  private var isInputEnded = false

  /// What becomes of replies, in a run that waits for them.
  private enum Reply: CaseIterable { case prompt, late, lost, doubled, toNobody }

  /// The file of `--failed-to`: what stands in it, and how many messages it takes before the disk is full; nil: there is none.
  private var kept: Set<Int> = []
  private let diskSpace: Int?
  private var isDiskFull = false
  /// The message that breaks each connection on which it is sent, and when something was confirmed last.
  private var curse: String?
  private var lastProgress = Clock.start

  // What the rules look at:
  private var confirmed: [Int] = []
  /// The messages whose replies have come, and those whose replies were handed out.
  private var arrivedReplies: Set<Int> = []
  private var replies: [Int] = []
  /// Whether one does not come, or not in time.
  private var isReplySpoiled = false
  private var failed: [Int: Publisher.Reason] = [:]
  /// The messages whose confirm has been read.
  private var known: Set<Int> = []
  /// The messages that were sent, and what their rate allows.
  private var sent: Set<Int> = []
  private var pace: PaceRule?
  /// When the first message was taken, from which on those after it are replayed.
  private var replayBegin: Deadline?
  /// Whether the connection is blocked, as far as the driver knows, and since when a message waits for that alone.
  private var isBlocked = false
  private var waitsSince: Deadline?
  /// How often each message was in doubt: in flight when a connection or a channel broke.
  private var doubts: [String: Int] = [:]
  private var breaks = 0
  private var hasRefusals = false
  /// Whether nothing has happened that could keep a message from its queue.
  private var isQuiet = true
  private var isSignalled = false
  /// Whether the process was killed, which a second signal does, too: it has not ended by itself.
  private var isKilled = false
  /// Whether the first message was sent along with an opening that broke.
  private var isFirstInDoubt = false
  private var askedToEnd: Deadline?
  private var violation: Violation?

  init(_ choices: Choices, _ story: Story) {
    self.choices = choices
    self.story = story
    let release = choices.pick(from: [SimulatedBroker.Release.v43, .v40, .v3])
    broker = SimulatedBroker(release, timeline, choices, story)
    network = Network(timeline, choices, story, broker)
    let kind = choices.pick(from: [SimulatedBroker.Kind.classic, .quorum, .stream])
    queue = broker.makeQueue("q", kind)
    var options = Publisher.Options()
    options.queue = choices.chance(80) ? "q" : nil
    options.arguments = choices.chance(30) ? [] : nil
    options.window = choices.pick(from: [1024, 1, 2, 8])
    options.confirmTimeout = choices.pick(from: [.seconds(30), .seconds(5)])
    options.reconnectFor = choices.pick(from: [.seconds(60), .seconds(60), .seconds(3), .zero])
    options.connectFor = choices.pick(from: [.zero, .zero, .seconds(5)])
    options.wantsReplies = choices.chance(20)
    options.replyTimeout = choices.pick(from: [.seconds(30), .seconds(2)])
    if choices.chance(10) { options.exchange = AMQPExchange("e", type: "topic") }
    if choices.chance(10) {
      options.timing = choices.pick(from: [
        .rate(Rate(10, per: .seconds(1))), .rate(Rate(500, per: .seconds(1))), .rate(Rate(30, per: .seconds(60))),
        .replay(speed: 1), .replay(speed: 2.5),
      ])
    }
    self.options = options
    if case .rate(let rate) = options.timing { pace = PaceRule(rate) }
    diskSpace = choices.chance(50) ? choices.pick(from: [.max, .max, 0, 1, 3]) : nil
    endLimit = options.confirmTimeout * 3 + options.reconnectFor + .seconds(100)
    isOutputSlow = choices.chance(10)
    if choices.chance(15) { broker.sizeLimit = 20 }
    let isNamed = !choices.chance(10)
    // One that is sent alone.
    let huge = choices.chance(4) ? choices.pick(1...10) : 0
    for number in 1...max(1, choices.pick(from: [3, 1, 10, 40])) {
      let isLarge = choices.chance(10)
      let isLostOnTheWay = choices.chance(options.wantsReplies ? 15 : 5)
      var message = AMQPMessage(
        body: Array("body \(number)\(isLarge ? ", much longer than others" : "")".utf8), exchange: "",
        routingKey: isLostOnTheWay ? "nowhere" : "q")
      if choices.chance(2) { message.properties.type = AMQPMessage.unsendable }
      if !options.wantsReplies, choices.chance(10) { message.isMandatory = false }
      if case .replay = options.timing, number == 1 || choices.chance(80) {
        message.properties.timestamp = UInt64(clamping: 1_000_000_000 + number + choices.pick(5))
      }
      if number == huge { message.body += [UInt8](repeating: 0x20, count: Publisher.safeSize) }
      message.number = number
      if isNamed { message.properties.messageID = "id \(number)" }
      if options.wantsReplies {
        message.properties.replyTo = AMQPConnection.directReply
        message.properties.correlationID = "\(number)"
      }
      input.append(message)
    }
    if choices.chance(3) { curse = choices.pick(from: input).key }
    broker.onPublished = { [unowned self] message, reply in published(message, reply) }
    story.tell(
      timeline.now,
      "\(input.count) messages for a \(kind.rawValue) queue of \(release.rawValue), window \(options.window), size limit \(broker.sizeLimit)"
    )
  }

  // MARK: The run

  func run() throws(Violation) {
    planInput()
    planFaults()
    try connectFirst()
    guard let driver else { return }
    var turns = 0
    while !driver.publisher.isEnded, !isKilled {
      turns += 1
      guard turns < Self.turnLimit else { throw Violation("every wait is bounded", "it goes round without end") }
      if driver.publisher.left.count > options.window + 1 {
        throw Violation("what is held is bounded by the window", "\(driver.publisher.left.count)")
      }
      driver.proceed()
      if let violation { throw violation }
      if driver.publisher.isEnded || isKilled { break }
      try watchBlocking(driver.publisher)
      if let askedToEnd, timeline.now - askedToEnd > endLimit {
        throw Violation("every wait is bounded", "still there \(endLimit.shown) after its end was asked for")
      }
      try pass(to: driver.wakeTime)
    }
    story.tell(timeline.now, "ended: \(driver.publisher.cause.map { "\($0)" } ?? "done")")
    // The process has ended: its connection goes, and the broker takes in what has arrived.
    if let link = connection?.link, !link.isOver { network.cut(link) }
    let end = timeline.now + .seconds(130)
    while timeline.next <= end { timeline.advance(to: timeline.next) }
    try judge(driver.publisher)
  }

  /// What a blocked broker is to get waits no longer than for a confirm.
  private func watchBlocking(_ machine: Publisher) throws(Violation) {
    let mayWait = !isBlocked || !isReady || connection?.isClosing ?? true
    guard !mayWait, read < available || machine.unsent > 0 else { return waitsSince = nil }
    guard let begin = waitsSince else { return waitsSince = timeline.now }
    // A channel that is opened anew has its own limit.
    guard timeline.now - begin > options.confirmTimeout + AMQPConnection.replyTimeout else { return }
    throw Violation("every wait is bounded", "a blocked broker is waited for \((timeline.now - begin).shown)")
  }

  /// Driver and host hold each other.
  func leave() { driver = nil }

  /// Time passes until something happens.
  private func pass(to wakeTime: Deadline) throws(Violation) {
    let time = min(timeline.next, wakeTime)
    guard time != .never else { throw Violation("every wait is bounded", "it waits for nothing") }
    timeline.advance(to: max(time, timeline.now))
    if let violation { throw violation }
  }

  /// As the verb does it, which asks for the queue, and sends a first message, along with the opening; or as the door does.
  private func connectFirst() throws(Violation) {
    var first: OutgoingMessage?
    var opened: SimulatedConnection?
    if choices.chance(50) {
      if choices.chance(50), available > 0, !options.wantsReplies, options.timing == .atOnce {
        read = 1
        first = OutgoingMessage(input[0])
      }
      var asked = [AMQPMethod.selectConfirms]
      if let queue = options.queue {
        asked.insert(options.arguments.map { .declare(queue, arguments: $0) } ?? .inspect(queue), at: 0)
      }
      if options.wantsReplies {
        asked.insert(.consume(AMQPConnection.directReply, arguments: [], isAutomatic: true), at: 0)
      }
      if let exchange = options.exchange { asked.insert(.declareExchange(exchange), at: 0) }
      let opening = open(after: .zero, asking: asked, sending: first?.message)
      do throws(Failure) {
        repeat {
          opened = try opening.finished()
          if opened == nil { timeline.advance(to: timeline.next) }
        } while opened == nil
      } catch { story.tell(timeline.now, "no first connection: \(error)") }
      if opened?.setup.error != nil, let first { doubts[first.message.key, default: 0] += 1 }
      isFirstInDoubt = opened?.setup.isInDoubt ?? false
    }
    let driver = PublisherDriver(
      options, self, on: opened, sending: opened == nil ? nil : first, seed: choices.seed(),
      clock: { [timeline] in timeline.now })
    if opened == nil { read = 0 }
    self.driver = driver
    for event in early { driver.tell(event) }
  }

  private func open(
    after delay: Duration, asking methods: [AMQPMethod] = [], sending message: AMQPMessage? = nil
  ) -> SimulatedOpening {
    SimulatedOpening(
      network, after: delay,
      refusal: { [unowned self] in broker.isDown ? Failure(.unreachable, "connection refused") : nil },
      { [unowned self] connection in
        self.connection = connection
        connection.isUnsendable = { $0.isUnsendable }
        connection.onLoss = { [unowned self] in lost() }
        connection.onSent = { [unowned self] message in checkTime(of: message) }
        connection.onRead = { [unowned self] event, messages in
          // After the end nothing is taken in.
          if !isEnded { for message in messages { known.insert(message.number) } }
          switch event {
          case .blocked: isBlocked = true
          case .unblocked: isBlocked = false
          case .ack, .nack: waitsSince = nil
          default: break
          }
        }
        connection.canRead = { [unowned self] event in
          if !isEnded, case .delivery(let reply) = event, let id = reply.message.properties.correlationID,
            let number = Int(id)
          {
            arrivedReplies.insert(number)
          }
          return true
        }
      }, asking: methods, sending: message)
  }

  private func lost() {
    breaks += 1
    isBlocked = false
    for outgoing in driver?.publisher.left ?? [] {
      doubts[outgoing.message.key, default: 0] += 1
      // Behind the one that met the break, others were sent to nobody: they are due.
      sent.insert(outgoing.message.number)
    }
  }

  private func tell(_ event: Publisher.Event) { if let driver { driver.tell(event) } else { early.append(event) } }

  private var isEnded: Bool { driver?.publisher.isEnded ?? false }

  // MARK: What the driver asks for

  var hasInput: Bool {
    read < available || !isInputEnded && (inputFailure != nil || available == input.count)
  }

  func nextInput() -> Publisher.Event? {
    if read < available {
      read += 1
      if replayBegin == nil { replayBegin = timeline.now }
      return .message(OutgoingMessage(input[read - 1]))
    }
    guard hasInput else { return nil }
    isInputEnded = true
    return .inputEnded(inputFailure)
  }

  var isReady: Bool { timeline.now >= busyEnd }
  var wakeTime: Deadline { isReady ? .never : busyEnd }

  func connect() -> any BrokerOpening {
    if curse != nil, timeline.now - lastProgress > options.reconnectFor + .seconds(40) {
      violation = Violation("what breaks at the same place again and again ends", "\(timeline.now - lastProgress)")
    }
    return open(after: choices.time(100))
  }

  func confirmed(_ outgoing: OutgoingMessage, isInOrder: Bool) {
    story.tell(timeline.now, "> confirmed: \(outgoing.message.key)")
    confirm(outgoing.message)
    guard isOutputSlow, choices.chance(20) else { return }
    busyEnd = choices.chance(10) ? .never : timeline.now + choices.time(3000)
    if busyEnd == .never {
      story.tell(timeline.now, "the output takes nothing any more")
      timeline.after(choices.time(10_000)) { [unowned self] in interrupt() }
    }
  }

  func failed(_ outgoing: OutgoingMessage, _ reason: Publisher.Reason) throws(Failure) {
    story.tell(timeline.now, "> failed: \(outgoing.message.key): \(reason)")
    fail(outgoing.message, reason)
    // It is written to the file of `--failed-to`.
    guard let diskSpace, !isDiskFull else { return }
    guard kept.count < diskSpace else {
      (isDiskFull, isQuiet) = (true, false)
      throw Failure(.failed, "cannot write the file: No space left on device")
    }
    kept.insert(outgoing.message.number)
  }

  func reply(_ message: AMQPMessage) {
    story.tell(timeline.now, "> reply to \(message.properties.correlationID ?? "")")
    guard let number = message.properties.correlationID.flatMap({ Int($0) }), message.key == input[number - 1].key
    else {
      violation = Violation("a reply belongs to its message", message.key)
      return
    }
    if let last = replies.last, last >= number {
      violation = Violation("replies are handed out once, in the order of the messages", "\(number) after \(last)")
    }
    replies.append(number)
  }

  /// Somebody consumes the queue, and replies to each request, well or not. Or nobody can take the message at all.
  private func published(_ message: AMQPMessage, _ reply: @escaping (AMQPMessage) -> Void) {
    if message.key == curse, let link = connection?.link {
      network.cut(link, "it cannot be taken", isPrompt: true)
    }
    guard options.wantsReplies else { return }
    let manner = choices.chance(20) ? choices.pick(from: Reply.allCases) : .prompt
    if manner != .prompt, manner != .doubled { isReplySpoiled = true }
    guard manner != .lost else { return }
    var answer = AMQPMessage(body: message.body, exchange: "", routingKey: "reply")
    answer.properties.correlationID =
      manner == .toNobody ? choices.pick(from: [nil, "nobody"]) : message.properties.correlationID
    for _ in 0..<(manner == .doubled ? 2 : 1) {
      let delay: Duration = manner == .late ? .milliseconds(choices.pick(60_000)) : choices.time(500)
      timeline.after(delay) { reply(answer) }
    }
  }

  func note(_ note: Publisher.Note, _ driver: PublisherDriver) { story.tell(timeline.now, "> \(note)") }
  func work(_ driver: PublisherDriver) {}
  func ended(_ driver: PublisherDriver) {}
  func addInterests(to polls: inout PollSet) {}

  /// The first time that a message is sent, it is due.
  private func checkTime(of message: AMQPMessage) {
    guard sent.insert(message.number).inserted else { return }
    do { try pace?.check(at: timeline.now) } catch { violation = violation ?? error }
    guard case .replay(let speed) = options.timing, let begin = replayBegin, let time = message.properties.timestamp,
      let first = input[0].properties.timestamp
    else { return }
    let distance = Duration.seconds((Double(time) - Double(first)) / speed)
    guard timeline.now - begin < distance - .microseconds(1) else { return }
    violation = Violation(
      "a replay is no faster than asked for", "\(message.key) after \((timeline.now - begin).shown)")
  }

  // MARK: What may happen

  private func planInput() {
    available = choices.chance(60) ? input.count : choices.pick(input.count + 1)
    var time: Duration = .zero
    var count = available
    while count < input.count {
      time += choices.time(2000)
      count += choices.pick(1...5)
      let now = min(count, input.count)
      timeline.after(time) { [unowned self] in available = max(available, now) }
    }
    if choices.chance(5) {
      timeline.after(choices.time(100)) { [unowned self] in
        guard !isInputEnded else { return }
        inputFailure = Failure(.badInput, "not JSON")
      }
    }
  }

  private func planFaults() {
    if curse != nil {
      isQuiet = false
      return
    }
    for _ in 0..<choices.pick(from: [0, 0, 1, 2, 4]) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [50, 500, 5000])))) { [unowned self] in fault() }
    }
    if choices.chance(10) {
      timeline.after(choices.time(1000)) { [unowned self] in
        guard !isEnded else { return }
        isQuiet = false
        askedToEnd = askedToEnd ?? timeline.now
        tell(.outputLost(Failure(.outputClosed, "standard output is closed")))
      }
    }
    if choices.chance(20) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [100, 1000, 10_000])))) { [unowned self] in
        interrupt()
        // What is under way is not waited for then.
        if choices.chance(20) { timeline.after(choices.time(3000)) { [unowned self] in kill("a second SIGTERM") } }
      }
    }
    if choices.chance(5) { timeline.after(choices.time(1000)) { [unowned self] in kill("SIGKILL") } }
    timeline.after(.seconds(900)) { [unowned self] in
      if !isEnded { violation = Violation("every wait is bounded", "still there after 15 minutes") }
    }
  }

  private func interrupt() {
    guard !isEnded else { return }
    story.tell(timeline.now, "-- SIGTERM")
    isQuiet = false
    isSignalled = true
    askedToEnd = askedToEnd ?? timeline.now
    tell(.interrupted(15))
    // A reader that has stopped is not waited for any longer.
    guard busyEnd == .never else { return }
    timeline.after(.seconds(2)) { [unowned self] in
      guard !isEnded else { return }
      busyEnd = timeline.now
      tell(.outputLost(Failure(.outputClosed, "standard output takes nothing")))
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
    switch choices.pick(14) {
    case 10...11:
      broker.loseNode(for: choices.chance(10) ? .seconds(100) : .milliseconds(choices.pick(5000))) {
        if let link = connection?.link { network.cut(link, "the node is lost") }
      }
    case 12: broker.stop(for: choices.chance(20) ? .seconds(100) : .milliseconds(choices.pick(5000)))
    case 13: broker.forceClosed("closed by the operator")
    case 0...4: if let link = connection?.link { network.cut(link) }
    case 5:
      let outage: Duration = choices.chance(20) ? .seconds(100) : .milliseconds(choices.pick(5000))
      broker.crash(for: outage) { if let link = connection?.link { network.cut(link, "the broker died") } }
    case 6...7:
      broker.loseLeader(of: queue, for: choices.chance(10) ? .seconds(100) : .milliseconds(choices.pick(5000)))
    default:
      broker.raiseAlarm("low on memory", for: choices.chance(20) ? .seconds(100) : .milliseconds(choices.pick(5000)))
    }
  }

  // MARK: The rules

  private func confirm(_ message: AMQPMessage) {
    confirmed.append(message.number)
    lastProgress = timeline.now
    guard failed[message.number] == nil, Set(confirmed).count == confirmed.count else {
      violation = Violation("each message has one outcome", message.key)
      return
    }
    // Nobody is told where it is lost.
    guard message.isMandatory else { return }
    // Who has replied to it has it.
    if options.wantsReplies, replies.contains(message.number) { return }
    guard message.routingKey == "q",
      broker.contents(of: queue).contains(where: { $0.message.key == message.key && $0.isSafe })
    else {
      violation = Violation("confirmed is a part of present", "\(message.key) is not safely in the queue")
      return
    }
  }

  private func fail(_ message: AMQPMessage, _ reason: Publisher.Reason) {
    guard failed[message.number] == nil, !confirmed.contains(message.number) else {
      violation = Violation("each message has one outcome", message.key)
      return
    }
    failed[message.number] = reason
    switch reason {
    case .returned:
      if !message.isMandatory || !broker.returned.contains(where: { $0.key == message.key }) {
        violation = Violation("only what was returned is told to be", message.key)
      }
    case .refused, .tooLarge:
      if message.body.count <= broker.sizeLimit {
        violation = Violation("only what the broker refuses is told to be", message.key)
      }
      hasRefusals = true
    case .unsendable:
      if !message.isUnsendable { violation = Violation("only what cannot be sent is told to be", message.key) }
      hasRefusals = true
    case .nacked: hasRefusals = true
    }
  }

  private func judge(_ machine: Publisher) throws(Violation) {
    if !isKilled { try judgeCause(machine.cause) }
    let contents = broker.contents(of: queue)
    var present: [String: Int] = [:]
    for stored in contents { present[stored.message.key, default: 0] += 1 }
    for number in confirmed
    where present[input[number - 1].key] == nil && !replies.contains(number) && input[number - 1].isMandatory {
      throw Violation("confirmed is a part of present", "\(input[number - 1].key) is not in the queue any more")
    }
    for message in input {
      let count = present[message.key, default: 0]
      if options.wantsReplies, count > 1 { throw Violation("a request is not sent again", message.key) }
      if count > 1 + doubts[message.key, default: 0] {
        throw Violation("doubled is only what was in doubt", "\(message.key) is there \(count) times")
      }
    }
    for stored in contents {
      guard let message = input.first(where: { $0.key == stored.message.key }),
        message.properties.messageID == stored.message.properties.messageID
      else { throw Violation("what comes twice has one id", stored.message.key) }
    }
    if isKilled { return }
    // What is handed in is confirmed, told to have failed, or left.
    let left = Set(machine.left.map(\.message.number))
    if let number = left.intersection(known).min() {
      throw Violation("only what is in doubt is left", "\(input[number - 1].key) is confirmed")
    }
    guard machine.left.map(\.message.number) == left.sorted() else {
      throw Violation("what is left keeps its order", "\(machine.left.map(\.message.number))")
    }
    for number in 1...input.count where number <= read {
      guard !confirmed.contains(number), failed[number] == nil, !left.contains(number) else { continue }
      throw Violation("nothing that was read is forgotten", input[number - 1].key)
    }
    if breaks == 0, !hasRefusals, !broker.wasLeaderless {
      let order = contents.compactMap { stored in input.firstIndex { $0.key == stored.message.key } }
      if order != order.sorted() { throw Violation("the order is kept where nothing breaks", "\(order)") }
    }
    if isQuiet, inputFailure == nil, !options.wantsReplies || !isReplySpoiled && broker.sizeLimit == .max,
      let cause = machine.cause
    {
      throw Violation("all is published where nothing happens", "\(cause)")
    }
    guard machine.cause == nil else { return }
    guard inputFailure == nil, isInputEnded, read == input.count else {
      throw Violation("exit 0 means all of the input", "\(read) of \(input.count) were read")
    }
    for message in input where failed[message.number] == nil && !confirmed.contains(message.number) {
      throw Violation("exit 0 means that all is confirmed", message.key)
    }
  }
}

extension PublishRun {
  /// What is told is so, and 0 is told only where all is as it should be.
  private func judgeCause(_ cause: Publisher.Cause?) throws(Violation) {
    guard let cause else {
      if isDiskFull || diskSpace != nil && kept != Set(failed.keys) {
        throw Violation("exit 0 means that what has failed is kept", "\(failed.keys.sorted())")
      }
      if options.wantsReplies, replies != confirmed.sorted() {
        throw Violation("exit 0 means that each message has its reply", "\(replies) of \(confirmed.sorted())")
      }
      return
    }
    let isSo =
      switch cause {
      case .interrupted: isSignalled
      case .noReply(let number): options.wantsReplies && !arrivedReplies.contains(number)
      case .driver: isDiskFull
      case .input: inputFailure != nil
      // A connection that broke has another one.
      case .unconfirmed: !(connection?.isLost ?? true)
      // A message that may have arrived is told as one that was not confirmed.
      case .unprepared: !isFirstInDoubt || breaks > 1
      case .unconnected where connection == nil: timeline.now - Clock.start >= options.connectFor
      default: true
      }
    if !isSo { throw Violation("what is told is so", "\(cause)") }
  }
}

extension AMQPMessage {
  /// What tells it from others.
  fileprivate var key: String { String(decoding: body.prefix(30), as: UTF8.self) }

  /// Whether it does not fit into a frame.
  fileprivate var isUnsendable: Bool { properties.type == Self.unsendable }
  fileprivate static let unsendable = "with headers that no frame holds"
}
