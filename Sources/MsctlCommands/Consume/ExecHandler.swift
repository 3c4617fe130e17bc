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
final class ExecHandler: MessageHandler {
  private struct Run {
    var delivery: AMQPDelivery
    let child: ChildProcess
    var input: ArraySlice<UInt8>
    var output: [UInt8] = []
  }

  /// How long a failed message is kept before it goes back, at first and at most: without it, one bad message would spin.
  private static let shortestDelay: Duration = .milliseconds(200)
  private static let longestDelay: Duration = .seconds(30)

  private let command: String
  private let format: MessageFormat
  private let parallel: Int
  private let onError: OnError
  private let maxAttempts: Int?
  private let environment: [String: String]
  private let console: Console
  private var runs: [Run] = []
  private var delayed: [(delivery: AMQPDelivery, until: Deadline)] = []
  private var attempts = Attempts()
  /// What went wrong once the settlements before it are carried out.
  private var failure: Failure?

  init(_ command: String, _ options: Consume.Options, _ environment: [String: String], _ console: Console) {
    self.command = command
    format = options.format
    parallel = options.parallel
    onError = options.onError
    maxAttempts = options.maxAttempts
    self.environment = environment
    self.console = console
  }

  var hasRoom: Bool { runs.count < parallel }
  var outstanding: Int { runs.count + delayed.count }
  var wakeTime: Deadline { failure == nil ? delayed.map(\.until).min() ?? .never : .now }
  var isFinished: Bool { runs.isEmpty }
  var hasEnded: Bool { false }

  func take(_ delivery: AMQPDelivery) throws(Failure) {
    let child = try ChildProcess(shell: command, environment: variables(delivery))
    let input = format.asEnvelope ? Array(format.value(delivery).text) : delivery.message.body
    runs.append(Run(delivery: delivery, child: child, input: input[...]))
  }

  func adopt(_ delivery: AMQPDelivery) -> Bool {
    if let place = runs.firstIndex(where: { delivery.isAgain($0.delivery) }) {
      runs[place].delivery = delivery
      return true
    }
    guard let place = delayed.firstIndex(where: { delivery.isAgain($0.delivery) }) else { return false }
    delayed[place].delivery = delivery
    return true
  }

  func addInterests(to polls: inout PollSet) {
    for run in runs {
      if run.child.output >= 0 { polls.add(run.child.output) }
      if run.child.input >= 0 { polls.add(run.child.input, for: POLLOUT) }
    }
  }

  func work() throws(Failure) -> [Settlement] {
    if let failure { throw failure }
    var settlements: [Settlement] = []
    for index in runs.indices {
      feed(index)
      runs[index].child.checkEnd()
      // After its end nothing more can come, though a grandchild may hold the pipe open.
      while case let piece = runs[index].child.read(), !piece.isEmpty { runs[index].output += piece }
    }
    let ended = runs.filter { $0.child.status != nil }
    runs.removeAll { $0.child.status != nil }
    do {
      for run in ended { settlements += try settle(run) }
    } catch {
      if settlements.isEmpty { throw error }
      failure = error
    }
    for index in delayed.indices.reversed() where delayed[index].until.isPast {
      settlements.append(.requeue(delayed.remove(at: index).delivery))
    }
    return settlements
  }

  func finish() {
    // What waits to go back goes back with the end of the connection.
    delayed = []
  }

  func terminate() {
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

  private func settle(_ run: Run) throws(Failure) -> [Settlement] {
    let status = run.child.status ?? 0
    let message = run.delivery.message
    if status == 0 {
      attempts.forget(message)
      console.write(bytes: run.output)
      return [.acknowledge(run.delivery)]
    }
    console.passOn(run.output)
    if let failure = cannotRun(command, status) { throw failure }
    let count = attempts.add(message)
    let name = message.properties.messageID.map { "message \($0)" } ?? "a message"
    var failure = Failure(.command(status), "\(name): the command ended with \(status)")
    switch onError {
    case .stop:
      failure.hint = "The message goes back to the queue."
      throw failure
    case .requeue where maxAttempts.map { count < $0 } ?? true:
      let delay = min(Self.longestDelay, Self.shortestDelay * (1 << min(count - 1, 10)))
      failure.message += " (attempt \(count)); it goes back to the queue in \(delay.shown)"
      console.report(failure)
      delayed.append((run.delivery, .after(delay)))
      return []
    case .requeue, .reject:
      failure.message += " (attempt \(count)); it is rejected"
      console.report(failure)
      attempts.forget(message)
      return [.reject(run.delivery)]
    }
  }

  /// The message in the child's environment.
  private func variables(_ delivery: AMQPDelivery) -> [String: String] {
    let message = delivery.message
    var variables = environment
    variables["MSCTL_EXCHANGE"] = message.exchange
    variables["MSCTL_ROUTING_KEY"] = message.routingKey
    variables["MSCTL_REDELIVERED"] = delivery.redelivered ? "1" : "0"
    variables["MSCTL_ATTEMPT"] = String(attempts.count(message) + 1)
    let properties = message.properties
    let texts = [
      "CONTENT_TYPE": properties.contentType, "CONTENT_ENCODING": properties.contentEncoding,
      "CORRELATION_ID": properties.correlationID, "REPLY_TO": properties.replyTo, "MESSAGE_ID": properties.messageID,
      "TIMESTAMP": properties.timestamp.map { String($0) }, "TYPE": properties.type, "USER_ID": properties.userID,
      "APP_ID": properties.appID, "PRIORITY": properties.priority.map { String($0) },
    ]
    for (name, text) in texts { variables["MSCTL_" + name] = text?.filter { $0 != "\0" } }
    variables["TRACEPARENT"] = trace(of: message, environment).child().traceparent
    return variables
  }
}

/// The trace that a message belongs to: its own, else that of the environment, else a new one.
func trace(of message: AMQPMessage, _ environment: [String: String]) -> TraceContext {
  if case .string(let text) = message.properties.header("traceparent"), let trace = TraceContext(text) { return trace }
  return TraceContext(environment: environment)
}

/// The shell's word that a command cannot be run or was not found: then no message can fare better.
func cannotRun(_ command: String, _ status: Int32) -> Failure? {
  switch status {
  case 126: Failure(.command(126), "'\(command)' could not be run", hint: "Its message goes back to the queue.")
  case 127: Failure(.command(127), "'\(command)' was not found", hint: "Its message goes back to the queue.")
  default: nil
  }
}
