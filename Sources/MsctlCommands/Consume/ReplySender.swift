import DequeModule
import Glibc
import MsctlCore

/// Sends the replies of `consume --reply`, each confirmed by the broker before its message is acknowledged. It has a connection of its
/// own, so that neither a blocked publisher nor a refused reply ends the consumer.
final class ReplySender: PublisherHost {
  /// How large a reply may be, in bytes: no broker takes more.
  static let sizeLimit = 512 << 20
  /// How often a reply is sent that the broker nacks: its queue may be full for a moment. Then it is given up, so that one requester
  /// cannot hold up a service. The command is not run again.
  static let attempts = 5
  private static let shortestPause: Duration = .milliseconds(200)
  /// How long a reply to the same queue then has one attempt only.
  static let refusedTime: Duration = .seconds(30)
  /// How many such queues are known at once: others name them.
  private static let mostRefused = 1000

  /// What has become of a reply.
  enum Outcome {
    /// The broker has it, or its requester is gone.
    case sent
    /// The broker does not take it, and would not take it from another run.
    case refused(Failure)
    /// It was not sent, and no other can be.
    case lost(Failure)
  }

  private let broker: BrokerOptions
  private let endsByItself: Bool
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
  /// Those that were refused, to be sent again, and how often that was so.
  private var delayed: [(reply: AMQPMessage, until: Deadline)] = []
  private var refusals: [Int: Int] = [:]
  /// The queues that have refused a reply in all its attempts, and until when that counts.
  private var refusing: [ByteKey: Deadline] = [:]
  private var outcomes: [(number: Int, outcome: Outcome)] = []
  /// Why no reply is sent any more.
  private var fault: Failure?

  init(_ options: Consume.Options, _ environment: [String: String], _ console: Console, _ loop: EventLoop) {
    (broker, endsByItself) = (options.broker, options.endsByItself)
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
    reply.properties.contentType = contentType ?? BodyText.encoding(of: body).contentType
    reply.properties.correlationID = request.properties.correlationID
    // It need not outlive its request.
    reply.properties.deliveryMode = request.properties.deliveryMode
    reply.properties.messageID = randomUUID()
    reply.properties.timestamp = UInt64(clamping: unixTime())
    reply.properties.appID = "msctl"
    let trace = TraceContext(of: request, environment: environment).child()
    reply.properties.headers = [AMQPField("traceparent", .string(trace.traceparent))]
    unconfirmed.insert(number)
    if let fault { return settle(number, .lost(fault)) }
    waiting.append(reply)
    begin()
  }

  var hasOutcomes: Bool { !outcomes.isEmpty }

  /// What has become of replies since the last call.
  func takeOutcomes() -> [(number: Int, outcome: Outcome)] {
    defer { outcomes = [] }
    return outcomes
  }

  /// Time is up: what is not confirmed is given up, and so is what comes yet.
  func giveUp() { end(.interrupted(by: SIGTERM)) }

  func close() { giveUp() }

  /// Whether there is nothing left to wait for, once it is being closed.
  var isOver: Bool { drivers == 0 }

  private func begin() {
    guard driver == nil else { return }
    var plan = Publisher.Options()
    (plan.connectFor, plan.reconnectFor) = (broker.reconnectFor, broker.reconnectFor)
    plan.awaitsPassword = broker.passwordFile != nil
    // The requests are safe where they are, and to run their commands again would not help.
    plan.waitsWhileBlocked = !endsByItself
    let driver = PublisherDriver(plan, self)
    self.driver = driver
    drivers += 1
    loop.add(driver)
  }

  private func settle(_ number: Int, _ outcome: Outcome) {
    guard unconfirmed.remove(number) != nil else { return }
    refusals[number] = nil
    outcomes.append((number, outcome))
  }

  /// No reply is sent from here on.
  private func end(_ cause: Failure) {
    guard fault == nil else { return }
    var failure = cause
    failure.message = "cannot reply: \(cause.message)"
    fault = failure
    (waiting, delayed) = ([], [])
    for number in unconfirmed.sorted() { settle(number, .lost(failure)) }
    let driver = driver.take()
    driver?.tell(.failed(cause))
  }

  /// A reply that the broker has refused is sent again after a while.
  /// - Returns: false where it, or another to the same queue not long ago, has had its attempts.
  private func delay(_ reply: AMQPMessage) -> Bool {
    let queue = ByteKey(reply.routingKey)
    if let until = refusing[queue], !until.isPast { return false }
    let count = refusals[reply.number, default: 0] + 1
    guard count < Self.attempts else {
      if refusing.count >= Self.mostRefused { refusing = refusing.filter { !$0.value.isPast } }
      if refusing.count < Self.mostRefused { refusing[queue] = .after(Self.refusedTime) }
      return false
    }
    refusals[reply.number] = count
    delayed.append((reply, .after(Self.shortestPause * (1 << (count - 1)))))
    return true
  }

  // MARK: What the driver asks for

  var hasInput: Bool { !waiting.isEmpty || delayed.contains { $0.until.isPast } }

  func nextInput() -> Publisher.Event? {
    let again = delayed.firstIndex { $0.until.isPast }
    let reply = again.map { delayed.remove(at: $0).reply } ?? waiting.popFirst()
    return reply.map { .message(OutgoingMessage($0)) }
  }

  var isReady: Bool { true }

  func confirmed(_ outgoing: OutgoingMessage, isInOrder: Bool) {
    if !refusing.isEmpty { refusing[ByteKey(outgoing.message.routingKey)] = nil }
    settle(outgoing.message.number, .sent)
  }

  func failed(_ outgoing: OutgoingMessage, _ reason: Publisher.Reason) {
    let reply = outgoing.message
    switch reason {
    case .returned:
      console.note(.requesterGone(reply.routingKey))
      settle(reply.number, .sent)
    case .nacked where fault == nil && delay(reply): break
    default: settle(reply.number, .refused(reason.failure(ofReply: reply)))
    }
  }

  func reply(_ message: AMQPMessage) {}
  func note(_ note: Publisher.Note, _ driver: PublisherDriver) { console.note(note.text(driver.uri)) }
  func connect() throws(Failure) -> any BrokerOpening { try broker.reopen(as: "consume", console) }
  func addInterests(to polls: inout PollSet) {}
  var wakeTime: Deadline { delayed.map(\.until).min() ?? .never }

  func work(_ driver: PublisherDriver) {
    guard driver === self.driver, driver.publisher.isEnded else { return }
    end(driver.publisher.cause?.failure(Publish.Options(), driver.uri, 0).failure ?? .interrupted(by: SIGTERM))
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
