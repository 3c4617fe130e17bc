import DequeModule
import Glibc
import MsctlCore

/// Hands all messages to one long-lived filter: each is a line of its standard input, and each line that it writes is the
/// answer to the oldest message that has none. The line is passed on, and the message acknowledged.
///
/// A filter that breaks this, that closes its input or its output, or that leaves somebody behind who holds its output, is
/// given a bounded time to end.
final class FilterHandler: MessageHandler {
  /// How much may wait to be written to the filter, in bytes.
  private static let inputLimit = 1 << 20
  /// How long a line of the filter may be, in bytes.
  static let lineLimit = 256 << 20
  /// How much is read from the filter before the broker and signals have their turn, in bytes.
  private static let readLimit = 1 << 20
  /// After how long without an answer there is a remark; so long, too, a filter that can take or give nothing more may be silent
  /// before it is ended.
  private static let patience: Duration = .seconds(10)
  private static let shortestPause: Duration = .milliseconds(200)
  private static let longestPause: Duration = .seconds(30)

  private let command: String
  var traits: QueueTraits
  private let format: MessageFormat
  private let restarts: Bool
  private let maxAttempts: Int?
  private let environment: [String: String]
  private let console: Console
  private var child: ChildProcess?
  /// Taken and not answered, in the order in which they were handed over.
  private var unanswered = Deque<(number: Int, delivery: AMQPDelivery)>()
  private var input: [UInt8] = []
  private var fed = 0
  /// The begin of a line that is not complete.
  private var partial: [UInt8] = []
  private var held = HeldBytes(limit: lineLimit)
  private var attempts = Attempts()
  private var pause = shortestPause
  private var restartTime = Deadline.never
  private var remarkTime = Deadline.never
  private var isFinishing = false
  private var isTerminated = false
  /// Until when a filter that is over, but still there, may be silent; nil while it is not over.
  private var overTime: Deadline?
  /// Why it was ended then.
  private var pressCause: String?
  private var hasClosedInput = false
  /// Its output is of no use any more.
  private var isBroken = false
  /// What went wrong once the settlements before it are carried out.
  private var failure: Failure?
  private var hasEnded = false

  init(
    _ command: String, _ options: Consume.Options, _ traits: QueueTraits, _ environment: [String: String],
    _ console: Console
  ) throws(Failure) {
    self.command = command
    self.traits = traits
    format = options.format
    restarts = options.restarts
    maxAttempts = options.maxAttempts
    // One filter is one step of one trace, whatever the messages come from.
    self.environment = options.children.variables(environment).merging(
      ["TRACEPARENT": TraceContext(environment: environment).child().traceparent]) { $1 }
    self.console = console
    child = try start()
  }

  var state: Consumer.HandlerState {
    Consumer.HandlerState(
      hasRoom: child != nil && !isFinishing && overTime == nil && input.count - fed < Self.inputLimit,
      // A failure that is still to be told is not the end.
      isFinished: hasEnded && failure == nil, hasEnded: hasEnded)
  }
  var wakeTime: Deadline {
    failure == nil ? min(restartTime, remarkTime, overTime ?? .never, child?.wakeTime ?? .never) : .now
  }
  func take(_ number: Int, _ delivery: AMQPDelivery) {
    if unanswered.isEmpty { remarkTime = .after(Self.patience) }
    unanswered.append((number, delivery))
    add(delivery)
  }

  func addInterests(to polls: inout PollSet) {
    guard let child else { return }
    if child.output >= 0 { polls.add(child.output) }
    // With nothing to be written, it is only to be noticed that nobody reads any more.
    if child.input >= 0 { polls.add(child.input, for: fed < input.count ? POLLOUT : 0) }
  }

  func work() throws(Failure) -> [Consumer.Settlement] {
    if let failure = failure.take() { throw failure }
    guard let child else { return try startAgain() }
    if remarkTime.isPast {
      remarkTime = .never
      console.note(
        "the filter has written no line for \(Self.patience.shown), \(counted(unanswered.count)) unprocessed; "
          + "if it buffers its output, make it write line by line (jq --unbuffered, sed -u, grep --line-buffered, stdbuf -oL)"
      )
    }
    var settlements: [Consumer.Settlement] = []
    do { try move(child, &settlements) } catch {
      isBroken = true
      partial = []
      child.terminate()
      if settlements.isEmpty { throw error }
      failure = error
    }
    return settlements
  }

  private func move(_ child: ChildProcess, _ settlements: inout [Consumer.Settlement]) throws(Failure) {
    feed(child)
    var left = Self.readLimit
    while left > 0, case let piece = child.read(), !piece.isEmpty {
      left -= piece.count
      if !isBroken { try takeLines(piece, &settlements) }
    }
    child.checkEnd()
    if let status = child.status, child.output < 0 {
      settlements += try end(status)
    } else if child.status != nil || child.output < 0 || hasClosedInput || isFinishing && unanswered.isEmpty {
      pressForEnd(child)
    }
  }

  /// Adds to what the filter has written. Each byte is looked at once, however long a line is.
  private func takeLines(_ piece: [UInt8], _ settlements: inout [Consumer.Settlement]) throws(Failure) {
    try held.check(partial.count + piece.count, "a line of the filter '\(command)'")
    var searched = partial.count
    var start = 0
    partial += piece
    while let end = firstLineFeed(in: partial, from: searched) {
      settlements.append(Consumer.Settlement(try answer(partial[start..<end]), .acknowledge))
      start = end + 1
      searched = start
    }
    guard start > 0 else { return }
    partial.removeFirst(start)
    held.reset()
  }

  /// The filter can take or give nothing more, but is still there: it may answer what it has read, and is ended once it is
  /// silent.
  private func pressForEnd(_ child: ChildProcess) {
    remarkTime = .never
    if overTime == nil { overTime = .after(Self.patience) }
    guard overTime?.isPast == true else { return }
    overTime = .never
    pressCause =
      hasClosedInput
      ? "closed its input"
      : child.status != nil
        ? "left a process running that holds its output"
        : child.output < 0 ? "closed its output" : "did not exit at the end of its input"
    // With every message handled, that it does not end by itself is no failure.
    if unanswered.isEmpty, isFinishing { isTerminated = true }
    child.terminate()
  }

  func finish() {
    isFinishing = true
    if let child { feed(child) } else if unanswered.isEmpty { hasEnded = true }
  }

  func terminate() {
    isTerminated = true
    if let child { child.terminate() } else { hasEnded = true }
  }

  private func add(_ delivery: AMQPDelivery) {
    input += format.value(delivery).text
    input.append(0x0A)
  }

  private func feed(_ child: ChildProcess) {
    while fed < input.count, let count = child.write(input[fed...]) {
      if count == 0 { break }
      fed += count
    }
    if child.isInputUnread {
      // What it has not read it will never answer.
      hasClosedInput = true
      child.closeInput()
      fed = input.count
    }
    if fed == input.count || fed > Self.inputLimit {
      input.removeFirst(fed)
      fed = 0
    }
    if isFinishing, input.isEmpty { child.closeInput() }
  }

  /// - Returns: the number of the message that a line is the answer to.
  private func answer(_ line: ArraySlice<UInt8>) throws(Failure) -> Int {
    guard let (number, delivery) = unanswered.popFirst() else {
      throw Failure(
        .failed, "the filter '\(command)' wrote more lines than it was given messages",
        hint: "It must write exactly one line per message, in order; diagnostics belong on standard error.")
    }
    remarkTime = unanswered.isEmpty || overTime != nil ? .never : .after(Self.patience)
    if let overTime, overTime != .never { self.overTime = .after(Self.patience) }
    console.write(line: Array(line))
    attempts.forget(delivery.message)
    pause = Self.shortestPause
    return number
  }

  /// The filter has ended.
  private func end(_ status: Int32) throws(Failure) -> [Consumer.Settlement] {
    let text = "the filter '\(command)' \(endText(status))"
    let wasKilled = child?.wasKilled == true
    child = nil
    overTime = nil
    remarkTime = .never
    // Why has been said.
    if isBroken {
      hasEnded = true
      return []
    }
    if var failure = SpawnError(command, shellStatus: status)?.failure {
      if !traits.isStream, !unanswered.isEmpty { failure.hint = "Its messages are requeued." }
      throw over(failure)
    }
    if unanswered.isEmpty, status == 0 || isTerminated || !restarts || isFinishing {
      hasEnded = true
      if wasKilled || isTerminated, status != 0 { console.note(text) }
      if status == 0 || isTerminated { return [] }
      throw Failure(.command(status), text)
    }
    let failure = Failure(
      .command(status == 0 ? 1 : status), "\(text), with \(counted(unanswered.count)) unprocessed",
      hint: traits.isStream ? nil : "They are requeued.")
    guard restarts, !isTerminated else { throw over(failure) }
    partial = []
    held.reset()
    input = []
    fed = 0
    hasClosedInput = false
    pressCause = nil
    restartTime = .after(pause)
    console.report(Failure(failure.code, failure.message, hint: "It is restarted in \(pause.shown)."))
    pause = min(pause * 2, Self.longestPause)
    // The oldest one is what it died on, as far as anybody can know.
    guard let first = unanswered.first, let maxAttempts, attempts.add(first.delivery.message) >= maxAttempts else {
      return []
    }
    unanswered.removeFirst()
    hasEnded = isFinishing && unanswered.isEmpty
    attempts.forget(first.delivery.message)
    let name = first.delivery.message.properties.messageID.map { "message \($0)" } ?? "a message"
    console.report(Failure(failure.code, "\(name): rejected after \(maxAttempts) attempts"))
    return [Consumer.Settlement(first.number, .reject)]
  }

  private func over(_ failure: Failure) -> Failure {
    hasEnded = true
    return failure
  }

  private func endText(_ status: Int32) -> String {
    let cause = pressCause.map { $0 + ", " } ?? ""
    if child?.wasKilled == true { return cause + "did not end within \(ChildProcess.grace.shown) and was killed" }
    return cause + (pressCause == nil ? "" : "was terminated and ") + "exited with \(status)"
  }

  private func startAgain() throws(Failure) -> [Consumer.Settlement] {
    guard !hasEnded, restartTime.isPast else { return [] }
    restartTime = .never
    child = try start()
    for message in unanswered { add(message.delivery) }
    return []
  }

  private func start() throws(Failure) -> ChildProcess {
    do { return try ChildProcess(shell: command, environment: environment) } catch { throw error.failure }
  }
}

/// The index of the first line feed from `start` on.
private func firstLineFeed(in bytes: [UInt8], from start: Int) -> Int? {
  bytes.withUnsafeBytes { bytes in
    guard let base = bytes.baseAddress, let found = memchr(base + start, 0x0A, bytes.count - start) else { return nil }
    return UnsafeRawPointer(found) - base
  }
}
