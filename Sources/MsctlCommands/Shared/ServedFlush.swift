import Glibc
import MsctlCore

extension Console {
  /// Writes everything out while the connection is served, so that a slow reader does not cost it: heartbeats go on.
  func flush(serving connection: AMQPConnection, _ signals: Signals) throws {
    while hasUnwritten {
      var polls = PollSet()
      let output = polls.add(outputDescriptor, for: POLLOUT)
      let signal = polls.add(signals.descriptor)
      polls.wait(until: .after(.seconds(1)))
      if polls.isReady(output) {
        try flushSlice()
      } else {
        try connection.pump()
        if polls.isReady(signal), let number = signals.take() { throw Failure(.signal(number), "interrupted") }
      }
    }
  }
}
