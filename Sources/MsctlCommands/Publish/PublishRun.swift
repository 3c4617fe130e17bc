import Glibc
import MsctlCore

/// One run of `publish`, as the host of a `PublisherDriver`: reads the input, writes what is confirmed, and hears signals.
final class PublishRun: PublisherHost {
  private let options: Publish.Options
  private let console: Console
  private let signals: Signals
  private let failures: FailedItems
  private var source: MessageSource
  private var output: OutputFlow
  /// Why no more is written.
  private var outputFailure: Failure?
  /// Confirmed, but not to be written.
  private var unwritten: [OutgoingMessage] = []
  private var progress: Progress
  /// How many values of the input are not messages.
  private var unusable = 0
  /// Whether more of the input has to be read first, and whether there is something.
  private var needsInput = false
  private let input = Readiness(STDIN_FILENO, isWanted: false)
  private var signal: Int32?

  init(
    _ options: Publish.Options, _ console: Console, _ signals: Signals, _ source: MessageSource,
    _ failures: FailedItems
  ) {
    (self.options, self.console, self.signals, self.source) = (options, console, signals, source)
    (self.failures, output, progress) = (failures, OutputFlow(console), Progress(console))
  }

  /// - Parameters:
  ///   - connection: where the queue and confirms were asked for along with the opening.
  ///   - first: read from the source already, and sent along with the opening where the connection says so.
  func run(on connection: AMQPConnection, first: AMQPMessage?, _ loop: EventLoop) throws(Failure) {
    let driver = PublisherDriver(options.plan, self, on: connection, sending: first.map { OutgoingMessage($0) })
    loop.add(input)
    if let stream = failures.stream { loop.add(stream) }
    loop.add(driver)
    while !driver.isOver || output.isBusy { loop.turn() }
    loop.remove(driver)
    loop.remove(input)
    try finish(driver.publisher, driver.uri)
  }

  // MARK: Messages

  var hasInput: Bool { !needsInput }

  func nextInput() -> Publisher.Event? {
    if needsInput {
      guard input.isReady else { return nil }
      needsInput = false
      source.readMore()
    }
    do throws(Failure) {
      while !source.isExhausted {
        switch try source.next() {
        case .message(let message, let line): return .message(outgoing(message, line))
        case .unusable(let failure, let line):
          unusable += 1
          progress.clear()
          console.report(failure)
          do throws(Failure) { try failures.add(line: line) } catch { return .failed(error) }
        case nil:
          // The end of the input may have been found now.
          guard source.isExhausted else {
            needsInput = true
            return nil
          }
        }
      }
      return .inputEnded(nil)
    } catch { return .inputEnded(error) }
  }

  private func outgoing(_ message: AMQPMessage, _ line: [UInt8]) -> OutgoingMessage {
    guard options.wantsReply else {
      // Where it is not the body, what is written once the message is confirmed.
      return OutgoingMessage(message, token: options.tees && options.asEnvelope ? line : nil)
    }
    var message = message
    message.properties.replyTo = AMQPConnection.directReply
    message.properties.correlationID = randomUUID()
    return OutgoingMessage(message)
  }

  func confirmed(_ outgoing: OutgoingMessage, isInOrder: Bool) {
    guard options.tees else { return }
    // Without an id in it, a reader that counts lines would take this one for that of an older message, which may be lost.
    guard isInOrder || options.asEnvelope else { return unwritten.append(outgoing) }
    console.write(line: outgoing.token ?? outgoing.message.body)
  }

  func failed(_ outgoing: OutgoingMessage, _ reason: Publisher.Reason) throws(Failure) {
    progress.clear()
    console.report(reason.failure(of: outgoing.message))
    try failures.add(outgoing.message)
  }

  func reply(_ message: AMQPMessage) {
    console.write(value: BodyText(message.body, contentType: message.properties.contentType).value)
  }

  func note(_ note: Publisher.Note, _ driver: PublisherDriver) {
    progress.clear()
    console.note(note.text(driver.uri))
  }

  func connect() throws(Failure) -> any BrokerOpening { try options.broker.reopen(as: "publish", console) }

  // MARK: A turn

  /// Where the output takes no more for now, or the file of failed messages, nothing more is sent or confirmed. After a signal, what
  /// is in flight is settled all the same: what the file does not take of it is no more than the window.
  var isReady: Bool { !output.isBusy && (signal != nil || !failures.isBusy) }

  func work(_ driver: PublisherDriver) {
    takeSignal(driver)
    write(driver)
    input.isWanted = needsInput && isReady && driver.publisher.wantsMessage
    if !driver.publisher.isEnded { progress.show("\(driver.publisher.confirmed) confirmed") }
  }

  private func takeSignal(_ driver: PublisherDriver) {
    guard let number = signals.take() else { return }
    signal = number
    output.interrupt()
    driver.tell(.interrupted(number))
  }

  /// Writes out what is confirmed. Where that is no longer possible nothing more is sent; what is in flight is still settled.
  private func write(_ driver: PublisherDriver) {
    let failure: Failure
    switch output.move() {
    case .out, .busy: return
    case .late: failure = .interrupted(by: signal ?? SIGTERM)
    case .failed(let cause): failure = cause
    }
    if outputFailure == nil { outputFailure = failure }
    output.lose()
    driver.tell(.outputLost(failure))
  }

  func ended(_ driver: PublisherDriver) {}

  func addInterests(to polls: inout PollSet) {
    polls.add(signals.descriptor)
    output.addInterests(to: &polls)
  }

  var wakeTime: Deadline { min(output.wakeTime, .after(.seconds(1))) }

  // MARK: The end

  private func finish(_ publisher: Publisher, _ uri: AMQPURI) throws(Failure) {
    progress.clear()
    let told = publisher.cause?.failure(options, uri, publisher.unconfirmed)
    // The output may be lost after all is confirmed.
    let (failure, isBroken) = (told?.failure ?? outputFailure, told?.isBroken ?? false)
    if publisher.hasOpened {
      // An error in the input says where it was read to, and `--failed-to` takes the rest if the broker is gone.
      let isTold = failure.map { $0.code == .badInput || isBroken && options.failedFile != nil } ?? true
      let unsent = failure == nil ? 0 : publisher.unsent
      let note = CommandNote.confirmed(
        publisher.confirmed, unsent: unsent,
        isInputLeft: !isTold && source.readsStandardInput && !source.isExhausted)
      console.summarize(note.text) { object in
        object.field("confirmed", publisher.confirmed)
        object.field("failed", publisher.failed)
        object.field("unconfirmed", publisher.unconfirmed)
        object.field("unsent", unsent)
      }
    }
    // Whether what is still in flight has arrived is not known; what is not written has not been passed on.
    if failure != nil {
      let left = (publisher.left + unwritten).sorted { $0.message.number < $1.message.number }
      for outgoing in left { try failures.add(outgoing.message) }
    }
    try failures.flush(after: signal)
    if isBroken || !publisher.hasOpened {
      try failures.keep(restOf: &source, console, signal)
    } else {
      try failures.keep(after: source, console, signal)
    }
    if let failure { throw failure }
    let (confirmed, failed) = (publisher.confirmed, publisher.failed)
    if failed > 0 { throw Failure(.undelivered(failed, of: confirmed + failed)) }
    if unusable > 0 { throw Failure(.unpublished(unusable)) }
  }
}
