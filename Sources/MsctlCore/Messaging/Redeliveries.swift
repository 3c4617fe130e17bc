import DequeModule

/// Messages that are handled and could not be acknowledged, because their connection broke: they come again, and then are
/// only acknowledged. Each counts once, however many are alike.
package struct HandledMessages: Sendable {
  /// Beyond this the oldest are forgotten, and handled again.
  private static let limit = 10_000

  private var messages = Deque<AMQPMessage>()

  package init() {}

  package var isEmpty: Bool { messages.isEmpty }
  package var count: Int { messages.count }

  package mutating func add(_ message: AMQPMessage) {
    messages.append(message)
    if messages.count > Self.limit { messages.removeFirst() }
  }

  /// - Returns: whether such a message was handled; it is taken out.
  package mutating func take(_ message: AMQPMessage) -> Bool {
    guard let place = messages.firstIndex(where: { $0.isSame(as: message) }) else { return false }
    messages.remove(at: place)
    return true
  }
}

/// Messages whose acknowledgements may be lost: with a connection those under way, with a broker those that it had not
/// written to disk.
///
/// Whether one that comes again is among them is sure only if its id is its own. So a message without an id, or whose id another
/// message bears, is handled again.
package struct AcknowledgedMessages: Sendable {
  /// What is kept, in messages and in bytes of their bodies.
  private static let countLimit = 10_000
  private static let sizeLimit = 16 << 20

  private var recent = Deque<AMQPDelivery>()
  private var size = 0
  /// By id: those that may come again.
  private var unsure: [ByteKey: AMQPMessage] = [:]
  /// How many were acknowledged, and of how many the acknowledgement has arrived.
  private var total = Mark()
  private var arrived = Mark()
  /// Those that came again and were acknowledged again, which may not have arrived.
  private var resent = Deque<ByteKey>()
  /// Those of the `unsure` whose acknowledgement was under way when a connection broke.
  private var returning: Set<ByteKey> = []
  /// How many others were under way, which cannot be known again.
  private var nameless = 0

  /// How many acknowledgements were sent by a moment: of messages that were handled, and of those that had come again.
  struct Mark: Equatable {
    fileprivate var handled = 0
    fileprivate var again = 0
  }

  /// How many were sent by now.
  var mark: Mark { total }
  /// How many acknowledgements were under way when a connection broke, and whose messages have not come again.
  var inDoubt: Int { returning.count + nameless }
  /// Whether one of them would be known again.
  var mayReturn: Bool { !returning.isEmpty }

  package init() {}

  package mutating func add(_ delivery: AMQPDelivery) {
    total.handled += 1
    recent.append(delivery)
    size += delivery.message.body.count
    while recent.count > Self.countLimit || size > Self.sizeLimit, let oldest = recent.popFirst() {
      size -= oldest.message.body.count
    }
  }

  /// The last ones were not acknowledged after all.
  package mutating func remove(last deliveries: some BidirectionalCollection<AMQPDelivery>) {
    for delivery in deliveries.reversed() where recent.last === delivery {
      recent.removeLast()
      total.handled -= 1
      size -= delivery.message.body.count
    }
  }

  /// What was acknowledged before a method to which the broker has replied has arrived.
  /// - Parameter mark: how many there were when that method was sent.
  mutating func arrived(upTo mark: Mark) {
    arrived.handled = max(arrived.handled, mark.handled)
    if mark.again > arrived.again {
      resent.removeFirst(min(resent.count, mark.again - arrived.again))
      arrived.again = mark.again
    }
  }

  /// How many of the acknowledgements that were sent by then are not known to have arrived.
  func underWay(at mark: Mark) -> Int { mark.handled - arrived.handled + mark.again - arrived.again }

  /// The time is over in which messages may come again.
  mutating func trust() { (returning, nameless) = ([], 0) }

  /// The connection broke.
  /// - Parameters:
  ///   - unhandled: what it had delivered and nobody has handled.
  ///   - window: the most acknowledgements that can have been under way: the prefetch; 0: no bound.
  package mutating func connectionBroke(unhandled: some Collection<AMQPMessage>, window: Int = 0) {
    defer { noteReturning(window) }
    unsure = [:]
    var shared = Set(unhandled.compactMap(\.idKey))
    for message in recent.lazy.map(\.message) {
      guard let id = message.idKey, !shared.contains(id) else { continue }
      if unsure.updateValue(message, forKey: id) != nil {
        unsure[id] = nil
        shared.insert(id)
      }
    }
  }

  private mutating func noteReturning(_ window: Int) {
    let count = max(0, total.handled - arrived.handled)
    let last = recent.suffix(window > 0 ? min(count, window) : count)
    let ids: [ByteKey?] = last.map { $0.message.idKey } + resent.map { $0 }
    for id in ids {
      if let id, unsure[id] != nil { returning.insert(id) } else { nameless += 1 }
    }
    arrived = total
    resent = []
  }

  /// - Returns: whether this message was acknowledged before; it is taken out.
  package mutating func take(_ message: AMQPMessage) -> Bool {
    guard let id = message.idKey, let known = unsure[id] else { return false }
    unsure[id] = nil
    guard known.isSame(as: message) else { return false }
    returning.remove(id)
    resent.append(id)
    total.again += 1
    return true
  }
}

/// How far a stream is handled.
package struct StreamPlace: Sendable {
  /// Delivered and not handled, or handled while an earlier one is not; in their order.
  private var delivered = Deque<Int64>()
  private var handled: Set<Int64> = []
  private var next: Int64?

  package init() {}

  /// The offset from which on something is not handled; nil before the first delivery.
  package var start: Int64? { delivered.first ?? next }

  package func hasSeen(_ offset: Int64) -> Bool {
    delivered.last.map { offset <= $0 } ?? next.map { offset < $0 } ?? false
  }

  package func isHandled(_ offset: Int64) -> Bool { start.map { offset < $0 } ?? false || handled.contains(offset) }

  package mutating func deliver(_ offset: Int64) {
    if !hasSeen(offset) { delivered.append(offset) }
  }

  package mutating func handle(_ offset: Int64) {
    handled.insert(offset)
    while let first = delivered.first, handled.remove(first) != nil {
      delivered.removeFirst()
      next = first.addingReportingOverflow(1).overflow ? first : first + 1
    }
  }
}

extension AMQPMessage {
  package var idKey: ByteKey? { properties.messageID.map(ByteKey.init) }

  /// Where it stands in its stream.
  package var streamOffset: Int64? { properties.header("x-stream-offset")?.wholeNumber }
}

extension AMQPDelivery {
  /// How large a body may be to be kept where it is only compared.
  private static let smallBody = 1 << 10

  /// The same, with a hash in place of a larger body, for what is held in large numbers and compared alone.
  package var withoutBody: AMQPDelivery {
    guard message.body.count > Self.smallBody else { return self }
    var message = message
    message.leaveOutBody()
    return AMQPDelivery(message: message, tag: tag, connection: connection, redelivered: redelivered)
  }

  /// Whether this is the same message on another connection.
  package func isAgain(_ other: AMQPDelivery) -> Bool {
    connection != other.connection && message.isSame(as: other.message)
  }
}

extension AMQPMessage {
  /// The headers in which a broker counts its deliveries.
  private static let counters = ["x-delivery-count", "x-acquired-count"]

  package static func isCounter(_ header: String) -> Bool { counters.contains { header.isSame(as: $0) } }

  /// Whether both are one message, or cannot be told apart: an id may be that of several messages, so all of it is compared.
  package func isSame(as other: AMQPMessage) -> Bool {
    // By bytes: names that look the same need not be.
    (properties.messageID ?? "").isSame(as: other.properties.messageID ?? "") && hasBody(of: other)
      && exchange.isSame(as: other.exchange) && routingKey.isSame(as: other.routingKey)
      && properties.uncounted == other.properties.uncounted
  }
}

extension AMQPProperties {
  fileprivate var uncounted: AMQPProperties {
    var properties = self
    properties.headers = headers?.filter { !AMQPMessage.isCounter($0.name) }
    // An order that a broker may change.
    properties.headers?.sort { $0.name < $1.name }
    if properties.headers?.isEmpty == true { properties.headers = nil }
    return properties
  }
}
