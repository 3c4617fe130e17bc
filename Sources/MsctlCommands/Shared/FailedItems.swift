import Glibc
import MsctlCore

/// The file of `--failed-to`: one line for each item of the input that failed. It takes the place of the old file only at the end,
/// whole, so that the old one may be the input, and stays where the run is killed.
final class FailedItems {
  /// Time limit for what a pipe takes once a signal has come.
  private static let patience: Duration = .seconds(2)

  let path: String
  private var file: WholeFile?
  /// What goes on writing in a loop, where it is no regular file.
  let stream: StreamOutput?
  /// Whether the file that it replaces is standard input.
  private let isInput: Bool

  /// - Parameters:
  ///   - path: nil where nothing is kept; `-` is standard output.
  ///   - writesOutput: whether results go to standard output, which cannot be the file then.
  init(_ path: String?, _ console: Console, writesOutput: Bool) throws(Failure) {
    let target = path.map { $0.isSame(as: "-") ? .descriptor(STDOUT_FILENO) : FileTarget($0) }
    if writesOutput, let path, target?.isOutput ?? false { throw Failure(.failedFileIsOutput(path)) }
    self.path = path ?? ""
    isInput = target?.isInput ?? false
    if let path, let target { file = try WholeFile(path, target) } else { file = nil }
    stream = file?.stream
    // To open such a pipe waits in a shell, too; but there the line that waits can be seen.
    if let path { stream?.onUnread = { console.note(.unreadPipe(path)) } }
  }

  /// Whether anything is kept.
  var isOpen: Bool { file != nil }

  func add(line: [UInt8]) throws(Failure) {
    do {
      try file?.write(line + [0x0A])
    } catch {
      // A file that lacks an item must not take the place of the old one.
      file = nil
      throw error
    }
  }

  /// Whether no more is to be added for now.
  var isBusy: Bool { stream?.isBusy ?? false }

  /// Waits until all is written, when nothing else is left to be done. A signal that is caught ends it.
  /// - Parameter signal: the one that has come before: then it is not waited for long.
  func flush(after signal: Int32? = nil) throws(Failure) {
    try file?.flush(until: signal == nil ? .never : .after(Self.patience))
    if let signal, isBusy { throw .interrupted(by: signal) }
  }

  /// Puts the file in its place, once all is written. If its old content is the input and was not read to the end, it is left as it
  /// was: what is in it may be tried twice, but is not lost.
  /// - Parameters:
  ///   - isInputRead: whether the input was read to its end.
  ///   - signal: see `flush`.
  func keep(isInputRead: Bool, _ console: Console, _ signal: Int32?) throws(Failure) {
    if isInput, !isInputRead {
      file = nil
      return console.note(.unchangedFile(path))
    }
    try flush(after: signal)
    try file.take()?.keep()
  }
}
