/// Keeps up with the instances of a service, or of all services, by questions that an agent answers once something has changed.
///
/// What an agent answers is compared, since an answer does not mean a change. An agent that is away is asked again, after
/// pauses; what it said last stays known meanwhile.
///
/// It only decides. Whoever drives it hands in what has happened and carries out the actions, in their order.
package struct HealthWatch: Sendable {
  /// How long a question may stay without an answer because nothing changes.
  package static let wait: Duration = .seconds(300)
  /// The shortest pause after a question that was not answered.
  private static let floor: Duration = .milliseconds(250)

  package struct Options: Sendable {
    /// Nil: all services but Consul itself.
    package var service: String?
    /// The statuses of the instances that count.
    package var statuses: Set<HealthStatus>
    /// Of instances with named ports, this one. Those without it are left out.
    package var portName: String?
    package var consistency = ConsulAgent.Consistency.standard

    package init(service: String?, statuses: Set<HealthStatus> = [.passing]) {
      self.service = service
      self.statuses = statuses
    }
  }

  package enum Question: Sendable, Hashable {
    /// The names of all services, with their tags.
    case catalog
    /// What all checks say.
    case checks
    /// The instances of a service, in every status.
    case instances(ByteKey)
    /// Whether the token may read the service at all: an empty list does not say.
    case permission(ByteKey)
  }

  /// What came of a question.
  package enum Answer: Sendable {
    case catalog([(name: String, tags: [String])], ConsulAgent.Terms)
    case checks([ConsulAgent.CheckState], ConsulAgent.Terms)
    case instances([ServiceInstance], ConsulAgent.Terms)
    case mayRead(Bool)
    /// There is no leader, so that only stale questions are answered.
    case leaderless(Failure)
    /// The agent will say the same again.
    case refused(Failure)
    /// No answer, or none that can be read.
    case failed(Failure)
  }

  package enum Event: Sendable {
    /// To a question that was asked, and not dropped since.
    case answered(Question, Answer)
    case tick
  }

  package enum Action: Sendable {
    /// Asks what is answered at once; or, beyond an index, once something has changed, at the latest after `wait`.
    case ask(Question, beyond: UInt64?, ConsulAgent.Consistency)
    /// No answer to any question is wanted any more.
    case dropQuestions
    /// The instances are others than before, or known for the first time.
    case changed
    case note(Note)
    /// Nothing is asked any more: see `cause`.
    case end
  }

  package enum Note: Sendable {
    /// What is read may be out of date.
    case leaderless
    /// A service cannot be read, and the others are.
    case leftOut(String, Reason)
    /// What is known stays known.
    case agentAway(Failure)
    case agentBack
  }

  /// Why a service cannot be read.
  package enum Reason: Sendable {
    case unaddressable
    case mayNotRead
    case refused(Failure)
  }

  /// Why nothing is asked any more.
  package enum Cause: Sendable {
    /// The token may not read the service; nil: the catalog.
    case mayNotRead(String?)
    /// What asking again cannot mend.
    case failed(Failure)
  }

  private enum State {
    case asking
    /// The agent is away, and asked again then.
    case pausing(until: Deadline)
    case ended(Cause)
  }

  private let options: Options
  private var state = State.asking
  /// As long as there is no leader, questions are stale.
  private var consistency: ConsulAgent.Consistency
  /// The questions without an answer, and how they were asked.
  private var open: [Question: ConsulAgent.Consistency] = [:]
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(10))
  private var generator: SplitMix
  /// Of one service; nil where all are watched.
  private var query: BlockingQuery<[ServiceInstance]>?
  /// Of all services.
  private var rounds: CatalogRounds

  /// The instances that count, by service, node and id; nil before the first answer.
  package private(set) var instances: [ServiceInstance]?
  /// Why the agent could not be asked the last time; nil where it could.
  package private(set) var trouble: Failure?

  package init(_ options: Options, at now: Deadline, _ generator: SplitMix) {
    self.options = options
    self.generator = generator
    consistency = options.consistency
    query = options.service.map { BlockingQuery(.instances(ByteKey($0)), at: now) }
    rounds = CatalogRounds(at: now)
  }

  /// The names of all services, also of those without an instance that counts; nil before the first answer, and where one is
  /// watched.
  package var services: [String]? { query == nil ? rounds.services : nil }

  package var cause: Cause? { if case .ended(let cause) = state { cause } else { nil } }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline {
    switch state {
    case .asking: query?.askTime ?? rounds.wakeTime
    case .pausing(let until): until
    case .ended: .never
    }
  }

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    switch state {
    case .ended: return
    case .pausing(let until):
      guard until <= now else { return }
      state = .asking
    case .asking: break
    }
    if case .answered(let question, let answer) = event {
      // One that was dropped is of no use any more.
      guard let asked = open.removeValue(forKey: question) else { return }
      take(answer, to: question, asked, at: now, into: &actions)
    }
    guard case .asking = state else { return }
    if query != nil { askForOne(at: now, into: &actions) } else { askForAll(at: now, into: &actions) }
  }

  private mutating func ask(
    _ question: Question, beyond index: UInt64?, as consistency: ConsulAgent.Consistency, into actions: inout [Action]
  ) {
    open[question] = consistency
    actions.append(.ask(question, beyond: index, consistency))
  }

  /// Asks what is answered once something has changed.
  private mutating func ask<News>(_ query: BlockingQuery<News>, into actions: inout [Action]) {
    guard query.index == 0 else {
      return ask(query.question, beyond: query.index, as: consistency, into: &actions)
    }
    // A server that has just been started answers before it has read its own log again, unless it is asked to be consistent.
    let consistency = consistency == .standard || query.isDoubtful ? .consistent : consistency
    ask(query.question, beyond: nil, as: consistency, into: &actions)
  }

  private mutating func askForOne(at now: Deadline, into actions: inout [Action]) {
    guard let query, query.askTime <= now else { return }
    self.query?.asked(at: now)
    ask(query, into: &actions)
  }

  private mutating func askForAll(at now: Deadline, into actions: inout [Action]) {
    rounds.beginIfDue(at: now)
    for question in rounds.nextReads(&actions) { ask(question, beyond: nil, as: consistency, into: &actions) }
    if let found = rounds.takeList(at: now) { tell(found, &actions) }
    if rounds.catalog.askTime <= now {
      rounds.catalog.asked(at: now)
      ask(rounds.catalog, into: &actions)
    }
    if rounds.checks.askTime <= now {
      rounds.checks.asked(at: now)
      ask(rounds.checks, into: &actions)
    }
  }

  // MARK: Answers

  private mutating func take(
    _ answer: Answer, to question: Question, _ asked: ConsulAgent.Consistency, at now: Deadline,
    into actions: inout [Action]
  ) {
    switch answer {
    case .catalog(let services, let terms):
      noteLeader(terms, asked)
      if services.isEmpty, terms.isFiltered { return end(.mayNotRead(nil), &actions) }
      let listing = CatalogRounds.Listing(services, terms.index)
      _ = rounds.catalog.answered(listing, terms, asked, at: now, using: &generator)
    case .checks(let checks, let terms):
      noteLeader(terms, asked)
      _ = rounds.checks.answered(checks, terms, asked, at: now, using: &generator)
    case .instances(let list, let terms):
      noteLeader(terms, asked)
      guard query == nil else { return takeList(list, terms, asked, at: now, into: &actions) }
      guard case .instances(let name) = question else { return }
      if list.isEmpty, terms.isFiltered {
        rounds.leaveOut(name, .mayNotRead, &actions)
      } else if rounds.read(name, list, terms, asked) == .behind {
        ask(question, beyond: nil, as: .consistent, into: &actions)
      }
    case .mayRead(true): if let found = query?.take() { tell(found, &actions) }
    case .mayRead(false): end(.mayNotRead(options.service), &actions)
    case .leaderless(let failure):
      // It is the agent that knows what a token may: there is no stale answer.
      if case .permission = question { return lose(failure, at: now, into: &actions) }
      // Others may have been asked before it was known.
      guard options.consistency == .standard, asked != .stale else { return lose(failure, at: now, into: &actions) }
      if consistency != .stale { actions.append(.note(.leaderless)) }
      consistency = .stale
      askAgain(question, at: now)
    case .refused(let failure):
      // A name that the agent cannot look up, such as one with a '/', must not hold up the others.
      guard query == nil, case .instances(let name) = question else { return lose(failure, at: now, into: &actions) }
      rounds.leaveOut(name, .refused(failure), &actions)
    case .failed(let failure): lose(failure, at: now, into: &actions)
    }
  }

  /// Turns back from stale questions.
  private mutating func noteLeader(_ terms: ConsulAgent.Terms, _ asked: ConsulAgent.Consistency) {
    if asked == .stale, terms.hasLeader { consistency = options.consistency }
  }

  private mutating func askAgain(_ question: Question, at now: Deadline) {
    switch question {
    case .catalog: rounds.catalog.askAgain(at: now)
    case .checks: rounds.checks.askAgain(at: now)
    case .instances(let name): if query == nil { rounds.readAgain(name) } else { query?.askAgain(at: now) }
    case .permission: break
    }
  }

  private mutating func takeList(
    _ list: [ServiceInstance], _ terms: ConsulAgent.Terms, _ asked: ConsulAgent.Consistency, at now: Deadline,
    into actions: inout [Action]
  ) {
    guard query?.answered(list, terms, asked, at: now, using: &generator) ?? false else { return }
    if !list.isEmpty {
      if let found = query?.take() { tell(found, &actions) }
    } else if terms.isFiltered {
      end(.mayNotRead(options.service), &actions)
    } else if let service = options.service {
      ask(.permission(ByteKey(service)), beyond: nil, as: consistency, into: &actions)
    }
  }

  private mutating func tell(_ found: [ServiceInstance], _ actions: inout [Action]) {
    // Not before all of it was read: an agent whose answers are of no use is asked less and less.
    backoff.reset()
    let wasAway = trouble != nil && instances != nil
    trouble = nil
    let named = options.portName.map { name in found.compactMap { $0.at(port: name) } } ?? found
    let counting = named.filter { options.statuses.contains($0.status) }
      .map { (key: $0.key, instance: $0) }.sorted { $0.key < $1.key }.map(\.instance)
    if counting != instances {
      instances = counting
      actions.append(.changed)
    }
    if wasAway { actions.append(.note(.agentBack)) }
  }

  private mutating func lose(_ failure: Failure, at now: Deadline, into actions: inout [Action]) {
    guard failure.code != .denied, failure.code != .usage else { return end(.failed(failure), &actions) }
    if trouble == nil, instances != nil { actions.append(.note(.agentAway(failure))) }
    trouble = failure
    drop(&actions)
    query?.forgetIndex(at: now)
    rounds.forget(at: now)
    state = .pausing(until: now + max(Self.floor, backoff.next(using: &generator)))
  }

  private mutating func end(_ cause: Cause, _ actions: inout [Action]) {
    drop(&actions)
    state = .ended(cause)
    actions.append(.end)
  }

  private mutating func drop(_ actions: inout [Action]) {
    open = [:]
    actions.append(.dropQuestions)
  }
}
