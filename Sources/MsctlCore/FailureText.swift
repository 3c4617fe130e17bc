import Glibc

// Causes as sentences. They name no option and no variable: who has those, adds what to do.

extension Failure: CustomStringConvertible {
  public var description: String { cause.description }
}

extension Failure.Cause: CustomStringConvertible {
  public var description: String {
    switch self {
    case .amqp(let errors):
      errors.isEmpty ? "no broker given" : errors.map(\.description).joined(separator: "; ")
    case .http(let error, let target): error.text(target)
    case .consul(let error, let agent): error.text("the Consul agent at \(agent)", agent)
    case .messaging(let error): error.text
    case .service(let error): error.text
    case .definition(.noName): "the definition has no service with a \"name\""
    case .definition(.climbs): "invalid name or id in the definition: '.' and '..' would climb in a URL"
    case .spawn(let error): error.description
    case .tooLarge(let what, let limit): "\(what) is larger than \(limit >> 20) MiB, the limit"
    case .noMemory(let what, let size): "not enough memory: \(what) is larger than \(size >> 20) MiB"
    case .noEventLoop(let number): "no event loop: \(text(ofError: number))"
    case .interrupted: "interrupted"
    case .said(let message, hint: _): message
    }
  }
}

extension BrokerError: CustomStringConvertible {
  public var description: String {
    let (broker, reason) = (uri.shown, error.reason)
    return switch error.kind {
    case .unreachable: "cannot connect to RabbitMQ at \(broker): \(reason)"
    case .tls: "no trusted connection to RabbitMQ at \(broker): \(reason)"
    case .denied: "RabbitMQ at \(broker) refused the login: \(reason)"
    case .timedOut: "RabbitMQ at \(broker) did not respond in time: \(reason)"
    case .broken: "lost the connection to RabbitMQ at \(broker): \(reason)"
    case .unreadableFrame: "cannot read what RabbitMQ at \(broker) sent: \(reason)"
    case .noMemory, .violation: "closed the connection to RabbitMQ at \(broker): \(reason)"
    case .channelClosed, .connectionClosed: "RabbitMQ at \(broker) refused: \(reason)"
    case .invalid: "cannot send the message: \(reason)"
    }
  }
}

extension HTTPError {
  fileprivate func text(_ target: String) -> String {
    switch kind {
    case .malformedURL: "'\(target)' is not a URL: \(reason)"
    case .unreachable: "cannot connect to \(target): \(reason)"
    case .timedOut: "no response from \(target) in time: \(reason)"
    case .tls: "no trusted connection to \(target): \(reason)"
    case .certificate: "cannot use the client certificate for \(target): \(reason)"
    case .broken: "the connection to \(target) broke: \(reason)"
    case .tooLarge: "\(target): \(reason)"
    }
  }
}

extension ConsulError {
  fileprivate func text(_ agent: String, _ address: String) -> String {
    switch self {
    case .http(let error): error.text(agent)
    case .late: "no response from \(agent) in time"
    case .returned(let status, let method, let path, let words, isTransient: _):
      "\(agent) returned \(status) for \(method) \(path)" + after(words)
    case .leaderless(let words): "the Consul cluster of the agent at \(address) has no leader" + after(words)
    case .denied(let access, let words, hasToken: _): "\(agent) denied \(access.text)" + after(words)
    case .unexpected(let path, let expected):
      "unexpected response from \(address): \(path) did not return \(expected.text)"
    case .noPort(let name, let service, ports: _): "no instance of '\(service)' has a port named '\(name)'"
    case .climbs(let name):
      "'\(name)' cannot be the name of a service or the id of an instance: it would climb in a URL"
    case .invalidToken: "the Consul token contains control characters"
    }
  }

  private func after(_ words: String) -> String { words.isEmpty ? "" : ": " + words }
}

extension ConsulError.Access {
  fileprivate var text: String {
    switch self {
    case .catalog: "reading the catalog"
    case .service(let name): "reading the service '\(name)'"
    case .request(let method, let path): "\(method) \(path)"
    }
  }
}

extension ConsulError.Expected {
  fileprivate var text: String {
    switch self {
    case .json(let error): "JSON (\(error))"
    case .instances: "a list of instances"
    case .services: "a list of services"
    case .checks: "a list of checks"
    }
  }
}

extension MessagingError {
  fileprivate var text: String {
    switch self {
    case .returned(let code, let text): "the message was returned: \(text) (\(code))"
    case .nacked: "the broker refused the message (basic.nack)"
    case .refused(let error): "the broker refused the message: \(error.reason)"
    case .tooLarge(let limit): "the message is larger than the broker takes (\(limit) bytes)"
    case .unsendable(let error): "the message cannot be sent: \(error.reason)"
    case .unconfirmed(let time, let blocked):
      (blocked.map { "the broker accepts no messages (\($0))" } ?? "no confirm came") + " within \(time.shown)"
    case .queueDeleted(let queue): "the queue '\(queue)' was deleted"
    case .consumerTimeout(let queue, let reason):
      "the broker requeued the messages of '\(queue)' (consumer timeout): \(reason)"
    case .unacknowledged(let count): "\(count) messages are handled and not acknowledged"
    case .ended: "consuming has ended; the message goes back to its queue"
    case .settledBefore: "the message was settled before"
    case .closed: "the broker was closed"
    case .invalidAddress(let error): "the address of a broker \(error.reason)"
    }
  }
}

extension ServiceError {
  fileprivate var text: String {
    switch self {
    case .noSuchService(let service): "no such service: '\(service)'"
    case .nothingPassing(let service): "no passing instance of '\(service)'"
    case .crowded(let service, let parallel):
      "the call of '\(service)' did not begin in time: \(parallel) others were under way"
    case .noResponse(let service): "the connection to \(service) broke: there was no response"
    case .returned(let status, let reason, let method, let url):
      "\(method) \(url) returned \(status)" + (reason.isEmpty ? "" : " " + reason)
    case .notJSON(let service, let error): "the response of \(service) is not JSON: \(error)"
    case .invalidAddress:
      "the address of a Consul agent is not of the form http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:///PATH"
    case .invalidName(let name): "invalid service name '\(name)'"
    case .invalidID(let id): "invalid instance id '\(id)'"
    case .invalidPort(let port): "invalid port \(port)"
    case .invalidMethod(let method): "invalid method '\(method)'"
    case .invalidPath: "invalid path: it must begin with '/' and be percent-encoded"
    case .invalidHeader(let name):
      "invalid header '\(name)': the name must be one word, and the value must not contain control characters"
    }
  }
}

extension SpawnError: CustomStringConvertible {
  public var description: String {
    guard let command else { return "cannot start a process" + (number.map { ": " + text(ofError: $0) } ?? "") }
    if number == ENOENT { return "'\(command)' was not found" }
    return "'\(command)' could not be run" + (number.map { ": " + text(ofError: $0).lowercasedASCII } ?? "")
  }
}

private func text(ofError number: Int32) -> String { String(cString: strerror(number)) }
