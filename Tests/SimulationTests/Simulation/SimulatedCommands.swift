import MsctlCore

/// The real `MessageCommands`, and the commands that it runs.
final class SimulatedCommands: SimulatedHandler {
  private struct Command {
    let number: Int
    /// When it ends; one that never ends by itself has none.
    var end: Deadline
    var reason: MessageCommands.Reason?
    /// Whether we have ended it.
    var isOurs = false
  }

  private let timeline: Timeline
  private let choices: Choices
  private let story: Story
  private let isStream: Bool
  private let options: MessageCommands.Options
  private var machine: MessageCommands
  /// How many of a hundred commands fail, and how many messages always.
  private let failures: Int
  private let poison: Int
  private let slowness: Int
  /// What has become of a reply.
  private enum Reply { case confirmed, refused, lost }

  /// Whether what commands write is sent as replies, each of which is confirmed after a while, or not.
  private let replies: Bool
  private var unconfirmed: [(number: Int, time: Deadline, reply: Reply)] = []
  /// Whose replies were refused.
  private var unreplied: Set<Int> = []
  private var running: [Command] = []
  private var keys: [Int: (key: String, place: String)] = [:]
  /// The messages of each command.
  private var batches: [Int: [Int]] = [:]
  /// Taken, and no command has them; and since when.
  private var gathered: [Int] = []
  private var gatheredSince = Clock.start
  private var isBatchDue = false
  private var settled: [Consumer.Settlement] = []
  private var failure: Failure?
  private var isStopping = false
  private var isTerminated = false
  private var poisonous: [String: Bool] = [:]
  /// How often each message has failed, and was not ended by us.
  private var failed: [String: Int] = [:]
  /// Whose failures do not count any more.
  private var forgotten: [String] = []
  private var written: Set<Int> = []
  private(set) var requeued: [String: Int] = [:]
  private(set) var rejected: [String: Int] = [:]
  private(set) var violation: Violation?
  /// Whether something kept a message from being handled that was not the message's own fault.
  private(set) var isHindered = false

  init(_ parallel: Int, _ batch: Int, isStream: Bool, _ timeline: Timeline, _ choices: Choices, _ story: Story) {
    (self.timeline, self.choices, self.story, self.isStream) = (timeline, choices, story, isStream)
    failures = choices.pick(from: [0, 0, 20])
    poison = choices.pick(from: [0, 0, 30])
    slowness = choices.pick(from: [1, 20, 300])
    replies = choices.chance(30)
    var options = MessageCommands.Options()
    options.parallel = parallel
    options.batch = batch
    options.batchTime = choices.pick(from: [.milliseconds(50), .seconds(1), .seconds(20)])
    options.onError = choices.pick(from: [.requeue, .requeue, .reject, .stop])
    options.maxAttempts = choices.pick(from: [nil, nil, 1, 3])
    self.options = options
    machine = MessageCommands(options)
  }

  let isReliable = false
  var unanswered: Int { 0 }
  /// Whether a message that fails goes back for as long as it fails.
  var triesForEver: Bool {
    options.onError == .requeue && options.maxAttempts == nil && options.batch == 1 && !isHindered
  }
  /// Whether its command succeeds sooner or later.
  func isGood(_ key: String) -> Bool { !isPoisonous(key) }

  var state: Consumer.HandlerState {
    var state = machine.handlerState
    if !settled.isEmpty || failure != nil { state.isFinished = false }
    return state
  }

  var wakeTime: Deadline {
    if failure != nil || !settled.isEmpty { return timeline.now }
    return min(machine.wakeTime, running.map(\.end).min() ?? .never, unconfirmed.map(\.time).min() ?? .never)
  }

  private func isPoisonous(_ key: String) -> Bool {
    if let known = poisonous[key] { return known }
    let isPoisonous = choices.chance(poison)
    poisonous[key] = isPoisonous
    return isPoisonous
  }

  func take(_ number: Int, _ key: String, _ delivery: AMQPDelivery) {
    // In a stream each place counts by itself.
    keys[number] = (key, isStream ? "\(key) at \(delivery.message.streamOffset ?? 0)" : key)
    if isStopping { violation = Violation("nothing is taken after the failure that ends the run", key) }
    if gathered.isEmpty { gatheredSince = timeline.now }
    gathered.append(number)
    handle(.taken(number, delivery))
  }

  private func start(_ number: Int, _ count: Int, attempt: Int) {
    let batch = gathered
    gathered = []
    batches[number] = batch
    story.tell(timeline.now, "a command for \(batch.compactMap { keys[$0]?.key })")
    if isStopping { violation = Violation("no command is started after the failure that ends the run", "\(number)") }
    if running.count >= options.parallel {
      violation = Violation("no more commands run at a time than are wanted", "\(running.count + 1)")
    }
    if batch.first != number || batch.count != count || count > options.batch {
      violation = Violation("a batch has what was taken, and no more than is wanted", "\(count) of \(batch)")
    }
    if count < options.batch, !isBatchDue, timeline.now - gatheredSince < options.batchTime {
      violation = Violation("a batch that is not full waits for more", "\(batch)")
    }
    let attempts = batch.map { failed[keys[$0]?.place ?? "", default: 0] }
    if attempt != (attempts.max() ?? 0) + 1 {
      violation = Violation("only what was tried has used an attempt", "\(batch): attempt \(attempt)")
    }
    if choices.chance(1) {
      isHindered = true
      if choices.chance(50) { return handle(.failed(number, .doesNotFit("too long"))) }
      failure = Failure(.failed, "no processes are left")
      return handle(.notStarted(number))
    }
    var command = Command(number: number, end: timeline.now + choices.time(slowness))
    if batch.contains(where: { isPoisonous(keys[$0]?.key ?? "") }) || choices.chance(failures) {
      command.reason = .exited(choices.pick(from: [1, 4]))
    } else if choices.chance(1) {
      command.reason = choices.pick(from: [.exited(127), .output(Failure(.failed, "the disk is full"), status: 143)])
      isHindered = true
    }
    if choices.chance(2) {
      command.end = .never
      isHindered = true
    }
    running.append(command)
  }

  func renew(_ number: Int, _ delivery: AMQPDelivery) { handle(.renewed(number, delivery)) }

  func proceed(_ write: (_ number: Int, _ key: String) -> Void) -> Result<[Consumer.Settlement], Failure> {
    if let failure {
      self.failure = nil
      return .failure(failure)
    }
    let now = timeline.now
    for command in running where command.end <= now {
      running.removeAll { $0.number == command.number }
      story.tell(now, "the command of \(command.number) has \(command.reason.map { "failed: \($0)" } ?? "succeeded")")
      if let reason = command.reason {
        handle(.failed(command.number, reason), command.isOurs, write)
      } else {
        handle(.succeeded(command.number), false, write)
      }
    }
    for reply in unconfirmed where reply.time <= now {
      unconfirmed.removeAll { $0.number == reply.number }
      switch reply.reply {
      case .confirmed: passedOn(reply.number, write)
      case .refused:
        isHindered = true
        unreplied.formUnion(batches[reply.number] ?? [])
        handle(.failed(reply.number, .unreplied(Failure(.notDelivered, "nacked"))), isTerminated)
      case .lost:
        isHindered = true
        handle(.replyLost(reply.number, Failure(.denied, "access refused")), isTerminated)
      }
    }
    if machine.wakeTime <= now { handle(.tick, false, write) }
    if !gathered.isEmpty, !isStopping, now - gatheredSince > options.batchTime {
      violation = Violation("a batch waits no longer than is wanted", "\(now - gatheredSince)")
    }
    defer { settled = [] }
    return .success(settled)
  }

  func startBatch() {
    isBatchDue = true
    handle(.startBatch)
    isBatchDue = false
  }

  func finish() {
    handle(.finish)
    gathered = []
  }

  func terminate() {
    isTerminated = true
    handle(.terminate)
    for place in unconfirmed.indices {
      (unconfirmed[place].time, unconfirmed[place].reply) = (timeline.now, .lost)
    }
  }

  private func passedOn(_ number: Int, _ write: (Int, String) -> Void) {
    for member in batches[number] ?? [] {
      write(member, keys[member]?.key ?? "")
      written.insert(member)
      if let place = keys[member]?.place { failed[place] = nil }
    }
    handle(.passedOn(number), false, write)
  }

  private func handle(
    _ event: MessageCommands.Event, _ isOurs: Bool = false, _ write: (Int, String) -> Void = { _, _ in }
  ) {
    var actions: [MessageCommands.Action] = []
    machine.handle(event, at: timeline.now, into: &actions)
    var isNoted = false
    for action in actions {
      switch action {
      case .start(let number, let deliveries, let attempt): start(number, deliveries.count, attempt: attempt)
      case .passOn(let number):
        if choices.chance(1) {
          isHindered = true
          handle(.outputLost(number, Failure(.failed, "the file ends early")))
        } else if replies {
          let reply: Reply = choices.chance(95) ? .confirmed : choices.chance(50) ? .refused : .lost
          unconfirmed.append((number, timeline.now + choices.time(slowness), reply))
        } else {
          passedOn(number, write)
        }
      case .settle(let settlement): settle(settlement)
      case .terminate: end()
      case .report(_, _, _, let verdict):
        if !isNoted, verdict != .abandoned { note(event, isOurs) }
        isNoted = isNoted || verdict != .abandoned
      case .fail(let cause):
        isStopping = true
        failure = Failure(.command(1), "\(cause)")
      case .reportCause: break
      }
    }
    for place in forgotten { failed[place] = nil }
    forgotten = []
  }

  /// A failure is an attempt of each message, once for those that are alike.
  private func note(_ event: MessageCommands.Event, _ isOurs: Bool) {
    guard case .failed(let number, _) = event else { return }
    let places = Set((batches[number] ?? []).compactMap { keys[$0]?.place })
    if isOurs {
      violation = Violation("a command that was ended by us is no attempt of its message", "\(places.sorted())")
    }
    for place in places { failed[place, default: 0] += 1 }
  }

  private func settle(_ settlement: Consumer.Settlement) {
    let (key, place) = keys[settlement.number] ?? ("", "")
    switch settlement.outcome {
    case .acknowledge:
      if !written.contains(settlement.number) {
        violation = Violation("only what has succeeded and is passed on is handled", key)
      }
    case .requeue:
      if unreplied.contains(settlement.number) {
        violation = Violation("a message whose reply is refused is not tried again", key)
      }
      requeued[key, default: 0] += 1
    case .reject:
      if options.onError != .reject, !unreplied.contains(settlement.number),
        failed[place, default: 0] < options.maxAttempts ?? .max
      {
        violation = Violation("a message is rejected only after so many failures of its own", place)
      }
      forgotten.append(place)
      rejected[key, default: 0] += 1
    }
    settled.append(settlement)
  }

  /// They are told to end, and do so after a moment, some of them well; or are killed after ten seconds.
  private func end() {
    for place in running.indices {
      let isDeaf = choices.chance(20)
      let time = timeline.now + (isDeaf ? .seconds(11) : choices.time(1000))
      guard running[place].end > time else { continue }
      running[place].end = time
      running[place].isOurs = true
      running[place].reason = isDeaf ? .killed(137) : choices.chance(30) ? nil : .exited(143)
    }
  }
}
