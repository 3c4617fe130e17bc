import DequeModule
import MsctlCore

/// Messages that `--peek` must not requeue, because the broker counts each return and drops a message that came back too often
/// (RabbitMQ 4.0 to 4.2). Each is published again, on a connection of its own, so that a refusal does not take the messages with
/// it that are being looked at.
final class SpentMessages: LoopMember {
  /// Time limit for a confirm.
  private static let patience: Duration = .seconds(10)

  /// What is published.
  private struct Copy {
    var message: AMQPMessage
    /// Nil for the message that finds out whether this user may publish to a queue at all. It is returned, since there is no such
    /// queue; before that the broker looks at the user's permissions.
    let original: (delivery: AMQPDelivery, returnsLeft: Int)?
    /// Whether it is the first that must be saved.
    var isFirst = false
    /// Whether the user's name was taken out.
    var isStripped = false
  }

  private let queue: String
  private let limit: Int
  private let signals: Signals
  private var opening: AMQPOpening?
  private var connection: AMQPConnection?
  private var uri = AMQPURI()
  private var publisher: AMQPPublisher?
  /// Not published yet.
  private var waiting: Deque<Copy>
  /// The one that is to be confirmed, until when, and why it could not even be sent.
  private var current: (copy: Copy, until: Deadline, fault: AMQPError?)?
  /// How the connection was lost.
  private var loss: AMQPError?
  /// Those of which it is known what became of them.
  private var saved: [(delivery: AMQPDelivery, isSaved: Bool)] = []
  private var isReady = false
  /// Why nothing can be saved.
  private var refusal: Failure?
  private var isClosing = false
  private var count = 0
  private var stripped = 0
  /// What became of the first one.
  private(set) var failure = Failure(.failed, "")

  init(of queue: String, _ broker: BrokerOptions, _ limit: Int, _ console: Console, _ signals: Signals) throws(Failure)
  {
    (self.queue, self.limit, self.signals) = (queue, limit, signals)
    opening = AMQPOpening(anyOf: try broker.currentURIs(), name: "msctl consume", trace: console.amqpTrace)
    waiting = [Copy(message: AMQPMessage(body: [], exchange: "", routingKey: "msctl-" + randomUUID()), original: nil)]
  }

  /// Publishes a message again, to the end of its queue: `takeSaved` tells what became of it.
  func save(_ delivery: AMQPDelivery, returnsLeft left: Int) {
    var message = delivery.message
    message.exchange = ""
    message.routingKey = queue
    message.properties.headers?.removeAll { AMQPMessage.isCounter($0.name) }
    waiting.append(Copy(message: message, original: (delivery, left)))
    proceed()
  }

  /// What was saved since the last call, and whether the copy is confirmed, so that the original can be acknowledged.
  func takeSaved() -> [(delivery: AMQPDelivery, isSaved: Bool)] {
    defer { saved = [] }
    return saved
  }

  func close() {
    isClosing = true
    connection?.beginClosing()
  }

  /// Whether there is nothing left to wait for, once it is being closed.
  var isOver: Bool { isClosing && connection == nil }

  // MARK: The loop

  func addInterests(to polls: inout PollSet) {
    if let opening {
      polls.add(signals.descriptor)
      if opening.descriptor >= 0 { polls.add(opening.descriptor) }
    }
    if let connection { polls.add(connection.descriptor) }
  }

  var wakeTime: Deadline {
    if !saved.isEmpty || opening.map({ $0.descriptor < 0 }) ?? false || connection?.hasInput ?? false { return .past }
    return min(connection?.wakeTime ?? .never, isClosing ? .never : current?.until ?? .never)
  }

  func proceed() {
    takeOpened()
    if isClosing { return closeOn() }
    while opening == nil, refusal == nil {
      if current == nil {
        guard let next = waiting.popFirst() else { return idle() }
        begin(next)
      }
      guard let result = nextResult() else { return }
      end(result)
    }
  }

  private func takeOpened() {
    guard let result = opening?.result else { return }
    opening = nil
    do throws(Failure) {
      let connection = try result.get()
      self.connection = connection
      uri = connection.uri
      do throws(AMQPError) { try prepare(connection) } catch { lose(error) }
    } catch { refusal = error }
  }

  private func closeOn() {
    let isClosed: Bool
    do throws(AMQPError) { isClosed = try connection?.hasClosed() ?? true } catch { isClosed = true }
    if isClosed { connection = nil }
  }

  /// What follows need not wait for the replies.
  private func prepare(_ connection: AMQPConnection) throws(AMQPError) {
    try connection.send(.selectConfirms)
    publisher = AMQPPublisher(connection, window: 1)
  }

  /// Heartbeats go on where nothing is under way.
  private func idle() { do throws(AMQPError) { _ = try publisher?.settle() } catch { lose(error) } }

  /// Nothing more is saved. Late confirms must not count for others.
  private func lose(_ error: AMQPError) {
    loss = error
    connection?.beginClosing()
    (connection, publisher) = (nil, nil)
  }

  private func begin(_ copy: Copy) {
    var copy = copy
    if let (_, left) = copy.original, failure.message.isEmpty {
      copy.isFirst = true
      failure.message =
        "cannot peek at '\(queue)' any more: \(name(of: copy)) came back \(limit - left) times, "
        + "and the broker drops it after \(limit) (delivery limit)"
    }
    send(copy, until: .after(Self.patience))
  }

  private func name(of copy: Copy) -> String {
    copy.message.properties.messageID.map { "message \($0)" } ?? "a message"
  }

  private func send(_ copy: Copy, until end: Deadline) {
    var fault = loss
    do throws(AMQPError) { try publisher?.send(copy.message) } catch { fault = error }
    current = (copy, end, fault)
  }

  /// What became of the copy under way; nil while that is not known.
  private func nextResult() -> Result<Void, AMQPError>? {
    guard let (copy, end, fault) = current else { return nil }
    do throws(AMQPError) {
      if let fault { throw fault }
      switch try publisher?.settle().first?.outcome {
      case .confirmed?: return .success(())
      case .returned(_, let text)?:
        let error = AMQPError(kind: .broken, reason: "it was returned: \(text)")
        return copy.original == nil ? .success(()) : .failure(error)
      case .nacked?: return .failure(AMQPError(kind: .broken, reason: "the broker refused it (basic.nack)"))
      case nil:
        guard end.isPast else { return nil }
        throw AMQPError(kind: .timedOut, reason: "no confirm came within \(Self.patience.shown)")
      }
    } catch {
      switch error.kind {
      case .invalid: break
      case .channelClosed: if reopened(), tryAgain(copy, after: error) { return nil }
      default: lose(error)
      }
      return .failure(error)
    }
  }

  /// Opens the channel anew, which the broker has closed: it takes no other message then.
  private func reopened() -> Bool {
    guard let connection else { return false }
    do throws(AMQPError) {
      try connection.send(.openChannel)
      try prepare(connection)
      return true
    } catch {
      lose(error)
      return false
    }
  }

  /// The name of another user (https://www.rabbitmq.com/docs/validated-user-id): without it, the rest is saved.
  private func tryAgain(_ copy: Copy, after error: AMQPError) -> Bool {
    guard error.isAboutOneMessage, copy.message.properties.userID != nil else { return false }
    var copy = copy
    copy.message.properties.userID = nil
    copy.isStripped = true
    send(copy, until: .after(Self.patience))
    return true
  }

  private func end(_ result: Result<Void, AMQPError>) {
    guard let copy = current?.copy else { return }
    current = nil
    guard let (delivery, left) = copy.original else {
      switch result {
      case .success: isReady = true
      case .failure(let error): refuse(error)
      }
      return
    }
    switch result {
    case .success:
      count += 1
      if copy.isStripped { stripped += 1 }
      let text = count == 1 ? "It was" : "It and \(count - 1) more were"
      failure.hint = "\(text) published again, to the end of the queue"
      failure.hint? += stripped == 0 ? "." : "; \(stripped) without user_id, which only that user may set."
      saved.append((delivery, true))
    case .failure(let error):
      let outcome = left > 0 ? "it is requeued, for the last time" : "the broker drops or dead-letters it now"
      let name = copy.isFirst ? "it" : name(of: copy)
      failure.message += "; \(name) could not be published again: \(error.reason); \(outcome)"
      saved.append((delivery, false))
    }
  }

  private func refuse(_ error: AMQPError) {
    var failure = error.failure(uri)
    failure.message =
      "cannot peek at '\(queue)': the broker counts each return and drops a message after \(limit) (delivery limit), and a "
      + "message that has no return left cannot be published again: \(failure.message)"
    if failure.code == .denied {
      failure.hint = "Grant the user '\(uri.user)' the right to write to amq.default (rabbitmqctl set_permissions)."
    }
    refusal = failure
  }
}

/// Whether messages can be saved at all.
extension SpentMessages: LoopQuestion {
  func take() throws(Failure) -> Void? {
    if let number = signals.take() { throw .interrupted(by: number) }
    if let refusal { throw refusal }
    return isReady ? () : nil
  }
}
