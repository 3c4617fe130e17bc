import MsctlCore

/// One call on its way, and what people see of it.
final class PendingCall {
  private let call: CallDriver
  private let run: CallRun
  private var options: Call.Options { run.options }
  private let target: CallTarget?
  /// Why it could not even be begun.
  private let refusal: Failure?
  /// The value that it is for, where it is kept if the call fails.
  var input: JSONValue?
  /// How long after it was due it began, in seconds: with a rate, where all calls that may run at a time ran.
  var delay = 0.0

  /// - Parameters:
  ///   - number: which value of the input it is for, from 1.
  ///   - instance: the one to be called, where it is no other.
  init(_ number: Int, _ request: HTTPRequest, _ run: CallRun, _ target: CallTarget, at instance: ServiceInstance? = nil)
  {
    (self.run, self.target, refusal) = (run, target, nil)
    let place: ServiceCall.Target =
      if let instance { .instance(instance) } else if case .service(let name, _) = target { .service(name) } else {
        .url
      }
    let machine = ServiceCall(
      place, run.policy, retries: run.options.retries, attemptTimeout: run.options.attemptTimeout,
      until: run.options.deadline(), run.driver.split())
    var request = request
    if run.options.sendsKey { request.addIdempotencyKey() }
    call = CallDriver(number, request, machine, run.driver)
  }

  /// A call that could not even be begun.
  init(_ number: Int, _ request: HTTPRequest, _ run: CallRun, refused failure: Failure) {
    (self.run, target, refusal) = (run, nil, failure)
    call = CallDriver(
      number, request, ServiceCall(.url, run.policy, retries: 0, until: .never, SplitMix(seed: 0)), run.driver)
    call.cancel()
  }

  var number: Int { call.number }
  var isOver: Bool { call.isOver }
  var hasResponse: Bool { call.hasResponse }
  var head: HTTPHead? { call.head }
  var body: [UInt8] { call.body }
  var seconds: Double { call.seconds }
  var attempts: Int { call.attempts }
  var retries: Int { call.retries }
  var cookies: [String] { call.cookies }
  var wakeTime: Deadline { call.wakeTime }
  /// Whether there was no instance to call.
  var isUnfound: Bool { if case .notFound? = call.outcome { true } else { false } }

  func start() { call.start() }
  func take(_ result: Result<[ServiceInstance], LookUpFailure>) { call.take(result) }
  func advance() { call.advance() }
  func cancel() { call.cancel() }
  func takeBody() -> [UInt8] { call.takeBody() }

  // MARK: The result

  /// Why the call counts as failed; nil where it does not.
  var failure: Failure? {
    if let refusal { return refusal }
    switch hasResponse ? nil : call.outcome {
    case .notFound(let cause)?:
      guard case .service(let name, let path)? = target else { return nil }
      return run.failure(cause, name, path)
    case .failed(let error)?: return callFailure(error, call.instance, call.request, attempts: call.attempts, options)
    case .response?, nil: break
    }
    guard let head else {
      return Failure(.noResponse(url: call.request.url))
    }
    return options.isFailure(head.status) ? callFailure(head, call.request, attempts: call.attempts, options) : nil
  }

  /// The response as one value: the body, or the envelope around it. A body of nothing is `null`.
  var value: JSONValue {
    guard options.asEnvelope else {
      return body.isEmpty ? .null : BodyText(body, contentType: head?.header("Content-Type")).value
    }
    var writer = JSONWriter()
    writer.object { object in
      if !hasResponse, let failure {
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
      object.field("url", head?.url ?? call.request.url)
      if let instance = call.instance {
        object.key("instance")
        object.object { fields in
          fields.field("id", instance.id)
          fields.field("address", instance.address)
          fields.field("port", instance.port)
        }
      }
      object.field("attempts", call.attempts)
      object.key("time")
      object.seconds(seconds)
    }
    return writer.value
  }
}
