import DequeModule

/// Carries out what a `Consumer` decides, for an iteration over ``Broker/Messages``. Touched on the loop's thread alone.
final class ConsumingMember: LoopMember, @unchecked Sendable {
  private let uris: [AMQPURI]
  private let name: String
  private let prefetch: Int
  private unowned let loop: EventLoop
  private let broker: Broker
  /// Nil once consuming has ended: what nobody took of it holds this member.
  private var stream: AsyncThrowingStream<Broker.Message, any Error>.Continuation?
  private var consumer: Consumer
  private var connection: AMQPConnection?
  private var isConnected = false
  private var opening: AMQPOpening?
  /// Another connection, for a question.
  private var probe: AMQPOpening?
  private var pending = Deque<Consumer.Event>()
  private var actions: [Consumer.Action] = []
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
    consumer = Consumer(plan, handler: .init(), seed: .random(in: 0 ... .max), at: .now)
    open()
  }

  private var state: Consumer.HandlerState {
    .init(
      hasRoom: !isOver && outstanding.count < prefetch,
      isFinished: isOver || isAbandoned || isFinishing && outstanding.isEmpty, hasEnded: isOver)
  }

  private func open() { opening = AMQPOpening(anyOf: uris, name: name, trace: nil) }

  // MARK: What callers ask for

  /// - Returns: why nothing becomes of it; nil where it is settled.
  func settle(_ number: Int, _ outcome: Consumer.Settlement.Outcome) -> Failure? {
    guard !consumer.isEnded else {
      return MessagingError.ended.failure
    }
    guard outstanding.remove(number) != nil else { return MessagingError.settledBefore.failure }
    guard consumer.isUnderWay(number) else {
      return MessagingError.ended.failure
    }
    handle(.settled([Consumer.Settlement(number, outcome)], state))
    return nil
  }

  /// No more messages are wanted. What is not settled goes back.
  func finish() {
    isOver = true
    handle(.handler(state))
  }

  // MARK: The loop

  var wakeTime: Deadline {
    // One that had no descriptors is over already.
    if [opening, probe].contains(where: { $0.map { $0.descriptor < 0 } ?? false }) { return .now }
    if isConnected, let connection, connection.hasEvents ? consumer.wantsInput : connection.hasInput { return .now }
    return isConnected ? min(consumer.wakeTime, .after(.seconds(1))) : consumer.wakeTime
  }

  func addInterests(to polls: inout PollSet) {
    for opening in [opening, probe] { if let opening, opening.descriptor >= 0 { polls.add(opening.descriptor) } }
    if isConnected, let connection, !connection.isFull { polls.add(connection.descriptor) }
  }

  func proceed() {
    guard stream != nil else { return }
    takeOpened()
    do throws(AMQPError) {
      while isConnected, consumer.wantsInput, let event = try connection?.nextEvent() { handle(.broker(event)) }
      if isConnected { try connection?.pump() }
    } catch { lose(error) }
    if isConnected, connection?.isCancelled ?? false { handle(.cancelAhead) }
    handle(.turn(hasMore: isConnected && connection?.hasEvents ?? false))
    guard consumer.isEnded else { return }
    connection?.close()
    isConnected = false
    stream?.finish(throwing: isOver ? nil : consumer.cause.map(failure))
    (stream, connection, opening, probe) = (nil, nil, nil, nil)
    loop.remove(self)
  }

  private func takeOpened() {
    if let result = opening?.result {
      opening = nil
      switch result {
      case .success(let connection):
        self.connection = connection
        isConnected = true
        handle(
          .connected(.init(id: connection.id, heartbeat: .seconds(connection.uri.heartbeat), isConsumerAsked: false)))
      case .failure(let failure): handle(.connectFailed(failure))
      }
    }
    if let result = probe?.result {
      probe = nil
      let other = try? result.get()
      handle(.foundElsewhere(other?.setup.hasQueue ?? false))
      other?.close()
    }
  }

  private func lose(_ error: AMQPError, unsent: AMQPMethod? = nil) {
    guard isConnected else { return }
    isConnected = false
    handle(.lost(error, unsent: unsent, unread: connection?.waitingMessages ?? []))
  }

  // MARK: What is decided

  private func handle(_ event: Consumer.Event) {
    pending.append(event)
    // What an action leads to comes after the actions beside it.
    guard pending.count == 1 else { return }
    while let event = pending.first {
      actions.removeAll(keepingCapacity: true)
      consumer.handle(event, at: .now, into: &actions)
      for action in actions { carryOut(action) }
      pending.removeFirst()
    }
  }

  private func carryOut(_ action: Consumer.Action) {
    switch action {
    case .send(let method):
      if case .openChannel = method, connection != nil { isConnected = true }
      guard isConnected, let connection else { return }
      do { try connection.send(method) } catch { lose(error, unsent: method) }
    case .take(let number, let delivery):
      outstanding.insert(number)
      stream?.yield(
        Broker.Message(
          content: delivery.message, isRedelivered: delivery.redelivered, number: number, member: self, broker: broker))
      handle(.taken(state))
    case .finish:
      isFinishing = true
      handle(.handler(state))
    case .flush: handle(.flushed)
    case .connect: open()
    case .stopConnecting: opening = nil
    case .disconnect:
      isConnected = false
      connection?.close()
    case .close:
      connection?.close()
      isConnected = false
      handle(.closed)
    case .askElsewhere:
      var setup = AMQPConnection.Setup()
      setup.queue = consumer.queue
      probe = AMQPOpening(anyOf: uris, name: name, setup, trace: nil)
    case .save(let delivery, _): handle(.saved(delivery, false))
    // Its tasks are the caller's own.
    case .terminate:
      isAbandoned = true
      handle(.handler(state))
    case .renew, .discardOutput, .dropBodies, .note, .report: break
    }
  }

  private func failure(_ cause: Consumer.Cause) -> Failure {
    let uri = connection?.uri ?? uris.first ?? AMQPURI()
    switch cause {
    case .broker(let error), .repeatedBreaks(let error, _, _, _): return error.failure(uri)
    case .unconnected(let failure), .handling(let failure), .output(let failure): return failure
    case .queueDeleted: return MessagingError.queueDeleted(consumer.queue).failure
    case .consumerTimeout(let reason):
      return MessagingError.consumerTimeout(queue: consumer.queue, reason).failure
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
    member?.finish()
    member = nil
  }
}
