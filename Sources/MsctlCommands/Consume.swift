import CommandTable
import Glibc
import MsctlCore

/// `msctl consume`: messages from RabbitMQ, each acknowledged once it is written out.
enum Consume: Verb {
  struct Options: VerbOptions {
    var queue: QueueName?
    var count: Int?
    var idle: Duration?
    var drains = false
    var time: Duration?
    var peeks = false
    var requires = false
    var prefetch = 100
    var broker = BrokerOptions()
    var output = OutputOptions()

    init() {}
  }

  static let command = Command<Options>(
    "consume", "consume from RabbitMQ, acknowledged when handled",
    details: """
      Writes each message as a line of JSON: a JSON body as it is, a text body as a string, other bytes as a string in \
      base64. A message is acknowledged when its line has been written and flushed, so that none is lost where a pipe or \
      this process dies; it is delivered again then.

      A queue that does not exist is made (durable), unless --passive, --drain or --peek says that it must exist. SIGINT and \
      SIGTERM end it cleanly.
      """,
    flags: [
      .number("count", "n", "N", in: 1...Int.max, into: \.count, "End after N messages")
        .details("Fewer than N within '--for' or '--idle' is a time-out: exit code 8."),
      .value("idle", nil, "TIME", into: \.idle, "End when no message has come for so long"),
      .toggle("drain", nil, into: \.drains, "End when the queue is empty"),
      .value("for", nil, "TIME", into: \.time, "End after this time"),
      .toggle("require", nil, into: \.requires, "Exit with 3 where there was no message"),
    ].under("End")
      + [
        .toggle("peek", nil, into: \.peeks, "Show the messages that wait, and put them back"),
        .number("prefetch", nil, "N", in: 1...65535, into: \.prefetch, "How many messages may be under way to here"),
      ].under("Delivery") + BrokerOptions.flags.lifted(to: \.broker) + OutputOptions.flags.lifted(to: \.output),
    operands: [.one("QUEUE", into: \.queue, "The queue", completion: .live("queue"))],
    examples: [
      Example("msctl consume orders --count 2", "Two messages"),
      Example("msctl consume orders --drain | jq .id", "All that wait"),
    ],
    check: { options throws(ValueError) in
      if options.peeks, options.drains || options.idle != nil || options.time != nil {
        throw ValueError("'--peek' ends by itself: it does not go together with '--drain', '--idle' or '--for'")
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    guard let queue = options.queue?.text else { throw Failure(.usage, "there is no QUEUE") }
    let signals = Signals()
    let connection = try prepare(queue, options, console)
    // Whatever is not acknowledged goes back to the queue with this.
    defer { connection.close() }
    do {
      var session = try Session(queue, options, connection, console)
      try session.run(signals)
    } catch let error as AMQPError {
      throw options.broker.failure(error, queue: queue, connection.uri)
    } catch let failure as Failure {
      throw failure
    } catch {}
  }

  /// Connects, and makes sure of the queue: taken as it is where it exists, so that a consumer need not know its arguments.
  private static func prepare(
    _ queue: String, _ options: Options, _ console: Console
  ) throws(Failure) -> AMQPConnection {
    let connection = try options.broker.connect(as: "consume")
    do {
      _ = try connection.inspectQueue(queue)
      return connection
    } catch {
      guard error.kind == .channelClosed(code: 404), !options.broker.isPassive, !options.peeks, !options.drains else {
        throw options.broker.failure(error, queue: queue, connection.uri)
      }
    }
    // The refusal has closed the channel.
    connection.close()
    let second = try options.broker.connect(as: "consume")
    try options.broker.assertQueue(queue, on: second)
    console.note("made the queue '\(queue)', which did not exist")
    return second
  }

  /// One run: what has been handled, and what has been acknowledged of it.
  private struct Session {
    private let queue: String
    private let options: Options
    private let connection: AMQPConnection
    private let console: Console
    private let consumer: String
    private let prefetch: Int
    private let limit: Int?
    private var handled = 0
    /// Delivery tags count from 1, so this is also how many messages are acknowledged.
    private var acknowledged = 0

    init(
      _ queue: String, _ options: Options, _ connection: AMQPConnection, _ console: Console
    ) throws(AMQPError) {
      self.queue = queue
      self.options = options
      self.connection = connection
      self.console = console
      if options.peeks {
        // All that wait are taken without an acknowledgement; 0 is no bound.
        prefetch = 0
        limit = try min(options.count ?? .max, connection.inspectQueue(queue).messages)
      } else {
        // Few beyond the last one wanted: see `acknowledge`.
        prefetch = options.count.map { max(1, min(options.prefetch, $0 / 10)) } ?? options.prefetch
        limit = options.count
      }
      try connection.setPrefetch(prefetch)
      consumer = try connection.consume(queue)
    }

    mutating func run(_ signals: borrowing Signals) throws {
      let end = options.time.map(Deadline.after) ?? .never
      var idleEnd = options.idle.map(Deadline.after) ?? .never
      while true {
        let before = handled
        try takeDeliveries()
        try flush(signals)
        try acknowledge()
        if handled > before, let idle = options.idle { idleEnd = .after(idle) }

        if handled == limit { break }
        if let number = signals.take() { throw Failure(.signal(number), "interrupted") }
        if handled == before, options.drains || options.peeks, try isEmpty() { break }
        if end.isPast || idleEnd.isPast {
          try checkCount()
          break
        }
        try wait(signals, until: min(end, idleEnd, .after(.seconds(1))))
      }
      if handled == 0, options.requires { throw Failure(.nothingThere, "the queue '\(queue)' held no message") }
    }

    /// Adds what has come to the output, a piece at a time.
    private mutating func takeDeliveries() throws {
      while handled != limit, console.bufferedBytes < 64 << 10, let event = try connection.nextEvent() {
        switch event {
        case .delivery(let delivery):
          let message = delivery.message
          console.write(value: BodyText(message.body, contentType: message.properties.contentType).value)
          handled += 1
        case .cancelled:
          throw Failure(
            .nothingThere, "the queue '\(queue)' was deleted, or its node went away, while it was consumed",
            hint: "What had been written out is acknowledged.")
        default: break
        }
      }
    }

    /// Writes out what was added. A slow reader must not cost the connection, so heartbeats go on meanwhile.
    private func flush(_ signals: borrowing Signals) throws {
      while console.hasUnwritten {
        var polls = PollSet()
        let output = polls.add(console.outputDescriptor, for: POLLOUT)
        let signal = polls.add(signals.descriptor)
        polls.wait(until: .after(.seconds(1)))
        if polls.isReady(output) {
          try console.flushSlice()
        } else {
          try connection.pump()
          if polls.isReady(signal), let number = signals.take() { throw Failure(.signal(number), "interrupted") }
        }
      }
    }

    /// Acknowledges what is written out.
    ///
    /// With a limit, the broker must not be made to deliver messages beyond it: they would come back marked as redelivered.
    /// So the last ones, as many as may be under way, are acknowledged together when all are handled and the consumer
    /// has been cancelled.
    private mutating func acknowledge() throws(AMQPError) {
      guard !options.peeks else { return }
      var target = handled
      if let limit {
        if handled == limit { try connection.cancel(consumer: consumer) } else { target = min(handled, limit - prefetch) }
      }
      guard target > acknowledged else { return }
      try connection.acknowledge(UInt64(target), multiple: true)
      acknowledged = target
    }

    /// Whether nothing is left in the queue or on its way here. A delivery may overtake the first answer, so there is a
    /// second round.
    private func isEmpty() throws(AMQPError) -> Bool {
      for _ in 0..<2 {
        guard try connection.inspectQueue(queue).messages == 0 else { return false }
        try connection.pump()
        guard !connection.hasEvents else { return false }
      }
      return true
    }

    private func checkCount() throws(Failure) {
      guard let count = options.count, !options.peeks else { return }
      throw Failure(.timedOut, "\(handled) of \(count) messages came in time from '\(queue)'")
    }

    private func wait(_ signals: borrowing Signals, until deadline: Deadline) throws(AMQPError) {
      try connection.pump()
      guard !connection.hasEvents else { return }
      var polls = PollSet()
      polls.add(connection.descriptor)
      polls.add(signals.descriptor)
      polls.wait(until: deadline)
    }
  }
}
