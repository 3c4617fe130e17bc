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
    /// Its delivery tag; one that was settled on an earlier connection bears its predecessor's.
    var tag: UInt64
    var returned: Outcome?
    var outcome: Outcome?
  }

  /// How many events are taken in at a time: a broker may send without end.
  private static let turn = 4096

  private let connection: AMQPConnection
  private let window: Int
  private var inFlight = Deque<InFlight>()
  /// The delivery tag of the message sent last. Tags count from 1 (`basic.publish` after `confirm.select`).
  private var lastTag: UInt64 = 0
  /// What was delivered to this connection meanwhile: replies, where it consumes them.
  private var deliveries: [AMQPDelivery] = []
  /// Why the broker takes no messages for now.
  public private(set) var blockedReason: String?

  /// - Parameters:
  ///   - connection: one on which confirms are selected and nothing has been published.
  ///   - window: how many messages may wait for their confirm.
  public convenience init(_ connection: AMQPConnection, window: Int) {
    self.init(connection, window: window, sent: nil)
  }

  /// - Parameter sent: the message that was published while the connection was opened (`AMQPConnection.Setup`).
  package init(_ connection: AMQPConnection, window: Int, sent: AMQPMessage?) {
    self.connection = connection
    self.window = window
    guard let sent else { return }
    lastTag = 1
    inFlight = [InFlight(message: sent, tag: lastTag)]
  }

  /// Goes on for another publisher, whose connection broke: what was not confirmed is sent again, as it was and in its order.
  public convenience init(_ connection: AMQPConnection, goingOnFor other: AMQPPublisher) throws(AMQPError) {
    self.init(connection, window: other.window)
    inFlight = other.inFlight
    for place in inFlight.indices {
      if inFlight[place].outcome == nil {
        lastTag += 1
        inFlight[place].returned = nil
        try connection.publish(inFlight[place].message)
      }
      inFlight[place].tag = lastTag
    }
  }

  /// Takes out everything in flight, in its order: with its outcome where that is known.
  package func takeAll() -> [(message: AMQPMessage, outcome: Outcome?)] {
    defer { inFlight = [] }
    return inFlight.map { ($0.message, $0.outcome) }
  }

  /// The number of the message over which the broker closed the channel; nil where that is not certain.
  package func culprit(of error: AMQPError) -> Int? {
    let open = inFlight.filter { $0.outcome == nil }.map(\.message)
    if open.count == 1 { return open[0].number }
    // It takes messages in their order, so the first that is too large is the one.
    return error.refusedSize.flatMap { refused in open.first { $0.body.count == refused.size }?.number }
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
    // Noted first: whether a message arrived on which the connection broke, nobody knows.
    lastTag += 1
    inFlight.append(InFlight(message: message, tag: lastTag))
    do { try connection.publish(message) } catch {
      if error.kind == .invalid {
        inFlight.removeLast()
        lastTag -= 1
      }
      throw error
    }
  }

  /// Whether `settle` has more to take in, which no wait on the connection's descriptor would notice.
  package var hasInput: Bool { connection.hasInput }

  /// Takes in what the broker has said, without waiting, and at most as much as lets the caller look at other things soon.
  /// - Returns: the messages that are settled, in the order in which they were sent.
  public func settle() throws(AMQPError) -> [(message: AMQPMessage, outcome: Outcome)] {
    for _ in 0..<Self.turn {
      guard let event = try connection.nextEvent() else { break }
      switch event {
      case .ack(let tag, let multiple): mark(tag, multiple, .confirmed)
      case .nack(let tag, let multiple): mark(tag, multiple, .nacked)
      case .returned(let message, let code, let text):
        // A return comes before the confirm of its message, and names it by nothing but its properties.
        let place = inFlight.firstIndex {
          $0.returned == nil && areSame($0.message.properties.messageID, message.properties.messageID)
            && $0.message.routingKey.isSame(as: message.routingKey)
        }
        if let place { inFlight[place].returned = .returned(code: code, text: text) }
      case .blocked(let reason): blockedReason = reason
      case .unblocked: blockedReason = nil
      case .delivery(let delivery): deliveries.append(delivery)
      default: break
      }
    }
    return takeSettled()
  }

  /// The messages that are settled and were not handed out yet: `settle` may have been cut short by an error.
  package func takeSettled() -> [(message: AMQPMessage, outcome: Outcome)] {
    var settled: [(message: AMQPMessage, outcome: Outcome)] = []
    while let outcome = inFlight.first?.outcome {
      settled.append((inFlight.removeFirst().message, outcome))
    }
    return settled
  }

  private func mark(_ tag: UInt64, _ multiple: Bool, _ outcome: Outcome) {
    // The first with this tag is the one that was sent under it.
    var (low, high) = (0, inFlight.count)
    while low < high {
      let middle = (low + high) / 2
      if inFlight[middle].tag < tag { low = middle + 1 } else { high = middle }
    }
    guard low < inFlight.count, inFlight[low].tag == tag else { return }
    for place in (multiple ? 0 : low)...low where inFlight[place].outcome == nil {
      inFlight[place].outcome = outcome == .confirmed ? inFlight[place].returned ?? .confirmed : outcome
    }
  }
}

private func areSame(_ one: String?, _ other: String?) -> Bool {
  guard let one, let other else { return one == nil && other == nil }
  return one.isSame(as: other)
}
