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
  /// The name.
  public var name: String
  /// The value.
  public var value: AMQPValue

  /// A field of this name and value.
  public init(_ name: String, _ value: AMQPValue) {
    self.name = name
    self.value = value
  }
}

/// The properties of the basic class (AMQP 0-9-1, section 1.8.3.1); nil where a property is not set.
public struct AMQPProperties: Sendable, Equatable {
  /// The media type of the body.
  public var contentType: String?
  /// How the body is encoded: `gzip`, for one.
  public var contentEncoding: String?
  /// The fields of the application.
  public var headers: [AMQPField]?
  /// 2: the message is written to disk; 1: it may be lost when the broker restarts.
  public var deliveryMode: UInt8?
  /// 0 to 9; queues with `x-max-priority` use it.
  public var priority: UInt8?
  /// Which request a reply belongs to.
  public var correlationID: String?
  /// The queue for the reply.
  public var replyTo: String?
  /// Milliseconds after which the message expires, as digits.
  public var expiration: String?
  /// Tells the message from every other one.
  public var messageID: String?
  /// Seconds since 1970.
  public var timestamp: UInt64?
  /// What kind of message it is, as the application names it.
  public var type: String?
  /// The user who has published it; the broker checks it.
  public var userID: String?
  /// The application that has published it.
  public var appID: String?
  /// Not used by RabbitMQ.
  public var clusterID: String?

  /// No properties.
  public init() {}

  /// The first header of this name: a broker puts its own before one that the publisher wrote.
  public func header(_ name: String) -> AMQPValue? {
    headers?.first { $0.name.isSame(as: name) }?.value
  }
}

/// A message, and where it is published to.
public struct AMQPMessage: Sendable, Equatable {
  /// The body.
  public var body: [UInt8]
  /// The properties.
  public var properties: AMQPProperties
  /// The empty name is the default exchange, which routes to the queue that the routing key names.
  public var exchange: String
  /// The routing key; in the default exchange, the name of the queue.
  public var routingKey: String
  /// Whether it comes back if it reaches no queue (`mandatory`); else the broker drops it and confirms it all the same.
  public var isMandatory = true
  /// What the publisher knows it by; it is not sent.
  package var number = 0
  /// A hash of the body, where that is left out.
  private var bodyHash: Int?

  /// A message; the default exchange has the empty name.
  public init(body: [UInt8], properties: AMQPProperties = .init(), exchange: String, routingKey: String) {
    self.body = body
    self.properties = properties
    self.exchange = exchange
    self.routingKey = routingKey
  }
}

extension AMQPMessage {
  /// Keeps of the body only what it is compared by.
  package mutating func leaveOutBody() {
    bodyHash = hash
    body = []
  }

  /// Whether both have the same body, as far as it is kept.
  package func hasBody(of other: AMQPMessage) -> Bool {
    bodyHash == nil && other.bodyHash == nil ? body == other.body : hash == other.hash
  }

  private var hash: Int {
    if let bodyHash { return bodyHash }
    var hasher = Hasher()
    body.withUnsafeBytes { hasher.combine(bytes: $0) }
    return hasher.finalize()
  }
}

/// An exchange, as it is declared.
package struct AMQPExchange: Sendable, Equatable {
  package let name: String
  /// `direct`, `fanout`, `topic`, `headers`, or a plug-in's.
  package let type: String

  package init(_ name: String, type: String) { (self.name, self.type) = (name, type) }
}

/// A message that a broker delivered (`basic.deliver`). A class, since it is handed from one to the next many times until it is
/// settled.
package final class AMQPDelivery: Sendable, Equatable {
  package let message: AMQPMessage
  /// What an acknowledgement names; valid on the channel that delivered it, and so on this connection alone.
  package let tag: UInt64
  package let connection: UInt64
  package let redelivered: Bool

  package init(message: AMQPMessage, tag: UInt64, connection: UInt64, redelivered: Bool) {
    (self.message, self.tag, self.connection, self.redelivered) = (message, tag, connection, redelivered)
  }

  package static func == (one: AMQPDelivery, other: AMQPDelivery) -> Bool {
    one.tag == other.tag && one.connection == other.connection && one.redelivered == other.redelivered
      && one.message == other.message
  }
}

/// What a broker sends without being asked, and its replies to an `AMQPMethod`.
package enum AMQPEvent: Sendable, Equatable {
  case delivery(AMQPDelivery)
  /// `basic.return`: the message could not be routed.
  indirect case returned(AMQPMessage, code: Int, text: String)
  case ack(tag: UInt64, multiple: Bool)
  case nack(tag: UInt64, multiple: Bool)
  /// `basic.cancel`: the queue is gone.
  case cancelled
  /// `exchange.declare-ok`
  case exchange
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
    case .exchange: "exchange.declare-ok"
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
