import Glibc
import MsctlCore

/// Standard error. Where something is owed (see `Signals.areCaught`) it is never waited for: what it does not take is kept, and
/// dropped beyond a limit.
struct ErrorStream {
  /// How much is kept, in bytes.
  private static let limit = 256 << 10
  /// How long it is waited for at the end.
  private static let patience: Duration = .seconds(2)
  /// What a pipe takes at once without blocking when `poll` says that it has room (POSIX: PIPE_BUF).
  private static let slice = 4096

  private var pending: [UInt8] = []
  private var dropped = 0

  /// - Parameter isCounted: whether it is told where the text is dropped.
  mutating func write(_ text: String, isCounted: Bool = true) {
    if pending.count + text.utf8.count <= Self.limit || pending.isEmpty {
      pending += Array(text.utf8)
    } else if isCounted {
      dropped += 1
    }
    if Signals.areCaught { move() } else { finish(until: .never) }
  }

  /// Writes what goes without waiting.
  mutating func move() {
    while !pending.isEmpty, PollSet.isReady(STDERR_FILENO, for: POLLOUT) {
      let count = pending.prefix(Self.slice).withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
      if count >= 0 {
        pending.removeFirst(count)
      } else if errno == EAGAIN || errno == EINTR {
        return
      } else {
        // Nobody is left to be told where even standard error is gone.
        pending = []
      }
    }
  }

  /// How many texts have been dropped since the last time, once there is room to tell it.
  mutating func takeDropped() -> Int? {
    guard dropped > 0, pending.isEmpty else { return nil }
    defer { dropped = 0 }
    return dropped
  }

  /// Writes what is left, for a bounded time.
  mutating func finish() { finish(until: .after(Self.patience)) }

  private mutating func finish(until deadline: Deadline) {
    move()
    guard !pending.isEmpty else { return }
    let loop = EventLoop(Readiness(STDERR_FILENO, for: POLLOUT))
    while !pending.isEmpty, !deadline.isPast {
      loop.turn(until: deadline)
      move()
    }
  }
}
