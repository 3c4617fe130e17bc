import Glibc
import MsctlCore

/// Standard output of a run that does not wait for it: what its reader does not take yet is kept by the console.
struct OutputFlow {
  enum State {
    /// All is written out.
    case out
    /// The reader takes no more for now.
    case busy
    /// After a signal, the reader has taken nothing more for too long.
    case late
    case failed(Failure)
  }

  /// How long what is written may take to get out once the run is interrupted.
  private static let patience: Duration = .seconds(2)

  private let console: Console
  /// Whether the output did not take all of what was written.
  private(set) var isBusy = false
  private var isInterrupted = false
  /// When what it did not take is dropped.
  private var end = Deadline.never
  private var isLost = false

  init(_ console: Console) { self.console = console }

  /// Writes out what there is, as far as the output takes it.
  mutating func move() -> State {
    console.moveErrors()
    if isLost { console.discard() }
    isBusy = false
    do throws(Failure) { try console.flushReady() } catch { return .failed(error) }
    guard console.hasUnwritten else {
      end = .never
      return .out
    }
    isBusy = true
    if isInterrupted, end == .never { end = .after(Self.patience) }
    return end.isPast ? .late : .busy
  }

  /// A signal has come: a line may be ended that stands half written, unless nobody reads it.
  mutating func interrupt() {
    isInterrupted = true
    if isBusy { end = console.isOutputReady ? .after(Self.patience) : .now }
  }

  /// What is not written out is dropped, and what is written from here on.
  mutating func lose() {
    (isLost, isBusy) = (true, false)
    console.discard()
  }

  func addInterests(to polls: inout PollSet) { if isBusy { polls.add(console.outputDescriptor, for: POLLOUT) } }

  var wakeTime: Deadline { isBusy ? end : .never }
}
