import DequeModule
import MsctlCore

/// Messages that are handled and could not be acknowledged, because their connection broke: they come again, and then are
/// only acknowledged. Each counts once, however many are alike.
struct HandledMessages {
  /// Beyond this the oldest are forgotten, and handled again.
  private static let limit = 10_000

  private var messages = Deque<AMQPMessage>()

  var isEmpty: Bool { messages.isEmpty }
  var count: Int { messages.count }

  mutating func add(_ message: AMQPMessage) {
    messages.append(message)
    if messages.count > Self.limit { messages.removeFirst() }
  }

  /// - Returns: whether such a message was handled; it is taken out.
  mutating func take(_ message: AMQPMessage) -> Bool {
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
struct AcknowledgedMessages {
  /// What is kept, in messages and in bytes of their bodies.
  private static let countLimit = 10_000
  private static let sizeLimit = 16 << 20

  private var recent = Deque<AMQPDelivery>()
  private var size = 0
  /// By id: those that may come again.
  private var unsure: [ByteKey: AMQPMessage] = [:]

  mutating func add(_ delivery: AMQPDelivery) {
    guard delivery.message.properties.messageID != nil else { return }
    recent.append(delivery)
    size += delivery.message.body.count
    while recent.count > Self.countLimit || size > Self.sizeLimit, let oldest = recent.popFirst() {
      size -= oldest.message.body.count
    }
  }

  /// The connection broke.
  /// - Parameter unhandled: what it had delivered and nobody has handled.
  mutating func connectionBroke(unhandled: some Collection<AMQPMessage>) {
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
  mutating func take(_ message: AMQPMessage) -> Bool {
    guard let id = message.idKey, let known = unsure[id] else { return false }
    unsure[id] = nil
    return known.isSame(as: message)
  }
}

/// How far a stream is handled.
struct StreamPlace {
  /// Delivered and not handled, or handled while an earlier one is not; in their order.
  private var delivered = Deque<Int64>()
  private var handled: Set<Int64> = []
  private var next: Int64?

  /// The offset from which on something is not handled; nil before the first delivery.
  var start: Int64? { delivered.first ?? next }

  func hasSeen(_ offset: Int64) -> Bool { delivered.last.map { offset <= $0 } ?? next.map { offset < $0 } ?? false }

  func isHandled(_ offset: Int64) -> Bool { start.map { offset < $0 } ?? false || handled.contains(offset) }

  mutating func deliver(_ offset: Int64) {
    if !hasSeen(offset) { delivered.append(offset) }
  }

  mutating func handle(_ offset: Int64) {
    handled.insert(offset)
    while let first = delivered.first, handled.remove(first) != nil {
      delivered.removeFirst()
      next = first.addingReportingOverflow(1).overflow ? first : first + 1
    }
  }
}

extension AMQPMessage {
  var idKey: ByteKey? { properties.messageID.map(ByteKey.init) }

  /// Where it stands in its stream.
  var streamOffset: Int64? { properties.header("x-stream-offset")?.wholeNumber }
}
