import Glibc
import MsctlCore

/// How a command ends: the one list of exit codes.
package enum ExitStatus: Sendable, Equatable {
  case code(Int32)
  /// Ended by a signal, as if it had not been caught: a shell shows 128 + its number.
  case signal(Int32)

  package static let done = ExitStatus.code(0)

  /// What the codes mean, as the documents say it.
  package static let table: [(code: String, meaning: String)] = [
    ("0", "done"),
    ("1", "any other failure"),
    ("2", "invalid command line"),
    ("3", "not found: no such service or queue, no passing instance, no message with --require"),
    ("4 / 5", "the service returned 3xx or 4xx / 5xx"),
    ("6", "could not connect, or access was denied"),
    ("7", "not delivered: returned, refused or not confirmed"),
    ("8", "timed out"),
    ("9", "invalid input"),
    ("126 / 127", "COMMAND could not be run / was not found"),
    ("128+N", "ended by signal N"),
  ]

  package init(_ failure: Failure) {
    self =
      switch failure.code {
      case .failed: .code(1)
      case .usage: .code(2)
      case .nothingThere: .code(3)
      case .clientError: .code(4)
      case .serverError: .code(5)
      case .unreachable, .denied: .code(6)
      case .notDelivered: .code(7)
      case .timedOut: .code(8)
      case .badInput: .code(9)
      case .outputClosed: .signal(SIGPIPE)
      case .command(let code): .code(code)
      case .signal(let number): .signal(number)
      }
  }

  /// Ends the process.
  package func leave() -> Never {
    switch self {
    case .code(let code):
      // Everything is written. What the libraries would tidy up goes with the process, and faster.
      _exit(code)
    case .signal(let number):
      // Sent to ourselves with its default action, so that a shell sees what happened: it stops its loop at Ctrl-C.
      Glibc.signal(number, SIG_DFL)
      raise(number)
      exit(128 + number)
    }
  }
}

extension Failure.Code {
  /// The code as `--json-errors` and envelopes write it.
  package var name: String {
    switch self {
    case .failed: "failed"
    case .usage: "usage"
    case .nothingThere: "nothing-there"
    case .clientError: "client-error"
    case .serverError: "server-error"
    case .unreachable: "unreachable"
    case .denied: "denied"
    case .notDelivered: "not-delivered"
    case .timedOut: "timed-out"
    case .badInput: "bad-input"
    case .outputClosed: "output-closed"
    case .command: "command-failed"
    case .signal: "interrupted"
    }
  }
}

extension Failure {
  /// Writes it as members of an object, for programs.
  func write(to object: inout JSONWriter) {
    object.field("code", code.name)
    if case .command(let status) = code { object.field("status", status) }
    if let status = subject.status { object.field("status", status) }
    if let index = subject.index { object.field("index", index) }
    if let id = subject.messageID { object.field("messageId", id) }
    object.field("message", message)
    if let hint { object.field("hint", hint) }
  }
}
