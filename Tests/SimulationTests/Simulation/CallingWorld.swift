import MsctlCore

/// An agent, the instances of a service, and calls to it: instances die, come back, are slow, ask for a pause, or break a connection
/// before or after the request was sent; the agent is away, late, or says what is no longer so.
package struct CallingWorld: World {
  package static let name = "calling"

  /// Calls without a deadline may wait for so long, three times.
  private static let patience: Duration = .seconds(1200)

  private enum Happening {
    case attemptEnds(call: Int, attempt: Int)
    case lookUpEnds(number: Int)
    case call(Int)
  }

  /// What one instance does with a request.
  private enum Behaviour {
    case well
    case status(Int, retryAfter: Duration?)
    case refuses
    case breaksBefore
    case breaksAfter
    case silent
  }

  private struct Call {
    var machine: ServiceCall
    let deadline: Deadline
    let retries: Int
    let isIdempotent: Bool
    let isPinned: Bool
    var attempts = 0
    /// How often the request reached an instance.
    var reached = 0
    /// How often it has waited to be tried again.
    var retried = 0
    /// Whether it has waited since the last attempt.
    var hasWaited = false
    /// The instances that it knows of and has not asked.
    var untried: [ServiceInstance] = []
    var asked: ServiceInstance?
    /// What came of the attempt under way.
    var pending: CallAttempt?
    /// The one that counts, if it does.
    var last: CallAttempt?
    /// Whether that is not the last one, which the deadline cut off.
    var isBefore = false
    var tookBack = false
    var wasNotFound = false
    /// Whether a part of a response has been handed out.
    var isHandedOut = false
  }

  private struct Instance {
    let instance: ServiceInstance
    var behaviour = Behaviour.well
  }

  private let choices: Choices
  private let story: Story
  private var now = Clock.start
  private var agenda = Agenda<Happening>()
  private var instances: [Instance] = []
  private var directory: ServiceDirectory
  private var calls: [Call] = []
  private var lookUps: [Int: (name: String, end: Deadline)] = [:]
  private var lookUpCount = 0
  private var isCalm: Bool

  package static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    var world = try CallingWorld(choices, story)
    try world.run()
  }

  private init(_ choices: Choices, _ story: Story) throws(Violation) {
    self.choices = choices
    self.story = story
    isCalm = !choices.chance(90)
    var rules = ServiceDirectory.Options()
    rules.retries = choices.pick(4)
    rules.attemptTimeout = choices.chance(30) ? .milliseconds(choices.pick(1...2000)) : nil
    rules.keepsOrder = choices.chance(20)
    directory = ServiceDirectory(rules, SplitMix(seed: choices.seed()))
    for number in 0..<choices.pick(5) { instances.append(Instance(instance: try Self.instance(number))) }
    for number in 0...choices.pick(6) {
      let isIdempotent = choices.chance(50)
      let retries = choices.pick(4)
      let begin = Clock.start + choices.time(8000)
      let deadline: Deadline = choices.chance(70) ? begin + .milliseconds(choices.pick(1...20_000)) : .never
      let pinned = choices.chance(10) ? instances.first?.instance : nil
      let machine = ServiceCall(
        pinned.map { .instance($0) } ?? .service("s"), RetryPolicy(isIdempotent: isIdempotent), retries: retries,
        attemptTimeout: choices.chance(30) ? .milliseconds(choices.pick(1...3000)) : nil, until: deadline,
        SplitMix(seed: choices.seed()))
      calls.append(
        Call(
          machine: machine, deadline: deadline, retries: retries, isIdempotent: isIdempotent, isPinned: pinned != nil))
      agenda.add(.call(number), at: begin)
    }
  }

  private static func instance(_ number: Int) throws(Violation) -> ServiceInstance {
    let text =
      #"{"Service":{"Service":"s","ID":"s\#(number)","Port":\#(8000 + number)},"Node":{"Node":"n","Address":"10.0.0.1"},"Checks":[]}"#
    guard let value = try? JSONValue(parsing: text.utf8), let instance = ServiceInstance(health: value) else {
      throw Violation("the world is sound", text)
    }
    return instance
  }

  // MARK: Time

  private mutating func run() throws(Violation) {
    var steps = 0
    while true {
      steps += 1
      guard steps < 20_000 else { throw Violation("a run ends", "\(steps) steps") }
      let wake = calls.reduce(directory.wakeTime) { min($0, $1.machine.wakeTime) }
      let time = min(agenda.next, wake)
      guard time != .never else { break }
      now = max(now, time)
      guard now - Clock.start < Self.patience else { throw Violation("every wait is bounded", "\(now - Clock.start)") }
      if agenda.next <= now, let happening = agenda.popFirst() {
        try happen(happening)
      } else {
        try drive(.tick)
        for number in calls.indices where calls[number].machine.wakeTime <= now { try drive(number, .tick) }
      }
    }
    for (number, call) in calls.enumerated() where call.machine.outcome == nil {
      throw Violation("every call ends", "call \(number)")
    }
  }

  private mutating func happen(_ happening: Happening) throws(Violation) {
    change()
    switch happening {
    case .call(let number):
      story.tell(now, "call \(number) begins")
      try drive(number, .started)
    case .attemptEnds(let number, let attempt):
      guard calls[number].attempts == attempt, var ended = calls[number].pending else { return }
      if case .success(let status) = ended.result, calls[number].machine.isFinal(status), choices.chance(30) {
        // Its body goes out as it comes, and breaks off, or the disk is full that it goes to.
        calls[number].isHandedOut = true
        try drive(number, .handedOut)
        if choices.chance(50) {
          ended = CallAttempt(
            .failure(HTTPError(kind: .broken, reason: "the body broke off")), hasSent: true, hasHead: true)
        }
      }
      calls[number].pending = nil
      if case .failure(let error) = ended.result, error.kind == .timedOut, !ended.hasHead,
        now >= calls[number].deadline,
        case .success? = calls[number].last?.result
      {
        calls[number].isBefore = true
      } else {
        calls[number].last = ended
      }
      story.tell(
        now, "call \(number): \(ended.result), sent \(ended.hasSent), wants \(String(describing: ended.retryAfter))")
      try drive(number, .attemptEnded(ended))
    case .lookUpEnds(let number):
      guard let (name, end) = lookUps.removeValue(forKey: number) else { return }
      if now >= end {
        try drive(.failed(name, Failure(.timedOut, "late")))
      } else if !isCalm, choices.chance(30) {
        let code: Failure.Code = choices.pick(from: [.unreachable, .timedOut, .failed, .denied])
        story.tell(now, "the agent fails: \(code)")
        try drive(.failed(name, Failure(code, "away")))
      } else {
        // What it says may be no longer so, or not yet.
        let all = instances.map { $0.instance }.filter { _ in isCalm || !choices.chance(10) }
        story.tell(now, "the agent names \(all.map(\.id))")
        try drive(.found(name, all))
      }
    }
  }

  /// Instances turn good or bad.
  private mutating func change() {
    guard !isCalm else { return }
    for place in instances.indices where choices.chance(15) {
      let wanted: Duration? = choices.chance(50) ? .seconds(choices.pick(1...400)) : nil
      instances[place].behaviour = choices.pick(from: [
        .well, .status(503, retryAfter: wanted), .status(429, retryAfter: wanted), .status(404, retryAfter: nil),
        .refuses, .breaksBefore, .breaksAfter, .silent,
      ])
    }
  }

  // MARK: The machines

  private mutating func drive(_ event: ServiceDirectory.Event) throws(Violation) {
    var actions: [ServiceDirectory.Action] = []
    directory.handle(event, at: now, into: &actions)
    for action in actions {
      switch action {
      case .lookUp(let name, let end):
        story.tell(now, "look up \(name)")
        guard lookUps.values.allSatisfy({ $0.name != name }) else {
          throw Violation("one look-up of a service at a time", name)
        }
        lookUpCount += 1
        lookUps[lookUpCount] = (name, end)
        agenda.add(.lookUpEnds(number: lookUpCount), at: min(end, now + choices.time(12_000)))
      case .tell(let numbers, .success(let found)):
        guard !found.isEmpty, found.allSatisfy({ $0.status == .passing }) else {
          throw Violation("only passing instances are called", "\(found.map(\.id))")
        }
        for number in numbers { try drive(number, .found(found)) }
      case .tell(let numbers, .failure(let cause)):
        for number in numbers { try drive(number, .notFound(cause)) }
      case .note(let note): story.tell(now, "\(note)")
      }
    }
  }

  private mutating func drive(_ number: Int, _ event: ServiceCall.Event) throws(Violation) {
    let wasOver = calls[number].machine.outcome != nil
    let known: [ServiceInstance]
    switch event {
    case .found(let found): known = found
    case .notFound:
      known = []
      calls[number].wasNotFound = true
    default: known = directory.known("s", at: now) ?? []
    }
    var actions: [ServiceCall.Action] = []
    calls[number].machine.handle(event, at: now, in: &directory, into: &actions)
    guard !wasOver || actions.isEmpty else { throw Violation("what has ended does nothing more", "call \(number)") }
    for action in actions {
      switch action {
      case .lookUp(let name, let end):
        try drive(.wanted(name, by: number, until: end))
      case .attempt(let instance, let end): try send(number, instance, known, until: end)
      case .note(.pausing(_, _, let pause)):
        story.tell(now, "call \(number) waits \(pause)")
        calls[number].retried += 1
        calls[number].hasWaited = true
      case .note: break
      case .takeBack: calls[number].tookBack = true
      case .end: try judge(number)
      }
    }
    let wake = calls[number].machine.wakeTime
    guard wake == .never || wake <= calls[number].deadline else {
      throw Violation("every wait is bounded by the deadline", "call \(number)")
    }
  }

  private mutating func send(
    _ number: Int, _ instance: ServiceInstance?, _ known: [ServiceInstance], until end: Deadline
  ) throws(Violation) {
    guard let place = instances.firstIndex(where: { $0.instance.key == instance?.key }) else {
      throw Violation("a call goes to an instance", "call \(number)")
    }
    guard end <= calls[number].deadline, now <= calls[number].deadline else {
      throw Violation("an attempt ends with the call", "call \(number)")
    }
    if let last = calls[number].last, !calls[number].hasWaited {
      guard !last.hasSent, calls[number].asked?.key != instance?.key else {
        throw Violation("only another instance is asked at once, and only where nothing was sent", "call \(number)")
      }
    }
    if calls[number].isHandedOut { throw Violation("what was handed out is not asked for again", "call \(number)") }
    guard !calls[number].hasWaited || calls[number].deadline - now > RetryPolicy.shortestRetry else {
      throw Violation("a retry has time to say why it failed", "call \(number)")
    }
    calls[number].hasWaited = false
    if calls[number].untried.isEmpty, !calls[number].isPinned {
      let others = known.filter { $0.key != calls[number].asked?.key }
      calls[number].untried = others.isEmpty ? known : others
      guard known.contains(where: { $0.key == instance?.key }) else {
        throw Violation("a call goes to an instance that passes", "call \(number)")
      }
    }
    calls[number].untried.removeAll { $0.key == instance?.key }
    calls[number].asked = instance
    calls[number].attempts += 1
    let done = now + choices.time(3000)
    var attempt: CallAttempt
    switch instances[place].behaviour {
    case .well: attempt = CallAttempt(.success(200), hasSent: true)
    case .status(let status, let wanted): attempt = CallAttempt(.success(status), hasSent: true, retryAfter: wanted)
    case .refuses: attempt = CallAttempt(.failure(HTTPError(kind: .unreachable, reason: "refused")), hasSent: false)
    case .breaksBefore: attempt = CallAttempt(.failure(HTTPError(kind: .broken, reason: "broke")), hasSent: false)
    case .breaksAfter: attempt = CallAttempt(.failure(HTTPError(kind: .broken, reason: "broke")), hasSent: true)
    case .silent: attempt = CallAttempt(.failure(HTTPError(kind: .timedOut, reason: "silent")), hasSent: true)
    }
    if end < done {
      let hasHead = if case .success = attempt.result { choices.chance(30) } else { false }
      attempt = CallAttempt(
        .failure(HTTPError(kind: .timedOut, reason: "late")), hasSent: attempt.hasSent, hasHead: hasHead)
    }
    if attempt.hasSent { calls[number].reached += 1 }
    calls[number].pending = attempt
    story.tell(now, "call \(number) asks \(instances[place].instance.id)")
    guard calls[number].reached <= 1 || calls[number].isIdempotent else {
      throw Violation("what may not be repeated reaches a service once", "call \(number)")
    }
    agenda.add(.attemptEnds(call: number, attempt: calls[number].attempts), at: min(done, end))
  }

  // MARK: The rules

  private func judge(_ number: Int) throws(Violation) {
    let call = calls[number]
    story.tell(now, "call \(number) ends: \(call.machine.outcome.map { "\($0)" } ?? "")")
    guard call.pending == nil else { throw Violation("a call ends after its attempts", "call \(number)") }
    guard call.retried <= call.retries else {
      throw Violation("the retries never exceed the number", "call \(number): \(call.retried) of \(call.retries)")
    }
    guard call.tookBack == call.isBefore else {
      throw Violation("a response counts for more than what the deadline cut off after it", "call \(number)")
    }
    switch (call.machine.outcome, call.last?.result) {
    case (.response?, .success(let status)?):
      guard ![408, 429, 502, 503, 504].contains(status) || !call.isIdempotent || !mayGoOn(call) else {
        throw Violation("a call that may be tried again is", "call \(number), status \(status)")
      }
    case (.failed(let error)?, .failure(let last)?):
      guard error == last, let attempt = call.last else {
        throw Violation("the last attempt is what counts", "call \(number)")
      }
      guard attempt.hasSent && !call.isIdempotent || !mayGoOn(call) else {
        throw Violation("a call that may be tried again is", "call \(number), \(error.reason)")
      }
      guard attempt.hasSent || call.untried.isEmpty || now >= call.deadline else {
        throw Violation("another instance is asked where nothing was sent", "call \(number)")
      }
    case (.notFound?, nil): break
    default: throw Violation("the last attempt is what counts", "call \(number)")
    }
  }

  /// Whether a retry was left, and time for the longest pause that it may make.
  private func mayGoOn(_ call: Call) -> Bool {
    let wanted = max(.seconds(10), call.last?.retryAfter ?? .zero)
    return call.retried < call.retries && !call.wasNotFound && !call.isHandedOut
      && call.deadline - now > wanted + RetryPolicy.shortestRetry
      && (call.deadline != .never || wanted <= .seconds(300))
  }
}
