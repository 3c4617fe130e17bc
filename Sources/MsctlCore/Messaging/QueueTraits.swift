/// What is known of the queue that is consumed.
package struct QueueTraits: Sendable {
  /// A stream cannot requeue: what failed is tried again here.
  package var isStream = false
  /// How often the broker lets a message come back before it drops or dead-letters it; nil where it does not count that, or where
  /// nothing is known.
  package var deliveryLimit: Int?

  package init() {}

  /// How often a message may still come back.
  package func returnsLeft(_ message: AMQPMessage) -> Int? {
    guard let deliveryLimit else { return nil }
    let count = message.properties.header("x-delivery-count")?.wholeNumber ?? 0
    return max(0, deliveryLimit - Int(clamping: max(0, count)))
  }
}
