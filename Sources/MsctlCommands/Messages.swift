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
