/// Hands on the messages of a `ConsumerDriver`, for an iteration over ``Broker/Messages``. Touched on the loop's thread alone.
final class ConsumingMember: ConsumerHost, @unchecked Sendable {
  private let uris: [AMQPURI]
  private let name: String
  private let prefetch: Int
  private unowned let loop: EventLoop
  private let broker: Broker
  /// Nil once consuming has ended: what nobody took of it holds this member.
  private var stream: AsyncThrowingStream<Broker.Message, any Error>.Continuation?
  private var driver: ConsumerDriver?
  /// How many messages were handed out and are not settled.
  private var outstanding: Set<Int> = []
  /// Whether no more come, and what is handed out may still be settled.
  private var isFinishing = false
  /// Whether the time for that is over.
  private var isAbandoned = false
  /// Whether nobody takes messages any more.
  private var isOver = false

  init(
    _ uris: [AMQPURI], _ options: Broker.Options, _ queue: String, _ prefetch: Int, _ loop: EventLoop,
    _ broker: Broker, _ stream: AsyncThrowingStream<Broker.Message, any Error>.Continuation
  ) {
    (self.uris, self.prefetch, self.loop, self.broker, self.stream) = (uris, prefetch, loop, broker, stream)
    name = options.name
    var plan = Consumer.Options(.queue(queue))
    plan.handling = .commands(parallel: prefetch)
    plan.prefetch = prefetch
    (plan.connectFor, plan.reconnectFor) = (options.reconnectFor, options.reconnectFor)
    plan.began = unixTime()
    let driver = ConsumerDriver(plan, self)
    self.driver = driver
    loop.add(driver)
  }

  // MARK: What callers ask for

  /// - Returns: why nothing becomes of it; nil where it is settled.
  func settle(_ number: Int, _ outcome: Consumer.Settlement.Outcome) -> Failure? {
    guard let driver, !driver.consumer.isEnded else {
      return MessagingError.ended.failure
    }
    guard outstanding.remove(number) != nil else { return MessagingError.settledBefore.failure }
    guard driver.consumer.isUnderWay(number) else {
      return MessagingError.ended.failure
    }
    driver.settled([Consumer.Settlement(number, outcome)])
    return nil
  }

  /// No more messages are wanted. What is not settled goes back.
  func stop() {
    isOver = true
    driver?.tell(.handler(state))
  }

  // MARK: What the driver asks for

  var state: Consumer.HandlerState {
    .init(
      hasRoom: !isOver && outstanding.count < prefetch,
      isFinished: isOver || isAbandoned || isFinishing && outstanding.isEmpty, hasEnded: isOver)
  }

  func take(_ number: Int, _ delivery: AMQPDelivery) {
    outstanding.insert(number)
    stream?.yield(
      Broker.Message(
        content: delivery.message, isRedelivered: delivery.redelivered, number: number, member: self, broker: broker))
  }

  func finish() { isFinishing = true }

  /// Its tasks are the caller's own.
  func terminate() { isAbandoned = true }

  func flush() -> Bool { true }
  func save(_ delivery: AMQPDelivery, returnsLeft: Int, _ driver: ConsumerDriver) {
    driver.tell(.saved(delivery, false))
  }
  func renew(_ number: Int, _ delivery: AMQPDelivery) {}
  func discardOutput() {}
  func note(_ note: Consumer.Note, _ driver: ConsumerDriver) {}
  func report(_ cause: Consumer.Cause, _ driver: ConsumerDriver) {}

  func connect() -> any BrokerOpening { AMQPOpening(anyOf: uris, name: name, trace: nil) }

  func connect(askingFor queue: String) -> any BrokerOpening {
    var setup = AMQPConnection.Setup()
    setup.queue = queue
    return AMQPOpening(anyOf: uris, name: name, setup, trace: nil)
  }

  func work(_ driver: ConsumerDriver) {}
  func addInterests(to polls: inout PollSet) {}
  var wakeTime: Deadline { .never }

  func ended(_ driver: ConsumerDriver) {
    stream?.finish(throwing: isOver ? nil : driver.consumer.cause.map { failure($0, driver) })
    loop.remove(driver)
    (stream, self.driver) = (nil, nil)
  }

  private func failure(_ cause: Consumer.Cause, _ driver: ConsumerDriver) -> Failure {
    let (uri, queue) = (driver.uri, driver.consumer.queue)
    switch cause {
    case .broker(let error), .repeatedBreaks(let error, _, _, _): return error.failure(uri)
    case .unconnected(let failure), .handling(let failure), .output(let failure): return failure
    case .queueDeleted: return MessagingError.queueDeleted(queue).failure
    case .consumerTimeout(let reason):
      return MessagingError.consumerTimeout(queue: queue, reason).failure
    case .unacknowledged(let count, let error):
      return error?.failure(uri) ?? MessagingError.unacknowledged(count).failure
    case .interrupted, .tooFew, .neverEmpties, .spent, .rejected, .noMessages:
      return MessagingError.ended.failure
    }
  }
}

/// Where the member of an iteration is found, once there is one. Touched on the loop's thread alone.
final class ConsumingPlace: @unchecked Sendable {
  var member: ConsumingMember?
  private(set) var isOver = false

  /// Nobody iterates any more.
  func end() {
    isOver = true
    member?.stop()
    member = nil
  }
}
