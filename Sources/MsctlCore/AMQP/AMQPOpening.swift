import CPosix
import Glibc

/// A connection that is being opened on a thread of its own, since librabbitmq blocks while it connects and logs in. When nobody
/// holds it any more, the attempt is abandoned.
package final class AMQPOpening {
  /// What the thread works on.
  private final class Attempt: @unchecked Sendable {
    private let uris: [AMQPURI]
    private let name: String
    private let setup: AMQPConnection.Setup?
    private let trace: ((String) -> Void)?
    private let prepare: ((AMQPConnection) -> Void)?
    /// Closed by the thread at its end.
    private let end: Int32
    /// Written by the thread, and read once it is joined.
    private(set) var result: Result<AMQPConnection, Failure>?

    init(
      _ uris: [AMQPURI], _ name: String, _ setup: AMQPConnection.Setup?, _ trace: ((String) -> Void)?,
      _ prepare: ((AMQPConnection) -> Void)?, end: Int32
    ) {
      (self.uris, self.name, self.setup, self.trace) = (uris, name, setup, trace)
      (self.prepare, self.end) = (prepare, end)
    }

    func run() {
      do throws(Failure) {
        let connection = try AMQPConnection.open(anyOf: uris, name: name, setup, trace: trace)
        prepare?(connection)
        result = .success(connection)
      } catch { result = .failure(error) }
      if end >= 0 { Glibc.close(end) }
    }
  }

  /// Readable once `result` is there; -1 where it is there already.
  package let descriptor: Int32
  private let attempt: Attempt
  private var thread: pthread_t?

  /// Connects to the first broker of the list that lets us in.
  /// - Parameters:
  ///   - setup: what the channel is to be; whether it is, `setup` of the connection says, where anything was asked for.
  ///   - trace: see `AMQPConnection.open`.
  ///   - isAwaited: whether nothing else goes on meanwhile: then it is over when this returns, and costs no thread.
  ///   - prepare: asks the connection what is to be known before it is used, on the thread, too: each question waits for its reply.
  package init(
    anyOf uris: [AMQPURI], name: String, _ setup: AMQPConnection.Setup? = nil, trace: ((String) -> Void)?,
    isAwaited: Bool = false, preparing prepare: ((AMQPConnection) -> Void)? = nil
  ) {
    var ends: [Int32] = [-1, -1]
    if !isAwaited { pipe2(&ends, O_CLOEXEC | O_NONBLOCK) }
    descriptor = ends[0]
    attempt = Attempt(uris, name, setup, trace, prepare, end: ends[1])
    guard ends[0] >= 0 else {
      attempt.run()
      return
    }
    let attempt = attempt
    thread = startThread { attempt.run() }
    if thread == nil { attempt.run() }
  }

  deinit {
    if let thread { pthread_detach(thread) }
    if descriptor >= 0 { Glibc.close(descriptor) }
  }

  /// The connection, or why there is none; nil as long as it is being opened.
  package var result: Result<AMQPConnection, Failure>? {
    if let thread {
      var byte: UInt8 = 0
      guard read(descriptor, &byte, 1) == 0 else { return nil }
      pthread_join(thread, nil)
      self.thread = nil
    }
    return attempt.result
  }
}
