import DequeModule

/// Publishes with confirms and a bounded window in flight (https://www.rabbitmq.com/docs/confirms#publisher-confirms).
public final class AMQPPublisher {
  /// What became of a message.
  public enum Outcome: Sendable, Equatable {
    /// A queue has it: on disk, where queue and message are durable.
    case confirmed
    /// No queue was there to take it.
    case returned(code: Int, text: String)
    /// The broker could not take it.
    case nacked
  }

  /// A message in flight. Confirms may come out of order, so those that have one wait here for the older ones.
  private struct InFlight {
    let message: AMQPMessage
    var returned: Outcome?
    var outcome: Outcome?
  }

  private let connection: AMQPConnection
  private let window: Int
  private var inFlight = Deque<InFlight>()
  /// The delivery tag of the first message in flight. Tags count from 1 (`basic.publish` after `confirm.select`).
  private var firstTag: UInt64 = 1
  /// What was delivered to this connection meanwhile: replies, where it consumes them.
  private var deliveries: [AMQPDelivery] = []
  /// Why the broker takes no messages for now.
  public private(set) var blockedReason: String?

  /// - Parameters:
  ///   - connection: one on which confirms are selected and nothing has been published.
  ///   - window: how many messages may wait for their confirm.
  public init(_ connection: AMQPConnection, window: Int) {
    self.connection = connection
    self.window = window
  }

  public var unconfirmed: Int { inFlight.count }
  public var unconfirmedMessages: [AMQPMessage] { inFlight.map(\.message) }

  /// Whether a message may be sent now.
  public var hasRoom: Bool { inFlight.count < window && blockedReason == nil }

  /// The replies that `settle` has come across.
  public func takeDeliveries() -> [AMQPDelivery] {
    defer { deliveries = [] }
    return deliveries
  }

  /// Sends a message. By its `message_id` a returned one is known again; without one, the oldest of its kind is meant.
  public func send(_ message: AMQPMessage) throws(AMQPError) {
    try connection.publish(message)
    inFlight.append(InFlight(message: message))
  }

  /// Takes in what the broker has said, without waiting.
  /// - Returns: the messages that are settled, in the order in which they were sent.
  public func settle() throws(AMQPError) -> [(message: AMQPMessage, outcome: Outcome)] {
    while let event = try connection.nextEvent() {
      switch event {
      case .ack(let tag, let multiple): mark(tag, multiple, .confirmed)
      case .nack(let tag, let multiple): mark(tag, multiple, .nacked)
      case .returned(let message, let code, let text):
        // A return comes before the confirm of its message, and names it by nothing but its properties.
        let place = inFlight.firstIndex {
          $0.returned == nil && $0.message.properties.messageID == message.properties.messageID
            && $0.message.routingKey == message.routingKey
        }
        if let place { inFlight[place].returned = .returned(code: code, text: text) }
      case .blocked(let reason): blockedReason = reason
      case .unblocked: blockedReason = nil
      case .delivery(let delivery): deliveries.append(delivery)
      case .cancelled: break
      }
    }
    var settled: [(message: AMQPMessage, outcome: Outcome)] = []
    while let outcome = inFlight.first?.outcome {
      settled.append((inFlight.removeFirst().message, outcome))
      firstTag += 1
    }
    return settled
  }

  private func mark(_ tag: UInt64, _ multiple: Bool, _ outcome: Outcome) {
    guard tag >= firstTag, tag - firstTag < UInt64(inFlight.count) else { return }
    let last = Int(tag - firstTag)
    for place in (multiple ? 0 : last)...last where inFlight[place].outcome == nil {
      inFlight[place].outcome = outcome == .confirmed ? inFlight[place].returned ?? .confirmed : outcome
    }
  }
}
