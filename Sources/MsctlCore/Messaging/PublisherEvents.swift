extension Publisher {
  /// When messages are sent for the first time, as far as nothing else keeps them.
  package enum Timing: Sendable, Equatable {
    case atOnce
    case rate(Rate)
    /// As far apart as their times are, so many times as fast.
    case replay(speed: Double)
  }

  package struct Options: Sendable {
    /// An exchange that is declared before anything is published.
    package var exchange: AMQPExchange?
    /// A queue that must be there.
    package var queue: String?
    /// With what arguments it is declared at once; nil: it is looked for at first.
    package var arguments: [AMQPField]?
    /// Whether it may be declared where it does not exist.
    package var mayDeclare = true
    /// How many messages may wait for their confirm.
    package var window = 1024
    package var timing = Timing.atOnce
    package var confirmTimeout: Duration = .seconds(30)
    /// Whether a broker that says that it takes no messages for now is waited for without a limit.
    package var waitsWhileBlocked = false
    /// Whether each message has a reply, which names its `correlation_id`.
    package var wantsReplies = false
    package var replyTimeout: Duration = .seconds(30)
    /// How long the first connection may be tried for.
    package var connectFor: Duration = .zero
    /// How long an outage may last.
    package var reconnectFor: Duration = .seconds(60)
    /// Whether a refused login may be mended by another password.
    package var awaitsPassword = false

    package init() {}
  }

  /// What a new connection is like.
  package enum Opening: Sendable {
    /// The channel is open, and nothing else was asked for.
    case bare
    /// The queue is there and confirms are selected; this message was published along with that.
    case prepared(sent: OutgoingMessage?)
    /// The broker refused what was asked for along with the opening. No message arrived.
    case refused(AMQPError)
  }

  package enum Event: Sendable {
    /// A connection stands: the first event, and later the response to `connect`. Where it broke already and a message was sent, `lost`
    /// follows.
    case connected(Opening)
    /// No broker of the list let us in.
    case connectFailed(Failure)
    /// What the broker sent.
    case broker(AMQPEvent)
    /// The connection or its channel is of no use any more. What was to be sent on it is dropped.
    case lost(AMQPError)
    /// The next message; asked for by `wantsMessage`, but for one before the first connection. Each has a number of its own.
    case message(OutgoingMessage)
    /// A message cannot be sent as it is; nothing of it was, and those after it were.
    case unsendable(number: Int, AMQPError)
    /// No message comes any more, and why, where that is a failure.
    case inputEnded(Failure?)
    /// What is confirmed cannot be told any more.
    case outputLost(Failure)
    /// The driver cannot go on.
    case failed(Failure)
    case interrupted(Int32)
    /// All that was ready is handed in, or `wakeTime` has come.
    case tick
  }

  package enum Action: Sendable {
    case send(AMQPMethod)
    /// Opens a connection: `connected` or `connectFailed` tells.
    case connect
    /// Ends a connection that is of no use.
    case disconnect
    /// The broker has it. At a failed end an older message may be `left`; then it is not in order.
    case confirmed(OutgoingMessage, isInOrder: Bool)
    /// The broker does not have it, and it is not tried again. The others go on.
    case failed(OutgoingMessage, Reason)
    /// A reply, in the order of the messages.
    case reply(AMQPMessage)
    case note(Note)
  }

  /// Why a message is not delivered.
  package enum Reason: Sendable, Equatable {
    case returned(code: Int, text: String)
    case nacked
    /// The broker closed the channel over it.
    case refused(AMQPError)
    /// It is larger than the broker takes.
    case tooLarge(limit: Int)
    case unsendable(AMQPError)
  }

  /// A remark.
  package enum Note: Sendable, Equatable {
    case reconnecting(AMQPError)
    case reconnected
    /// The login was refused, and is tried again.
    case loginRefused(Failure)
    /// The broker takes no messages for now, which is waited for.
    case blocked(reason: String)
    /// The next message is due only after this time.
    case waiting(Duration)
  }

  /// Why a run failed.
  package enum Cause: Sendable, Equatable {
    case interrupted(Int32)
    case input(Failure)
    case output(Failure)
    /// The driver failed.
    case driver(Failure)
    /// What the broker said, or how the connection broke.
    case broker(AMQPError)
    /// No confirm came in time, and the broker's reason where it takes no messages.
    case unconfirmed(blocked: String?)
    case noReply(number: Int)
    /// The queue could not be had, or the channel not be prepared.
    case unprepared(AMQPError)
    /// No other connection came about.
    case unconnected(Failure)
    /// The connection broke again and again before anything was settled.
    case repeatedBreaks(AMQPError, breaks: Int, within: Duration, unconfirmed: Int)
  }
}
