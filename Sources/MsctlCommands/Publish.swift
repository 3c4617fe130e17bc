import CommandTable
import Glibc
import MsctlCore
import SystemPackage

/// `msctl publish`: messages to RabbitMQ, each confirmed.
enum Publish: Verb {
  struct Options: VerbOptions {
    var first: String?
    var second: String?
    var isText = false
    var byLine = false
    var isRaw = false
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
      """,
    flags: [
      .toggle("text", nil, into: \.isText, "MESSAGE is any text, not JSON"),
      .toggle("lines", "l", into: \.byLine, "Each line of standard input is a message of text"),
      .toggle("raw", nil, into: \.isRaw, "All of standard input is one message"),
    ].under("Message")
      + PropertyOptions.flags.lifted(to: \.properties)
      + [
        .value("exchange", "x", "NAME", into: \.exchange, "Publish to this exchange instead of a queue"),
        .value("routing-key", "k", "KEY", into: \.routingKey, "The routing key for the exchange"),
        .number("window", nil, "N", in: 1...65535, into: \.window, "How many messages may wait for their confirm"),
        .value("confirm-timeout", nil, "TIME", into: \.confirmTimeout, "How long a confirm may take"),
      ].under("Delivery") + BrokerOptions.flags.lifted(to: \.broker) + OutputOptions.flags.lifted(to: \.output),
    operands: [
      .optional("QUEUE", into: \.first, "The queue (none with --exchange)", completion: .live("queue")),
      .optional("MESSAGE", into: \.second, "One JSON value; without it, or with '-', standard input"),
    ],
    examples: [
      Example("msctl publish orders '{\"id\":1,\"total\":9.90}'", "One message"),
      Example("jq -c '.[]' orders.json | msctl publish orders", "A stream of messages"),
    ],
    check: { options throws(ValueError) in
      if options.exchange == nil, (options.first ?? "").isEmpty {
        throw ValueError("'publish' needs QUEUE: the queue, or '--exchange NAME' with '--routing-key KEY'")
      }
      if let queue = options.queue { _ = try ShortString(argument: queue) }
      if options.exchange != nil, options.second != nil {
        throw ValueError("with '--exchange' there is no QUEUE; quote a MESSAGE that has spaces")
      }
      if options.exchange == nil, options.routingKey != nil { throw ValueError("'--routing-key' needs '--exchange'") }
      if [options.isText, options.byLine, options.isRaw].count(where: { $0 }) > 1 {
        throw ValueError("'--text', '--lines' and '--raw' do not go together")
      }
      if options.message != nil, options.byLine || options.isRaw {
        throw ValueError("'--lines' and '--raw' read standard input, but there is a MESSAGE")
      }
      if options.isText, options.message == nil {
        throw ValueError("'--text' needs MESSAGE; for standard input there are '--lines' and '--raw'")
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    var source = try source(options)
    let signals = Signals()
    let connection = try options.broker.connect(as: "publish")
    defer { connection.close() }
    if let queue = options.queue { try options.broker.assertQueue(queue, on: connection) }

    let publisher: AMQPPublisher
    do { publisher = try AMQPPublisher(connection, window: options.window) } catch {
      throw error.failure(connection.uri)
    }
    let template = options.properties.template(options, TraceContext(environment: environment))
    var tally = Tally()
    let ended: Failure?
    do {
      ended = try publishAll(&source, template, publisher, connection, signals, options, &tally, console)
    } catch {
      let lost = publisher.unconfirmed
      console.note(tally.summary)
      throw lost == 0
        ? error.failure(connection.uri)
        : Failure(
          .notDelivered, "\(counted(lost)) not confirmed: " + deliveryFailure(error, options, connection.uri).message,
          hint: deliveryFailure(error, options, connection.uri).hint)
    }
    console.note(tally.summary)
    if let ended { throw ended }
    if tally.failed > 0 { throw Failure(.notDelivered, "\(counted(tally.failed)) of \(tally.total) not delivered") }
  }

  private struct Tally {
    var confirmed = 0
    var failed = 0
    var total: Int { confirmed + failed }
    var summary: String { "\(counted(confirmed)) confirmed" }
  }

  /// Sends until the source and what is in flight are at an end.
  /// - Returns: why the source ended early; what came before is settled then.
  private static func publishAll(
    _ source: inout MessageSource, _ template: AMQPMessage, _ publisher: AMQPPublisher, _ connection: AMQPConnection,
    _ signals: borrowing Signals, _ options: Options, _ tally: inout Tally, _ console: Console
  ) throws(AMQPError) -> Failure? {
    var ended: Failure?
    var isAtEnd = false
    var confirmDeadline = Deadline.after(options.confirmTimeout)
    while true {
      while publisher.hasRoom, !isAtEnd {
        do {
          guard let body = try source.next() else { break }
          try publisher.send(template.with(body: body))
        } catch let error as Failure {
          ended = error
          isAtEnd = true
        } catch let error as AMQPError { throw error } catch {}
      }
      isAtEnd = isAtEnd || source.isExhausted

      for (message, outcome) in try publisher.settle() {
        confirmDeadline = .after(options.confirmTimeout)
        if outcome == .confirmed {
          tally.confirmed += 1
        } else {
          tally.failed += 1
          console.report(undelivered(message, number: tally.total, outcome, options))
        }
      }
      if publisher.unconfirmed == 0 {
        if isAtEnd { return ended }
        confirmDeadline = .after(options.confirmTimeout)
      }
      if confirmDeadline.isPast {
        let cause = publisher.blockedReason.map { "the broker takes no messages (\($0))" } ?? "no confirm came"
        throw AMQPError(kind: .timedOut, reason: "\(cause) within \(options.confirmTimeout.shown)")
      }

      var polls = PollSet()
      polls.add(connection.descriptor)
      let signal = polls.add(signals.descriptor)
      let input = !isAtEnd && publisher.hasRoom ? polls.add(STDIN_FILENO) : nil
      polls.wait(until: min(.after(.seconds(1)), confirmDeadline))
      if polls.isReady(signal), let number = signals.take() {
        ended = Failure(.signal(number), "interrupted")
        isAtEnd = true
      } else if let input, polls.isReady(input) {
        source.readMore()
      }
    }
  }

  private static func undelivered(
    _ message: AMQPMessage, number: Int, _ outcome: AMQPPublisher.Outcome, _ options: Options
  ) -> Failure {
    let name = "message \(number) (\(message.properties.messageID ?? ""))"
    switch outcome {
    case .returned(let code, let text):
      return Failure(
        .notDelivered, "\(name) came back: \(text) (\(code))",
        hint: "No queue is bound to exchange '\(message.exchange)' for the routing key '\(message.routingKey)'.")
    case .nacked:
      return Failure(
        .notDelivered, "\(name) was refused by the broker (basic.nack)",
        hint: "The queue may be full (x-overflow=reject-publish) or without a quorum.")
    case .confirmed:
      return Failure(.failed, "\(name) was confirmed")
    }
  }

  private static func deliveryFailure(_ error: AMQPError, _ options: Options, _ uri: AMQPURI) -> Failure {
    var failure = error.failure(uri)
    if case .channelClosed(code: 404) = error.kind {
      failure.hint = "An exchange is not made by 'msctl publish'; check its name."
    }
    return failure
  }

  private static func source(_ options: Options) throws(Failure) -> MessageSource {
    if let message = options.message {
      if options.isText { return MessageSource(only: Array(message.utf8)) }
      do { return MessageSource(only: Array(try JSONValue(parsing: message.utf8).text)) } catch {
        throw Failure(.badInput, "MESSAGE is not JSON: \(error)", hint: "For text, there is '--text'.")
      }
    }
    return MessageSource(options.byLine ? .lines : options.isRaw ? .whole : .json)
  }
}

private func counted(_ count: Int) -> String { "\(count) message\(count == 1 ? "" : "s")" }

/// The basic properties that options set.
struct PropertyOptions: Defaulted {
  var contentType: ShortString?
  var contentEncoding: ShortString?
  var headers: [NameValue] = []
  var priority: Int?
  var correlationID: ShortString?
  var replyTo: ShortString?
  var ttl: Duration?
  var messageID: ShortString?
  var type: ShortString?
  var userID: ShortString?
  var appID: ShortString?
  var isTransient = false

  init() {}

  static let flags: [Flag<PropertyOptions>] = [
    .value("content-type", nil, "TYPE", into: \.contentType, "content_type (default: by the kind of message)"),
    .value("content-encoding", nil, "NAME", into: \.contentEncoding, "content_encoding"),
    .list("header", "H", "NAME=VALUE", into: \.headers, "A header"),
    .number("priority", nil, "N", in: 0...255, into: \.priority, "priority"),
    .value("correlation-id", nil, "ID", into: \.correlationID, "correlation_id"),
    .value("reply-to", nil, "QUEUE", into: \.replyTo, "reply_to"),
    .value("ttl", nil, "TIME", into: \.ttl, "expiration: the message is dropped after this time"),
    .value("message-id", nil, "ID", into: \.messageID, "message_id (default: a random UUID each)"),
    .value("type", nil, "NAME", into: \.type, "type"),
    .value("user-id", nil, "NAME", into: \.userID, "user_id; the broker checks it"),
    .value("app-id", nil, "NAME", into: \.appID, "app_id (default: msctl)"),
    .toggle("transient", nil, into: \.isTransient, "The message need not survive a restart of the broker"),
  ].under("Properties")

  /// A message without body: what all messages of this command line have in common.
  func template(_ options: Publish.Options, _ trace: TraceContext) -> AMQPMessage {
    var properties = AMQPProperties()
    let kind = options.isText || options.byLine ? "text/plain" : options.isRaw ? "application/octet-stream" : "application/json"
    properties.contentType = contentType?.text ?? kind
    properties.contentEncoding = contentEncoding?.text
    properties.headers =
      headers.map { AMQPField($0.name, .string($0.value)) }
      + (headers.contains { $0.name == "traceparent" }
        ? [] : [AMQPField("traceparent", .string(trace.child().traceparent))])
    properties.deliveryMode = isTransient ? 1 : 2
    properties.priority = priority.map { UInt8(clamping: $0) }
    properties.correlationID = correlationID?.text
    properties.replyTo = replyTo?.text
    properties.expiration = ttl.map { String($0.milliseconds) }
    properties.messageID = messageID?.text
    properties.type = type?.text
    properties.userID = userID?.text
    properties.appID = appID?.text ?? "msctl"
    return AMQPMessage(
      body: [], properties: properties, exchange: options.exchange?.text ?? "",
      routingKey: options.exchange == nil ? options.queue ?? "" : options.routingKey?.text ?? "")
  }
}

extension AMQPMessage {
  /// The template with a body, and with an id and a time of its own.
  fileprivate func with(body: [UInt8]) -> AMQPMessage {
    var message = self
    message.body = body
    if message.properties.messageID == nil { message.properties.messageID = randomUUID() }
    message.properties.timestamp = UInt64(clamping: unixTime())
    return message
  }
}
