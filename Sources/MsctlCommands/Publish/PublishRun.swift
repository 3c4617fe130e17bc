import DequeModule
import Glibc
import MsctlCore

/// One run of `publish`: hands to a `Publisher` what happens, and carries out what it decides.
final class PublishRun {
  /// How much is sent, in bytes, before the broker is listened to: between large messages it may want no more.
  private static let burst = 256 << 10
  /// How many events are taken in before other things are looked at: a broker may send without end.
  private static let turn = 4096
  /// Time limit for a line that stands half written when a signal comes.
  private static let patience: Duration = .seconds(2)

  private let options: Publish.Options
  private let console: Console
  private let signals: Signals
  private let failures: FailedMessages
  private var source: MessageSource
  private var publisher: Publisher
  private var connection: AMQPConnection
  /// Whether it stands, as far as is known.
  private var isConnected = true
  private var opening: AMQPOpening?
  private var events = Deque<Publisher.Event>()
  private var actions: [Publisher.Action] = []
  private var isHandling = false
  private var now = Deadline.now
  private var progress: Progress
  /// How many values of the input are not messages.
  private var unusable = 0
  /// Whether the input has nothing for now.
  private var needsInput = false
  /// Whether the output did not take all of what was written, why it never will, and until when that is waited for once a signal
  /// came.
  private var isOutputBusy = false
  private var outputFailure: Failure?
  private var outputEnd = Deadline.never

  init(
    _ options: Publish.Options, _ console: Console, _ signals: Signals, _ connection: AMQPConnection,
    _ source: MessageSource, _ failures: FailedMessages
  ) {
    (self.options, self.console, self.signals, self.connection) = (options, console, signals, connection)
    (self.source, self.failures) = (source, failures)
    publisher = Publisher(options.plan, seed: .random(in: 0 ... .max), at: now)
    progress = Progress(console)
    connection.limitStall(to: options.confirmTimeout)
  }

  /// - Parameter first: read from the source already, and sent along with the opening where the connection says so.
  func run(first: AMQPMessage?) throws(Failure) {
    let (setup, outgoing) = (connection.setup, first.map { OutgoingMessage($0) })
    let isSent = setup.isSent && (setup.error == nil || connection.isSetupInDoubt)
    if let outgoing, !isSent { handle(.message(outgoing)) }
    if let error = setup.error, !isSent {
      handle(.connected(.refused(error)))
    } else {
      handle(.connected(.prepared(sent: isSent ? outgoing : nil)))
      if let error = setup.error { lose(error) }
    }
    while true {
      now = .now
      if !isOutputBusy {
        readInput()
        readBroker()
        takeOpened()
        handle(.tick)
      }
      write()
      if publisher.isEnded, !isOutputBusy { break }
      progress.show("\(publisher.confirmed) confirmed")
      wait()
    }
    try finish()
  }

  // MARK: What happens

  private func readInput() {
    needsInput = false
    var sent = 0
    while publisher.wantsMessage, sent < Self.burst {
      if source.isExhausted { return handle(.inputEnded(nil)) }
      do throws(Failure) {
        switch try source.next() {
        case .message(let message, let line):
          sent += message.body.count
          handle(.message(outgoing(message, line)))
        case .unusable(let failure, let line):
          unusable += 1
          progress.clear()
          console.report(failure)
          keep(line)
        case nil:
          // The end of the input may have been found now.
          guard source.isExhausted else { return needsInput = true }
        }
      } catch { handle(.inputEnded(error)) }
    }
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

  private func readBroker() {
    do throws(AMQPError) {
      for _ in 0..<Self.turn {
        guard isConnected, let event = try connection.nextEvent() else { return }
        handle(.broker(event))
      }
    } catch { lose(error) }
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

  /// Writes out what is confirmed, as far as the output takes it. Where that is no longer possible nothing more is sent; what is
  /// in flight is still settled.
  private func write() {
    console.moveErrors()
    if outputFailure != nil { console.discard() }
    do throws(Failure) {
      try console.flushReady()
    } catch { loseOutput(error) }
    isOutputBusy = console.hasUnwritten
    if isOutputBusy, outputEnd.isPast { loseOutput(.interrupted(by: SIGTERM)) }
  }

  private func loseOutput(_ failure: Failure) {
    if outputFailure == nil { outputFailure = failure }
    isOutputBusy = false
    console.discard()
    handle(.outputLost(failure))
  }

  private func lose(_ error: AMQPError) {
    guard isConnected else { return }
    isConnected = false
    progress.clear()
    handle(.lost(error))
  }

  /// Waits for whatever comes first.
  private func wait() {
    var polls = PollSet()
    let signal = polls.add(signals.descriptor)
    var input: Int?
    var deadline = Deadline.after(.seconds(1))
    if isOutputBusy {
      polls.add(console.outputDescriptor, for: POLLOUT)
      deadline = min(deadline, outputEnd)
      if isConnected { do { try connection.pump() } catch { return lose(error) } }
    } else {
      deadline = min(deadline, publisher.wakeTime)
      if publisher.wantsMessage {
        if needsInput { input = polls.add(STDIN_FILENO) } else { deadline = .now }
      }
      if isConnected, connection.hasInput { deadline = .now }
    }
    if isConnected, !(isOutputBusy && connection.isFull) { polls.add(connection.descriptor) }
    if let opening { polls.add(opening.descriptor) }
    polls.wait(until: deadline)
    if polls.isReady(signal), let number = signals.take() {
      now = .now
      handle(.interrupted(number))
      outputEnd = .after(Self.patience)
      // Nobody reads what is left.
      if isOutputBusy, !console.isOutputReady { loseOutput(.interrupted(by: number)) }
    } else if let input, polls.isReady(input) {
      source.readMore()
    }
  }

  // MARK: What is decided

  private func handle(_ event: Publisher.Event) {
    events.append(event)
    guard !isHandling else { return }
    isHandling = true
    defer { isHandling = false }
    while let event = events.popFirst() {
      actions.removeAll(keepingCapacity: true)
      publisher.handle(event, at: now, into: &actions)
      for action in actions { carryOut(action) }
    }
  }

  private func carryOut(_ action: Publisher.Action) {
    switch action {
    case .send(let method): send(method)
    case .confirmed(let outgoing):
      if options.tees { console.write(line: outgoing.token ?? outgoing.message.body) }
    case .failed(let outgoing, let reason):
      keep(outgoing.message)
      progress.clear()
      console.report(reason.failure(of: outgoing.message))
    case .reply(let message):
      console.write(value: BodyText(message.body, contentType: message.properties.contentType).value)
    case .note(let note): console.note(note.text(connection.uri))
    case .connect: connect()
    case .disconnect:
      isConnected = false
      connection.close()
    }
  }

  private func send(_ method: AMQPMethod) {
    // The broker has closed the channel, and nothing else.
    if case .openChannel = method { isConnected = true }
    // What follows a method that could not be sent is dropped.
    guard isConnected else { return }
    do { try connection.send(method) } catch {
      if error.kind == .invalid, case .publish(let message) = method {
        handle(.unsendable(number: message.number, error))
      } else {
        lose(error)
      }
    }
  }

  private func connect() {
    do throws(Failure) { opening = try options.broker.reopen(as: "publish", console) } catch {
      handle(.connectFailed(error))
    }
  }

  private func keep(_ message: AMQPMessage) {
    do throws(Failure) { try failures.add(message) } catch { handle(.failed(error)) }
  }

  private func keep(_ line: [UInt8]) {
    do throws(Failure) { try failures.add(line: line) } catch { handle(.failed(error)) }
  }

  // MARK: The end

  private func finish() throws(Failure) {
    progress.clear()
    connection.close()
    let told = publisher.cause?.failure(options, connection.uri, publisher.unconfirmed)
    // The output may be lost after all is confirmed.
    let (failure, isBroken) = (told?.failure ?? outputFailure, told?.isBroken ?? false)
    if publisher.hasOpened {
      // An error in the input says where it was read to, and `--failed-to` takes the rest if the broker is gone.
      let isTold = failure.map { $0.code == .badInput || isBroken && options.failedFile != nil } ?? true
      console.note(
        .confirmed(
          publisher.confirmed, unsent: failure == nil ? 0 : publisher.unsent,
          isInputLeft: !isTold && source.readsStandardInput && !source.isExhausted))
    }
    // Whether what is still in flight has arrived is not known.
    if failure != nil { for outgoing in publisher.left { try failures.add(outgoing.message) } }
    if isBroken || !publisher.hasOpened {
      try failures.keep(restOf: &source, signals, console)
    } else {
      try failures.keep(after: source, console)
    }
    if let failure { throw failure }
    let (confirmed, failed) = (publisher.confirmed, publisher.failed)
    if failed > 0 { throw Failure(.undelivered(failed, of: confirmed + failed)) }
    if unusable > 0 { throw Failure(.unpublished(unusable)) }
  }
}
