import CRabbitMQ
import Glibc

/// What a client asks of the broker.
extension AMQPConnection {
  /// What a broker says of a queue.
  package struct QueueState: Sendable, Equatable {
    package let name: String
    /// Messages ready for delivery.
    package let messages: Int
    package let consumers: Int

    package init(name: String, messages: Int, consumers: Int) {
      (self.name, self.messages, self.consumers) = (name, messages, consumers)
    }
  }

  /// `queue.declare`: a durable queue with these arguments, made where it does not exist.
  package func declareQueue(_ name: String, arguments: [AMQPField] = []) throws(AMQPError) -> QueueState {
    try declare(name, isPassive: false, arguments)
  }

  /// `queue.declare` with `passive`: the queue must exist, and is left as it is.
  package func inspectQueue(_ name: String) throws(AMQPError) -> QueueState {
    try declare(name, isPassive: true, [])
  }

  private func declare(
    _ name: String, isPassive: Bool, _ arguments: [AMQPField]
  ) throws(AMQPError) -> QueueState {
    try sendDeclare(name, isPassive: isPassive, arguments)
    return try awaitDeclare()
  }

  func sendDeclare(_ name: String, isPassive: Bool, _ arguments: [AMQPField]) throws(AMQPError) {
    trace?("> queue.declare \(name)\(isPassive ? " (passive)" : "")")
    try send(
      MSCTL_QUEUE_DECLARE,
      amqp_queue_declare_t(
        ticket: 0, queue: pool.bytes(name), passive: isPassive ? 1 : 0, durable: 1, exclusive: 0, auto_delete: 0,
        nowait: 0, arguments: pool.table(arguments)))
  }

  /// - Parameter isPassive: whether it must exist, and is left as it is.
  func sendDeclareExchange(_ exchange: AMQPExchange, isPassive: Bool = false) throws(AMQPError) {
    trace?("> exchange.declare \(exchange.name) (\(isPassive ? "passive" : exchange.type))")
    try send(
      MSCTL_EXCHANGE_DECLARE,
      amqp_exchange_declare_t(
        ticket: 0, exchange: pool.bytes(exchange.name), type: pool.bytes(exchange.type), passive: isPassive ? 1 : 0,
        durable: 1, auto_delete: 0, internal: 0, nowait: 0, arguments: amqp_table_t()))
  }

  func awaitDeclareExchange() throws(AMQPError) {
    _ = try reply(MSCTL_EXCHANGE_DECLARE_OK, as: amqp_exchange_declare_ok_t.self)
  }

  func awaitDeclare() throws(AMQPError) -> QueueState {
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
    case .declareExchange(let exchange):
      try sendDeclareExchange(exchange)
      reply = MSCTL_EXCHANGE_DECLARE_OK
    case .declare(let name, let arguments):
      try sendDeclare(name, isPassive: false, arguments)
      reply = MSCTL_QUEUE_DECLARE_OK
    case .declareExclusive(let name, let arguments):
      try sendDeclareExclusive(name, arguments)
      reply = MSCTL_QUEUE_DECLARE_OK
    case .inspect(let name):
      try sendDeclare(name, isPassive: true, [])
      reply = MSCTL_QUEUE_DECLARE_OK
    case .bind(let name, let exchange, let key, let arguments):
      try sendBind(name, exchange, key, arguments)
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
  package func setPrefetch(_ count: Int) throws(AMQPError) {
    try sendPrefetch(count)
    try awaitPrefetch()
  }

  func sendPrefetch(_ count: Int) throws(AMQPError) {
    let count = UInt16(clamping: count)
    try send(MSCTL_BASIC_QOS, amqp_basic_qos_t(prefetch_size: 0, prefetch_count: count, global: 0))
    bounds.prefetch = count == 0 ? nil : max(bounds.prefetch ?? 0, Int(count))
  }

  func awaitPrefetch() throws(AMQPError) {
    _ = try reply(MSCTL_BASIC_QOS_OK, as: amqp_basic_qos_ok_t.self)
  }

  /// `queue.declare` of a queue that is this connection's own and goes with it.
  /// - Parameter name: empty: the broker names it.
  /// - Returns: its name.
  package func declareExclusiveQueue(_ name: String, arguments: [AMQPField]) throws(AMQPError) -> String {
    try sendDeclareExclusive(name, arguments)
    return try awaitDeclare().name
  }

  /// Not with `auto_delete`, by which the queue would go with its consumer, although another one may follow on this connection.
  private func sendDeclareExclusive(_ name: String, _ arguments: [AMQPField]) throws(AMQPError) {
    trace?("> queue.declare \(name) (exclusive)")
    try send(
      MSCTL_QUEUE_DECLARE,
      amqp_queue_declare_t(
        ticket: 0, queue: pool.bytes(name), passive: 0, durable: 0, exclusive: 1, auto_delete: 0, nowait: 0,
        arguments: pool.table(arguments)))
  }

  /// The type of an exchange (`topic`); nil where this user may not know it.
  ///
  /// AMQP has no method that tells it, but a broker says it when it refuses to declare the exchange with another type, which closes
  /// the channel. An exchange that does not exist is not declared by that: it is looked for first.
  package func exchangeType(_ name: String) throws(AMQPError) -> String? {
    let exchange = AMQPExchange(name, type: "headers")
    try sendDeclareExchange(exchange, isPassive: true)
    try awaitDeclareExchange()
    do throws(AMQPError) {
      try sendDeclareExchange(exchange)
      try awaitDeclareExchange()
      return "headers"
    } catch {
      guard [.channelClosed(code: 406), .channelClosed(code: 403)].contains(error.kind) else { throw error }
      try openChannel()
      guard error.kind == .channelClosed(code: 406) else { return nil }
      // "inequivalent arg 'type' for exchange 'e' in vhost '/': received 'headers' but current is 'topic'". The type is compared first.
      guard error.reason.holds(text: "inequivalent arg 'type'") else { return "headers" }
      return error.reason.utf8.split(separator: UInt8(ascii: "'")).last.map { String(Substring($0)) }
    }
  }

  /// `queue.bind`: the queue gets what is published to the exchange with this routing key.
  package func bindQueue(
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
  package func consume(
    _ queue: String, isAutomatic: Bool = false, arguments: [AMQPField] = []
  ) throws(AMQPError) -> String {
    try sendConsume(queue, isAutomatic: isAutomatic, arguments)
    return try awaitConsume()
  }

  func sendConsume(_ queue: String, isAutomatic: Bool, _ arguments: [AMQPField]) throws(AMQPError) {
    trace?("> basic.consume \(queue)")
    // Deliveries may come before the reply.
    let isStream = arguments.contains { $0.name.isSame(as: "x-stream-offset") }
    bounds.expectDeliveries(acknowledged: !isAutomatic, isStream: isStream)
    try send(
      MSCTL_BASIC_CONSUME,
      amqp_basic_consume_t(
        ticket: 0, queue: pool.bytes(queue), consumer_tag: amqp_bytes_t(), no_local: 0, no_ack: isAutomatic ? 1 : 0,
        exclusive: 0, nowait: 0, arguments: pool.table(arguments)))
  }

  func awaitConsume() throws(AMQPError) -> String {
    String(try reply(MSCTL_BASIC_CONSUME_OK, as: amqp_basic_consume_ok_t.self).consumer_tag)
  }

  /// `basic.cancel`: no more deliveries, those on their way excepted.
  package func cancel(consumer tag: String) throws(AMQPError) {
    try sendCancel(tag)
    _ = try reply(MSCTL_BASIC_CANCEL_OK, as: amqp_basic_cancel_ok_t.self)
  }

  private func sendCancel(_ tag: String) throws(AMQPError) {
    try send(MSCTL_BASIC_CANCEL, amqp_basic_cancel_t(consumer_tag: pool.bytes(tag), nowait: 0))
  }

  /// `basic.ack` of this delivery, and with `multiple` of all before it.
  package func acknowledge(_ tag: UInt64, multiple: Bool) throws(AMQPError) {
    trace?("> basic.ack \(tag)\(multiple ? " and all before" : "")")
    bounds.settle(tag, multiple: multiple)
    try check(status: amqp_basic_ack(state, Self.channel, tag, multiple ? 1 : 0))
  }

  /// `basic.reject` of this delivery: back to the queue or, without `requeue`, dropped or dead-lettered.
  package func reject(_ tag: UInt64, requeue: Bool) throws(AMQPError) {
    trace?("> basic.reject \(tag)\(requeue ? " (requeue)" : "")")
    bounds.settle(tag, multiple: false)
    try check(status: amqp_basic_reject(state, Self.channel, tag, requeue ? 1 : 0))
  }

  /// `basic.nack` of this delivery, and with `multiple` of all before it: as `reject`, and RabbitMQ 4.3 does not count it as a
  /// failed delivery (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
  package func refuse(_ tag: UInt64, multiple: Bool = false, requeue: Bool) throws(AMQPError) {
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
  package func selectConfirms() throws(AMQPError) {
    try sendSelectConfirms()
    try awaitSelectConfirms()
  }

  func sendSelectConfirms() throws(AMQPError) {
    try send(MSCTL_CONFIRM_SELECT, amqp_confirm_select_t(nowait: 0))
  }

  func awaitSelectConfirms() throws(AMQPError) {
    _ = try reply(MSCTL_CONFIRM_SELECT_OK, as: amqp_confirm_select_ok_t.self)
  }

  /// `basic.publish`, with `mandatory` where the message says so. That it was sent says nothing of its arrival; the confirm does.
  /// - Throws: `invalid` where the message cannot be sent; the connection is as it was then.
  package func publish(_ message: AMQPMessage) throws(AMQPError) {
    if let obstacle = message.obstacle(frameMax: frameMax) { throw AMQPError(kind: .invalid, reason: obstacle) }
    trace?(
      "> basic.publish \(message.exchange.isEmpty ? "" : message.exchange + " ")\(message.routingKey) "
        + "(\(message.body.count) bytes, message_id \(message.properties.messageID ?? "none"))")
    bounds.published(message.body.count)
    holdBack()
    var properties = message.properties.c(in: &pool)
    // A direct reply arrives, and yet the broker returns it as unroutable where it is mandatory.
    let isMandatory: Int32 = message.isMandatory && !message.routingKey.begins(with: Self.directReply + ".") ? 1 : 0
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
  func holdBack() {
    if !isHeldBack { cork(true) }
  }

  /// Lets go what was held back. Whoever waits for the broker has to.
  func push() {
    if isHeldBack { cork(false) }
  }

  private func cork(_ isHeldBack: Bool) {
    var option: Int32 = isHeldBack ? 1 : 0
    setsockopt(amqp_get_sockfd(state), Int32(IPPROTO_TCP), TCP_CORK, &option, socklen_t(MemoryLayout<Int32>.size))
    self.isHeldBack = isHeldBack
  }

  /// Ends a send that the broker takes nothing of for so long, as one does that is out of memory or disk
  /// (tcp(7), TCP_USER_TIMEOUT). Without it such a send never ends: the broker's heartbeats go on.
  package func limitStall(to time: Duration) {
    var milliseconds = UInt32(clamping: time.milliseconds)
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, &milliseconds, socklen_t(MemoryLayout<UInt32>.size))
  }

  func send<Arguments>(
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
}

extension AMQPConnection.QueueState {
  init(_ ok: amqp_queue_declare_ok_t) {
    self.init(
      name: String(ok.queue), messages: Int(clamping: ok.message_count), consumers: Int(clamping: ok.consumer_count))
  }
}
