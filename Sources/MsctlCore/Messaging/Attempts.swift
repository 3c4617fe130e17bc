/// How often each message has failed in this run. The count of the broker (`x-delivery-count`) is of no use for that: it counts
/// messages that came back without having been tried as well.
package struct Attempts: Sendable {
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

  /// Of those that failed last, and of those before: when there are too many, the oldest are forgotten together.
  private var recent: [Key: Int] = [:]
  private var older: [Key: Int] = [:]

  private let limit: Int

  /// - Parameter limit: at least so many of the different messages that failed last are known, and at most twice as many. More than
  /// can be under way, so that none is forgotten before it comes again.
  package init(limit: Int = 2 * Consumer.mostHeld) { self.limit = limit }

  /// Adds a failed attempt.
  /// - Returns: how many there were, with this one.
  package mutating func add(_ message: AMQPMessage) -> Int { add(Key(message)) }

  /// Adds a failed attempt of a batch. Those of its messages that are alike count as one.
  /// - Returns: how many there were of each, with this one.
  mutating func add(batch: [AMQPMessage]) -> [Int] {
    var added: [Key: Int] = [:]
    return batch.map { message in
      let key = Key(message)
      let count = added[key] ?? add(key)
      added[key] = count
      return count
    }
  }

  private mutating func add(_ key: Key) -> Int {
    let count = count(key) + 1
    if recent[key] == nil, recent.count >= limit { (older, recent) = (recent, [:]) }
    recent[key] = count
    return count
  }

  package mutating func forget(_ message: AMQPMessage) {
    guard !isEmpty else { return }
    let key = Key(message)
    (recent[key], older[key]) = (nil, nil)
  }

  /// How many failed attempts there were.
  package func count(_ message: AMQPMessage) -> Int { isEmpty ? 0 : count(Key(message)) }

  private func count(_ key: Key) -> Int { recent[key] ?? older[key, default: 0] }

  private var isEmpty: Bool { recent.isEmpty && older.isEmpty }
}
