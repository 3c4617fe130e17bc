import MsctlCore

// Sentences that users read, by their causes.

// MARK: call

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
    case .late: Failure(.timedOut, "no response from the Consul agent at \(agent.shown) in time")
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
  return Failure(
    head.status >= 500 ? .serverError : .clientError,
    "\(request.method) \(shownURL(head.url)) returned \(head.status)\(reason)\(tries)",
    hint: (300..<400).contains(head.status) && head.header("Location") != nil && !options.follows
      ? "Use '--follow' to follow the redirect." : nil)
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

// MARK: publish

extension Publisher.Note {
  func text(_ uri: AMQPURI) -> String {
    switch self {
    case .reconnecting(let error): "\(error.failure(uri).message); connecting again"
    case .reconnected: "connected again to RabbitMQ at \(uri.shown)"
    case .loginRefused(let failure): "\(failure.message); trying again"
    }
  }
}

extension Publisher.Reason {
  func failure(of message: AMQPMessage) -> Failure {
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
    let name = "message \(message.number)" + (message.properties.messageID.map { " (\($0))" } ?? "")
    return Failure(.notDelivered, "\(name) \(what)", hint: hint)
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
    case .interrupted(let number): return Failure(.signal(number), "interrupted")
    case .input(let failure), .output(let failure), .driver(let failure), .unconnected(let failure): return failure
    case .broker(let error):
      var failure = error.failure(uri)
      if case .channelClosed(code: 404) = error.kind {
        failure.hint = "'msctl publish' does not declare exchanges; check the name."
      }
      return failure
    case .unconfirmed(let blocked):
      let cause = blocked.map { "the broker accepts no messages (\($0))" } ?? "no confirm came"
      return AMQPError(kind: .timedOut, reason: "\(cause) within \(options.confirmTimeout.shown)").failure(uri)
    case .noReply(let number):
      return Failure(
        .timedOut, "no reply to message \(number) within \(options.replyTimeout.shown)",
        hint: "A consumer of '\(options.queue ?? "")' must reply to reply_to with the correlation_id.")
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
    case .interrupted(let number): return Failure(.signal(number), "interrupted")
    case .tooFew(let handled, let count):
      return Failure(.timedOut, "received \(handled) of \(count) messages from '\(queue)' in time")
    case .output(let failure), .handling(let failure), .unconnected(let failure): return failure
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

// MARK: register

extension HeldRegistration.Note {
  func text(_ registration: ServiceRegistration, _ options: Register.Options, _ agent: ConsulAddress) -> String {
    let id = registration.id
    switch self {
    case .notListening:
      return "the command does not listen on port \(registration.port) yet; it is registered when it does"
        + (options.port == 0 ? " ($PORT)" : "")
    case .registered: return "registered '\(registration.name)' as '\(id)' with \(agent.shown)"
    case .registeringAgain: return "the agent no longer knows '\(id)'; registering it again"
    case .agentAway(let failure): return failure.message + "; the command keeps running"
    case .agentBack: return "the Consul agent is back"
    case .deregistered: return "deregistered '\(id)'"
    case .notDeregistered(let failure):
      let cause = failure?.message ?? "no response from the agent within \(HeldRegistration.farewell.shown)"
      let time = (options.deregisterAfter ?? Register.heldDeregisterAfter).shown
      return "'\(id)' could not be deregistered: \(cause); Consul removes it once it has been critical for \(time)"
    case .leftoversKilled: return killedText("what '\(options.command.first ?? "")' left behind")
    }
  }
}

func killedText(_ what: String) -> String {
  "\(what) did not end within \(ChildProcess.grace.shown) and was killed"
}
