import Glibc
import MsctlCore

/// One run of `consume`, as the host of a `ConsumerDriver`: hands messages to a handler, writes out what comes of them, and hears
/// signals.
final class ConsumeRun: ConsumerHost {
  private let options: Consume.Options
  private let handler: any MessageHandler
  private let console: Console
  private let signals: Signals
  private let saver: SpentMessages?
  private let replies: ReplySender?
  private let deadLetters: DeadLetters
  private let readyFile: ReadyFile?
  private let resume: ResumeFile?
  private var output: OutputFlow
  /// Whether the consumer waits for all to be written out.
  private var isFlushAsked = false
  /// How many messages were taken by the end of the last turn.
  private var taken = 0

  init(
    _ options: Consume.Options, _ handler: any MessageHandler, _ replies: ReplySender?, _ deadLetters: DeadLetters,
    _ saver: SpentMessages?, _ readyFile: ReadyFile?, _ resume: ResumeFile?, _ console: Console, _ signals: Signals
  ) {
    (self.options, self.handler, self.replies, self.deadLetters) = (options, handler, replies, deadLetters)
    (self.saver, self.readyFile, self.resume) = (saver, readyFile, resume)
    (self.console, self.signals) = (console, signals)
    output = OutputFlow(console)
  }

  /// Consumes on a connection where the queue is there, until the end.
  func run(_ plan: Consumer.Options, on connection: AMQPConnection, _ loop: EventLoop) throws(Failure) {
    let driver = ConsumerDriver(plan, self, on: connection)
    loop.add(driver)
    while !driver.isOver {
      readyFile?.isThere = driver.consumer.isReady && handler.isRunning
      loop.turn()
    }
    readyFile?.isThere = false
    loop.remove(driver)
    if let saver { while !saver.isOver { loop.turn() } }
    if let replies { while !replies.isOver { loop.turn() } }
    noteRejections(driver)
    while !deadLetters.isOver { loop.turn() }
    summarize(driver.consumer)
    if let cause = driver.consumer.cause { throw failure(cause, driver) }
  }

  /// For programs alone: people see what comes out.
  private func summarize(_ consumer: Consumer) {
    guard console.options.jsonErrors else { return }
    console.summarize(CommandNote.handled(consumer.handled, rejected: consumer.rejected).text) { object in
      object.field("handled", consumer.handled)
      object.field("rejected", consumer.rejected)
    }
  }

  // MARK: A turn

  func work(_ driver: ConsumerDriver) {
    for (delivery, isSaved) in saver?.takeSaved() ?? [] { driver.tell(.saved(delivery, isSaved)) }
    handle(driver)
    write(driver)
    takeSignal(driver)
    if driver.consumer.isRunning, driver.consumer.taken == taken, console.isOutputClosed {
      driver.tell(.outputLost(Failure(.outputClosed)))
    }
    taken = driver.consumer.taken
    noteRejections(driver)
  }

  private func noteRejections(_ driver: ConsumerDriver) {
    guard !driver.consumer.traits.isStream else { return }
    deadLetters.noteRejections(driver.consumer.rejected, from: driver.consumer.queue, driver.uri)
  }

  /// Lets the handler go on, unless the output has not taken what it has written already.
  private func handle(_ driver: ConsumerDriver) {
    guard !output.isBusy else { return }
    do throws(Failure) {
      let settlements = try handler.work()
      if !settlements.isEmpty { driver.settled(settlements) }
    } catch { driver.tell(.handlerFailed(error)) }
  }

  private func write(_ driver: ConsumerDriver) {
    switch output.move() {
    case .busy: break
    case .late: driver.tell(.outputLost(nil))
    case .failed(let failure): driver.tell(.outputLost(failure))
    case .out:
      guard isFlushAsked else { return }
      isFlushAsked = false
      driver.tell(.flushed)
    }
  }

  private func takeSignal(_ driver: ConsumerDriver) {
    guard let number = signals.take() else { return }
    driver.tell(.interrupted(number))
    output.interrupt()
  }

  func addInterests(to polls: inout PollSet) {
    polls.add(signals.descriptor)
    if output.isBusy { output.addInterests(to: &polls) } else { handler.addInterests(to: &polls) }
  }

  var wakeTime: Deadline {
    if isFlushAsked, !output.isBusy { return .now }
    // Whether anybody reads is looked at now and then.
    return min(output.isBusy ? output.wakeTime : handler.wakeTime, .after(.seconds(1)))
  }

  // MARK: What is decided

  var state: Consumer.HandlerState { handler.state }

  func take(_ number: Int, _ delivery: AMQPDelivery) throws(Failure) {
    guard options.restoresOrigin else { return try handler.take(number, delivery) }
    guard let original = delivery.atOrigin else { throw Failure(.notDeadLettered(delivery.message)) }
    try handler.take(number, original)
  }
  func keepPlace(_ offset: Int64) throws(Failure) { try resume?.write(offset) }
  func renew(_ number: Int, _ delivery: AMQPDelivery) {
    // It is the same message, whose origin is known.
    handler.renew(number, options.restoresOrigin ? delivery.atOrigin ?? delivery : delivery)
  }
  func startBatch() { handler.startBatch() }
  func finish() { handler.finish() }
  func terminate() { handler.terminate() }

  func flush() -> Bool {
    isFlushAsked = true
    return false
  }

  func discardOutput() {
    isFlushAsked = false
    output.lose()
  }

  func save(_ delivery: AMQPDelivery, returnsLeft left: Int, _ driver: ConsumerDriver) {
    guard let saver else { return driver.tell(.saved(delivery, false)) }
    saver.save(delivery, returnsLeft: left)
  }

  func connect() throws(Failure) -> any BrokerOpening { try options.broker.reopen(as: "consume", console) }

  func connect(askingFor queue: String) throws(Failure) -> any BrokerOpening {
    var setup = AMQPConnection.Setup()
    setup.queue = queue
    return AMQPOpening(
      anyOf: try options.broker.currentURIs(), name: "msctl consume", setup, trace: console.amqpTrace)
  }

  // MARK: What is said

  func note(_ note: Consumer.Note, _ driver: ConsumerDriver) {
    handler.traits = driver.consumer.traits
    console.note(note.text(names(driver)))
  }

  func report(_ cause: Consumer.Cause, _ driver: ConsumerDriver) { console.report(failure(cause, driver)) }

  func ended(_ driver: ConsumerDriver) {
    saver?.close()
    replies?.close()
  }

  private func failure(_ cause: Consumer.Cause, _ driver: ConsumerDriver) -> Failure {
    cause.failure(names(driver))
  }

  private func names(_ driver: ConsumerDriver) -> ConsumeNames {
    ConsumeNames(
      broker: options.broker, queue: driver.consumer.queue, uri: driver.uri,
      isStream: driver.consumer.traits.isStream, start: options.startWord, spent: saver?.failure)
  }
}
