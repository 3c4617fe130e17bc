/// A question that is answered once something has changed, asked again and again
/// (https://developer.hashicorp.com/consul/api-docs/features/blocking).
struct BlockingQuery<News: Sendable>: Sendable {
  private enum State {
    case resting(until: Deadline)
    case asked(at: Deadline)
    /// Until somebody takes it.
    case answered(News)
  }

  /// The shortest time from one question to the next.
  private static var floor: Duration { .milliseconds(250) }
  /// Sooner than this no agent answers that nothing has changed, unless it does not block at all.
  private static var hasty: Duration { .seconds(1) }

  let question: HealthWatch.Question
  private var state: State
  /// The index of the last answer; 0: the next question is answered at once.
  private(set) var index: UInt64 = 0
  /// The index of the last answer that counted.
  private var known: UInt64 = 0
  /// Whether the last answer was older than what is known, so that the next one is to be consistent.
  private(set) var isDoubtful = false
  private var earliest: Deadline
  private var idle = Backoff(from: .seconds(1), to: .seconds(10))

  init(_ question: HealthWatch.Question, at now: Deadline) {
    self.question = question
    state = .resting(until: now)
    earliest = now
  }

  var hasNews: Bool { if case .answered = state { true } else { false } }

  /// When it is to be asked.
  var askTime: Deadline { if case .resting(let until) = state { until } else { .never } }

  mutating func asked(at now: Deadline) {
    state = .asked(at: now)
    earliest = now + Self.floor
  }

  /// - Returns: whether the answer counts.
  mutating func answered(
    _ news: News, _ terms: ConsulAgent.Terms, _ consistency: ConsulAgent.Consistency, at now: Deadline,
    using generator: inout SplitMix
  ) -> Bool {
    guard case .asked(let asked) = state else { return false }
    guard consistency == .consistent || terms.index >= known else {
      // A server that has just been started knows less than it did until it has read its log again, for which there must be
      // a leader.
      index = 0
      isDoubtful = terms.hasLeader
      let pause = isDoubtful ? .zero : idle.next(using: &generator)
      state = .resting(until: max(earliest, now + pause))
      return false
    }
    isDoubtful = false
    known = terms.index
    let before = index
    // An index that goes down is worth nothing; below 1 it would be answered at once for ever.
    index = terms.index < before ? 0 : max(1, terms.index)
    if before > 0, terms.index <= before, now - asked < Self.hasty {
      // An agent that does not wait for a change is not asked at its own pace.
      earliest = now + max(Self.floor, idle.next(using: &generator))
    } else {
      idle.reset()
    }
    state = .answered(news)
    return true
  }

  /// What an agent forgets with a restart may have been its indexes.
  mutating func forgetIndex(at now: Deadline) {
    index = 0
    idle.reset()
    state = .resting(until: now)
  }

  /// It was not answered as it was asked, and is asked in another way.
  mutating func askAgain(at now: Deadline) { state = .resting(until: now) }

  mutating func take() -> News? {
    guard case .answered(let news) = state else { return nil }
    state = .resting(until: earliest)
    return news
  }
}
