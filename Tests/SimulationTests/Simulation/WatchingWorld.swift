import MsctlCore

/// A cluster of Consul, an agent, and a watch of one service or of all: services flap, are registered and removed; the agent is away,
/// slow, loses answers, says that it has too much to do, speaks nonsense, or answers at once; the leader is lost; servers are behind, or
/// are restarted with their data or without; the token may not read, or not any more.
package struct WatchingWorld: World {
  package static let name = "watching"

  private enum Happening {
    case begins
    case changes
    case agentDies, agentComes
    case leaderGoes, leaderComes
    case moodTurns
    /// A server that was restarted has read its log again.
    case hasRead
    /// The question comes to the agent.
    case arrives(Int)
    /// A blocking question, looked at again: a server that is behind has come to know something, or its time is over.
    case looks(Int)
    case answers(Int, HealthWatch.Answer)
    case quiet
    case judgement
  }

  /// How the agent takes a question.
  private enum Mood {
    case well, silent, limited, failing, confused
  }

  /// How a token is told that it may not read.
  private enum Denial {
    case status, header, emptyList
  }

  private struct Question {
    let question: HealthWatch.Question
    let beyond: UInt64?
    let consistency: ConsulAgent.Consistency
    /// Whether it comes to a server that is behind.
    let isBehind: Bool
    /// When a blocking one is answered though nothing has changed.
    var waitEnd = Deadline.never
    var hasArrived = false
    var isAnswered = false
    var isLost = false
  }

  /// How fresh the told list of a service is at least: what was told is not told to be otherwise again.
  private struct History {
    var versions: [[String]] = [[]]
    var told = 0
  }

  private static let farewell: Duration = .seconds(10)
  private let choices: Choices
  private let story: Story
  private var now = Clock.start
  private var agenda = Agenda<Happening>()
  private var machine: HealthWatch
  private let watched: Int?
  private let statuses: Set<HealthStatus>
  private let consistency: ConsulAgent.Consistency
  private let isCalm: Bool

  // The cluster.
  private var cluster: SimulatedCluster
  /// What the servers knew since then, so that one that is behind can be asked.
  private var past: [(time: Deadline, cluster: SimulatedCluster)] = []
  private let lag: Duration
  private var hasLeader = true
  /// Whether the servers have yet to read their log: until then they know nothing.
  private var isReading = false
  private var histories: [History]

  // The agent.
  private var isAway = false
  private var mood = Mood.well
  private let isHasty: Bool
  private var denial: Denial?
  private var denied: Deadline = .never
  private var open: [Int: Question] = [:]
  private var count = 0
  private var isQuiet = false
  /// How long after that it is looked whether all is well.
  private var patience = Duration.zero

  // What was seen.
  private var told: [String]?
  private var asked: [Deadline] = []
  private var asksSinceDeath = 0
  private var asksInQuiet = 0
  private var leftOut: Set<String> = []
  private var mayBeStale: Bool
  private var mayBeLate = false

  package static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    var world = WatchingWorld(choices, story)
    try world.run()
  }

  private init(_ choices: Choices, _ story: Story) {
    self.choices = choices
    self.story = story
    isCalm = !choices.chance(90)
    let hasMany = choices.chance(10)
    cluster = SimulatedCluster(services: 1 + choices.pick(hasMany ? 14 : 4))
    if hasMany { cluster.fill(choices) }
    watched = choices.chance(50) ? nil : 0
    statuses = choices.chance(30) ? Set(HealthStatus.allCases) : [.passing]
    consistency = choices.chance(25) ? choices.pick(from: [.stale, .consistent]) : .standard
    lag = choices.chance(30) ? .milliseconds(choices.pick(4000)) : .zero
    isHasty = choices.chance(5)
    // A list of all services does not say that it is empty for that reason, unless in a header.
    let denials: [Denial] = watched == nil ? [.status, .header] : [.status, .header, .emptyList]
    if choices.chance(10) { denial = choices.pick(from: denials) }
    mayBeStale = consistency == .stale
    histories = cluster.services.map { _ in History() }
    var options = HealthWatch.Options(service: watched.map { SimulatedCluster.name($0) }, statuses: statuses)
    options.consistency = consistency
    machine = HealthWatch(options, at: Clock.start, SplitMix(seed: choices.seed()))
    for _ in 0..<choices.pick(8) { cluster.change(choices) }
    past = [(Clock.start, cluster)]
    remember()
    for place in histories.indices { histories[place].versions.removeFirst(histories[place].versions.count - 1) }
    plan()
  }

  private mutating func plan() {
    agenda.add(.begins, at: now)
    for _ in 0..<choices.pick(12) { agenda.add(.changes, at: now + .milliseconds(choices.pick(20_000))) }
    if !isCalm {
      for _ in 0..<choices.pick(3) { agenda.add(.agentDies, at: now + .milliseconds(choices.pick(20_000))) }
      for _ in 0..<choices.pick(2) { agenda.add(.leaderGoes, at: now + .milliseconds(choices.pick(20_000))) }
      for _ in 0..<choices.pick(5) { agenda.add(.moodTurns, at: now + .milliseconds(choices.pick(20_000))) }
    }
    if denial != nil { denied = now + (choices.chance(50) ? .zero : .milliseconds(choices.pick(20_000))) }
    agenda.add(.quiet, at: now + .seconds(20))
  }

  // MARK: Time

  private mutating func run() throws(Violation) {
    var steps = 0
    while true {
      steps += 1
      guard steps < 50_000 else { throw Violation("a run ends", "\(steps) steps") }
      let time = min(agenda.next, machine.wakeTime)
      now = max(now, time)
      if agenda.next <= now, let happening = agenda.popFirst() {
        if case .judgement = happening { return try judge() }
        try happen(happening)
      } else {
        try handle(.tick)
      }
    }
  }

  private mutating func happen(_ happening: Happening) throws(Violation) {
    switch happening {
    case .begins: try handle(.tick)
    case .changes: change()
    case .agentDies: try killAgent()
    case .agentComes:
      story.tell(now, "-- the agent is back")
      isAway = false
      guard asksSinceDeath <= 60 else {
        throw Violation("an agent that is away is asked less and less", "\(asksSinceDeath)")
      }
    case .leaderGoes:
      story.tell(now, "-- the leader is lost")
      hasLeader = false
      mayBeStale = true
      agenda.add(.leaderComes, at: now + .milliseconds(choices.pick(8000)))
      try lookAgain()
    case .leaderComes:
      story.tell(now, "-- there is a leader")
      hasLeader = true
      isReading = false
      try lookAgain()
    case .hasRead:
      isReading = false
      try lookAgain()
    case .moodTurns: mood = choices.pick(from: [.well, .silent, .limited, .failing, .confused])
    case .arrives(let number): try arrive(number)
    case .looks(let number): try look(number)
    case .answers(let number, let answer):
      guard let question = open.removeValue(forKey: number) else { return }
      story.tell(now, "< \(question.question): \(answer.shown)")
      try handle(.answered(question.question, answer))
    case .quiet: try calmDown()
    case .judgement: break
    }
  }

  /// Nothing goes wrong any more, and nothing changes.
  private mutating func calmDown() throws(Violation) {
    story.tell(now, "-- quiet")
    isQuiet = true
    isAway = false
    hasLeader = true
    isReading = false
    mood = .well
    try lookAgain()
    // An answer that was lost, or a question about what is to come, is noticed when its time is over.
    if denial != nil || open.values.contains(where: \.isLost) { mayBeLate = true }
    patience = mayBeLate ? HealthWatch.wait * 17 / 16 + .seconds(60) : .seconds(60)
    agenda.add(.judgement, at: now + patience)
  }

  // MARK: The cluster

  private mutating func change() {
    guard !isQuiet, hasLeader, !isReading else { return }
    // What comes together may be seen together.
    for _ in 0...(choices.chance(30) ? choices.pick(3) : 0) {
      cluster.change(choices)
      if cluster.isHidden { mayBeLate = true }
      story.tell(now, "-- \(cluster.told)")
    }
    remember()
    // A server that is behind comes to know it later.
    for number in open.keys.sorted() {
      agenda.add(.looks(number), at: open[number]?.isBehind ?? false ? now + lag : now)
    }
  }

  /// Notes what is so now.
  private mutating func remember() {
    past.append((now, cluster))
    while past.count > 1, now - past[1].time > lag { past.removeFirst() }
    for place in cluster.services.indices {
      let truth = truth(of: place)
      if histories[place].versions.last != truth { histories[place].versions.append(truth) }
    }
  }

  private func truth(of place: Int) -> [String] {
    guard !SimulatedCluster.isUnreadable(place) else { return [] }
    return cluster.services[place].map { cluster.shown($0) }
      .filter { shown in statuses.contains(shown.status) }.map(\.text).sorted()
  }

  /// What the server knows to which the question comes.
  private func view(_ question: Question) -> SimulatedCluster {
    if isReading, question.consistency != .consistent { return SimulatedCluster(services: cluster.services.count) }
    guard question.isBehind else { return cluster }
    return (past.last { now - $0.time >= lag } ?? past[0]).cluster
  }

  private mutating func killAgent() throws(Violation) {
    guard !isQuiet, !isAway else { return }
    story.tell(now, "-- the agent dies")
    isAway = true
    asksSinceDeath = 0
    agenda.add(.agentComes, at: now + .milliseconds(choices.chance(50) ? choices.pick(500) : choices.pick(15_000)))
    for number in open.keys.sorted() {
      open[number]?.isAnswered = true
      agenda.add(.answers(number, .failed(Failure(.unreachable, "broke"))), at: now + choices.time(100))
    }
    switch choices.pick(4) {
    case 1:
      story.tell(now, "-- and with it a server, which has to read its log again")
      isReading = true
      hasLeader = choices.chance(50)
      if !hasLeader { mayBeStale = true }
      agenda.add(hasLeader ? .hasRead : .leaderComes, at: now + .milliseconds(choices.pick(16_000)))
    case 2:
      story.tell(now, "-- and all that was known")
      cluster.forget()
      // Who asks beyond an old index is not answered until its time is over.
      mayBeLate = true
      past = [(now, cluster)]
      remember()
    default: break
    }
  }

  // MARK: Questions

  private mutating func ask(
    _ question: HealthWatch.Question, _ beyond: UInt64?, _ consistency: ConsulAgent.Consistency
  ) throws(Violation) {
    story.tell(now, "> \(question)\(beyond.map { " beyond \($0)" } ?? "") \(consistency)")
    guard !open.values.contains(where: { $0.question == question }) else {
      throw Violation("a question is asked once at a time", "\(question)")
    }
    count += 1
    let isBehind = consistency == .stale && !choices.chance(50)
    open[count] = Question(question: question, beyond: beyond, consistency: consistency, isBehind: isBehind)
    guard open.count <= (watched == nil ? 10 : 1) else {
      throw Violation("few questions are asked at a time", "\(open.count)")
    }
    asksSinceDeath += 1
    if isQuiet { asksInQuiet += 1 }
    asked.append(now)
    asked.removeFirst(asked.firstIndex { now - $0 <= .seconds(1) } ?? 0)
    let most = watched == nil ? 16 + 3 * cluster.services.count : 12
    guard asked.count <= most else { throw Violation("few questions are asked in a second", "\(asked.count)") }
    // Its time limit, after which it has failed.
    let limit = beyond == nil ? Self.farewell : HealthWatch.wait * 17 / 16 + Self.farewell
    agenda.add(.answers(count, .failed(Failure(.timedOut, "late"))), at: now + limit)
    agenda.add(.arrives(count), at: now + choices.time(isQuiet ? 50 : 3000))
  }

  private mutating func arrive(_ number: Int) throws(Violation) {
    guard let question = open[number] else { return }
    if isAway { return answer(number, .failed(Failure(.unreachable, "refused"))) }
    switch mood {
    case .well: break
    case .silent where choices.chance(50):
      story.tell(now, "-- nobody answers")
      open[number]?.isLost = true
      return
    case .limited where choices.chance(50): return answer(number, .failed(Failure(.unreachable, "429")))
    case .failing where choices.chance(50): return answer(number, .failed(Failure(.unreachable, "500")))
    case .confused where choices.chance(50): return answer(number, .failed(Failure(.failed, "no list")))
    case .silent, .limited, .failing, .confused: break
    }
    open[number]?.hasArrived = true
    if question.beyond != nil {
      open[number]?.waitEnd = now + HealthWatch.wait + .milliseconds(choices.pick(18_000))
      agenda.add(.looks(number), at: open[number]?.waitEnd ?? now)
      if question.isBehind { agenda.add(.looks(number), at: now + lag) }
    }
    try look(number)
  }

  private mutating func lookAgain() throws(Violation) {
    for number in open.keys.sorted() { try look(number) }
  }

  /// Answers a question that is with the agent, if there is an answer.
  private mutating func look(_ number: Int) throws(Violation) {
    guard let question = open[number], !question.isLost, question.hasArrived, !question.isAnswered, !isAway else {
      return
    }
    let isPermission = if case .permission = question.question { true } else { false }
    if !isPermission, now >= denied, denial == .status { return answer(number, .failed(Failure(.denied, "403"))) }
    if !hasLeader, question.consistency != .stale {
      return answer(number, .leaderless(Failure(.unreachable, "no leader")))
    }
    if isPermission { return answer(number, .mayRead(now < denied)) }
    if isReading, question.consistency == .consistent {
      return answer(number, .failed(Failure(.unreachable, "not ready for consistent reads")))
    }
    let view = view(question)
    let index = view.index(of: question.question)
    if let beyond = question.beyond, index <= beyond, now < question.waitEnd, !isHasty { return }
    let isDenied = now >= denied
    let terms = ConsulAgent.Terms(index: index, isFiltered: isDenied && denial == .header, hasLeader: hasLeader)
    switch question.question {
    case .catalog: answer(number, .catalog(isDenied ? [] : view.listing, terms))
    case .checks: answer(number, .checks(isDenied ? [] : view.checks, terms))
    case .instances(let name):
      guard let place = view.place(of: name.text), !SimulatedCluster.isUnreadable(place) else {
        return answer(number, .refused(Failure(.failed, "404")))
      }
      answer(number, .instances(isDenied ? [] : try view.instances(place), terms))
    case .permission: break
    }
  }

  private mutating func answer(_ number: Int, _ answer: HealthWatch.Answer) {
    open[number]?.isAnswered = true
    agenda.add(.answers(number, answer), at: now + choices.time(isQuiet ? 50 : 2000))
  }

  // MARK: The machine and the rules

  private mutating func handle(_ event: HealthWatch.Event) throws(Violation) {
    var actions: [HealthWatch.Action] = []
    let wasOver = machine.cause != nil
    machine.handle(event, at: now, into: &actions)
    guard !wasOver || actions.isEmpty else { throw Violation("what has ended does nothing more", "") }
    for action in actions {
      switch action {
      case .ask(let question, let beyond, let consistency): try ask(question, beyond, consistency)
      case .dropQuestions: open = [:]
      case .changed: try tell()
      case .note(let note):
        story.tell(now, "\(note)")
        if case .leftOut(let name, _) = note { leftOut.insert(name) }
      case .end: try end()
      }
    }
  }

  private mutating func tell() throws(Violation) {
    let list = machine.instances ?? []
    let shown = list.map(\.shown)
    story.tell(now, "told: \(shown)")
    guard told != shown else { throw Violation("a change is told once", "\(shown)") }
    let isFirst = told == nil
    told = shown
    for place in histories.indices where watched == nil || watched == place {
      let name = SimulatedCluster.name(place)
      let seen = list.filter { $0.service == name }.map(\.shown).sorted()
      if seen.isEmpty, leftOut.contains(name) { continue }
      // Nothing was known that would say better than a server without its log.
      if seen.isEmpty, isFirst, mayBeStale { continue }
      let first = mayBeStale ? 0 : histories[place].told
      guard let version = histories[place].versions[first...].firstIndex(of: seen) else {
        throw Violation("what is told was so, and is told in its order", "\(name): \(seen)")
      }
      histories[place].told = max(histories[place].told, version)
    }
  }

  private mutating func end() throws(Violation) {
    story.tell(now, "ended: \(machine.cause.map { "\($0)" } ?? "")")
    guard now >= denied else { throw Violation("only who may not read gives up", "") }
  }

  private func judge() throws(Violation) {
    if denied != .never {
      guard machine.cause != nil else { throw Violation("who may not read is told so", "\(told ?? [])") }
      return
    }
    guard asksInQuiet <= 40 + patience.milliseconds / 1000 + 4 * cluster.services.count else {
      throw Violation("an agent that does not wait for a change is asked less and less", "\(asksInQuiet)")
    }
    let all = cluster.services.indices.filter { watched == nil || watched == $0 }.flatMap { truth(of: $0) }
    guard let instances = machine.instances, instances.map(\.shown).sorted() == all.sorted() else {
      throw Violation("once it is quiet, the list is the truth", "told \(told ?? []), true \(all)")
    }
    guard machine.trouble == nil else { throw Violation("an agent that answers is no trouble", "") }
  }
}

extension ServiceInstance {
  /// What a change of it changes.
  fileprivate var shown: String { "\(service) \(id) \(hostPort) \(tags.joined(separator: ",")) \(status)" }
}

extension HealthWatch.Answer {
  fileprivate var shown: String {
    switch self {
    case .catalog(let services, let terms): "\(services.map(\.name)), index \(terms.index)"
    case .checks(let checks, let terms): "\(checks.count) checks, index \(terms.index)"
    case .instances(let list, let terms): "\(list.map(\.shown)), index \(terms.index)"
    default: "\(self)"
    }
  }
}
