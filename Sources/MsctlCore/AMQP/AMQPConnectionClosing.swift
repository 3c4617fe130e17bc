import CRabbitMQ

extension AMQPConnection {
  /// How long the broker may take to reply to `connection.close`. A socket that is closed with something unread resets the
  /// connection, and the broker may lose what it has not read yet, such as an acknowledgement. So a busy broker gets time.
  private static let closingTime: Duration = .seconds(5)

  /// Sends `connection.close`, so that the broker does not take the end for a failure: `hasClosed` says when it is over. Nothing
  /// is sent on a connection that is dead.
  package func beginClosing() {
    guard isAlive else { return }
    isAlive = false
    closingEnd = .after(Self.closingTime)
    let close = amqp_connection_close_t(reply_code: 200, reply_text: pool.bytes("bye"), class_id: 0, method_id: 0)
    // Why it could not be sent, `hasClosed` finds.
    do { try send(MSCTL_CONNECTION_CLOSE, close, on: 0) } catch {}
  }

  /// Whether the broker has replied, once the closing has begun. What else it sends is dropped.
  /// - Throws: how the connection broke, that the broker has closed the channel before, or that it has had its time. Whether what was
  ///   sent last has arrived is not known then.
  package func hasClosed() throws(AMQPError) -> Bool {
    guard let end = closingEnd else { return true }
    while let frame = try readFrame(until: nil), !end.isPast {
      guard Int32(clamping: frame.frame_type) == AMQP_FRAME_METHOD else { continue }
      let method = frame.payload.method
      // The broker may have taken back what was settled last: it was unacknowledged for too long.
      if method.id == MSCTL_CHANNEL_CLOSE { throw closed(by: method) }
      guard frame.channel == 0, method.id == MSCTL_CONNECTION_CLOSE_OK else { continue }
      closingEnd = nil
      return true
    }
    if end.isPast { throw dead(.timedOut, "no reply to connection.close within \(Self.closingTime.shown)") }
    return false
  }

  /// Closes the connection, for who waits for nothing else. Errors do not matter any more.
  package func close() {
    beginClosing()
    let closing = Closing(self)
    do throws(Failure) { try EventLoop(closing).answer(to: closing) } catch {}
  }

  private final class Closing: LoopMember, LoopQuestion {
    private let connection: AMQPConnection

    init(_ connection: AMQPConnection) { self.connection = connection }

    var wakeTime: Deadline { connection.closingEnd ?? .past }
    func addInterests(to polls: inout PollSet) { polls.add(connection.descriptor) }
    func proceed() {}
    func take() throws(Failure) -> Void? {
      do throws(AMQPError) { return try connection.hasClosed() ? () : nil } catch { return () }
    }
  }
}
