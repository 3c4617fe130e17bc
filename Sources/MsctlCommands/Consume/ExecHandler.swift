import CommandTable
import DequeModule
import Glibc
import MsctlCore

/// What happens with a message whose command failed.
enum OnError: String, ArgumentChoice {
  /// It goes back to the queue, after a while that grows with its attempts.
  case requeue
  /// It is dropped, or handed to the dead-letter exchange.
  case reject
  /// `consume` ends, and the message goes back.
  case stop
}

/// Runs a command for each message, with the body on its standard input. Exit code 0 acknowledges.
///
/// After a failure that ends `consume`, and after `terminate`, it goes on with the commands that run: the success of each still
/// counts, and a message whose command fails then goes back to the queue.
final class ExecHandler: MessageHandler {
  private struct Run {
    let number: Int
    var delivery: AMQPDelivery
    let child: ChildProcess
    var input: ArraySlice<UInt8>
    let output: KeptOutput
    /// What is wrong beside its exit code.
    var fault: String?
  }

  /// How long a failed message is kept before it goes back, at first and at most: without it, one bad message would spin.
  private static let shortestDelay: Duration = .milliseconds(200)
  private static let longestDelay: Duration = .seconds(30)
  /// How much is read from one command before others and the broker have their turn, in bytes. More than a pipe holds.
  private static let readLimit = 1 << 20
  /// How much output of commands may wait in memory to be written, in bytes.
  private static let writeLimit = 1 << 20
  /// How much of the output of a command that failed is shown.
  private static let shownOutput = 64 << 10

  private let command: String
  private let format: MessageFormat
  private let parallel: Int
  private let onError: OnError
  private let maxAttempts: Int?
  /// Whether the queue's delivery limit was named on the command line.
  private let limitIsSet: Bool
  private let environment: [String: String]
  private let temporaryFolder: String
  private let console: Console
  var traits: QueueTraits
  private var runs: [Run] = []
  /// They have succeeded; their output is being written.
  private var succeeded = Deque<Run>()
  private var delayed: [(number: Int, until: Deadline)] = []
  private var attempts = Attempts()
  /// Settled without a run.
  private var settled: [Consumer.Settlement] = []
  /// What ends `consume`, until it is thrown: once the settlements before it are carried out.
  private var failure: Failure?
  /// No other command is started.
  private var isStopping = false
  private var isTerminated = false

  init(
    _ command: String, _ options: Consume.Options, _ traits: QueueTraits, _ environment: [String: String],
    _ console: Console
  ) {
    self.command = command
    self.traits = traits
    format = options.format
    parallel = options.parallel
    onError = options.onError
    maxAttempts = options.maxAttempts
    limitIsSet = options.deliveryLimit != nil
    self.environment = options.children.variables(environment)
    temporaryFolder = environment["TMPDIR"].flatMap { $0.isEmpty ? nil : $0 } ?? "/tmp"
    self.console = console
  }

  var state: Consumer.HandlerState {
    Consumer.HandlerState(
      hasRoom: !isStopping && runs.count + succeeded.count < parallel, failed: delayed.count,
      // What is still to be told or settled is not the end.
      isFinished: runs.isEmpty && succeeded.isEmpty && settled.isEmpty && failure == nil)
  }
  var wakeTime: Deadline {
    if failure != nil || !succeeded.isEmpty || !settled.isEmpty { return .now }
    return min(delayed.map(\.until).min() ?? .never, runs.map(\.child.wakeTime).min() ?? .never)
  }
  func take(_ number: Int, _ delivery: AMQPDelivery) throws(Failure) {
    do {
      let child = try ChildProcess(shell: command, environment: variables(delivery))
      let input = format.asEnvelope ? Array(format.value(delivery).text) : delivery.message.body
      let output = KeptOutput(in: temporaryFolder, sharers: parallel)
      runs.append(Run(number: number, delivery: delivery, child: child, input: input[...], output: output))
    } catch {
      // Another message may fit.
      guard error.isTooLarge else { throw error.failure }
      fail(number, delivery, 126, "its properties do not fit the environment of a command (\(error))")
    }
  }

  /// The broker has counted it anew.
  func renew(_ number: Int, _ delivery: AMQPDelivery) {
    for index in runs.indices where runs[index].number == number { runs[index].delivery = delivery }
  }

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
    writeOutput()
    for index in delayed.indices.reversed() where delayed[index].until.isPast {
      settled.append(Consumer.Settlement(delayed.remove(at: index).number, .requeue))
    }
    defer { settled = [] }
    return settled
  }

  func finish() {
    for message in delayed { settled.append(Consumer.Settlement(message.number, .requeue)) }
    delayed = []
  }

  func terminate() {
    isTerminated = true
    for run in runs { run.child.terminate() }
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
        runs[index].fault = error.message
        runs[index].child.terminate()
      }
    }
  }

  private func finish(_ run: Run) {
    let status = run.child.status ?? 0
    if status == 0, run.fault == nil { return succeeded.append(run) }
    if let output = try? run.output.tail(Self.shownOutput) { console.passOn(output) }
    if var failure = SpawnError(command, shellStatus: status)?.failure {
      if !traits.isStream { failure.hint = "Its message is requeued." }
      return stop(failure)
    }
    fail(
      run.number, run.delivery, status,
      run.fault ?? (run.child.wasKilled ? killedText("the command") : "the command exited with \(status)"))
  }

  /// Passes on the output of what has succeeded, in parts. A message is acknowledged once all of its output is written.
  private func writeOutput() {
    while let run = succeeded.first, console.bufferedBytes < Self.writeLimit {
      let piece: [UInt8]
      do { piece = try run.output.next() } catch {
        // What cannot be read cannot be tried again.
        succeeded.removeFirst()
        var failure = error
        if !traits.isStream { failure.hint = "The message is requeued." }
        stop(failure)
        continue
      }
      guard piece.isEmpty else {
        console.write(text: piece)
        continue
      }
      succeeded.removeFirst()
      attempts.forget(run.delivery.message)
      settled.append(Consumer.Settlement(run.number, .acknowledge))
    }
  }

  /// The command of a message has failed: what becomes of the message.
  private func fail(_ number: Int, _ delivery: AMQPDelivery, _ status: Int32, _ reason: String) {
    let message = delivery.message
    let name = message.properties.messageID.map { "message \($0)" } ?? "a message"
    var failure = Failure(.command(status), "\(name): \(reason)")
    guard !isStopping, !isTerminated else {
      // It was ended by us, or nothing waits for it any more: no attempt of the message's own.
      if !traits.isStream { failure.message += "; the message is requeued" }
      return console.report(failure)
    }
    if onError == .stop {
      failure.hint =
        message.streamOffset.flatMap { traits.isStream ? "Its offset is \($0)." : nil } ?? "The message is requeued."
      return stop(failure)
    }
    let count = attempts.add(message)
    if onError == .requeue, maxAttempts.map({ count < $0 }) ?? true {
      let delay = min(Self.longestDelay, Self.shortestDelay * (1 << min(count - 1, 10)))
      failure.message += " (attempt \(count)); \(traits.isStream ? "tried again" : "requeued") in \(delay.shown)"
      failure.message += attemptsLeft(message)
      delayed.append((number, .after(delay)))
    } else {
      failure.message += " (attempt \(count)); \(traits.isStream ? "skipped" : "rejected")"
      attempts.forget(message)
      settled.append(Consumer.Settlement(number, .reject))
    }
    console.report(failure)
  }

  /// How often a requeued message may come back, as far as it can be known: a policy may lower a limit that was set, and replace
  /// the default.
  private func attemptsLeft(_ message: AMQPMessage) -> String {
    guard let limit = traits.deliveryLimit, let left = traits.returnsLeft(message) else { return "" }
    if left > 0 {
      return limitIsSet
        ? ", at most \(counted(left, "attempt")) left (x-delivery-limit=\(limit))"
        : ", \(counted(left, "attempt")) left by default (delivery limit \(limit))"
    }
    let end = "the broker dead-letters it, or drops it if the queue has no dead-letter exchange"
    return limitIsSet ? ", beyond x-delivery-limit=\(limit): \(end)" : ", by default (delivery limit \(limit)) \(end)"
  }

  private func stop(_ failure: Failure) {
    if isStopping { return console.report(failure) }
    isStopping = true
    self.failure = failure
  }

  /// The message in the child's environment.
  private func variables(_ delivery: AMQPDelivery) -> [String: String] {
    let message = delivery.message
    let properties = message.properties
    let texts: [String: String?] = [
      "EXCHANGE": message.exchange, "ROUTING_KEY": message.routingKey, "REDELIVERED": delivery.redelivered ? "1" : "0",
      "ATTEMPT": String(attempts.count(message) + 1), "CONTENT_TYPE": properties.contentType,
      "CONTENT_ENCODING": properties.contentEncoding, "CORRELATION_ID": properties.correlationID,
      "REPLY_TO": properties.replyTo, "MESSAGE_ID": properties.messageID,
      "TIMESTAMP": properties.timestamp.map { String($0) }, "TYPE": properties.type, "USER_ID": properties.userID,
      "APP_ID": properties.appID, "PRIORITY": properties.priority.map { String($0) },
    ]
    var variables = environment
    // What the message does not have must not be left from a message around us.
    for (name, text) in texts { variables["MSCTL_" + name] = text.map(variableValue) }
    variables["TRACEPARENT"] = TraceContext(of: message, environment: environment).child().traceparent
    return variables
  }
}
