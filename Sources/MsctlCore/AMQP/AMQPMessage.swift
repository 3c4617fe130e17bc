/// A value of a field table (AMQP 0-9-1, section 4.2.5.5, with RabbitMQ's types).
///
/// Each case is a type of its own on the wire: a consumer that reads a 32-bit number may fail on a 64-bit one.
public indirect enum AMQPValue: Sendable, Equatable {
  /// Whole numbers of up to 32 bits.
  public enum Width: String, Sendable, CaseIterable { case int8, uint8, int16, uint16, int32, uint32 }

  case bool(Bool)
  /// A signed number of 64 bits.
  case integer(Int64)
  /// A number of fewer bits, which must be in the range of its width.
  case narrow(Width, Int64)
  /// An unsigned number of 64 bits.
  case unsigned(UInt64)
  case float(Float)
  case double(Double)
  /// `value` divided by ten to the power of `scale`.
  case decimal(scale: UInt8, value: Int32)
  case string(String)
  case bytes([UInt8])
  /// Seconds since 1970.
  case timestamp(UInt64)
  case table([AMQPField])
  case array([AMQPValue])
  case void

  /// A whole number of any type that 64 signed bits hold.
  public var wholeNumber: Int64? {
    switch self {
    case .integer(let number), .narrow(_, let number): number
    case .unsigned(let number): Int64(exactly: number)
    default: nil
    }
  }
}

/// An entry of a field table.
public struct AMQPField: Sendable, Equatable {
  public var name: String
  public var value: AMQPValue

  public init(_ name: String, _ value: AMQPValue) {
    self.name = name
    self.value = value
  }
}

/// The properties of the basic class (AMQP 0-9-1, section 1.8.3.1); nil where a property is not set.
public struct AMQPProperties: Sendable, Equatable {
  public var contentType: String?
  public var contentEncoding: String?
  public var headers: [AMQPField]?
  /// 2: the message is written to disk; 1: it may be lost when the broker restarts.
  public var deliveryMode: UInt8?
  public var priority: UInt8?
  public var correlationID: String?
  public var replyTo: String?
  /// Milliseconds after which the message expires, as digits.
  public var expiration: String?
  public var messageID: String?
  /// Seconds since 1970.
  public var timestamp: UInt64?
  public var type: String?
  public var userID: String?
  public var appID: String?
  public var clusterID: String?

  public init() {}

  /// The first header of this name: a broker puts its own before one that the publisher wrote.
  public func header(_ name: String) -> AMQPValue? {
    headers?.first { $0.name.isSame(as: name) }?.value
  }
}

/// A message, and where it is published to.
public struct AMQPMessage: Sendable, Equatable {
  public var body: [UInt8]
  public var properties: AMQPProperties
  /// The empty name is the default exchange, which routes to the queue that the routing key names.
  public var exchange: String
  public var routingKey: String
  /// What the publisher knows it by; it is not sent.
  package var number = 0

  public init(body: [UInt8], properties: AMQPProperties = .init(), exchange: String, routingKey: String) {
    self.body = body
    self.properties = properties
    self.exchange = exchange
    self.routingKey = routingKey
  }
}

/// A message that a broker delivered (`basic.deliver`). A class, since it is handed from one to the next many times until it is
/// settled.
public final class AMQPDelivery: Sendable, Equatable {
  public let message: AMQPMessage
  /// What an acknowledgement names; valid on the channel that delivered it, and so on this connection alone.
  public let tag: UInt64
  public let connection: UInt64
  public let redelivered: Bool

  package init(message: AMQPMessage, tag: UInt64, connection: UInt64, redelivered: Bool) {
    (self.message, self.tag, self.connection, self.redelivered) = (message, tag, connection, redelivered)
  }

  public static func == (one: AMQPDelivery, other: AMQPDelivery) -> Bool {
    one.tag == other.tag && one.connection == other.connection && one.redelivered == other.redelivered
      && one.message == other.message
  }
}

/// What a broker sends without being asked, and its replies to an `AMQPMethod`.
public enum AMQPEvent: Sendable, Equatable {
  case delivery(AMQPDelivery)
  /// `basic.return`: the message could not be routed.
  indirect case returned(AMQPMessage, code: Int, text: String)
  case ack(tag: UInt64, multiple: Bool)
  case nack(tag: UInt64, multiple: Bool)
  /// `basic.cancel`: the queue is gone.
  case cancelled
  /// `queue.declare-ok`
  case queue(AMQPConnection.QueueState)
  /// `channel.open-ok`
  case channelOpen
  /// `queue.bind-ok`
  case bound
  /// `basic.qos-ok`
  case prefetchSet
  /// `basic.consume-ok`, with the consumer's tag
  case consuming(tag: String)
  /// `basic.cancel-ok`
  case consumerEnded
  /// `confirm.select-ok`
  case confirmsSelected
  /// `connection.blocked`: the broker takes no messages, and why.
  case blocked(reason: String)
  case unblocked
}

extension AMQPEvent {
  /// About how many bytes it takes in memory.
  var size: Int {
    switch self {
    case .delivery(let delivery): 1024 + delivery.message.body.count
    case .returned(let message, _, _): 1024 + message.body.count
    default: 512
    }
  }

  var isAboutBlocking: Bool {
    switch self {
    case .blocked, .unblocked: true
    default: false
    }
  }

  /// As it is shown to people.
  package var shown: String {
    switch self {
    case .delivery(let delivery):
      "basic.deliver \(delivery.tag) (\(delivery.message.body.count) bytes, message_id "
        + "\(delivery.message.properties.messageID ?? "none")\(delivery.redelivered ? ", redelivered" : ""))"
    case .returned(_, let code, let text): "basic.return \(code) \(text)"
    case .ack(let tag, let multiple): "basic.ack \(tag)\(multiple ? " and all before" : "")"
    case .nack(let tag, let multiple): "basic.nack \(tag)\(multiple ? " and all before" : "")"
    case .cancelled: "basic.cancel"
    case .queue(let state): "queue.declare-ok \(state.name): \(state.messages) ready"
    case .channelOpen: "channel.open-ok"
    case .bound: "queue.bind-ok"
    case .prefetchSet: "basic.qos-ok"
    case .consuming(let tag): "basic.consume-ok \(tag)"
    case .consumerEnded: "basic.cancel-ok"
    case .confirmsSelected: "confirm.select-ok"
    case .blocked(let reason): "connection.blocked \(reason)"
    case .unblocked: "connection.unblocked"
    }
  }
}

/// Why a broker did not do what was asked, in its own words where it gave any.
public struct AMQPError: Error, Sendable, Equatable {
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

  public let kind: Kind
  public let reason: String

  public init(kind: Kind, reason: String) {
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

  /// As a failure: which broker it was, and what to look at.
  public func failure(_ uri: AMQPURI) -> Failure {
    let broker = uri.shown
    switch kind {
    case .unreachable:
      return Failure(
        .unreachable, "cannot connect to RabbitMQ at \(broker): \(reason)",
        hint: "Start a broker there, or set AMQP_URL or '--broker' to another one.")
    case .tls:
      return Failure(
        .unreachable, "no trusted connection to RabbitMQ at \(broker): \(reason)",
        hint: "To trust another CA certificate, add '?cacertfile=FILE' to the URI.")
    case .denied:
      let isVhost = reason.holds(text: "vhost")
      return Failure(
        .denied, "RabbitMQ at \(broker) refused the login: \(reason)",
        hint: isVhost && uri.vhost.isEmpty
          ? "Remove the '/' at the end of the URI: it selects the virtual host with the empty name."
          : "Check \(isVhost ? "the virtual host" : "user name and password") in AMQP_URL or '--broker'.")
    case .timedOut:
      return Failure(.timedOut, "RabbitMQ at \(broker) did not respond in time: \(reason)")
    case .broken:
      return Failure(.unreachable, "lost the connection to RabbitMQ at \(broker): \(reason)")
    case .unreadableFrame:
      return Failure(
        .unreachable, "cannot read what RabbitMQ at \(broker) sent: \(reason)",
        hint:
          "A message's headers may be too large for a frame. Remove it with 'rabbitmqadmin' or RabbitMQ's management page."
      )
    case .noMemory:
      return Failure(
        .failed, "closed the connection to RabbitMQ at \(broker): \(reason)",
        hint: "Raise the limit ('ulimit -v'), or hold fewer messages at a time ('--prefetch').")
    case .violation:
      return Failure(.failed, "closed the connection to RabbitMQ at \(broker): \(reason)")
    case .channelClosed(let code), .connectionClosed(let code):
      let meaning: Failure.Code =
        switch code {
        case 403: .denied
        case 404: .nothingThere
        case 320: .unreachable
        case 406 where isTransient: .unreachable
        default: .failed
        }
      return Failure(meaning, "RabbitMQ at \(broker) refused: \(reason)")
    case .invalid:
      return Failure(.badInput, "cannot send the message: \(reason)")
    }
  }
}
