import MsctlCore

/// What becomes of the messages that a run rejects. AMQP does not tell whether a queue has a dead-letter exchange, but RabbitMQ's
/// management API does where it can be had: it is asked at a rejection, beside everything else. The run does not fail without an
/// answer, and waits for it only at its end.
final class DeadLetters: LoopMember {
  enum Fate: Equatable {
    case unknown
    /// The queue has no dead-letter exchange.
    case discarded
    case exchange(String)
  }

  /// Time limit for the answer.
  private static let patience: Duration = .seconds(3)
  /// How long an answer holds: a policy may change.
  private static let validity: Duration = .seconds(60)

  private let managementURL: String?
  private let console: Console
  private let loop: EventLoop
  private let pause: Duration
  private var query: ManagementAPI.Query?
  private var nextTime = Deadline.past
  /// How many messages were rejected when it was last looked whether to ask.
  private var noted = 0
  private var queue = ""
  private var answer: (fate: Fate, until: Deadline) = (.unknown, .past)

  /// - Parameter pause: how long it is not asked again, even if it has not answered.
  init(_ managementURL: String?, _ console: Console, _ loop: EventLoop, pause: Duration = .seconds(5)) {
    (self.managementURL, self.console, self.loop, self.pause) = (managementURL, console, loop, pause)
  }

  var fate: Fate { answer.until.isPast ? .unknown : answer.fate }

  /// Asks where messages were rejected since it did the last time, and no answer holds.
  /// - Parameter count: how many were rejected so far.
  func noteRejections(_ count: Int, from queue: String, _ uri: AMQPURI) {
    guard count > noted, query == nil, nextTime.isPast else { return }
    noted = count
    guard answer.until.isPast else { return }
    (nextTime, self.queue) = (.after(pause), queue)
    let path =
      "/queues/\(Percent.encode(uri.vhost))/\(Percent.encode(queue))?columns=arguments,effective_policy_definition"
    query = try? ManagementAPI.Query(path, of: managementURL, beside: uri, within: Self.patience, console)
    guard let query else { return }
    loop.add(query.http)
    loop.add(self)
  }

  /// Whether no answer is to come.
  var isOver: Bool { query == nil }

  // MARK: The loop

  func addInterests(to polls: inout PollSet) {}
  var wakeTime: Deadline { .never }

  func proceed() {
    guard let query else { return }
    do {
      guard let state = try query.answer() else { return }
      take(state)
    } catch {}
    self.query = nil
    loop.remove(query.http)
    loop.remove(self)
  }

  /// An argument of the queue goes before what a policy says. Of a new queue the API does not know its policy for some seconds.
  private func take(_ state: JSONValue) {
    let policy = state["effective_policy_definition"]
    let exchange =
      state["arguments"]?["x-dead-letter-exchange"]?.string ?? policy?["dead-letter-exchange"]?.string
    guard exchange != nil || state["arguments"] != nil && policy != nil else { return }
    let fate = exchange.map { Fate.exchange($0) } ?? .discarded
    if fate == .discarded, answer.fate != .discarded { console.note(.discarding(queue)) }
    answer = (fate, .after(Self.validity))
  }
}
