/// Why a broker did not do what was asked, in its own words where it gave any.
public struct AMQPError: Error, Sendable, Equatable {
  /// What kind of error it is.
  public enum Kind: Sendable, Equatable {
    case unreachable
    case tls
    /// The login was refused.
    case denied
    case timedOut
    /// The connection broke: closed by the other end, reset, or silent for two heartbeats.
    case broken
    /// The broker closed the channel, with its reply code (AMQP 0-9-1, section 1.2).
    case channelClosed(code: Int)
    case connectionClosed(code: Int)
    /// A message that cannot be sent. Nothing of it was.
    case invalid
    /// The broker sent what it must not, or more than it may: the connection was closed for it.
    case violation
    /// A frame that librabbitmq cannot read. Another connection may meet it again.
    case unreadableFrame
    /// There is no memory for a message.
    case noMemory
  }

  /// What kind of error it is.
  public let kind: Kind
  /// What the broker or the system said.
  public let reason: String

  package init(kind: Kind, reason: String) {
    self.kind = kind
    self.reason = reason
  }

  /// Whether another connection may mend it: this one broke, or the broker is going down or coming up.
  package var isTransient: Bool {
    switch kind {
    case .unreachable, .broken, .unreadableFrame, .connectionClosed(code: 320), .connectionClosed(code: 541),
      .channelClosed(code: 541):
      true
    // What a node of a cluster says of a queue whose own node is away.
    case .channelClosed(code: 404):
      ["down", "inaccessible", "stopped"].contains { reason.holds(text: $0) }
    // A stream whose node has just started (RabbitMQ 4).
    case .channelClosed(code: 406): reason.holds(text: "running replica")
    // A login that was good for a time (https://www.rabbitmq.com/docs/oauth2#token-expiration): the next one has the new password.
    case .denied:
      ["down", "inaccessible", "stopped", "expired"].contains { reason.holds(text: $0) }
    case .channelClosed(code: 403), .connectionClosed(code: 403), .connectionClosed(code: 530):
      reason.holds(text: "expired")
    default: false
    }
  }

  /// Whether it says that the broker has more rules for messages than AMQP has, one of which a message broke: its size, its
  /// `user_id`, its `expiration`.
  package var isAboutOneMessage: Bool { kind == .channelClosed(code: 406) && !isTransient }

  /// The size of the message that was too large for the broker, and the limit, where that is what the broker says.
  package var refusedSize: (size: Int, limit: Int)? {
    // "PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216"; before 4.0 "max size".
    guard isAboutOneMessage, reason.holds(text: "message size ") else { return nil }
    let numbers = reason.utf8.split { !(0x30...0x39).contains($0) }.compactMap { Int(String(Substring($0))) }
    return numbers.count == 2 ? (numbers[0], numbers[1]) : nil
  }

  /// As a failure of this broker.
  package func failure(_ uri: AMQPURI) -> Failure {
    let code: Failure.Code =
      switch kind {
      case .unreachable, .tls, .broken, .unreadableFrame: .unreachable
      case .denied: .denied
      case .timedOut: .timedOut
      case .noMemory, .violation: .failed
      case .channelClosed(code: 403), .connectionClosed(code: 403): .denied
      case .channelClosed(code: 404), .connectionClosed(code: 404): .nothingThere
      case .channelClosed(code: 320), .connectionClosed(code: 320): .unreachable
      case .channelClosed(code: 406), .connectionClosed(code: 406): isTransient ? .unreachable : .failed
      case .channelClosed, .connectionClosed: .failed
      case .invalid: .badInput
      }
    return Failure(code, .amqp([BrokerError(self, of: uri)]))
  }
}

/// What went wrong with one broker.
public struct BrokerError: Error, Sendable, Equatable {
  /// What was wrong.
  public let error: AMQPError
  /// Which broker it was, without its password.
  public let uri: AMQPURI

  init(_ error: AMQPError, of uri: AMQPURI) {
    self.error = error
    self.uri = uri.withoutPassword
  }
}
