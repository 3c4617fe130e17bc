/// Why a message was not delivered, or publishing and consuming have ended.
public enum MessagingError: Error, Equatable, Sendable {
  /// No queue took the message: the broker's reply code and text.
  case returned(code: Int, String)
  /// The broker refused the message (basic.nack).
  case nacked
  /// The broker closed the channel over the message.
  case refused(AMQPError)
  /// The message is larger than the broker takes, in bytes.
  case tooLarge(limit: Int)
  /// The message cannot be written as AMQP.
  case unsendable(AMQPError)
  /// The broker confirmed nothing in time; its reason where it takes no messages.
  case unconfirmed(within: Duration, blocked: String?)
  case queueDeleted(String)
  /// The broker requeued messages that were unacknowledged for too long.
  case consumerTimeout(queue: String, String)
  /// So many messages are handled, and the broker does not know it.
  case unacknowledged(Int)
  /// Consuming has ended; what is unacknowledged is delivered again.
  case ended
  /// The message was acknowledged, requeued or rejected before.
  case settledBefore
  /// The door is closed.
  case closed
  /// What was given is no AMQP URI.
  case invalidAddress(AMQPURIError)

  var failure: Failure {
    let code: Failure.Code =
      switch self {
      case .returned, .nacked, .refused, .tooLarge, .unconfirmed: .notDelivered
      case .unsendable: .badInput
      case .queueDeleted: .nothingThere
      case .consumerTimeout: .timedOut
      case .unacknowledged: .unreachable
      case .ended, .closed: .failed
      case .settledBefore, .invalidAddress: .usage
      }
    return Failure(code, .messaging(self))
  }
}
