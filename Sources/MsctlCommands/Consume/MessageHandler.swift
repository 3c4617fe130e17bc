import MsctlCore

/// What is to become of a delivery.
enum Settlement {
  case acknowledge(AMQPDelivery)
  case requeue(AMQPDelivery)
  /// Dropped, or handed to the queue's dead-letter exchange.
  case reject(AMQPDelivery)
}

/// Where `consume` hands its messages. It never blocks: it is asked to work whenever one of its descriptors is ready.
protocol MessageHandler: AnyObject {
  /// Whether another message can be taken.
  var hasRoom: Bool { get }
  /// How many messages were taken and are not settled.
  var outstanding: Int { get }
  /// How many of those have failed and only wait to be requeued.
  var failed: Int { get }
  /// When work is due even if no descriptor is ready.
  var wakeTime: Deadline { get }
  /// Whether nothing is left to be done once `finish` was called.
  var isFinished: Bool { get }
  /// Whether it wants no more messages, though nobody has told it to finish.
  var hasEnded: Bool { get }

  func take(_ delivery: AMQPDelivery) throws(Failure)
  /// Whether it is at work on the same message, which an earlier connection delivered: then it takes this delivery's place.
  func adopt(_ delivery: AMQPDelivery) -> Bool
  func addInterests(to polls: inout PollSet)
  /// Goes on as far as possible. What it adds to the console is flushed before the settlements are carried out.
  func work() throws(Failure) -> [Settlement]
  /// No more messages will come.
  func finish()
  /// Time is up: processes are told to end.
  func terminate()
}

extension MessageHandler {
  var failed: Int { 0 }
}

extension AMQPDelivery {
  /// Whether this is the same message on another connection.
  func isAgain(_ other: AMQPDelivery) -> Bool {
    connection != other.connection && message.isSame(as: other.message)
  }
}

extension AMQPMessage {
  /// The headers in which a broker counts its deliveries.
  private static let counters = ["x-delivery-count", "x-acquired-count"]

  static func isCounter(_ header: String) -> Bool { counters.contains { header.isSame(as: $0) } }

  /// Whether both are one message, or cannot be told apart: an id may be that of several messages, so all of it is compared.
  func isSame(as other: AMQPMessage) -> Bool {
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

/// What is known of the queue that is consumed.
final class QueueTraits {
  /// A stream cannot requeue: what failed is tried again here.
  var isStream = false
  /// How often the broker lets a message come back before it drops or dead-letters it; nil where it does not count that, or where
  /// nothing is known.
  var deliveryLimit: Int?

  /// How often a message may still come back.
  func returnsLeft(_ message: AMQPMessage) -> Int? {
    guard let deliveryLimit else { return nil }
    let count = message.properties.header("x-delivery-count")?.wholeNumber ?? 0
    return max(0, deliveryLimit - Int(clamping: max(0, count)))
  }
}

/// How a message stands on standard output, or on a filter's standard input.
struct MessageFormat {
  var asEnvelope = false
  var asBytes = false
  var endsWithNUL = false
  var isRaw: Bool { asBytes || endsWithNUL }

  func value(_ delivery: AMQPDelivery) -> JSONValue {
    let message = delivery.message
    return asEnvelope
      ? Envelope.write(message, redelivered: delivery.redelivered)
      : BodyText(message.body, contentType: message.properties.contentType).value
  }

  func write(_ delivery: AMQPDelivery, to console: Console) {
    guard isRaw else { return console.write(value: value(delivery)) }
    console.write(text: delivery.message.body)
    console.write(bytes: [endsWithNUL ? 0x00 : 0x0A])
  }
}

/// Writes each message to standard output; it is handled when it is flushed.
final class OutputHandler: MessageHandler {
  private let format: MessageFormat
  private let console: Console
  private var written: [AMQPDelivery] = []

  init(_ format: MessageFormat, _ console: Console) {
    self.format = format
    self.console = console
  }

  var hasRoom: Bool { console.bufferedBytes < 64 << 10 }
  var outstanding: Int { written.count }
  var wakeTime: Deadline { .never }
  var isFinished: Bool { written.isEmpty }
  var hasEnded: Bool { false }

  func take(_ delivery: AMQPDelivery) {
    format.write(delivery, to: console)
    written.append(delivery)
  }

  func work() -> [Settlement] {
    defer { written = [] }
    return written.map { .acknowledge($0) }
  }

  func adopt(_ delivery: AMQPDelivery) -> Bool {
    guard let place = written.firstIndex(where: { delivery.isAgain($0) }) else { return false }
    written[place] = delivery
    return true
  }

  func addInterests(to polls: inout PollSet) {}
  func finish() {}
  func terminate() {}
}

/// How often each message has failed in this run. The count of the broker (`x-delivery-count`) is of no use for that: it counts
/// messages that came back without having been tried as well.
struct Attempts {
  /// More different messages than this do not fail at once; then all are forgotten.
  private static let limit = 10_000

  /// A message, by its id and its content: an id may be that of several messages.
  private struct Key: Hashable {
    let id: ByteKey?
    let routingKey: ByteKey
    let content: Int
    let offset: Int64?

    init(_ message: AMQPMessage) {
      id = message.idKey
      routingKey = ByteKey(message.routingKey)
      content = message.body.hashValue
      offset = message.properties.header("x-stream-offset")?.wholeNumber
    }
  }

  private var counts: [Key: Int] = [:]

  /// Adds a failed attempt.
  /// - Returns: how many there were, with this one.
  mutating func add(_ message: AMQPMessage) -> Int {
    let key = Key(message)
    let count = counts[key, default: 0] + 1
    if counts.count >= Self.limit { counts = [:] }
    counts[key] = count
    return count
  }

  mutating func forget(_ message: AMQPMessage) {
    if !counts.isEmpty { counts[Key(message)] = nil }
  }

  /// How many failed attempts there were.
  func count(_ message: AMQPMessage) -> Int { counts.isEmpty ? 0 : counts[Key(message), default: 0] }
}
