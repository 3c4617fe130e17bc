import CPosix
import Glibc

/// A connection that is being opened on a thread of its own: librabbitmq blocks while it connects and logs in.
private final class Opening: @unchecked Sendable {
  private let uris: [AMQPURI]
  private let name: String
  private let setup: AMQPConnection.Setup?
  private let trace: ((String) -> Void)?
  /// Closed by the thread at its end.
  private let end: Int32
  /// Written by the thread, and read once it is joined.
  private(set) var result: Result<AMQPConnection, Failure>?

  init(
    _ uris: [AMQPURI], _ name: String, _ setup: AMQPConnection.Setup?, _ trace: ((String) -> Void)?, end: Int32
  ) {
    (self.uris, self.name, self.setup, self.trace, self.end) = (uris, name, setup, trace, end)
  }

  func run() {
    do throws(Failure) {
      result = .success(try AMQPConnection.open(anyOf: uris, name: name, setup, trace: trace))
    } catch { result = .failure(error) }
    Glibc.close(end)
  }
}

extension AMQPConnection {
  /// Connects to the first broker of the list that lets us in, while the caller goes on.
  /// - Parameter serve: waits until the descriptor is readable, or something else is to be done. What it throws abandons the
  ///   attempt.
  package static func open(
    anyOf uris: [AMQPURI], name: String, _ setup: Setup? = nil, trace: ((String) -> Void)?,
    serving serve: (Int32) throws(Failure) -> Void
  ) throws(Failure) -> AMQPConnection {
    var ends: [Int32] = [-1, -1]
    guard pipe2(&ends, O_CLOEXEC | O_NONBLOCK) == 0 else {
      return try open(anyOf: uris, name: name, setup, trace: trace)
    }
    defer { Glibc.close(ends[0]) }
    let opening = Opening(uris, name, setup, trace, end: ends[1])
    let argument = Unmanaged.passRetained(opening)
    var thread = pthread_t()
    // Signals are for the caller's thread.
    var (all, old) = (sigset_t(), sigset_t())
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &old)
    let code = pthread_create(
      &thread, nil,
      { argument in
        if let argument { Unmanaged<Opening>.fromOpaque(argument).takeRetainedValue().run() }
        return nil
      }, argument.toOpaque())
    pthread_sigmask(SIG_SETMASK, &old, nil)
    guard code == 0 else {
      argument.release()
      Glibc.close(ends[1])
      return try open(anyOf: uris, name: name, setup, trace: trace)
    }
    var byte: UInt8 = 0
    while read(ends[0], &byte, 1) != 0 {
      do { try serve(ends[0]) } catch {
        pthread_detach(thread)
        throw error
      }
    }
    pthread_join(thread, nil)
    guard let result = opening.result else { throw Failure(.failed, "no connection was opened") }
    return try result.get()
  }
}
