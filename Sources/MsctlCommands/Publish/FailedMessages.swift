import Glibc
import MsctlCore

/// What was not confirmed is an envelope, which `publish` reads.
extension FailedItems {
  func add(_ message: AMQPMessage) throws(Failure) {
    if isOpen { try add(line: Array(Envelope.write(message, redelivered: false).text)) }
  }

  func keep(after source: MessageSource, _ console: Console, _ signal: Int32?) throws(Failure) {
    try keep(isInputRead: source.isExhausted, console, signal)
  }

  /// Adds what the source still has, and puts the file in its place: for when there is no broker to send it to.
  /// - Parameter signal: see `flush`.
  func keep(restOf source: inout MessageSource, _ console: Console, _ signal: Int32?) throws(Failure) {
    do throws(Failure) { try addRest(of: &source, console, signal) } catch {
      guard case .signal(let number) = error.code else {
        try keep(after: source, console, signal)
        throw error
      }
      console.note(.restNotSaved(path))
      try keep(after: source, console, number)
      throw error
    }
    try keep(after: source, console, signal)
  }

  private func addRest(of source: inout MessageSource, _ console: Console, _ signal: Int32?) throws(Failure) {
    guard isOpen else { return }
    if source.readsStandardInput, !source.isExhausted {
      console.note(.savingRest(path))
    }
    while !source.isExhausted {
      switch try source.next() {
      case .message(let message, _):
        try add(message)
        try flush(after: signal)
      case .unusable(let failure, let line):
        console.report(failure)
        try add(line: line)
        try flush(after: signal)
      case nil where source.isExhausted: return
      case nil:
        try Signals.wait(for: STDIN_FILENO)
        source.readMore()
      }
    }
  }
}
