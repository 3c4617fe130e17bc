import Glibc
import MsctlCore

// Sentences that users read, by their causes. What the core says of a cause is in its FailureText.swift.

// MARK: causes of the core

extension Failure {
  /// What a user reads. Another sentence takes the place of the cause.
  package var message: String {
    get { description }
    set { cause = .said(newValue, hint: hint) }
  }

  /// What to do, on this command line.
  package var hint: String? {
    get {
      switch cause {
      case .amqp(let errors): errors.first?.hint
      case .http(let error, target: _):
        switch error.kind {
        case .tls: "Give the CA certificate that signed the server's with '--cacert FILE'."
        case .certificate: "Check the files of '--cert' and '--key', in PEM, and the passphrase of '--pass'."
        case .malformedURL, .unreachable, .timedOut, .broken, .tooLarge: nil
        }
      case .consul(let error, agent: _): error.hint
      case .definition(.noName): "Write it as {\"service\": {\"name\": \"user-service\", \"port\": 3000}}."
      // Of an input; the size of a response is not the user's.
      case .tooLarge: code == .badInput ? "Split it into smaller parts." : nil
      case .noMemory: "Raise the limit ('ulimit -v')."
      case .said(_, let hint): hint
      case .messaging, .service, .definition(.climbs), .spawn, .noEventLoop, .interrupted: nil
      }
    }
    set { cause = .said(message, hint: newValue) }
  }
}

extension BrokerError {
  fileprivate var hint: String? {
    switch error.kind {
    case .unreachable: return "Start a broker there, or set AMQP_URL or '--broker' to another one."
    case .tls: return "To trust another CA certificate, add '?cacertfile=FILE' to the URI."
    case .denied:
      let isVhost = error.reason.holds(text: "vhost")
      return isVhost && uri.vhost.isEmpty
        ? "Remove the '/' at the end of the URI: it selects the virtual host with the empty name."
        : "Check \(isVhost ? "the virtual host" : "user name and password") in AMQP_URL or '--broker'."
    case .unreadableFrame:
      return
        "A message's headers may be too large for a frame. Remove it with 'rabbitmqadmin' or RabbitMQ's management page."
    case .noMemory: return "Raise the limit ('ulimit -v'), or hold fewer messages at a time ('--prefetch')."
    case .timedOut, .broken, .violation, .channelClosed, .connectionClosed, .invalid: return nil
    }
  }
}

extension ConsulError {
  fileprivate var hint: String? {
    switch self {
    case .http(let error):
      switch error.kind {
      case .tls: "Set CONSUL_CACERT to the CA certificate that signed the agent's."
      case .certificate: "Check the files of CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY, in PEM."
      case .malformedURL, .unreachable, .timedOut, .broken, .tooLarge:
        "Start one with 'consul agent -dev', or set CONSUL_HTTP_ADDR to another one."
      }
    case .returned(let status, method: _, path: _, _, isTransient: _):
      status == 429 ? "Wait, or raise the agent's limits for requests." : nil
    case .leaderless: "A leader is elected while most servers are up; 'consul operator raft list-peers' shows them."
    case .denied(_, _, let hasToken):
      hasToken
        ? "Check the token in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE: it is unknown or lacks this permission."
        : "Set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE to a token with this permission."
    case .unexpected: "Check CONSUL_HTTP_ADDR."
    case .noPort(_, let service, let ports):
      ports.isEmpty
        ? "Its instances have no named ports."
        : "Named ports of '\(service)': \(ports.map { "'\($0)'" }.joined(separator: ", "))."
    case .invalidToken: "Check CONSUL_HTTP_TOKEN or its file."
    case .late, .climbs: nil
    }
  }
}

// MARK: call

extension DirectoryDriver.Note {
  var text: String {
    switch self {
    case .directory(let note): note.text
    case .call(let note, let url): note.text(url)
    }
  }
}

extension ServiceDirectory.Note {
  var text: String {
    switch self {
    case .retrying(let name, let failure, let pause):
      "\(LookUpFailure.named(name, failure).message); trying again in \(pause.shown)"
    case .usingLastKnown(let name, let failure):
      "\(LookUpFailure.named(name, failure).message); using the last known instances of '\(name)'"
    }
  }
}

extension LookUpFailure {
  /// - Parameters:
  ///   - path: of the call.
  ///   - isNarrowed: whether there may be instances beside those that were asked for.
  func failure(_ name: String, _ path: String, isNarrowed: Bool, _ agent: ConsulAddress) -> Failure {
    switch self {
    case .agent(let failure): Self.named(name, failure, path)
    case .nothingPassing(let all):
      Discover.nothingPassing(
        name, all, isNarrowed: isNarrowed, orElse: "If '\(name)' is a host, write 'http://\(name)\(path)'.")
    case .late: ConsulError.late.failure(agent)
    }
  }

  /// The name may have been meant for a host.
  fileprivate static func named(_ name: String, _ cause: Failure, _ path: String = "") -> Failure {
    guard cause.code == .unreachable else { return cause }
    var failure = cause
    failure.message = "'\(name)' is read as a service name: " + failure.message
    failure.hint = (failure.hint.map { $0 + " " } ?? "") + "To call a host, write 'http://\(name)\(path)'."
    return failure
  }
}

extension ServiceCall.Note {
  func text(_ url: String) -> String {
    func said(_ instance: ServiceInstance?, _ attempt: CallAttempt) -> String {
      let place = instance.map { "\($0.id) at \($0.hostPort)" } ?? shownURL(url)
      return switch attempt.result {
      case .failure(let error): "\(place): \(error.reason)"
      case .success(let status): "\(place): returned \(status)"
      }
    }
    return switch self {
    case .trying(let instance, let attempt): said(instance, attempt) + "; trying another instance"
    case .pausing(let instance, let attempt, let pause): said(instance, attempt) + "; trying again in \(pause.shown)"
    }
  }
}

/// A call without a response.
func callFailure(
  _ error: HTTPError, _ instance: ServiceInstance?, _ request: HTTPRequest, attempts: Int, _ options: Call.Options
) -> Failure {
  let place = instance.map { "\($0.service) (\($0.id) at \($0.hostPort))" } ?? request.url
  var failure = error.failure(reaching: place)
  if error.kind == .timedOut, failure.hint == nil, options.timeout == nil {
    failure.hint = "Use '--timeout 0' to wait without a limit."
  }
  if attempts > 1 { failure.message += "; \(attempts) attempts" }
  return failure
}

/// A call whose response has a status that is a failure.
func callFailure(_ head: HTTPHead, _ request: HTTPRequest, attempts: Int, _ options: Call.Options) -> Failure {
  let reason = head.reason.isEmpty ? "" : " " + head.reason
  let tries = attempts > 1 ? ", the last of \(attempts) attempts" : ""
  var failure = Failure(
    head.status >= 500 ? .serverError : .clientError,
    "\(request.method) \(shownURL(head.url)) returned \(head.status)\(reason)\(tries)",
    hint: (300..<400).contains(head.status) && head.header("Location") != nil && !options.follows
      ? "Use '--follow' to follow the redirect." : nil)
  failure.subject.status = head.status
  return failure
}

extension Failure {
  /// Of a call of many, by the value that it was made for.
  func ofValue(_ number: Int) -> Failure {
    var failure = about(value: number)
    failure.message = "value \(number): \(message)"
    return failure
  }

  /// It ends all calls.
  /// - Parameter count: how many succeeded before.
  func endingCalls(after count: Int) -> Failure {
    var failure = self
    failure.message += "; \(counted(count, "call")) succeeded before it"
    if failure.hint == nil { failure.hint = "Use '--keep-going' or '--failed-to FILE' to continue after a failure." }
    return failure
  }
}

// MARK: discover

extension ConsulAgent.Note {
  func text(_ agent: ConsulAddress) -> String {
    switch self {
    case .leaderless:
      "the Consul cluster of the agent at \(agent.shown) has no leader; its responses may be out of date"
    }
  }
}

extension HealthWatch.Note {
  func text(_ agent: ConsulAddress) -> String {
    switch self {
    case .leaderless: ConsulAgent.Note.leaderless.text(agent)
    case .leftOut(let service, .unaddressable): "left out the service '\(service)': its name cannot stand in a URL"
    case .leftOut(let service, .mayNotRead): "left out the service '\(service)': the token may not read it"
    case .leftOut(let service, .refused(let failure)): "left out the service '\(service)': \(failure.message)"
    case .agentAway(let failure): failure.message + "; trying again"
    case .agentBack: "the Consul agent is back"
    }
  }
}

extension Discover {
  /// No such service, or none of its instances passing: how many there are, and what their checks say.
  static func nothingPassing(
    _ name: String, _ all: [ServiceInstance], isNarrowed: Bool, orElse hint: String = ""
  ) -> Failure {
    guard !all.isEmpty || !isNarrowed else {
      return Failure(
        .nothingThere, "no instance of '\(name)' matches '--tag', '--filter', '--dc' or '--peer'",
        hint: "'msctl discover \(name) --status any -o table' shows all instances.")
    }
    guard !all.isEmpty else {
      return Failure(
        .nothingThere, "no such service: '\(name)'",
        hint: "'msctl discover' lists the services." + (hint.isEmpty ? "" : " " + hint))
    }
    let complaint = all.lazy.flatMap(\.complaints).first.map { " (\($0))" } ?? ""
    return Failure(
      .nothingThere,
      all.count == 1
        ? "the only instance of '\(name)' is \(all[0].status.rawValue)\(complaint)"
        : "none of the \(all.count) instances of '\(name)' is passing\(complaint)",
      hint: "'msctl discover \(name) --status any -o table' shows them.")
  }
}

// MARK: publish and consume

/// - Parameter place: where the connection broke each time.
private func repeatedBreaksFailure(
  _ error: AMQPError, _ uri: AMQPURI, _ breaks: Int, _ time: Duration, _ place: String
) -> Failure {
  Failure(
    .unreachable,
    "the connection to RabbitMQ at \(uri.shown) broke \(breaks) times within \(time.shown) at the same place, "
      + "\(place): \(error.reason)",
    hint: "A message there may be unreadable, for example with headers larger than a frame; "
      + "inspect the queue with RabbitMQ's management page.")
}

extension BrokerOptions {
  /// A failure to connect, with the place of the password where the login was refused.
  func explained(_ failure: Failure) -> Failure {
    guard let passwordFile, case .amqp(let errors) = failure.cause, let error = errors.first?.error,
      error.kind == .denied, !error.reason.holds(text: "vhost")
    else { return failure }
    var failure = failure
    failure.hint = "Check the user name in the URI and the password in '\(passwordFile)'."
    return failure
  }

  /// What went wrong with a queue, with a next step for what usually goes wrong.
  func failure(_ error: AMQPError, queue: String, _ uri: AMQPURI) -> Failure {
    var failure = error.failure(uri)
    switch error.kind {
    case .unreadableFrame:
      failure.message = "cannot read what RabbitMQ at \(uri.shown) sent for '\(queue)': \(error.reason)"
    case .channelClosed(code: 404):
      failure.message = "no such queue: '\(queue)' at \(uri.shown)"
      failure.hint = "'msctl publish' declares it; without '--passive', so does 'msctl consume'."
    case .channelClosed(code: 405):
      failure.message = "the queue '\(queue)' is exclusive to another connection: \(error.reason)"
      failure.hint = "Only the connection that declared it can use it. Choose another queue."
    case .channelClosed(code: 406) where error.reason.holds(text: "timed out"):
      failure.code = .timedOut
      failure.message = "the broker requeued the messages of '\(queue)' (consumer timeout): \(error.reason)"
      failure.hint = "Handle each message in less time, or raise consumer_timeout in RabbitMQ's configuration."
    case .channelClosed(code: 406) where error.reason.holds(text: "invalid arg 'x-stream-"):
      let kinds = ["classic", "quorum"].filter { error.reason.holds(text: "rabbit_\($0)_queue") }
      failure.message =
        "the queue '\(queue)' is \(kinds.first.map { "a \($0) queue" } ?? "of another type"), not a stream"
      failure.hint =
        error.reason.holds(text: "x-stream-offset")
        ? "Leave out '--stream'." : "Leave out '--consumer-argument x-stream-...': only streams have it."
    case .channelClosed(code: 406) where error.reason.holds(text: "inequivalent arg"):
      failure.message = "the queue '\(queue)' exists with other arguments: \(error.reason)"
      failure.hint = "Leave out '--queue-argument' to use it with its own arguments."
    case .channelClosed(code: 406) where !queueArguments.isEmpty:
      failure.message = "cannot declare the queue '\(queue)': \(error.reason)"
      failure.hint = "Check '--queue-argument'."
    case .connectionClosed where !queueArguments.isEmpty && error.reason.holds(text: "arg"):
      failure.message = "cannot declare the queue '\(queue)': \(error.reason)"
      failure.hint = "Check '--queue-argument'."
    case .channelClosed(code: 403), .connectionClosed(code: 403):
      failure.hint = "Grant the user '\(uri.user)' this permission (rabbitmqctl set_permissions)."
    default: break
    }
    return failure
  }
}

// MARK: publish

extension Publisher.Note {
  func text(_ uri: AMQPURI) -> String {
    switch self {
    case .reconnecting(let error): "\(error.failure(uri).message); connecting again"
    case .reconnected: "connected again to RabbitMQ at \(uri.shown)"
    case .loginRefused(let failure): "\(failure.message); trying again"
    case .blocked(let reason): "RabbitMQ at \(uri.shown) accepts no messages (\(reason)); waiting"
    case .waiting(let time): "'--speed': the next message is due in \(time.shown)"
    }
  }
}

extension Publisher.Reason {
  func failure(of message: AMQPMessage) -> Failure {
    let name = "message \(message.number)" + (message.properties.messageID.map { " (\($0))" } ?? "")
    return failure(of: message, named: name).about(message)
  }

  /// Of a reply, which has no name of its own.
  func failure(ofReply message: AMQPMessage) -> Failure {
    failure(of: message, named: "the reply to '\(message.routingKey)'")
  }

  private func failure(of message: AMQPMessage, named name: String) -> Failure {
    let what: String
    var hint: String?
    switch self {
    case .returned(let code, let text):
      what = "was returned: \(text) (\(code))"
      hint =
        message.exchange.isEmpty
        ? "No such queue: '\(message.routingKey)'."
        : "Bind a queue to the exchange '\(message.exchange)' with the routing key '\(message.routingKey)'."
    case .nacked:
      what = "was refused by the broker (basic.nack)"
      hint = "Check whether the queue is full (x-overflow=reject-publish) or has lost its quorum."
    case .refused(let error): what = "was refused by the broker: \(error.reason)"
    case .tooLarge(let limit):
      what = "was not sent: it has \(message.body.count) bytes, and the broker takes \(limit)"
    case .unsendable(let error): what = "cannot be sent: \(error.reason)"
    }
    return Failure(.notDelivered, "\(name) \(what)", hint: hint)
  }
}

extension Failure {
  /// With the message that it is about.
  fileprivate func about(_ message: AMQPMessage) -> Failure {
    var failure = self
    failure.subject.messageID = message.properties.messageID
    if message.number > 0 { failure.subject.index = message.number }
    return failure
  }

  /// With the value of the input that it is about.
  fileprivate func about(value number: Int) -> Failure {
    var failure = self
    failure.subject.index = number
    return failure
  }

  /// Of input that should be messages, and is read as JSON.
  var ofMessages: Failure {
    var failure = self
    if hint == nil { failure.hint = "For lines of text, use '--lines'; for arbitrary bytes, '--raw'." }
    return failure
  }
}

extension Publisher.Cause {
  /// - Parameter unconfirmed: how many messages are not confirmed.
  /// - Returns: the failure, and whether there is no broker to send the rest to.
  func failure(
    _ options: Publish.Options, _ uri: AMQPURI, _ unconfirmed: Int
  ) -> (failure: Failure, isBroken: Bool) {
    var failure = failure(options, uri)
    let isBroken =
      switch self {
      case .broker, .unconfirmed, .repeatedBreaks: true
      case .unprepared, .unconnected: [.unreachable, .denied].contains(failure.code)
      case .interrupted, .input, .output, .driver, .noReply: false
      }
    if isBroken, unconfirmed > 0 {
      failure.code = .notDelivered
      failure.message = "\(counted(unconfirmed)) not confirmed: " + failure.message
    }
    return (failure, isBroken)
  }

  private func failure(_ options: Publish.Options, _ uri: AMQPURI) -> Failure {
    switch self {
    case .interrupted(let number): return .interrupted(by: number)
    case .input(let failure), .output(let failure), .driver(let failure): return failure
    case .unconnected(let failure): return options.broker.explained(failure)
    case .broker(let error):
      var failure = error.failure(uri)
      if case .channelClosed(code: 404) = error.kind {
        failure.hint = "Check the name, or use '--exchange-type TYPE' to declare it."
      }
      return failure
    case .unconfirmed(let blocked):
      let cause = blocked.map { "the broker accepts no messages (\($0))" } ?? "no confirm came"
      return AMQPError(kind: .timedOut, reason: "\(cause) within \(options.confirmTimeout.shown)").failure(uri)
    case .noReply(let number):
      return Failure(
        .timedOut, "no reply to message \(number) within \(options.replyTimeout.shown)",
        hint: "A consumer of '\(options.queue ?? "")' must reply to reply_to with the correlation_id."
      ).about(value: number)
    case .unprepared(let error):
      return options.declaredQueue.map { options.broker.failure(error, queue: $0, uri) } ?? error.failure(uri)
    case .repeatedBreaks(let error, let breaks, let time, let unconfirmed):
      let place = "publishing" + (options.queue.map { " to '\($0)'" } ?? "")
      return repeatedBreaksFailure(error, uri, breaks, time, "\(place), \(counted(unconfirmed)) unconfirmed")
    }
  }
}

// MARK: consume

/// What the sentences of a run of `consume` name.
struct ConsumeNames {
  let broker: BrokerOptions
  var queue: String
  var uri: AMQPURI
  var isStream: Bool
  /// Where in a stream to begin.
  let start: String
  /// What has become of the messages that `--peek` saved.
  var spent: Failure?

  fileprivate func failure(_ error: AMQPError) -> Failure { broker.failure(error, queue: queue, uri) }
}

extension Consumer.Note {
  func text(_ names: ConsumeNames) -> String {
    switch self {
    case .isStream: "'\(names.queue)' is a stream, reading from '\(names.start)'"
    case .reconnecting(let error): "\(error.failure(names.uri).message); connecting again"
    case .reconnected: "connected again to RabbitMQ at \(names.uri.shown)"
    case .loginRefused(let failure): "\(failure.message); trying again"
    case .newQueue(let exchange): "messages published to '\(exchange)' meanwhile are not in the new queue"
    case .idleFilter(let count): "idle with \(counted(count)) unprocessed; closing the filter's input"
    case .unacknowledged(let count):
      "\(counted(count)) handled and not acknowledged; the broker may deliver them again"
    }
  }
}

extension Consumer.Cause {
  func failure(_ names: ConsumeNames) -> Failure {
    let queue = names.queue
    switch self {
    case .interrupted(let number): return .interrupted(by: number)
    case .tooFew(let handled, let count):
      return Failure(.timedOut, "received \(handled) of \(count) messages from '\(queue)' in time")
    case .output(let failure), .handling(let failure): return failure
    case .unconnected(let failure): return names.broker.explained(failure)
    case .broker(let error): return names.failure(error)
    case .repeatedBreaks(let error, let breaks, let time, let message):
      let place = "consuming '\(queue)'" + (message.map { " after message \($0)" } ?? "")
      return repeatedBreaksFailure(error, names.uri, breaks, time, place)
    case .queueDeleted: return Failure(.nothingThere, "the queue '\(queue)' was deleted while it was consumed")
    case .consumerTimeout(let reason):
      return Failure(
        .timedOut, "the broker requeued the messages of '\(queue)' (consumer timeout): \(reason)",
        hint: "Handle each message in less time, or raise consumer_timeout in RabbitMQ's configuration.")
    case .neverEmpties:
      return Failure(
        .usage, "'\(queue)' is a stream, which never empties: '--drain' and '--peek' cannot be used",
        hint: "'msctl consume \(queue) --stream --idle 1s' reads it to its end.")
    case .spent: return names.spent ?? Failure(.failed, "cannot peek at '\(queue)' any more")
    case .unacknowledged(let count, let error):
      var failure = error.map(names.failure) ?? Failure(.unreachable, "lost the connection to RabbitMQ")
      failure.hint = "\(counted(count)) handled and not acknowledged; the broker delivers them again."
      return failure
    case .rejected(let count): return Failure(.failed, "\(counted(count)) \(names.isStream ? "skipped" : "rejected")")
    case .noMessages: return Failure(.nothingThere, "the queue '\(queue)' had no messages")
    }
  }
}

// MARK: commands and filters of consume

/// What sentences about a command of `consume` name.
struct HandlerNames {
  let command: String
  var traits: QueueTraits
  /// Whether the queue's delivery limit was named on the command line.
  let limitIsSet: Bool
  /// What becomes of a message that is rejected.
  var fate = DeadLetters.Fate.unknown

  fileprivate var rejected: String {
    if traits.isStream { return "skipped" }
    return switch fate {
    case .unknown: "rejected: discarded unless the queue has a dead-letter exchange"
    case .discarded: "rejected: discarded, since the queue has no dead-letter exchange"
    case .exchange(let name): "rejected: dead-lettered to \(name.isEmpty ? "the default exchange" : "'\(name)'")"
    }
  }
}

extension AMQPMessage {
  fileprivate var name: String { properties.messageID.map { "message \($0)" } ?? "a message" }

  /// - Parameter others: how many more of its batch are meant.
  fileprivate func name(_ others: Int) -> String { others == 0 ? name : "\(name) and \(counted(others, "other"))" }
}

extension MessageCommands.Reason {
  func failure(of message: AMQPMessage, others: Int = 0) -> Failure {
    let text =
      switch self {
      case .exited(let status): "the command exited with \(status)"
      case .killed: killedText("the command")
      case .doesNotFit(let text): "its properties do not fit the environment of a command (\(text))"
      case .output(let failure, _), .unreplied(let failure): failure.message
      }
    // A command that has exited with 0 has failed all the same where its output could not be kept.
    var failure = Failure(status == 0 ? .failed : .command(status), "\(message.name(others)): \(text)").about(message)
    if case .unreplied(let cause) = self { (failure.code, failure.hint) = (cause.code, cause.hint) }
    return failure
  }
}

extension MessageCommands.Verdict {
  func failure(
    of message: AMQPMessage, others: Int = 0, _ reason: MessageCommands.Reason, _ names: HandlerNames
  ) -> Failure {
    var failure = reason.failure(of: message, others: others)
    let isStream = names.traits.isStream
    switch self {
    case .requeued(let attempt, let delay):
      failure.message += " (attempt \(attempt)); \(isStream ? "tried again" : "requeued") in \(delay.shown)"
      failure.message += names.attemptsLeft(message)
    case .rejected(let attempt):
      if case .unreplied = reason {} else { failure.message += " (attempt \(attempt))" }
      failure.message += "; \(names.rejected)"
    case .abandoned: if !isStream { failure.message += "; the \(messageIs(others)) requeued" }
    }
    return failure
  }
}

private func messageIs(_ others: Int) -> String { others == 0 ? "message is" : "messages are" }

extension HandlerNames {
  /// How often a requeued message may come back, as far as it can be known: a policy may lower a limit that was set, and replace
  /// the default.
  fileprivate func attemptsLeft(_ message: AMQPMessage) -> String {
    guard let limit = traits.deliveryLimit, let left = traits.returnsLeft(message) else { return "" }
    if left > 0 {
      return limitIsSet
        ? ", at most \(counted(left, "attempt")) left (x-delivery-limit=\(limit))"
        : ", \(counted(left, "attempt")) left by default (delivery limit \(limit))"
    }
    let end = "the broker dead-letters it, or drops it if the queue has no dead-letter exchange"
    return limitIsSet ? ", beyond x-delivery-limit=\(limit): \(end)" : ", by default (delivery limit \(limit)) \(end)"
  }
}

extension MessageCommands.Cause {
  func failure(_ names: HandlerNames) -> Failure {
    let isStream = names.traits.isStream
    var failure: Failure
    switch self {
    case .unrunnable(let status):
      failure =
        SpawnError(names.command, shellStatus: status)?.failure
        ?? CommandError.exited(command: names.command, status).failure
      if !isStream { failure.hint = "Its message is requeued." }
    case .stopped(let message, let others, let reason):
      failure = reason.failure(of: message, others: others)
      let offset = isStream ? message.streamOffset : nil
      failure.hint = offset.map { "Its offset is \($0)." } ?? "The \(messageIs(others)) requeued."
    case .output(let cause):
      failure = cause
      if !isStream { failure.hint = "The message is requeued." }
    }
    return failure
  }
}

extension MessageFilter.Cause {
  func failure(_ names: HandlerNames) -> Failure {
    switch self {
    case .tooManyLines(let doubt):
      let place = doubt.map {
        " The first message in doubt is \($0.name)\($0.count == 0 ? ", which is acknowledged" : "")."
      }
      return Failure(
        .failed, "the filter '\(names.command)' wrote more lines than it was given messages",
        hint: "It must write exactly one line per message, in order; diagnostics belong on standard error."
          + (place ?? ""))
    case .unnamedLine:
      return Failure(
        .failed, "the filter '\(names.command)' wrote a line that names no message",
        hint: "With '--envelope', each line must be an object with the deliveryTag or the messageId of its message.")
    case .unknownMessage:
      return Failure(
        .failed,
        "the filter '\(names.command)' wrote a line for a message that it was not given, or a second line for one")
    case .sharedID(let id):
      return Failure(
        .failed, "the filter '\(names.command)' wrote a line for '\(id)', the messageId of several messages",
        hint: "Keep the deliveryTag of the envelope in each line.")
    case .tooManyLeft(let count, let isByPrefetch):
      let way = isByPrefetch ? "Raise '--prefetch', or leave it out." : "Limit the run with '--count'."
      return Failure(
        .failed, "the filter '\(names.command)' left \(counted(count)) without a line, as many as can be held",
        hint: names.traits.isStream ? isByPrefetch ? way : nil : "They are requeued. \(way)")
    case .halfLine(let unanswered, let doubt):
      return Failure(
        .failed,
        "the filter '\(names.command)' ended its output with half a line, with \(counted(unanswered)) unprocessed",
        hint: "Each line must end with a line feed."
          + (names.traits.isStream ? "" : " " + (doubt?.text(unanswered) ?? "They are requeued.")))
    case .ended(let end, let unanswered, let doubt):
      if end.isUnrunnable, var failure = SpawnError(names.command, shellStatus: end.status)?.failure {
        if !names.traits.isStream, unanswered > 0 { failure.hint = "Its messages are requeued." }
        return failure
      }
      guard unanswered > 0 else { return Failure(end.code, end.text(names)) }
      return Failure(
        end.code, "\(end.text(names)), with \(counted(unanswered)) unprocessed",
        hint: names.traits.isStream ? nil : doubt?.text(unanswered) ?? "They are requeued.")
    case .notStarted(let failure): return failure
    }
  }
}

extension MessageFilter.Doubt {
  fileprivate var name: String { "message \(number)" + (id.map { " (\($0))" } ?? "") }

  fileprivate func text(_ unanswered: Int) -> String {
    count == unanswered
      ? "They are requeued, from \(name) on."
      : "\(counted(count)) are requeued, from \(name) on: which of them have a line is in doubt."
  }
}

extension MessageFilter.Note {
  /// Nil where nothing has failed.
  func failure(_ names: HandlerNames) -> Failure? {
    switch self {
    case .silent, .ended, .leftOut: return nil
    case .restarting(let end, let unanswered, let pause):
      var failure = MessageFilter.Cause.ended(end, unanswered: unanswered, nil).failure(names)
      failure.hint = "It is restarted in \(pause.shown)."
      return failure
    case .rejected(let message, let attempts, let end):
      return Failure(end.code, "\(message.name): failed after \(attempts) attempts; \(names.rejected)").about(message)
    }
  }

  func text(_ names: HandlerNames) -> String {
    switch self {
    case .silent(let unanswered, let isFull):
      "the filter has written no line for \(MessageFilter.patience.shown), \(counted(unanswered)) unprocessed; "
        + "if it buffers its output, make it write line by line (jq --unbuffered, sed -u, grep --line-buffered, stdbuf -oL)"
        + (isFull ? "; if it waits for more messages, raise '--prefetch', or leave it out" : "")
    case .ended(let end): end.text(names)
    case .leftOut(let count):
      "the filter wrote no line for \(counted(count))" + (names.traits.isStream ? "" : "; requeued")
    case .restarting, .rejected: failure(names)?.message ?? ""
    }
  }
}

extension MessageFilter.End {
  fileprivate var code: Failure.Code { .command(status == 0 ? 1 : status) }

  fileprivate func text(_ names: HandlerNames) -> String {
    let filter = "the filter '\(names.command)'"
    let fault =
      fault.map { fault in
        switch fault {
        case .closedInput: "closed its input"
        case .closedOutput: "closed its output"
        case .leftProcess: "left a process running that holds its output"
        case .deaf: "did not exit at the end of its input"
        }
      }
    if wasKilled { return killedText([filter, fault.map { $0 + "," }].compactMap { $0 }.joined(separator: " ")) }
    return [filter, fault.map { $0 + ", was terminated and" }, "exited with \(status)"].compactMap { $0 }.joined(
      separator: " ")
  }
}

// MARK: register

extension HeldRegistration.Note {
  func text(_ registration: ServiceRegistration, _ options: Register.Options, _ agent: ConsulAddress) -> String {
    let id = registration.id
    switch self {
    case .notListening:
      return "the command does not listen on port \(registration.port) yet; it is registered when it does"
        + (options.port == 0 ? " ($PORT)" : "")
    case .registered: return CommandNote.registered(registration, agent).text
    case .registeringAgain: return "the agent no longer knows '\(id)'; registering it again"
    case .agentAway(let failure): return failure.message + "; the command keeps running"
    case .agentBack: return HealthWatch.Note.agentBack.text(agent)
    case .deregistered: return "deregistered '\(id)'"
    case .notDeregistered(let failure):
      let cause = failure?.message ?? "no response from the agent within \(HeldRegistration.farewell.shown)"
      let time = (options.deregisterAfter ?? HeldRegistration.deregisterAfter).shown
      return "'\(id)' could not be deregistered: \(cause); Consul removes it once it has been critical for \(time)"
    case .leftoversKilled: return killedText("what '\(options.command.first ?? "")' left behind")
    }
  }
}

func killedText(_ what: String) -> String {
  "\(what) did not end within \(ChildProcess.grace.shown) and was killed"
}

func counted(_ count: Int, _ noun: String = "message") -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }

extension Discover.Status {
  fileprivate var text: String { self == .any ? "registered" : rawValue }
}

// MARK: causes of the commands

extension CommandError {
  var failure: Failure {
    switch self {
    case .unreadableFile(let path, let what, let reason):
      Failure(.usage, "cannot read \(what) from '\(path)': \(reason)")
    case .unwritableFile(let path, let reason):
      Failure(.failed, "cannot write the file '\(path)'" + (reason.map { ": " + $0 } ?? ""))
    case .foreignReadyFile(let path):
      Failure(
        .usage, "'\(path)' exists and was not created by '--ready-file'",
        hint: "'--ready-file' creates and removes FILE: name another one.")
    case .usedReadyFile(let path):
      Failure(
        .usage, "'\(path)' is the ready file of another msctl that is running",
        hint: "Each needs a file of its own: one that ends would make the other look as if it were not ready.")
    case .failedFileIsOutput(let path):
      Failure(
        .usage, "'--failed-to \(path)' is standard output, which gets the results",
        hint: "Name another file: failures among the results, or in their place, would be lost or mistaken.")
    case .unreadableInput(let reason): Failure(.badInput, "cannot read standard input: \(reason)")
    case .inputNotJSON(let error): Failure(.badInput, "standard input is not JSON: \(error)")
    case .outputClosed: Failure(.outputClosed, "standard output is closed")
    case .unwritableOutput(let reason): Failure(.failed, "cannot write to standard output: \(reason)")
    case .unsetVariable(let name): Failure(.usage, "the variable '\(name)' is not set")
    case .emptySecret(let source): Failure(.usage, "the secret in '\(source)' is empty")
    case .secretNotText(let source): Failure(.usage, "the secret in '\(source)' is not UTF-8 text")
    case .noPager(let pager): Failure(.failed, "cannot start the pager '\(pager)'")
    case .httpClient(let reason), .unknown(let reason): Failure(.failed, reason)

    case .missingTarget: Failure(.usage, "missing TARGET")
    case .tooFewDescriptors(let parallel, let wanted, let limit, let fits):
      Failure(
        .failed, "'--parallel \(parallel)' requires \(wanted) open files, but the limit is \(limit)",
        hint: "Raise the limit ('ulimit -n')" + (fits.map { ", or use '--parallel \($0)'." } ?? "."))
    case .unfillable(let reason): Failure(.badInput, "it \(reason)")
    case .unsendableCredentials:
      Failure(.usage, "the credentials contain control characters, which are not allowed in a header")
    case .loginWithoutColon: Failure(.usage, "the login is not of the form user:password")
    case .itemNotText(let name):
      Failure(
        .badInput, "the file of '\(name)' is not UTF-8 text and cannot become a JSON string",
        hint: "'--form' with '\(name)@FILE' sends any file.")
    case .itemNotJSON(let name, let error): Failure(.badInput, "the file of '\(name)' is not JSON: \(error)")
    case .conflictingItem(let reason): Failure(.usage, "an item \(reason)")
    case .noResponse(let url):
      Failure(.unreachable, "the connection to \(shownURL(url)) broke: there was no response")
    case .responseNotJSON(let error):
      Failure(
        .badInput, "the response is declared as JSON but is not: \(error)", hint: "Its bytes were written unchanged.")
    case .callsFailed(let failed, let all, let code): Failure(code, "\(counted(failed, "call")) of \(all) failed")
    case .unfinishedCall(let code): Failure(code, "the run ended before the response; the service may have handled it")
    case .unwrittenResult(let code):
      Failure(code, "the call succeeded, but the run ended before its result was written")

    case .messageNotJSON(let error):
      Failure(.badInput, "MESSAGE is not JSON: \(error)", hint: "For text, use '--text'.")
    case .notEnvelope(let number, let reason):
      Failure(
        .badInput, "value \(number) of the input is not an envelope: it \(reason)",
        hint: "'msctl consume --envelope' writes envelopes; 'msctl help publish' shows their form."
      ).about(value: number)
    case .undelivered(let failed, let all): Failure(.notDelivered, "\(counted(failed)) of \(all) not delivered")
    case .unpublished(let count): Failure(.badInput, "\(counted(count, "value")) of the input not published")

    case .emptyQueue(let queue): Failure(.nothingThere, "the queue '\(queue)' has no messages")
    case .unusableResumeFile(let path, let reason):
      Failure(
        .badInput, "cannot resume from '\(path)': \(reason)",
        hint: "Use another file, or remove it to begin where '--offset' says.")
    case .notExclusive(let queue):
      Failure(
        .failed, "the queue '\(queue)' exists and is not exclusive",
        hint: "Leave out '--exclusive' to bind and consume it, or choose another name.")
    case .unfitBinding(let exchange, let type, let misfit):
      Failure(.usage, "'\(exchange)' is a \(type) exchange, which \(misfit.text)", hint: misfit.hint)
    case .notDeadLettered(let message):
      Failure(
        .badInput, "\(message.name) was not dead-lettered: no x-death header names its first exchange and routing key",
        hint: "It is requeued. Without '--origin' it can be taken out of the queue."
      ).about(message)
    case .replyNotEnvelope(let filter, let request, let reason):
      Failure(
        .failed, "the filter '\(filter)' wrote a reply to \(request.name) that is not an envelope: it \(reason)",
        hint: "With '--reply' and '--envelope', each line must be an envelope, whose body is the reply."
      ).about(request)
    case .tooMuchOutput(let limit):
      Failure(.failed, "the command wrote more than \(limit >> 30) GiB; its output was dropped")
    case .unkeptOutput(let folder, let reason):
      Failure(.failed, "cannot keep the command's output in '\(folder)': \(reason)")
    case .unreadableOutput(let folder, let reason):
      Failure(.failed, "cannot read the command's output in '\(folder)': \(reason)")

    case .invalidPort(let port, let service):
      Failure(.badInput, "the definition of '\(service)' has an invalid port: \(port)")
    case .portInUse(let port):
      Failure(
        .usage, "port \(port) is already in use", hint: "Use '--port 0' to pick a free one; COMMAND finds it in $PORT.")
    case .noFreePort: Failure(.failed, "no free port")
    case .manyServices(let count): Failure(.usage, "COMMAND runs one service, but the file defines \(count)")
    case .definitionNotJSON(let file, let error):
      Failure(.badInput, "the definition in '\(file)' is not JSON: \(error)")
    case .notPassing(let registration, let time, let complaint):
      Failure(
        .timedOut, "'\(registration.id)' is not passing after \(time.shown)" + (complaint.map { " (\($0))" } ?? ""),
        hint: "It stays registered; 'msctl register \(registration.name) --remove' removes it.")
    case .ended(let command, let signal):
      Failure(
        .command(128 + signal),
        "'\(command)' was terminated by signal \(signal) (\(String(cString: strsignal(signal))))")
    case .exited(let command, let status): Failure(.command(status), "'\(command)' exited with \(status)")

    case .noInstance(let service, let status): Failure(.nothingThere, "no instance of '\(service)' is \(status.text)")
    case .noWritableAddress(let service):
      Failure(
        .nothingThere, "no instance of '\(service)' has an address that can be written",
        hint: "'msctl discover \(service) -o json' shows them.")
    case .tooFewInstances(let count, let wanted, let service, let status, let time):
      Failure(
        time == nil ? .nothingThere : .timedOut,
        "\(counted(count, "instance")) of '\(service)' \(count == 1 ? "is" : "are") \(status.text)"
          + (time.map { " after \($0.shown)" } ?? "") + "; \(wanted) required",
        hint: "'msctl discover \(service) --status any -o table' shows all of them.")
    case .changeCommandFailed(let command, let status, let pause):
      Failure(.command(status), "'\(command)' exited with \(status)", hint: "It runs again in \(pause.shown).")
    }
  }
}

extension BindingMisfit {
  fileprivate var text: String {
    switch self {
    case .keyForHeaders: "ignores routing keys: '--bind' would get every message"
    case .keyForAll: "ignores routing keys: it gives every message to every queue"
    case .headersForKey: "ignores headers: '--bind-argument' requires a headers exchange"
    case .noKey: "compares the whole routing key: '--bind KEY' is required"
    }
  }

  fileprivate var hint: String {
    switch self {
    case .keyForHeaders(let key):
      key.holds("=")
        ? "Use '--bind-argument \(key)'."
        : "Use '--bind-argument NAME=VALUE', or leave out '--bind' to get every message."
    case .keyForAll: "Leave out '--bind' to get every message."
    case .headersForKey: "Use '--bind KEY'."
    case .noKey: "For every message, bind to a topic or fanout exchange."
    }
  }
}

extension CommandNote {
  var text: String {
    switch self {
    case .killed(let command): killedText("'\(command)'")

    case .unreadInput:
      "standard input is not read: '--data -' sends it as the body, '< /dev/null' says that it is not meant"

    case .waitingForBroker(let failure, let time): "\(failure.message); waiting for up to \(time.shown)"
    case .declaredQueue(let queue): "declared the queue '\(queue)', which did not exist"
    case .managementUnusable(let reason): "RabbitMQ's management API does not tell what is unacknowledged: \(reason)"
    case .lowPrefetch(let count, let asked):
      "using a prefetch of \(count), not \(asked): each requeued message counts towards the queue's delivery limit"
    case .confirmed(let count, let unsent, let isInputLeft):
      "\(counted(count)) confirmed" + (unsent == 0 ? "" : ", \(unsent) not sent")
        + (isInputLeft ? "; standard input was not read to its end" : "")
    case .handled(let count, let rejected):
      "\(counted(count)) handled" + (rejected == 0 ? "" : ", \(rejected) of them rejected")
    case .noReplyTo(let id): (id.map { "message \($0)" } ?? "a message") + " has no reply_to; its output is not sent"
    case .discarding(let queue): "rejected messages are discarded: '\(queue)' has no dead-letter exchange"
    case .requesterGone(let queue): "nobody waits for the reply any more: no such queue: '\(queue)'"
    case .unchangedFile(let path): "'\(path)' is unchanged, since it is the input and was not read to its end"
    case .unreadPipe(let path): "waiting for a process to read the pipe '\(path)'"
    case .savingRest(let path): "saving the rest of standard input in '\(path)'; interrupt to stop"
    case .restNotSaved(let path): "interrupted: '\(path)' does not have the rest of standard input"

    case .registered(let registration, let agent):
      "registered '\(registration.name)' as '\(registration.id)' with \(agent.shown)"
    case .removed(let ids): "removed \(ids.map { "'\($0)'" }.joined(separator: ", "))"
    case .notRegistered(let service, let agent): "'\(service)' was not registered with \(agent.shown)"
    }
  }
}
