import CommandTable
import DequeModule
import Glibc
import MsctlCore

/// `msctl publish`: messages to RabbitMQ, each confirmed.
enum Publish: Verb {
  struct Options: VerbOptions {
    var first: String?
    var second: String?
    var isText = false
    var byLine = false
    var isRaw = false
    var asEnvelope = false
    var tees = false
    var failedFile: String?
    var wantsReply = false
    var isDryRun = false
    var replyTimeout: Duration = .seconds(30)
    var exchange: ShortString?
    var routingKey: ShortString?
    var window = 256
    var confirmTimeout: Duration = .seconds(30)
    var properties = PropertyOptions()
    var broker = BrokerOptions()
    var output = OutputOptions()

    init() {}

    /// With `--exchange` there is no QUEUE, so the first operand is the message.
    var queue: String? { exchange == nil ? first : nil }
    var message: String? {
      let message = exchange == nil ? second : first
      return message == "-" ? nil : message
    }
  }

  static let command = Command<Options>(
    "publish", "publish to RabbitMQ, confirmed by the broker",
    details: """
      Publishes MESSAGE, one JSON value, or without it each JSON value on standard input, to the queue QUEUE. The queue is \
      asserted: durable, made where it does not exist. Messages are persistent.

      The exit code is 0 only when the broker has confirmed every message. One that no queue takes (returned) or that the \
      broker refuses (nacked) is named on standard error, and the exit code is 7.

      An envelope is {"body", "bodyEncoding"?, "exchange", "routingKey", "properties"}; bodyEncoding is "text" or "base64" \
      where body is a string that stands for other bytes. Where it has properties, the message has those and no others.
      """,
    flags: [
      .toggle("text", nil, into: \.isText, "MESSAGE is any text, not JSON"),
      .toggle("lines", "l", into: \.byLine, "Each line of standard input is a message of text"),
      .toggle("raw", nil, into: \.isRaw, "All of standard input is one message"),
      .toggle("envelope", "e", into: \.asEnvelope, "Each value is an envelope, as 'consume --envelope' writes it")
        .details("It goes to its own exchange and routing key, or to QUEUE where one is named."),
    ].under("Message")
      + PropertyOptions.flags.lifted(to: \.properties)
      + [
        .value("exchange", "x", "NAME", into: \.exchange, "Publish to this exchange instead of a queue"),
        .value("routing-key", "k", "KEY", into: \.routingKey, "The routing key for the exchange"),
        .number("window", nil, "N", in: 1...65535, into: \.window, "How many messages may wait for their confirm"),
        .value("confirm-timeout", nil, "TIME", into: \.confirmTimeout, "How long a confirm may take"),
        .toggle("tee", nil, into: \.tees, "Write each value to standard output once it is confirmed"),
        .value("failed-to", nil, "FILE", into: \.failedFile, "Write what was not confirmed to FILE, as envelopes")
          .completed(by: .file)
          .details("They keep their ids: 'msctl publish --envelope < FILE' is the next try."),
        .toggle("dry-run", nil, into: \.isDryRun, "Write what would be sent, as envelopes, and send nothing"),
        .toggle("reply", nil, into: \.wantsReply, "Wait for the reply to each message and write it")
          .details(
            "The reply comes through RabbitMQ's direct reply-to; replies are written in the order of the messages."),
        .value("reply-timeout", nil, "TIME", into: \.replyTimeout, "How long a reply may take"),
      ].under("Delivery") + BrokerOptions.flags.lifted(to: \.broker) + OutputOptions.flags.lifted(to: \.output),
    operands: [
      .optional("QUEUE", into: \.first, "The queue (none with --exchange)", completion: .live("queue")),
      .optional("MESSAGE", into: \.second, "One JSON value; without it, or with '-', standard input"),
    ],
    examples: [
      Example("msctl publish orders '{\"id\":1,\"total\":9.90}'", "One message"),
      Example("jq -c '.[]' orders.json | msctl publish orders", "A stream of messages"),
      Example(
        "msctl consume orders --drain --envelope | msctl publish archive --envelope", "Move messages as they are"),
    ],
    check: { options throws(ValueError) in
      if options.exchange == nil, (options.first ?? "").isEmpty, !options.asEnvelope {
        throw ValueError("'publish' needs QUEUE: the queue, or '--exchange NAME' with '--routing-key KEY'")
      }
      if let queue = options.queue, queue.utf8.count > 255 {
        throw ValueError("QUEUE is longer than 255 bytes, the limit of AMQP")
      }
      if options.exchange != nil, options.second != nil {
        throw ValueError("with '--exchange' there is no QUEUE; quote a MESSAGE that has spaces")
      }
      if options.exchange == nil, options.routingKey != nil { throw ValueError("'--routing-key' needs '--exchange'") }
      if [options.isText, options.byLine, options.isRaw, options.asEnvelope].count(where: { $0 }) > 1 {
        throw ValueError("'--text', '--lines', '--raw' and '--envelope' do not go together")
      }
      if options.message != nil, options.byLine || options.isRaw || options.asEnvelope {
        throw ValueError("'--lines', '--raw' and '--envelope' read standard input, but there is a MESSAGE")
      }
      if options.isText, options.message == nil {
        throw ValueError("'--text' needs MESSAGE; for standard input there are '--lines' and '--raw'")
      }
      if options.tees, options.wantsReply { throw ValueError("'--tee' and '--reply' both write to standard output") }
      if options.wantsReply, options.properties.replyTo != nil || options.properties.correlationID != nil {
        throw ValueError("'--reply' sets '--reply-to' and '--correlation-id' itself")
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    guard !options.isDryRun else { return try showMessages(options, console, environment) }
    var session = try PublishSession(options, console, environment)
    try session.run()
  }

  private static func showMessages(
    _ options: Options, _ console: Console, _ environment: [String: String]
  ) throws(Failure) {
    var source = try MessageSource(options, TraceContext(environment: environment))
    while !source.isExhausted {
      guard let item = try source.next() else {
        source.readMore()
        continue
      }
      console.write(value: Envelope.write(item.message, redelivered: false))
      try console.flush()
    }
  }
}

/// One run of `publish`: what has been sent, and what has become of it.
private struct PublishSession: ~Copyable {
  /// How much is sent, in bytes, before the broker is listened to.
  private static let burst = 256 << 10

  /// A reply that is waited for, by its message's correlation id; replies are written in this order.
  private struct Expected {
    let correlationID: String
    let deadline: Deadline
    var reply: JSONValue?
  }

  private let options: Publish.Options
  private let console: Console
  private var connection: AMQPConnection
  private var publisher: AMQPPublisher
  private let signals: Signals
  private var source: MessageSource
  /// What `--tee` writes of each message in flight.
  private var lines = Deque<[UInt8]>()
  private var expected = Deque<Expected>()
  private let failedFile: AppendedFile?
  private var progress: Progress
  private var confirmed = 0
  private var failed = 0
  /// Why no more is sent; what was sent before is still settled.
  private var ended: Failure?
  private var isAtEnd = false
  private var confirmDeadline: Deadline
  /// Until when a broker that was lost may refuse messages because it is coming up; nil: it was not lost.
  private var recoveryEnd: Deadline?
  /// Refused meanwhile, each with its line, and when they are sent again.
  private var refused = Deque<(message: AMQPMessage, line: [UInt8])>()
  private var retryTime = Deadline.never
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(5))

  init(_ options: Publish.Options, _ console: Console, _ environment: [String: String]) throws(Failure) {
    // Everything that can fail comes before the first handle is stored: such a struct cannot be left half made.
    let source = try MessageSource(options, TraceContext(environment: environment))
    let connection = try options.broker.connect(as: "publish", console)
    do { try Self.prepare(connection, options) } catch let error as AMQPError {
      throw options.queue.map { options.broker.failure(error, queue: $0, connection.uri) }
        ?? error.failure(connection.uri)
    } catch let failure as Failure {
      throw failure
    } catch {
      throw Failure(.failed, "\(error)")
    }
    if let path = options.failedFile { failedFile = try AppendedFile(path) } else { failedFile = nil }
    self.options = options
    self.console = console
    self.source = source
    self.connection = connection
    publisher = AMQPPublisher(connection, window: options.window)
    signals = Signals()
    progress = Progress(console)
    confirmDeadline = .after(options.confirmTimeout)
  }

  mutating func run() throws(Failure) {
    var failure: Failure?
    var isBroken = false
    do {
      try workOn()
      failure = ended
    } catch let error as AMQPError {
      failure = broken(error.failure(connection.uri), error.kind)
      isBroken = true
    } catch let error as Failure {
      isBroken = error.code == .unreachable
      failure = isBroken ? broken(error) : error
    } catch {
      failure = Failure(.failed, "\(error)")
    }
    if failure != nil { try keepUnconfirmed(withRest: isBroken) }
    progress.clear()
    connection.close()
    console.note("\(counted(confirmed)) confirmed")
    if let failure { throw failure }
    if failed > 0 { throw Failure(.notDelivered, "\(counted(failed)) of \(confirmed + failed) not delivered") }
  }

  /// Makes sure of the queue, and has everything confirmed.
  private static func prepare(_ connection: AMQPConnection, _ options: Publish.Options) throws {
    if let queue = options.queue { try options.broker.assertQueue(queue, on: connection) }
    if options.wantsReply { _ = try connection.consume(AMQPConnection.directReply, isAutomatic: true) }
    try connection.selectConfirms()
    connection.limitStall(to: options.confirmTimeout)
  }

  /// Works to the end, on another connection where one breaks: what was not confirmed is sent again, under its first
  /// `message_id`. A reply comes to the connection of its request alone, so that those are not asked for again.
  private mutating func workOn() throws {
    while true {
      do { return try work() } catch let error as AMQPError where error.isPassing && expected.isEmpty {
        progress.clear()
        let (options, old) = (options, publisher)
        let reconnection = Reconnection(options.broker, as: "publish", console, signals)
        (connection, publisher) = try reconnection.connect(after: error, connection) { connection in
          try Self.prepare(connection, options)
          return (connection, try AMQPPublisher(connection, goingOnFor: old))
        }
        confirmDeadline = .after(options.confirmTimeout)
        recoveryEnd = .after(options.broker.reconnectFor)
      }
    }
  }

  /// Sends until the source and what is in flight are at an end.
  private mutating func work() throws {
    while true {
      // Between large messages the broker is listened to: it may want no more.
      var sent = 0
      var needsInput = false
      try sendRefused()
      while refused.isEmpty, publisher.hasRoom, expected.count < options.window, !isAtEnd, sent < Self.burst {
        do {
          guard let item = try source.next() else {
            needsInput = true
            break
          }
          try send(item)
          sent += item.message.body.count
        } catch let failure as Failure {
          ended = failure
          isAtEnd = true
        }
      }
      isAtEnd = isAtEnd || source.isExhausted
      try settle()
      try takeReplies()
      try console.flush(serving: connection, signals)
      progress.show("\(confirmed) confirmed")

      if publisher.unconfirmed == 0 {
        if isAtEnd, refused.isEmpty || ended != nil, expected.isEmpty || ended != nil { return }
        confirmDeadline = .after(options.confirmTimeout)
      }
      if confirmDeadline.isPast {
        let cause = publisher.blockedReason.map { "the broker takes no messages (\($0))" } ?? "no confirm came"
        throw AMQPError(kind: .timedOut, reason: "\(cause) within \(options.confirmTimeout.shown)")
      }
      if let first = expected.first, first.deadline.isPast {
        throw Failure(
          .timedOut,
          "no reply to message \(confirmed + failed - expected.count + 1) within \(options.replyTimeout.shown)",
          hint: "Whoever consumes '\(options.queue ?? "")' must answer to reply_to with the correlation_id.")
      }
      let canGoOn = refused.isEmpty && !isAtEnd && !needsInput && publisher.hasRoom && expected.count < options.window
      wait(orReading: needsInput && !isAtEnd, isBusy: canGoOn || publisher.hasInput)
    }
  }

  private mutating func send(_ item: MessageSource.Item) throws(AMQPError) {
    var message = item.message
    if options.wantsReply {
      let id = randomUUID()
      message.properties.replyTo = AMQPConnection.directReply
      message.properties.correlationID = id
      expected.append(Expected(correlationID: id, deadline: .after(options.replyTimeout)))
    }
    // Noted first, as the publisher does.
    lines.append(options.tees ? item.line : [])
    try publisher.send(message)
  }

  /// Sends again what was refused while the broker was coming up.
  private mutating func sendRefused() throws(AMQPError) {
    guard retryTime.isPast else { return }
    retryTime = .never
    for _ in 0..<refused.count where publisher.hasRoom {
      guard let (message, line) = refused.popFirst() else { return }
      lines.append(line)
      try publisher.send(message)
    }
    if !refused.isEmpty { retryTime = .after(backoff.next()) }
  }

  private mutating func settle() throws {
    for (message, outcome) in try publisher.settle() {
      confirmDeadline = .after(options.confirmTimeout)
      let line = lines.removeFirst()
      if outcome == .nacked, let recoveryEnd, !recoveryEnd.isPast {
        // A queue whose node was lost has no quorum until another one leads it.
        refused.append((message, line))
        if retryTime == .never { retryTime = .after(backoff.next()) }
      } else if outcome == .confirmed {
        backoff.reset()
        confirmed += 1
        if options.tees { console.write(line: line) }
      } else {
        failed += 1
        expected.removeAll { $0.correlationID == message.properties.correlationID }
        try failedFile?.add(message)
        progress.clear()
        console.report(undelivered(message, outcome))
      }
    }
  }

  private mutating func takeReplies() throws {
    for delivery in publisher.takeDeliveries() {
      let message = delivery.message
      guard let place = expected.firstIndex(where: { $0.correlationID == message.properties.correlationID }) else {
        continue
      }
      expected[place].reply = BodyText(message.body, contentType: message.properties.contentType).value
    }
    while let reply = expected.first?.reply {
      console.write(value: reply)
      expected.removeFirst()
    }
  }

  private mutating func wait(orReading needsInput: Bool, isBusy: Bool) {
    var polls = PollSet()
    polls.add(connection.descriptor)
    let signal = polls.add(signals.descriptor)
    let input = needsInput ? polls.add(STDIN_FILENO) : nil
    polls.wait(
      until: isBusy ? .now : min(.after(.seconds(1)), confirmDeadline, retryTime, expected.first?.deadline ?? .never))
    if polls.isReady(signal), let number = signals.take() {
      ended = Failure(.signal(number), "interrupted")
      isAtEnd = true
    } else if let input, polls.isReady(input) {
      source.readMore()
    }
  }

  // MARK: Failures

  /// What is still in flight when the run fails is kept for the next try: whether it arrived is not known. With the rest of
  /// the input, where the broker is what failed.
  private mutating func keepUnconfirmed(withRest: Bool) throws(Failure) {
    guard failedFile != nil else { return }
    for message in publisher.unconfirmedMessages + refused.map(\.message) { try failedFile?.add(message) }
    while withRest, !source.isExhausted {
      if let item = try source.next() { try failedFile?.add(item.message) } else { source.readMore() }
    }
  }

  private func broken(_ failure: Failure, _ kind: AMQPError.Kind? = nil) -> Failure {
    var failure = failure
    if case .channelClosed(code: 404) = kind {
      failure.hint = "An exchange is not made by 'msctl publish'; check its name."
    }
    let count = publisher.unconfirmed + refused.count
    guard count > 0 else { return failure }
    failure.code = .notDelivered
    failure.message = "\(counted(count)) not confirmed: " + failure.message
    return failure
  }

  private func undelivered(_ message: AMQPMessage, _ outcome: AMQPPublisher.Outcome) -> Failure {
    let name = "message \(confirmed + failed)" + (message.properties.messageID.map { " (\($0))" } ?? "")
    switch outcome {
    case .returned(let code, let text):
      return Failure(
        .notDelivered, "\(name) came back: \(text) (\(code))",
        hint: message.exchange.isEmpty
          ? "There is no queue '\(message.routingKey)'."
          : "No queue is bound to exchange '\(message.exchange)' for the routing key '\(message.routingKey)'.")
    case .nacked, .confirmed:
      return Failure(
        .notDelivered, "\(name) was refused by the broker (basic.nack)",
        hint: "The queue may be full (x-overflow=reject-publish) or without a quorum.")
    }
  }
}

func counted(_ count: Int, _ noun: String = "message") -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }
