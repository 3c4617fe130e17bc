import DequeModule
import Glibc
import MsctlCore

/// Sends the replies of `consume --reply`, each confirmed by the broker before its message is acknowledged. It has a connection of its
/// own, so that neither a blocked publisher nor a refused reply ends the consumer.
final class ReplySender: PublisherHost {
  /// How large a reply may be, in bytes: no broker takes more.
  static let sizeLimit = 512 << 20

  private let broker: BrokerOptions
  private let environment: [String: String]
  private let console: Console
  private let loop: EventLoop
  /// Nil where nothing was sent yet, or the last one has failed.
  private var driver: PublisherDriver?
  /// How many have a connection, the one included that is in use.
  private var drivers = 0
  /// Not handed to the publisher yet.
  private var waiting = Deque<AMQPMessage>()
  /// The numbers of the messages whose replies are not confirmed.
  private var unconfirmed: Set<Int> = []
  private var outcomes: [(number: Int, failure: Failure?)] = []

  init(_ options: Consume.Options, _ environment: [String: String], _ console: Console, _ loop: EventLoop) {
    broker = options.broker
    (self.environment, self.console, self.loop) = (environment, console, loop)
  }

  /// Whether somebody waits for a reply to a message. That nobody does is told.
  func isWanted(for message: AMQPMessage) -> Bool {
    if message.replyAddress != nil { return true }
    console.note(.noReplyTo(message.properties.messageID))
    return false
  }

  /// Sends the reply to a message: `takeOutcomes` tells what became of it.
  /// - Parameters:
  ///   - number: what the message is known by.
  ///   - contentType: nil: what the body looks like.
  func send(_ body: [UInt8], contentType: String? = nil, to request: AMQPMessage, number: Int) {
    var reply = AMQPMessage(body: body, exchange: "", routingKey: request.replyAddress ?? "")
    reply.number = number
    reply.properties.contentType = contentType ?? BodyText(body, contentType: nil).encoding.contentType
    reply.properties.correlationID = request.properties.correlationID
    // It need not outlive its request.
    reply.properties.deliveryMode = request.properties.deliveryMode
    reply.properties.messageID = randomUUID()
    reply.properties.timestamp = UInt64(clamping: unixTime())
    reply.properties.appID = "msctl"
    let trace = TraceContext(of: request, environment: environment).child()
    reply.properties.headers = [AMQPField("traceparent", .string(trace.traceparent))]
    waiting.append(reply)
    unconfirmed.insert(number)
    begin()
  }

  var hasOutcomes: Bool { !outcomes.isEmpty }

  /// What has become of replies since the last call: nil where the broker has one, or its requester is gone.
  func takeOutcomes() -> [(number: Int, failure: Failure?)] {
    defer { outcomes = [] }
    return outcomes
  }

  /// Time is up: what is not confirmed is given up.
  func giveUp() { driver?.tell(.failed(.interrupted(by: SIGTERM))) }

  func close() { driver?.tell(.interrupted(SIGTERM)) }

  /// Whether there is nothing left to wait for, once it is being closed.
  var isOver: Bool { drivers == 0 }

  private func begin() {
    guard driver == nil else { return }
    var plan = Publisher.Options()
    (plan.connectFor, plan.reconnectFor) = (broker.reconnectFor, broker.reconnectFor)
    plan.awaitsPassword = broker.passwordFile != nil
    let driver = PublisherDriver(plan, self)
    self.driver = driver
    drivers += 1
    loop.add(driver)
  }

  private func settle(_ number: Int, _ failure: Failure?) {
    guard unconfirmed.remove(number) != nil else { return }
    var failure = failure
    if let text = failure?.message { failure?.message = "cannot reply: \(text)" }
    outcomes.append((number, failure))
  }

  // MARK: What the driver asks for

  var hasInput: Bool { !waiting.isEmpty }
  func nextInput() -> Publisher.Event? { waiting.popFirst().map { .message(OutgoingMessage($0)) } }
  var isReady: Bool { true }

  func confirmed(_ outgoing: OutgoingMessage, isInOrder: Bool) { settle(outgoing.message.number, nil) }

  func failed(_ outgoing: OutgoingMessage, _ reason: Publisher.Reason) {
    if case .returned = reason {
      console.note(.requesterGone(outgoing.message.routingKey))
      return settle(outgoing.message.number, nil)
    }
    settle(outgoing.message.number, reason.failure(of: outgoing.message))
  }

  func reply(_ message: AMQPMessage) {}
  func note(_ note: Publisher.Note, _ driver: PublisherDriver) { console.note(note.text(driver.uri)) }
  func connect() throws(Failure) -> any BrokerOpening { try broker.reopen(as: "consume", console) }
  func addInterests(to polls: inout PollSet) {}
  var wakeTime: Deadline { .never }

  /// What waits fails with the publisher; what comes after it begins anew.
  func work(_ driver: PublisherDriver) {
    guard driver === self.driver, driver.publisher.isEnded else { return }
    self.driver = nil
    waiting = []
    let failure = driver.publisher.cause?.failure(Publish.Options(), driver.uri, 0).failure
    for number in unconfirmed.sorted() { settle(number, failure ?? .interrupted(by: SIGTERM)) }
  }

  func ended(_ driver: PublisherDriver) {
    drivers -= 1
    loop.remove(driver)
  }
}

extension AMQPMessage {
  /// Where its reply goes.
  fileprivate var replyAddress: String? { properties.replyTo.flatMap { $0.isEmpty ? nil : $0 } }
}

extension BodyText.Encoding {
  fileprivate var contentType: String {
    switch self {
    case .json: "application/json"
    case .text: "text/plain"
    case .base64: "application/octet-stream"
    }
  }
}
