import CRabbitMQ
import Glibc

/// What the broker sends: replies, and what comes without being asked for.
extension AMQPConnection {
  /// The class of messages (AMQP 0-9-1, section 1.8).
  private static let basicClass: UInt16 = 60
  /// RabbitMQ takes no body above this (`max_message_size`), so none is believed.
  static let bodyLimit: UInt64 = 512 << 20
  /// After how many bytes of bodies it is asked whether there is memory for more: four times as much, since they are written into
  /// other forms.
  private static let memoryStep = 16 << 20
  /// How much may be put by, in bytes, while nobody can take messages.
  private static let putByLimit = 2 << 30

  /// What to wait on for reading before `nextEvent` has something new.
  package var descriptor: Int32 {
    push()
    return amqp_get_sockfd(state)
  }

  /// The next thing that has come, without waiting; nil where there is nothing. Sends heartbeats that are due.
  package func nextEvent() throws(AMQPError) -> AMQPEvent? {
    if let event = events.popFirst() {
      putBy -= event.size
      return event
    }
    return try readEvent()
  }

  /// Takes in what has come, to be handed out later, so that heartbeats go on while nobody can handle events. When much is put
  /// by, the broker is made to wait: then only a little is taken in now and then.
  package func pump() throws(AMQPError) {
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
  package var hasEvents: Bool { !events.isEmpty }

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

  func put(by event: AMQPEvent) throws(AMQPError) {
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
  func readFrame(until deadline: Deadline?) throws(AMQPError) -> amqp_frame_t? {
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
    case MSCTL_EXCHANGE_DECLARE_OK: .exchange
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
  func violation(_ what: String) -> AMQPError { dead(.violation, "the broker sent \(what)") }

  /// - Parameter excess: what the broker sent too much of.
  private func check(_ excess: String?) throws(AMQPError) {
    if let excess { throw dead(.violation, excess) }
  }

  // MARK: Replies

  /// Waits for the reply to a method on the channel.
  func reply<Reply>(_ method: amqp_method_number_t, as type: Reply.Type) throws(AMQPError) -> Reply {
    try reply(method, as: type, on: Self.channel, until: .after(Self.replyTimeout))
  }

  /// Waits for a method. What else comes meanwhile is put by.
  /// - Returns: its arguments; the memory that they name goes with the next frame.
  func reply<Reply>(
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

  func decoded<T>(_ method: amqp_method_t, as type: T.Type) throws(AMQPError) -> T {
    guard let decoded = method.decoded else { throw violation("a method without arguments") }
    return decoded.assumingMemoryBound(to: type).pointee
  }
}
