import DequeModule

/// A message on its way to a broker. A class, since it is handed from one to the next many times until it is confirmed.
package final class OutgoingMessage: Sendable {
  package let message: AMQPMessage
  /// What belongs to the message and is not sent.
  package let token: [UInt8]?

  package init(_ message: AMQPMessage, token: [UInt8]? = nil) { (self.message, self.token) = (message, token) }
}

/// The messages that wait for their confirm, in the order in which they were sent
/// (https://www.rabbitmq.com/docs/confirms#publisher-confirms).
struct ConfirmWindow: Sendable {
  /// Confirms may come out of order, so messages that have one wait here for the older ones.
  private struct Entry {
    let outgoing: OutgoingMessage
    /// Its delivery tag; one that was settled on an earlier channel bears its predecessor's.
    var tag: UInt64
    var returned: AMQPPublisher.Outcome?
    var outcome: AMQPPublisher.Outcome?
  }

  private var entries = Deque<Entry>()
  /// The delivery tag of the message sent last. Tags count from 1 (`basic.publish` after `confirm.select`).
  private var lastTag: UInt64 = 0

  var count: Int { entries.count }
  var isEmpty: Bool { entries.isEmpty }
  var messages: [OutgoingMessage] { entries.map(\.outgoing) }

  /// Adds a message that is sent now.
  mutating func add(_ outgoing: OutgoingMessage) {
    lastTag += 1
    entries.append(Entry(outgoing: outgoing, tag: lastTag))
  }

  /// Takes out a message that was not sent after all: those after it have other tags then.
  mutating func remove(unsent number: Int) -> OutgoingMessage? {
    guard let place = entries.lastIndex(where: { $0.outgoing.message.number == number }) else { return nil }
    let outgoing = entries.remove(at: place).outgoing
    lastTag -= 1
    for later in place..<entries.count { entries[later].tag -= 1 }
    return outgoing
  }

  /// Notes a confirm or, with `nacked`, a refusal.
  mutating func confirm(_ tag: UInt64, multiple: Bool, _ outcome: AMQPPublisher.Outcome) {
    // The first with this tag is the one that was sent under it.
    let last = entries.firstPlace(after: { $0.tag < tag })
    guard last < entries.count, entries[last].tag == tag else { return }
    for place in (multiple ? 0 : last)...last where entries[place].outcome == nil {
      entries[place].outcome = outcome == .confirmed ? entries[place].returned ?? .confirmed : outcome
    }
  }

  /// Notes that some messages have arrived, as is known without their confirm.
  mutating func confirm(where hasArrived: (AMQPMessage) -> Bool) {
    for place in entries.indices where entries[place].outcome == nil && hasArrived(entries[place].outgoing.message) {
      entries[place].outcome = .confirmed
    }
  }

  /// Notes a return. It comes before the confirm of its message, and names it by nothing but its properties.
  mutating func returned(_ message: AMQPMessage, code: Int, text: String) {
    let place = entries.firstIndex {
      $0.returned == nil && $0.outcome == nil && $0.outgoing.message.isMandatory
        && areSame($0.outgoing.message.properties.messageID, message.properties.messageID)
        && $0.outgoing.message.routingKey.isSame(as: message.routingKey)
    }
    if let place { entries[place].returned = .returned(code: code, text: text) }
  }

  /// Takes out the oldest message, once it is settled.
  mutating func popSettled() -> (outgoing: OutgoingMessage, outcome: AMQPPublisher.Outcome)? {
    guard let outcome = entries.first?.outcome else { return nil }
    return (entries.removeFirst().outgoing, outcome)
  }

  /// Takes out everything that is settled, also what waits for an older message.
  mutating func takeSettled() -> [(outgoing: OutgoingMessage, outcome: AMQPPublisher.Outcome)] {
    defer { entries.removeAll { $0.outcome != nil } }
    return entries.compactMap { entry in entry.outcome.map { (entry.outgoing, $0) } }
  }

  /// Goes on on another channel.
  /// - Returns: what is to be sent there first, again and in this order: all that is not settled.
  mutating func restart() -> [OutgoingMessage] {
    lastTag = 0
    for place in entries.indices {
      if entries[place].outcome == nil {
        lastTag += 1
        entries[place].returned = nil
      }
      entries[place].tag = lastTag
    }
    return entries.filter { $0.outcome == nil }.map(\.outgoing)
  }

  /// Takes out everything, in its order: with its outcome where that is known. The next message is the first of its channel.
  mutating func takeAll() -> [(outgoing: OutgoingMessage, outcome: AMQPPublisher.Outcome?)] {
    defer { (entries, lastTag) = ([], 0) }
    return entries.map { ($0.outgoing, $0.outcome) }
  }

  /// The number of the message over which the broker closed the channel; nil where that is not certain.
  func culprit(of error: AMQPError) -> Int? {
    let open = entries.filter { $0.outcome == nil }.map(\.outgoing.message)
    if open.count == 1 { return open[0].number }
    // It takes messages in their order, so the first that is too large is the one.
    return error.refusedSize.flatMap { refused in open.first { $0.body.count == refused.size }?.number }
  }
}

private func areSame(_ one: String?, _ other: String?) -> Bool {
  guard let one, let other else { return one == nil && other == nil }
  return one.isSame(as: other)
}
