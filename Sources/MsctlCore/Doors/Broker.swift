/// A client for RabbitMQ, or for a cluster of which one broker is used: publishes messages with publisher confirms and consumes queues
/// with manual acknowledgement, and reconnects when a connection breaks.
///
///     let broker = try await Broker.connect(to: "amqp://localhost")
///     try await broker.declareQueue("orders")
///     try await broker.publish(#"{"id":1}"#, to: "orders")
///     for try await message in broker.messages(of: "orders") {
///       print(message.text)
///       try await message.acknowledge()
///     }
///
/// When `publish` returns, the broker has the message: on disk, if queue and message are durable. If the program dies, the broker
/// requeues what a consumer has not acknowledged.
///
/// One thread publishes and another does the rest, so a broker that accepts no messages does not block consumers. Each starts on first
/// use. When the last reference to a `Broker` is gone, those of its iterations included, its connections are closed.
public final class Broker: Sendable {
  /// How a broker is used.
  public struct Options: Sendable {
    /// Connection name, as shown by RabbitMQ's list of connections.
    public var name = "msctl"
    /// Time limit for an outage; after it, what waits for the broker fails.
    public var reconnectFor: Duration = .seconds(60)
    /// Time limit for the confirm of a message while the connection is up.
    public var confirmTimeout: Duration = .seconds(30)
    /// Maximum number of unconfirmed messages; more wait for these.
    public var window = 1024

    /// The defaults.
    public init() {}
  }

  fileprivate let uris: [AMQPURI]
  fileprivate let options: Options
  /// For all but publishing.
  fileprivate let thread = LoopThread()
  private let publishingThread = LoopThread()
  private let publishing: PublishingMember

  /// Connects and logs in.
  /// - Parameters:
  ///   - uris: AMQP URIs (https://www.rabbitmq.com/docs/uri-spec); of several, the first that accepts the connection is used.
  ///   - options: how it is used.
  /// - Throws: a ``Failure``: `usage` (an invalid URI), `unreachable`, `denied`, `timedOut`.
  public static func connect(to uris: String..., options: Options = Options()) async throws -> Broker {
    try await connect(to: uris.map { (text) throws(Failure) in try uri(text) }, options: options)
  }

  /// Connects and logs in: see ``connect(to:options:)-(String...,_)``.
  public static func connect(to uris: [AMQPURI], options: Options = Options()) async throws -> Broker {
    let broker = Broker(at: uris, options: options)
    let publishing = broker.publishing
    try await broker.publishingThread.result { loop, continuation in publishing.connect(on: loop, continuation) }
    return broker
  }

  /// Creates a client that connects on first use: for a service that may start before its broker. Calls wait for the broker for up to
  /// `reconnectFor`.
  /// - Parameters:
  ///   - uris: AMQP URIs; of several, the first that accepts the connection is used.
  ///   - options: how it is used.
  /// - Throws: a ``Failure`` (`usage`) for an invalid URI.
  public convenience init(at uris: String..., options: Options = Options()) throws {
    self.init(at: try uris.map { (text) throws(Failure) in try Self.uri(text) }, options: options)
  }

  /// Creates a client that connects on first use: see ``init(at:options:)-(String...,_)``.
  public init(at uris: [AMQPURI], options: Options = Options()) {
    (self.uris, self.options) = (uris, options)
    publishing = PublishingMember(uris, options)
  }

  private static func uri(_ text: String) throws(Failure) -> AMQPURI {
    do throws(AMQPURIError) { return try AMQPURI(text) } catch {
      throw MessagingError.invalidAddress(error).failure
    }
  }

  deinit {
    let publishing = publishing
    publishingThread.stop { _ in publishing.close() }
    thread.stop()
  }

  // MARK: Publishing

  /// Publishes a persistent message to a queue, through the default exchange.
  /// - Parameters:
  ///   - body: The message.
  ///   - queue: An existing queue: see ``declareQueue(_:arguments:)``.
  ///   - contentType: The type of the body.
  /// - Throws: see ``publish(_:)``.
  public func publish(_ body: String, to queue: String, contentType: String = "application/json") async throws {
    var message = AMQPMessage(body: Array(body.utf8), exchange: "", routingKey: queue)
    message.properties.contentType = contentType
    message.properties.deliveryMode = 2
    try await publish(message)
  }

  /// Publishes a message and returns when the broker has confirmed it. If the connection breaks, an unconfirmed message is sent again
  /// and may arrive twice, under the same `message_id`; a message without one gets one.
  ///
  /// If the task is cancelled, it stops waiting: the message may have been sent.
  /// - Throws: a ``Failure``: `notDelivered` (returned, refused, or not confirmed in time), `badInput` (it cannot be sent),
  ///   `unreachable` or `denied` (no connection within `reconnectFor`; the next message tries again). `CancellationError`.
  public func publish(_ message: AMQPMessage) async throws {
    var message = message
    if message.properties.messageID == nil { message.properties.messageID = randomUUID() }
    let request = PublishingMember.Request(message)
    let publishing = publishing
    try await withTaskCancellationHandler {
      try await publishingThread.result { loop, continuation in publishing.publish(request, on: loop, continuation) }
    } onCancel: {
      request.cancel()
    }
  }

  // MARK: Topology

  /// Declares a durable queue (`queue.declare`), which is created if it does not exist.
  /// - Parameters:
  ///   - name: The queue.
  ///   - arguments: Arguments such as `x-queue-type`. They must be those of an existing queue.
  public func declareQueue(_ name: String, arguments: [AMQPField] = []) async throws {
    try await run([.declare(name, arguments: arguments)])
  }

  /// Declares a durable queue and binds it to an exchange with these routing keys (`queue.bind`).
  public func declareQueue(_ name: String, boundTo exchange: String, keys: [String]) async throws {
    try await run(
      [.declare(name, arguments: [])] + keys.map { .bind(name, exchange: exchange, key: $0) })
  }

  /// On a connection of its own, since a broker closes the channel over what it refuses.
  private func run(_ methods: [AMQPMethod]) async throws {
    let (uris, options) = (uris, options)
    try await thread.result { loop, continuation in
      loop.add(ErrandMember(uris, options, methods, loop, continuation))
    }
  }

  // MARK: Consuming

  /// Consumes a queue. Each message must be acknowledged, requeued or rejected. Consuming begins with the first iteration and ends with
  /// the loop; messages that were not settled are requeued then.
  ///
  /// A message that was acknowledged and is redelivered after a broken connection is acknowledged again and not returned twice, if its
  /// `message_id` is unique.
  /// - Parameters:
  ///   - queue: An existing queue.
  ///   - prefetch: Maximum number of unsettled messages; nil for 100.
  public func messages(of queue: String, prefetch: Int? = nil) -> Messages {
    Messages(self, queue, max(1, prefetch ?? Consumer.standardPrefetch))
  }

  /// The messages of a queue: see ``Broker/messages(of:prefetch:)``.
  public struct Messages: AsyncSequence, Sendable {
    /// A message.
    public typealias Element = Message
    /// Iterates over the messages.
    public typealias AsyncIterator = AsyncThrowingStream<Message, any Error>.Iterator

    /// Held, so that its thread goes on until consuming has ended.
    private let broker: Broker
    private let queue: String
    private let prefetch: Int

    fileprivate init(_ broker: Broker, _ queue: String, _ prefetch: Int) {
      (self.broker, self.queue, self.prefetch) = (broker, queue, prefetch)
    }

    /// Begins to consume.
    public func makeAsyncIterator() -> AsyncIterator {
      // No more is in the stream than the prefetch allows.
      let (stream, continuation) = AsyncThrowingStream.makeStream(of: Message.self, throwing: (any Error).self)
      let (broker, queue, prefetch) = (broker, queue, prefetch)
      let place = ConsumingPlace()
      // Set before anything can end the stream: one that has ended calls nobody.
      continuation.onTermination = { _ in try? broker.thread.run { _ in place.end() } }
      do throws(Failure) {
        try broker.thread.run { loop in
          guard !place.isOver else { return }
          let member = ConsumingMember(broker.uris, broker.options, queue, prefetch, loop, broker, continuation)
          place.member = member
        }
      } catch { continuation.finish(throwing: error) }
      return stream.makeAsyncIterator()
    }
  }

  /// A message from a queue. If it is neither acknowledged nor rejected, it is requeued.
  public struct Message: Sendable {
    /// The message, with its properties.
    public let content: AMQPMessage
    /// Whether the message was delivered before, to any consumer.
    public let isRedelivered: Bool
    let number: Int
    let member: ConsumingMember
    let broker: Broker

    /// Its body.
    public var body: [UInt8] { content.body }
    /// The body as text; invalid UTF-8 is replaced.
    public var text: String { String(decoding: content.body, as: UTF8.self) }

    /// Acknowledges the message, and the broker removes it. If the connection breaks first, it is acknowledged when it is redelivered.
    /// - Throws: a ``Failure`` if consuming has ended, which has requeued the message.
    public func acknowledge() async throws { try await settle(.acknowledge) }

    /// Requeues the message.
    public func requeue() async throws { try await settle(.requeue) }

    /// Rejects the message: the broker dead-letters it, or discards it if the queue has no dead-letter exchange.
    public func reject() async throws { try await settle(.reject) }

    private func settle(_ outcome: Consumer.Settlement.Outcome) async throws {
      let (member, number) = (member, number)
      try await broker.thread.result { (_, continuation: CheckedContinuation<Void, any Error>) in
        if let failure = member.settle(number, outcome) {
          continuation.resume(throwing: failure)
        } else {
          continuation.resume()
        }
      }
    }
  }
}
