/// Carries out the calls of a ``ServiceClient``. Touched on the loop's thread alone, once it has begun there.
final class ServiceMember: LoopMember, @unchecked Sendable {
  /// A call that a caller waits for.
  final class Call: @unchecked Sendable {
    fileprivate let service: String
    fileprivate let request: HTTPRequest
    fileprivate let retries: Int
    fileprivate let deadline: Deadline
    fileprivate var driver: CallDriver?
    fileprivate var continuation: CheckedContinuation<ServiceClient.Response, any Error>?
    fileprivate var isCancelled = false
    /// Its place in the line, as long as it waits for others to end.
    fileprivate var place: Int?

    init(_ service: String, _ request: HTTPRequest, retries: Int, until deadline: Deadline) {
      (self.service, self.request, self.retries, self.deadline) = (service, request, retries, deadline)
    }
  }

  let agent: ConsulAgent
  /// For the addresses of registrations.
  let resolver = HostResolver()
  private let options: ServiceClient.Options
  private let http: HTTPClient
  private let run: DirectoryDriver
  /// Those that have begun and are not over, by their numbers.
  private var calls: [Int: Call] = [:]
  /// Of these the ones that go on by time: they look up, or wait to be tried again.
  private var timed: Set<Int> = []
  private var lastNumber = 0
  /// Those that have not begun.
  private var line = WaitingLine<Call>()

  init(_ consul: ConsulAgent.Settings, _ options: ServiceClient.Options) throws(Failure) {
    do throws(HTTPError) { http = try HTTPClient() } catch { throw error.failure(reaching: consul.address.shown) }
    agent = ConsulAgent(consul, over: http)
    self.options = options
    var rules = ServiceDirectory.Options()
    rules.retries = options.retries
    rules.attemptTimeout = options.attemptTimeout
    rules.keepsOrder = options.selection.near != nil
    run = DirectoryDriver(rules, agent, options.selection, over: http)
  }

  func begin(on loop: EventLoop) {
    loop.add(http)
    loop.add(resolver)
    loop.add(self)
  }

  // MARK: What callers ask for

  func begin(_ call: Call, _ continuation: CheckedContinuation<ServiceClient.Response, any Error>) {
    guard !call.isCancelled else { return continuation.resume(throwing: CancellationError()) }
    call.continuation = continuation
    guard calls.count >= parallel else { return start(call) }
    call.place = line.add(call, until: call.deadline)
  }

  private func start(_ call: Call) {
    lastNumber += 1
    let machine = ServiceCall(
      .service(call.service), RetryPolicy(isIdempotent: call.request.isIdempotent), retries: call.retries,
      attemptTimeout: options.attemptTimeout, until: call.deadline, run.split())
    let driver = CallDriver(lastNumber, call.request, machine, run)
    call.driver = driver
    calls[lastNumber] = call
    driver.start()
    settle(call, driver)
  }

  func cancel(_ call: Call) {
    call.isCancelled = true
    if let place = call.place.take() { line.remove(place) }
    if let driver = call.driver {
      driver.cancel()
      forget(driver)
      call.driver = nil
    }
    call.continuation.take()?.resume(throwing: CancellationError())
    startWaiting()
  }

  // MARK: Waiting

  private var parallel: Int { max(1, options.parallel) }

  /// Begins as many as may be under way, and ends those that have waited too long.
  private func startWaiting() {
    for call in line.popLate(at: .now) {
      call.place = nil
      let error = ServiceError.crowded(service: call.service, parallel: parallel)
      call.continuation.take()?.resume(throwing: error.failure)
    }
    while calls.count < parallel, let call = line.popFirst() {
      call.place = nil
      start(call)
    }
  }

  // MARK: The loop

  var wakeTime: Deadline {
    timed.reduce(min(run.wakeTime, line.wakeTime)) { min($0, calls[$1]?.driver?.wakeTime ?? .never) }
  }

  func addInterests(to polls: inout PollSet) {}

  func proceed() {
    for (number, result) in run.takeLookUps() { move(number) { $0.take(result) } }
    for number in http.takeArrivals() { move(number) { $0.advance() } }
    for number in timed where calls[number]?.driver?.wakeTime.isPast ?? false { move(number) { $0.advance() } }
    startWaiting()
  }

  private func move(_ number: Int, _ step: (CallDriver) -> Void) {
    guard let call = calls[number], let driver = call.driver else { return }
    step(driver)
    settle(call, driver)
  }

  /// Notes what the call waits for, and tells the caller where it is over.
  private func settle(_ call: Call, _ driver: CallDriver) {
    guard driver.isOver else {
      if driver.wakeTime == .never { timed.remove(driver.number) } else { timed.insert(driver.number) }
      return
    }
    forget(driver)
    let result = result(call, driver)
    // The caller may be the last to hold the call, and its driver must end on this thread, as it began.
    call.driver = nil
    call.continuation.take()?.resume(with: result)
  }

  private func forget(_ driver: CallDriver) {
    calls[driver.number] = nil
    timed.remove(driver.number)
  }

  // MARK: The result

  private func result(_ call: Call, _ driver: CallDriver) -> Result<ServiceClient.Response, any Error> {
    switch driver.outcome {
    case .response?:
      guard let head = driver.head, let instance = driver.instance else { break }
      return .success(
        .init(head, driver.body, instance, attempts: driver.attempts, to: call.request.method))
    case .failed(let error)?: return .failure(failure(error, driver))
    case .notFound(let cause)?: return .failure(failure(cause, call.service))
    case nil: break
    }
    return .failure(ServiceError.noResponse(service: call.service).failure)
  }

  private func failure(_ error: HTTPError, _ driver: CallDriver) -> Failure {
    let place = driver.instance.map { "\($0.service) (\($0.id) at \($0.hostPort))" } ?? driver.request.url
    return error.failure(reaching: place)
  }

  private func failure(_ cause: LookUpFailure, _ service: String) -> Failure {
    switch cause {
    case .agent(let failure): failure
    case .nothingPassing(let all):
      (all.isEmpty ? ServiceError.noSuchService(service) : .nothingPassing(service)).failure
    case .late: ConsulError.late.failure(agent.address)
    }
  }
}
