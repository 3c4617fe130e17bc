import DequeModule
import Glibc
import MsctlCore

/// One run of `consume`: hands to a `Consumer` what happens, and carries out what it decides.
///
/// A struct, since the access to a class's properties is checked each time, which cost a tenth of consuming a message.
struct ConsumeRun: ~Copyable {
  /// How long what is written may take to get out once the run is interrupted.
  private static let outputPatience: Duration = .seconds(2)

  private let options: Consume.Options
  private let handler: any MessageHandler
  private let console: Console
  private let signals: Signals
  private var consumer: Consumer
  private var names: ConsumeNames
  private(set) var connection: AMQPConnection
  /// Whether it stands, as far as is known.
  private var isConnected = true
  private var opening: AMQPOpening?
  /// Another connection, for a question.
  private var probe: AMQPOpening?
  private var saver: SpentMessages?
  private var events = Deque<Consumer.Event>()
  private var isHandling = false
  private var actions: [Consumer.Action] = []
  private var state: Consumer.HandlerState
  /// Whether the consumer waits for all to be written out.
  private var isFlushAsked = false
  /// Whether the output did not take all of what was written.
  private var isOutputBusy = false
  /// When what it did not take is dropped.
  private var outputEnd = Deadline.never
  private var isOutputLost = false

  /// - Parameter connection: its channel is open, and the queue is there.
  init(
    _ options: Consume.Options, _ plan: Consumer.Options, _ connection: AMQPConnection, _ handler: any MessageHandler,
    _ saver: SpentMessages?, _ console: Console, _ signals: Signals
  ) {
    (self.options, self.connection, self.handler, self.saver) = (options, connection, handler, saver)
    (self.console, self.signals) = (console, signals)
    state = handler.state
    consumer = Consumer(plan, handler: state, seed: .random(in: 0 ... .max), at: .now)
    names = ConsumeNames(
      broker: options.broker, queue: consumer.queue, uri: connection.uri, isStream: plan.traits.isStream,
      start: options.startWord)
  }

  mutating func run() throws(Failure) {
    let setup = connection.setup
    handle(.connected(connected(isConsumerAsked: setup.hasConsumer)))
    if let tag = setup.consumer {
      handle(.broker(.consuming(tag: tag)))
    } else if setup.hasConsumer, let error = setup.error {
      lose(error)
    }
    while !consumer.isEnded {
      proceed()
      var polls = PollSet()
      addInterests(to: &polls)
      if !consumer.isEnded { polls.wait(until: wakeTime) }
    }
    saver?.close()
    if let cause = consumer.cause { throw failure(cause) }
  }

  /// Goes on as far as it can.
  private mutating func proceed() {
    let before = consumer.taken
    read()
    work()
    write()
    takeOpened()
    takeSignal()
    if consumer.isRunning, consumer.taken == before, console.isOutputClosed {
      handle(.outputLost(Failure(.outputClosed)))
    }
    handle(.turn(hasMore: isConnected && connection.hasEvents))
    pump()
  }

  private func addInterests(to polls: inout PollSet) {
    polls.add(signals.descriptor)
    if isOutputBusy {
      polls.add(console.outputDescriptor, for: POLLOUT)
    } else {
      handler.addInterests(to: &polls)
    }
    if let opening { polls.add(opening.descriptor) }
    if let probe { polls.add(probe.descriptor) }
    if isConnected, !connection.isFull { polls.add(connection.descriptor) }
  }

  /// When it goes on although nothing has happened: at the latest when a heartbeat may be due.
  private var wakeTime: Deadline {
    if isFlushAsked, !isOutputBusy { return .now }
    if isConnected, connection.hasEvents ? consumer.wantsInput : connection.hasInput { return .now }
    return min(consumer.wakeTime, isOutputBusy ? outputEnd : handler.wakeTime, .after(.seconds(1)))
  }

  private func connected(isConsumerAsked: Bool = false) -> Consumer.Connection {
    Consumer.Connection(
      id: connection.id, heartbeat: .seconds(connection.uri.heartbeat), isConsumerAsked: isConsumerAsked)
  }

  // MARK: What happens

  /// Takes what the broker has sent, as far as it is wanted.
  private mutating func read() {
    do throws(AMQPError) {
      while isConnected, consumer.wantsInput, let event = try connection.nextEvent() { handle(.broker(event)) }
    } catch { lose(error) }
  }

  /// Lets the handler go on, unless the output has not taken what it has written already.
  private mutating func work() {
    guard !isOutputBusy else { return }
    do throws(Failure) {
      let settlements = try handler.work()
      guard !settlements.isEmpty else { return noteState() }
      state = handler.state
      handle(.settled(settlements, state))
    } catch {
      // Before it is known to be over.
      handle(.handlerFailed(error))
      noteState()
    }
  }

  private mutating func noteState() {
    let now = handler.state
    guard now != state else { return }
    state = now
    handle(.handler(now))
  }

  /// Writes out what there is, as far as the output takes it.
  private mutating func write() {
    console.moveErrors()
    if isOutputLost { console.discard() }
    do throws(Failure) {
      try console.flushReady()
      isOutputBusy = console.hasUnwritten
    } catch {
      isOutputBusy = false
      return handle(.outputLost(error))
    }
    guard !isOutputBusy else {
      if outputEnd.isPast { handle(.outputLost(nil)) }
      return
    }
    outputEnd = .never
    noteState()
    if isFlushAsked {
      isFlushAsked = false
      handle(.flushed)
    }
  }

  /// What has become of connections that were being opened.
  private mutating func takeOpened() {
    if let result = opening?.result {
      opening = nil
      switch result {
      case .success(let connection):
        self.connection = connection
        isConnected = true
        names.uri = connection.uri
        handle(.connected(connected()))
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

  private mutating func lose(_ error: AMQPError, unsent: AMQPMethod? = nil) {
    guard isConnected else { return }
    isConnected = false
    handle(.lost(error, unsent: unsent, unread: connection.waitingMessages))
  }

  /// Takes in what is not wanted yet, so that heartbeats go on.
  private mutating func pump() {
    guard isConnected else { return }
    do throws(AMQPError) { try connection.pump() } catch { return lose(error) }
    if connection.isCancelled { handle(.cancelAhead) }
  }

  private mutating func takeSignal() {
    guard let number = signals.take() else { return }
    handle(.interrupted(number))
    guard isOutputBusy else { return }
    // A line may be ended that stands half written, unless nobody reads it.
    outputEnd = console.isOutputReady ? .after(Self.outputPatience) : .now
  }

  // MARK: What is decided

  private mutating func handle(_ event: Consumer.Event) {
    // What comes of an action is handed in after all of them are carried out.
    guard !isHandling else { return events.append(event) }
    isHandling = true
    decide(event)
    while let event = events.popFirst() { decide(event) }
    isHandling = false
  }

  private mutating func decide(_ event: Consumer.Event) {
    actions.removeAll(keepingCapacity: true)
    consumer.handle(event, at: .now, into: &actions)
    for action in actions { carryOut(action) }
  }

  private mutating func carryOut(_ action: Consumer.Action) {
    switch action {
    case .send(let method):
      // The broker has closed the channel, and nothing else.
      if method == .openChannel { isConnected = true }
      // What follows a method that could not be sent is dropped.
      guard isConnected else { return }
      do { try connection.send(method) } catch { lose(error, unsent: method) }
    case .take(let number, let delivery):
      do {
        try handler.take(number, delivery)
        state = handler.state
        handle(.taken(state))
      } catch {
        handle(.handlerFailed(error))
        state = handler.state
        handle(.taken(state))
        handle(.settled([Consumer.Settlement(number, .requeue)], state))
      }
    case .renew(let number, let delivery): handler.renew(number, delivery)
    case .finish:
      handler.finish()
      state = handler.state
      handle(.handler(state))
    case .terminate: handler.terminate()
    case .flush: isFlushAsked = true
    case .discardOutput:
      isFlushAsked = false
      isOutputBusy = false
      isOutputLost = true
      console.discard()
    case .connect: connect()
    case .stopConnecting: opening = nil
    case .disconnect:
      isConnected = false
      connection.close()
    case .close:
      connection.close()
      isConnected = false
      handle(.closed)
    case .dropBodies: connection.dropBodies()
    case .save(let delivery, let left):
      let isSaved = saver?.save(delivery.message, returnsLeft: left) ?? false
      handle(.saved(delivery, isSaved))
    case .askElsewhere:
      var setup = AMQPConnection.Setup()
      setup.queue = consumer.queue
      guard let uris = try? options.broker.currentURIs() else { return handle(.foundElsewhere(false)) }
      probe = AMQPOpening(anyOf: uris, name: "msctl consume", setup, trace: console.amqpTrace)
    case .note(let note):
      handler.traits = consumer.traits
      console.note(note.text(currentNames()))
    case .report(let cause): console.report(failure(cause))
    }
  }

  private mutating func connect() {
    do throws(Failure) { opening = try options.broker.reopen(as: "consume", console) } catch {
      handle(.connectFailed(error))
    }
  }

  private mutating func currentNames() -> ConsumeNames {
    names.queue = consumer.queue
    names.isStream = consumer.traits.isStream
    names.spent = saver?.failure
    return names
  }

  private mutating func failure(_ cause: Consumer.Cause) -> Failure { cause.failure(currentNames()) }
}
