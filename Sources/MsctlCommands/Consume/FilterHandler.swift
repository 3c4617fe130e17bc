import DequeModule
import Glibc
import MsctlCore

/// Hands all messages to one long-lived filter: each is a line of its standard input, and each line that it writes is the
/// answer to the oldest message that has none. The line is passed on, and the message acknowledged.
final class FilterHandler: MessageHandler {
  /// How much may wait to be written to the filter, in bytes.
  private static let inputLimit = 1 << 20
  /// After how long without an answer there is a remark.
  private static let patience: Duration = .seconds(10)
  private static let shortestPause: Duration = .milliseconds(200)
  private static let longestPause: Duration = .seconds(30)

  private let command: String
  private let format: MessageFormat
  private let restarts: Bool
  private let maxAttempts: Int?
  private let environment: [String: String]
  private let console: Console
  private var child: ChildProcess?
  /// Taken and not answered, in the order in which they were handed over.
  private var unanswered = Deque<AMQPDelivery>()
  private var input: [UInt8] = []
  private var fed = 0
  /// The begin of a line that is not complete.
  private var partial: [UInt8] = []
  private var attempts = Attempts()
  private var pause = shortestPause
  private var restartTime = Deadline.never
  private var remarkTime = Deadline.never
  private var isFinishing = false
  private var isTerminated = false
  /// What went wrong once the settlements before it are carried out.
  private var failure: Failure?
  private(set) var hasEnded = false

  init(_ command: String, _ options: Consume.Options, _ environment: [String: String], _ console: Console)
    throws(Failure)
  {
    self.command = command
    format = options.format
    restarts = options.restarts
    maxAttempts = options.maxAttempts
    // One filter is one step of one trace, whatever the messages come from.
    self.environment = environment.merging(
      ["TRACEPARENT": TraceContext(environment: environment).child().traceparent]) { $1 }
    self.console = console
    child = try ChildProcess(shell: command, environment: self.environment)
  }

  var hasRoom: Bool { child != nil && !isFinishing && input.count - fed < Self.inputLimit }
  var outstanding: Int { unanswered.count }
  var wakeTime: Deadline { failure == nil ? min(restartTime, remarkTime) : .now }
  var isFinished: Bool { hasEnded }

  func take(_ delivery: AMQPDelivery) {
    if unanswered.isEmpty { remarkTime = .after(Self.patience) }
    unanswered.append(delivery)
    add(delivery)
  }

  func adopt(_ delivery: AMQPDelivery) -> Bool {
    guard let place = unanswered.firstIndex(where: { delivery.isAgain($0) }) else { return false }
    unanswered[place] = delivery
    return true
  }

  func addInterests(to polls: inout PollSet) {
    guard let child else { return }
    if child.output >= 0 { polls.add(child.output) }
    if child.input >= 0, fed < input.count { polls.add(child.input, for: POLLOUT) }
  }

  func work() throws(Failure) -> [Settlement] {
    if let failure { throw failure }
    guard let child else { return try startAgain() }
    if remarkTime.isPast {
      remarkTime = .never
      console.note(
        "the filter has not answered for \(Self.patience.shown), \(counted(unanswered.count)) wait; if it holds back its output, "
          + "make it write line by line (jq --unbuffered, sed -u, grep --line-buffered, else stdbuf -oL)")
    }
    var settlements: [Settlement] = []
    do { try goOn(child, &settlements) } catch {
      if settlements.isEmpty { throw error }
      failure = error
    }
    return settlements
  }

  private func goOn(_ child: ChildProcess, _ settlements: inout [Settlement]) throws(Failure) {
    feed(child)
    while case let piece = child.read(), !piece.isEmpty {
      partial += piece
      var start = partial.startIndex
      while let end = partial[start...].firstIndex(of: 0x0A) {
        settlements.append(.acknowledge(try answer(partial[start..<end])))
        start = end + 1
      }
      partial.removeFirst(start)
    }
    child.checkEnd()
    if child.output < 0, let status = child.status { settlements += try end(status) }
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
    if fed == input.count || fed > Self.inputLimit {
      input.removeFirst(fed)
      fed = 0
    }
    if isFinishing, input.isEmpty { child.closeInput() }
  }

  /// - Returns: the message that a line is the answer to.
  private func answer(_ line: ArraySlice<UInt8>) throws(Failure) -> AMQPDelivery {
    guard let delivery = unanswered.popFirst() else {
      throw Failure(
        .failed, "the filter '\(command)' wrote more lines than it got messages",
        hint: "Each line must be the answer to one message; remarks belong on standard error.")
    }
    remarkTime = unanswered.isEmpty ? .never : .after(Self.patience)
    console.write(line: Array(line))
    attempts.forget(delivery.message)
    pause = Self.shortestPause
    return delivery
  }

  /// The filter has ended.
  private func end(_ status: Int32) throws(Failure) -> [Settlement] {
    if let failure = cannotRun(command, status) { throw failure }
    if unanswered.isEmpty, status == 0 || !restarts || isFinishing {
      hasEnded = true
      if status == 0 { return [] }
      throw Failure(.command(status), "the filter '\(command)' ended with \(status)")
    }
    let failure = Failure(
      .command(status == 0 ? 1 : status),
      "the filter '\(command)' ended with \(status), and \(counted(unanswered.count)) unanswered",
      hint: "They go back to the queue.")
    guard restarts, !isTerminated else { throw failure }
    child = nil
    partial = []
    input = []
    fed = 0
    restartTime = .after(pause)
    console.report(Failure(failure.code, failure.message, hint: "It is started again in \(pause.shown)."))
    pause = min(pause * 2, Self.longestPause)
    // The oldest one is what it died on, as far as anybody can know.
    guard let first = unanswered.first, let maxAttempts, attempts.add(first.message) >= maxAttempts else { return [] }
    unanswered.removeFirst()
    hasEnded = isFinishing && unanswered.isEmpty
    attempts.forget(first.message)
    console.report(
      Failure(
        failure.code, "message \(first.message.properties.messageID ?? "") is rejected after \(maxAttempts) attempts"))
    return [.reject(first)]
  }

  private func startAgain() throws(Failure) -> [Settlement] {
    guard restartTime.isPast else { return [] }
    restartTime = .never
    child = try ChildProcess(shell: command, environment: environment)
    for delivery in unanswered { add(delivery) }
    return []
  }
}
