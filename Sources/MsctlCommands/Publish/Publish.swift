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
    var window = 1024
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
      Publishes MESSAGE (one JSON value), or each JSON value on standard input, to QUEUE. QUEUE is declared durable if it does \
      not exist; one that exists is used with its own arguments. Messages are persistent.

      The exit code is 0 only when the broker has confirmed every message. Each message that is unroutable (returned), nacked, \
      or refused by itself (too large for the broker, headers larger than a frame) is reported on standard error; the others \
      are published, and the exit code is 7. An input value that is not an envelope is reported likewise, with exit code 9.

      An envelope is {"body", "bodyEncoding"?, "exchange", "routingKey", "properties"}. If the body was not JSON, body is a \
      string and bodyEncoding is "text" or "base64". If it has properties, the message gets those and no others. An integer \
      in headers is sent as a signed 32-bit or else 64-bit one; other types are tagged: {"$int64":1}, {"$uint8":1}, \
      {"$float32":1.5}, {"$bytes":"base64"}, {"$timestamp":1700000000}, {"$decimal":"1.25"}. x-delivery-count, \
      x-acquired-count and x-stream-offset, which brokers add, are not published again. A byte of a name that is not UTF-8 is \
      written as a character from U+10FE80 to U+10FEFF.
      """,
    flags: [
      .toggle("text", nil, into: \.isText, "Publish MESSAGE as text, not JSON"),
      .toggle("lines", "l", into: \.byLine, "Publish each line of standard input as a text message"),
      .toggle("raw", nil, into: \.isRaw, "Publish all of standard input as one message"),
      .toggle("envelope", "e", into: \.asEnvelope, "Read envelopes, as 'consume --envelope' writes them")
        .details("Each goes to its own exchange and routing key, or to QUEUE if one is given."),
    ].under("Message")
      + PropertyOptions.flags.lifted(to: \.properties)
      + [
        .value("exchange", "x", "NAME", into: \.exchange, "Publish to this exchange instead of a queue"),
        .value("routing-key", "k", "KEY", into: \.routingKey, "Routing key for the exchange"),
        .number("window", nil, "N", in: 1...65535, into: \.window, "Maximum unconfirmed messages in flight"),
        .value("confirm-timeout", nil, "TIME", into: \.confirmTimeout, "Time limit for a confirm"),
        .toggle("tee", nil, into: \.tees, "Write each value to standard output once it is confirmed"),
        .value(
          "failed-to", nil, "FILE", into: \.failedFile, "Write messages that were not confirmed to FILE, as envelopes"
        )
        .completed(by: .file)
        .details(
          """
          FILE is replaced at the end of the run and may be the input: 'msctl publish --envelope --failed-to FILE < FILE' \
          tries again. If the broker stays unreachable, the rest of standard input is written to FILE as well. A pipe, a \
          device or '-' (standard output) gets each message at once.
          """),
        .toggle("dry-run", nil, into: \.isDryRun, "Print the messages as envelopes; send nothing"),
        .toggle("reply", nil, into: \.wantsReply, "Wait for the reply to each message and write it")
          .details(
            "The reply comes through RabbitMQ's direct reply-to; replies are written in the order of the messages."),
        .value("reply-timeout", nil, "TIME", into: \.replyTimeout, "Time limit for a reply"),
      ].under("Delivery") + BrokerOptions.flags.lifted(to: \.broker) + OutputOptions.flags.lifted(to: \.output),
    operands: [
      .optional("QUEUE", into: \.first, "The queue (none with --exchange)", completion: .live("queue")),
      .optional("MESSAGE", into: \.second, "One JSON value; without it, or with '-', standard input"),
    ],
    examples: [
      Example("msctl publish orders '{\"id\":1,\"total\":9.90}'", "One message"),
      Example("jq -c '.[]' orders.json | msctl publish orders", "A stream of messages"),
      Example(
        "msctl consume orders --drain --envelope --through 'msctl publish archive --envelope --tee'",
        "Move messages to another queue"),
    ],
    check: { options throws(ValueError) in
      if options.exchange == nil, (options.first ?? "").isEmpty, !options.asEnvelope {
        throw ValueError("'publish' requires QUEUE, or '--exchange NAME' with '--routing-key KEY'")
      }
      if let queue = options.queue, !queue.isEmpty {
        do throws(ValueError) { _ = try QueueName(argument: queue) } catch {
          throw ValueError("QUEUE: '\(queue)' \(error.reason)")
        }
      }
      if options.exchange != nil, options.second != nil {
        throw ValueError("QUEUE cannot be combined with '--exchange'; quote a MESSAGE that contains spaces")
      }
      if options.exchange == nil, options.routingKey != nil {
        throw ValueError("'--routing-key' requires '--exchange'")
      }
      if [options.isText, options.byLine, options.isRaw, options.asEnvelope].count(where: { $0 }) > 1 {
        throw ValueError("'--text', '--lines', '--raw' and '--envelope' cannot be combined")
      }
      if options.message != nil, options.byLine || options.isRaw || options.asEnvelope {
        throw ValueError("'--lines', '--raw' and '--envelope' read standard input and cannot be combined with MESSAGE")
      }
      if options.isText, options.message == nil {
        throw ValueError("'--text' requires MESSAGE; for standard input, use '--lines' or '--raw'")
      }
      if options.tees, options.wantsReply { throw ValueError("'--tee' cannot be combined with '--reply'") }
      if options.failedFile?.isSame(as: "-") == true, options.tees || options.wantsReply {
        throw ValueError("'--failed-to -' cannot be combined with '--\(options.tees ? "tee" : "reply")'")
      }
      if options.wantsReply, options.properties.replyTo != nil || options.properties.correlationID != nil {
        throw ValueError("'--reply' sets '--reply-to' and '--correlation-id' itself")
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    guard !options.isDryRun else { return try showMessages(options, console, environment) }
    var source = try MessageSource(options, TraceContext(environment: environment))
    let failures = try FailedMessages(options.failedFile)
    let signals = Signals()
    let first = try firstMessage(&source, options)
    let connection: AMQPConnection
    do { connection = try connect(options, first, console, signals) } catch {
      if let first { try failures.add(first) }
      try failures.keep(restOf: &source, signals, console)
      throw error
    }
    var session = PublishSession(options, console, signals, connection, source, failures, first: first)
    try session.run()
  }

  /// What is sent along with the opening of the connection: a small message of the command line.
  private static func firstMessage(_ source: inout MessageSource, _ options: Options) throws(Failure) -> AMQPMessage? {
    guard options.message != nil, !options.wantsReply, case .message(let message, _) = try source.next() else {
      return nil
    }
    return message
  }

  /// Connects, and makes sure of the queue.
  private static func connect(
    _ options: Options, _ first: AMQPMessage?, _ console: Console, _ signals: Signals
  ) throws(Failure) -> AMQPConnection {
    var setup = AMQPConnection.Setup()
    setup.queue = options.queue.flatMap { $0.isEmpty ? nil : $0 }
    setup.arguments = options.broker.declaredArguments
    if options.wantsReply { setup.consumer = .init(AMQPConnection.directReply, isAutomatic: true) }
    setup.selectsConfirms = true
    if let first, first.body.count <= PublishSession.safeSize { setup.message = first }
    let connection = try options.broker.connect(as: "publish", console, signals, setup)
    connection.limitStall(to: options.confirmTimeout)
    guard let error = connection.setup.error, !connection.isSetupInDoubt else { return connection }
    do throws(AMQPError) {
      guard let queue = setup.queue, !connection.setup.hasQueue else { throw error }
      try options.broker.declare(queue, missedWith: error, on: connection)
      try PublishSession.prepareChannel(connection, options)
    } catch {
      throw setup.queue.map { options.broker.failure(error, queue: $0, connection.uri) }
        ?? error.failure(connection.uri)
    }
    return connection
  }

  private static func showMessages(
    _ options: Options, _ console: Console, _ environment: [String: String]
  ) throws(Failure) {
    var source = try MessageSource(options, TraceContext(environment: environment))
    while !source.isExhausted {
      switch try source.next() {
      case .message(let message, _):
        console.write(value: Envelope.write(message, redelivered: false))
        try console.flush()
      case .unusable(let failure, _): throw failure
      case nil: source.readMore()
      }
    }
  }
}

/// One run of `publish`: what has been sent, and what has become of it.
private struct PublishSession: ~Copyable {
  /// How much is sent, in bytes, before the broker is listened to.
  private static let burst = 256 << 10
  /// A message above this is sent alone, unless one as large was confirmed: where it is too large for the broker, the channel is
  /// closed, and what became of the messages beside it would not be known.
  static let safeSize = 1 << 20

  /// A reply that is waited for, by its message's correlation id; replies are written in this order.
  private struct Expected {
    let number: Int
    let correlationID: String
    let deadline: Deadline
    var reply: JSONValue?
  }

  private let options: Publish.Options
  private let console: Console
  private var connection: AMQPConnection
  private var publisher: AMQPPublisher
  /// Why the first connection broke while it was opened, if a message may have got through by then.
  private var breakCause: AMQPError?
  private let signals: Signals
  private var reconnection: Reconnection
  private var source: MessageSource
  private let failures: FailedMessages
  /// What `--tee` writes of each message in flight that is not its body, by the message's number.
  private var lines: [Int: [UInt8]] = [:]
  private var expected = Deque<Expected>()
  private var progress: Progress
  private var confirmed = 0
  private var failed = 0
  /// How many values of the input are not messages.
  private var unusable = 0
  /// Why no more is sent; what was sent before is still settled.
  private var ended: Failure?
  private var isAtEnd = false
  /// Whether what is written can arrive.
  private var isOutputLost = false
  private var confirmDeadline: Deadline
  /// Until when a broker that was lost may refuse messages because it is coming up; nil: it was not lost.
  private var recoveryEnd: Deadline?
  /// Read, and sent once nothing is in flight.
  private var next: AMQPMessage?
  /// To be sent again, before anything new, and when.
  private var again = Deque<AMQPMessage>()
  private var retryTime = Deadline.now
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(5))
  /// How many messages are to be sent one by one: one of them makes the broker close the channel.
  private var suspects = 0
  /// Whether the message in flight was sent alone.
  private var isAlone = false
  private var largestConfirmed = 0
  /// The largest message that the broker takes, once it has said so.
  private var sizeLimit: Int?

  init(
    _ options: Publish.Options, _ console: Console, _ signals: Signals, _ connection: AMQPConnection,
    _ source: MessageSource, _ failures: FailedMessages, first: AMQPMessage?
  ) {
    self.options = options
    self.console = console
    self.signals = signals
    self.connection = connection
    self.source = source
    self.failures = failures
    let isSent = connection.setup.isSent && (connection.setup.error == nil || connection.isSetupInDoubt)
    publisher = AMQPPublisher(connection, window: options.window, sent: isSent ? first : nil)
    next = isSent ? nil : first
    if connection.isSetupInDoubt { breakCause = connection.setup.error }
    reconnection = Reconnection(options.broker, as: "publish", console)
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
      isBroken = [.unreachable, .denied].contains(error.code)
      failure = isBroken ? broken(error) : error
    } catch {
      failure = Failure(.failed, "\(error)")
    }
    progress.clear()
    connection.close()
    console.note("\(counted(confirmed)) confirmed" + (failure.map { remainder($0, isBroken: isBroken) } ?? ""))
    // Whether what is still in flight has arrived is not known.
    if failure != nil {
      for message in publisher.unconfirmedMessages + again + (next.map { [$0] } ?? []) { try failures.add(message) }
    }
    if isBroken {
      try failures.keep(restOf: &source, signals, console)
    } else {
      try failures.keep(after: source, console)
    }
    if let failure { throw failure }
    if failed > 0 { throw Failure(.notDelivered, "\(counted(failed)) of \(confirmed + failed) not delivered") }
    if unusable > 0 { throw Failure(.badInput, "\(counted(unusable, "value")) of the input not published") }
  }

  /// What a failure has left of the input, as the end of a sentence.
  private func remainder(_ failure: Failure, isBroken: Bool) -> String {
    let unsent = again.count + (next == nil ? 0 : 1)
    var text = unsent == 0 ? "" : ", \(unsent) not sent"
    // An error in the input says where it was read to. `--failed-to` takes the rest if the broker is gone.
    let isTold = failure.code == .badInput || isBroken && options.failedFile != nil
    if !isTold, source.readsStandardInput, !source.isExhausted {
      text += "; standard input was not read to its end"
    }
    return text
  }

  /// Makes sure of the queue, and has everything confirmed.
  static func prepare(_ connection: AMQPConnection, _ options: Publish.Options) throws {
    if let queue = options.queue { try options.broker.assertQueue(queue, on: connection) }
    try prepareChannel(connection, options)
    connection.limitStall(to: options.confirmTimeout)
  }

  static func prepareChannel(_ connection: AMQPConnection, _ options: Publish.Options) throws(AMQPError) {
    if options.wantsReply { _ = try connection.consume(AMQPConnection.directReply, isAutomatic: true) }
    try connection.selectConfirms()
  }

  /// Works to the end, on another connection where one breaks: what was not confirmed is sent again, under its first
  /// `message_id`. A reply comes to the connection of its request alone, so that those are not asked for again.
  private mutating func workOn() throws {
    while true {
      do {
        if let error = breakCause.take() { throw error }
        return try work()
      } catch let error as AMQPError where error.isTransient && expected.isEmpty {
        try settle(publisher.takeSettled())
        progress.clear()
        let (options, old, signals) = (options, publisher, signals)
        let unconfirmed = publisher.unconfirmed
        let place = "publishing" + (options.queue.map { " to '\($0)'" } ?? "") + ", \(counted(unconfirmed)) unconfirmed"
        (connection, publisher) = try reconnection.connect(
          after: error, connection, at: place, isIdle: unconfirmed == 0,
          serving: { descriptor, end throws(Failure) in try waitOnce(for: descriptor, until: end, signals) }
        ) { connection in
          try Self.prepare(connection, options)
          return (connection, try AMQPPublisher(connection, goingOnFor: old))
        }
        isAlone = false
        confirmDeadline = .after(options.confirmTimeout)
        recoveryEnd = .after(options.broker.reconnectFor)
      } catch let error as AMQPError where error.isAboutOneMessage && publisher.unconfirmed > 0 && !hasOtherReplies {
        try reopen(after: error)
      }
    }
  }

  /// Whether replies are waited for that a new channel would not get.
  private var hasOtherReplies: Bool { options.wantsReply && publisher.unconfirmed + again.count > 1 }

  /// Goes on after the broker closed the channel over a message: without it where it is known, else with each message that was
  /// in flight by itself, until it is.
  private mutating func reopen(after error: AMQPError) throws {
    if let limit = error.refusedSize?.limit { sizeLimit = limit }
    let culprit = publisher.culprit(of: error)
    var open: [AMQPMessage] = []
    for (message, outcome) in publisher.takeAll() {
      if let outcome {
        try settle([(message, outcome)])
      } else if message.number == culprit {
        try fail(message, "was refused by the broker: \(error.reason)")
      } else {
        open.append(message)
      }
    }
    again.insert(contentsOf: open, at: 0)
    retryTime = .now
    if culprit == nil { suspects = open.count }
    isAlone = false
    try connection.openChannel()
    try Self.prepareChannel(connection, options)
    publisher = AMQPPublisher(connection, window: options.window)
    confirmDeadline = .after(options.confirmTimeout)
  }

  /// Sends until the source and what is in flight are at an end.
  private mutating func work() throws {
    while true {
      // Between large messages the broker is listened to: it may want no more.
      var sent = 0
      var needsInput = false
      try sendAgain()
      while canSendNew, sent < Self.burst {
        do {
          if next == nil, try !readNext() {
            needsInput = true
            break
          }
        } catch let failure as Failure {
          ended = failure
          isAtEnd = true
          break
        }
        guard let message = next, publisher.unconfirmed == 0 || !goesAlone(message) else { break }
        next = nil
        try send(message)
        sent += message.body.count
      }
      isAtEnd = isAtEnd || source.isExhausted && next == nil
      try settle(try publisher.settle())
      try takeReplies()
      try writeOut()
      progress.show("\(confirmed) confirmed")

      if publisher.unconfirmed == 0 {
        isAlone = false
        if isAtEnd, again.isEmpty || ended != nil, expected.isEmpty || ended != nil { return }
        confirmDeadline = .after(options.confirmTimeout)
      }
      if confirmDeadline.isPast {
        let cause = publisher.blockedReason.map { "the broker accepts no messages (\($0))" } ?? "no confirm came"
        throw AMQPError(kind: .timedOut, reason: "\(cause) within \(options.confirmTimeout.shown)")
      }
      if let first = expected.first, first.deadline.isPast {
        throw Failure(
          .timedOut,
          "no reply to message \(first.number) within \(options.replyTimeout.shown)",
          hint: "A consumer of '\(options.queue ?? "")' must reply to reply_to with the correlation_id.")
      }
      let canGoOn = canSendNew && !needsInput && (publisher.unconfirmed == 0 || next == nil)
      wait(orReading: needsInput && !isAtEnd, isBusy: canGoOn || publisher.hasInput)
    }
  }

  /// Writes out what is confirmed. Where that is no longer possible nothing more is sent; what is in flight is still settled.
  private mutating func writeOut() throws(AMQPError) {
    if !isOutputLost {
      do { return try console.flush(serving: connection, signals) } catch let error as AMQPError {
        throw error
      } catch {
        isOutputLost = true
        isAtEnd = true
        if ended == nil { ended = error as? Failure ?? Failure(.failed, "\(error)") }
      }
    }
    console.discard()
  }

  private var canSendNew: Bool {
    again.isEmpty && publisher.hasRoom && !isAlone && expected.count < options.window && !isAtEnd
  }

  /// Whether nothing may be in flight beside a message.
  private func goesAlone(_ message: AMQPMessage) -> Bool {
    suspects > 0 || message.body.count > max(Self.safeSize, largestConfirmed)
  }

  /// Reads the next message of the source.
  /// - Returns: false where the source has none for now.
  private mutating func readNext() throws -> Bool {
    switch try source.next() {
    case nil: return false
    case .message(var message, let line):
      if options.wantsReply {
        let id = randomUUID()
        message.properties.replyTo = AMQPConnection.directReply
        message.properties.correlationID = id
      }
      if options.tees, options.asEnvelope { lines[message.number] = line }
      next = message
      return true
    case .unusable(let failure, let line):
      unusable += 1
      progress.clear()
      console.report(failure)
      try failures.add(line: line)
      return true
    }
  }

  private mutating func send(_ message: AMQPMessage) throws {
    if let sizeLimit, message.body.count > sizeLimit {
      return try fail(message, "was not sent: it has \(message.body.count) bytes, and the broker takes \(sizeLimit)")
    }
    isAlone = goesAlone(message)
    if suspects > 0 { suspects -= 1 }
    if options.wantsReply, let id = message.properties.correlationID {
      expected.append(Expected(number: message.number, correlationID: id, deadline: .after(options.replyTimeout)))
    }
    do { try publisher.send(message) } catch {
      guard error.kind == .invalid else { throw error }
      try fail(message, "cannot be sent: \(error.reason)")
    }
  }

  /// Sends again what was refused while the broker was coming up, or was in flight when it closed the channel.
  private mutating func sendAgain() throws {
    while retryTime.isPast, publisher.hasRoom, !isAlone, let message = again.first,
      publisher.unconfirmed == 0 || !goesAlone(message)
    {
      again.removeFirst()
      expected.removeAll { $0.number == message.number }
      try send(message)
    }
  }

  private mutating func settle(_ settled: [(message: AMQPMessage, outcome: AMQPPublisher.Outcome)]) throws {
    for (message, outcome) in settled {
      confirmDeadline = .after(options.confirmTimeout)
      switch outcome {
      case .confirmed:
        backoff.reset()
        reconnection.settled()
        confirmed += 1
        largestConfirmed = max(largestConfirmed, message.body.count)
        if options.tees { console.write(line: lines.removeValue(forKey: message.number) ?? message.body) }
      case .nacked where recoveryEnd.map { !$0.isPast } ?? false:
        // A queue whose node was lost has no quorum until another one leads it.
        again.append(message)
        if retryTime.isPast { retryTime = .after(backoff.next()) }
      case .nacked:
        try fail(
          message, "was refused by the broker (basic.nack)",
          hint: "Check whether the queue is full (x-overflow=reject-publish) or has lost its quorum.")
      case .returned(let code, let text):
        try fail(
          message, "was returned: \(text) (\(code))",
          hint: message.exchange.isEmpty
            ? "No such queue: '\(message.routingKey)'."
            : "Bind a queue to the exchange '\(message.exchange)' with the routing key '\(message.routingKey)'.")
      }
    }
  }

  private mutating func takeReplies() throws {
    for delivery in publisher.takeDeliveries() {
      let message = delivery.message
      guard let id = message.properties.correlationID,
        let place = expected.firstIndex(where: { $0.correlationID.isSame(as: id) })
      else { continue }
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
    let retryTime = again.isEmpty || retryTime.isPast ? .never : retryTime
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

  /// A message is lost to this run, and the others go on.
  private mutating func fail(_ message: AMQPMessage, _ what: String, hint: String? = nil) throws(Failure) {
    failed += 1
    lines[message.number] = nil
    expected.removeAll { $0.number == message.number }
    try failures.add(message)
    progress.clear()
    let name = "message \(message.number)" + (message.properties.messageID.map { " (\($0))" } ?? "")
    console.report(Failure(.notDelivered, "\(name) \(what)", hint: hint))
  }

  private func broken(_ failure: Failure, _ kind: AMQPError.Kind? = nil) -> Failure {
    var failure = failure
    if case .channelClosed(code: 404) = kind {
      failure.hint = "'msctl publish' does not declare exchanges; check the name."
    }
    let count = publisher.unconfirmed + again.count
    guard count > 0 else { return failure }
    failure.code = .notDelivered
    failure.message = "\(counted(count)) not confirmed: " + failure.message
    return failure
  }
}

func counted(_ count: Int, _ noun: String = "message") -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }
