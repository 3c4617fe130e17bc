/// Publishes with confirms and a bounded window in flight, on one connection
/// (https://www.rabbitmq.com/docs/confirms#publisher-confirms).
package final class AMQPPublisher {
  /// What became of a message.
  package enum Outcome: Sendable, Equatable {
    /// A queue has it: on disk, where queue and message are durable.
    case confirmed
    /// No queue was there to take it.
    case returned(code: Int, text: String)
    /// The broker could not take it.
    case nacked
  }

  /// How many events are taken in at a time: a broker may send without end.
  private static let turn = 4096

  private let connection: AMQPConnection
  private let window: Int
  private var unconfirmed = ConfirmWindow()
  /// What was delivered to this connection meanwhile: replies, where it consumes them.
  private var deliveries: [AMQPDelivery] = []
  private var isBlocked = false

  /// - Parameters:
  ///   - connection: one on which confirms are selected and nothing has been published.
  ///   - window: how many messages may wait for their confirm.
  package init(_ connection: AMQPConnection, window: Int) {
    self.connection = connection
    self.window = window
  }

  /// Whether a message may be sent now.
  package var hasRoom: Bool { unconfirmed.count < window && !isBlocked }

  /// The replies that `settle` has come across.
  package func takeDeliveries() -> [AMQPDelivery] {
    defer { deliveries = [] }
    return deliveries
  }

  /// Sends a message. By its `message_id` a returned one is known again; without one, the oldest of its kind is meant.
  package func send(_ message: AMQPMessage) throws(AMQPError) {
    // Noted first: whether a message arrived on which the connection broke, nobody knows.
    unconfirmed.add(OutgoingMessage(message))
    do { try connection.publish(message) } catch {
      if error.kind == .invalid { _ = unconfirmed.remove(unsent: message.number) }
      throw error
    }
  }

  /// Takes in what the broker has said, without waiting, and at most as much as lets the caller look at other things soon.
  /// - Returns: the messages that are settled, in the order in which they were sent.
  package func settle() throws(AMQPError) -> [(message: AMQPMessage, outcome: Outcome)] {
    for _ in 0..<Self.turn {
      guard let event = try connection.nextEvent() else { break }
      switch event {
      case .ack(let tag, let multiple): unconfirmed.confirm(tag, multiple: multiple, .confirmed)
      case .nack(let tag, let multiple): unconfirmed.confirm(tag, multiple: multiple, .nacked)
      case .returned(let message, let code, let text): unconfirmed.returned(message, code: code, text: text)
      case .blocked: isBlocked = true
      case .unblocked: isBlocked = false
      case .delivery(let delivery): deliveries.append(delivery)
      default: break
      }
    }
    var settled: [(message: AMQPMessage, outcome: Outcome)] = []
    while let (outgoing, outcome) = unconfirmed.popSettled() { settled.append((outgoing.message, outcome)) }
    return settled
  }
}
