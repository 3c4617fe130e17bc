import Glibc
import MsctlCore

extension Console {
  /// Writes everything out while the connection is served, so that a slow reader does not cost it: heartbeats go on.
  func flush(serving connection: AMQPConnection?, _ signals: Signals) throws {
    // A signal lets the line be ended that stands half written, unless nobody reads it.
    let patience = Deadline.after(.seconds(2))
    repeat {
      moveErrors()
      guard hasUnwritten else { return }
      var polls = PollSet()
      let output = polls.add(outputDescriptor, for: POLLOUT)
      let signal = polls.add(signals.descriptor)
      polls.wait(until: .after(.seconds(1)))
      let hasRoom = polls.isReady(output)
      if hasRoom { try flushSlice() }
      try connection?.pump()
      if polls.isReady(signal), !hasRoom || patience.isPast, let number = signals.take() {
        throw Failure(.signal(number), "interrupted")
      }
    } while hasUnwritten
  }
}
