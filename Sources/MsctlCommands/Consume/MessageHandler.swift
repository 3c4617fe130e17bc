import MsctlCore

/// Where `consume` hands its messages. It never blocks: it is asked to work whenever one of its descriptors is ready.
protocol MessageHandler: AnyObject {
  var traits: QueueTraits { get set }
  var state: Consumer.HandlerState { get }
  /// Whether it takes messages as soon as they come.
  var isRunning: Bool { get }
  /// When work is due even if no descriptor is ready.
  var wakeTime: Deadline { get }

  /// - Parameter number: what its settlement names it by.
  func take(_ number: Int, _ delivery: AMQPDelivery) throws(Failure)
  /// The message of this number was delivered anew, by another connection.
  func renew(_ number: Int, _ delivery: AMQPDelivery)
  func addInterests(to polls: inout PollSet)
  /// Goes on as far as possible. What it adds to the console is flushed before the settlements are carried out.
  func work() throws(Failure) -> [Consumer.Settlement]
  /// For a while no more messages may come: what waits for more is begun.
  func startBatch()
  /// No more messages will come.
  func finish()
  /// Time is up: processes are told to end.
  func terminate()
}

extension MessageHandler {
  var isRunning: Bool { true }
  func renew(_ number: Int, _ delivery: AMQPDelivery) {}
  func startBatch() {}
}

/// How a message stands on standard output, or on a filter's standard input.
struct MessageFormat {
  var asEnvelope = false
  var asBytes = false
  var endsWithNUL = false
  var isRaw: Bool { asBytes || endsWithNUL }

  /// - Parameter number: what an envelope is to be known by.
  func value(_ delivery: AMQPDelivery, number: Int? = nil) -> JSONValue {
    let message = delivery.message
    return asEnvelope
      ? Envelope.write(message, redelivered: delivery.redelivered, number: number)
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
  private var written: [Consumer.Settlement] = []
  var traits = QueueTraits()

  init(_ format: MessageFormat, _ console: Console) {
    self.format = format
    self.console = console
  }

  var state: Consumer.HandlerState {
    Consumer.HandlerState(hasRoom: console.bufferedBytes < 64 << 10, isFinished: written.isEmpty)
  }
  var wakeTime: Deadline { written.isEmpty ? .never : .now }

  func take(_ number: Int, _ delivery: AMQPDelivery) {
    format.write(delivery, to: console)
    written.append(Consumer.Settlement(number, .acknowledge))
  }

  func work() -> [Consumer.Settlement] {
    defer { written = [] }
    return written
  }

  func addInterests(to polls: inout PollSet) {}
  func finish() {}
  func terminate() {}
}
