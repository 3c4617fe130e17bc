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
    move(until: Signals.areCaught ? .now : .never)
  }

  /// Writes what goes without waiting.
  mutating func move() {
    if !pending.isEmpty { move(until: .now) }
  }

  /// How many texts have been dropped since the last time, once there is room to tell it.
  mutating func takeDropped() -> Int? {
    guard dropped > 0, pending.isEmpty else { return nil }
    defer { dropped = 0 }
    return dropped
  }

  /// Writes what is left, for a bounded time.
  mutating func finish() {
    if !pending.isEmpty { move(until: .after(Self.patience)) }
  }

  private mutating func move(until deadline: Deadline) {
    var start = 0
    defer { pending.removeFirst(start) }
    while start < pending.count {
      var polls = PollSet()
      let place = polls.add(STDERR_FILENO, for: POLLOUT)
      polls.wait(until: deadline)
      guard polls.isReady(place) else {
        if deadline.isPast { return }
        continue
      }
      let count = pending[start...].prefix(Self.slice).withUnsafeBytes {
        Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count)
      }
      if count >= 0 {
        start += count
      } else if errno == EAGAIN {
        // A pipe that says it has room may not have it for as much. Not for long: others write to it, too.
        if deadline.isPast { return }
        usleep(1000)
      } else if errno != EINTR {
        // Nobody is left to be told where even standard error is gone.
        start = pending.count
      }
    }
  }
}
