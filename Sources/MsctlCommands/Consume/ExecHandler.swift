import CommandTable
import DequeModule
import Glibc
import MsctlCore

extension MessageCommands.OnError: ArgumentChoice {}

/// Runs a command for each message, with the body on its standard input, or for each batch, with a line for each message: the
/// processes and pipes of a `MessageCommands`, which decides what becomes of each message.
final class ExecHandler: MessageHandler {
  private struct Run {
    let number: Int
    /// The first one of its batch.
    let message: AMQPMessage
    let child: ChildProcess
    var input: ArraySlice<UInt8>
    let output: KeptOutput
    /// Why what it writes is not kept any more.
    var fault: Failure?
  }

  /// How much is read from one command before others and the broker have their turn, in bytes. More than a pipe holds.
  private static let readLimit = 1 << 20
  /// How much output of commands may wait in memory to be written, in bytes.
  private static let writeLimit = 1 << 20
  /// How much of the output of a command that failed is shown.
  private static let shownOutput = 64 << 10

  private let command: String
  private let format: MessageFormat
  private let parallel: Int
  private let isOfBatches: Bool
  /// Whether the queue's delivery limit was named on the command line.
  private let limitIsSet: Bool
  private let environment: [String: String]
  private let temporaryFolder: String
  private let console: Console
  /// Nil where what commands write is no reply.
  private let replies: ReplySender?
  private let deadLetters: DeadLetters
  var traits: QueueTraits
  private var commands: MessageCommands
  private var runs: [Run] = []
  /// They have succeeded; their output is being written.
  private var succeeded = Deque<Run>()
  private var settled: [Consumer.Settlement] = []
  /// What ends `consume`, until it is thrown: once the settlements before it are carried out.
  private var failure: Failure?

  init(
    _ command: String, _ options: Consume.Options, _ traits: QueueTraits, _ replies: ReplySender?,
    _ deadLetters: DeadLetters, _ environment: [String: String], _ console: Console
  ) {
    (self.replies, self.deadLetters) = (replies, deadLetters)
    self.command = command
    self.traits = traits
    format = options.format
    (parallel, isOfBatches) = (options.parallel, options.batch != nil)
    limitIsSet = options.deliveryLimit != nil
    self.environment = options.children.variables(environment)
    temporaryFolder = environment["TMPDIR"].flatMap { $0.isEmpty ? nil : $0 } ?? "/tmp"
    self.console = console
    var plan = MessageCommands.Options()
    (plan.parallel, plan.onError, plan.maxAttempts) = (options.parallel, options.onError, options.maxAttempts)
    (plan.batch, plan.batchTime) = (options.batch ?? 1, options.batchTime ?? MessageCommands.standardBatchTime)
    plan.rejectedExits = Set(options.rejectedExits?.codes ?? [])
    commands = MessageCommands(plan)
  }

  var state: Consumer.HandlerState {
    var state = commands.handlerState
    // What is still to be told or settled is not the end.
    if !settled.isEmpty || failure != nil { state.isFinished = false }
    return state
  }
  var wakeTime: Deadline {
    if failure != nil || !succeeded.isEmpty || !settled.isEmpty || replies?.hasOutcomes ?? false { return .now }
    return min(commands.wakeTime, runs.map(\.child.wakeTime).min() ?? .never)
  }
  func take(_ number: Int, _ delivery: AMQPDelivery) { handle(.taken(number, delivery)) }

  private func start(_ number: Int, _ deliveries: [AMQPDelivery], attempt: Int) {
    guard let first = deliveries.first else { return }
    do {
      let child = try ChildProcess(shell: command, environment: variables(deliveries, attempt))
      let output = KeptOutput(in: temporaryFolder, sharers: parallel)
      runs.append(
        Run(number: number, message: first.message, child: child, input: input(deliveries)[...], output: output))
    } catch {
      // Another message may fit.
      if error.isTooLarge { return handle(.failed(number, .doesNotFit("\(error)"))) }
      failure = failure ?? error.failure
      handle(.notStarted(number))
    }
  }

  private func input(_ deliveries: [AMQPDelivery]) -> [UInt8] {
    if !isOfBatches, let only = deliveries.first {
      return format.asEnvelope ? Array(format.value(only).text) : only.message.body
    }
    var lines: [UInt8] = []
    for delivery in deliveries {
      lines += format.value(delivery).text
      lines.append(0x0A)
    }
    return lines
  }

  /// The broker has counted it anew.
  func renew(_ number: Int, _ delivery: AMQPDelivery) { handle(.renewed(number, delivery)) }

  func addInterests(to polls: inout PollSet) {
    for run in runs {
      if run.child.output >= 0 { polls.add(run.child.output) }
      if run.child.input >= 0 { polls.add(run.child.input, for: POLLOUT) }
    }
  }

  func work() throws(Failure) -> [Consumer.Settlement] {
    if let failure = failure.take() { throw failure }
    for index in runs.indices {
      feed(index)
      runs[index].child.checkEnd()
      read(index)
    }
    let ended = runs.filter { $0.child.status != nil }
    runs.removeAll { $0.child.status != nil }
    for run in ended { finish(run) }
    for (number, outcome) in replies?.takeOutcomes() ?? [] {
      switch outcome {
      case .sent: handle(.passedOn(number))
      case .refused(let failure): handle(.failed(number, .unreplied(failure)))
      case .lost(let failure): handle(.replyLost(number, failure))
      }
    }
    writeOutput()
    if commands.wakeTime.isPast { handle(.tick) }
    defer { settled = [] }
    return settled
  }

  func startBatch() { handle(.startBatch) }
  func finish() { handle(.finish) }

  func terminate() {
    handle(.terminate)
    replies?.giveUp()
  }

  private func feed(_ index: Int) {
    while !runs[index].input.isEmpty {
      // A command need not read its input; whether it did its work, its exit code says.
      guard let count = runs[index].child.write(runs[index].input) else { break }
      if count == 0 { return }
      runs[index].input = runs[index].input.dropFirst(count)
    }
    runs[index].child.closeInput()
  }

  /// Takes what the command has written. After its end nothing of its own can come any more, though what it left behind may
  /// hold the pipe open and go on writing.
  private func read(_ index: Int) {
    var left = Self.readLimit
    while left > 0, case let piece = runs[index].child.read(), !piece.isEmpty {
      left -= piece.count
      guard runs[index].fault == nil else { continue }
      do { try runs[index].output.add(piece) } catch {
        runs[index].fault = error
        runs[index].child.terminate()
      }
    }
  }

  private func finish(_ run: Run) {
    let status = run.child.status ?? 0
    if status == 0, run.fault == nil {
      handle(.succeeded(run.number))
      if let replies, replies.isWanted(for: run.message) { reply(run, replies) } else { succeeded.append(run) }
      return
    }
    if let output = try? run.output.tail(Self.shownOutput) { console.passOn(output) }
    let ended = run.child.wasKilled ? MessageCommands.Reason.killed(status) : .exited(status)
    handle(.failed(run.number, run.fault.map { .output($0, status: status) } ?? ended))
  }

  /// Sends what a command has written, without the line feed at its end.
  private func reply(_ run: Run, _ replies: ReplySender) {
    var body: [UInt8] = []
    var held = HeldBytes(limit: ReplySender.sizeLimit)
    do throws(Failure) {
      while case let piece = try run.output.next(), !piece.isEmpty {
        do { try held.check(body.count + piece.count, "the reply") } catch {
          return handle(.failed(run.number, .unreplied(error)))
        }
        body += piece
      }
    } catch { return handle(.outputLost(run.number, error)) }
    if body.last == 0x0A { body.removeLast() }
    replies.send(body, to: run.message, number: run.number)
  }

  /// Passes on the output of what has succeeded, in parts. A message is acknowledged once all of its output is written.
  private func writeOutput() {
    while let run = succeeded.first, console.bufferedBytes < Self.writeLimit {
      do {
        let piece = try run.output.next()
        guard piece.isEmpty else {
          console.write(text: piece)
          continue
        }
        succeeded.removeFirst()
        handle(.passedOn(run.number))
      } catch {
        // What cannot be read cannot be tried again.
        succeeded.removeFirst()
        handle(.outputLost(run.number, error))
      }
    }
  }

  // MARK: What is decided

  private func handle(_ event: MessageCommands.Event) {
    var actions: [MessageCommands.Action] = []
    commands.handle(event, at: .now, into: &actions)
    for action in actions {
      switch action {
      // It is written as the output has room.
      case .passOn: break
      case .settle(let settlement): settled.append(settlement)
      case .terminate: for run in runs { run.child.terminate() }
      case .start(let number, let deliveries, let attempt): start(number, deliveries, attempt: attempt)
      case .report(let message, let others, let reason, let verdict):
        console.report(verdict.failure(of: message, others: others, reason, names))
      case .fail(let cause): failure = cause.failure(names)
      case .reportCause(let cause): console.report(cause.failure(names))
      }
    }
  }

  private var names: HandlerNames {
    HandlerNames(command: command, traits: traits, limitIsSet: limitIsSet, fate: deadLetters.fate)
  }

  /// The message in the child's environment; of a batch, what all of its messages have in common.
  private func variables(_ deliveries: [AMQPDelivery], _ attempt: Int) -> [String: String] {
    let delivery = isOfBatches ? nil : deliveries.first
    let message = delivery?.message
    let properties = message?.properties
    let texts: [String: String?] = [
      "EXCHANGE": message?.exchange, "ROUTING_KEY": message?.routingKey,
      "REDELIVERED": delivery.map { $0.redelivered ? "1" : "0" }, "ATTEMPT": String(attempt),
      "BATCH": isOfBatches ? String(deliveries.count) : nil, "CONTENT_TYPE": properties?.contentType,
      "CONTENT_ENCODING": properties?.contentEncoding, "CORRELATION_ID": properties?.correlationID,
      "REPLY_TO": properties?.replyTo, "MESSAGE_ID": properties?.messageID,
      "TIMESTAMP": properties?.timestamp.map { String($0) }, "TYPE": properties?.type, "USER_ID": properties?.userID,
      "APP_ID": properties?.appID, "PRIORITY": properties?.priority.map { String($0) },
    ]
    var variables = environment
    // What the message does not have must not be left from a message around us.
    for (name, text) in texts { variables["MSCTL_" + name] = text.map(variableValue) }
    let trace = message.map { TraceContext(of: $0, environment: environment) } ?? TraceContext(environment: environment)
    variables["TRACEPARENT"] = trace.child().traceparent
    return variables
  }
}
