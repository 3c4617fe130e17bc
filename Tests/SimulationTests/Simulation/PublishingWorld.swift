import DequeModule
import MsctlCore

/// One run of a publisher: the real machine against a broker and a network that do what they can against it.
enum PublishingWorld: World {
  static let name = "publishing"

  static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    try PublishRun(choices, story).run()
  }
}

private final class PublishRun {
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
  private var machine: Publisher
  private var actions: [Publisher.Action] = []
  private var pending = Deque<Publisher.Event>()
  private var link: Link?
  private var inbox = Deque<AMQPEvent>()
  private var loss: AMQPError?
  private var isConnecting = false
  /// Replies to what was asked for along with the opening, which the machine does not hear of.
  private var swallowed = 0

  // The input:
  private var input: [AMQPMessage] = []
  private var read = 0
  /// How many have come so far.
  private var available = 0
  private var inputFailure: Failure?
  private var isInputEnded = false

  // What the rules look at:
  private var confirmed: [Int] = []
  private var failed: [Int: Publisher.Reason] = [:]
  /// How often each message was in doubt: in flight when a connection or a channel broke.
  private var doubts: [String: Int] = [:]
  private var breaks = 0
  private var hasRefusals = false
  /// Whether nothing has happened that could keep a message from its queue.
  private var isQuiet = true
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
    self.options = options
    endLimit = options.confirmTimeout * 3 + options.reconnectFor + .seconds(100)
    machine = Publisher(options, seed: choices.seed(), at: timeline.now)
    if choices.chance(15) { broker.sizeLimit = 20 }
    let isNamed = !choices.chance(10)
    // One that is sent alone.
    let huge = choices.chance(4) ? choices.pick(1...10) : 0
    for number in 1...max(1, choices.pick(from: [3, 1, 10, 40])) {
      let isLarge = choices.chance(10)
      let isLostOnTheWay = choices.chance(5)
      var message = AMQPMessage(
        body: Array("body \(number)\(isLarge ? ", much longer than others" : "")".utf8), exchange: "",
        routingKey: isLostOnTheWay ? "nowhere" : "q")
      if number == huge { message.body += [UInt8](repeating: 0x20, count: Publisher.safeSize) }
      message.number = number
      if isNamed { message.properties.messageID = "id \(number)" }
      input.append(message)
    }
    network.onEvent = { [unowned self] link, event in arrive(event, on: link) }
    network.onLoss = { [unowned self] link, error in
      guard link === self.link else { return }
      loss = error
    }
    story.tell(
      timeline.now,
      "\(input.count) messages for a \(kind.rawValue) queue of \(release.rawValue), window \(options.window), size limit \(broker.sizeLimit)"
    )
  }

  // MARK: The run

  func run() throws(Violation) {
    planInput()
    planFaults()
    connect(isFirst: true)
    var turns = 0
    while !machine.isEnded {
      turns += 1
      guard turns < Self.turnLimit else { throw Violation("every wait is bounded", "it goes round without end") }
      turn()
      if let violation { throw violation }
      if machine.isEnded { break }
      if let askedToEnd, timeline.now - askedToEnd > endLimit {
        throw Violation("every wait is bounded", "still there \(endLimit.shown) after its end was asked for")
      }
      let time = min(timeline.next, machine.wakeTime, machine.wantsMessage && hasInput ? timeline.now : .never)
      guard time != .never else { throw Violation("every wait is bounded", "it waits for nothing") }
      timeline.advance(to: max(time, timeline.now))
      if let violation { throw violation }
    }
    story.tell(timeline.now, "ended: \(machine.cause.map { "\($0)" } ?? "done")")
    // The process has ended: its connection goes, and the broker takes in what has arrived.
    if let link, !link.isOver { network.cut(link) }
    let end = timeline.now + .seconds(130)
    while timeline.next <= end { timeline.advance(to: timeline.next) }
    try judge()
  }

  private func turn() {
    if let loss, inbox.isEmpty {
      self.loss = nil
      inbox = []
      breaks += 1
      for outgoing in machine.left { doubts[outgoing.message.key, default: 0] += 1 }
      hand(.lost(loss))
    }
    var burst = 8
    while machine.wantsMessage, hasInput, burst > 0 {
      burst -= 1
      if read < available {
        read += 1
        hand(.message(OutgoingMessage(input[read - 1])))
      } else {
        isInputEnded = true
        hand(.inputEnded(inputFailure))
      }
    }
    while let event = inbox.popFirst() { hand(.broker(event)) }
    hand(.tick)
  }

  private var hasInput: Bool {
    read < available || !isInputEnded && (inputFailure != nil || available == input.count)
  }

  private func hand(_ event: Publisher.Event) {
    pending.append(event)
    while let next = pending.popFirst(), !machine.isEnded {
      actions.removeAll(keepingCapacity: true)
      machine.handle(next, at: timeline.now, into: &actions)
      for action in actions { perform(action) }
    }
  }

  private func perform(_ action: Publisher.Action) {
    story.tell(timeline.now, "> \(action.told)")
    switch action {
    case .send(let method): if let link { network.send(method, on: link) }
    case .connect: connect(isFirst: false)
    case .disconnect:
      if let link { network.close(link) {} }
      link = nil
      loss = nil
    case .confirmed(let outgoing): confirm(outgoing.message)
    case .failed(let outgoing, let reason): fail(outgoing.message, reason)
    case .reply, .note: break
    }
  }

  private func connect(isFirst: Bool) {
    isConnecting = true
    timeline.after(isFirst ? .zero : choices.time(100)) { [unowned self] in
      guard isConnecting, !machine.isEnded else { return }
      isConnecting = false
      guard !broker.isDown else {
        return hand(.connectFailed(Failure(.unreachable, "connection refused")))
      }
      let link = network.open()
      self.link = link
      inbox = []
      loss = nil
      story.tell(timeline.now, "connected")
      guard isFirst, choices.chance(50) else { return hand(.connected(.bare)) }
      // The queue and confirms are asked for along with the opening, and a first message may go with that.
      swallowed = 2
      network.send(.declare("q", arguments: []), on: link)
      network.send(.selectConfirms, on: link)
      var first: OutgoingMessage?
      if choices.chance(50), available > 0 {
        read = 1
        first = OutgoingMessage(input[0])
        network.send(.publish(input[0]), on: link)
      }
      hand(.connected(.prepared(sent: first)))
    }
  }

  private func arrive(_ event: AMQPEvent, on link: Link) {
    guard link === self.link else { return }
    switch event {
    case .queue where swallowed > 0, .confirmsSelected where swallowed > 0: swallowed -= 1
    default:
      story.tell(timeline.now, "< \(event.shown)")
      inbox.append(event)
    }
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
    for _ in 0..<choices.pick(from: [0, 0, 1, 2, 4]) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [50, 500, 5000])))) { [unowned self] in fault() }
    }
    if choices.chance(10) {
      timeline.after(choices.time(1000)) { [unowned self] in
        guard !machine.isEnded else { return }
        isQuiet = false
        askedToEnd = askedToEnd ?? timeline.now
        hand(.outputLost(Failure(.outputClosed, "standard output is closed")))
      }
    }
    if choices.chance(20) {
      timeline.after(.milliseconds(choices.pick(choices.pick(from: [100, 1000, 10_000])))) { [unowned self] in
        guard !machine.isEnded else { return }
        story.tell(timeline.now, "-- SIGTERM")
        isQuiet = false
        askedToEnd = askedToEnd ?? timeline.now
        hand(.interrupted(15))
      }
    }
    timeline.after(.seconds(900)) { [unowned self] in
      if !machine.isEnded { violation = Violation("every wait is bounded", "still there after 15 minutes") }
    }
  }

  private func fault() {
    guard !machine.isEnded else { return }
    isQuiet = false
    switch choices.pick(10) {
    case 0...4: if let link { network.cut(link) }
    case 5:
      let outage: Duration = choices.chance(20) ? .seconds(100) : .milliseconds(choices.pick(5000))
      broker.crash(for: outage) { if let link { network.cut(link, "the broker died") } }
    case 6...7:
      broker.loseLeader(of: queue, for: choices.chance(10) ? .seconds(100) : .milliseconds(choices.pick(5000)))
    default:
      broker.raiseAlarm("low on memory", for: choices.chance(20) ? .seconds(100) : .milliseconds(choices.pick(5000)))
    }
  }

  // MARK: The rules

  private func confirm(_ message: AMQPMessage) {
    confirmed.append(message.number)
    guard failed[message.number] == nil, Set(confirmed).count == confirmed.count else {
      violation = Violation("each message has one outcome", message.key)
      return
    }
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
      if message.routingKey == "q" { violation = Violation("only what was returned is told to be", message.key) }
    case .refused, .tooLarge:
      if message.body.count <= broker.sizeLimit {
        violation = Violation("only what the broker refuses is told to be", message.key)
      }
      hasRefusals = true
    case .nacked, .unsendable: hasRefusals = true
    }
  }

  private func judge() throws(Violation) {
    let contents = broker.contents(of: queue)
    var present: [String: Int] = [:]
    for stored in contents { present[stored.message.key, default: 0] += 1 }
    for number in confirmed where present[input[number - 1].key] == nil {
      throw Violation("confirmed is a part of present", "\(input[number - 1].key) is not in the queue any more")
    }
    for message in input {
      let count = present[message.key, default: 0]
      if count > 1 + doubts[message.key, default: 0] {
        throw Violation("doubled is only what was in doubt", "\(message.key) is there \(count) times")
      }
    }
    for stored in contents {
      guard let message = input.first(where: { $0.key == stored.message.key }),
        message.properties.messageID == stored.message.properties.messageID
      else { throw Violation("what comes twice has one id", stored.message.key) }
    }
    // What is handed in is confirmed, told to have failed, or left.
    let left = Set(machine.left.map(\.message.number))
    for number in 1...input.count where number <= read {
      guard !confirmed.contains(number), failed[number] == nil, !left.contains(number) else { continue }
      throw Violation("nothing that was read is forgotten", input[number - 1].key)
    }
    if breaks == 0, !hasRefusals, !broker.wasLeaderless {
      let order = contents.compactMap { stored in input.firstIndex { $0.key == stored.message.key } }
      if order != order.sorted() { throw Violation("the order is kept where nothing breaks", "\(order)") }
    }
    if isQuiet, inputFailure == nil, let cause = machine.cause {
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

extension AMQPMessage {
  /// What tells it from others.
  fileprivate var key: String { String(decoding: body.prefix(30), as: UTF8.self) }
}

extension Publisher.Action {
  fileprivate var told: String {
    switch self {
    case .send(.publish(let message)): "publish \(message.key) to \(message.routingKey)"
    case .send(let method): "\(method)".split(separator: "MsctlCore.").joined()
    case .confirmed(let outgoing): "confirmed: \(outgoing.message.key)"
    case .failed(let outgoing, let reason): "failed: \(outgoing.message.key): \(reason)"
    default: "\(self)".split(separator: "MsctlCore.").joined()
    }
  }
}
