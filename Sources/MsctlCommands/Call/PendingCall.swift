import MsctlCore

/// What all calls of a command have in common. To copy the options for each call would copy every field.
final class CallPlan {
  let options: Call.Options

  init(_ options: Call.Options) { self.options = options }
}

/// One call on its way, to a URL or to one instance after another of a service, until an answer counts.
final class PendingCall {
  /// Which value of the input it is for, from 1.
  let number: Int
  private let plan: CallPlan
  private var options: Call.Options { plan.options }
  private(set) var request: HTTPRequest
  private let target: CallTarget?
  /// The instances that have not been tried.
  private var candidates: [ServiceInstance]
  /// Whether it is for this very instance, so that no other is tried.
  private let isPinned: Bool
  private(set) var instance: ServiceInstance?
  private(set) var attempts = 0
  private var retriesLeft: Int
  private var backoff = Backoff()
  /// Until when the next attempt waits.
  private var pauseEnd: Deadline?
  /// The end of the whole call, all attempts together.
  private let deadline: Deadline
  private var transfer: HTTPTransfer?
  private var refusal: Failure?
  private let started = Deadline.now
  private(set) var seconds = 0.0
  /// Whether a part of the body has gone out, after which there is no other attempt.
  private var isHandedOut = false
  /// The body so far, as far as `takeBody` has not taken it.
  private(set) var body: [UInt8] = []
  private var held = HeldBytes(limit: HTTPClient.bodyLimit)
  /// How it ended; nil while it runs.
  private(set) var outcome: Result<Void, HTTPError>?

  /// - Parameters:
  ///   - deadline: the end of the whole call, of which a look-up may have taken some.
  ///   - target: what is called, where that is a service.
  ///   - candidates: the instances that may be called; none for a URL.
  init(
    _ number: Int, _ request: HTTPRequest, _ plan: CallPlan, until deadline: Deadline,
    service target: CallTarget? = nil, candidates: [ServiceInstance] = [], isPinned: Bool = false
  ) {
    self.number = number
    self.plan = plan
    self.request = request
    self.target = target
    self.candidates = candidates
    self.isPinned = isPinned
    retriesLeft = plan.options.retries
    self.deadline = deadline
    if plan.options.sendsKey { self.request.addIdempotencyKey() }
  }

  /// A call that could not even be begun.
  init(_ number: Int, _ request: HTTPRequest, _ plan: CallPlan, refused failure: Failure) {
    self.number = number
    self.plan = plan
    self.request = request
    target = nil
    candidates = []
    isPinned = false
    retriesLeft = 0
    deadline = .never
    refusal = failure
    outcome = .failure(HTTPError(kind: .malformedURL, reason: failure.message))
  }

  /// The head of the answer, once it is complete and will not be given up for another attempt.
  var head: HTTPHead? {
    guard pauseEnd == nil, let head = transfer?.head else { return nil }
    return outcome == nil && mayTryAgain && RetryPolicy.isTransient(head.status) ? nil : head
  }

  /// When it goes on even if nothing comes.
  var wakeTime: Deadline { pauseEnd ?? .never }

  /// Begins, or begins again with another instance.
  func start(_ http: HTTPClient, _ directory: ServiceDirectory?) {
    attempts += 1
    body = []
    if !candidates.isEmpty, let chosen = directory?.choose(from: &candidates) { instance = chosen }
    if let instance {
      request.connectTo = (instance.address, instance.port)
      if let (_, rest) = request.url.cut(at: ":") { request.url = instance.scheme + ":" + rest }
    }
    request.deadline = min(deadline, options.attemptTimeout.map { .after($0) } ?? .never)
    do { transfer = try http.start(request, number: number) } catch { end(.failure(error)) }
  }

  /// Takes in what has come; where it is no answer that counts, turns to the next attempt.
  func advance(_ http: HTTPClient, _ directory: ServiceDirectory?, _ console: Console) {
    guard outcome == nil, let transfer else { return }
    if let pauseEnd {
      guard pauseEnd.isPast else { return }
      self.pauseEnd = nil
      return start(http, directory)
    }
    let piece = transfer.takeBody()
    do { try held.check(body.count + piece.count, "the response") } catch {
      http.cancel(transfer)
      return end(.failure(HTTPError(kind: .tooLarge, reason: error.message)))
    }
    body += piece
    guard let result = transfer.outcome else { return }
    if let instance, isTrouble(result, transfer) { directory?.leaveAlone(instance) }
    if let pause = pause(after: result, transfer, directory) {
      let cause = cause(of: result, transfer)
      let place = instance.map { "\($0.id) at \($0.hostPort)" } ?? shownURL(request.url)
      if pause == .zero {
        console.note("\(place): \(cause); trying another instance")
        return start(http, directory)
      }
      console.note("\(place): \(cause); trying again in \(pause.shown)")
      pauseEnd = .after(pause)
      body = []
      return
    }
    end(result)
  }

  func cancel(_ http: HTTPClient) {
    if let transfer, outcome == nil { http.cancel(transfer) }
  }

  /// The part of the body that has come since.
  func takeBody() -> [UInt8] {
    defer { body = [] }
    if !body.isEmpty { isHandedOut = true }
    return body
  }

  private func end(_ result: Result<Void, HTTPError>) {
    outcome = result
    seconds = started.secondsSince
  }

  // MARK: Another attempt

  /// Whether there may be another attempt even where this one has reached the service.
  private var mayTryAgain: Bool { retriesLeft > 0 && !isHandedOut && RetryPolicy.mayRepeat(request) }

  /// Whether the instance is worth leaving alone.
  private func isTrouble(_ result: Result<Void, HTTPError>, _ transfer: HTTPTransfer) -> Bool {
    switch result {
    case .failure(let error): RetryPolicy.isTransient(error) || error.kind == .tls
    case .success: transfer.head.map { (502...504).contains($0.status) } ?? false
    }
  }

  /// How long to wait before the next attempt; nil where this one counts. Zero: nothing was sent, and another instance waits.
  private func pause(
    after result: Result<Void, HTTPError>, _ transfer: HTTPTransfer, _ directory: ServiceDirectory?
  ) -> Duration? {
    guard !deadline.isPast else { return nil }
    var wanted: Duration?
    switch result {
    case .failure(let error):
      guard !isHandedOut, RetryPolicy.isTransient(error) else { return nil }
      // Where nothing was sent, the next instance may be asked whatever the method.
      if !transfer.hasSent, !candidates.isEmpty { return .zero }
      guard retriesLeft > 0, !transfer.hasSent || mayTryAgain else { return nil }
    case .success:
      guard mayTryAgain, let head = transfer.head, RetryPolicy.isTransient(head.status) else { return nil }
      // One instance that is busy says nothing of the others; too many requests are too many for all.
      if head.status == 429 || candidates.isEmpty { wanted = transfer.retryAfter }
    }
    let pause = max(backoff.next(), wanted ?? .milliseconds(1))
    guard pause < deadline.remaining, deadline != .never || pause <= RetryPolicy.longestRetryAfter else { return nil }
    if candidates.isEmpty, !isPinned, let instance, case .service(let name, let path)? = target {
      // All have been tried: begin anew with what there is by now, and not with the one that failed just now.
      guard let found = try? directory?.instances(of: name, path: path, until: deadline) else { return nil }
      candidates = found.count > 1 ? found.filter { $0.id != instance.id || $0.node != instance.node } : found
    }
    retriesLeft -= 1
    return pause
  }

  private func cause(of result: Result<Void, HTTPError>, _ transfer: HTTPTransfer) -> String {
    if case .failure(let error) = result { return error.reason }
    return "returned \(transfer.head?.status ?? 0)"
  }

  // MARK: The result

  /// Why the call counts as failed; nil where it does not.
  var failure: Failure? {
    if let refusal { return refusal }
    if case .failure(let error)? = outcome {
      let place = instance.map { "\($0.service) (\($0.id) at \($0.hostPort))" } ?? request.url
      var failure = error.failure(reaching: place)
      if error.kind == .timedOut, failure.hint == nil, options.timeout == nil {
        failure.hint = "Use '--timeout 0' to wait without a limit."
      }
      if attempts > 1 { failure.message += "; \(attempts) attempts" }
      return failure
    }
    guard let head else {
      return Failure(.unreachable, "the connection to \(shownURL(request.url)) broke: there was no response")
    }
    guard options.isFailure(head.status) else { return nil }
    let reason = head.reason.isEmpty ? "" : " " + head.reason
    let tries = attempts > 1 ? ", the last of \(attempts) attempts" : ""
    return Failure(
      head.status >= 500 ? .serverError : .clientError,
      "\(request.method) \(shownURL(head.url)) returned \(head.status)\(reason)\(tries)",
      hint: (300..<400).contains(head.status) && head.header("Location") != nil && !options.follows
        ? "Use '--follow' to follow the redirect." : nil)
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
