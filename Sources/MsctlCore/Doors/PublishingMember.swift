import DequeModule
import Synchronization

/// Carries out what a `Publisher` decides, for the callers of a ``Broker``. Touched on the loop's thread alone.
final class PublishingMember: LoopMember, @unchecked Sendable {
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

  /// How much is sent, in bytes, before others have their turn.
  private static let burst = 256 << 10

  private let uris: [AMQPURI]
  private let options: Broker.Options
  private var isInLoop = false
  /// Nil where nothing was published yet, or the last one has failed.
  private var publisher: Publisher?
  private var connection: AMQPConnection?
  private var isConnected = false
  private var opening: AMQPOpening?
  private var pending = Deque<Publisher.Event>()
  private var actions: [Publisher.Action] = []
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

  /// What is not confirmed is given up.
  func close() {
    connection?.close()
    isConnected = false
    fail(MessagingError.closed.failure)
  }

  private func begin(on loop: EventLoop, waitingFor time: Duration) {
    guard publisher == nil else { return }
    if !isInLoop { loop.add(self) }
    isInLoop = true
    var plan = Publisher.Options()
    plan.connectFor = time
    plan.window = options.window
    plan.confirmTimeout = options.confirmTimeout
    plan.reconnectFor = options.reconnectFor
    publisher = Publisher(plan, seed: .random(in: 0 ... .max), at: .now)
    open()
  }

  private func open() { opening = AMQPOpening(anyOf: uris, name: options.name, trace: nil) }

  // MARK: The loop

  var wakeTime: Deadline {
    guard let publisher else { return .never }
    // One that had no descriptors is over already.
    if let opening, opening.descriptor < 0 { return .now }
    if publisher.wantsMessage && !requests.isEmpty || isConnected && connection?.hasInput ?? false { return .now }
    // Heartbeats are answered while events are taken.
    return isConnected ? min(publisher.wakeTime, .after(.seconds(1))) : publisher.wakeTime
  }

  func addInterests(to polls: inout PollSet) {
    if let opening, opening.descriptor >= 0 { polls.add(opening.descriptor) }
    if isConnected, let connection { polls.add(connection.descriptor) }
  }

  func proceed() {
    takeOpened()
    // Between large messages the broker is listened to: it may want no more.
    var sent = 0
    while sent < Self.burst, publisher?.wantsMessage ?? false, let request = requests.popFirst() {
      guard !request.isOver else { continue }
      sent += request.message.body.count
      handOn(request)
    }
    read()
    if publisher != nil { handle(.tick) }
    guard let cause = publisher?.cause else { return }
    isConnected = false
    connection?.close()
    fail(failure(cause))
    connection = nil
  }

  private func handOn(_ request: Request) {
    lastNumber += 1
    var message = request.message
    message.number = lastNumber
    inFlight[lastNumber] = request
    handle(.message(OutgoingMessage(message)))
  }

  private func takeOpened() {
    guard let result = opening?.result else { return }
    opening = nil
    switch result {
    case .success(let connection):
      self.connection = connection
      isConnected = true
      connection.limitStall(to: options.confirmTimeout)
      handle(.connected(.bare))
    case .failure(let failure): handle(.connectFailed(failure))
    }
  }

  private func read() {
    do throws(AMQPError) {
      while isConnected, let event = try connection?.nextEvent() { handle(.broker(event)) }
    } catch { lose(error) }
    guard publisher?.hasOpened ?? false else { return }
    for continuation in connecting { continuation.resume() }
    connecting = []
  }

  private func lose(_ error: AMQPError) {
    guard isConnected else { return }
    isConnected = false
    handle(.lost(error))
  }

  // MARK: What is decided

  private func handle(_ event: Publisher.Event) {
    pending.append(event)
    // What an action leads to comes after the actions beside it.
    guard pending.count == 1 else { return }
    while let event = pending.first {
      actions.removeAll(keepingCapacity: true)
      publisher?.handle(event, at: .now, into: &actions)
      for action in actions { carryOut(action) }
      pending.removeFirst()
    }
  }

  private func carryOut(_ action: Publisher.Action) {
    switch action {
    case .send(let method): send(method)
    case .connect: open()
    case .disconnect:
      isConnected = false
      connection?.close()
    case .confirmed(let outgoing): settle(outgoing.message.number, nil)
    case .failed(let outgoing, let reason): settle(outgoing.message.number, reason.failure)
    case .reply, .note: break
    }
  }

  private func send(_ method: AMQPMethod) {
    if case .openChannel = method { isConnected = true }
    guard isConnected, let connection else { return }
    do { try connection.send(method) } catch {
      if error.kind == .invalid, case .publish(let message) = method {
        handle(.unsendable(number: message.number, error))
      } else {
        lose(error)
      }
    }
  }

  private func settle(_ number: Int, _ failure: Failure?) {
    inFlight.removeValue(forKey: number)?.end(with: failure.map { .failure($0) } ?? .success(()))
  }

  /// What waits fails; what comes after it begins anew.
  private func fail(_ failure: Failure) {
    publisher = nil
    opening = nil
    let waiting = inFlight.sorted { $0.key < $1.key }.map(\.value) + requests
    (inFlight, requests) = ([:], [])
    for request in waiting { request.end(with: .failure(failure)) }
    for continuation in connecting { continuation.resume(throwing: failure) }
    connecting = []
  }

  private func failure(_ cause: Publisher.Cause) -> Failure {
    let uri = connection?.uri ?? uris.first ?? AMQPURI()
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
