import CPosix
import CommandTable
import Glibc
import MsctlCore
import Synchronization
import SystemPackage

/// How output looks and errors are written: options that every command has.
package struct OutputOptions: Defaulted {
  package enum Colour: String, ArgumentChoice { case auto, always, never }

  var colour = Colour.auto
  var isQuiet = false
  var isVerbose = false
  var jsonErrors = false

  package init() {}

  /// Its name stands here, since it must be known before the command line is understood.
  static let jsonErrorsFlag = "json-errors"

  static let flags: [Flag<OutputOptions>] = [
    .value("color", nil, "WHEN", into: \.colour, "Colour JSON")
      .details("'auto' colours on a terminal, unless the variable NO_COLOR is set."),
    .toggle("quiet", "q", into: \.isQuiet, "Suppress summaries; errors are still printed"),
    .toggle("verbose", "v", into: \.isVerbose, "Print protocol traffic to stderr")
      .details("Credentials are masked."),
    .toggle(jsonErrorsFlag, nil, into: \.jsonErrors, "Write stderr as JSON, one object per line")
      .details(
        """
        {"error": {"code", "message", "hint"?, "status"?, "index"?, "messageId"?}}, {"note": {"message"}}, {"summary": \
        {"message", ...}}, with --verbose {"trace": {"message"}}, and {"output": {"message"}} for a line of a failed --exec \
        command. index is the number of the value in the input, from 1. What a command writes to its own stderr is not changed.
        """),
  ].under("Output")
}

/// The one place that writes: data to standard output, everything else to standard error.
package final class Console {
  /// What a pipe takes at once without blocking when `poll` says that it has room (POSIX: PIPE_BUF).
  private static let pipeSlice = 4096
  /// How much `flushReady` writes at most, in bytes.
  private static let turn = 256 << 10

  private let environment: [String: String]
  private let output = FileDescriptor.standardOutput
  /// How much is written at once when `poll` says that there is room: a regular file takes everything.
  private let slice: Int
  /// How much standard output holds where it is a pipe.
  private let pipeSize: Int
  /// Locked, since the thread that opens a connection traces, too.
  private let errors = Mutex(ErrorStream())
  /// The beginning of a character, on a terminal, whose rest may come.
  private var halfCharacter: [UInt8] = []
  private var buffer: [UInt8] = []
  /// How much of the buffer is written out. It is cut off only when it is most of it, so that a large value costs no more a
  /// byte than a small one.
  private var start = 0
  /// How much the output has taken.
  package private(set) var takenBytes = 0
  package var options = OutputOptions()
  /// Whether people look at standard output.
  package let isTerminal: Bool

  package init(environment: [String: String]) {
    self.environment = environment
    isTerminal = isatty(STDOUT_FILENO) == 1
    // Not by swift-system's Stat, which took 1.3 % of what '--help' takes.
    var status = stat()
    let isFile = fstat(STDOUT_FILENO, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    slice = isFile ? Self.turn : Self.pipeSlice
    pipeSize = Int(clamping: msctl_pipe_size(STDOUT_FILENO))
  }

  private var usesColours: Bool {
    switch options.colour {
    case .always: true
    case .never: false
    case .auto: isTerminal && (environment["NO_COLOR"] ?? "").isEmpty
    }
  }

  /// Whether JSON is laid out for people.
  package var isPretty: Bool { isTerminal || options.colour == .always }

  // MARK: Data

  /// Adds a value: indented for people, else on one line. Nothing is sure to be out before `flush`.
  package func write(value: JSONValue) {
    if isPretty {
      write(bytes: JSONPrinter(colours: usesColours).indented(value))
    } else {
      write(bytes: value.text)
    }
    write(bytes: [0x0A])
  }

  /// Adds a line that is complete already, as it came in.
  package func write(line: [UInt8]) {
    write(text: line)
    write(bytes: [0x0A])
  }

  package func write(line: String) {
    write(text: Array((line + "\n").utf8))
  }

  /// Adds text that is not ours: on a terminal its control characters are shown, not obeyed. It may come in parts, cut
  /// anywhere.
  package func write(text: [UInt8]) {
    guard isTerminal else { return write(bytes: text) }
    let whole = halfCharacter + text
    halfCharacter = Array(whole.suffix(unfinishedBytes(whole)))
    buffer += visible(String(decoding: whole.dropLast(halfCharacter.count), as: UTF8.self)).utf8
  }

  package func write(bytes: some Collection<UInt8>) {
    if !halfCharacter.isEmpty { buffer += "\u{FFFD}".utf8 }
    halfCharacter = []
    buffer += bytes
  }

  /// Writes out everything, for who waits for nothing else. A signal that is caught ends it, and the deadline where signals are caught.
  package func flush(until deadline: Deadline = .never) throws(Failure) {
    moveErrors()
    while hasUnwritten {
      // A write that blocks would outlast the signal.
      if Signals.areCaught { try Signals.wait(for: outputDescriptor, POLLOUT, until: deadline) }
      if deadline.isPast { return }
      let isTaken = try writeOut(Signals.areCaught ? min(bufferedBytes, room) : bufferedBytes)
      if !isTaken { try Signals.wait(for: outputDescriptor, POLLOUT) }
    }
  }

  package var bufferedBytes: Int { buffer.count - start }
  package var hasUnwritten: Bool { bufferedBytes > 0 }
  package var outputDescriptor: Int32 { output.rawValue }
  /// For a loop that has other things to do while the output takes nothing.
  package var outputReadiness: Readiness { Readiness(outputDescriptor, for: POLLOUT, isWanted: false) }

  /// Whether nobody reads any more, which a command that has nothing to write for long would not notice.
  package var isOutputClosed: Bool { PollSet.events(at: outputDescriptor) & POLLERR != 0 }

  /// Whether the output takes something without blocking, or has failed.
  package var isOutputReady: Bool { PollSet.isReady(outputDescriptor, for: POLLOUT) }

  /// How much the output takes without blocking once `poll` says that it has room: an empty pipe takes as much as it holds.
  private var room: Int {
    bufferedBytes > slice && pipeSize > slice && msctl_pipe_fill(outputDescriptor) == 0 ? pipeSize : slice
  }

  /// Writes out what goes without blocking, up to a bound, so that others have their turn.
  package func flushReady() throws(Failure) {
    var left = Self.turn
    while hasUnwritten, left > 0, isOutputReady {
      let before = bufferedBytes
      _ = try writeOut(min(before, room))
      left -= before - bufferedBytes
    }
  }

  /// - Returns: whether anything was taken; who started us may have left standard output non-blocking.
  private func writeOut(_ count: Int) throws(Failure) -> Bool {
    guard count > 0 else { return true }
    let taken = buffer[start..<(start + count)].withUnsafeBytes {
      Glibc.write(outputDescriptor, $0.baseAddress, $0.count)
    }
    if taken >= 0 {
      start += taken
      takenBytes += taken
      if start > buffer.count / 2 {
        buffer.removeFirst(start)
        start = 0
      }
      return true
    }
    let error = Errno(rawValue: errno)
    if error == .wouldBlock || error == .interrupted { return false }
    buffer = []
    start = 0
    if error == .brokenPipe { throw Failure(.outputClosed) }
    throw Failure(.unwritableOutput(reason: "\(error)"))
  }

  /// Drops what is not written out: nobody reads it any more.
  package func discard() {
    halfCharacter = []
    buffer = []
    start = 0
  }

  // MARK: Everything else

  /// What a line of standard error is. Under `--json-errors`, it is an object with this one member.
  private enum Line: String { case error, note, summary, trace, output }

  /// A remark; `--quiet` leaves it out.
  package func note(_ text: String) {
    if !options.isQuiet { say(.note, text) }
  }

  /// How a run went; `--quiet` leaves it out.
  /// - Parameter numbers: writes what the text says as members of an object.
  func summarize(_ text: String, _ numbers: (inout JSONWriter) -> Void) {
    guard !options.isQuiet else { return }
    say(.summary, text) { object in
      object.field("message", text)
      numbers(&object)
    }
  }

  /// A value that was asked for and is no data: a line of its own on standard error.
  func tell(_ value: JSONValue) { say(String(decoding: JSONPrinter.visible(value.text), as: UTF8.self) + "\n") }

  /// Lines for people who look at standard error.
  func chart(_ lines: [String]) {
    for line in lines where showsProgress { say(visibleLine(line) + "\n") }
  }

  /// A line on what happens on the wire, with `--verbose`.
  package func trace(_ line: String) {
    if options.isVerbose { say(.trace, line) }
  }

  /// What a command wrote that failed: no data, but it may say why. Its lines are indented, so that none of them reads as
  /// msctl's own.
  package func passOn(_ output: [UInt8]) {
    for line in output.split(separator: 0x0A) { say(.output, String(decoding: line, as: UTF8.self)) }
  }

  /// Help that is shown in place of an error.
  package func showHelp(_ text: String) {
    if !options.jsonErrors { say("\n" + text) }
  }

  /// Whether people look at standard error, and want to see more than errors.
  package var showsProgress: Bool { isatty(STDERR_FILENO) == 1 && !options.isQuiet && !options.jsonErrors }

  /// Text on standard error that the next one takes the place of.
  package func progress(_ text: String) {
    errors.withLock { $0.write("\r\u{1B}[K" + visibleLine(text), isCounted: false) }
  }

  /// An error. It is never left out.
  package func report(_ failure: Failure) {
    switch failure.code {
    case .outputClosed, .signal: return
    default: break
    }
    say(.error, failure.message, hint: failure.hint) { failure.write(to: &$0) }
  }

  private func say(_ line: Line, _ text: String) {
    say(line, text) { $0.field("message", text) }
  }

  /// - Parameter members: writes the same as members of an object.
  private func say(_ line: Line, _ text: String, hint: String? = nil, _ members: (inout JSONWriter) -> Void) {
    guard options.jsonErrors else {
      let lines =
        switch line {
        case .trace: visibleLine(text)
        case .output: "       " + visible(text)
        case .error, .note, .summary:
          "msctl: " + visibleLine(text) + (hint.map { "\n       " + visibleLine($0) } ?? "")
        }
      return say(lines + "\n")
    }
    var writer = JSONWriter()
    writer.object { object in
      object.key(line.rawValue)
      object.object(members)
    }
    say(String(decoding: JSONPrinter.visible(writer.value.text), as: UTF8.self) + "\n")
  }

  private func say(_ text: String) {
    errors.withLock { $0.write(text) }
  }

  /// Goes on writing what standard error did not take.
  package func moveErrors() {
    let dropped = errors.withLock { errors in
      errors.move()
      return errors.takeDropped()
    }
    guard let count = dropped else { return }
    say(.note, "\(counted(count)) dropped, since standard error was blocked")
  }

  /// Writes what is left of standard error, within a bounded time.
  package func close() {
    errors.withLock { $0.finish() }
    moveErrors()
    errors.withLock { $0.finish() }
  }
}

/// How many bytes at the end are the beginning of a character of UTF-8 whose rest is missing.
private func unfinishedBytes(_ text: [UInt8]) -> Int {
  for count in 1...3 where count <= text.count {
    let byte = text[text.count - count]
    if byte < 0x80 { return 0 }
    if byte >= 0xC0 { return count < (byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2) ? count : 0 }
  }
  return 0
}

/// Text of many lines with control characters other than line feed and tab written as escapes.
func visible(_ text: String) -> String { escaped(text) { isControl($0) && $0 != "\n" && $0 != "\t" } }

/// One line: line breaks are escapes as well, so that nothing in it can begin a line of its own.
func visibleLine(_ text: String) -> String { escaped(text) { isControl($0) || $0 == "\u{2028}" || $0 == "\u{2029}" } }

private func escaped(_ text: String, where isEscaped: (Unicode.Scalar) -> Bool) -> String {
  guard text.unicodeScalars.contains(where: isEscaped) else { return text }
  var output = String.UnicodeScalarView()
  for scalar in text.unicodeScalars {
    switch scalar {
    case _ where !isEscaped(scalar): output.append(scalar)
    case "\n": output += "\\n".unicodeScalars
    case "\r": output += "\\r".unicodeScalars
    case "\t": output += "\\t".unicodeScalars
    default: output += "\\u{\(String(scalar.value, radix: 16))}".unicodeScalars
    }
  }
  return String(output)
}

func isControl(_ scalar: Unicode.Scalar) -> Bool {
  scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
}
