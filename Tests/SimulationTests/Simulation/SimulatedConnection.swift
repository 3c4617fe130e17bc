import DequeModule
import MsctlCore

/// A connection over the simulated network, as a driver knows it.
final class SimulatedConnection: BrokerConnection {
  /// How long the broker may take to reply to the closing.
  private static let closingTime: Duration = .seconds(5)

  let link: Link
  let uri: AMQPURI
  var setup = AMQPConnection.SetupResult()
  private let network: Network
  /// What has arrived and is not read, and what is put by.
  private var inbox = Deque<AMQPEvent>()
  private var events = Deque<AMQPEvent>()
  private var loss: AMQPError?
  /// How many events may be put by.
  private let room: Int
  private var closingEnd: Deadline?
  private var isClosed = false
  /// Is asked of each event whether it can be read.
  var canRead: (AMQPEvent) -> Bool = { _ in true }
  /// Which messages no frame holds.
  var isUnsendable: (AMQPMessage) -> Bool = { _ in false }
  private var isLossTold = false
  /// What was published on this channel and is not settled: the place of each, from 1, is its delivery tag.
  private var published: [AMQPMessage?] = []
  /// Is told each message that is to be sent.
  var onSent: (AMQPMessage) -> Void = { _ in }
  /// Is told each event when it is handed out, and which messages it confirms.
  var onRead: ((AMQPEvent, _ confirmed: [AMQPMessage]) -> Void)?
  /// Is told each method that is to be sent, and whether it is.
  var onMethod: (_ method: AMQPMethod, _ isSent: Bool) -> Void = { _, _ in }
  /// Is told once that it broke, before anybody else hears of that.
  var onLoss: () -> Void = {}
  /// How many replies are to come to what was asked for along with the opening, and who waits for them.
  private var repliesLeft = 0
  private var onOpened: () -> Void = {}

  init(_ network: Network) {
    self.network = network
    link = network.open()
    var uri = AMQPURI()
    uri.heartbeat = 10
    self.uri = uri
    room = network.choices.chance(20) ? network.choices.pick(1...5) : .max
    link.onEvent = { [weak self] event in self?.arrived(event) }
    link.onLoss = { [weak self] error in
      self?.loss = error
      self?.readReplies()
    }
  }

  private func arrived(_ event: AMQPEvent) {
    network.story.tell(network.timeline.now, "< \(event.shown)")
    guard canRead(event) else { return network.cut(link, "it cannot be read", isPrompt: true) }
    inbox.append(event)
    readReplies()
  }

  // MARK: Opening

  /// Asks for this along with the opening.
  /// - Parameters:
  ///   - methods: each has a reply.
  ///   - message: published after them.
  func ask(_ methods: [AMQPMethod], _ message: AMQPMessage?, onOpened: @escaping () -> Void) {
    (repliesLeft, self.onOpened) = (methods.count, onOpened)
    for method in methods {
      if case .consume = method { setup.hasConsumer = true }
      network.send(method, on: link)
    }
    guard let message, !isUnsendable(message) else { return }
    network.send(.publish(message), on: link)
    published.append(message)
    setup.isSent = true
  }

  private func readReplies() {
    while repliesLeft > 0, let event = inbox.popFirst() {
      switch event {
      case .consuming(let tag): setup.consumer = tag
      case .queue: setup.hasQueue = true
      case .prefetchSet, .confirmsSelected, .exchange: break
      default:
        events.append(event)
        continue
      }
      repliesLeft -= 1
      if repliesLeft == 0 { onOpened() }
    }
    guard repliesLeft > 0, let loss else { return }
    repliesLeft = 0
    setup.error = lost(loss)
    onOpened()
  }

  // MARK: While it stands

  var id: UInt64 { link.id }
  // The world itself knows when something happens.
  var descriptor: Int32 { 0 }
  var wakeTime: Deadline { closingEnd ?? .never }
  var hasInput: Bool { !events.isEmpty || !inbox.isEmpty || loss != nil }
  var hasEvents: Bool { !events.isEmpty }
  var isFull: Bool { events.count >= room }
  var isCancelled: Bool { events.suffix(2).contains(.cancelled) }
  var waitingMessages: [AMQPMessage] {
    events.compactMap { if case .delivery(let delivery) = $0 { delivery.message } else { nil } }
  }

  func nextEvent() throws(AMQPError) -> AMQPEvent? {
    var event = events.popFirst()
    if event == nil { event = try read() }
    if let event, let onRead { onRead(event, confirmed(by: event)) }
    return event
  }

  private func confirmed(by event: AMQPEvent) -> [AMQPMessage] {
    switch event {
    case .ack(let tag, let multiple): return takeSettled(tag, multiple)
    case .nack(let tag, let multiple):
      _ = takeSettled(tag, multiple)
      return []
    default: return []
    }
  }

  private func takeSettled(_ tag: UInt64, _ multiple: Bool) -> [AMQPMessage] {
    guard let place = Int(exactly: tag), published.indices.contains(place - 1) else { return [] }
    let places = (multiple ? 0 : place - 1)..<place
    defer { for place in places { published[place] = nil } }
    return published[places].compactMap { $0 }
  }

  func pump() throws(AMQPError) {
    while !isFull, let event = try read() { events.append(event) }
  }

  private func read() throws(AMQPError) -> AMQPEvent? {
    // A connection that is reset may take with it what nobody has read.
    if let loss, inbox.isEmpty || network.choices.chance(50) { throw lost(loss) }
    return inbox.popFirst()
  }

  private func lost(_ error: AMQPError) -> AMQPError {
    if !isLossTold { onLoss() }
    isLossTold = true
    return error
  }

  func send(_ method: AMQPMethod) throws(AMQPError) {
    network.story.tell(network.timeline.now, "> \(method.told)")
    if case .publish(let message) = method, isUnsendable(message) {
      throw AMQPError(kind: .invalid, reason: "its headers do not fit into a frame")
    }
    if case .openChannel = method, loss?.isAboutChannel ?? false {
      (inbox, events, loss, isLossTold, published) = ([], [], nil, false, [])
    }
    // The kernel may know of the end before it is read.
    if loss == nil, link.isReset { loss = AMQPError(kind: .broken, reason: "reset by peer") }
    if case .publish(let message) = method { onSent(message) }
    if let loss, !loss.isAboutChannel, network.choices.chance(50) {
      onMethod(method, false)
      throw lost(loss)
    }
    network.send(method, on: link)
    onMethod(method, true)
    if case .publish(let message) = method { published.append(message) }
  }

  func dropBodies() {}
  func limitStall(to time: Duration) {}

  /// Whether its end was told, and its channel was not opened anew.
  var isLost: Bool { isLossTold }

  // MARK: Closing

  var isClosing: Bool { closingEnd != nil }

  func beginClosing() {
    guard closingEnd == nil else { return }
    closingEnd = network.timeline.now + Self.closingTime
    guard loss == nil else { return }
    network.close(link) { [weak self] in self?.isClosed = true }
  }

  func hasClosed() throws(AMQPError) -> Bool {
    guard let closingEnd else { return true }
    if isClosed { return true }
    if let loss { throw lost(loss) }
    guard network.timeline.now < closingEnd else { throw lost(.unclosed) }
    return false
  }
}

extension AMQPMethod {
  fileprivate var told: String {
    if case .publish(let message) = self {
      return "publish \(message.properties.messageID ?? "a message") to \(message.routingKey)"
    }
    // Without the module's name before each type.
    return "\(self)".split(separator: "MsctlCore.").joined()
  }
}

extension AMQPError {
  fileprivate var isAboutChannel: Bool { if case .channelClosed = kind { true } else { false } }
  fileprivate static var unclosed: AMQPError { AMQPError(kind: .timedOut, reason: "no reply to connection.close") }
}

/// A connection that stands after a while, unless the broker lets nobody in by then.
final class SimulatedOpening: BrokerOpening {
  let descriptor: Int32 = 0
  private var result: Result<SimulatedConnection, Failure>?
  private var connection: SimulatedConnection?

  /// - Parameters:
  ///   - refusal: why nobody is let in, when it comes to that.
  ///   - prepare: what is done with the connection before it is handed out.
  ///   - methods: what is asked for along with the opening, and a message that is sent with that.
  init(
    _ network: Network, after delay: Duration, refusal: @escaping () -> Failure?,
    _ prepare: @escaping (SimulatedConnection) -> Void, asking methods: [AMQPMethod] = [],
    sending message: AMQPMessage? = nil
  ) {
    network.timeline.after(delay) { [weak self] in
      guard let self else { return }
      if let failure = refusal() { return result = .failure(failure) }
      let connection = SimulatedConnection(network)
      self.connection = connection
      prepare(connection)
      network.story.tell(network.timeline.now, "connected")
      guard !methods.isEmpty else { return result = .success(connection) }
      connection.ask(methods, message) { [weak self] in self?.result = .success(connection) }
    }
  }

  /// The connection, or why there is none; nil as long as it is being opened.
  func finished() throws(Failure) -> SimulatedConnection? { try result?.get() }

  func opened() throws(Failure) -> (any BrokerConnection)? { try finished() }
}
