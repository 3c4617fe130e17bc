import DequeModule
import Glibc
import MsctlCore

/// Hands all messages to one long-lived filter, each as a line of its standard input: the process and pipes of a `MessageFilter`,
/// which decides what its lines are the answers to. Those of a filter of envelopes name their messages.
final class FilterHandler: MessageHandler {
  /// How much may wait to be written to the filter, in bytes.
  private static let inputLimit = 1 << 20
  /// How long a line of the filter may be, in bytes.
  static let lineLimit = 256 << 20
  /// How much is read from the filter before the broker and signals have their turn, in bytes.
  private static let readLimit = 1 << 20

  private let command: String
  var traits: QueueTraits
  private let format: MessageFormat
  private let environment: [String: String]
  private let console: Console
  private var filter: MessageFilter
  private var child: ChildProcess?
  private var input: [UInt8] = []
  private var fed = 0
  private var hasClosedInput = false
  /// The begin of a line that is not complete.
  private var partial: [UInt8] = []
  private var held = HeldBytes(limit: lineLimit)
  private var now = Deadline.now
  private var actions: [MessageFilter.Action] = []
  private var settled: [Consumer.Settlement] = []
  /// Nil where lines are no replies.
  private let replies: ReplySender?
  private let deadLetters: DeadLetters
  /// What waits for its line, where that is a reply.
  private var requests: [Int: AMQPMessage] = [:]
  /// Whose replies are not confirmed, or lost.
  private var unconfirmed: [Int: AMQPMessage] = [:]
  /// Whose replies the broker does not take, and why.
  private var refused: [Int: (request: AMQPMessage, cause: Failure)] = [:]
  /// To be settled, in their order, once it is known what became of their replies.
  private var owed = Deque<Int>()
  /// What went wrong once the settlements before it are carried out.
  private var failure: Failure?

  init(
    _ command: String, _ options: Consume.Options, _ traits: QueueTraits, window: Int, _ replies: ReplySender?,
    _ deadLetters: DeadLetters, _ environment: [String: String], _ console: Console
  ) throws(Failure) {
    (self.replies, self.deadLetters) = (replies, deadLetters)
    self.command = command
    self.traits = traits
    format = options.format
    // One filter is one step of one trace, whatever the messages come from.
    self.environment = options.children.variables(environment).merging(
      ["TRACEPARENT": TraceContext(environment: environment).child().traceparent]) { $1 }
    self.console = console
    var plan = MessageFilter.Options()
    (plan.restarts, plan.maxAttempts) = (options.restarts, options.maxAttempts)
    (plan.matches, plan.limit) = (options.format.asEnvelope, options.mostLeftOut)
    (plan.isFinite, plan.window) = (options.endsByItself, window)
    plan.mustReachEnd = options.drains || options.count != nil
    filter = MessageFilter(plan)
    child = try start()
  }

  var state: Consumer.HandlerState {
    var state = filter.handlerState
    if input.count - fed >= Self.inputLimit { state.hasRoom = false }
    // What is still to be told or settled is not the end.
    if failure != nil || !settled.isEmpty || !owed.isEmpty && !hasLostReplies { state.isFinished = false }
    return state
  }
  var isRunning: Bool { child != nil }
  var wakeTime: Deadline {
    if failure != nil || !settled.isEmpty || replies?.hasOutcomes ?? false { return .now }
    let time = min(filter.wakeTime, child?.wakeTime ?? .never)
    // Nothing tells when a pipe has been read.
    return isEndOfInputDue && !hasReadAll ? min(time, .after(.milliseconds(5))) : time
  }
  /// Whether nothing more will be written to the filter.
  private var isEndOfInputDue: Bool { filter.isFinishing && input.isEmpty && child.map { $0.input >= 0 } ?? false }
  /// Whether all that was written has been read, while its input is open.
  private var hasReadAll: Bool { child.map { $0.input < 0 || $0.unreadInput == 0 } ?? true }

  func take(_ number: Int, _ delivery: AMQPDelivery) {
    now = .now
    if replies != nil {
      var request = delivery.message
      // Many may wait, and a reply needs its properties alone.
      request.body = []
      requests[number] = request
    }
    handle(.taken(number, delivery))
  }

  func addInterests(to polls: inout PollSet) {
    guard let child else { return }
    if child.output >= 0 { polls.add(child.output) }
    // With nothing to be written, it is only to be noticed that nobody reads any more.
    if child.input >= 0 { polls.add(child.input, for: fed < input.count ? POLLOUT : 0) }
  }

  func work() throws(Failure) -> [Consumer.Settlement] {
    if let failure = failure.take() { throw failure }
    now = .now
    takeOutcomes()
    if let child { move(child) } else { handle(.turn(nil)) }
    defer { settled = [] }
    if settled.isEmpty, let failure = failure.take() { throw failure }
    return settled
  }

  private func move(_ child: ChildProcess) {
    feed(child)
    var left = Self.readLimit
    while left > 0, case let piece = child.read(), !piece.isEmpty {
      left -= piece.count
      takeLines(piece)
    }
    child.checkEnd()
    var process = MessageFilter.Process()
    process.status = child.status
    process.wasKilled = child.wasKilled
    process.readsInput = !hasClosedInput
    process.hasReadAll = !hasClosedInput && input.isEmpty && hasReadAll
    process.hasOutput = child.output >= 0
    process.endsLine = partial.isEmpty
    if process.status != nil, !process.hasOutput { self.child = nil }
    handle(.turn(process))
  }

  /// Adds to what the filter has written. Each byte is looked at once, however long a line is.
  private func takeLines(_ piece: [UInt8]) {
    guard filter.wantsLines else { return }
    do { try held.check(partial.count + piece.count, "a line of the filter '\(command)'") } catch {
      partial = []
      failure = error
      return handle(.unreadable)
    }
    var searched = partial.count
    var start = 0
    partial += piece
    while filter.wantsLines, let end = firstLineFeed(in: partial, from: searched) {
      let line = partial[start..<end]
      handle(.line(format.asEnvelope ? MessageFilter.Subject(of: line) : .next), line)
      start = end + 1
      searched = start
    }
    guard start > 0 else { return }
    partial.removeFirst(start)
    held.reset()
  }

  func finish() {
    handle(.finish)
    if let child { feed(child) }
  }

  func terminate() {
    handle(.terminate)
    replies?.giveUp()
  }

  // MARK: Replies

  /// No more can be acknowledged.
  private var hasLostReplies = false

  /// Passes on a line: to who waits for a reply, or to standard output.
  private func passOn(_ line: ArraySlice<UInt8>, _ number: Int) {
    guard let replies, let request = requests.removeValue(forKey: number), replies.isWanted(for: request) else {
      return console.write(line: Array(line))
    }
    unconfirmed[number] = request
    guard format.asEnvelope else { return replies.send(Array(line), to: request, number: number) }
    do {
      let answer = try Envelope.read(JSONValue(parsing: line, keepsWhiteSpace: true)).message
      replies.send(answer.body, contentType: answer.properties.contentType, to: request, number: number)
    } catch {
      loseReplies(
        Failure(.replyNotEnvelope(command, to: request, reason: (error as? EnvelopeError)?.reason ?? "\(error)")))
    }
  }

  /// What has no reply goes back, and so does all that comes after it.
  private func loseReplies(_ cause: Failure) {
    if !hasLostReplies { failure = cause }
    hasLostReplies = true
  }

  private func takeOutcomes() {
    for (number, outcome) in replies?.takeOutcomes() ?? [] {
      switch outcome {
      case .sent: unconfirmed[number] = nil
      case .refused(let failure):
        if let request = unconfirmed.removeValue(forKey: number) { refused[number] = (request, failure) }
      case .lost(let failure): loseReplies(failure)
      }
    }
    settleOwed()
  }

  /// That a request is rejected is told where it is: one whose turn never comes is requeued.
  private func settleOwed() {
    while let number = owed.first, unconfirmed[number] == nil {
      owed.removeFirst()
      let refusal = refused.removeValue(forKey: number)
      settled.append(Consumer.Settlement(number, refusal == nil ? .acknowledge : .reject))
      guard let (request, cause) = refusal else { continue }
      console.report(MessageCommands.Verdict.rejected(attempt: 1).failure(of: request, .unreplied(cause), names))
    }
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
    // What a filter that chooses has not read, it has not looked at.
    if isEndOfInputDue, !format.asEnvelope || hasReadAll { child.closeInput() }
  }

  // MARK: What is decided

  /// - Parameter line: what the filter has written.
  private func handle(_ event: MessageFilter.Event, _ line: ArraySlice<UInt8> = []) {
    actions.removeAll(keepingCapacity: true)
    filter.handle(event, at: now, into: &actions)
    var starts = false
    for action in actions {
      switch action {
      case .write(let number, let delivery):
        input += format.value(delivery, number: number).text
        input.append(0x0A)
      case .passOn(let number): passOn(line, number)
      case .acknowledge(let number):
        owed.append(number)
        settleOwed()
      case .reject(let number):
        requests[number] = nil
        settled.append(Consumer.Settlement(number, .reject))
      case .start: starts = true
      case .terminate: child?.terminate()
      case .note(let note): tell(note)
      case .fail(let cause): failure = cause.failure(names)
      }
    }
    if starts { startAgain() }
  }

  private func startAgain() {
    partial = []
    held.reset()
    input = []
    fed = 0
    hasClosedInput = false
    do {
      child = try start()
      handle(.started)
    } catch { handle(.notStarted(error)) }
  }

  private func start() throws(Failure) -> ChildProcess {
    do { return try ChildProcess(shell: command, environment: environment) } catch { throw error.failure }
  }

  private func tell(_ note: MessageFilter.Note) {
    if let failure = note.failure(names) { console.report(failure) } else { console.note(note.text(names)) }
  }

  private var names: HandlerNames {
    HandlerNames(command: command, traits: traits, limitIsSet: false, fate: deadLetters.fate)
  }
}

/// The index of the first line feed from `start` on.
private func firstLineFeed(in bytes: [UInt8], from start: Int) -> Int? {
  bytes.withUnsafeBytes { bytes in
    guard let base = bytes.baseAddress, let found = memchr(base + start, 0x0A, bytes.count - start) else { return nil }
    return UnsafeRawPointer(found) - base
  }
}
