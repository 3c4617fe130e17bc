/// A RabbitMQ broker, or several of which one is used: publishes messages and has each of them confirmed, and consumes queues with manual
/// acknowledgement, over as many connections as it takes.
///
///     let broker = try await Broker.connect(to: "amqp://localhost")
///     try await broker.declareQueue("orders")
///     try await broker.publish(#"{"id":1}"#, to: "orders")
///     for try await message in broker.messages(of: "orders") {
///       print(message.text)
///       try await message.acknowledge()
///     }
///
/// What `publish` has returned for is on the broker: on disk, where queue and message are durable. What a consumer has not acknowledged
/// goes back to its queue, whatever becomes of the program.
///
/// One thread publishes and another one does the rest, so that a publish of which the broker takes nothing holds up no consumer; each
/// starts when it is needed. A `Broker` that nobody holds any more, no iteration either, closes its connections.
public final class Broker: Sendable {
  /// How a broker is used.
  public struct Options: Sendable {
    /// What RabbitMQ's list of connections shows.
    public var name = "msctl"
    /// How long an outage may last, before what waits for it fails.
    public var reconnectFor: Duration = .seconds(60)
    /// How long a message may wait for its confirm, while the connection stands.
    public var confirmTimeout: Duration = .seconds(30)
    /// How many messages may wait for their confirm at a time; others wait for those.
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

  /// Connects, and logs in.
  /// - Parameters:
  ///   - uris: where the broker is (https://www.rabbitmq.com/docs/uri-spec); with several, the first that lets us in is used.
  ///   - options: how it is used.
  /// - Throws: a `Failure`: `usage` for what is no AMQP URI, `unreachable`, `denied`, `timedOut`.
  public static func connect(to uris: String..., options: Options = Options()) async throws -> Broker {
    try await connect(to: uris.map { (text) throws(Failure) in try uri(text) }, options: options)
  }

  /// Connects, and logs in: see ``connect(to:options:)-(String...,_)``.
  public static func connect(to uris: [AMQPURI], options: Options = Options()) async throws -> Broker {
    let broker = Broker(at: uris, options: options)
    let publishing = broker.publishing
    try await broker.publishingThread.result { loop, continuation in publishing.connect(on: loop, continuation) }
    return broker
  }

  /// A broker to which the first use connects: for a service that may start before its broker. What is done waits for the broker for
  /// `reconnectFor`.
  /// - Parameters:
  ///   - uris: where the broker is; with several, the first that lets us in is used.
  ///   - options: how it is used.
  /// - Throws: a `Failure` (`usage`) for what is no AMQP URI.
  public convenience init(at uris: String..., options: Options = Options()) throws {
    self.init(at: try uris.map { (text) throws(Failure) in try Self.uri(text) }, options: options)
  }

  /// A broker to which the first use connects: see ``init(at:options:)-(String...,_)``.
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
  ///   - body: its bytes.
  ///   - queue: one that exists: see `declareQueue(_:arguments:)`.
  ///   - contentType: of the body; `application/json` by default.
  /// - Throws: see `publish(_:)`.
  public func publish(_ body: String, to queue: String, contentType: String = "application/json") async throws {
    var message = AMQPMessage(body: Array(body.utf8), exchange: "", routingKey: queue)
    message.properties.contentType = contentType
    message.properties.deliveryMode = 2
    try await publish(message)
  }

  /// Publishes a message, and returns once the broker has confirmed it. One that was in flight when a connection broke is sent again as
  /// it was, so that it may arrive twice: it gets a `message_id` where it has none.
  ///
  /// A task that is cancelled does not wait any more; its message is not sent, or is confirmed unseen.
  /// - Throws: a `Failure`: `notDelivered` for a message that no queue took, that was refused, or that was not confirmed in time;
  ///   `badInput` for one that cannot be sent; `unreachable`, `denied` for a broker that let nobody in within `reconnectFor`. The next
  ///   message begins anew then.
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

  /// `queue.declare`: a durable queue, made where it does not exist.
  /// - Parameter arguments: such as `x-queue-type`; a queue that exists must have been declared with the same.
  public func declareQueue(_ name: String, arguments: [AMQPField] = []) async throws {
    try await run([.declare(name, arguments: arguments)])
  }

  /// `queue.bind`: a durable queue, made where it does not exist, gets what is published to the exchange with these routing keys.
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

  /// The messages of a queue, each to be acknowledged, requeued or rejected. Consuming begins with the first iteration, and ends with the
  /// loop: what was not settled goes back to the queue then.
  ///
  /// What comes again after a break and was acknowledged already is not handed out again, where its `message_id` is its own.
  /// - Parameters:
  ///   - queue: one that exists.
  ///   - prefetch: how many messages may be handed out and not settled; 100 by default.
  public func messages(of queue: String, prefetch: Int? = nil) -> Messages {
    Messages(self, queue, max(1, prefetch ?? Consumer.standardPrefetch))
  }

  /// The messages of a queue: see ``Broker/messages(of:prefetch:)``.
  public struct Messages: AsyncSequence, Sendable {
    public typealias Element = Message
    public typealias AsyncIterator = AsyncThrowingStream<Message, any Error>.Iterator

    /// Held, so that its thread goes on until consuming has ended.
    private let broker: Broker
    private let queue: String
    private let prefetch: Int

    fileprivate init(_ broker: Broker, _ queue: String, _ prefetch: Int) {
      (self.broker, self.queue, self.prefetch) = (broker, queue, prefetch)
    }

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

  /// A message that was handed out. One that is neither acknowledged nor rejected goes back to its queue.
  public struct Message: Sendable {
    public let content: AMQPMessage
    /// Whether it was delivered before, to whomever.
    public let isRedelivered: Bool
    let number: Int
    let member: ConsumingMember
    let broker: Broker

    public var body: [UInt8] { content.body }
    /// The body as text; what is no UTF-8 in it is replaced.
    public var text: String { String(decoding: content.body, as: UTF8.self) }

    /// It is handled: the broker removes it. Where the connection breaks first, it is acknowledged when it comes again.
    /// - Throws: a `Failure` where consuming has ended, so that the message goes back to its queue.
    public func acknowledge() async throws { try await settle(.acknowledge) }

    /// It goes back to its queue.
    public func requeue() async throws { try await settle(.requeue) }

    /// It is dropped, or handed to the queue's dead-letter exchange.
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
