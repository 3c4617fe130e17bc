import MsctlCore

/// One call on its way: carries out what its `ServiceCall` decides, and has its request and response.
final class PendingCall {
  /// Which value of the input it is for, from 1.
  let number: Int
  private let run: CallRun
  private var options: Call.Options { run.options }
  private(set) var request: HTTPRequest
  private let target: CallTarget?
  private var machine: ServiceCall
  /// Why it could not even be begun.
  private var refusal: Failure?
  private var transfer: HTTPTransfer?
  /// When the first attempt began: what a look-up took is the agent's.
  private var started: Deadline?
  private(set) var seconds = 0.0
  /// The body so far, as far as `takeBody` has not taken it.
  private(set) var body: [UInt8] = []
  private var held = HeldBytes(limit: HTTPClient.bodyLimit)

  /// - Parameter instance: the one to be called, where it is no other.
  init(_ number: Int, _ request: HTTPRequest, _ run: CallRun, _ target: CallTarget, at instance: ServiceInstance? = nil)
  {
    self.number = number
    self.run = run
    self.request = request
    self.target = target
    let place: ServiceCall.Target =
      if let instance { .instance(instance) } else if case .service(let name, _) = target { .service(name) } else {
        .url
      }
    machine = ServiceCall(
      place, run.policy, retries: run.options.retries, attemptTimeout: run.options.attemptTimeout,
      until: run.options.deadline(), run.split())
    if run.options.sendsKey { self.request.addIdempotencyKey() }
  }

  /// A call that could not even be begun.
  init(_ number: Int, _ request: HTTPRequest, _ run: CallRun, refused failure: Failure) {
    self.number = number
    self.run = run
    self.request = request
    target = nil
    machine = ServiceCall(.url, run.policy, retries: 0, until: .never, SplitMix(seed: 0))
    refusal = failure
    isOver = true
  }

  // What the machine's actions have said, since each question to the machine copies it.
  /// Whether it has ended.
  private(set) var isOver = false
  /// Whether a response counts, complete.
  private(set) var hasResponse = false
  private var isAttempting = false

  /// Whether there was no instance to call.
  var isUnfound: Bool { if case .notFound? = machine.outcome { true } else { false } }

  var instance: ServiceInstance? { machine.instance }

  /// The head of the response, once it is complete and will not be given up for another attempt.
  var head: HTTPHead? {
    guard let head = transfer?.head, hasResponse || machine.isFinal(head.status) else { return nil }
    return head
  }

  /// When it goes on even if nothing comes.
  var wakeTime: Deadline { isOver || isAttempting ? .never : machine.wakeTime }

  func start() { handle(.started) }

  /// Takes in what the look-up found.
  func take(_ result: Result<[ServiceInstance], LookUpFailure>) {
    switch result {
    case .success(let found): handle(.found(found))
    case .failure(let cause): handle(.notFound(cause))
    }
  }

  /// Takes in what has come; where it is no response that counts, turns to the next attempt.
  func advance() {
    guard !isOver else { return }
    guard isAttempting, let transfer else {
      if machine.wakeTime.isPast { handle(.tick) }
      return
    }
    let piece = transfer.takeBody()
    do { try held.check(body.count + piece.count, "the response") } catch {
      run.http.cancel(transfer)
      return handle(
        .attemptEnded(CallAttempt(.failure(HTTPError(kind: .tooLarge, reason: error.description)), hasSent: true)))
    }
    body += piece
    switch transfer.outcome {
    case nil: break
    case .failure(let error)?: handle(.attemptEnded(CallAttempt(.failure(error), hasSent: transfer.hasSent)))
    case .success?:
      // No response at all is no status that says anything.
      let status = transfer.head?.status ?? 0
      handle(.attemptEnded(CallAttempt(.success(status), hasSent: true, retryAfter: transfer.retryAfter)))
    }
  }

  func cancel() {
    if let transfer, !isOver { run.http.cancel(transfer) }
  }

  /// The part of the body that has come since.
  func takeBody() -> [UInt8] {
    defer { body = [] }
    if !body.isEmpty { handle(.handedOut) }
    return body
  }

  private func handle(_ event: ServiceCall.Event) {
    // Lent by the run, and given back with its memory.
    var actions: [ServiceCall.Action] = []
    swap(&actions, &run.actions)
    defer {
      actions.removeAll(keepingCapacity: true)
      swap(&actions, &run.actions)
    }
    if case .attemptEnded = event { isAttempting = false }
    machine.handle(event, at: .now, in: &run.directory, into: &actions)
    for action in actions {
      switch action {
      case .lookUp(let name, let deadline): run.want(name, by: number, until: deadline)
      case .attempt(let instance, let deadline):
        isAttempting = true
        if started == nil { started = .now }
        begin(instance, until: deadline)
      case .note(let note): run.console.note(note.text(request.url))
      case .end:
        isOver = true
        hasResponse = machine.hasResponse
        seconds = started?.secondsSince ?? 0
      }
    }
  }

  private func begin(_ instance: ServiceInstance?, until deadline: Deadline) {
    body = []
    if let instance {
      request.connectTo = (instance.address, instance.port)
      if let (_, rest) = request.url.cut(at: ":") { request.url = instance.scheme + ":" + rest }
    }
    request.deadline = deadline
    do { transfer = try run.http.start(request, number: number) } catch { handle(.refused(error)) }
  }

  // MARK: The result

  /// Why the call counts as failed; nil where it does not.
  var failure: Failure? {
    if let refusal { return refusal }
    switch hasResponse ? nil : machine.outcome {
    case .notFound(let cause)?:
      guard case .service(let name, let path)? = target else { return nil }
      return run.failure(cause, name, path)
    case .failed(let error)?: return callFailure(error, instance, request, attempts: machine.attempts, options)
    case .response?, nil: break
    }
    guard let head else {
      return Failure(.noResponse(url: request.url))
    }
    return options.isFailure(head.status) ? callFailure(head, request, attempts: machine.attempts, options) : nil
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
      object.field("url", head?.url ?? request.url)
      if let instance {
        object.key("instance")
        object.object { fields in
          fields.field("id", instance.id)
          fields.field("address", instance.address)
          fields.field("port", instance.port)
        }
      }
      object.field("attempts", machine.attempts)
      object.key("time")
      object.seconds(seconds)
    }
    return writer.value
  }
}
