/// Asks a few methods of a broker, each with a reply, on a connection of its own, and again on another one where that breaks.
final class ErrandMember: LoopMember, @unchecked Sendable {
  private enum State {
    /// The next attempt begins then.
    case pausing(until: Deadline)
    case connecting(AMQPOpening)
    /// So many replies are to come, until then.
    case asked(AMQPConnection, replies: Int, until: Deadline)
    /// All replies have come; the one to closing is to come.
    case closing(AMQPConnection)
    case ended
  }

  private let uris: [AMQPURI]
  private let name: String
  private let methods: [AMQPMethod]
  private unowned let loop: EventLoop
  private let continuation: CheckedContinuation<Void, any Error>
  private var state = State.pausing(until: .now)
  /// When the last attempt begins.
  private let deadline: Deadline
  private var backoff = Backoff(to: .seconds(5))

  init(
    _ uris: [AMQPURI], _ options: Broker.Options, _ methods: [AMQPMethod], _ loop: EventLoop,
    _ continuation: CheckedContinuation<Void, any Error>
  ) {
    (self.uris, self.methods, self.loop, self.continuation) = (uris, methods, loop, continuation)
    (name, deadline) = (options.name, .after(options.reconnectFor))
  }

  var wakeTime: Deadline {
    switch state {
    case .pausing(let until): until
    // An opening that had no descriptors is over already.
    case .connecting(let opening): opening.descriptor < 0 ? .now : .never
    case .asked(let connection, _, let until): connection.hasInput ? .now : until
    case .closing(let connection): connection.wakeTime
    case .ended: .never
    }
  }

  func addInterests(to polls: inout PollSet) {
    switch state {
    case .connecting(let opening) where opening.descriptor >= 0: polls.add(opening.descriptor)
    case .asked(let connection, _, _), .closing(let connection): polls.add(connection.descriptor)
    default: break
    }
  }

  func proceed() {
    do throws(Failure) {
      switch state {
      case .pausing(let until):
        if until.isPast { state = .connecting(AMQPOpening(anyOf: uris, name: name, trace: nil)) }
      case .connecting(let opening): if let connection = try opening.result?.get() { try ask(connection) }
      case .asked(let connection, let replies, let until): try read(connection, replies, until)
      // All is done, however the connection ends.
      case .closing(let connection): if (try? connection.hasClosed()) ?? true { end(.success(())) }
      case .ended: break
      }
    } catch {
      guard error.isTransient(awaitsPassword: false), !deadline.isPast else { return end(.failure(error)) }
      state = .pausing(until: min(deadline, .after(backoff.next())))
    }
  }

  private func ask(_ connection: AMQPConnection) throws(Failure) {
    state = .asked(connection, replies: methods.count, until: .after(AMQPConnection.replyTimeout))
    do throws(AMQPError) { for method in methods { try connection.send(method) } } catch {
      throw error.failure(connection.uri)
    }
  }

  private func read(_ connection: AMQPConnection, _ replies: Int, _ until: Deadline) throws(Failure) {
    var replies = replies
    do throws(AMQPError) {
      while replies > 0, try connection.nextEvent() != nil { replies -= 1 }
      if replies > 0, until.isPast { throw AMQPError(kind: .timedOut, reason: "no response to a declaration") }
    } catch { throw error.failure(connection.uri) }
    state = .asked(connection, replies: replies, until: until)
    guard replies == 0 else { return }
    connection.beginClosing()
    state = .closing(connection)
  }

  private func end(_ result: Result<Void, Failure>) {
    state = .ended
    continuation.resume(with: result.mapError { $0 as any Error })
    loop.remove(self)
  }
}
