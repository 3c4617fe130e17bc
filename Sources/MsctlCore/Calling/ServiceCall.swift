/// One call on its way, to a URL or to one instance after another of a service, until a response counts.
///
/// It only decides. Whoever drives it hands in what has happened and carries out the actions, in their order.
package struct ServiceCall: Sendable {
  /// Without a deadline, a call may take as long as bytes keep coming: a silence of this length ends it.
  package static let silence: Duration = .seconds(60)

  package enum Target: Sendable {
    /// Where the request itself says.
    case url
    /// An instance of this service, which is looked up.
    case service(String)
    /// This very instance, and no other.
    case instance(ServiceInstance)
  }

  package enum Event: Sendable {
    case started
    /// What the look-up found.
    case found([ServiceInstance])
    case notFound(LookUpFailure)
    /// A part of the body has gone out, after which there is no other attempt.
    case handedOut
    case attemptEnded(CallAttempt)
    /// The request could not even be begun.
    case refused(HTTPError)
    case tick
  }

  package enum Action: Sendable {
    case lookUp(String, until: Deadline)
    /// Sends the request to the instance, if any. What came of the attempt before is dropped.
    case attempt(ServiceInstance?, until: Deadline)
    case note(Note)
    /// The response of the attempt before is the one that counts.
    case takeBack
    case end
  }

  package enum Note: Sendable {
    case trying(another: ServiceInstance?, CallAttempt)
    case pausing(ServiceInstance?, CallAttempt, for: Duration)
  }

  package enum Outcome: Sendable {
    /// A response counts: that of the last attempt or, after `takeBack`, of the one before.
    case response
    case failed(HTTPError)
    case notFound(LookUpFailure)

    fileprivate init(_ attempt: CallAttempt) {
      switch attempt.result {
      case .success: self = .response
      case .failure(let error): self = .failed(error)
      }
    }
  }

  private enum State {
    case ready
    /// After an attempt that failed, if there was one.
    case lookingUp(after: CallAttempt?)
    case attempting
    case pausing(until: Deadline, after: CallAttempt)
    case ended(Outcome)
  }

  private let target: Target
  private let policy: RetryPolicy
  /// The end of the whole call, its look-ups and all attempts together.
  private let deadline: Deadline
  private let attemptTimeout: Duration?
  private var state = State.ready
  /// The instances that have not been tried.
  private var candidates: [ServiceInstance] = []
  private var retriesLeft: Int
  private var isHandedOut = false
  private var backoff = Backoff()
  private var generator: SplitMix
  /// Whether the attempt before this one ended in a response, and the instance that it came from.
  private var before: (hasResponse: Bool, instance: ServiceInstance?) = (false, nil)
  /// The instance of the attempt that counts.
  package private(set) var instance: ServiceInstance?
  package private(set) var attempts = 0
  /// How many of the attempts are none that only turned to another instance.
  package private(set) var retries = 0

  package init(
    _ target: Target, _ policy: RetryPolicy, retries: Int, attemptTimeout: Duration? = nil, until deadline: Deadline,
    _ generator: SplitMix
  ) {
    self.target = target
    self.policy = policy
    self.deadline = deadline
    self.attemptTimeout = attemptTimeout
    self.generator = generator
    retriesLeft = retries
    if case .instance(let instance) = target { self.instance = instance }
  }

  /// How it ended; nil while it runs.
  package var outcome: Outcome? { if case .ended(let outcome) = state { outcome } else { nil } }

  /// Whether a response counts, complete.
  package var hasResponse: Bool { if case .ended(.response) = state { true } else { false } }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline {
    switch state {
    case .pausing(let until, _): until
    case .lookingUp: deadline
    case .ready, .attempting, .ended: .never
    }
  }

  /// Whether a response with this status, whose body is still to come, will not be given up for another attempt.
  package func isFinal(_ status: Int) -> Bool {
    switch state {
    case .attempting: policy.isFinal(status, hasRetries: hasRetries)
    case .ended: true
    case .ready, .lookingUp, .pausing: false
    }
  }

  private var hasRetries: Bool { retriesLeft > 0 && !isHandedOut }

  package mutating func handle(
    _ event: Event, at now: Deadline, in directory: inout ServiceDirectory, into actions: inout [Action]
  ) {
    // By event first: to switch over both at once would copy both.
    switch event {
    case .started:
      if case .ready = state { goOn(nil, at: now, in: &directory, into: &actions) }
    case .found(let found):
      guard case .lookingUp(let last) = state else { return }
      if let last, !RetryPolicy.hasTime(until: deadline, at: now) { return end(Outcome(last), &actions) }
      // Not the one that failed just now, where there are others.
      candidates = found
      if let instance {
        let others = found.filter { $0.key != instance.key }
        if !others.isEmpty { candidates = others }
      }
      attempt(at: now, in: &directory, into: &actions)
    case .notFound(let cause):
      if case .lookingUp(let last) = state { end(last.map(Outcome.init) ?? .notFound(cause), &actions) }
    case .handedOut: isHandedOut = true
    case .attemptEnded(let attempt):
      if case .attempting = state { judge(attempt, at: now, in: &directory, into: &actions) }
    case .refused(let error):
      if case .attempting = state { end(.failed(error), &actions) }
    case .tick:
      if case .pausing(let until, let last) = state, until <= now {
        goOn(last, at: now, in: &directory, into: &actions)
      } else if case .lookingUp(let last) = state, deadline <= now {
        end(last.map(Outcome.init) ?? .notFound(.late), &actions)
      }
    }
  }

  /// Makes an attempt, or looks up first where all instances have been tried.
  private mutating func goOn(
    _ last: CallAttempt?, at now: Deadline, in directory: inout ServiceDirectory, into actions: inout [Action]
  ) {
    guard candidates.isEmpty, case .service(let name) = target else {
      return attempt(at: now, in: &directory, into: &actions)
    }
    state = .lookingUp(after: last)
    if let found = directory.known(name, at: now) {
      handle(.found(found), at: now, in: &directory, into: &actions)
    } else {
      actions.append(.lookUp(name, until: deadline))
    }
  }

  private mutating func attempt(
    at now: Deadline, in directory: inout ServiceDirectory, into actions: inout [Action]
  ) {
    attempts += 1
    state = .attempting
    if !candidates.isEmpty, let chosen = directory.choose(from: &candidates, at: now) { instance = chosen }
    actions.append(.attempt(instance, until: min(deadline, attemptTimeout.map { now + $0 } ?? .never)))
  }

  private mutating func judge(
    _ attempt: CallAttempt, at now: Deadline, in directory: inout ServiceDirectory, into actions: inout [Action]
  ) {
    if let instance, RetryPolicy.isTrouble(attempt) { directory.leaveAlone(instance, at: now) }
    guard now < deadline, !isHandedOut else {
      // What the deadline cut off before there was any response says less than the response before it.
      if case .failure(let error) = attempt.result, error.kind == .timedOut, !attempt.hasHead, before.hasResponse {
        instance = before.instance
        actions.append(.takeBack)
        return end(.response, &actions)
      }
      return end(Outcome(attempt), &actions)
    }
    if case .success = attempt.result { before = (true, instance) } else { before = (false, nil) }
    switch policy.verdict(on: attempt, hasRetries: hasRetries, hasOthers: !candidates.isEmpty) {
    case .final: end(Outcome(attempt), &actions)
    case .another:
      actions.append(.note(.trying(another: instance, attempt)))
      self.attempt(at: now, in: &directory, into: &actions)
    case .retry(let wanted):
      let own = backoff.next(using: &generator)
      guard let pause = RetryPolicy.pause(own, wanted: wanted, until: deadline, at: now) else {
        return end(Outcome(attempt), &actions)
      }
      retriesLeft -= 1
      retries += 1
      actions.append(.note(.pausing(instance, attempt, for: pause)))
      state = .pausing(until: now + pause, after: attempt)
    }
  }

  private mutating func end(_ outcome: Outcome, _ actions: inout [Action]) {
    state = .ended(outcome)
    candidates = []
    actions.append(.end)
  }
}
