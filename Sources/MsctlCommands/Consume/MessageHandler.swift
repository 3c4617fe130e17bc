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

extension AMQPDelivery {
  /// Whether both are of one message, by its `message_id`.
  func isAgain(_ other: AMQPDelivery) -> Bool {
    connection != other.connection && message.properties.messageID != nil
      && message.properties.messageID == other.message.properties.messageID
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

/// How often each message has been tried. A quorum queue counts itself (`x-delivery-count`); for others it is counted here,
/// by `message_id` or, without one, by what the message says.
struct Attempts {
  /// More different messages than this do not fail at once; the oldest are forgotten.
  private static let limit = 10_000

  private var counts: [String: Int] = [:]

  /// Adds a failed attempt.
  /// - Returns: how many there were, with this one.
  mutating func add(_ message: AMQPMessage) -> Int {
    var count = counts[key(message), default: 0] + 1
    if let delivered = message.properties.header("x-delivery-count")?.wholeNumber {
      count = max(count, Int(delivered) + 1)
    }
    if counts.count >= Self.limit { counts = [:] }
    counts[key(message)] = count
    return count
  }

  mutating func forget(_ message: AMQPMessage) {
    if !counts.isEmpty { counts[key(message)] = nil }
  }

  /// How many failed attempts there were.
  func count(_ message: AMQPMessage) -> Int { counts[key(message), default: 0] }

  private func key(_ message: AMQPMessage) -> String {
    message.properties.messageID ?? "\(message.routingKey):\(message.body.hashValue)"
  }
}
