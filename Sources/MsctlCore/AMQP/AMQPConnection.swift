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
  /// The class of messages (AMQP 0-9-1, section 1.8).
  private static let basicClass: UInt16 = 60
  /// The size of a frame that is asked for: RabbitMQ's default.
  private static let frameMax = 131_072
  /// What a frame may hold beyond that when it comes: a broker adds headers of its own to those that filled a frame.
  private static let headerRoom = 65_536
  /// RabbitMQ takes no body above this (`max_message_size`), so none is believed.
  private static let bodyLimit: UInt64 = 512 << 20
  /// After how many bytes of bodies it is asked whether there is memory for more: four times as much, since they are written into
  /// other forms.
  private static let memoryStep = 16 << 20
  /// How much may be put by, in bytes, while nobody can take messages.
  private static let putByLimit = 2 << 30
  /// How long the broker may take to respond to a method.
  package static let replyTimeout: Duration = .seconds(30)

  /// A message whose frames have not all come.
  private enum Partial {
    case delivery(tag: UInt64, redelivered: Bool)
    case returned(code: Int, text: String)
  }

  /// Consumed for replies, and named in `reply_to` (https://www.rabbitmq.com/docs/direct-reply-to).
  package static let directReply = "amq.rabbitmq.reply-to"

  /// What the channel is to be from the start. It is asked for together with the opening, in one flight, and the replies are read
  /// after that: one round trip in place of one for each method.
  package struct Setup: Sendable {
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
  package struct SetupResult {
    /// What the broker refused of it, or why the connection broke.
    package fileprivate(set) var error: AMQPError?
    /// Whether the queue is there.
    package fileprivate(set) var hasQueue = false
    /// Whether a consumer was asked for.
    package fileprivate(set) var hasConsumer = false
    /// Its tag.
    package fileprivate(set) var consumer: String?
    /// Whether the message was sent.
    package fileprivate(set) var isSent = false
  }

  public let uri: AMQPURI
  /// Tells it from every other connection.
  public let id = UInt64.random(in: .min ... .max)
  private let state: amqp_connection_state_t
  private let trace: ((String) -> Void)?
  private var isAlive = true
  /// Whether what is sent waits for `push`.
  private var isHeldBack = false
  private var pool = AMQPPool()
  private var events = Deque<AMQPEvent>()
  /// The size of `events`, in bytes.
  private var putBy = 0
  /// When `pump` takes in more although much is put by.
  private var fullPump = Deadline.now
  private var partial: (kind: Partial, message: AMQPMessage, left: UInt64)?
  private var bounds = AMQPBounds()
  /// The replies that are to come as events, in their order: those to what `send(_:)` has sent.
  private var replies = Deque<amqp_method_number_t>()
  private var keepsBodies = true
  /// The body that is coming, and the bytes of all since the memory was asked for.
  private var held = HeldBytes(limit: Int(clamping: bodyLimit))
  private var unasked = 0
  /// The size of a frame that the broker agreed to.
  private var frameMax = AMQPConnection.frameMax
  /// What the broker says of itself: its version, for one.
  package private(set) var serverProperties: [AMQPField] = []
  package private(set) var setup = SetupResult()

  /// Whether the connection broke, or was closed, when the message of its setup had been sent: the broker may have it. After a
  /// method that it refuses on the channel it has not.
  package var isSetupInDoubt: Bool {
    guard setup.isSent, let error = setup.error else { return false }
    return if case .channelClosed = error.kind { false } else { true }
  }

  // MARK: Opening

  /// Connects, logs in and opens the channel.
  /// - Parameter name: shown in RabbitMQ's list of connections.
  public static func open(_ uri: AMQPURI, name: String) throws(AMQPError) -> AMQPConnection {
    let connection = try open(uri, name: name, Setup(), trace: nil)
    if let error = connection.setup.error { throw error }
    return connection
  }

  private static func open(
    _ uri: AMQPURI, name: String, _ setup: Setup, trace: ((String) -> Void)?
  ) throws(AMQPError) -> AMQPConnection {
    guard let state = amqp_new_connection() else { throw AMQPError(kind: .broken, reason: "out of memory") }
    let connection = AMQPConnection(uri, state, trace)
    try connection.connect()
    try connection.logIn(name: name, setup)
    return connection
  }

  /// As `open`, over a socket that is connected already: for tests, whose broker is the other end of a pair.
  static func open(over descriptor: Int32, name: String) throws(AMQPError) -> AMQPConnection {
    guard let state = amqp_new_connection() else { throw AMQPError(kind: .broken, reason: "out of memory") }
    let connection = AMQPConnection(AMQPURI(), state, nil)
    guard let socket = amqp_tcp_socket_new(state) else { throw AMQPError(kind: .broken, reason: "out of memory") }
    amqp_tcp_socket_set_sockfd(socket, descriptor)
    try connection.logIn(name: name, Setup())
    if let error = connection.setup.error { throw error }
    return connection
  }

  /// Connects to the first broker of the list that lets us in.
  /// - Parameters:
  ///   - setup: what the channel is to be; whether it is, `setup` of the connection says, where anything was asked for.
  ///   - trace: is told each method that is sent, and each that comes without being asked for.
  package static func open(
    anyOf uris: [AMQPURI], name: String, _ setup: Setup? = nil, trace: ((String) -> Void)? = nil
  ) throws(Failure) -> AMQPConnection {
    var errors: [BrokerError] = []
    for uri in uris {
      do throws(AMQPError) {
        let connection = try open(uri, name: name, setup ?? Setup(), trace: trace)
        if setup == nil, let error = connection.setup.error { throw error }
        return connection
      } catch { errors.append(BrokerError(error, of: uri)) }
    }
    // They may fail in different ways; the first is the one that was wanted.
    throw Failure(errors.first.map { $0.error.failure($0.uri).code } ?? .usage, .amqp(errors))
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
    let status = amqp_socket_open_noblock(socket, uri.host, Int32(clamping: uri.port), &timeout)
    guard status == AMQP_STATUS_OK.rawValue else {
      let isTLS = (-0x2FF...(-0x200)).contains(status)
      let cause = status == AMQP_STATUS_SOCKET_ERROR.rawValue ? connectError(uri.host, uri.port, until: deadline) : nil
      throw AMQPError(kind: isTLS ? .tls : .unreachable, reason: cause ?? statusText(status))
    }
    // A child that inherited it would keep the connection open.
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
  }

  /// librabbitmq 0.11 sets no minimum version, and takes CA certificates from a file only.
  private func configureTLS(_ socket: OpaquePointer) throws(AMQPError) {
    func check(_ status: Int32, _ what: String) throws(AMQPError) {
      guard status == AMQP_STATUS_OK.rawValue else {
        throw AMQPError(kind: .tls, reason: "\(what): \(statusText(status))")
      }
    }
    try check(amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST), "TLS 1.2")
    amqp_ssl_socket_set_verify_peer(socket, uri.verifiesPeer ? 1 : 0)
    let address = numericAddress(uri.host)
    amqp_ssl_socket_set_verify_hostname(socket, uri.verifiesPeer && address == nil ? 1 : 0)
    if uri.verifiesPeer, let address, msctl_expect_address(socket, address) != 1 {
      throw AMQPError(kind: .tls, reason: "cannot verify a certificate for the address \(address)")
    }
    if uri.verifiesPeer || uri.authorityFile != nil {
      let trusted = uri.authorityFile.map { SystemCertificates(file: $0) } ?? SystemCertificates.found
      guard let trusted else { throw AMQPError(kind: .tls, reason: SystemCertificates.missing) }
      guard msctl_trust(socket, trusted.file, trusted.folder) == 1 else {
        throw AMQPError(
          kind: .tls, reason: "cannot read CA certificates from '\(trusted.file ?? trusted.folder ?? "")'")
      }
    }
    if let certificate = uri.certificateFile {
      // One file may hold both.
      try check(
        amqp_ssl_socket_set_key(socket, certificate, uri.keyFile ?? certificate), "certificate in '\(certificate)'")
    }
  }

  /// Logs in. librabbitmq's own login, as every call of it that waits for a reply, keeps whatever else comes meanwhile without
  /// bound; and it announces almost no capabilities, without which the broker never says that it blocks us or that a queue is
  /// gone (https://www.rabbitmq.com/docs/consumer-cancel, https://www.rabbitmq.com/docs/connection-blocked).
  private func logIn(name: String, _ setup: Setup) throws(AMQPError) {
    let deadline = Deadline.after(uri.connectTimeout)
    do { try shakeHands(name, setup, until: deadline) } catch {
      switch error.kind {
      case .connectionClosed(let code) where [403, 530].contains(code):
        throw AMQPError(kind: .denied, reason: error.reason)
      case .connectionClosed: throw error
      case _ where self.setup.isSent:
        // The message may have got through.
        self.setup.error = error
      case .timedOut:
        throw dead(.timedOut, "no AMQP handshake within \(uri.connectTimeout.shown)")
      case .broken, .unreadableFrame, .violation:
        throw dead(.unreachable, "the server does not speak AMQP 0-9-1 (\(error.reason))")
      default: throw error
      }
    }
    guard self.setup.error == nil else { return }
    do { try readReplies(to: setup) } catch { self.setup.error = error }
  }

  /// AMQP 0-9-1, section 2.2.4. What the channel is to be is sent along with `connection.open`.
  private func shakeHands(_ name: String, _ setup: Setup, until deadline: Deadline) throws(AMQPError) {
    try check(status: amqp_send_header(state))
    let start = try reply(MSCTL_CONNECTION_START, as: amqp_connection_start_t.self, on: 0, until: deadline)
    guard start.version_major == 0, start.version_minor == 9 else {
      throw dead(.unreachable, "it speaks AMQP \(start.version_major)-\(start.version_minor), not 0-9-1")
    }
    serverProperties = AMQPField.list(start.server_properties)
    let mechanism = uri.mechanism == .plain ? "PLAIN" : "EXTERNAL"
    guard String(start.mechanisms).utf8.split(separator: 0x20).contains(where: { $0.elementsEqual(mechanism.utf8) })
    else {
      throw dead(.denied, "it does not offer the authentication mechanism \(mechanism)")
    }
    let capabilities = [
      "consumer_cancel_notify", "connection.blocked", "basic.nack", "publisher_confirms",
      "authentication_failure_close",
    ]
    let response =
      uri.mechanism == .plain ? [0] + Array(uri.user.utf8) + [0] + Array(uri.password.utf8) : Array(uri.user.utf8)
    try send(
      MSCTL_CONNECTION_START_OK,
      amqp_connection_start_ok_t(
        client_properties: pool.table([
          AMQPField("product", .string("msctl")),
          AMQPField("version", .string(Version.msctl)),
          AMQPField("connection_name", .string(name)),
          AMQPField("capabilities", .table(capabilities.map { AMQPField($0, .bool(true)) })),
        ]), mechanism: pool.bytes(mechanism), response: response.withUnsafeBytes { pool.bytes($0) },
        locale: pool.bytes("en_US")), on: 0)

    let tune = try reply(MSCTL_CONNECTION_TUNE, as: amqp_connection_tune_t.self, on: 0, until: deadline)
    // 0 stands for no limit; 4096 is what every peer must take (section 4.2.3).
    if tune.frame_max != 0 { frameMax = min(frameMax, max(4096, Int(clamping: tune.frame_max))) }
    let heartbeat = tune.heartbeat == 0 ? uri.heartbeat : min(uri.heartbeat, Int(clamping: tune.heartbeat))
    try check(
      status: amqp_tune_connection(state, 1, Int32(clamping: frameMax + Self.headerRoom), Int32(clamping: heartbeat)))
    holdBack()
    try send(
      MSCTL_CONNECTION_TUNE_OK,
      amqp_connection_tune_ok_t(
        channel_max: 1, frame_max: UInt32(clamping: frameMax), heartbeat: UInt16(clamping: heartbeat)), on: 0)
    try send(
      MSCTL_CONNECTION_OPEN,
      amqp_connection_open_t(virtual_host: pool.bytes(uri.vhost), capabilities: amqp_bytes_t(), insist: 1), on: 0)
    // Where sending fails, the broker's reply may say why.
    do { try send(setup) } catch { self.setup.error = error }
    _ = try reply(MSCTL_CONNECTION_OPEN_OK, as: amqp_connection_open_ok_t.self, on: 0, until: deadline)
  }

  private func send(_ setup: Setup) throws(AMQPError) {
    try sendOpenChannel()
    if let queue = setup.queue { try sendDeclare(queue, isPassive: setup.arguments == nil, setup.arguments ?? []) }
    // Where returns are counted, the prefetch depends on the queue.
    if let consumer = setup.consumer, consumer.isAutomatic || !countsReturns {
      self.setup.hasConsumer = true
      if let prefetch = consumer.prefetch { try sendPrefetch(prefetch) }
      try sendConsume(consumer.queue, isAutomatic: consumer.isAutomatic, consumer.arguments)
    }
    if setup.selectsConfirms { try sendSelectConfirms() }
    guard let message = setup.message else { return }
    do { try publish(message) } catch {
      guard error.kind == .invalid else { throw error }
      return
    }
    self.setup.isSent = true
  }

  private func readReplies(to setup: Setup) throws(AMQPError) {
    try awaitChannel()
    if setup.queue != nil {
      _ = try awaitDeclare()
      self.setup.hasQueue = true
    }
    if let consumer = setup.consumer, self.setup.hasConsumer {
      if consumer.prefetch != nil { try awaitPrefetch() }
      self.setup.consumer = try awaitConsume()
    }
    if setup.selectsConfirms { try awaitSelectConfirms() }
  }

  /// Opens the channel; also anew, where the broker has closed it over a method of ours. Consumers, confirms and unacknowledged
  /// messages of the old one are gone.
  package func openChannel() throws(AMQPError) {
    forgetChannel()
    try sendOpenChannel()
    try awaitChannel()
  }

  private func forgetChannel() {
    bounds = AMQPBounds()
    events = []
    putBy = 0
    partial = nil
    replies = []
  }

  private func sendOpenChannel() throws(AMQPError) {
    try send(MSCTL_CHANNEL_OPEN, amqp_channel_open_t(out_of_band: amqp_bytes_t()))
  }

  private func awaitChannel() throws(AMQPError) {
    _ = try reply(MSCTL_CHANNEL_OPEN_OK, as: amqp_channel_open_ok_t.self)
  }

  // MARK: Methods

  /// What a broker says of a queue.
  public struct QueueState: Sendable, Equatable {
    public let name: String
    /// Messages ready for delivery.
    public let messages: Int
    public let consumers: Int

    package init(name: String, messages: Int, consumers: Int) {
      (self.name, self.messages, self.consumers) = (name, messages, consumers)
    }
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
    try sendDeclare(name, isPassive: isPassive, arguments)
    return try awaitDeclare()
  }

  private func sendDeclare(_ name: String, isPassive: Bool, _ arguments: [AMQPField]) throws(AMQPError) {
    trace?("> queue.declare \(name)\(isPassive ? " (passive)" : "")")
    try send(
      MSCTL_QUEUE_DECLARE,
      amqp_queue_declare_t(
        ticket: 0, queue: pool.bytes(name), passive: isPassive ? 1 : 0, durable: 1, exclusive: 0, auto_delete: 0,
        nowait: 0, arguments: pool.table(arguments)))
  }

  private func awaitDeclare() throws(AMQPError) -> QueueState {
    let ok = try reply(MSCTL_QUEUE_DECLARE_OK, as: amqp_queue_declare_ok_t.self)
    return QueueState(ok)
  }

  /// Sends a method without waiting for its reply, which is an event.
  package func send(_ method: AMQPMethod) throws(AMQPError) {
    let reply: amqp_method_number_t?
    switch method {
    case .openChannel:
      forgetChannel()
      try sendOpenChannel()
      reply = MSCTL_CHANNEL_OPEN_OK
    case .declare(let name, let arguments):
      try sendDeclare(name, isPassive: false, arguments)
      reply = MSCTL_QUEUE_DECLARE_OK
    case .declareOwn:
      try sendDeclareOwn()
      reply = MSCTL_QUEUE_DECLARE_OK
    case .inspect(let name):
      try sendDeclare(name, isPassive: true, [])
      reply = MSCTL_QUEUE_DECLARE_OK
    case .bind(let name, let exchange, let key):
      try sendBind(name, exchange, key, [])
      reply = MSCTL_QUEUE_BIND_OK
    case .setPrefetch(let count):
      try sendPrefetch(count)
      reply = MSCTL_BASIC_QOS_OK
    case .consume(let name, let arguments, let isAutomatic):
      try sendConsume(name, isAutomatic: isAutomatic, arguments)
      reply = MSCTL_BASIC_CONSUME_OK
    case .cancel(let consumer):
      try sendCancel(consumer)
      reply = MSCTL_BASIC_CANCEL_OK
    case .selectConfirms:
      try sendSelectConfirms()
      reply = MSCTL_CONFIRM_SELECT_OK
    case .acknowledge(let tag, let multiple): return try acknowledge(tag, multiple: multiple)
    case .reject(let tag, let requeue): return try reject(tag, requeue: requeue)
    case .refuse(let tag, let multiple, let requeue): return try refuse(tag, multiple: multiple, requeue: requeue)
    case .requeueAll: return try requeueAll()
    case .publish(let message): return try publish(message)
    }
    if let reply { replies.append(reply) }
  }

  /// `basic.qos`: how many deliveries may be unacknowledged.
  public func setPrefetch(_ count: Int) throws(AMQPError) {
    try sendPrefetch(count)
    try awaitPrefetch()
  }

  private func sendPrefetch(_ count: Int) throws(AMQPError) {
    let count = UInt16(clamping: count)
    try send(MSCTL_BASIC_QOS, amqp_basic_qos_t(prefetch_size: 0, prefetch_count: count, global: 0))
    bounds.prefetch = count == 0 ? nil : max(bounds.prefetch ?? 0, Int(count))
  }

  private func awaitPrefetch() throws(AMQPError) {
    _ = try reply(MSCTL_BASIC_QOS_OK, as: amqp_basic_qos_ok_t.self)
  }

  /// `queue.declare` of a queue that the broker names, which is this connection's own and goes with it; then `queue.bind`
  /// to the exchange with each key.
  public func declareOwnQueue(boundTo exchange: String, keys: [String]) throws(AMQPError) -> String {
    try sendDeclareOwn()
    let queue = try awaitDeclare().name
    for key in keys { try bindQueue(queue, to: exchange, key: key) }
    return queue
  }

  private func sendDeclareOwn() throws(AMQPError) {
    try send(
      MSCTL_QUEUE_DECLARE,
      amqp_queue_declare_t(
        ticket: 0, queue: amqp_bytes_t(), passive: 0, durable: 0, exclusive: 1, auto_delete: 1, nowait: 0,
        arguments: amqp_table_t()))
  }

  /// `queue.bind`: the queue gets what is published to the exchange with this routing key.
  public func bindQueue(
    _ queue: String, to exchange: String, key: String, arguments: [AMQPField] = []
  ) throws(AMQPError) {
    try sendBind(queue, exchange, key, arguments)
    _ = try reply(MSCTL_QUEUE_BIND_OK, as: amqp_queue_bind_ok_t.self)
  }

  private func sendBind(
    _ queue: String, _ exchange: String, _ key: String, _ arguments: [AMQPField]
  ) throws(AMQPError) {
    trace?("> queue.bind \(queue) to \(exchange) with \(key)")
    try send(
      MSCTL_QUEUE_BIND,
      amqp_queue_bind_t(
        ticket: 0, queue: pool.bytes(queue), exchange: pool.bytes(exchange), routing_key: pool.bytes(key), nowait: 0,
        arguments: pool.table(arguments)))
  }

  /// `basic.consume`, with manual acknowledgement unless `isAutomatic`.
  /// - Returns: the consumer's tag.
  public func consume(
    _ queue: String, isAutomatic: Bool = false, arguments: [AMQPField] = []
  ) throws(AMQPError) -> String {
    try sendConsume(queue, isAutomatic: isAutomatic, arguments)
    return try awaitConsume()
  }

  private func sendConsume(_ queue: String, isAutomatic: Bool, _ arguments: [AMQPField]) throws(AMQPError) {
    trace?("> basic.consume \(queue)")
    // Deliveries may come before the reply.
    bounds.expectDeliveries(acknowledged: !isAutomatic)
    try send(
      MSCTL_BASIC_CONSUME,
      amqp_basic_consume_t(
        ticket: 0, queue: pool.bytes(queue), consumer_tag: amqp_bytes_t(), no_local: 0, no_ack: isAutomatic ? 1 : 0,
        exclusive: 0, nowait: 0, arguments: pool.table(arguments)))
  }

  private func awaitConsume() throws(AMQPError) -> String {
    String(try reply(MSCTL_BASIC_CONSUME_OK, as: amqp_basic_consume_ok_t.self).consumer_tag)
  }

  /// `basic.cancel`: no more deliveries, those on their way excepted.
  public func cancel(consumer tag: String) throws(AMQPError) {
    try sendCancel(tag)
    _ = try reply(MSCTL_BASIC_CANCEL_OK, as: amqp_basic_cancel_ok_t.self)
  }

  private func sendCancel(_ tag: String) throws(AMQPError) {
    try send(MSCTL_BASIC_CANCEL, amqp_basic_cancel_t(consumer_tag: pool.bytes(tag), nowait: 0))
  }

  /// `basic.ack` of this delivery, and with `multiple` of all before it.
  public func acknowledge(_ tag: UInt64, multiple: Bool) throws(AMQPError) {
    trace?("> basic.ack \(tag)\(multiple ? " and all before" : "")")
    bounds.settle(tag, multiple: multiple)
    try check(status: amqp_basic_ack(state, Self.channel, tag, multiple ? 1 : 0))
  }

  /// `basic.reject` of this delivery: back to the queue or, without `requeue`, dropped or dead-lettered.
  public func reject(_ tag: UInt64, requeue: Bool) throws(AMQPError) {
    trace?("> basic.reject \(tag)\(requeue ? " (requeue)" : "")")
    bounds.settle(tag, multiple: false)
    try check(status: amqp_basic_reject(state, Self.channel, tag, requeue ? 1 : 0))
  }

  /// `basic.nack` of this delivery, and with `multiple` of all before it: as `reject`, and RabbitMQ 4.3 does not count it as a
  /// failed delivery (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
  public func refuse(_ tag: UInt64, multiple: Bool = false, requeue: Bool) throws(AMQPError) {
    trace?("> basic.nack \(tag)\(multiple ? " and all before" : "")\(requeue ? " (requeue)" : "")")
    bounds.settle(tag, multiple: multiple)
    try check(status: amqp_basic_nack(state, Self.channel, tag, multiple ? 1 : 0, requeue ? 1 : 0))
  }

  /// `basic.nack` of everything that was delivered and is not settled: back to the queue.
  package func requeueAll() throws(AMQPError) {
    trace?("> basic.nack of all (requeue)")
    bounds.settleAll()
    try check(status: amqp_basic_nack(state, Self.channel, 0, 1, 1))
  }

  /// `confirm.select`: from here on the broker confirms each message.
  public func selectConfirms() throws(AMQPError) {
    try sendSelectConfirms()
    try awaitSelectConfirms()
  }

  private func sendSelectConfirms() throws(AMQPError) {
    try send(MSCTL_CONFIRM_SELECT, amqp_confirm_select_t(nowait: 0))
  }

  private func awaitSelectConfirms() throws(AMQPError) {
    _ = try reply(MSCTL_CONFIRM_SELECT_OK, as: amqp_confirm_select_ok_t.self)
  }

  /// `basic.publish` with `mandatory`: a message that reaches no queue comes back. That it was sent says nothing of its
  /// arrival; the confirm does.
  /// - Throws: `invalid` where the message cannot be sent; the connection is as it was then.
  public func publish(_ message: AMQPMessage) throws(AMQPError) {
    if let obstacle = message.obstacle(frameMax: frameMax) { throw AMQPError(kind: .invalid, reason: obstacle) }
    trace?(
      "> basic.publish \(message.exchange.isEmpty ? "" : message.exchange + " ")\(message.routingKey) "
        + "(\(message.body.count) bytes, message_id \(message.properties.messageID ?? "none"))")
    bounds.published(message.body.count)
    holdBack()
    var properties = message.properties.c(in: &pool)
    // A direct reply arrives, and yet the broker returns it as unroutable where it is mandatory.
    let isMandatory: Int32 = message.routingKey.begins(with: Self.directReply + ".") ? 0 : 1
    let (exchange, routingKey) = (pool.bytes(message.exchange), pool.bytes(message.routingKey))
    defer { pool.recycle() }
    // librabbitmq fills frames up to the size in which it takes them in, which is above what was agreed.
    let piece = frameMax - 8
    guard message.body.count > piece else {
      let status = message.body.withUnsafeBytes { body in
        amqp_basic_publish(
          state, Self.channel, exchange, routingKey, isMandatory, 0, &properties,
          amqp_bytes_t(len: body.count, bytes: UnsafeMutableRawPointer(mutating: body.baseAddress)))
      }
      return try check(status: status)
    }
    try send(
      MSCTL_BASIC_PUBLISH,
      amqp_basic_publish_t(
        ticket: 0, exchange: exchange, routing_key: routingKey, mandatory: isMandatory, immediate: 0))
    let status = withUnsafeMutablePointer(to: &properties) { properties in
      var frame = amqp_frame_t()
      frame.frame_type = UInt8(AMQP_FRAME_HEADER)
      frame.channel = Self.channel
      frame.payload.properties.class_id = UInt16(MSCTL_BASIC_PUBLISH >> 16)
      frame.payload.properties.body_size = UInt64(clamping: message.body.count)
      frame.payload.properties.decoded = UnsafeMutableRawPointer(properties)
      return amqp_send_frame(state, &frame)
    }
    try check(status: status)
    for start in stride(from: 0, to: message.body.count, by: piece) {
      let status = message.body.withUnsafeBytes { body in
        var frame = amqp_frame_t()
        frame.frame_type = UInt8(AMQP_FRAME_BODY)
        frame.channel = Self.channel
        frame.payload.body_fragment = amqp_bytes_t(
          len: min(piece, body.count - start),
          bytes: UnsafeMutableRawPointer(mutating: body.baseAddress.map { $0 + start }))
        return amqp_send_frame(state, &frame)
      }
      try check(status: status)
    }
  }

  /// Holds back what is sent, so that it leaves in few packets (tcp(7), TCP_CORK), until `push`: each packet by itself costs more,
  /// here and in the broker, than what is in it. The kernel waits for 200 ms at most.
  private func holdBack() {
    if !isHeldBack { cork(true) }
  }

  /// Lets go what was held back. Whoever waits for the broker has to.
  private func push() {
    if isHeldBack { cork(false) }
  }

  private func cork(_ isHeldBack: Bool) {
    var option: Int32 = isHeldBack ? 1 : 0
    setsockopt(amqp_get_sockfd(state), Int32(IPPROTO_TCP), TCP_CORK, &option, socklen_t(MemoryLayout<Int32>.size))
    self.isHeldBack = isHeldBack
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
    // A socket that is closed with something unread resets the connection, and the broker may lose what it has not read yet: an
    // acknowledgement. So a busy broker gets time to reply.
    let deadline = Deadline.after(.seconds(5))
    let close = amqp_connection_close_t(reply_code: 200, reply_text: pool.bytes("bye"), class_id: 0, method_id: 0)
    do {
      try send(MSCTL_CONNECTION_CLOSE, close, on: 0)
      while let frame = try readFrame(until: deadline), !deadline.isPast {
        let isMethod = Int32(clamping: frame.frame_type) == AMQP_FRAME_METHOD
        if isMethod, frame.channel == 0, frame.payload.method.id == MSCTL_CONNECTION_CLOSE_OK { return }
      }
    } catch {}
  }

  // MARK: Events

  /// What to wait on for reading before `nextEvent` has something new.
  public var descriptor: Int32 {
    push()
    return amqp_get_sockfd(state)
  }

  /// The next thing that has come, without waiting; nil where there is nothing. Sends heartbeats that are due.
  public func nextEvent() throws(AMQPError) -> AMQPEvent? {
    if let event = events.popFirst() {
      putBy -= event.size
      return event
    }
    return try readEvent()
  }

  /// Takes in what has come, to be handed out later, so that heartbeats go on while nobody can handle events. When much is put
  /// by, the broker is made to wait: then only a little is taken in now and then.
  public func pump() throws(AMQPError) {
    guard !isFull || fullPump.isPast else { return }
    fullPump = .after(.seconds(1))
    let limit = max(putBy, Self.fullSize) + Self.fullStep
    // Bounded, since a broker may send without end.
    for _ in 0..<Self.pumpLimit where putBy < limit {
      guard let event = try readEvent() else { return }
      try put(by: event)
    }
  }

  /// How much is taken in before the caller can look at other things again.
  private static let pumpLimit = 10_000

  /// How much is put by, in bytes, before the broker is made to wait, and how much is taken in each second from then on.
  private static let fullSize = 16 << 20
  private static let fullStep = 1 << 20

  /// Whether so much is put by that `pump` does not take in all that comes: a wait on the descriptor would not wait.
  package var isFull: Bool { putBy >= Self.fullSize }

  /// Whether `pump` has put something by.
  public var hasEvents: Bool { !events.isEmpty }

  /// Whether the broker has ended the consumer, which `nextEvent` says only after what came before. A response may follow.
  package var isCancelled: Bool { events.suffix(2).contains(.cancelled) }

  /// What is delivered from here on is only to be settled: its bodies, which may be of any size, are not kept.
  package func dropBodies() { keepsBodies = false }

  /// The messages that were delivered and put by.
  package var waitingMessages: [AMQPMessage] {
    events.compactMap { if case .delivery(let delivery) = $0 { delivery.message } else { nil } }
  }

  /// Whether something has come already that no wait on the descriptor would notice.
  package var hasInput: Bool { !events.isEmpty || amqp_data_in_buffer(state) != 0 || amqp_frames_enqueued(state) != 0 }

  private func put(by event: AMQPEvent) throws(AMQPError) {
    // Only the last word on this counts.
    if event.isAboutBlocking, let last = events.last, last.isAboutBlocking { putBy -= events.removeLast().size }
    putBy += event.size
    events.append(event)
    guard putBy <= Self.putByLimit else {
      throw dead(
        .violation,
        "over \(Self.putByLimit >> 30) GiB of messages came before they could be handled (a smaller prefetch helps)")
    }
  }

  private func readEvent() throws(AMQPError) -> AMQPEvent? {
    let event = try readFrames()
    if let trace, let event { trace("< " + event.shown) }
    return event
  }

  private func readFrames() throws(AMQPError) -> AMQPEvent? {
    while let frame = try readFrame(until: nil) {
      if let event = try take(frame) { return event }
    }
    return nil
  }

  /// - Parameter deadline: until when to wait; nil: not at all.
  /// - Returns: a frame, whose memory goes with the next one; nil where none came.
  private func readFrame(until deadline: Deadline?) throws(AMQPError) -> amqp_frame_t? {
    var frame = amqp_frame_t()
    var time = deadline?.remaining.timeval ?? timeval()
    amqp_maybe_release_buffers(state)
    push()
    let status = amqp_simple_wait_frame_noblock(state, &frame, &time)
    switch status {
    case AMQP_STATUS_TIMEOUT.rawValue: return nil
    case AMQP_STATUS_BAD_AMQP_DATA.rawValue, AMQP_STATUS_TABLE_TOO_BIG.rawValue:
      throw dead(
        .unreadableFrame, "a frame that is malformed or larger than \(frameMax + Self.headerRoom) bytes")
    default: try check(status: status)
    }
    return frame
  }

  /// Adds a frame to what has come. Everything is copied out of it: its memory goes with the next one.
  private func take(_ frame: amqp_frame_t) throws(AMQPError) -> AMQPEvent? {
    guard frame.channel <= Self.channel else {
      throw violation("a frame on channel \(frame.channel), which is not open")
    }
    switch Int32(clamping: frame.frame_type) {
    case AMQP_FRAME_METHOD:
      return try take(frame.payload.method)
    case AMQP_FRAME_HEADER:
      let header = frame.payload.properties
      guard partial?.left == .max, let kind = partial?.kind else { throw violation("a message header out of place") }
      // Each class has properties of its own, which librabbitmq decodes into another structure.
      guard header.class_id == Self.basicClass else { throw violation("a message header of class \(header.class_id)") }
      var limit = Self.bodyLimit
      if case .returned = kind { limit = UInt64(clamping: bounds.largest) }
      guard header.body_size <= limit else { throw violation("a message of \(header.body_size) bytes") }
      if let decoded = header.decoded?.assumingMemoryBound(to: amqp_basic_properties_t.self) {
        partial?.message.properties = AMQPProperties(decoded.pointee)
      }
      held.reset()
      // What it says of its size is believed as far as it has come.
      if keepsBodies { partial?.message.body.reserveCapacity(min(Int(clamping: header.body_size), 1 << 20)) }
      partial?.left = header.body_size
    case AMQP_FRAME_BODY:
      let fragment = frame.payload.body_fragment
      guard let left = partial?.left, left != .max, fragment.len > 0, left >= UInt64(fragment.len) else {
        throw violation("a message body out of place")
      }
      if keepsBodies {
        try checkMemory(fragment.len)
        partial?.message.body += UnsafeRawBufferPointer(start: fragment.bytes, count: fragment.len)
      }
      partial?.left -= UInt64(clamping: fragment.len)
    default:
      throw violation("a frame of type \(frame.frame_type)")
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

  /// An array that cannot grow ends the process by a trap: so it is asked before whether there is memory for a piece of a body.
  private func checkMemory(_ size: Int) throws(AMQPError) {
    do { try held.check((partial?.message.body.count ?? 0) + size, "a message") } catch {
      throw dead(.noMemory, error.description)
    }
    unasked += size
    guard unasked > Self.memoryStep else { return }
    unasked = 0
    guard hasMemory(for: 4 * Self.memoryStep) else { throw dead(.noMemory, "not enough memory for more messages") }
  }

  private func take(_ method: amqp_method_t) throws(AMQPError) -> AMQPEvent? {
    switch method.id {
    case MSCTL_BASIC_DELIVER:
      let deliver = try decoded(method, as: amqp_basic_deliver_t.self)
      try check(bounds.delivered(deliver.delivery_tag))
      guard partial == nil else { throw violation("a message in the middle of another") }
      partial = (
        .delivery(tag: deliver.delivery_tag, redelivered: deliver.redelivered != 0),
        AMQPMessage(body: [], exchange: String(deliver.exchange), routingKey: String(deliver.routing_key)), .max
      )
    case MSCTL_BASIC_RETURN:
      let back = try decoded(method, as: amqp_basic_return_t.self)
      try check(bounds.returned())
      guard partial == nil else { throw violation("a message in the middle of another") }
      partial = (
        .returned(code: Int(clamping: back.reply_code), text: String(back.reply_text)),
        AMQPMessage(body: [], exchange: String(back.exchange), routingKey: String(back.routing_key)), .max
      )
    case MSCTL_BASIC_ACK:
      let ack = try decoded(method, as: amqp_basic_ack_t.self)
      try check(bounds.confirmed())
      return .ack(tag: ack.delivery_tag, multiple: ack.multiple != 0)
    case MSCTL_BASIC_NACK:
      let nack = try decoded(method, as: amqp_basic_nack_t.self)
      try check(bounds.confirmed())
      return .nack(tag: nack.delivery_tag, multiple: nack.multiple != 0)
    case MSCTL_BASIC_CANCEL:
      try check(bounds.cancelled())
      return .cancelled
    case _ where replies.contains(method.id):
      // RabbitMQ's queue itself replies to basic.consume and basic.cancel, and so may its channel to what was sent after.
      if let place = replies.firstIndex(of: method.id) { replies.remove(at: place) }
      return try replyEvent(method)
    case MSCTL_CONNECTION_BLOCKED:
      return .blocked(reason: String(try decoded(method, as: amqp_connection_blocked_t.self).reason))
    case MSCTL_CONNECTION_UNBLOCKED:
      return .unblocked
    case MSCTL_CHANNEL_CLOSE, MSCTL_CONNECTION_CLOSE:
      throw closed(by: method)
    default:
      throw violation(amqp_method_name(method.id).map { String(cString: $0) } ?? "method \(method.id)")
    }
    return nil
  }

  private func replyEvent(_ method: amqp_method_t) throws(AMQPError) -> AMQPEvent {
    switch method.id {
    case MSCTL_CHANNEL_OPEN_OK: .channelOpen
    case MSCTL_QUEUE_BIND_OK: .bound
    case MSCTL_BASIC_QOS_OK: .prefetchSet
    case MSCTL_BASIC_CANCEL_OK: .consumerEnded
    case MSCTL_CONFIRM_SELECT_OK: .confirmsSelected
    case MSCTL_BASIC_CONSUME_OK:
      .consuming(tag: String(try decoded(method, as: amqp_basic_consume_ok_t.self).consumer_tag))
    default: .queue(QueueState(try decoded(method, as: amqp_queue_declare_ok_t.self)))
    }
  }

  /// What the broker sent that it must not.
  private func violation(_ what: String) -> AMQPError { dead(.violation, "the broker sent \(what)") }

  /// - Parameter excess: what the broker sent too much of.
  private func check(_ excess: String?) throws(AMQPError) {
    if let excess { throw dead(.violation, excess) }
  }

  // MARK: Sending and replies

  private func send<Arguments>(
    _ method: amqp_method_number_t, _ arguments: Arguments, on channel: amqp_channel_t = AMQPConnection.channel
  ) throws(AMQPError) {
    var arguments = arguments
    let status = withUnsafeMutablePointer(to: &arguments) { amqp_send_method(state, channel, method, $0) }
    pool.recycle()
    if status == AMQP_STATUS_TABLE_TOO_BIG.rawValue {
      throw AMQPError(kind: .invalid, reason: "the arguments do not fit into a frame of \(frameMax) bytes")
    }
    try check(status: status)
  }

  /// Waits for the reply to a method on the channel.
  private func reply<Reply>(_ method: amqp_method_number_t, as type: Reply.Type) throws(AMQPError) -> Reply {
    try reply(method, as: type, on: Self.channel, until: .after(Self.replyTimeout))
  }

  /// Waits for a method. What else comes meanwhile is put by.
  /// - Returns: its arguments; the memory that they name goes with the next frame.
  private func reply<Reply>(
    _ method: amqp_method_number_t, as type: Reply.Type, on channel: amqp_channel_t, until deadline: Deadline
  ) throws(AMQPError) -> Reply {
    while let frame = try readFrame(until: deadline), !deadline.isPast {
      let isMethod = Int32(clamping: frame.frame_type) == AMQP_FRAME_METHOD
      // Replies come in order: those to what was sent before are events.
      if isMethod, replies.isEmpty, frame.channel == channel, frame.payload.method.id == method {
        return try decoded(frame.payload.method, as: type)
      }
      if let event = try take(frame) {
        trace?("< " + event.shown)
        try put(by: event)
      }
    }
    throw dead(.timedOut, "no response within \(Self.replyTimeout.shown)")
  }

  private func decoded<T>(_ method: amqp_method_t, as type: T.Type) throws(AMQPError) -> T {
    guard let decoded = method.decoded else { throw violation("a method without arguments") }
    return decoded.assumingMemoryBound(to: type).pointee
  }

  // MARK: Results

  private func check(status: Int32) throws(AMQPError) {
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
  private func closed(by method: amqp_method_t) -> AMQPError {
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

  private func dead(_ kind: AMQPError.Kind, _ reason: String) -> AMQPError {
    isAlive = false
    return AMQPError(kind: kind, reason: reason)
  }
}

extension AMQPConnection.QueueState {
  fileprivate init(_ ok: amqp_queue_declare_ok_t) {
    self.init(
      name: String(ok.queue), messages: Int(clamping: ok.message_count), consumers: Int(clamping: ok.consumer_count))
  }
}

/// Why no connection comes about, in the system's words, which librabbitmq keeps to itself. Only asked after it has failed.
private func connectError(_ host: String, _ port: Int, until deadline: Deadline) -> String? {
  guard let cause = tryConnect(host, port, until: deadline), cause != 0 else { return nil }
  return String(cString: strerror(cause)).lowercasedASCII
}

/// The address that a host's name is, as OpenSSL reads one; nil where it is no address. Also for `127.1` and the like.
private func numericAddress(_ host: String) -> String? {
  var hints = addrinfo()
  hints.ai_flags = AI_NUMERICHOST
  hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
  var found: UnsafeMutablePointer<addrinfo>?
  guard getaddrinfo(host, nil, &hints, &found) == 0, let address = found?.pointee else { return nil }
  defer { freeaddrinfo(found) }
  var text = [CChar](repeating: 0, count: 256)
  guard
    getnameinfo(address.ai_addr, address.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0
  else { return nil }
  // The interface of a link-local address is no part of a certificate.
  let bytes = text.prefix { $0 != 0 && $0 != 0x25 }.map { UInt8(bitPattern: $0) }
  return String(decoding: bytes, as: UTF8.self)
}

private func statusText(_ status: Int32) -> String {
  String(cString: amqp_error_string2(status))
}
