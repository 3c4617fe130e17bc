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

  package init() {}

  package mutating func add(_ delivery: AMQPDelivery) {
    guard delivery.message.properties.messageID != nil else { return }
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
      size -= delivery.message.body.count
    }
  }

  /// The connection broke.
  /// - Parameter unhandled: what it had delivered and nobody has handled.
  package mutating func connectionBroke(unhandled: some Collection<AMQPMessage>) {
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

  /// - Returns: whether this message was acknowledged before; it is taken out.
  package mutating func take(_ message: AMQPMessage) -> Bool {
    guard let id = message.idKey, let known = unsure[id] else { return false }
    unsure[id] = nil
    return known.isSame(as: message)
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
    (properties.messageID ?? "").isSame(as: other.properties.messageID ?? "") && body == other.body
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
