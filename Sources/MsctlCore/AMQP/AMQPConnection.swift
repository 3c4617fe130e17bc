import CRabbitMQ
import DequeModule
import Glibc

/// A connection to a broker with one channel: owns librabbitmq's state. To be used by one thread.
///
/// What the broker sends without being asked comes out of `nextEvent`, whole and in order. After an error the connection is
/// dead; open a new one. Heartbeats are answered only while `nextEvent` or another call runs: call it at least once a
/// second.
public final class AMQPConnection {
  /// librabbitmq may drop queued frames of one channel while it reads another: so there is one only.
  private static let channel: amqp_channel_t = 1
  /// What a frame holds at most; RabbitMQ's default.
  private static let frameMax: Int32 = 131_072
  /// RabbitMQ takes no body above this (`max_message_size`), so none is believed.
  private static let bodyLimit: UInt64 = 512 << 20
  /// How long the broker may take to answer a method.
  private static let replyTimeout: Duration = .seconds(30)

  /// A message whose frames have not all come.
  private enum Partial {
    case delivery(tag: UInt64, redelivered: Bool)
    case returned(code: Int, text: String)
  }

  /// Consumed for replies, and named in `reply_to` (https://www.rabbitmq.com/docs/direct-reply-to).
  package static let directReply = "amq.rabbitmq.reply-to"

  public let uri: AMQPURI
  /// Tells it from every other connection.
  public let id = UInt64.random(in: .min ... .max)
  private let state: amqp_connection_state_t
  private let trace: ((String) -> Void)?
  private var isAlive = true
  private var pool = AMQPPool()
  private var events = Deque<AMQPEvent>()
  private var partial: (kind: Partial, message: AMQPMessage, left: UInt64)?

  // MARK: Opening

  /// Connects, logs in and opens the channel.
  /// - Parameter name: shown in RabbitMQ's list of connections.
  public static func open(_ uri: AMQPURI, name: String) throws(AMQPError) -> AMQPConnection {
    try open(uri, name: name, trace: nil)
  }

  private static func open(
    _ uri: AMQPURI, name: String, trace: ((String) -> Void)?
  ) throws(AMQPError) -> AMQPConnection {
    guard let state = amqp_new_connection() else { throw AMQPError(kind: .broken, reason: "out of memory") }
    let connection = AMQPConnection(uri, state, trace)
    try connection.connect()
    try connection.logIn(name: name)
    _ = amqp_channel_open(state, channel)
    try connection.checkReply()
    return connection
  }

  /// Connects to the first broker of the list that lets us in.
  /// - Parameter trace: is told each method that is sent, and each that comes without being asked for.
  package static func open(
    anyOf uris: [AMQPURI], name: String, trace: ((String) -> Void)? = nil
  ) throws(Failure) -> AMQPConnection {
    var failures: [Failure] = []
    for uri in uris {
      do { return try open(uri, name: name, trace: trace) } catch { failures.append(error.failure(uri)) }
    }
    guard var failure = failures.first else { throw Failure(.usage, "no broker is named") }
    failure.message = failures.map(\.message).joined(separator: "; ")
    throw failure
  }

  private init(_ uri: AMQPURI, _ state: amqp_connection_state_t, _ trace: ((String) -> Void)?) {
    self.uri = uri
    self.trace = trace
    self.state = state
  }

  deinit {
    amqp_destroy_connection(state)
  }

  private func connect() throws(AMQPError) {
    let socket = uri.usesTLS ? amqp_ssl_socket_new(state) : amqp_tcp_socket_new(state)
    guard let socket else { throw AMQPError(kind: .broken, reason: "out of memory") }
    if uri.usesTLS { try configureTLS(socket) }
    let deadline = Deadline.after(uri.connectTimeout)
    var timeout = uri.connectTimeout.timeval
    let status = amqp_socket_open_noblock(socket, uri.host, Int32(uri.port), &timeout)
    guard status == AMQP_STATUS_OK.rawValue else {
      let isTLS = (-0x2FF...(-0x200)).contains(status)
      let cause = status == AMQP_STATUS_SOCKET_ERROR.rawValue ? connectError(uri.host, uri.port, until: deadline) : nil
      throw AMQPError(kind: isTLS ? .tls : .unreachable, reason: cause ?? statusText(status))
    }
    amqp_set_handshake_timeout(state, &timeout)
    var replyTimeout = Self.replyTimeout.timeval
    amqp_set_rpc_timeout(state, &replyTimeout)
  }

  /// librabbitmq 0.11 sets neither a minimum version nor a path of authorities.
  private func configureTLS(_ socket: OpaquePointer) throws(AMQPError) {
    func check(_ status: Int32, _ what: String) throws(AMQPError) {
      guard status == AMQP_STATUS_OK.rawValue else {
        throw AMQPError(kind: .tls, reason: "\(what): \(statusText(status))")
      }
    }
    try check(amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST), "TLS 1.2")
    amqp_ssl_socket_set_verify_peer(socket, uri.verifiesPeer ? 1 : 0)
    amqp_ssl_socket_set_verify_hostname(socket, uri.verifiesPeer ? 1 : 0)
    if let file = uri.authorityFile ?? (uri.verifiesPeer ? Self.systemAuthorities : nil) {
      try check(amqp_ssl_socket_set_cacert(socket, file), "the authorities in '\(file)'")
    }
    if let certificate = uri.certificateFile {
      // One file may hold both.
      try check(
        amqp_ssl_socket_set_key(socket, certificate, uri.keyFile ?? certificate), "the certificate in '\(certificate)'")
    }
  }

  /// Where the system keeps its authorities in one file: Debian, then Red Hat.
  private static var systemAuthorities: String? {
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"].first { access($0, R_OK) == 0 }
  }

  /// librabbitmq announces almost no capabilities by itself; without them the broker never says that it blocks us or that a
  /// queue is gone (https://www.rabbitmq.com/docs/consumer-cancel, https://www.rabbitmq.com/docs/connection-blocked).
  private func logIn(name: String) throws(AMQPError) {
    let capabilities = [
      "consumer_cancel_notify", "connection.blocked", "basic.nack", "publisher_confirms",
      "authentication_failure_close",
    ]
    var properties = pool.table([
      AMQPField("product", .string("msctl")),
      AMQPField("version", .string(Version.msctl)),
      AMQPField("connection_name", .string(name)),
      AMQPField("capabilities", .table(capabilities.map { AMQPField($0, .bool(true)) })),
    ])
    let heartbeat = Int32(uri.heartbeat)
    let reply =
      switch uri.mechanism {
      case .plain:
        msctl_login_plain(state, uri.vhost, 0, Self.frameMax, heartbeat, &properties, uri.user, uri.password)
      case .external:
        msctl_login_external(state, uri.vhost, 0, Self.frameMax, heartbeat, &properties, uri.user)
      }
    pool.recycle()
    do { try check(reply) } catch {
      switch error.kind {
      case .connectionClosed(let code) where [403, 530].contains(code):
        throw AMQPError(kind: .denied, reason: error.reason)
      case .timedOut:
        throw AMQPError(kind: .timedOut, reason: "no AMQP handshake within \(uri.connectTimeout.shown)")
      case .broken:
        throw AMQPError(kind: .unreachable, reason: "what listens there does not speak AMQP 0-9-1 (\(error.reason))")
      default: throw error
      }
    }
  }

  // MARK: Methods

  /// What a broker says of a queue.
  public struct QueueState: Sendable {
    public let name: String
    /// Messages ready for delivery.
    public let messages: Int
    public let consumers: Int
  }

  /// `queue.declare`: a durable queue with these arguments, made where it does not exist.
  public func declareQueue(_ name: String, arguments: [AMQPField] = []) throws(AMQPError) -> QueueState {
    try declare(name, isPassive: false, arguments)
  }

  /// `queue.declare` with `passive`: the queue must exist, and is left as it is.
  public func inspectQueue(_ name: String) throws(AMQPError) -> QueueState {
    try declare(name, isPassive: true, [])
  }

  private func declare(
    _ name: String, isPassive: Bool, _ arguments: [AMQPField]
  ) throws(AMQPError) -> QueueState {
    trace?("> queue.declare \(name)\(isPassive ? " (passive)" : "")")
    let ok = amqp_queue_declare(
      state, Self.channel, pool.bytes(name), isPassive ? 1 : 0, 1, 0, 0, pool.table(arguments))
    pool.recycle()
    guard let ok else { throw replyError() }
    return QueueState(
      name: String(ok.pointee.queue), messages: Int(ok.pointee.message_count),
      consumers: Int(ok.pointee.consumer_count))
  }

  /// `basic.qos`: how many deliveries may be unacknowledged.
  public func setPrefetch(_ count: Int) throws(AMQPError) {
    amqp_basic_qos(state, Self.channel, 0, UInt16(clamping: count), 0)
    try checkReply()
  }

  /// `queue.declare` of a queue that the broker names, which is this connection's own and goes with it; then `queue.bind`
  /// to the exchange with each key.
  public func declareOwnQueue(boundTo exchange: String, keys: [String]) throws(AMQPError) -> String {
    let ok = amqp_queue_declare(state, Self.channel, amqp_bytes_t(), 0, 0, 1, 1, amqp_table_t())
    guard let ok else { throw replyError() }
    let queue = String(ok.pointee.queue)
    for key in keys { try bindQueue(queue, to: exchange, key: key) }
    return queue
  }

  /// `queue.bind`: the queue gets what is published to the exchange with this routing key.
  public func bindQueue(_ queue: String, to exchange: String, key: String) throws(AMQPError) {
    trace?("> queue.bind \(queue) to \(exchange) with \(key)")
    amqp_queue_bind(state, Self.channel, pool.bytes(queue), pool.bytes(exchange), pool.bytes(key), amqp_table_t())
    pool.recycle()
    try checkReply()
  }

  /// `basic.consume`, with manual acknowledgement unless `isAutomatic`.
  /// - Returns: the consumer's tag.
  public func consume(
    _ queue: String, isAutomatic: Bool = false, arguments: [AMQPField] = []
  ) throws(AMQPError) -> String {
    trace?("> basic.consume \(queue)")
    let ok = amqp_basic_consume(
      state, Self.channel, pool.bytes(queue), amqp_bytes_t(), 0, isAutomatic ? 1 : 0, 0, pool.table(arguments))
    pool.recycle()
    guard let ok else { throw replyError() }
    return String(ok.pointee.consumer_tag)
  }

  /// `basic.cancel`: no more deliveries, those on their way excepted.
  public func cancel(consumer tag: String) throws(AMQPError) {
    amqp_basic_cancel(state, Self.channel, pool.bytes(tag))
    pool.recycle()
    try checkReply()
  }

  /// `basic.ack` of this delivery, and with `multiple` of all before it.
  public func acknowledge(_ tag: UInt64, multiple: Bool) throws(AMQPError) {
    trace?("> basic.ack \(tag)\(multiple ? " and all before" : "")")
    try check(status: amqp_basic_ack(state, Self.channel, tag, multiple ? 1 : 0))
  }

  /// `basic.reject` of this delivery: back to the queue or, without `requeue`, dropped or dead-lettered.
  public func reject(_ tag: UInt64, requeue: Bool) throws(AMQPError) {
    trace?("> basic.reject \(tag)\(requeue ? " (requeue)" : "")")
    try check(status: amqp_basic_reject(state, Self.channel, tag, requeue ? 1 : 0))
  }

  /// `confirm.select`: from here on the broker confirms each message.
  public func selectConfirms() throws(AMQPError) {
    amqp_confirm_select(state, Self.channel)
    try checkReply()
  }

  /// `basic.publish` with `mandatory`: a message that reaches no queue comes back. That it was sent says nothing of its
  /// arrival; the confirm does.
  public func publish(_ message: AMQPMessage) throws(AMQPError) {
    trace?(
      "> basic.publish \(message.exchange.isEmpty ? "" : message.exchange + " ")\(message.routingKey) "
        + "(\(message.body.count) bytes, message_id \(message.properties.messageID ?? "none"))")
    var properties = message.properties.c(in: &pool)
    // A direct reply arrives, and yet the broker returns it as unroutable where it is mandatory.
    let isMandatory: Int32 = message.routingKey.hasPrefix(Self.directReply + ".") ? 0 : 1
    let status = message.body.withUnsafeBytes { body in
      amqp_basic_publish(
        state, Self.channel, pool.bytes(message.exchange), pool.bytes(message.routingKey), isMandatory, 0,
        &properties,
        amqp_bytes_t(len: body.count, bytes: UnsafeMutableRawPointer(mutating: body.baseAddress)))
    }
    pool.recycle()
    if status == AMQP_STATUS_TABLE_TOO_BIG.rawValue || status == AMQP_STATUS_BAD_AMQP_DATA.rawValue {
      throw AMQPError(kind: .invalid, reason: "its headers do not fit into a frame of \(Self.frameMax) bytes")
    }
    try check(status: status)
  }

  /// Ends a send that the broker takes nothing of for so long, as one does that is out of memory or disk
  /// (tcp(7), TCP_USER_TIMEOUT). Without it such a send never ends: the broker's heartbeats go on.
  public func limitStall(to time: Duration) {
    var milliseconds = UInt32(clamping: time.milliseconds)
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, &milliseconds, socklen_t(MemoryLayout<UInt32>.size))
  }

  /// `connection.close`, so that the broker does not take the end for a failure. Errors do not matter any more.
  public func close() {
    guard isAlive else { return }
    isAlive = false
    var timeout = Duration.seconds(2).timeval
    amqp_set_rpc_timeout(state, &timeout)
    _ = amqp_connection_close(state, AMQP_REPLY_SUCCESS)
  }

  // MARK: Events

  /// What to wait on for reading before `nextEvent` has something new.
  public var descriptor: Int32 { amqp_get_sockfd(state) }

  /// The next thing that has come, without waiting; nil where there is nothing. Sends heartbeats that are due.
  public func nextEvent() throws(AMQPError) -> AMQPEvent? {
    if let event = events.popFirst() { return event }
    return try readEvent()
  }

  /// Takes in what has come, to be handed out later, so that heartbeats go on while nobody can handle events.
  public func pump() throws(AMQPError) {
    while let event = try readEvent() { events.append(event) }
  }

  /// Whether `pump` has put something by.
  public var hasEvents: Bool { !events.isEmpty }

  private func readEvent() throws(AMQPError) -> AMQPEvent? {
    let event = try readFrames()
    if let trace, let event { trace("< " + event.shown) }
    return event
  }

  private func readFrames() throws(AMQPError) -> AMQPEvent? {
    while true {
      var frame = amqp_frame_t()
      var noWait = timeval()
      amqp_maybe_release_buffers(state)
      let status = amqp_simple_wait_frame_noblock(state, &frame, &noWait)
      if status == AMQP_STATUS_TIMEOUT.rawValue { return nil }
      try check(status: status)
      if let event = try take(frame) { return event }
    }
  }

  /// Adds a frame to what has come. Everything is copied out of it: its memory goes with the next one.
  private func take(_ frame: amqp_frame_t) throws(AMQPError) -> AMQPEvent? {
    switch Int32(frame.frame_type) {
    case AMQP_FRAME_METHOD:
      return try take(frame.payload.method)
    case AMQP_FRAME_HEADER:
      let header = frame.payload.properties
      guard partial != nil, header.body_size <= Self.bodyLimit else {
        throw dead(.broken, "a message header that does not belong here")
      }
      if let decoded = header.decoded?.assumingMemoryBound(to: amqp_basic_properties_t.self) {
        partial?.message.properties = AMQPProperties(decoded.pointee)
      }
      partial?.message.body.reserveCapacity(Int(header.body_size))
      partial?.left = header.body_size
    case AMQP_FRAME_BODY:
      let fragment = frame.payload.body_fragment
      guard let left = partial?.left, left >= UInt64(fragment.len) else {
        throw dead(.broken, "a message body that does not belong here")
      }
      partial?.message.body += UnsafeRawBufferPointer(start: fragment.bytes, count: fragment.len)
      partial?.left -= UInt64(fragment.len)
    default:
      return nil
    }
    guard let (kind, message, left) = partial, left == 0 else { return nil }
    partial = nil
    switch kind {
    case .delivery(let tag, let redelivered):
      return .delivery(AMQPDelivery(message: message, tag: tag, connection: id, redelivered: redelivered))
    case .returned(let code, let text):
      return .returned(message, code: code, text: text)
    }
  }

  private func take(_ method: amqp_method_t) throws(AMQPError) -> AMQPEvent? {
    func decoded<T>(_ type: T.Type) throws(AMQPError) -> T {
      guard let decoded = method.decoded else { throw dead(.broken, "a method without arguments") }
      return decoded.assumingMemoryBound(to: type).pointee
    }
    switch method.id {
    case MSCTL_BASIC_DELIVER:
      let deliver = try decoded(amqp_basic_deliver_t.self)
      partial = (
        .delivery(tag: deliver.delivery_tag, redelivered: deliver.redelivered != 0),
        AMQPMessage(body: [], exchange: String(deliver.exchange), routingKey: String(deliver.routing_key)), .max
      )
    case MSCTL_BASIC_RETURN:
      let back = try decoded(amqp_basic_return_t.self)
      partial = (
        .returned(code: Int(back.reply_code), text: String(back.reply_text)),
        AMQPMessage(body: [], exchange: String(back.exchange), routingKey: String(back.routing_key)), .max
      )
    case MSCTL_BASIC_ACK:
      let ack = try decoded(amqp_basic_ack_t.self)
      return .ack(tag: ack.delivery_tag, multiple: ack.multiple != 0)
    case MSCTL_BASIC_NACK:
      let nack = try decoded(amqp_basic_nack_t.self)
      return .nack(tag: nack.delivery_tag, multiple: nack.multiple != 0)
    case MSCTL_BASIC_CANCEL:
      return .cancelled
    case MSCTL_CONNECTION_BLOCKED:
      return .blocked(reason: String(try decoded(amqp_connection_blocked_t.self).reason))
    case MSCTL_CONNECTION_UNBLOCKED:
      return .unblocked
    case MSCTL_CHANNEL_CLOSE, MSCTL_CONNECTION_CLOSE:
      throw closed(by: method)
    default:
      break
    }
    return nil
  }

  // MARK: Results

  private func checkReply() throws(AMQPError) {
    try check(amqp_get_rpc_reply(state))
  }

  private func replyError() -> AMQPError {
    do {
      try checkReply()
      return dead(.broken, "no reply")
    } catch { return error }
  }

  private func check(_ reply: amqp_rpc_reply_t) throws(AMQPError) {
    switch reply.reply_type {
    case AMQP_RESPONSE_NORMAL: return
    case AMQP_RESPONSE_SERVER_EXCEPTION: throw closed(by: reply.reply)
    default: try check(status: reply.library_error)
    }
  }

  private func check(status: Int32) throws(AMQPError) {
    switch status {
    case AMQP_STATUS_OK.rawValue...: return
    case AMQP_STATUS_TIMEOUT.rawValue: throw dead(.timedOut, "no answer within \(Self.replyTimeout.shown)")
    case AMQP_STATUS_HEARTBEAT_TIMEOUT.rawValue:
      throw dead(.broken, "it was silent for two heartbeats of \(uri.heartbeat) s")
    case AMQP_STATUS_CONNECTION_CLOSED.rawValue, AMQP_STATUS_SOCKET_ERROR.rawValue:
      throw dead(.broken, "it was closed without a word")
    default: throw dead(.broken, statusText(status))
    }
  }

  /// The broker's own words for why it closed the channel or the connection, which is answered as the protocol asks.
  private func closed(by method: amqp_method_t) -> AMQPError {
    switch method.id {
    case MSCTL_CHANNEL_CLOSE:
      guard let close = method.decoded?.assumingMemoryBound(to: amqp_channel_close_t.self).pointee else { break }
      let error = AMQPError(kind: .channelClosed(code: Int(close.reply_code)), reason: String(close.reply_text))
      var ok = amqp_channel_close_ok_t()
      amqp_send_method(state, Self.channel, MSCTL_CHANNEL_CLOSE_OK, &ok)
      return error
    case MSCTL_CONNECTION_CLOSE:
      guard let close = method.decoded?.assumingMemoryBound(to: amqp_connection_close_t.self).pointee else { break }
      let error = AMQPError(kind: .connectionClosed(code: Int(close.reply_code)), reason: String(close.reply_text))
      var ok = amqp_connection_close_ok_t()
      amqp_send_method(state, 0, MSCTL_CONNECTION_CLOSE_OK, &ok)
      isAlive = false
      return error
    default: break
    }
    return dead(.broken, "an answer that was not expected")
  }

  private func dead(_ kind: AMQPError.Kind, _ reason: String) -> AMQPError {
    isAlive = false
    return AMQPError(kind: kind, reason: reason)
  }
}

/// Why no connection comes about, in the system's words, which librabbitmq keeps to itself. Only asked after it has failed.
private func connectError(_ host: String, _ port: Int, until deadline: Deadline) -> String? {
  guard let cause = tryConnect(host, port, until: deadline), cause != 0 else { return nil }
  return String(cString: strerror(cause)).lowercased()
}

private func statusText(_ status: Int32) -> String {
  String(cString: amqp_error_string2(status))
}
