import Glibc

/// A registration that lives exactly as long as a command: registered when the command listens, kept alive while it runs,
/// in maintenance before it is ended, deregistered when it has ended.
///
/// It only decides. Whoever drives it hands in what has happened and carries out the actions, in their order.
package struct HeldRegistration: Sendable {
  /// How often it is looked whether the command listens.
  private static let probeInterval: Duration = .milliseconds(50)
  /// After how long without listening there is a remark.
  private static let patience: Duration = .seconds(10)
  /// After what time without a sign of life an instance is critical, unless its owner says otherwise.
  package static let ttl: Duration = .seconds(10)
  /// When an instance is removed that nobody keeps alive any more, unless its owner says otherwise: the least that Consul takes.
  package static let deregisterAfter: Duration = .seconds(60)
  /// How long a request to the agent may hold up the end.
  package static let farewell: Duration = .seconds(3)

  package struct Options: Sendable {
    /// Whether the command listens on a port, and is registered only then; a worker does not.
    package var listens = true
    /// After what time without a sign of life the instance is critical.
    package var ttl: Duration
    /// How long an instance in maintenance may finish its calls.
    package var drain: Duration
    /// How long what the command leaves behind may take to end.
    package var grace: Duration

    package init(ttl: Duration, drain: Duration, grace: Duration) {
      (self.ttl, self.drain, self.grace) = (ttl, drain, grace)
    }
  }

  package enum Request: Sendable {
    case register, pass, retire, deregister
  }

  package enum Answer: Sendable {
    case accepted
    /// The agent knows no such service or check.
    case unknown
    /// - Parameter isFinal: whether the agent will say the same again.
    case failed(Failure, isFinal: Bool)
  }

  package enum Event: Sendable {
    /// Whether somebody listens on the port.
    case probed(Bool)
    /// To the request that was begun last.
    case answered(Answer)
    /// One that asks for the end, or any other.
    case signal(Int32, isEnding: Bool)
    case commandEnded
    /// Nothing is left of the command's process group.
    case groupEnded
    case tick
  }

  package enum Action: Sendable {
    case probe
    /// Begins a request, and drops the one before.
    case ask(Request)
    case dropRequest
    /// Asks the command to end; it is killed if it does not.
    case terminate(Int32)
    case signalGroup(Int32)
    case askGroupToEnd
    case killGroup
    case note(Note)
  }

  package enum Note: Sendable {
    case notListening
    case registered
    case registeringAgain
    case agentAway(Failure)
    case agentBack
    case deregistered
    /// Nil: there was no response in time.
    case notDeregistered(Failure?)
    case leftoversKilled
  }

  private enum State {
    /// The command does not listen yet.
    case starting
    case up
    /// It is to end: the agent is told that nobody should call it any more.
    case retiring(signal: Int32, until: Deadline)
    /// Calls under way may finish.
    case draining(signal: Int32, until: Deadline)
    /// The signal has been passed on.
    case ending
    /// The command has ended. Nil: the registration needs no more, or the group is gone.
    case leaving(farewell: Farewell?, groupEnd: Deadline?)
    case ended
  }

  /// Each with its own time limit.
  private enum Farewell {
    /// A registration that is under way must not arrive after its end.
    case registering(until: Deadline)
    case deregistering(until: Deadline)

    var end: Deadline {
      switch self {
      case .registering(let until), .deregistering(let until): until
      }
    }
  }

  private let options: Options
  private var state = State.starting
  /// The request whose answer is to come.
  private var request: Request?
  /// Whether the agent knows the instance, as far as we know; whether it was ever asked to, and ever did.
  private var isRegistered = false
  private var wasSent = false
  private var wasRegistered = false
  private var isAway = false
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(2))
  private var generator: SplitMix
  private var nextRequest: Deadline
  private var nextProbe: Deadline
  /// When there is a remark about a command that does not listen.
  private var remarkTime: Deadline
  /// Why the agent does not take the registration, for which the command was ended.
  package private(set) var refusal: Failure?

  package init(_ options: Options, at now: Deadline, _ generator: SplitMix) {
    self.options = options
    self.generator = generator
    (nextRequest, nextProbe) = (now, now)
    remarkTime = now + Self.patience
    if !options.listens { state = .up }
  }

  package var isOver: Bool { if case .ended = state { true } else { false } }

  /// Whether the agent knows the instance and hands it out, as far as it has answered.
  package var isReady: Bool {
    guard case .up = state else { return false }
    return isRegistered && !isAway
  }

  /// Whether an agent that says nothing has been waited for until the next request would be due: it may not hand out the instance.
  package func isOverdue(at now: Deadline) -> Bool { request != nil && now >= nextRequest }

  /// Whether it was told of the command's end.
  package var isLeaving: Bool {
    switch state {
    case .leaving, .ended: true
    case .starting, .up, .retiring, .draining, .ending: false
    }
  }

  /// Whether it waits for the process group to end.
  package var awaitsGroup: Bool { if case .leaving(_, .some) = state { true } else { false } }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline {
    let nextRequest = request == nil ? self.nextRequest : .never
    return switch state {
    case .starting: nextProbe
    case .up: nextRequest
    case .retiring(_, let until): until
    case .draining(_, let until): isRegistered ? min(until, nextRequest) : until
    case .ending: isRegistered ? nextRequest : .never
    case .leaving(let farewell, let groupEnd): min(farewell?.end ?? .never, groupEnd ?? .never)
    case .ended: .never
    }
  }

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    switch event {
    case .probed(let isListening): probed(isListening, at: now, into: &actions)
    case .answered(let answer): answered(answer, at: now, into: &actions)
    case .signal(let number, let isEnding): signalled(number, isEnding, at: now, into: &actions)
    case .commandEnded: leave(at: now, into: &actions)
    case .groupEnded:
      if case .leaving(let farewell, _) = state { state = .leaving(farewell: farewell, groupEnd: nil) }
    case .tick: break
    }
    tick(at: now, into: &actions)
  }

  /// Does what its time has come for.
  private mutating func tick(at now: Deadline, into actions: inout [Action]) {
    switch state {
    case .starting where nextProbe <= now:
      nextProbe = now + Self.probeInterval
      actions.append(.probe)
    case .retiring(let signal, let until) where request == nil || until <= now:
      drop(&actions)
      state = .draining(signal: signal, until: now + options.drain)
      return tick(at: now, into: &actions)
    case .draining(let signal, let until) where until <= now: pass(signal, &actions)
    case .leaving(let farewell, let groupEnd): return leaveOn(farewell, groupEnd, at: now, into: &actions)
    default: break
    }
    guard request == nil, nextRequest <= now else { return }
    switch state {
    case .up: ask(isRegistered ? .pass : .register, at: now, into: &actions)
    // Kept alive to its end, in maintenance; but not registered anew.
    case .draining, .ending: if isRegistered { ask(.pass, at: now, into: &actions) }
    case .starting, .retiring, .leaving, .ended: break
    }
  }

  private mutating func ask(_ request: Request, at now: Deadline, into actions: inout [Action]) {
    nextRequest = now + options.ttl / 3
    if request == .register { wasSent = true }
    self.request = request
    actions.append(.ask(request))
  }

  private mutating func drop(_ actions: inout [Action]) {
    if request != nil { actions.append(.dropRequest) }
    request = nil
  }

  private mutating func probed(_ isListening: Bool, at now: Deadline, into actions: inout [Action]) {
    guard case .starting = state else { return }
    // From its end on: a probe may take longer than that.
    nextProbe = now + Self.probeInterval
    if isListening {
      state = .up
    } else if remarkTime <= now {
      remarkTime = .never
      actions.append(.note(.notListening))
    }
  }

  // MARK: The end of the command

  private mutating func signalled(_ number: Int32, _ isEnding: Bool, at now: Deadline, into actions: inout [Action]) {
    switch state {
    case .leaving(_, .some): actions.append(.signalGroup(number))
    // The group is gone, and its number may be somebody else's.
    case .leaving, .ended: break
    case _ where !isEnding: actions.append(.signalGroup(number))
    case .up where isRegistered:
      drop(&actions)
      state = .retiring(signal: number, until: now + Self.farewell)
      ask(.retire, at: now, into: &actions)
    case .starting, .up, .retiring, .draining, .ending: pass(number, &actions)
    }
  }

  private mutating func pass(_ number: Int32, _ actions: inout [Action]) {
    state = .ending
    actions.append(.terminate(number))
  }

  /// Takes the instance out, whatever has ended the command.
  private mutating func leave(at now: Deadline, into actions: inout [Action]) {
    switch state {
    case .leaving, .ended: return
    case .starting, .up, .retiring, .draining, .ending: break
    }
    // A process that the command has left behind would go on with the port.
    actions.append(.askGroupToEnd)
    let groupEnd = now + options.grace
    guard wasSent, refusal == nil else {
      drop(&actions)
      state = .leaving(farewell: nil, groupEnd: groupEnd)
      return
    }
    if request == .register {
      state = .leaving(farewell: .registering(until: now + Self.farewell), groupEnd: groupEnd)
    } else {
      deregister(groupEnd, at: now, into: &actions)
    }
  }

  private mutating func deregister(_ groupEnd: Deadline?, at now: Deadline, into actions: inout [Action]) {
    drop(&actions)
    ask(.deregister, at: now, into: &actions)
    state = .leaving(farewell: .deregistering(until: now + Self.farewell), groupEnd: groupEnd)
  }

  private mutating func leaveOn(
    _ farewell: Farewell?, _ groupEnd: Deadline?, at now: Deadline, into actions: inout [Action]
  ) {
    var (farewell, groupEnd) = (farewell, groupEnd)
    if let end = groupEnd, end <= now {
      groupEnd = nil
      actions += [.killGroup, .note(.leftoversKilled)]
    }
    switch farewell {
    case .registering(let until) where until <= now: return deregister(groupEnd, at: now, into: &actions)
    case .deregistering(let until) where until <= now:
      drop(&actions)
      farewell = nil
      actions.append(.note(.notDeregistered(nil)))
    default: break
    }
    state = farewell == nil && groupEnd == nil ? .ended : .leaving(farewell: farewell, groupEnd: groupEnd)
  }

  // MARK: The agent

  private mutating func answered(_ answer: Answer, at now: Deadline, into actions: inout [Action]) {
    guard let request else { return }
    self.request = nil
    if case .leaving(let farewell, let groupEnd) = state {
      return answeredLeaving(answer, farewell, groupEnd, at: now, into: &actions)
    }
    switch answer {
    case .unknown where request == .pass:
      // An agent that was restarted without its data has forgotten the check.
      isRegistered = false
      nextRequest = now
      if case .up = state { actions.append(.note(.registeringAgain)) }
    case .accepted, .unknown:
      if isAway { actions.append(.note(.agentBack)) }
      isAway = false
      backoff.reset()
      if request == .register {
        isRegistered = true
        wasRegistered = true
        actions.append(.note(.registered))
      }
    case .failed(let failure, let isFinal):
      // What the agent refuses at first, it will refuse again; later, the command goes on and so do we.
      if request == .register, isFinal, !wasRegistered, case .up = state {
        refusal = failure
        return pass(SIGTERM, &actions)
      }
      if !isAway { actions.append(.note(.agentAway(failure))) }
      isAway = true
      nextRequest = now + backoff.next(using: &generator)
    }
  }

  private mutating func answeredLeaving(
    _ answer: Answer, _ farewell: Farewell?, _ groupEnd: Deadline?, at now: Deadline, into actions: inout [Action]
  ) {
    switch (farewell, answer) {
    case (.registering?, _): deregister(groupEnd, at: now, into: &actions)
    case (.deregistering?, .failed(let failure, _)):
      actions.append(.note(.notDeregistered(failure)))
      state = .leaving(farewell: nil, groupEnd: groupEnd)
    case (.deregistering?, _):
      // One that the agent has forgotten by itself is gone, too.
      actions.append(.note(.deregistered))
      state = .leaving(farewell: nil, groupEnd: groupEnd)
    case (nil, _): break
    }
  }
}
