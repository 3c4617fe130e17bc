extension AMQPConnection {
  /// The broker's version, as far as its first two numbers; nil where it does not say.
  private var version: (major: Int, minor: Int)? {
    guard case .string(let version) = serverProperties.first(where: { $0.name.isSame(as: "version") })?.value else {
      return nil
    }
    let numbers = version.utf8.split(separator: UInt8(ascii: ".")).prefix(2).compactMap { Int(String(Substring($0))) }
    return numbers.count == 2 ? (numbers[0], numbers[1]) : nil
  }

  /// Whether every quorum queue of this broker has a delivery limit, and counts each return of a message towards it, also
  /// `basic.nack` and the end of a channel: RabbitMQ 4.0 to 4.2. Older ones have a limit only where one is set; newer ones do
  /// not count what is requeued in good order (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
  package var countsReturns: Bool { version.map { $0.major == 4 && $0.minor <= 2 } ?? false }

  /// As `countsReturns`, where the queue has a limit of its own.
  package var countsLimitedReturns: Bool { version.map { $0.major < 4 || countsReturns } ?? false }

  /// How often a message may come back to a quorum queue, as far as a client can know: policies are not told over AMQP. With a policy, too, the lower limit counts (`resolve_delivery_limit` in rabbit_quorum_queue.erl).
  /// - Parameter set: the limit that was set for the queue; below 0: none.
  package func deliveryLimit(set: Int?) -> Int? {
    guard countsLimitedReturns, set ?? 0 >= 0 else { return nil }
    return set ?? (countsReturns ? 20 : nil)
  }

  /// The limit that an existing quorum queue was declared with, told by the refusal of another one; nil where the refusal is about
  /// something else: it has none, or has other arguments, or this user may not declare it.
  package func declaredDeliveryLimit(of queue: String) throws(AMQPError) -> Int? {
    do throws(AMQPError) {
      _ = try declareQueue(
        queue,
        arguments: [
          AMQPField("x-queue-type", .string("quorum")), AMQPField("x-delivery-limit", .integer(987_654_321)),
        ])
      return nil
    } catch {
      guard [.channelClosed(code: 406), .channelClosed(code: 403)].contains(error.kind) else { throw error }
      try openChannel()
      // "inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received '987654321' but current is '3'"
      guard error.reason.holds(text: "inequivalent arg 'x-delivery-limit'") else { return nil }
      return error.reason.utf8.split(separator: UInt8(ascii: "'")).last.flatMap { Int(String(Substring($0))) }
    }
  }

  /// What kind of queue it is, in the broker's own word (`rabbit_quorum_queue`), told by its refusal of what only a stream has.
  /// A consumer that is not refused is ended again.
  package func isQuorum(_ queue: String) throws(AMQPError) -> Bool {
    do throws(AMQPError) {
      try setPrefetch(1)
      let tag = try consume(queue, arguments: [AMQPField("x-stream-offset", .string("next"))])
      try cancel(consumer: tag)
      return false
    } catch {
      guard error.kind == .channelClosed(code: 406) else { throw error }
      try openChannel()
      return error.reason.holds(text: "rabbit_quorum_queue")
    }
  }
}
