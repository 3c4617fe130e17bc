/// One call on its way: carries out what its `ServiceCall` decides, and has its request and response.
package final class CallDriver {
  /// What the HTTP client and the directory tell of it.
  package let number: Int
  private let run: DirectoryDriver
  package private(set) var request: HTTPRequest
  private var machine: ServiceCall
  private var transfer: HTTPTransfer?
  /// What the attempt before this one got, while it may still count.
  private var before: (transfer: HTTPTransfer?, body: [UInt8]) = (nil, [])
  /// When the first attempt began: what a look-up took is the agent's.
  private var started: Deadline?
  package private(set) var seconds = 0.0
  /// The body so far, as far as `takeBody` has not taken it.
  package private(set) var body: [UInt8] = []
  private var held = HeldBytes(limit: HTTPClient.bodyLimit)

  // What the machine's actions have said, since each question to the machine copies it.
  /// Whether it has ended.
  package private(set) var isOver = false
  /// Whether a response counts, complete.
  package private(set) var hasResponse = false
  private var isAttempting = false

  package init(_ number: Int, _ request: HTTPRequest, _ machine: ServiceCall, _ run: DirectoryDriver) {
    (self.number, self.request, self.machine, self.run) = (number, request, machine, run)
  }

  /// How it ended; nil while it runs.
  package var outcome: ServiceCall.Outcome? { machine.outcome }
  package var instance: ServiceInstance? { machine.instance }
  package var attempts: Int { machine.attempts }
  package var retries: Int { machine.retries }

  /// The head of the response, once it is complete and will not be given up for another attempt.
  package var head: HTTPHead? {
    guard let head = transfer?.head, hasResponse || machine.isFinal(head.status) else { return nil }
    return head
  }

  /// The cookies after the last attempt, where any are kept.
  package var cookies: [String] { transfer?.cookies ?? [] }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline { isOver || isAttempting ? .never : machine.wakeTime }

  package func start() { handle(.started) }

  /// Takes in what the look-up found.
  package func take(_ result: Result<[ServiceInstance], LookUpFailure>) {
    guard !isOver else { return }
    switch result {
    case .success(let found): handle(.found(found))
    case .failure(let cause): handle(.notFound(cause))
    }
  }

  /// Takes in what has come; where it is no response that counts, turns to the next attempt.
  package func advance() {
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
    case .failure(let error)?:
      handle(
        .attemptEnded(
          CallAttempt(.failure(error), hasSent: transfer.hasSent, hasHead: transfer.head != nil)))
    case .success?:
      // No response at all is no status that says anything.
      let status = transfer.head?.status ?? 0
      handle(
        .attemptEnded(CallAttempt(.success(status), hasSent: true, hasHead: true, retryAfter: transfer.retryAfter)))
    }
  }

  /// Gives it up, without an outcome.
  package func cancel() {
    guard !isOver else { return }
    isOver = true
    if let transfer { run.http.cancel(transfer) }
  }

  /// The part of the body that has come since. Once there was any, there is no other attempt.
  package func takeBody() -> [UInt8] {
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
      case .note(let note): run.note(.call(note, url: request.url))
      case .takeBack: (transfer, body) = before
      case .end:
        isOver = true
        before = (nil, [])
        hasResponse = machine.hasResponse
        seconds = started?.secondsSince ?? 0
      }
    }
  }

  private func begin(_ instance: ServiceInstance?, until deadline: Deadline) {
    before = (transfer, body)
    body = []
    if let instance {
      request.connectTo = (instance.address, instance.port)
      if let (_, rest) = request.url.cut(at: ":") { request.url = instance.scheme + ":" + rest }
    }
    request.deadline = deadline
    do { transfer = try run.http.start(request, number: number) } catch { handle(.refused(error)) }
  }
}
