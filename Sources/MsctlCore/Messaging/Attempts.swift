/// How often each message has failed in this run. The count of the broker (`x-delivery-count`) is of no use for that: it counts
/// messages that came back without having been tried as well.
package struct Attempts: Sendable {
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
      offset = message.streamOffset
    }
  }

  private var counts: [Key: Int] = [:]

  package init() {}

  /// Adds a failed attempt.
  /// - Returns: how many there were, with this one.
  package mutating func add(_ message: AMQPMessage) -> Int {
    let key = Key(message)
    let count = counts[key, default: 0] + 1
    if counts.count >= Self.limit { counts = [:] }
    counts[key] = count
    return count
  }

  package mutating func forget(_ message: AMQPMessage) {
    if !counts.isEmpty { counts[Key(message)] = nil }
  }

  /// How many failed attempts there were.
  package func count(_ message: AMQPMessage) -> Int { counts.isEmpty ? 0 : counts[Key(message), default: 0] }
}
