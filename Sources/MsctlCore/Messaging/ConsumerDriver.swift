import DequeModule

/// Who handles the messages that a `ConsumerDriver` brings, and says what is to be seen of the run.
package protocol ConsumerHost: AnyObject {
  /// How it stands with the messages that were taken.
  var state: Consumer.HandlerState { get }

  func take(_ number: Int, _ delivery: AMQPDelivery) throws(Failure)
  /// The message of this number was delivered anew, by another connection.
  func renew(_ number: Int, _ delivery: AMQPDelivery)
  /// For a while no more messages may come.
  func startBatch()
  /// No more messages come.
  func finish()
  /// Time is up: processes are told to end.
  func terminate()
  /// - Returns: whether all that was written is out. Otherwise `flushed` or `outputLost` is told to the driver, later.
  func flush() -> Bool
  func discardOutput()
  /// Publishes a message again that must not go back to the queue; `saved` is told to the driver.
  func save(_ delivery: AMQPDelivery, returnsLeft: Int, _ driver: ConsumerDriver)
  /// All of the stream that comes before this offset is handled: see `Consumer.Options.keepsPlace`.
  func keepPlace(_ offset: Int64) throws(Failure)
  func note(_ note: Consumer.Note, _ driver: ConsumerDriver)
  func report(_ cause: Consumer.Cause, _ driver: ConsumerDriver)

  /// Opens another connection.
  func connect() throws(Failure) -> any BrokerOpening
  /// Opens another one for a question: whether the queue is there.
  func connect(askingFor queue: String) throws(Failure) -> any BrokerOpening

  /// Its part of each turn: it tells the driver what has become of messages, and whatever else has happened.
  func work(_ driver: ConsumerDriver)
  /// All is over, and the connections are closed.
  func ended(_ driver: ConsumerDriver)
  func addInterests(to polls: inout PollSet)
  /// When it goes on even if nothing happens.
  var wakeTime: Deadline { get }
}

extension ConsumerHost {
  package func keepPlace(_ offset: Int64) throws(Failure) {}
  package func startBatch() {}
}

/// Hands to a `Consumer` what happens on its connections, and carries out what it decides.
package final class ConsumerDriver: LoopMember {
  package private(set) var consumer: Consumer
  private let host: any ConsumerHost
  private let clock: () -> Deadline
  private var now: Deadline
  private var link = BrokerLink()
  /// Another connection, for a question.
  private var probe: (any BrokerOpening)?
  /// What the consumer was told last of its handler.
  private var state: Consumer.HandlerState
  private var events = Deque<Consumer.Event>()
  private var actions: [Consumer.Action] = []
  private var isHandling = false
  /// Whether all is over.
  package private(set) var isOver = false

  /// - Parameters:
  ///   - connection: on which the queue is there; nil: one is opened.
  ///   - clock: the time.
  package init(
    _ plan: Consumer.Options, _ host: any ConsumerHost, on connection: (any BrokerConnection)? = nil,
    seed: UInt64 = .random(in: 0 ... .max), clock: @escaping () -> Deadline = { .now }
  ) {
    (self.host, self.clock) = (host, clock)
    now = clock()
    state = host.state
    consumer = Consumer(plan, handler: state, seed: seed, at: now)
    if let connection {
      link.take(connection)
      connected(connection)
    } else {
      connect()
    }
  }

  /// The broker of the last connection.
  package var uri: AMQPURI { link.uri }

  // MARK: What happens

  /// Goes on as far as it can.
  package func proceed() {
    guard !isOver else { return }
    now = clock()
    if !consumer.isEnded {
      read()
      host.work(self)
      noteState()
      takeOpened()
      takeClosed()
      handle(.turn(hasMore: link.hasEvents))
      pump()
    }
    if consumer.isEnded {
      link.disconnect()
      probe = nil
    }
    link.moveLeaving()
    guard consumer.isEnded, link.isOver else { return }
    isOver = true
    host.ended(self)
  }

  /// Something has happened that the host knows of.
  package func tell(_ event: Consumer.Event) {
    now = clock()
    handle(event)
  }

  /// What was written for these messages stands in the output.
  package func settled(_ settlements: [Consumer.Settlement]) {
    state = host.state
    tell(.settled(settlements, state))
  }

  private func noteState() {
    let state = host.state
    guard state != self.state else { return }
    self.state = state
    tell(.handler(state))
  }

  /// Takes what the broker has sent, as far as it is wanted.
  private func read() {
    do throws(AMQPError) {
      while consumer.wantsInput, let event = try link.next() { handle(.broker(event)) }
    } catch { lost(error) }
  }

  /// Takes in what is not wanted yet, so that heartbeats go on.
  private func pump() {
    do throws(AMQPError) { try link.pump() } catch { return lost(error) }
    if link.isCancelled { handle(.cancelAhead) }
  }

  private func lost(_ error: AMQPError, unsent: AMQPMethod? = nil) {
    handle(.lost(error, unsent: unsent, unread: link.unread))
  }

  /// What has become of connections that were being opened.
  private func takeOpened() {
    do throws(Failure) {
      if let connection = try link.takeOpened() { connected(connection) }
    } catch { handle(.connectFailed(error)) }
    guard let probe else { return }
    var isFound = false
    do throws(Failure) {
      guard let connection = try probe.opened() else { return }
      isFound = connection.setup.hasQueue
      link.leave(connection)
    } catch {}
    self.probe = nil
    handle(.foundElsewhere(isFound))
  }

  private func connected(_ connection: any BrokerConnection) {
    let setup = connection.setup
    handle(
      .connected(
        .init(
          id: connection.id, heartbeat: .seconds(connection.uri.heartbeat), isConsumerAsked: setup.hasConsumer)))
    if let tag = setup.consumer {
      handle(.broker(.consuming(tag: tag)))
    } else if setup.hasConsumer, let error = setup.error {
      link.lose()
      lost(error)
    }
  }

  private func takeClosed() {
    do throws(AMQPError) { if try link.hasClosed() { handle(.closed) } } catch { lost(error) }
  }

  // MARK: What is decided

  private func handle(_ event: Consumer.Event) {
    // What comes of an action is handed in after all of them are carried out.
    guard !isHandling else { return events.append(event) }
    isHandling = true
    decide(event)
    while let event = events.popFirst() { decide(event) }
    isHandling = false
  }

  private func decide(_ event: Consumer.Event) {
    actions.removeAll(keepingCapacity: true)
    consumer.handle(event, at: now, into: &actions)
    for action in actions { carryOut(action) }
  }

  private func carryOut(_ action: Consumer.Action) {
    switch action {
    case .send(let method): do { try link.send(method) } catch { lost(error, unsent: method) }
    case .take(let number, let delivery): take(number, delivery)
    case .renew(let number, let delivery): host.renew(number, delivery)
    case .startBatch:
      host.startBatch()
      state = host.state
      handle(.handler(state))
    case .finish:
      host.finish()
      state = host.state
      handle(.handler(state))
    case .terminate: host.terminate()
    case .flush: if host.flush() { handle(.flushed) }
    case .discardOutput: host.discardOutput()
    case .connect: connect()
    case .stopConnecting: link.stopOpening()
    case .disconnect: link.disconnect()
    case .close: link.close()
    case .dropBodies: link.dropBodies()
    case .save(let delivery, let left): host.save(delivery, returnsLeft: left, self)
    case .keepPlace(let offset): do { try host.keepPlace(offset) } catch { handle(.handlerFailed(error)) }
    case .askElsewhere:
      do { probe = try host.connect(askingFor: consumer.queue) } catch { handle(.foundElsewhere(false)) }
    case .note(let note): host.note(note, self)
    case .report(let cause): host.report(cause, self)
    }
  }

  private func take(_ number: Int, _ delivery: AMQPDelivery) {
    var settlements: [Consumer.Settlement] = []
    do { try host.take(number, delivery) } catch {
      handle(.handlerFailed(error))
      settlements = [Consumer.Settlement(number, .requeue)]
    }
    state = host.state
    handle(.taken(state))
    if !settlements.isEmpty { handle(.settled(settlements, state)) }
  }

  private func connect() {
    do { link.open(try host.connect()) } catch { handle(.connectFailed(error)) }
  }

  // MARK: The loop

  package func addInterests(to polls: inout PollSet) {
    link.addInterests(to: &polls)
    guard !consumer.isEnded else { return }
    if let probe, probe.descriptor >= 0 { polls.add(probe.descriptor) }
    host.addInterests(to: &polls)
  }

  package var wakeTime: Deadline {
    if isOver || consumer.isEnded && (link.isUsed || link.isOver) { return .past }
    let time = link.wakeTime(wantsInput: consumer.wantsInput)
    guard !consumer.isEnded else { return time }
    if let probe, probe.descriptor < 0 { return .past }
    return min(time, consumer.wakeTime, host.wakeTime)
  }
}
