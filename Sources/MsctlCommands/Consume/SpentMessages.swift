import MsctlCore

/// Messages that `--peek` must not requeue, because the broker counts each return and drops a message that came back too often
/// (RabbitMQ 4.0 to 4.2). Each is published again, on a connection of its own, so that a refusal does not take the messages with
/// it that are being looked at.
struct SpentMessages {
  /// Time limit for a confirm.
  private static let patience: Duration = .seconds(10)

  private let queue: String
  private let limit: Int
  private let connection: AMQPConnection
  private var publisher: AMQPPublisher
  private var saved = 0
  private var stripped = 0
  /// What became of the first one.
  private(set) var failure = Failure(.failed, "")

  /// Connects, and makes sure that this user may publish to a queue.
  init(of queue: String, _ broker: BrokerOptions, _ limit: Int, _ console: Console) throws(Failure) {
    self.queue = queue
    self.limit = limit
    connection = try AMQPConnection.open(
      anyOf: try broker.currentURIs(), name: "msctl consume", trace: console.amqpTrace)
    publisher = AMQPPublisher(connection, window: 1)
    do throws(AMQPError) {
      try connection.selectConfirms()
      // It is returned, since there is no such queue; before that the broker looks at the user's permissions.
      _ = try publish(AMQPMessage(body: [], exchange: "", routingKey: "msctl-" + randomUUID()))
    } catch {
      var failure = error.failure(connection.uri)
      failure.message =
        "cannot peek at '\(queue)': the broker counts each return and drops a message after \(limit) (delivery limit), and a "
        + "message that has no return left cannot be published again: \(failure.message)"
      if failure.code == .denied {
        failure.hint =
          "Grant the user '\(connection.uri.user)' the right to write to amq.default (rabbitmqctl set_permissions)."
      }
      throw failure
    }
  }

  /// Whether there was one.
  var isUsed: Bool { !failure.message.isEmpty }

  /// Publishes a message again, to the end of its queue.
  /// - Returns: whether the copy is confirmed, so that the original can be acknowledged.
  mutating func save(_ message: AMQPMessage, returnsLeft left: Int) -> Bool {
    let name = message.properties.messageID.map { "message \($0)" } ?? "a message"
    let isFirst = !isUsed
    if isFirst {
      failure.message =
        "cannot peek at '\(queue)' any more: \(name) came back \(limit - left) times, "
        + "and the broker drops it after \(limit) (delivery limit)"
    }
    do throws(AMQPError) {
      try copy(message)
      saved += 1
      let text = saved == 1 ? "It was" : "It and \(saved - 1) more were"
      failure.hint = "\(text) published again, to the end of the queue"
      failure.hint? += stripped == 0 ? "." : "; \(stripped) without user_id, which only that user may set."
      return true
    } catch {
      let outcome = left > 0 ? "it is requeued, for the last time" : "the broker drops or dead-letters it now"
      failure.message += "; \(isFirst ? "it" : name) could not be published again: \(error.reason); \(outcome)"
      return false
    }
  }

  private mutating func copy(_ message: AMQPMessage) throws(AMQPError) {
    var message = message
    message.exchange = ""
    message.routingKey = queue
    message.properties.headers?.removeAll { AMQPMessage.isCounter($0.name) }
    do throws(AMQPError) { return try check(publish(message)) } catch {
      // Refused with the channel, which takes no other message then.
      guard case .channelClosed = error.kind else { throw error }
      try connection.openChannel()
      try connection.selectConfirms()
      publisher = AMQPPublisher(connection, window: 1)
      guard error.isAboutOneMessage, message.properties.userID != nil else { throw error }
      // The name of another user (https://www.rabbitmq.com/docs/validated-user-id): without it, the rest is saved.
      message.properties.userID = nil
      try check(publish(message))
      stripped += 1
    }
  }

  private func check(_ outcome: AMQPPublisher.Outcome) throws(AMQPError) {
    switch outcome {
    case .confirmed: return
    case .nacked: throw AMQPError(kind: .broken, reason: "the broker refused it (basic.nack)")
    case .returned(_, let text): throw AMQPError(kind: .broken, reason: "it was returned: \(text)")
    }
  }

  private func publish(_ message: AMQPMessage) throws(AMQPError) -> AMQPPublisher.Outcome {
    try publisher.send(message)
    let deadline = Deadline.after(Self.patience)
    while true {
      if let settled = try publisher.settle().first { return settled.outcome }
      guard !deadline.isPast else {
        throw AMQPError(kind: .timedOut, reason: "no confirm came within \(Self.patience.shown)")
      }
      var polls = PollSet()
      polls.add(connection.descriptor)
      polls.wait(until: min(deadline, .after(.seconds(1))))
    }
  }

  func close() { connection.close() }
}
