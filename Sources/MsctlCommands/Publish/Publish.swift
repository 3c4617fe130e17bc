import CommandTable
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
    var failedFile: FileName?
    var wantsReply = false
    var isDryRun = false
    var replyTimeout: Duration = .seconds(30)
    var exchange: ShortString?
    var exchangeType: ShortString?
    var routingKey: ShortString?
    var isOptional = false
    var rate: Rate?
    var speed: Speed?
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

    /// The queue that must be there; with '--envelope', an empty QUEUE is none.
    var declaredQueue: String? { queue.flatMap { $0.isEmpty ? nil : $0 } }

    /// The exchange that is declared.
    var declaredExchange: AMQPExchange? {
      guard let exchange, let exchangeType else { return nil }
      return AMQPExchange(exchange.text, type: exchangeType.text)
    }

    /// What the one who publishes has to know.
    var plan: Publisher.Options {
      var plan = Publisher.Options()
      plan.exchange = declaredExchange
      plan.queue = declaredQueue
      plan.arguments = broker.declaredArguments
      plan.mayDeclare = !broker.isPassive
      plan.window = window
      plan.timing = rate.map { .rate($0) } ?? speed.map { .replay(speed: $0.factor) } ?? .atOnce
      plan.confirmTimeout = confirmTimeout
      plan.wantsReplies = wantsReply
      plan.replyTimeout = replyTimeout
      plan.reconnectFor = broker.reconnectFor
      plan.awaitsPassword = broker.passwordFile != nil
      return plan
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
        .value("exchange-type", nil, "TYPE", into: \.exchangeType, "Declare the exchange, durable and of this type")
          .completed(by: .choices(["direct", "fanout", "topic", "headers"]))
          .details("One that exists must be of this type. Without this option the exchange must exist."),
        .value("routing-key", "k", "KEY", into: \.routingKey, "Routing key for the exchange"),
        .toggle("no-mandatory", nil, into: \.isOptional, "Allow messages that no queue gets")
          .details("For events that may have no listener: the broker drops such a message and confirms it."),
        .value("rate", nil, "N", into: \.rate, "Publish at most N messages per second, evenly")
          .details("N/m is per minute, N/h per hour. What a broken connection left unconfirmed is sent again at once."),
        .value("speed", nil, "Nx", into: \.speed, "Replay envelopes in the rhythm of their timestamps, N times as fast")
          .details(
            """
            The first message is sent at once; one without a timestamp, or with an earlier one, directly after the one before it. \
            AMQP's timestamps are in seconds; the header timestamp_in_ms, by RabbitMQ's message timestamp plugin, is more precise.
            """),
        .number("window", nil, "N", in: 1...65535, into: \.window, "Maximum unconfirmed messages in flight"),
        .value("confirm-timeout", nil, "TIME", into: \.confirmTimeout, "Time limit for a confirm"),
        .toggle("tee", nil, into: \.tees, "Write each value to standard output once it is confirmed"),
        .value(
          "failed-to", nil, "FILE", into: \.failedFile, "Write messages that were not confirmed to FILE, as envelopes"
        )
        .details(
          """
          FILE is replaced at the end of the run and may be the input: 'msctl publish --envelope --failed-to FILE < FILE' \
          tries again. If the broker stays unreachable, the rest of standard input is written to FILE as well. A pipe, a \
          device or '-' (standard output) gets each message at once. Without a reader, publish waits for one, as a shell does.
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
        "msctl publish -x events --exchange-type topic -k order.created --no-mandatory '{\"id\":1}'",
        "An event, whether or not anyone listens"),
      Example("jq -c '.[]' orders.json | msctl publish orders --rate 50", "At most fifty per second"),
      Example("msctl publish orders -H tries:=5 -H region=eu '{\"id\":1}'", "With a number and a text as headers"),
      Example(
        "jq -c '.[]' orders.json | msctl publish orders --failed-to failed.jsonl --json-errors",
        "Keep what is not confirmed, with errors for programs"),
      Example(
        "msctl consume orders --drain --envelope | msctl publish replay --envelope --speed 100x",
        "Replay, a hundred times as fast as it happened"),
      Example(
        "msctl consume orders --drain --envelope --through 'msctl publish archive --envelope --tee'",
        "Move messages to another queue"),
    ],
    habits: .publishing,
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
      if options.exchangeType != nil, options.exchange?.text.isEmpty ?? true {
        throw ValueError("'--exchange-type' requires '--exchange' with the name of one")
      }
      if options.exchangeType != nil, options.broker.isPassive {
        throw ValueError("'--exchange-type' declares the exchange and cannot be combined with '--passive'")
      }
      if options.isOptional, options.declaredQueue != nil {
        throw ValueError("'--no-mandatory' requires '--exchange': QUEUE gets every message")
      }
      if !options.broker.queueArguments.isEmpty, options.declaredQueue == nil {
        throw ValueError("'--queue-argument' requires QUEUE, which it declares")
      }
      if options.replyTimeout != Options().replyTimeout, !options.wantsReply {
        throw ValueError("'--reply-timeout' requires '--reply'")
      }
      if options.isDryRun, options.wantsReply { throw ValueError("'--dry-run' cannot be combined with '--reply'") }
      if options.isOptional, options.wantsReply {
        throw ValueError("'--no-mandatory' cannot be combined with '--reply'")
      }
      if options.speed != nil, !options.asEnvelope { throw ValueError("'--speed' requires '--envelope'") }
      if options.speed != nil, options.rate != nil { throw ValueError("'--speed' cannot be combined with '--rate'") }
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
      if options.failedFile?.text.isSame(as: "-") == true, options.tees || options.wantsReply {
        throw ValueError("'--failed-to -' cannot be combined with '--\(options.tees ? "tee" : "reply")'")
      }
      if options.wantsReply, options.properties.replyTo != nil || options.properties.correlationID != nil {
        throw ValueError("'--reply' sets '--reply-to' and '--correlation-id' itself")
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    guard !options.isDryRun else { return try showMessages(options, console, environment) }
    var source = try MessageSource(options, TraceContext(environment: environment))
    let failures = try FailedItems(
      options.failedFile?.text, console, writesOutput: options.tees || options.wantsReply)
    let signals = Signals()
    let first = try firstMessage(&source, options)
    let loop = EventLoop()
    let connection: AMQPConnection
    do { connection = try connect(options, first, console, loop, signals) } catch {
      if let first { try failures.add(first) }
      let signal: Int32? = if case .signal(let number) = error.code { number } else { nil }
      try failures.keep(restOf: &source, console, signal)
      throw error
    }
    try PublishRun(options, console, signals, source, failures).run(on: connection, first: first, loop)
  }

  /// What is sent along with the opening of the connection: a small message of the command line.
  private static func firstMessage(_ source: inout MessageSource, _ options: Options) throws(Failure) -> AMQPMessage? {
    guard options.message != nil, !options.wantsReply, case .message(let message, _) = try source.next() else {
      return nil
    }
    return message
  }

  /// Connects, and asks for the queue along with that.
  private static func connect(
    _ options: Options, _ first: AMQPMessage?, _ console: Console, _ loop: EventLoop, _ signals: Signals
  ) throws(Failure) -> AMQPConnection {
    var setup = AMQPConnection.Setup()
    setup.exchange = options.declaredExchange
    setup.queue = options.declaredQueue
    setup.arguments = options.broker.declaredArguments
    if options.wantsReply { setup.consumer = .init(AMQPConnection.directReply, isAutomatic: true) }
    setup.selectsConfirms = true
    if let first, first.body.count <= Publisher.safeSize { setup.message = first }
    return try options.broker.connect(as: "publish", console, loop, signals, setup)
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
