import MsctlCore

/// One call on its way, to a URL or to one instance after another of a service.
final class PendingCall {
  private static let bodyLimit = 256 << 20

  /// Which value of the input it is for, from 1.
  let number: Int
  private let options: Call.Options
  private(set) var request: HTTPRequest
  private let service: String?
  private var candidates: [ServiceInstance]
  private(set) var instance: ServiceInstance?
  private(set) var attempts = 0
  private var transfer: HTTPTransfer?
  private var refusal: Failure?
  private let started = Deadline.now
  private(set) var seconds = 0.0
  /// The head of the answer, once it is complete.
  var head: HTTPHead? { transfer?.head }
  /// The body so far, as far as `takeBody` has not taken it.
  private(set) var body: [UInt8] = []
  /// How it ended; nil while it runs.
  private(set) var outcome: Result<Void, HTTPError>?

  /// - Parameters:
  ///   - service: the name of the service that the candidates are instances of; nil for a URL.
  ///   - candidates: the instances that may be called.
  init(
    _ number: Int, _ request: HTTPRequest, _ options: Call.Options, service: String? = nil,
    candidates: [ServiceInstance] = []
  ) {
    self.number = number
    self.options = options
    self.request = request
    // A time of zero is no limit at all.
    if let timeout = options.timeout, timeout != .zero { self.request.deadline = .after(timeout) }
    self.service = service
    self.candidates = candidates
  }

  /// A call that could not even be begun.
  init(_ number: Int, _ request: HTTPRequest, _ options: Call.Options, refused failure: Failure) {
    self.number = number
    self.options = options
    self.request = request
    service = nil
    candidates = []
    refusal = failure
    outcome = .failure(HTTPError(kind: .malformedURL, reason: failure.message))
  }

  /// Begins, or begins again with another instance.
  func start(_ http: HTTPClient, _ directory: ServiceDirectory?) {
    attempts += 1
    if service != nil, let chosen = directory?.choose(from: &candidates) {
      instance = chosen
      request.connectTo = (chosen.address, chosen.port)
      let rest = request.url.drop { $0 != ":" }
      request.url = chosen.scheme + rest
    }
    do { transfer = try http.start(request) } catch { end(.failure(error)) }
  }

  /// Takes in what has come; where no connection came about, turns to the next instance.
  func advance(_ http: HTTPClient, _ directory: ServiceDirectory?, _ console: Console) {
    guard outcome == nil, let transfer else { return }
    body += transfer.takeBody()
    if body.count > Self.bodyLimit {
      http.cancel(transfer)
      return end(.failure(HTTPError(kind: .tooLarge, reason: "the answer is larger than \(Self.bodyLimit >> 20) MiB")))
    }
    guard let result = transfer.outcome else { return }
    // Nothing was sent where no connection came about, so that the next instance may be asked whatever the method.
    if case .failure(let error) = result, error.kind == .unreachable, let service, let instance {
      directory?.forget(service)
      if !candidates.isEmpty {
        console.note("\(instance.id) at \(instance.hostPort): \(error.reason); trying another instance")
        return start(http, directory)
      }
    }
    end(result)
  }

  func cancel(_ http: HTTPClient) {
    if let transfer, outcome == nil { http.cancel(transfer) }
  }

  /// The part of the body that has come since.
  func takeBody() -> [UInt8] {
    defer { body = [] }
    return body
  }

  private func end(_ result: Result<Void, HTTPError>) {
    outcome = result
    seconds = started.secondsSince
  }

  // MARK: The result

  /// Why the call counts as failed; nil where it does not.
  var failure: Failure? {
    if let refusal { return refusal }
    if case .failure(let error)? = outcome {
      let place = instance.map { "\($0.service) (\($0.id) at \($0.hostPort))" } ?? request.url
      var failure = error.failure(reaching: place)
      if error.kind == .timedOut, failure.hint == nil, options.timeout == nil {
        failure.hint = "'--timeout 0' waits for ever."
      }
      if error.kind == .unreachable, attempts > 1 { failure.message += "; \(attempts) instances were tried" }
      return failure
    }
    guard let head else {
      return Failure(.unreachable, "the connection to \(request.url) broke: there was no answer")
    }
    guard options.fails, !(200..<300).contains(head.status) else { return nil }
    let reason = head.reason.isEmpty ? "" : " " + head.reason
    return Failure(
      head.status >= 500 ? .serverError : .clientError,
      "\(request.method) \(head.url) was answered \(head.status)\(reason)",
      hint: (300..<400).contains(head.status) && head.header("Location") != nil && !options.follows
        ? "It points elsewhere; '--follow' goes there." : nil)
  }

  /// The answer as one value: the body, or the envelope around it. A body of nothing is `null`.
  var value: JSONValue {
    guard options.asEnvelope else {
      return body.isEmpty ? .null : BodyText(body, contentType: head?.header("Content-Type")).value
    }
    var writer = JSONWriter()
    writer.object { object in
      if case .failure? = outcome, let failure {
        object.key("error")
        object.object { error in
          error.field("code", failure.code.name)
          error.field("message", failure.message)
        }
      } else if let head {
        object.field("status", head.status)
        object.key("headers")
        object.object { headers in
          for (name, values) in head.grouped {
            if values.count == 1 { headers.field(name, values[0]) } else { headers.field(name, values) }
          }
        }
        BodyText(body, contentType: head.header("Content-Type")).write(to: &object)
      }
      object.field("url", head?.url ?? request.url)
      if let instance {
        object.key("instance")
        object.object { fields in
          fields.field("id", instance.id)
          fields.field("address", instance.address)
          fields.field("port", instance.port)
        }
      }
      object.field("attempts", attempts)
      object.key("time")
      object.seconds(seconds)
    }
    return writer.value
  }
}
