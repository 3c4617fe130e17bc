import MsctlCore

/// An agent, and a command that is registered with it for as long as it runs: the command listens late or never, ends by itself,
/// ignores signals, leaves processes behind; the agent is slow, lost, refuses, or is restarted without its data.
package struct RegisteringWorld: World {
  package static let name = "registering"

  private static let grace: Duration = .seconds(10)
  private static let ttl: Duration = .seconds(10)
  /// From the end of the command to the end of all, at most: a registration under way, the deregistration, or the group.
  private static let longestEnd = max(grace, HeldRegistration.farewell * 2)

  private enum Happening {
    case listens
    case commandEnds
    case groupEnds
    case signal(Int32, isEnding: Bool)
    case agentForgets
    /// The request with this number comes to the agent, and its answer comes back.
    case arrives(Int, HeldRegistration.Request)
    case answers(Int)
    case expires(Int)
  }

  private enum Mood {
    case well, silent, failing, refusing
  }

  private let choices: Choices
  private let story: Story
  private let isCalm: Bool
  private var now = Clock.start
  private var agenda = Agenda<Happening>()
  private var machine: HeldRegistration
  private let drain: Duration
  /// Whether the command has a port.
  private let listens: Bool

  // The agent.
  private var mood = Mood.well
  private var isKnown = false
  private var answers: [Int: HeldRegistration.Answer] = [:]
  private var requests = 0
  /// The request whose answer is waited for.
  private var open: (number: Int, request: HeldRegistration.Request)?

  // The command.
  private var isListening = false
  private var hasEnded = false
  private var isGroupGone = false
  private var endTime = Deadline.never
  private var termination = Deadline.never
  private var signals = 0
  private var firstSignal = Deadline.never

  // What was seen.
  private var hasRegistered = false
  private var hasDeregistered = false
  private var isConfirmed = false
  private var isRetired = false
  /// Whether the last answer was that the agent does as it is asked.
  private var isAccepted = false
  private var lastAlive = Deadline.never

  package static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    var world = RegisteringWorld(choices, story)
    try world.run()
  }

  private init(_ choices: Choices, _ story: Story) {
    self.choices = choices
    self.story = story
    isCalm = choices.chance(20)
    drain = .milliseconds(choices.chance(50) ? choices.pick(5000) : 0)
    listens = !choices.chance(20)
    var options = HeldRegistration.Options(ttl: Self.ttl, drain: drain, grace: Self.grace)
    options.listens = listens
    machine = HeldRegistration(options, at: Clock.start, SplitMix(seed: choices.seed()))
    if !choices.chance(10) { agenda.add(.listens, at: now + choices.time(15_000)) }
    if choices.chance(50) { agenda.add(.commandEnds, at: now + .milliseconds(choices.pick(60_000))) }
    for _ in 0...choices.pick(3) {
      let isEnding = choices.chance(70)
      agenda.add(.signal(isEnding ? 15 : 1, isEnding: isEnding), at: now + .milliseconds(choices.pick(60_000)))
    }
    // However it goes, it is ended.
    agenda.add(.signal(15, isEnding: true), at: now + .seconds(90))
    if !isCalm {
      for _ in 0..<choices.pick(3) { agenda.add(.agentForgets, at: now + .milliseconds(choices.pick(60_000))) }
    }
  }

  private mutating func run() throws(Violation) {
    var steps = 0
    try handle(.tick)
    guard listens || hasRegistered else { throw Violation("who listens nowhere is registered at once", "") }
    while !machine.isOver {
      steps += 1
      guard steps < 20_000 else { throw Violation("a run ends", "\(steps) steps") }
      let time = min(agenda.next, machine.wakeTime)
      guard time != .never else { throw Violation("a run ends", "nothing is waited for") }
      now = max(now, time)
      guard !hasEnded || now - endTime <= Self.longestEnd else {
        throw Violation("the end is bounded", "\(now - endTime) after the command's")
      }
      if agenda.next <= now, let happening = agenda.popFirst() {
        try happen(happening)
      } else {
        try handle(.tick)
      }
    }
    guard hasEnded else { throw Violation("it does not end before the command", "") }
    guard !hasRegistered || hasDeregistered || machine.refusal != nil else {
      throw Violation("what was registered is deregistered", "")
    }
  }

  private mutating func happen(_ happening: Happening) throws(Violation) {
    if !isCalm, choices.chance(10) { mood = choices.pick(from: [.well, .silent, .failing, .refusing]) }
    switch happening {
    case .listens: isListening = true
    case .commandEnds: try endCommand()
    case .groupEnds:
      isGroupGone = true
      if machine.awaitsGroup { try handle(.groupEnded) }
    case .signal(let number, let isEnding):
      story.tell(now, "signal \(number)")
      if isEnding {
        signals += 1
        if signals == 1 { firstSignal = now }
      }
      try handle(.signal(number, isEnding: isEnding))
    case .agentForgets:
      story.tell(now, "the agent forgets")
      isKnown = false
    case .arrives(let number, let request): arrive(number, request)
    case .expires(let number): try expire(number)
    case .answers(let number):
      guard let open, open.number == number, let answer = answers[number] else { return }
      self.open = nil
      story.tell(now, "answer to \(open.request): \(answer)")
      isAccepted = if case .accepted = answer { true } else { false }
      if isAccepted, open.request == .register { isConfirmed = true }
      if case .accepted = answer, [.register, .pass].contains(open.request) { lastAlive = now }
      try handle(.answered(answer))
    }
  }

  private mutating func expire(_ number: Int) throws(Violation) {
    guard open?.number == number else { return }
    open = nil
    story.tell(now, "no answer")
    isAccepted = false
    try handle(.answered(.failed(Failure(.timedOut, "late"), isFinal: false)))
  }

  private mutating func endCommand() throws(Violation) {
    guard !hasEnded else { return }
    story.tell(now, "the command ends")
    hasEnded = true
    endTime = now
    isListening = false
    if choices.chance(30) {
      agenda.add(.groupEnds, at: now + .milliseconds(choices.pick(15_000)))
    } else {
      isGroupGone = true
    }
    try handle(.commandEnded)
    if isGroupGone, machine.awaitsGroup { try handle(.groupEnded) }
  }

  private mutating func arrive(_ number: Int, _ request: HeldRegistration.Request) {
    switch (mood, request) {
    case (.silent, _): return
    case (.failing, _): answers[number] = .failed(Failure(.unreachable, "500"), isFinal: false)
    case (.refusing, _): answers[number] = .failed(Failure(.denied, "403"), isFinal: true)
    case (.well, .register):
      isKnown = true
      answers[number] = .accepted
    case (.well, .deregister):
      answers[number] = isKnown ? .accepted : .unknown
      isKnown = false
    case (.well, _): answers[number] = isKnown ? .accepted : .unknown
    }
  }

  // MARK: The machine and the rules

  private mutating func handle(_ event: HeldRegistration.Event) throws(Violation) {
    var actions: [HeldRegistration.Action] = []
    let wasOver = machine.isOver
    machine.handle(event, at: now, into: &actions)
    guard !wasOver || actions.isEmpty else { throw Violation("what has ended does nothing more", "\(actions)") }
    for action in actions { try carryOut(action) }
    let isHandedOut = isConfirmed && isAccepted && !isRetired && !hasDeregistered
    guard !machine.isReady || isHandedOut else { throw Violation("who is ready is handed out", "") }
    guard machine.isReady || !isHandedOut || signals > 0 || hasEnded || machine.refusal != nil else {
      throw Violation("who is handed out is ready", "")
    }
  }

  private mutating func carryOut(_ action: HeldRegistration.Action) throws(Violation) {
    switch action {
    case .probe: try handle(.probed(isListening))
    case .ask(let request): try ask(request)
    case .dropRequest: open = nil
    case .terminate(let number):
      story.tell(now, "signal \(number) is passed on")
      if isConfirmed, signals == 1, machine.refusal == nil {
        guard isRetired || !isConfirmedAlive else {
          throw Violation("an instance is in maintenance before its end", "")
        }
        if isRetired, now - firstSignal < drain {
          throw Violation("calls under way get their time", "\(now - firstSignal)")
        }
      }
      guard termination == .never else { return }
      termination = now
      // Whatever it does, it is killed after its time.
      agenda.add(.commandEnds, at: now + min(.milliseconds(choices.pick(15_000)), Self.grace))
    case .signalGroup: break
    case .askGroupToEnd: if choices.chance(50) { agenda.add(.groupEnds, at: now + choices.time(100)) }
    case .killGroup:
      guard now - endTime >= Self.grace else {
        throw Violation("what is left behind gets its time", "\(now - endTime)")
      }
    case .note(let note):
      story.tell(now, "\(note)")
      if case .deregistered = note, isKnown { throw Violation("what is told as deregistered is", "") }
    }
  }

  /// Whether it was registered, and the agent has not been asked since whether it still knows it.
  private var isConfirmedAlive: Bool { isConfirmed && isCalm }

  private mutating func ask(_ request: HeldRegistration.Request) throws(Violation) {
    story.tell(now, "\(request)")
    guard open == nil else { throw Violation("one request at a time", "\(request)") }
    switch request {
    case .register:
      guard isListening || hasRegistered || !listens, termination == .never, !hasEnded, !hasDeregistered else {
        throw Violation("nothing is registered before the command listens, or while it ends", "")
      }
      hasRegistered = true
    case .deregister:
      guard hasEnded, hasRegistered, !hasDeregistered else {
        throw Violation("it is deregistered once, at the end", "")
      }
      hasDeregistered = true
    case .retire: isRetired = true
    case .pass:
      guard !hasDeregistered else { throw Violation("what is deregistered is not kept alive", "") }
      guard !isCalm || now - lastAlive < Self.ttl else {
        throw Violation("an instance is kept alive", "\(now - lastAlive) since the last sign of life")
      }
    }
    requests += 1
    open = (requests, request)
    // What is slower than the end waits for may come in any order.
    let arrival = now + choices.time(isCalm ? 500 : 2000)
    agenda.add(.arrives(requests, request), at: arrival)
    agenda.add(.answers(requests), at: arrival + choices.time(isCalm ? 500 : 900))
    // The time limit of a request, after which it has failed.
    agenda.add(.expires(requests), at: now + .seconds(10))
  }
}
