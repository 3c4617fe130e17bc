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

  /// How often a message may come back to a quorum queue, as far as a client can know: policies and the arguments of a queue are
  /// not told over AMQP. With a policy, too, the lower limit counts (`resolve_delivery_limit` in rabbit_quorum_queue.erl).
  /// - Parameter set: the limit that was set for the queue; below 0: none.
  package func deliveryLimit(set: Int?) -> Int? {
    guard let version, version.major < 4 || countsReturns, set ?? 0 >= 0 else { return nil }
    return set ?? (countsReturns ? 20 : nil)
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
