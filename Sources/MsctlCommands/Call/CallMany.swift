import DequeModule
import Glibc
import HeapModule
import MsctlCore

/// Many calls in one process: one for each value of standard input, or for each instance of a service. Some run at a time;
/// their results come out in the order of the input.
struct CallMany {
  /// How many calls may be begun beyond the oldest one that is not written out, for each that runs at a time.
  private static let lead = 8
  /// No call is begun while finished ones hold more than this, in bytes.
  private static let bufferLimit = 64 << 20
  /// No result is written while more than this is not out, in bytes.
  private static let writeLimit = 64 << 10
  /// What is open beside the connections of calls: standard input and output, libcurl's own, connections that are being made.
  private static let spareDescriptors = 64
  /// How long results may take to get out once the run is interrupted.
  private static let patience: Duration = .seconds(2)

  private let run: CallRun
  private var options: Call.Options { run.options }
  private let base: HTTPRequest
  private let http: HTTPClient
  private let console: Console
  private let input = Readiness(STDIN_FILENO, isWanted: false)
  private let output: Readiness
  /// Those that are not written out, numbered without gaps.
  private var calls = Deque<PendingCall>()
  /// How many of them run, or wait to be tried again.
  private var running = 0
  /// How many bytes their bodies hold.
  private var held = 0
  /// Those that wait to be tried again.
  private var pauses = Heap<Pause>()
  private var begun = 0
  private var done = 0
  private var failed = 0
  private var firstFailure: Failure?
  private let failures: FailedItems
  /// Results that are not known to be out, where failures are kept: how much the output has taken once one is.
  private var unwritten = Deque<(end: Int, number: Int, input: JSONValue)>()
  /// Where a file or a summary is owed in the end.
  private let signals: Signals?
  private var statistics = CallStatistics()
  private var pace: Pace?
  /// The value whose call is next, and when that is due: with a rate it may have to wait.
  private var waiting: (value: JSONValue, due: Deadline)?
  /// When the last call was due by the rate, however late it began: what a slow service holds up is late as well.
  private var lastDue: Deadline?

  /// When a call that waits goes on.
  private struct Pause: Comparable {
    let end: Deadline
    let number: Int

    static func < (a: Pause, b: Pause) -> Bool { a.end < b.end }
  }

  init(_ options: Call.Options, _ base: HTTPRequest, _ http: HTTPClient, _ console: Console) throws(Failure) {
    self.http = http
    self.console = console
    output = console.outputReadiness
    var base = base
    if options.bodyIsValue {
      if base.header("Content-Type") == nil, let header = HTTPHeader("Content-Type", "application/json") {
        base.headers.append(header)
      }
      if options.method == nil { base.method = "POST" }
    }
    self.base = base
    failures = try FailedItems(options.failedFile?.text, console, writesOutput: true)
    signals = options.isEach && (options.failedFile != nil || options.statistics != nil) ? Signals() : nil
    run = try CallRun(options, base, http, console)
    pace = options.rate.map { Pace($0, at: .now) }
    run.loop.add(input)
    run.loop.add(output)
    if let stream = failures.stream { run.loop.add(stream) }
    if let signals { run.loop.add(signals) }
    try allowDescriptors()
  }

  /// Each call that runs needs a connection, and libcurl some more for every few of them.
  private func allowDescriptors() throws(Failure) {
    let wanted = options.parallel * 21 / 20 + Self.spareDescriptors
    let limit = DescriptorLimit.raised(to: wanted)
    guard limit < wanted else {
      do { return try http.keep(connections: options.parallel) } catch {
        throw Failure(.httpClient(reason: error.reason))
      }
    }
    let fits = (limit - Self.spareDescriptors) * 20 / 21
    throw Failure(
      .tooFewDescriptors(parallel: options.parallel, wanted: wanted, limit: limit, fits: fits > 0 ? fits : nil))
  }

  /// Makes a call for each value of standard input.
  mutating func callEach() throws(Failure) {
    var values = StandardInput(.json)
    var failure: Failure?
    do throws(Failure) { try end(callEach(&values)) } catch { failure = error }
    try keepFailures(of: values, after: failure)
    if let failure { throw failure }
  }

  /// - Returns: why there are no more values, where it is not the end of the input.
  private mutating func callEach(_ values: inout StandardInput) throws(Failure) -> Failure? {
    var ended: Failure?
    var hasWaited = false
    while true {
      var needsInput = false
      // With a rate, it is known when a value came although no call may begin: it is due then.
      while ended == nil, hasRoom || pace != nil, !needsInput {
        if waiting == nil {
          do {
            guard case .json(let value)? = try values.next() else {
              needsInput = !values.isExhausted
              hasWaited = true
              break
            }
            waiting = (value, nextDue(hasWaited: hasWaited))
            hasWaited = false
          } catch {
            ended = error
            break
          }
        }
        guard hasRoom, isDue, let (value, due) = waiting else { break }
        waiting = nil
        begin(value, due: due)
      }
      advance()
      if try writeResults() { return ended }
      let hasNext = waiting != nil || ended == nil && !values.isExhausted
      if calls.isEmpty, !hasNext { return ended }
      // Room may have come about just now, for values that have been read already.
      if hasNext, hasRoom, !needsInput, waiting == nil || isDue { continue }
      input.isWanted = needsInput
      wait(untilDue: waiting != nil && hasRoom)
      try endWhereInterrupted()
      if input.isReady { values.readMore() }
    }
  }

  /// Puts the file of failed values in its place, those among them of calls that did not end, and those whose results could not
  /// be written.
  private mutating func keepFailures(of values: StandardInput, after failure: Failure?) throws(Failure) {
    guard failures.isOpen else { return }
    let signal: Int32? = if case .signal(let number)? = failure?.code { number } else { nil }
    if let failure {
      for (number, input, failure) in leftOver(after: failure, isInterrupted: signal != nil) {
        try failures.add(input, failure.ofValue(number))
      }
    }
    try failures.keep(isInputRead: values.isExhausted, console, signal)
  }

  /// Ends what runs, and writes the results that are there, if nothing but a signal keeps them from getting out.
  /// - Returns: what did not end well or get out, in the order of the input.
  private mutating func leftOver(
    after failure: Failure, isInterrupted: Bool
  ) -> [(number: Int, input: JSONValue, failure: Failure)] {
    var left: [(number: Int, input: JSONValue, failure: Failure)] = []
    while let call = calls.popFirst() {
      guard let input = call.input else { continue }
      if !call.isOver {
        call.cancel()
        left.append((call.number, input, Failure(.unfinishedCall(failure.code))))
      } else if let failure = call.failure {
        left.append((call.number, input, failure))
      } else {
        write(call)
      }
    }
    if let (value, _) = waiting { left.append((begun + 1, value, Failure(.unfinishedCall(failure.code)))) }
    // Another signal ends the wait, too.
    if isInterrupted { try? console.flush(until: .after(Self.patience)) }
    console.discard()
    dropWritten()
    left += unwritten.map { ($0.number, $0.input, Failure(.unwrittenResult(failure.code))) }
    return left.sorted { $0.number < $1.number }
  }

  /// Calls every passing instance.
  mutating func callAll(_ target: CallTarget) throws(Failure) {
    guard case .service(let name, let path) = target else { return }
    var instances = try run.instances(of: name, path: path, until: options.deadline())[...]
    while true {
      while hasRoom, isDue, let instance = instances.popFirst() {
        begin(PendingCall(begun + 1, base, run, target, at: instance), due: nextDue(hasWaited: false))
      }
      advance()
      if try writeResults() || calls.isEmpty && instances.isEmpty { break }
      // Room may have come about just now.
      if hasRoom, isDue, !instances.isEmpty { continue }
      wait(untilDue: hasRoom && !instances.isEmpty)
    }
    try end(nil)
  }

  private var hasRoom: Bool {
    running < options.parallel && calls.count < options.parallel * Self.lead && held < Self.bufferLimit
  }

  /// Whether the rate lets another call begin.
  private var isDue: Bool { pace?.next.isPast ?? true }

  /// When the next call is due.
  /// - Parameter hasWaited: whether its value was not there before now.
  private func nextDue(hasWaited: Bool) -> Deadline {
    guard let pace, let lastDue else { return .now }
    let due = lastDue + pace.interval
    return hasWaited ? max(.now, due) : due
  }

  /// What was measured so far is told all the same.
  private func endWhereInterrupted() throws(Failure) {
    guard let number = signals?.take() else { return }
    tellStatistics()
    throw .interrupted(by: number)
  }

  private func tellStatistics() {
    if let format = options.statistics { statistics.tell(console, format) }
  }

  /// Moves on the calls to which something has come, and those whose time has.
  private mutating func advance() {
    for (number, result) in run.takeLookUps() { move(number) { $0.take(result) } }
    for number in http.takeArrivals() { advance(number) }
    while let pause = pauses.min, pause.end.isPast {
      pauses.removeMin()
      advance(pause.number)
    }
  }

  private mutating func advance(_ number: Int) { move(number) { $0.advance() } }

  private mutating func move(_ number: Int, _ step: (PendingCall) -> Void) {
    guard let first = calls.first?.number, number >= first, number - first < calls.count else { return }
    let call = calls[number - first]
    guard !call.isOver else { return }
    let (size, pause) = (call.body.count, call.wakeTime)
    step(call)
    held += call.body.count - size
    if call.isOver || call.wakeTime != pause { note(call) }
  }

  /// A call that runs was moved on.
  private mutating func note(_ call: PendingCall) {
    if call.isOver {
      running -= 1
    } else if call.wakeTime != .never {
      pauses.insert(Pause(end: call.wakeTime, number: call.number))
    }
  }

  /// - Parameter due: when it would have begun were no call late.
  private mutating func begin(_ value: JSONValue, due: Deadline) {
    let number = begun + 1
    do { begin(try call(number, value), due: due) } catch {
      begun = number
      calls.append(PendingCall(number, base, run, refused: error))
    }
    if failures.isOpen { calls.last?.input = value }
  }

  /// The call for a value.
  private func call(_ number: Int, _ value: JSONValue) throws(Failure) -> PendingCall {
    guard let target = options.target else { throw Failure(.missingTarget) }
    var request = base
    let filled: CallTarget
    do { filled = try target.filled(with: value) } catch { throw Failure(.unfillable(reason: error.reason)) }
    request.url = Call.url(filled, options)
    if options.bodyIsValue { request.body = .bytes(Array(value.text)) }
    return PendingCall(number, request, run, filled)
  }

  private mutating func begin(_ call: PendingCall, due: Deadline) {
    if pace != nil {
      call.delay = max(0, due.secondsSince)
      lastDue = due
      pace?.began(at: .now)
    }
    begun += 1
    running += 1
    calls.append(call)
    call.start()
    note(call)
  }

  /// The one wait.
  private func wait(untilDue: Bool) {
    console.moveErrors()
    output.isWanted = console.hasUnwritten
    let due = untilDue ? pace?.next ?? .never : .never
    run.loop.turn(until: min(pauses.min?.end ?? .never, run.wakeTime, due))
  }

  /// Writes out what is finished, in order, as far as the output takes it: calls go on meanwhile.
  ///
  /// The body of a failed call is not written: whoever reads takes each line for the result of a call. An envelope says that
  /// it failed, so it is.
  /// - Returns: whether a failure ends it all.
  private mutating func writeResults() throws(Failure) -> Bool {
    repeat {
      while console.bufferedBytes < Self.writeLimit, let call = nextResult {
        calls.removeFirst()
        held -= call.body.count
        if options.statistics != nil { statistics.add(call, bytes: call.body.count) }
        let failure = call.failure
        if failure == nil || options.asEnvelope { write(call) }
        guard var failure else {
          done += 1
          continue
        }
        failed += 1
        if options.isEach { failure = failure.ofValue(call.number) }
        firstFailure = firstFailure ?? failure
        if let input = call.input { try failures.add(input, failure) }
        if !options.keepsGoing, options.isEach { return true }
        console.report(failure)
      }
      try console.flushReady()
      dropWritten()
    } while !console.hasUnwritten && nextResult != nil
    return false
  }

  /// Hands a result to the output, and remembers it until it is out where it would have to be kept.
  private mutating func write(_ call: PendingCall) {
    console.write(value: call.value)
    guard let input = call.input, call.failure == nil else { return }
    unwritten.append((console.takenBytes + console.bufferedBytes, call.number, input))
  }

  private mutating func dropWritten() {
    while let first = unwritten.first, first.end <= console.takenBytes { unwritten.removeFirst() }
  }

  /// The oldest call, once it is over, unless its failure has to wait for the file.
  private var nextResult: PendingCall? {
    guard let call = calls.first, call.isOver, !failures.isBusy || call.failure == nil else { return nil }
    return call
  }

  private mutating func end(_ ended: Failure?) throws(Failure) {
    for call in calls { call.cancel() }
    try console.flush()
    tellStatistics()
    if let failure = firstFailure {
      if options.keepsGoing || !options.isEach {
        if ended == nil { throw Failure(.callsFailed(failed, of: begun, failure.code)) }
      } else {
        throw failure.endingCalls(after: done)
      }
    }
    if let ended { throw ended }
  }
}

extension FailedItems {
  /// Adds a value and why its call failed.
  fileprivate func add(_ input: JSONValue, _ failure: Failure) throws(Failure) {
    var writer = JSONWriter()
    writer.object { object in
      object.field("input", input)
      object.key("error")
      object.object { failure.write(to: &$0) }
    }
    try add(line: writer.bytes)
  }
}
