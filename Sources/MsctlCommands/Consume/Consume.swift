import CommandTable
import MsctlCore

/// `msctl consume`: messages from RabbitMQ, each acknowledged once it is handled.
enum Consume: Verb {
  /// Where in a stream to begin (https://www.rabbitmq.com/docs/streams#consuming).
  struct Options: VerbOptions {
    var queue: QueueName?
    var count: Int?
    var idle: Duration?
    var drains = false
    var time: Duration?
    var peeks = false
    var requires = false
    var format = MessageFormat()
    var restoresOrigin = false
    var exec: String?
    var through: String?
    var parallel = 1
    var batch: Int?
    var batchTime: Duration?
    var onError = MessageCommands.OnError.requeue
    var rejectedExits: ExitCodes?
    var maxAttempts: Int?
    var replies = false
    var restarts = false
    var exchange: ShortString?
    var bindings: [ShortString] = []
    var bindArguments: [NameValue] = []
    var isExclusive = false
    var expires: Duration?
    var isStream = false
    var offset: StreamOffset?
    var resumeFile: FileName?
    /// The place that the file of `--resume` has.
    var place: Int64?
    var sample = 1
    var showsState = false
    var managementURL: String?
    var consumerArguments: [NameValue] = []
    var prefetch: Int?
    var readyFile: FileName?
    var rate: Rate?
    var children = ChildEnvironment()
    var broker = BrokerOptions()
    var output = OutputOptions()

    init() {}

    /// The limit that the queue is said to have.
    var deliveryLimit: Int? {
      broker.queueArguments.last { $0.name.isSame(as: "x-delivery-limit") }.flatMap { Int($0.value) }
    }

    /// Whether a queue that exists must have the arguments. A delivery limit alone may be that of a policy: it is only believed. What
    /// only looks is content with some of them.
    var comparesArguments: Bool {
      !broker.isPassive && !peeks && broker.queueArguments.contains { !$0.name.isSame(as: "x-delivery-limit") }
    }

    /// Whether it ends although nobody ends it.
    var endsByItself: Bool { count != nil || idle != nil || time != nil || drains || peeks }

    /// Where in a stream to begin, without `--offset`: all that is there where the run ends by itself, else what comes from now on.
    /// With a file that keeps the place nothing is left out, either.
    var startWord: String { endsByItself || resumeFile != nil ? "first" : "next" }
    /// Where the first connection begins in a stream.
    var firstOffset: AMQPValue { place.map { .integer($0) } ?? offset?.value ?? .string(startWord) }

    /// Whether something is said of how messages are taken.
    var takesMessages: Bool {
      endsByItself || exec != nil || through != nil || exchange != nil || isStream || format.asEnvelope || format.isRaw
        || !consumerArguments.isEmpty || prefetch != nil || rate != nil || readyFile != nil
    }

    var handling: Consumer.Handling {
      exec != nil
        ? .commands(parallel: parallel, batch: batch ?? 1)
        : through != nil ? .filter(chooses: format.asEnvelope) : .output
    }

    /// How many messages a filter may leave without a line in a run that ends by itself: those it does not choose are held until then.
    var mostLeftOut: Int? { prefetch == nil && handling.isFilter && endsByItself ? Consumer.mostHeld : nil }
    /// One that names its messages has them from the start. Where lines are counted, so many are only for a filter that is silent.
    private var roomForChoice: Int? { handling == .filter(chooses: true) ? mostLeftOut : nil }
    fileprivate var roomForSilence: Int? { drains ? mostLeftOut : nil }

    /// With a rate, no more wait here than are handed on within some seconds, since others may take them. As many as commands run at
    /// a time, and what a filter may need before it answers the first, are held only as far as none of them waits for long: RabbitMQ
    /// requeues what is unacknowledged for 30 min.
    private var pacedPrefetch: Int? {
      guard let rate else { return nil }
      let few = min(Consumer.standardPrefetch, rate.count(within: .seconds(10)))
      let most = rate.count(within: .seconds(600))
      return switch handling {
      case .output: few
      case .commands: max(few, min(parallel * (batch ?? 1), most))
      case .filter(chooses: false) where !endsByItself: min(Consumer.standardPrefetch, most)
      case .filter: nil
      }
    }

    func prefetch(_ countsReturns: Bool) -> Int {
      Consumer.prefetch(
        prefetch ?? roomForChoice ?? pacedPrefetch, for: handling, limit: count,
        endsInTime: count != nil || time != nil || idle != nil,
        countsReturns: countsReturns)
    }
  }

  static let command = Command<Options>(
    "consume", "consume from RabbitMQ, acknowledged when handled",
    details: """
      Writes each message as a line of JSON: a JSON body unchanged, a text body as a string, other bytes as a base64 string. \
      A message is acknowledged when its line has been written to standard output. If msctl dies before that, the broker \
      redelivers it. A line already in a pipe is acknowledged, even if its reader dies; use --through for a pipe that loses \
      nothing.

      '--exec' and '--through' pass messages to other programs and acknowledge each one after success. '--exec' runs COMMAND \
      for each message, with the body on its standard input and MSCTL_MESSAGE_ID, MSCTL_ROUTING_KEY and other variables in \
      its environment. '--through' runs one filter for all messages: each message is one line of its input. Without \
      '--envelope' the filter must write exactly one line per message, in order. With '--envelope' each line that it writes \
      names its message, and a message without a line is requeued at the end: such a filter may select messages.

      QUEUE is declared durable if it does not exist, unless --passive, --drain or --peek requires it to exist. RabbitMQ deletes an \
      auto-delete queue when its last consumer ends, with all that it holds: what has failed or was not wanted is lost then, also \
      after --count or --peek.

      SIGINT and SIGTERM end it cleanly: it takes no more messages, gives running commands 10 s to finish, sends them SIGTERM, \
      and SIGKILL after another 10 s, and exits 130 or 143. A second signal of the same kind ends it at once and kills what it \
      runs. Running commands get the same time at the end of '--for', when the queue is deleted, and after a failure that ends \
      the run. Messages that were delivered and not handled are requeued.

      If the connection breaks, msctl reconnects. A message that it has handled and could not acknowledge is acknowledged when \
      the broker delivers it again, not handled twice. A connection that breaks again before a message was acknowledged is \
      the same outage: after '--reconnect-for' msctl exits 6.
      """,
    flags: flags,
    operands: [.optional("QUEUE", into: \.queue, "The queue (none with --exchange)", completion: .live("queue"))],
    variables: [ManagementAPI.variable(into: \.managementURL)],
    examples: [
      Example("msctl consume orders --count 2", "Two messages"),
      Example("msctl consume orders --drain | jq .id", "All ready messages"),
      Example("msctl consume orders --drain --rate 10 --exec 'msctl publish archive'", "At most ten per second"),
      Example(
        "msctl consume mails --exec 'sendmail -t' --max-attempts 3",
        "A command for each message; dead-lettered or discarded after 3 failures"),
      Example(
        "msctl consume orders --drain --batch 100 --exec 'gzip >> orders.gz'", "A command for each 100 messages"),
      Example("msctl consume sums --exec 'jq add' --reply", "A service that replies to each request"),
      Example(
        "msctl consume mails --exec 'sendmail -t' --ready-file ready", "In a container whose probe is 'test -e ready'"),
      Example(
        "msctl consume orders --through 'msctl call POST payment-service/charges --each | msctl publish receipts --tee'",
        "A pipe that loses nothing"),
      Example("msctl consume orders --stat", "How many messages are ready"),
      Example(
        "msctl consume -x amq.headers --bind-argument type=pdf --sample 10 --idle 1s",
        "Every tenth message with a header, as a copy"),
      Example(
        "msctl consume audit --exchange amq.topic --bind 'order.#' --expires 1h --idle 1s",
        "A queue of its own beside those of others, which is kept for an hour"),
      Example(
        "msctl consume events --stream --resume events.place --idle 1s", "A stream, from where the last run stopped"),
      Example(
        "msctl consume orders.dead --drain --envelope --origin --through 'msctl publish --envelope --tee'",
        "Redrive: dead letters back to where they were first published"),
      Example(
        "msctl consume orders --drain --envelope --through "
          + #""jq -c --unbuffered 'select(.body.total>5)' | msctl publish archive --envelope --tee""#,  // lint-ok: jq's
        "Move some messages to another queue"),
    ],
    habits: .consuming,
    check: check)

  private static let flags = endFlags + formFlags + commandFlags + deliveryFlags

  private static let endFlags: [Flag<Options>] =
    [
      .number("count", "n", "N", in: 1...Int.max, into: \.count, "End after N messages")
        .details("Exit 8 if fewer arrive within '--for' or '--idle'."),
      .value("idle", nil, "TIME", into: \.idle, "End after TIME without a message and without a running command")
        .details(
          """
          A filter ('--through') with unprocessed messages counts as running until it has written no line for 10 s, or for \
          TIME if that is longer; then its input is closed, and what it leaves unprocessed is requeued.
          """),
      .toggle("drain", nil, into: \.drains, "End when the queue is empty"),
      .value("for", nil, "TIME", into: \.time, "End after TIME"),
      .toggle("require", nil, into: \.requires, "Exit 3 if there was no message"),
    ].under("End")

  private static let formFlags: [Flag<Options>] =
    [
      .toggle("envelope", "e", into: \.format.asEnvelope, "Wrap each body in exchange, routing key and properties")
        .details("'publish --envelope' publishes the same message from it."),
      .toggle("origin", nil, into: \.restoresOrigin, "Give a dead letter the exchange and routing key it first had")
        .brief()
        .details(
          """
          They are those of its first death (the header x-death), and x-death, x-first-death-* and x-last-death-* are left out. A \
          message that expired comes without its expiration. A message that no broker has dead-lettered ends the run with exit code \
          9 and is requeued. One that dies again comes back: limit a redrive with '--count' or '--for' if the cause may be there \
          still. Before RabbitMQ 4.0 a publisher can forge x-death: if you do not trust every publisher, name the queue \
          ('publish QUEUE --envelope').
          """),
      .toggle("raw", nil, into: \.format.asBytes, "Write the bytes of each body, followed by a line feed"),
      .toggle("null", "0", into: \.format.endsWithNUL, "Like --raw, but with a NUL instead of the line feed"),
    ].under("Form")

  private static let commandFlags: [Flag<Options>] =
    [
      .value("exec", nil, "COMMAND", into: \.exec, "Run COMMAND for each message; exit 0 acknowledges")
        .details(
          """
          Its output, up to \(KeptOutput.limit >> 30) GiB, is written after it has succeeded; until then, more than a few MiB \
          are kept in an unnamed file in TMPDIR. \(ChildEnvironment.note)
          """),
      .number("parallel", nil, "N", in: 1...1024, into: \.parallel, "Run N commands at a time"),
      .number(
        "batch", nil, "N", in: 1...10_000, into: \.batch, "Run COMMAND for up to N messages, one per line"
      )
      .details(
        """
        Each line is a message as JSON, as it would be written without --exec. One exit code decides for all of a batch: 0 \
        acknowledges its messages, and a failure is one of each of them, so that --on-error reject, --reject-exit and --max-attempts \
        reject them all. A batch is run as soon as it has N messages or \(MessageCommands.batchSize >> 20) MiB, --batch-time after \
        its first message, or when --drain, --idle or --count expects no more. At a signal and at the end of --for, messages of a \
        batch that does not run yet are requeued. COMMAND finds the number of messages in MSCTL_BATCH, and MSCTL_ATTEMPT, but no \
        variables of single messages.
        """),
      .value(
        "batch-time", nil, "TIME", into: \.batchTime,
        "Run a smaller batch after TIME (default: \(MessageCommands.standardBatchTime.shown))"
      )
      .brief(),
      .value("on-error", nil, "WHAT", into: \.onError, "What to do with a message whose command failed")
        .details(
          """
          In a stream, requeue means to run the command again before the next message, and reject to skip the message. If a \
          quorum queue limits deliveries, each failure tells how many attempts are left: by --queue-argument x-delivery-limit=N, \
          or by RabbitMQ's default (4.0 to 4.2: 20). msctl cannot see a limit set by a policy.
          """
        ),
      .value(
        "reject-exit", nil, "CODES", into: \.rejectedExits,
        "Reject a message at once if its command exits with one of these codes"
      )
      .details(
        """
        Codes and ranges, separated by commas: 4,9 or 64-78. Other failures follow --on-error and --max-attempts. With \
        --exec 'msctl call POST ...', code 4 is what the service refuses, and 9 what cannot be sent.
        """),
      .toggle("reply", nil, into: \.replies, "Send the output as the reply to each message")
        .details(
          """
          The other side of 'publish --reply': the output of COMMAND, without the line feed at its end, goes to the queue in \
          reply_to with the message's correlation_id, and the message is acknowledged once the broker has confirmed that. With \
          --envelope and --through, the reply is the body of the envelope that the filter writes. A requester that is gone is no \
          failure. The output for a message without reply_to is written to standard output, with a remark.

          A reply that the broker refuses is the requester's fault: its queue is full (msctl tries \(ReplySender.attempts) times within a few \
          seconds, and then once per reply for \(ReplySender.refusedTime.shown)), or the reply is larger than the broker takes. That request is rejected, whatever --on-error says, and the others go on. If no \
          reply can be sent, for lack of permission for example, the run fails and all requests without a reply are requeued. A \
          broker that accepts no messages for now, since it is low on memory, is waited for; a run that ends by itself gives up after 30 s.
          """),
      .value("through", nil, "COMMAND", into: \.through, "Pass all messages to one filter, one per line")
        .details(
          """
          Without --envelope, lines are counted: messages are acknowledged when there are as many lines as messages, in a run that \
          ends by itself at its end, or else after at most \(MessageFilter.patience.shown) or --prefetch messages. A filter that exits at the end of its \
          input with fewer lines than messages, writes more, or in a run that ends by itself is terminated before it has written as \
          many, fails, and all that was not acknowledged is requeued. With --drain, a \
          filter that has read \(Consumer.standardPrefetch) messages and writes nothing for \(MessageFilter.patience.shown) gets up to \
          \(Consumer.mostHeld) of them, unless --prefetch is given; one that leaves so many without a line fails. With --drain or --count, \
          so does one that has all that --prefetch allows and writes nothing for \(MessageFilter.fullPatience.shown).

          With --envelope, the filter's input has a deliveryTag in each envelope. Each line of its output must be an object with \
          that deliveryTag, or with the messageId of its message (in properties or at its top), in any order. What has no line when \
          the filter has read everything and exited with 0 is requeued, which is no failure. A run that ends by itself holds up to \
          \(Consumer.mostHeld) such messages; quorum queues on RabbitMQ 4.0 to 4.2 count each as a delivery.

          A filter that closes its input or output, leaves a process running that holds its output, or does not \
          exit at the end of its input although it has written a line for each message, is terminated once it has been silent \
          for 10 s, and killed after another 10 s. A line may have up to \(FilterHandler.lineLimit >> 20) MiB and must end with \
          a line feed. \(ChildEnvironment.note)
          """),
      .toggle("restart", nil, into: \.restarts, "Restart a filter that has failed").brief()
        .details(
          "It gets again what it wrote no line for; the bodies of those messages are kept, up to \(MessageFilter.sizeLimit >> 20) MiB."
        ),
      .number("max-attempts", nil, "N", in: 1...1_000_000, into: \.maxAttempts, "Reject a message after N failures")
        .details(
          """
          Only failures in this run count. A dead-letter exchange gets the rejected message; without one the broker discards it, \
          and a remark says so where RabbitMQ's management API responds.
          """),
    ].under("Commands") + ChildEnvironment.flags.lifted(to: \.children).under("Commands")

  private static let deliveryFlags: [Flag<Options>] =
    [
      .toggle("peek", nil, into: \.peeks, "Print ready messages and requeue them")
        .details(
          """
          Consumers cannot get them meanwhile; they come back as redelivered. RabbitMQ before 4.3 counts that towards a quorum \
          queue's delivery limit (from 4.0 on 20 by default): at the last time but one, --peek publishes the message again, to \
          the end of the queue, and exits 1. A user who may not publish cannot peek there. If a policy sets the limit, or the \
          queue has more arguments, say it with '--queue-argument x-delivery-limit=N'.
          """),
      .value("exchange", "x", "NAME", into: \.exchange, "Bind QUEUE, or a temporary queue, to EXCHANGE and consume it")
        .details(
          """
          QUEUE is declared durable if it does not exist. It keeps its bindings, and collects messages after msctl has ended. \
          Without QUEUE, the broker names a queue that goes with the connection.
          """),
      .list("bind", "b", "KEY", into: \.bindings, "Bind with this routing key (default: #)")
        .details(
          """
          A topic exchange compares patterns (orders.*, orders.#), a direct one the whole key. A fanout exchange ignores keys, and a \
          headers exchange compares headers instead (--bind-argument): '--bind' is refused there.
          """),
      .list("bind-argument", nil, "NAME=VALUE", into: \.bindArguments, "Bind to a headers exchange for this header")
        .brief()
        .details(
          """
          A message must have all of them, or with x-match=any one of them. Numbers and true/false are compared as such.
          """),
      .toggle("exclusive", nil, into: \.isExclusive, "Declare QUEUE for this connection alone; it is deleted with it")
        .brief(),
      .value(
        "expires", nil, "TIME", into: \.expires, "Declare QUEUE so that it is deleted after TIME without a consumer"
      ).brief(),
      .toggle("stream", nil, into: \.isStream, "QUEUE is a stream (reading does not remove messages)"),
      .value("resume", nil, "FILE", into: \.resumeFile, "Begin where the last run stopped, as FILE says").brief()
        .details(
          """
          FILE keeps the offset after the last message that was handled, as one line of JSON, and is replaced whole each time. If it \
          does not exist, the run begins at --offset (default: first). A FILE of another stream, or one that is damaged, is refused \
          with exit code 9. If the stream is deleted and declared again, delete FILE, too.
          """),
      .value("offset", nil, "WHERE", into: \.offset, "Where in the stream to begin: first, last, next, N or a time")
        .details(
          """
          Default: first for a run that ends by itself (--count, --idle, --for) or has --resume, else next. A time is -TIME (-5m: five minutes ago), a \
          date of RFC 3339 (2026-01-31T09:30:00Z) or @SECONDS since 1970; the broker begins with the chunk of messages that holds it, \
          so that a few older ones may come first.
          """),
      .number("sample", nil, "N", in: 1...Int.max, into: \.sample, "Take only every Nth message").brief()
        .details(
          """
          From a stream, or from a queue of its own: -x EXCHANGE with the keys of the queue that you want to look at. That queue \
          loses nothing. '--count' counts the messages of the sample.
          """),
      .toggle("stat", nil, into: \.showsState, "Print the number of messages and consumers of QUEUE; take no message")
        .details(
          """
          As {"queue","messages","consumers"}: messages are those ready for delivery. If MSCTL_MANAGEMENT_URL is set, RabbitMQ's \
          management API adds "unacknowledged", which may be some seconds old. With '--require', an empty queue is exit code 3.
          """),
      .list("consumer-argument", nil, "NAME=VALUE", into: \.consumerArguments, "Consume with this argument")
        .brief()
        .details(
          """
          For example x-priority=10: consumers of a higher priority get messages first. With x-stream-filter=VALUE a stream leaves \
          out chunks that hold no message with the header x-stream-filter-value of that VALUE; the others come whole, so filter \
          them again.
          """),
      .value("rate", nil, "N", into: \.rate, "Handle at most N messages per second, evenly")
        .brief()
        .details(
          """
          N/m is per minute, N/h per hour. No more messages are held than are due within 10 s, or, with --parallel and by a filter of a \
          run without an end, 10 min. The next message waits unacknowledged until it is due: for less than 2/h, raise RabbitMQ's \
          consumer_timeout (30 min by default).
          """),
      .number("prefetch", nil, "N", in: 1...65535, into: \.prefetch, "Maximum unacknowledged messages held")
        .details(
          """
          Default \(Consumer.standardPrefetch); with --exec, \(Consumer.waitingRoom) more than --parallel (times --batch); with --count, fewer; with --count and \
          --through, the count. On RabbitMQ 4.0 to 4.2, a run with --for or --idle from a quorum queue holds no more than it can \
          handle, because each requeued message counts towards the delivery limit.
          """),
      .value("ready-file", nil, "FILE", into: \.readyFile, "Create FILE while messages can be handled")
        .brief()
        .details(
          """
          For the probe of a container, 'test -e FILE'. It is removed while the broker is away or a filter is not \
          running, and at the end. Whatever kills msctl leaves it to the next run, which removes it first.
          """),
    ].under("Delivery") + BrokerOptions.flags.lifted(to: \.broker) + OutputOptions.flags.lifted(to: \.output)

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    if options.showsState { return try showState(options, console) }
    var options = options
    let resume = try ResumeFile(options)
    if let place = try resume?.read() { options.place = place }
    let loop = EventLoop()
    let readyFile = try options.readyFile.map { path throws(Failure) in try ReadyFile(path.text, console) }
    let (connection, queue) = try connect(options, console, loop)
    let run: ConsumeRun
    do throws(Failure) {
      let plan = try queue.plan.get()
      for note in queue.notes { console.note(note) }
      let signals = Signals(children: true)
      let replies = options.replies ? ReplySender(options, environment, console, loop) : nil
      let deadLetters = DeadLetters(options.managementURL, console, loop)
      let handler: any MessageHandler =
        if let command = options.exec {
          ExecHandler(command, options, plan.traits, replies, deadLetters, environment, console)
        } else if let command = options.through {
          try FilterHandler(
            command, options, plan.traits, window: plan.prefetch, replies, deadLetters, environment, console)
        } else {
          OutputHandler(options.format, console)
        }
      let saver: SpentMessages? =
        if options.peeks, let limit = plan.traits.deliveryLimit {
          try SpentMessages(of: queue.name, options.broker, limit, console, signals)
        } else { nil }
      if let saver {
        let heartbeats = Heartbeats(on: connection)
        loop.add(heartbeats)
        loop.add(saver)
        try loop.answer(to: saver)
        loop.remove(heartbeats)
      }
      run = ConsumeRun(options, handler, replies, deadLetters, saver, readyFile, resume, console, signals)
      try run.run(plan, on: connection, loop)
    } catch {
      // Whatever was delivered goes back to the queue with this.
      connection.close()
      throw error
    }
  }

  /// Keeps a connection up on which nothing else happens yet.
  private final class Heartbeats: LoopMember {
    private var link = BrokerLink()

    init(on connection: AMQPConnection) { link.take(connection) }

    var wakeTime: Deadline { link.wakeTime(wantsInput: false) }
    func addInterests(to polls: inout PollSet) { link.addInterests(to: &polls) }
    /// A loss is met by who uses the connection next.
    func proceed() { try? link.pump() }
  }

  /// What the broker has said of the queue before the first message, and what a run does accordingly.
  private final class PreparedQueue: @unchecked Sendable {
    var name = ""
    var plan = Result<Consumer.Options, Failure>.failure(Failure(.unknown("no connection")))
    var notes: [CommandNote] = []
  }

  /// Connects, makes sure of the queue, and asks what a run depends on.
  private static func connect(
    _ options: Options, _ console: Console, _ loop: EventLoop
  ) throws(Failure) -> (AMQPConnection, PreparedQueue) {
    var setup: AMQPConnection.Setup?
    if let queue = options.queue?.text, !options.isExclusive {
      var asked = AMQPConnection.Setup()
      asked.queue = queue
      // A filter that cannot be started should not have got anything, nor a queue that cannot be bound.
      if options.through == nil, options.exchange == nil, !options.comparesArguments {
        asked.consumer = firstConsumer(of: queue, options)
      }
      setup = asked
    }
    let prepared = PreparedQueue()
    let connection = try options.broker.connect(as: "consume", console, loop, nil, setup) { connection in
      do throws(Failure) { prepared.plan = .success(try prepare(prepared, on: connection, options)) } catch {
        prepared.plan = .failure(error)
      }
    }
    return (connection, prepared)
  }

  /// What the consumer is to do, as far as it depends on the broker and the queue.
  private static func plan(
    for queue: PreparedQueue, on connection: AMQPConnection, _ options: Options
  ) throws(AMQPError) -> Consumer.Options {
    var plan = Consumer.Options(
      QueueBinding(options).map { .bound($0.binding, queue: queue.name) } ?? .queue(queue.name))
    plan.handling = options.handling
    plan.traits.isStream = options.isStream
    plan.offset = options.firstOffset
    plan.consumerArguments = amqpFields(options.consumerArguments)
    plan.limit = options.count
    (plan.sample, plan.keepsPlace) = (options.sample, options.resumeFile != nil)
    plan.rate = options.rate
    (plan.idle, plan.time) = (options.idle, options.time)
    (plan.drains, plan.peeks, plan.requires) = (options.drains, options.peeks, options.requires)
    plan.reconnectFor = options.broker.reconnectFor
    plan.awaitsPassword = options.broker.passwordFile != nil
    plan.began = unixTime()
    if !options.isStream, options.queue != nil, !options.isExclusive,
      connection.countsReturns || options.deliveryLimit != nil || options.peeks && connection.countsLimitedReturns,
      try connection.isQuorum(queue.name)
    {
      let declared = options.peeks ? try connection.declaredDeliveryLimit(of: queue.name) : nil
      plan.traits.deliveryLimit = connection.deliveryLimit(set: options.deliveryLimit ?? declared)
    }
    if options.peeks {
      // No more are taken than are shown, since all of them come back marked as redelivered; 0 is no bound.
      let wanted = try min(options.count ?? .max, connection.inspectQueue(queue.name).messages)
      plan.limit = wanted
      // Where that counts, the first one says whether the others can be looked at.
      plan.prefetch = plan.traits.deliveryLimit != nil ? 1 : wanted > UInt16.max ? 0 : max(1, wanted)
      return plan
    }
    let countsReturns = connection.countsReturns && plan.traits.deliveryLimit != nil
    plan.prefetch = options.prefetch(countsReturns)
    plan.roomForSilence = options.roomForSilence
    if let asked = options.prefetch, asked > plan.prefetch, countsReturns, options.count == nil {
      queue.notes.append(.lowPrefetch(plan.prefetch, asked: asked))
    }
    return plan
  }

  /// The consumer, as far as it is known before the queue is: so that it is asked for while the connection is opened.
  private static func firstConsumer(of queue: String, _ options: Options) -> AMQPConnection.Consumer? {
    guard !options.peeks, options.deliveryLimit == nil else { return nil }
    return AMQPConnection.Consumer(
      queue, prefetch: options.prefetch(false),
      arguments: Consumer.Options.arguments(
        streamOffset: options.isStream ? options.firstOffset : nil, amqpFields(options.consumerArguments)))
  }

  /// Makes sure of the queue, which is taken as it is where it exists, so that a consumer need not know its arguments; and asks the
  /// broker what the run depends on.
  private static func prepare(
    _ prepared: PreparedQueue, on connection: AMQPConnection, _ options: Options
  ) throws(Failure) -> Consumer.Options {
    let name = options.queue?.text ?? ""
    prepared.name = name
    // The consumer, which was asked for after the queue, may be refused: the run meets that.
    let missing = connection.setup.hasQueue ? nil : connection.setup.error
    if let missing {
      guard missing.kind == .channelClosed(code: 404), !options.broker.isPassive, !options.peeks, !options.drains else {
        throw options.broker.failure(missing, queue: name, connection.uri)
      }
      // The refusal has closed the channel.
      do throws(AMQPError) { try connection.openChannel() } catch { throw error.failure(connection.uri) }
    }
    let binding = QueueBinding(options)
    // Before a queue is declared that could not be bound.
    try binding?.check(on: connection)
    if let binding, options.isExclusive || options.queue == nil || options.expires != nil {
      prepared.name = try binding.declareQueue(options.broker, on: connection)
    } else if missing != nil || options.comparesArguments {
      var broker = options.broker
      if options.isStream { broker.queueArguments.append(NameValue("x-queue-type", "stream")) }
      try broker.assertQueue(name, on: connection)
    }
    if missing != nil { prepared.notes.append(.declaredQueue(name)) }
    try binding?.bind(prepared.name, on: connection)
    do throws(AMQPError) { return try plan(for: prepared, on: connection, options) } catch {
      throw options.broker.failure(error, queue: name, connection.uri)
    }
  }
}
