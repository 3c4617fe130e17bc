/// A connection of its own for a few methods, each with a reply.
final class ErrandMember: LoopMember, @unchecked Sendable {
  private let opening: AMQPOpening
  private let methods: [AMQPMethod]
  private unowned let loop: EventLoop
  private var continuation: CheckedContinuation<Void, any Error>?
  private var connection: AMQPConnection?
  /// How many replies are to come, and until when.
  private var replies = 0
  private var end = Deadline.never

  init(
    _ uris: [AMQPURI], _ name: String, _ methods: [AMQPMethod], _ loop: EventLoop,
    _ continuation: CheckedContinuation<Void, any Error>
  ) {
    (self.methods, self.loop, self.continuation) = (methods, loop, continuation)
    opening = AMQPOpening(anyOf: uris, name: name, trace: nil)
  }

  var wakeTime: Deadline {
    // An opening that had no descriptors is over already.
    guard let connection else { return opening.descriptor < 0 ? .now : .never }
    return connection.hasInput ? .now : end
  }

  func addInterests(to polls: inout PollSet) {
    if let connection {
      polls.add(connection.descriptor)
    } else if opening.descriptor >= 0 {
      polls.add(opening.descriptor)
    }
  }

  func proceed() {
    do throws(Failure) {
      if connection == nil { connection = try opened() }
      guard let connection else { return }
      do throws(AMQPError) {
        while replies > 0, try connection.nextEvent() != nil { replies -= 1 }
        if replies == 0 { return finish(.success(())) }
        if end.isPast { throw AMQPError(kind: .timedOut, reason: "no response to a declaration") }
      } catch { throw error.failure(connection.uri) }
    } catch { finish(.failure(error)) }
  }

  private func opened() throws(Failure) -> AMQPConnection? {
    guard let connection = try opening.result?.get() else { return nil }
    do throws(AMQPError) { for method in methods { try connection.send(method) } } catch {
      throw error.failure(connection.uri)
    }
    replies = methods.count
    end = .after(AMQPConnection.replyTimeout)
    return connection
  }

  private func finish(_ result: Result<Void, Failure>) {
    connection?.close()
    continuation?.resume(with: result.mapError { $0 as any Error })
    continuation = nil
    loop.remove(self)
  }
}
