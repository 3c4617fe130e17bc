import DequeModule
import Synchronization

/// Hands what the callers of a ``Broker`` publish to a `PublisherDriver`. Touched on the loop's thread alone.
final class PublishingMember: PublisherHost, @unchecked Sendable {
  /// A message that a caller waits for.
  final class Request: Sendable {
    private enum State {
      case new
      case waiting(CheckedContinuation<Void, any Error>)
      case over
    }

    let message: AMQPMessage
    private let state = Mutex(State.new)

    init(_ message: AMQPMessage) { self.message = message }

    /// - Returns: whether its caller waits; not where it has given up before.
    func wait(_ continuation: CheckedContinuation<Void, any Error>) -> Bool {
      let isWaiting = state.withLock { state in
        guard case .new = state else { return false }
        state = .waiting(continuation)
        return true
      }
      if !isWaiting { continuation.resume(throwing: CancellationError()) }
      return isWaiting
    }

    func end(with result: Result<Void, any Error>) {
      let before = state.withLock { state in
        defer { state = .over }
        return state
      }
      if case .waiting(let continuation) = before { continuation.resume(with: result) }
    }

    /// Its caller does not wait any more, also where the thread is held up. What is in flight is confirmed unseen.
    func cancel() { end(with: .failure(CancellationError())) }

    var isOver: Bool { state.withLock { if case .over = $0 { true } else { false } } }
  }

  private let uris: [AMQPURI]
  private let options: Broker.Options
  private weak var loop: EventLoop?
  /// Nil where nothing was published yet, or the last one has failed.
  private var driver: PublisherDriver?
  /// Not handed to the publisher yet.
  private var requests = Deque<Request>()
  /// Handed to it, by their numbers.
  private var inFlight: [Int: Request] = [:]
  private var lastNumber = 0
  /// Who waits for the first connection.
  private var connecting: [CheckedContinuation<Void, any Error>] = []

  init(_ uris: [AMQPURI], _ options: Broker.Options) { (self.uris, self.options) = (uris, options) }

  // MARK: What callers ask for

  /// Connects, or fails at once.
  func connect(on loop: EventLoop, _ continuation: CheckedContinuation<Void, any Error>) {
    connecting.append(continuation)
    begin(on: loop, waitingFor: .zero)
  }

  func publish(_ request: Request, on loop: EventLoop, _ continuation: CheckedContinuation<Void, any Error>) {
    guard request.wait(continuation) else { return }
    requests.append(request)
    begin(on: loop, waitingFor: options.reconnectFor)
  }

  /// What is not confirmed is given up, and the connection is closed.
  func close() {
    guard let driver else { return }
    driver.tell(.failed(MessagingError.closed.failure))
    let loop = EventLoop(driver)
    while !driver.isOver { loop.turn() }
  }

  private func begin(on loop: EventLoop, waitingFor time: Duration) {
    guard driver == nil else { return }
    var plan = Publisher.Options()
    plan.connectFor = time
    plan.window = options.window
    plan.confirmTimeout = options.confirmTimeout
    plan.reconnectFor = options.reconnectFor
    let driver = PublisherDriver(plan, self)
    (self.driver, self.loop) = (driver, loop)
    loop.add(driver)
  }

  // MARK: What the driver asks for

  var hasInput: Bool { !requests.isEmpty }

  func nextInput() -> Publisher.Event? {
    while let request = requests.popFirst() {
      guard !request.isOver else { continue }
      lastNumber += 1
      var message = request.message
      message.number = lastNumber
      inFlight[lastNumber] = request
      return .message(OutgoingMessage(message))
    }
    return nil
  }

  var isReady: Bool { true }
  func connect() -> any BrokerOpening { AMQPOpening(anyOf: uris, name: options.name, trace: nil) }
  func confirmed(_ outgoing: OutgoingMessage, isInOrder: Bool) { settle(outgoing.message.number, nil) }
  func failed(_ outgoing: OutgoingMessage, _ reason: Publisher.Reason) {
    settle(outgoing.message.number, reason.failure)
  }
  func reply(_ message: AMQPMessage) {}
  func note(_ note: Publisher.Note, _ driver: PublisherDriver) {}
  func addInterests(to polls: inout PollSet) {}
  var wakeTime: Deadline { .never }

  func work(_ driver: PublisherDriver) {
    if driver.publisher.hasOpened {
      for continuation in connecting { continuation.resume() }
      connecting = []
    }
    guard driver === self.driver, let cause = driver.publisher.cause else { return }
    self.driver = nil
    fail(failure(cause, driver.uri))
  }

  func ended(_ driver: PublisherDriver) { loop?.remove(driver) }

  private func settle(_ number: Int, _ failure: Failure?) {
    inFlight.removeValue(forKey: number)?.end(with: failure.map { .failure($0) } ?? .success(()))
  }

  /// What waits fails; what comes after it begins anew.
  private func fail(_ failure: Failure) {
    let waiting = inFlight.sorted { $0.key < $1.key }.map(\.value) + requests
    (inFlight, requests) = ([:], [])
    for request in waiting { request.end(with: .failure(failure)) }
    for continuation in connecting { continuation.resume(throwing: failure) }
    connecting = []
  }

  private func failure(_ cause: Publisher.Cause, _ uri: AMQPURI) -> Failure {
    switch cause {
    case .unconnected(let failure), .driver(let failure), .input(let failure), .output(let failure): return failure
    case .broker(let error), .unprepared(let error), .repeatedBreaks(let error, _, _, _): return error.failure(uri)
    case .unconfirmed(let blocked):
      return MessagingError.unconfirmed(within: options.confirmTimeout, blocked: blocked).failure
    case .interrupted, .noReply: return MessagingError.closed.failure
    }
  }
}

extension Publisher.Reason {
  fileprivate var failure: Failure {
    switch self {
    case .returned(let code, let text): MessagingError.returned(code: code, text).failure
    case .nacked: MessagingError.nacked.failure
    case .refused(let error): MessagingError.refused(error).failure
    case .tooLarge(let limit): MessagingError.tooLarge(limit: limit).failure
    case .unsendable(let error): MessagingError.unsendable(error).failure
    }
  }
}
