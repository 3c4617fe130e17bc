import DequeModule
import MsctlCore

/// RabbitMQ, as far as a client can tell: queues and one channel a connection. What real brokers were seen to do against
/// expectation, it does by chance.
package final class SimulatedBroker {
  package enum Kind: String { case classic, quorum, stream }
  package enum Release: String { case v3 = "3.10", v40 = "4.0", v43 = "4.3" }

  /// A message in a queue.
  package final class Stored {
    package let serial: Int
    package let message: AMQPMessage
    fileprivate(set) var isRedelivered = false
    /// How often it came back, as far as the broker counts that.
    package fileprivate(set) var returns = 0
    /// Whether its publisher was told that it is safe.
    package fileprivate(set) var isSafe = false

    fileprivate init(_ serial: Int, _ message: AMQPMessage) { (self.serial, self.message) = (serial, message) }

    package var id: String { message.properties.messageID ?? "" }

    /// It has come back so often.
    package func age(returns: Int) { (self.returns, isRedelivered) = (returns, returns > 0) }
  }

  package final class Queue {
    package let name: String
    package let kind: Kind
    /// How often a message may come back.
    package let deliveryLimit: Int?
    package fileprivate(set) var ready: [Stored] = []
    /// The messages of a stream, each at its offset.
    package fileprivate(set) var log: [Stored] = []
    /// Came back too often, and were dropped.
    package fileprivate(set) var dropped: [Stored] = []
    /// Rejected without requeueing.
    package fileprivate(set) var rejected: [Stored] = []
    /// What was acknowledged last, and may not be on disk yet.
    fileprivate var lately: [(stored: Stored, time: Deadline)] = []
    /// Whether it has no leader for now.
    package fileprivate(set) var isLeaderless = false
    /// Whether the node that a classic queue lives on is lost for now.
    package fileprivate(set) var isAway = false
    package fileprivate(set) var isDeleted = false

    fileprivate init(_ name: String, _ kind: Kind, _ deliveryLimit: Int?) {
      (self.name, self.kind, self.deliveryLimit) = (name, kind, deliveryLimit)
    }
  }

  private struct Consumer {
    let tag: String
    let queue: Queue
    let prefetch: Int
    /// Where a stream is read.
    var offset = 0
  }

  private struct Delivered {
    let tag: UInt64
    let stored: Stored
    let queue: Queue
    let consumer: String
    /// Whether it has left the broker.
    var isSent: Bool
  }

  private final class Channel {
    let id: UInt64
    let send: (AMQPEvent) -> Void
    let close: (AMQPError) -> Void
    var isOpen = true
    var prefetch = 0
    var consumers: [Consumer] = []
    var unsettled: [Delivered] = []
    var lastTag: UInt64 = 0
    var confirms = false
    /// Whether it takes replies (direct reply-to).
    var takesReplies = false
    var published: UInt64 = 0
    /// Not yet confirmed: by tag; nil: not decided.
    var unconfirmed: [(tag: UInt64, stored: Stored?, isNacked: Bool)] = []
    /// Settlements on their way to a quorum queue, and what waits behind them.
    var commands: Deque<() -> Void> = []
    /// How many of them have arrived in any case, since the queue has replied to something that was sent after them.
    var certain = 0
    var stash: Deque<() -> Void> = []
    /// Whether the next of them arrive soon.
    var isCommitting = false
    /// Assigned to a consumer, and not sent yet: how many replies have overtaken each.
    var unsent: Deque<(event: AMQPEvent, overtaken: Int)> = []
    var isBlocked = false
    /// Whether it waits for a queue that has no leader.
    var isWaiting = false
    var heldBack: [AMQPMethod] = []
    /// Which incarnation of the channel this is.
    var generation = 0

    init(_ id: UInt64, _ send: @escaping (AMQPEvent) -> Void, _ close: @escaping (AMQPError) -> Void) {
      (self.id, self.send, self.close) = (id, send, close)
    }
  }

  /// The most commands that a channel has under way to a quorum queue (`soft_limit` of rabbit_fifo_client.erl).
  private static let softLimit = 32

  package let release: Release
  package private(set) var queues: [String: Queue] = [:]
  private let timeline: Timeline
  private let choices: Choices
  private let story: Story
  private var channels: [UInt64: Channel] = [:]
  private var lastSerial = 0
  /// The largest body that it takes.
  package var sizeLimit = Int.max
  /// Why it takes no messages.
  package private(set) var alarm: String?
  package private(set) var isDown = false
  /// How long a message may stay unacknowledged.
  package var consumerTimeout: Duration?
  private var consumers = 0
  /// Whether a queue has ever lost its leader.
  package private(set) var wasLeaderless = false
  /// Acknowledged messages that came back when the broker was killed.
  package private(set) var reappeared: [Stored] = []

  /// Messages that were returned to their publisher.
  package private(set) var returned: [AMQPMessage] = []
  /// Whether a consumer was ended, or has timed out, though its queue is there.
  package private(set) var hasEndedConsumers = false
  /// Whether somebody has handed messages back to a stream, which takes none.
  package private(set) var hasStreamReturns = false
  /// Whether a connection that is gone may hold messages without a consumer, which nobody can see.
  package private(set) var hidesMessages = false
  /// Each message that is published, and where its reply goes to.
  package var onPublished: (AMQPMessage, _ reply: @escaping (AMQPMessage) -> Void) -> Void = { _, _ in }
  /// Each acknowledgement that it has taken in, before it has an effect.
  package var onAcknowledged: (Stored) -> Void = { _ in }
  /// A queue has lost its last consumer, by its own wish: there it may be deleted.
  package var onLastCancelled: () -> Void = {}

  package init(_ release: Release, _ timeline: Timeline, _ choices: Choices, _ story: Story) {
    (self.release, self.timeline, self.choices, self.story) = (release, timeline, choices, story)
  }

  package func makeQueue(_ name: String, _ kind: Kind, deliveryLimit: Int? = nil) -> Queue {
    let limit = kind == .quorum ? deliveryLimit ?? (release == .v3 ? nil : 20) : nil
    let queue = Queue(name, kind, limit)
    queues[name] = queue
    return queue
  }

  /// Puts a message into a queue, as somebody else's publisher does.
  @discardableResult
  package func put(_ message: AMQPMessage, into queue: Queue) -> Stored {
    lastSerial += 1
    let stored = Stored(lastSerial, message)
    stored.isSafe = true
    if queue.kind == .stream { queue.log.append(stored) } else { queue.ready.append(stored) }
    deliver(from: queue)
    return stored
  }

  /// What a queue holds: ready, or delivered and not settled.
  package func contents(of queue: Queue) -> [Stored] {
    if queue.kind == .stream { return queue.log }
    return queue.ready
      + channels.values.flatMap { $0.unsettled.filter { $0.queue === queue }.map(\.stored) }
  }

  /// How many messages of a queue are delivered and not settled.
  package func unsettled(of queue: Queue) -> Int {
    channels.values.reduce(0) { $0 + $1.unsettled.count { $0.queue === queue } }
  }

  // MARK: Connections

  func open(_ id: UInt64, send: @escaping (AMQPEvent) -> Void, close: @escaping (AMQPError) -> Void) {
    channels[id] = Channel(id, send, close)
  }

  func reopen(_ id: UInt64) {
    guard let channel = channels[id] else { return }
    let fresh = Channel(id, channel.send, channel.close)
    fresh.generation = channel.generation + 1
    // That is so for the whole connection.
    fresh.isBlocked = channel.isBlocked
    channels[id] = fresh
  }

  /// The end of a connection. What is under way to a quorum queue gets there; what waits behind it does not.
  func close(_ id: UInt64, isClean: Bool) {
    guard let channel = channels.removeValue(forKey: id) else { return }
    end(channel, isClean: isClean)
  }

  private func end(_ channel: Channel, isClean: Bool) {
    channel.isOpen = false
    while let command = channel.commands.popFirst() { command() }
    if !channel.stash.isEmpty { story.tell(timeline.now, "broker: \(channel.stash.count) settlements are dropped") }
    channel.stash = []
    channel.unsent = []
    // RabbitMQ 4.3 does not count what comes back because its channel ended.
    let queues = channel.unsettled.map(\.queue)
    giveBack(channel.unsettled, counted: release != .v43)
    channel.unsettled = []
    channel.consumers = []
    for queue in queues { deliver(from: queue) }
  }

  /// The broker closes the channel over a method.
  private func refuse(_ channel: Channel, _ code: Int, _ text: String) {
    story.tell(timeline.now, "broker: closes the channel: \(code) \(text)")
    end(channel, isClean: false)
    channel.close(AMQPError(kind: .channelClosed(code: code), reason: text))
  }

  // MARK: Faults

  /// The broker is killed. What it had told its publishers is safe; of the rest, each message by chance.
  package func crash(for outage: Duration, cut: () -> Void) {
    story.tell(timeline.now, "-- the broker dies")
    isDown = true
    cut()
    for channel in allChannels { end(channel, isClean: false) }
    channels = [:]
    for queue in allQueues {
      loseUnsafe(queue)
      recover(queue)
    }
    comeBack(after: outage)
  }

  /// Queues in an order that is the same in each run.
  private var allQueues: [Queue] { queues.values.sorted { $0.name < $1.name } }

  /// Connections, too.
  private var allChannels: [Channel] { channels.values.sorted { $0.id < $1.id } }

  private func comeBack(after outage: Duration) {
    timeline.after(outage) { [self] in
      isDown = false
      story.tell(timeline.now, "-- the broker is back")
    }
  }

  private func loseUnsafe(_ queue: Queue) {
    queue.ready.removeAll { !$0.isSafe && choices.chance(50) }
    queue.log.removeAll { !$0.isSafe && choices.chance(50) }
  }

  /// A queue is read from disk again.
  private func recover(_ queue: Queue) {
    // What was acknowledged a moment ago may not be on disk.
    let recent = queue.lately.filter { timeline.now - $0.time < .milliseconds(200) && choices.chance(50) }
    queue.lately = []
    for (stored, _) in recent where queue.kind != .stream {
      stored.isRedelivered = true
      queue.ready.append(stored)
      reappeared.append(stored)
    }
    queue.ready.sort { $0.serial < $1.serial }
    // A classic queue that was recovered marks all that was delivered before.
    if queue.kind == .classic { for stored in queue.ready { stored.isRedelivered = true } }
  }

  /// The broker is stopped in good order: it tells its clients, and loses nothing that it has.
  package func stop(for outage: Duration) {
    story.tell(timeline.now, "-- the broker is stopped")
    isDown = true
    forceClosed("shutdown")
    comeBack(after: outage)
  }

  /// The broker closes every connection, as an operator may want.
  package func forceClosed(_ reason: String) {
    let closed = allChannels
    channels = [:]
    for channel in closed {
      end(channel, isClean: false)
      channel.close(
        AMQPError(
          kind: .connectionClosed(code: 320),
          reason: "CONNECTION_FORCED - broker forced connection closure with reason '\(reason)'"))
    }
  }

  /// The node of a cluster is lost that the client is connected to; another one lets it in. What lives on that node alone is away
  /// for a while; what is on several of them may be without a leader.
  package func loseNode(for outage: Duration, cut: () -> Void) {
    story.tell(timeline.now, "-- a node is lost")
    cut()
    for channel in allChannels {
      // Of what was on its way to another node, a part has arrived.
      channel.commands.removeLast(choices.pick(channel.commands.count - channel.certain + 1))
      channel.stash = []
      end(channel, isClean: false)
    }
    channels = [:]
    for queue in allQueues {
      let isHit = choices.chance(50)
      switch queue.kind {
      case .classic where isHit:
        queue.isAway = true
        loseUnsafe(queue)
        timeline.after(outage) { [self] in
          recover(queue)
          queue.isAway = false
          deliver(from: queue)
        }
      case .classic: break
      case .quorum, .stream:
        loseUnsafe(queue)
        if isHit { loseLeader(of: queue, for: outage) }
      }
    }
  }

  /// The broker ends the consumers of a queue that goes on to be there: its leader has moved, for example.
  package func cancelConsumers(of queue: Queue) {
    story.tell(timeline.now, "-- the consumers of \(queue.name) are cancelled")
    hasEndedConsumers = true
    for channel in allChannels where channel.consumers.contains(where: { $0.queue === queue }) {
      flushUnsent(channel)
      channel.consumers.removeAll { $0.queue === queue }
      channel.send(.cancelled)
      hidesMessages = hidesMessages || !channel.unsettled.isEmpty
    }
  }

  /// The leader of a queue is lost: it takes and gives nothing until there is another.
  package func loseLeader(of queue: Queue, for time: Duration) {
    guard queue.kind == .quorum, !queue.isLeaderless else { return }
    story.tell(timeline.now, "-- \(queue.name) has no leader")
    queue.isLeaderless = true
    wasLeaderless = true
    timeline.after(time) { [self] in
      queue.isLeaderless = false
      story.tell(timeline.now, "-- \(queue.name) has a leader")
      for channel in allChannels {
        // What was sent to the lost leader is sent again.
        runCommands(channel)
        scheduleConfirms(channel)
        channel.isWaiting = false
        if !channel.isBlocked { takeHeldBack(channel) }
      }
      deliver(from: queue)
    }
  }

  package func raiseAlarm(_ reason: String, for time: Duration) {
    guard alarm == nil else { return }
    alarm = reason
    story.tell(timeline.now, "-- alarm: \(reason)")
    for channel in allChannels where channel.confirms { block(channel) }
    timeline.after(time) { [self] in
      alarm = nil
      story.tell(timeline.now, "-- no alarm any more")
      for channel in allChannels where channel.isBlocked {
        channel.isBlocked = false
        channel.send(.unblocked)
        if !channel.isWaiting { takeHeldBack(channel) }
      }
    }
  }

  private func takeHeldBack(_ channel: Channel) {
    let methods = channel.heldBack
    channel.heldBack = []
    for method in methods { take(method, on: channel.id) }
  }

  private func block(_ channel: Channel) {
    guard let alarm, !channel.isBlocked else { return }
    channel.isBlocked = true
    channel.send(.blocked(reason: alarm))
  }

  package func delete(_ queue: Queue) {
    story.tell(timeline.now, "-- \(queue.name) is deleted")
    queue.isDeleted = true
    queues[queue.name] = nil
    queue.ready = []
    for channel in allChannels {
      channel.unsettled.removeAll { $0.queue === queue }
      if channel.consumers.contains(where: { $0.queue === queue }) {
        flushUnsent(channel)
        channel.consumers.removeAll { $0.queue === queue }
        channel.send(.cancelled)
      }
    }
  }

  // MARK: Methods

  func take(_ method: AMQPMethod, on id: UInt64) {
    guard let channel = channels[id], channel.isOpen else { return }
    if channel.isBlocked || channel.isWaiting {
      // A connection that publishes is not read from; a channel that waits for a queue does nothing else.
      channel.heldBack.append(method)
      return
    }
    switch method {
    case .openChannel: reply(.channelOpen, channel)
    case .declareExchange: reply(.exchange, channel)
    case .declare(let name, _) where isAway(name), .inspect(let name) where isAway(name),
      .consume(let name, _, _) where isAway(name):
      refuse(
        channel, 404,
        "NOT_FOUND - home node 'rabbit@lost' of durable queue '\(name)' in vhost '/' is down or inaccessible")
    case .declare(let name, _):
      guard let queue = queues[name] else {
        let queue = makeQueue(name, .classic)
        return reply(.queue(state(of: queue)), channel)
      }
      reply(.queue(state(of: queue)), channel)
    case .inspect(let name):
      guard let queue = queues[name] else {
        return refuse(channel, 404, "NOT_FOUND - no queue '\(name)' in vhost '/'")
      }
      channel.certain = channel.commands.count
      // By now the channel has heard that all it had under way was taken in.
      if channel.commands.isEmpty { goOn(channel) }
      reply(.queue(state(of: queue)), channel)
    case .declareExclusive(let name, _):
      let queue = makeQueue(name.isEmpty ? "amq.gen-\(id)-\(channel.generation)" : name, .classic)
      reply(.queue(state(of: queue)), channel)
    case .bind: reply(.bound, channel)
    case .setPrefetch(let count):
      channel.prefetch = count
      reply(.prefetchSet, channel)
    case .selectConfirms:
      channel.confirms = true
      reply(.confirmsSelected, channel)
    case .consume(let name, let arguments, let isAutomatic):
      consume(name, arguments, isAutomatic, channel)
    case .cancel(let tag):
      if channel.consumers.contains(where: { $0.tag == tag && $0.queue.isLeaderless }) {
        channel.isWaiting = true
        channel.heldBack.append(method)
        return
      }
      // It waits for the settlements that are under way. Those that are put by go on when the channel has heard of that.
      while let command = channel.commands.popFirst() { command() }
      channel.certain = 0
      if !channel.stash.isEmpty {
        timeline.after(choices.time(20)) { [self] in if channel.isOpen, channel.commands.isEmpty { goOn(channel) } }
      }
      if let ended = channel.consumers.first(where: { $0.tag == tag }) {
        channel.consumers.removeAll { $0.tag == tag }
        if !allChannels.contains(where: { $0.consumers.contains { $0.queue === ended.queue } }) { onLastCancelled() }
      }
      reply(.consumerEnded, channel)
    case .acknowledge(let tag, let multiple):
      settle(tag, multiple, channel) { [self] delivered in acknowledge(delivered) }
    case .refuse(let tag, let multiple, let requeue):
      noteReturn(channel)
      settle(tag, multiple, channel) { [self] delivered in
        requeue ? giveBack(delivered, counted: release != .v43) : drop(delivered)
      }
    case .reject(let tag, let requeue):
      noteReturn(channel)
      settle(tag, false, channel) { [self] delivered in
        requeue ? giveBack(delivered, counted: true) : drop(delivered)
      }
    case .requeueAll:
      guard let last = channel.unsettled.last?.tag else { return }
      settle(last, true, channel) { [self] delivered in giveBack(delivered, counted: release != .v43) }
    case .publish(let message): publish(message, channel)
    }
  }

  private func noteReturn(_ channel: Channel) {
    if channel.unsettled.contains(where: { $0.queue.kind == .stream }) { hasStreamReturns = true }
  }

  private func isAway(_ name: String) -> Bool { queues[name]?.isAway ?? false }

  /// A reply may overtake deliveries that a quorum queue has assigned, but not those that another reply has overtaken before.
  private func reply(_ event: AMQPEvent, _ channel: Channel) {
    while let first = channel.unsent.first, first.overtaken > 0 {
      channel.unsent.removeFirst()
      channel.send(first.event)
    }
    for place in channel.unsent.indices { channel.unsent[place].overtaken += 1 }
    channel.send(event)
  }

  private func flushUnsent(_ channel: Channel) {
    while let first = channel.unsent.popFirst() { channel.send(first.event) }
  }

  private func state(of queue: Queue) -> AMQPConnection.QueueState {
    // Without a leader nobody knows (`stat` in rabbit_quorum_queue.erl).
    if queue.isLeaderless { return AMQPConnection.QueueState(name: queue.name, messages: 0, consumers: 0) }
    let count = queue.kind == .stream ? queue.log.count : queue.ready.count
    let consumers = channels.values.reduce(0) { $0 + $1.consumers.count { $0.queue === queue } }
    return AMQPConnection.QueueState(name: queue.name, messages: count, consumers: consumers)
  }

  // MARK: Consuming

  private func consume(_ name: String, _ arguments: [AMQPField], _ isAutomatic: Bool, _ channel: Channel) {
    guard !isAutomatic else {
      channel.takesReplies = true
      return reply(.consuming(tag: "replies"), channel)
    }
    guard let queue = queues[name] else {
      return refuse(channel, 404, "NOT_FOUND - no queue '\(name)' in vhost '/'")
    }
    if queue.kind == .stream, arguments.contains(where: { $0.name == "x-priority" }) {
      return refuse(
        channel, 406,
        "PRECONDITION_FAILED - x-priority is not supported for queue '\(name)' of queue type rabbit_stream_queue")
    }
    if queue.kind != .stream, arguments.contains(where: { $0.name == "x-stream-offset" }) {
      let type = queue.kind == .quorum ? "rabbit_quorum_queue" : "rabbit_classic_queue"
      return refuse(
        channel, 406, "PRECONDITION_FAILED - arg 'x-stream-offset' is not supported for queue '\(name)' of type \(type)"
      )
    }
    consumers += 1
    var consumer = Consumer(tag: "consumer-\(consumers)", queue: queue, prefetch: channel.prefetch)
    switch arguments.first(where: { $0.name == "x-stream-offset" })?.value {
    case .integer(let offset)?: consumer.offset = Int(clamping: offset)
    case .string("next")?: consumer.offset = queue.log.count
    default: break
    }
    // A quorum queue replies itself, and the channel may have replied meanwhile to what was sent after.
    let generation = channel.generation
    let begin = { [self] in
      guard let channel = channels[channel.id], channel.isOpen, channel.generation == generation else { return }
      reply(.consuming(tag: consumer.tag), channel)
      channel.consumers.append(consumer)
      deliver(from: queue)
    }
    if queue.kind == .quorum, choices.chance(20) { timeline.after(choices.time(10), begin) } else { begin() }
  }

  private func deliver(from queue: Queue) {
    guard !queue.isLeaderless, !queue.isAway, !isDown else { return }
    var isMoving = true
    while isMoving {
      isMoving = false
      for channel in allChannels where channel.isOpen {
        for place in channel.consumers.indices where channel.consumers[place].queue === queue {
          let consumer = channel.consumers[place]
          let held = channel.unsettled.count { $0.consumer == consumer.tag }
          guard consumer.prefetch == 0 || held < consumer.prefetch else { continue }
          let stored: Stored
          if queue.kind == .stream {
            guard consumer.offset < queue.log.count else { continue }
            stored = queue.log[consumer.offset]
            channel.consumers[place].offset += 1
          } else {
            guard !queue.ready.isEmpty else { continue }
            stored = queue.ready.removeFirst()
          }
          send(stored, consumer, channel)
          isMoving = true
        }
      }
    }
  }

  private func send(_ stored: Stored, _ consumer: Consumer, _ channel: Channel) {
    let queue = consumer.queue
    channel.lastTag += 1
    let tag = channel.lastTag
    channel.unsettled.append(
      Delivered(tag: tag, stored: stored, queue: queue, consumer: consumer.tag, isSent: true))
    var message = stored.message
    if queue.kind == .stream, let offset = queue.log.firstIndex(where: { $0 === stored }) {
      message.properties.headers =
        (message.properties.headers ?? []) + [
          AMQPField("x-stream-offset", .integer(Int64(offset)))
        ]
    } else if queue.kind == .quorum, stored.isRedelivered {
      message.properties.headers =
        [AMQPField("x-delivery-count", .integer(Int64(stored.returns)))] + (message.properties.headers ?? [])
    }
    let event = AMQPEvent.delivery(
      AMQPDelivery(message: message, tag: tag, connection: channel.id, redelivered: stored.isRedelivered))
    if queue.kind == .quorum, choices.chance(20) {
      channel.unsent.append((event, 0))
      let generation = channel.generation
      timeline.after(choices.time(10)) { [self] in
        guard let current = channels[channel.id], current.generation == generation else { return }
        flushUnsent(current)
      }
    } else {
      flushUnsent(channel)
      channel.send(event)
    }
    if let consumerTimeout {
      timeline.after(consumerTimeout) { [self] in
        guard channel.isOpen, !queue.isLeaderless, channel.unsettled.contains(where: { $0.tag == tag }) else { return }
        timeOut(channel, queue)
      }
    }
  }

  /// A message was unacknowledged for too long (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
  private func timeOut(_ channel: Channel, _ queue: Queue) {
    hasEndedConsumers = true
    // What is left of a consumer that was cancelled closes the channel there, too.
    if release == .v43, queue.kind == .quorum, channel.consumers.contains(where: { $0.queue === queue }) {
      story.tell(timeline.now, "broker: cancels the consumer, which has timed out")
      flushUnsent(channel)
      channel.consumers.removeAll { $0.queue === queue }
      let back = channel.unsettled
      channel.unsettled = []
      giveBack(back, counted: false)
      channel.send(.cancelled)
    } else {
      refuse(
        channel, 406,
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms")
    }
  }

  private func settle(
    _ tag: UInt64, _ multiple: Bool, _ channel: Channel, _ apply: @escaping ([Delivered]) -> Void
  ) {
    let named = channel.unsettled.filter { multiple ? $0.tag <= tag : $0.tag == tag }
    guard !named.isEmpty else {
      // It may have been taken back meanwhile.
      if release == .v43, tag <= channel.lastTag { return }
      return refuse(channel, 406, "PRECONDITION_FAILED - unknown delivery tag \(tag)")
    }
    guard named.contains(where: { $0.queue.kind == .quorum }) else {
      channel.unsettled.removeAll { delivered in named.contains { $0.tag == delivered.tag } }
      apply(named)
      return deliver(from: named[0].queue)
    }
    let command = { [self] in
      let open = named.filter { one in channel.unsettled.contains { $0.tag == one.tag } }
      channel.unsettled.removeAll { delivered in open.contains { $0.tag == delivered.tag } }
      apply(open)
      if let queue = open.first?.queue { deliver(from: queue) }
    }
    if channel.commands.count < Self.softLimit, channel.stash.isEmpty {
      channel.commands.append(command)
    } else {
      channel.stash.append(command)
    }
    commitSoon(channel, named[0].queue)
  }

  /// A quorum queue takes in what it has at a time, or a part of it.
  private func commitSoon(_ channel: Channel, _ queue: Queue) {
    guard !channel.isCommitting else { return }
    channel.isCommitting = true
    timeline.after(choices.time(20)) { [self] in
      channel.isCommitting = false
      guard channel.isOpen, !queue.isLeaderless, !channel.commands.isEmpty else { return }
      let count = channel.commands.count
      for _ in 0..<(choices.chance(50) ? 1 + choices.pick(count) : count) { runCommand(channel) }
      if !channel.commands.isEmpty { commitSoon(channel, queue) }
    }
  }

  private func runCommand(_ channel: Channel) {
    channel.commands.popFirst()?()
    channel.certain = max(0, channel.certain - 1)
    guard !channel.stash.isEmpty else { return }
    // All that was put by goes on together.
    let rest = channel.stash
    channel.stash = []
    channel.commands.append { for command in rest { command() } }
  }

  /// What is put by goes on, as one command.
  private func goOn(_ channel: Channel) {
    while let command = channel.stash.popFirst() { command() }
  }

  private func runCommands(_ channel: Channel) {
    while !channel.commands.isEmpty { runCommand(channel) }
  }

  private func acknowledge(_ delivered: [Delivered]) {
    for one in delivered {
      story.tell(timeline.now, "broker: \(one.stored.id) is acknowledged")
      onAcknowledged(one.stored)
      if one.queue.kind != .stream { one.queue.lately.append((one.stored, timeline.now)) }
    }
  }

  private func drop(_ delivered: [Delivered]) {
    for one in delivered where one.queue.kind != .stream { one.queue.rejected.append(one.stored) }
  }

  private func giveBack(_ delivered: [Delivered], counted: Bool) {
    for one in delivered where one.queue.kind != .stream && !one.queue.isDeleted {
      one.stored.isRedelivered = true
      story.tell(timeline.now, "broker: \(one.stored.id) goes back")
      if one.queue.kind == .quorum, counted { one.stored.returns += 1 }
      if let limit = one.queue.deliveryLimit, one.stored.returns > limit {
        story.tell(timeline.now, "broker: drops \(one.stored.id), which came back \(one.stored.returns) times")
        one.queue.dropped.append(one.stored)
      } else {
        one.queue.ready.append(one.stored)
      }
    }
    for queue in queues.values { queue.ready.sort { $0.serial < $1.serial } }
  }

  // MARK: Publishing

  private func publish(_ message: AMQPMessage, _ channel: Channel) {
    if alarm != nil {
      block(channel)
      channel.heldBack.append(.publish(message))
      return
    }
    guard message.body.count <= sizeLimit else {
      return refuse(
        channel, 406,
        "PRECONDITION_FAILED - message size \(message.body.count) is larger than configured max size \(sizeLimit)")
    }
    if message.properties.replyTo == AMQPConnection.directReply, !channel.takesReplies {
      return refuse(channel, 406, "PRECONDITION_FAILED - fast reply consumer does not exist")
    }
    channel.published += 1
    let tag = channel.published
    guard let queue = queues[message.routingKey], message.exchange.isEmpty, !queue.isAway else {
      if message.isMandatory {
        returned.append(message)
        channel.send(.returned(message, code: 312, text: "NO_ROUTE"))
      }
      channel.unconfirmed.append((tag, nil, false))
      return scheduleConfirms(channel)
    }
    lastSerial += 1
    let stored = Stored(lastSerial, message)
    let isNacked = queue.isLeaderless ? choices.chance(50) : false
    if !isNacked {
      if queue.kind == .stream { queue.log.append(stored) } else { queue.ready.append(stored) }
      deliver(from: queue)
      if channel.takesReplies { offerReply(to: message, channel) }
    }
    channel.unconfirmed.append((tag, isNacked ? nil : stored, isNacked))
    scheduleConfirms(channel)
  }

  /// A reply comes to the connection of its request alone, and to nobody where that is gone.
  private func offerReply(to message: AMQPMessage, _ channel: Channel) {
    let generation = channel.generation
    onPublished(message) { [self] reply in
      guard let current = channels[channel.id], current.isOpen, current.generation == generation else { return }
      current.lastTag += 1
      current.send(
        .delivery(AMQPDelivery(message: reply, tag: current.lastTag, connection: channel.id, redelivered: false)))
    }
  }

  private func scheduleConfirms(_ channel: Channel) {
    guard channel.confirms, !channel.unconfirmed.isEmpty else { return }
    timeline.after(choices.time(30)) { [self] in confirm(channel) }
  }

  /// Confirms some: one by one, out of order, or all up to one.
  private func confirm(_ channel: Channel) {
    guard channel.isOpen, !isDown else { return }
    guard !channel.unconfirmed.isEmpty else { return }
    let isMultiple = choices.chance(40)
    let place = choices.chance(30) ? choices.pick(channel.unconfirmed.count) : 0
    let chosen = isMultiple ? Array(channel.unconfirmed[...place]) : [channel.unconfirmed[place]]
    let isNack = chosen[0].isNacked
    guard chosen.allSatisfy({ $0.isNacked == isNack }) else { return scheduleConfirms(channel) }
    if !isNack,
      chosen.contains(where: { $0.stored.map { queues[$0.message.routingKey]?.isLeaderless ?? false } ?? false })
    {
      return
    }
    for one in chosen { one.stored?.isSafe = true }
    let tag = chosen[chosen.count - 1].tag
    channel.unconfirmed.removeAll { one in chosen.contains { $0.tag == one.tag } }
    channel.send(isNack ? .nack(tag: tag, multiple: isMultiple) : .ack(tag: tag, multiple: isMultiple))
    if !channel.unconfirmed.isEmpty { scheduleConfirms(channel) }
  }
}
