import CommandTable
import MsctlCore

/// `msctl consume`: messages from RabbitMQ, each acknowledged once it is handled.
enum Consume: Verb {
  /// Where in a stream to begin (https://www.rabbitmq.com/docs/streams#consuming).
  enum Offset: ArgumentValue, Equatable {
    case word(String)
    case number(Int64)
    case timestamp(UInt64)

    init(argument: String) throws(ValueError) {
      if ["first", "last", "next"].contains(argument) {
        self = .word(argument)
      } else if let number = Int64(argument), number >= 0 {
        self = .number(number)
      } else if argument.hasPrefix("@"), let seconds = UInt64(argument.dropFirst()) {
        self = .timestamp(seconds)
      } else {
        throw ValueError("is not one of first, last, next, a number and @SECONDS (since 1970)")
      }
    }

    var argumentText: String? { nil }

    var value: AMQPValue {
      switch self {
      case .word(let word): .string(word)
      case .number(let number): .integer(number)
      case .timestamp(let seconds): .timestamp(seconds)
      }
    }
  }

  struct Options: VerbOptions {
    var queue: QueueName?
    var count: Int?
    var idle: Duration?
    var drains = false
    var time: Duration?
    var peeks = false
    var requires = false
    var format = MessageFormat()
    var exec: String?
    var through: String?
    var parallel = 1
    var onError = OnError.requeue
    var maxAttempts: Int?
    var restarts = false
    var exchange: ShortString?
    var bindings: [ShortString] = []
    var isStream = false
    var offset: Offset?
    var prefetch: Int?
    var children = ChildEnvironment()
    var broker = BrokerOptions()
    var output = OutputOptions()

    init() {}

    var bindingKeys: [String] { bindings.isEmpty ? ["#"] : bindings.map(\.text) }

    var consumeArguments: [AMQPField] {
      offset.map { [AMQPField("x-stream-offset", $0.value)] } ?? []
    }
  }

  static let standardPrefetch = 100
  /// With `--exec`, how many messages may be under way beside those whose command runs: failed ones that wait to go back
  /// must not keep the others from coming.
  static let waitingRoom = 10

  static let command = Command<Options>(
    "consume", "consume from RabbitMQ, acknowledged when handled",
    details: """
      Writes each message as a line of JSON: a JSON body as it is, a text body as a string, other bytes as a string in \
      base64. A message is acknowledged when its line has been written and flushed, so that none is lost where a pipe or \
      this process dies; it is delivered again then.

      '--exec' and '--through' pass messages to other programs and acknowledge each one after success. '--exec' runs COMMAND \
      for each message, with the body on its standard input and MSCTL_MESSAGE_ID, MSCTL_ROUTING_KEY and other variables in \
      its environment. '--through' runs one filter for all messages: each message is one line of its input, and it must write \
      exactly one line per message, in order. A filter that drops or adds lines acknowledges the wrong messages.

      A queue that does not exist is made (durable), unless --passive, --drain or --peek says that it must exist. SIGINT and \
      SIGTERM end it cleanly: running commands may finish for 10 s, then get SIGTERM, and SIGKILL after another 10 s. So \
      does the end of '--for'.
      """,
    flags: flags,
    operands: [.optional("QUEUE", into: \.queue, "The queue (none with --exchange)", completion: .live("queue"))],
    examples: [
      Example("msctl consume orders --count 2", "Two messages"),
      Example("msctl consume orders --drain | jq .id", "All that wait"),
      Example("msctl consume mails --exec 'sendmail -t' --max-attempts 3", "A command for each message"),
      Example(
        "msctl consume orders --through 'msctl call POST payment-service/charges --each | msctl publish receipts --tee'",
        "A pipe that loses nothing"),
    ],
    check: { options throws(ValueError) in
      if options.exchange == nil, options.queue == nil {
        throw ValueError("'consume' needs QUEUE: the queue, or '--exchange NAME' with '--bind KEY'")
      }
      if options.exchange != nil, options.queue != nil {
        throw ValueError("with '--exchange' there is no QUEUE: an own one is bound to the exchange")
      }
      if options.exchange == nil, !options.bindings.isEmpty { throw ValueError("'--bind' needs '--exchange'") }
      if options.peeks, options.drains || options.idle != nil || options.time != nil {
        throw ValueError("'--peek' ends by itself: it does not go together with '--drain', '--idle' or '--for'")
      }
      if options.exec != nil, options.through != nil { throw ValueError("'--exec' and '--through' do not go together") }
      if options.peeks, options.exec != nil || options.through != nil {
        throw ValueError("'--peek' acknowledges nothing, so it does not go together with '--exec' or '--through'")
      }
      if options.exec == nil, options.parallel != 1 || options.onError != .requeue {
        throw ValueError("'--parallel' and '--on-error' need '--exec'")
      }
      if options.maxAttempts != nil, options.exec == nil, !options.restarts {
        throw ValueError("'--max-attempts' needs '--exec', or '--through' with '--restart'")
      }
      if options.children.isClean, options.exec == nil, options.through == nil {
        throw ValueError("'--clean-env' needs '--exec' or '--through'")
      }
      if options.restarts, options.through == nil { throw ValueError("'--restart' needs '--through'") }
      if options.format.isRaw, options.exec != nil || options.through != nil {
        throw ValueError("'--raw' and '-0' are for standard output; '--exec' hands over the body as it is anyhow")
      }
      if options.format.isRaw, options.format.asEnvelope {
        throw ValueError("'--raw' and '--envelope' do not go together")
      }
      if options.offset != nil, !options.isStream { throw ValueError("'--offset' needs '--stream'") }
      if options.isStream, options.drains || options.peeks {
        throw ValueError("a stream never empties: '--idle 1s' ends at its end, in place of '--drain' and '--peek'")
      }
    })

  private static let flags: [Flag<Options>] =
    [
      .number("count", "n", "N", in: 1...Int.max, into: \.count, "End after N messages")
        .details("Fewer than N within '--for' or '--idle' is a time-out: exit code 8."),
      .value("idle", nil, "TIME", into: \.idle, "End when no message has come for so long"),
      .toggle("drain", nil, into: \.drains, "End when the queue is empty"),
      .value("for", nil, "TIME", into: \.time, "End after this time"),
      .toggle("require", nil, into: \.requires, "Exit with 3 where there was no message"),
    ].under("End")
    + [
      .toggle("envelope", "e", into: \.format.asEnvelope, "Wrap each body in exchange, routing key and properties")
        .details("'publish --envelope' makes the same message of it."),
      .toggle("raw", nil, into: \.format.asBytes, "Write the bytes of each body and a line feed"),
      .toggle("null", "0", into: \.format.endsWithNUL, "As --raw, with a NUL in place of the line feed"),
    ].under("Form")
    + [
      .value("exec", nil, "COMMAND", into: \.exec, "Run COMMAND for each message; exit code 0 acknowledges")
        .details(
          """
          Its output, up to \(KeptOutput.limit >> 30) GiB, is written after it has succeeded; until then, more than a few MiB \
          are kept in an unnamed file in TMPDIR. \(ChildEnvironment.note)
          """),
      .number("parallel", nil, "N", in: 1...1024, into: \.parallel, "Run N commands at a time"),
      .value("on-error", nil, "WHAT", into: \.onError, "What becomes of a message whose command failed"),
      .value("through", nil, "COMMAND", into: \.through, "Pass all messages to one filter, one per line")
        .details(
          """
          If the filter ends while messages are unanswered, they are requeued and 'consume' fails. A filter that closes its \
          input or output, or leaves a process running that holds its output, is terminated once it has been silent for \
          10 s. A line may have up to \(FilterHandler.lineLimit >> 20) MiB. \(ChildEnvironment.note)
          """),
      .toggle("restart", nil, into: \.restarts, "Start a filter again that has failed"),
      .number("max-attempts", nil, "N", in: 1...1_000_000, into: \.maxAttempts, "Reject a message after N failures")
        .details("A queue with a dead-letter exchange hands it there."),
    ].under("Commands") + ChildEnvironment.flags.lifted(to: \.children).under("Commands")
    + [
      .toggle("peek", nil, into: \.peeks, "Show the messages that wait, and put them back"),
      .value("exchange", "x", "NAME", into: \.exchange, "Consume an own queue that is bound to this exchange"),
      .list("bind", "b", "KEY", into: \.bindings, "A binding key for the exchange (default: #)"),
      .toggle("stream", nil, into: \.isStream, "The queue is a stream: reading takes nothing away"),
      .value("offset", nil, "WHERE", into: \.offset, "Where in the stream: first, last, next, N or @SECONDS"),
      .number("prefetch", nil, "N", in: 1...65535, into: \.prefetch, "How many messages may be under way to here")
        .details("Without it, \(standardPrefetch); with '--exec', \(waitingRoom) more than run at a time."),
    ].under("Delivery") + BrokerOptions.flags.lifted(to: \.broker) + OutputOptions.flags.lifted(to: \.output)

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let (connection, queue) = try prepare(options, console)
    let signals = Signals(children: true)
    var last = connection
    // Whatever is not acknowledged goes back to the queue with this.
    defer { last.close() }
    do {
      let handler: any MessageHandler =
        if let command = options.exec {
          ExecHandler(command, options, environment, console)
        } else if let command = options.through {
          try FilterHandler(command, options, environment, console)
        } else {
          OutputHandler(options.format, console)
        }
      var session = try ConsumeSession(queue, options, connection, handler, console)
      defer { last = session.connection }
      try session.run(signals)
    } catch let error as AMQPError {
      throw options.broker.failure(error, queue: queue, last.uri)
    } catch let failure as Failure {
      throw failure
    } catch {
      throw Failure(.failed, "\(error)")
    }
  }

  /// Connects, and makes sure of the queue: taken as it is where it exists, so that a consumer need not know its arguments.
  private static func prepare(_ options: Options, _ console: Console) throws(Failure) -> (AMQPConnection, String) {
    let connection = try options.broker.connect(as: "consume", console)
    guard let queue = options.queue?.text else {
      let exchange = options.exchange?.text ?? ""
      do { return (connection, try connection.declareOwnQueue(boundTo: exchange, keys: options.bindingKeys)) } catch {
        var failure = error.failure(connection.uri)
        if case .channelClosed(code: 404) = error.kind { failure.hint = "An exchange is not made by 'msctl consume'." }
        throw failure
      }
    }
    do {
      _ = try connection.inspectQueue(queue)
      return (connection, queue)
    } catch {
      guard error.kind == .channelClosed(code: 404), !options.broker.isPassive, !options.peeks, !options.drains else {
        throw options.broker.failure(error, queue: queue, connection.uri)
      }
    }
    // The refusal has closed the channel.
    connection.close()
    let second = try options.broker.connect(as: "consume", console)
    var broker = options.broker
    if options.isStream { broker.queueArguments.append(NameValue("x-queue-type", "stream")) }
    try broker.assertQueue(queue, on: second)
    console.note("made the queue '\(queue)', which did not exist")
    return (second, queue)
  }
}
