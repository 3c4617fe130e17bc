import CRabbitMQ
import DequeModule
import Glibc

/// A connection to a broker with one channel: owns librabbitmq's state. To be used by one thread.
///
/// What the broker sends without being asked comes out of `nextEvent`, whole and in order. After an error the connection is
/// dead; open a new one. Heartbeats are answered only while `nextEvent` or another call runs: call it at least once a
/// second.
package final class AMQPConnection {
  /// librabbitmq may drop queued frames of one channel while it reads another: so there is one only.
  static let channel: amqp_channel_t = 1
  /// The size of a frame that is asked for: RabbitMQ's default.
  static let frameMax = 131_072
  /// What a frame may hold beyond that when it comes: a broker adds headers of its own to those that filled a frame.
  static let headerRoom = 65_536
  /// How long the broker may take to respond to a method.
  package static let replyTimeout: Duration = .seconds(30)

  /// A message whose frames have not all come.
  enum Partial {
    case delivery(tag: UInt64, redelivered: Bool)
    case returned(code: Int, text: String)
  }

  /// Consumed for replies, and named in `reply_to` (https://www.rabbitmq.com/docs/direct-reply-to).
  package static let directReply = "amq.rabbitmq.reply-to"

  /// What the channel is to be from the start. It is asked for together with the opening, in one flight, and the replies are read
  /// after that: one round trip in place of one for each method.
  package struct Setup: Sendable {
    /// An exchange that is declared.
    package var exchange: AMQPExchange?
    /// A queue that must exist or, with `arguments`, is declared.
    package var queue: String?
    package var arguments: [AMQPField]?
    package var consumer: Consumer?
    package var selectsConfirms = false
    /// Published at last, in case all of that is right. A broker ignores what comes after a method that it refuses.
    package var message: AMQPMessage?

    package init() {}
  }

  package struct Consumer: Sendable {
    package let queue: String
    package var isAutomatic = false
    /// nil: as many as the broker likes.
    package var prefetch: Int?
    package var arguments: [AMQPField] = []

    package init(_ queue: String, isAutomatic: Bool = false, prefetch: Int? = nil, arguments: [AMQPField] = []) {
      (self.queue, self.isAutomatic, self.prefetch, self.arguments) = (queue, isAutomatic, prefetch, arguments)
    }
  }

  /// What has become of a `Setup`.
  package struct SetupResult: Sendable {
    /// What the broker refused of it, or why the connection broke.
    package var error: AMQPError?
    /// Whether the queue is there.
    package var hasQueue = false
    /// Whether a consumer was asked for.
    package var hasConsumer = false
    /// Its tag.
    package var consumer: String?
    /// Whether the message was sent.
    package var isSent = false

    package init() {}

    /// Whether the connection broke, or was closed, when the message had been sent: the broker may have it. After a method that it
    /// refuses on the channel it has not.
    package var isInDoubt: Bool {
      guard isSent, let error else { return false }
      return if case .channelClosed = error.kind { false } else { true }
    }
  }

  package let uri: AMQPURI
  /// Tells it from every other connection.
  package let id = UInt64.random(in: .min ... .max)
  let state: amqp_connection_state_t
  let trace: ((String) -> Void)?
  var isAlive = true
  /// Until when the broker may reply to `connection.close`; nil where no reply is to come.
  var closingEnd: Deadline?
  /// Whether what is sent waits for `push`.
  var isHeldBack = false
  var pool = AMQPPool()
  var events = Deque<AMQPEvent>()
  /// The size of `events`, in bytes.
  var putBy = 0
  /// When `pump` takes in more although much is put by.
  var fullPump = Deadline.now
  var partial: (kind: Partial, message: AMQPMessage, left: UInt64)?
  var bounds = AMQPBounds()
  /// The replies that are to come as events, in their order: those to what `send(_:)` has sent.
  var replies = Deque<amqp_method_number_t>()
  var keepsBodies = true
  /// The body that is coming, and the bytes of all since the memory was asked for.
  var held = HeldBytes(limit: Int(clamping: bodyLimit))
  var unasked = 0
  /// The size of a frame that the broker agreed to.
  var frameMax = AMQPConnection.frameMax
  /// What the broker says of itself: its version, for one.
  package internal(set) var serverProperties: [AMQPField] = []
  package internal(set) var setup = SetupResult()

  init(_ uri: AMQPURI, _ state: amqp_connection_state_t, _ trace: ((String) -> Void)?) {
    self.uri = uri
    self.trace = trace
    self.state = state
  }

  deinit {
    amqp_destroy_connection(state)
  }

  // MARK: Results

  func check(status: Int32) throws(AMQPError) {
    switch status {
    case AMQP_STATUS_OK.rawValue...: return
    case AMQP_STATUS_HEARTBEAT_TIMEOUT.rawValue:
      throw dead(.broken, "nothing was heard for two heartbeats of \(uri.heartbeat) s")
    case AMQP_STATUS_CONNECTION_CLOSED.rawValue, AMQP_STATUS_SOCKET_ERROR.rawValue:
      throw dead(.broken, "the connection was closed without an AMQP close")
    default: throw dead(.broken, statusText(status))
    }
  }

  /// The broker's own words for why it closed the channel or the connection, which is answered as the protocol asks.
  func closed(by method: amqp_method_t) -> AMQPError {
    switch method.id {
    case MSCTL_CHANNEL_CLOSE:
      guard let close = method.decoded?.assumingMemoryBound(to: amqp_channel_close_t.self).pointee else { break }
      let error = AMQPError(
        kind: .channelClosed(code: Int(clamping: close.reply_code)), reason: String(close.reply_text))
      var ok = amqp_channel_close_ok_t()
      amqp_send_method(state, Self.channel, MSCTL_CHANNEL_CLOSE_OK, &ok)
      return error
    case MSCTL_CONNECTION_CLOSE:
      guard let close = method.decoded?.assumingMemoryBound(to: amqp_connection_close_t.self).pointee else { break }
      let error = AMQPError(
        kind: .connectionClosed(code: Int(clamping: close.reply_code)), reason: String(close.reply_text))
      var ok = amqp_connection_close_ok_t()
      amqp_send_method(state, 0, MSCTL_CONNECTION_CLOSE_OK, &ok)
      isAlive = false
      return error
    default: break
    }
    return violation("a method without arguments")
  }

  func dead(_ kind: AMQPError.Kind, _ reason: String) -> AMQPError {
    isAlive = false
    return AMQPError(kind: kind, reason: reason)
  }
}

func statusText(_ status: Int32) -> String {
  String(cString: amqp_error_string2(status))
}
