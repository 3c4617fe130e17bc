import DequeModule

/// How much a broker may send: never more than was asked for. What it has sent is counted, so that a hostile one cannot fill
/// the memory; each function returns a sentence where there is too much.
struct AMQPBounds {
  /// The most that `basic.qos` has allowed; nil: no bound.
  var prefetch: Int?
  /// The size of the largest body that was published.
  private(set) var largest = 0

  private var published = 0
  private var confirms = 0
  private var returns = 0
  private var replies = 0
  private var consumers = 0
  private var hasConsumed = false
  private var isAcknowledged = false
  /// How many messages a stream may bring beyond the prefetch: RabbitMQ 3.10 sends the chunks of its log whole, and what counts
  /// the messages of one has 16 bits.
  private var chunk = 0
  /// The tags of deliveries that are not settled, in order.
  private var unsettled = Deque<UInt64>()

  mutating func published(_ size: Int) {
    published += 1
    largest = max(largest, size)
  }

  mutating func expectDeliveries(acknowledged: Bool, isStream: Bool) {
    if isStream { chunk = 1 << 16 }
    consumers += 1
    hasConsumed = true
    isAcknowledged = isAcknowledged || acknowledged
  }

  mutating func settle(_ tag: UInt64, multiple: Bool) {
    let place = unsettled.firstPlace(after: { $0 < tag })
    let isFound = place < unsettled.count && unsettled[place] == tag
    if multiple {
      unsettled.removeFirst(isFound ? place + 1 : place)
    } else if isFound {
      unsettled.remove(at: place)
    }
  }

  mutating func settleAll() { unsettled = [] }

  mutating func delivered(_ tag: UInt64) -> String? {
    guard hasConsumed else { return "the broker sent a message although nothing is consumed" }
    guard isAcknowledged else {
      // Replies: one for each request, and some that were late.
      replies += 1
      return replies <= 2 * published + 100 ? nil : "the broker sent more replies than there were requests"
    }
    guard let prefetch else { return nil }
    guard unsettled.last.map({ $0 < tag }) ?? true else { return "the broker sent a delivery tag twice" }
    unsettled.append(tag)
    // A consumer that was cancelled may still bring some of what its queue had ready.
    return unsettled.count <= 2 * prefetch + 100 + chunk
      ? nil : "the broker sent more messages than the prefetch of \(prefetch) allows"
  }

  /// Each confirm is for one message at least.
  mutating func confirmed() -> String? {
    confirms += 1
    return confirms <= published ? nil : "the broker confirmed more messages than were published"
  }

  mutating func returned() -> String? {
    returns += 1
    return returns <= published ? nil : "the broker returned more messages than were published"
  }

  mutating func cancelled() -> String? {
    consumers -= 1
    return consumers >= 0 ? nil : "the broker cancelled more consumers than there are"
  }
}
