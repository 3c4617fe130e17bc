/// What is known of all services, and what is to be read again.
///
/// Only those are read again whose checks or instances have changed, and what changes meanwhile waits for the next round:
/// a list is always complete, however much flaps.
struct CatalogRounds: Sendable {
  /// A round begins so long after the last one for each service that was read, within these bounds.
  private static let share: Duration = .milliseconds(200)
  private static let floor: Duration = .seconds(1)
  private static let ceiling: Duration = .seconds(3)
  /// How long the answer of one query waits for that of the other: a new instance usually changes both.
  private static let settling: Duration = .milliseconds(50)
  /// How many services are read at a time.
  private static let parallel = 8
  /// When all services are read again after a change of the catalog that the checks have explained already: another one may
  /// hide behind it, of an instance without checks. And after one that was read from a server that may be behind.
  private static let sweepDelay: Duration = .seconds(10)

  /// What the catalog lists.
  struct Listing: Sendable {
    let services: [(name: String, tags: [String])]
    let index: UInt64

    init(_ services: [(name: String, tags: [String])], _ index: UInt64) {
      self.services = services
      self.index = index
    }
  }

  private enum State {
    case waiting
    /// One of two answers is there.
    case settling(until: Deadline)
    /// - Parameter isChange: whether the catalog has changed.
    case reading(isChange: Bool)
  }

  // A service without checks appears in the one, a change of health in the other.
  var catalog: BlockingQuery<Listing>
  var checks: BlockingQuery<[ConsulAgent.CheckState]>
  private var state = State.waiting
  /// The index of the catalog that the last round began with; nil before the first.
  private var catalogIndex: UInt64?
  /// As that; what was read before an outage counts.
  private var knownIndex: UInt64 = 0
  /// What was read of each, in every status.
  private var known: [ByteKey: [ServiceInstance]] = [:]
  /// The index of what was read of each.
  private var readIndex: [ByteKey: UInt64] = [:]
  /// Those that were read after indexes had begun anew, which the catalog has yet to show.
  private var renewed: Set<ByteKey> = []
  /// The tags of each in the catalog, and what the checks of each and of each node say.
  private var tags: [ByteKey: [ByteKey]] = [:]
  private var serviceChecks = CheckTable()
  private var nodeChecks = CheckTable()
  /// What is still to be read in this round, and what is being read.
  private var unread: [ByteKey] = []
  private var reading: Set<ByteKey> = []
  /// Whether a server was read that may be behind.
  private var hasReadStale = false
  /// What is to be read again in the next round: an answer was older than what is known.
  private var late: Set<ByteKey> = []
  /// Those that the agent does not look up, of which there was a note.
  private var unreadable: Set<ByteKey> = []
  private var nextRound: Deadline
  private var nextSweep = Deadline.never
  /// When all services are read again even though nothing seems to have changed.
  private var nextLook: Deadline

  /// The names of all services; nil before the first round.
  private(set) var services: [String]?

  init(at now: Deadline) {
    catalog = BlockingQuery(.catalog, at: now)
    checks = BlockingQuery(.checks, at: now)
    nextRound = now
    nextLook = now
  }

  /// All are read again once the agent answers. What was read stays known.
  mutating func forget(at now: Deadline) {
    catalog.forgetIndex(at: now)
    checks.forgetIndex(at: now)
    state = .waiting
    catalogIndex = nil
    tags = [:]
    serviceChecks = CheckTable()
    nodeChecks = CheckTable()
    unread = []
    reading = []
    late = []
    nextSweep = .never
  }

  /// When it goes on even if nothing comes.
  var wakeTime: Deadline { min(catalog.askTime, checks.askTime, roundTime) }

  /// When the next round begins, as far as that is known.
  private var roundTime: Deadline {
    if case .reading = state { return .never }
    let time = min(nextSweep, late.isEmpty ? .never : nextRound)
    if catalog.hasNews, checks.hasNews { return min(time, nextRound) }
    if case .settling(let until) = state, catalogIndex != nil { return min(time, max(nextRound, until)) }
    return time
  }

  // MARK: A round

  mutating func beginIfDue(at now: Deadline) {
    settle(at: now)
    if roundTime <= now { begin(at: now) }
  }

  private mutating func settle(at now: Deadline) {
    if case .waiting = state, catalog.hasNews || checks.hasNews { state = .settling(until: now + Self.settling) }
  }

  /// Finds what has changed since the last round.
  private mutating func begin(at now: Deadline) {
    var changed = late
    late = []
    var isChange = false
    var isSweep = catalogIndex == nil || nextSweep <= now
    if let listing = catalog.take() {
      isChange = listing.index != catalogIndex
      // Indexes have begun anew.
      if listing.index < knownIndex { readIndex = readIndex.filter { renewed.contains($0.key) } }
      renewed = []
      knownIndex = listing.index
      catalogIndex = listing.index
      if nextLook <= now { isSweep = true }
      changed.formUnion(take(listing))
    }
    if let checks = checks.take() { changed.formUnion(take(checks)) }
    if isChange {
      if changed.isEmpty {
        changed = Set(tags.keys)
      } else {
        nextSweep = min(nextSweep, now + Self.sweepDelay)
      }
    }
    if isSweep { changed = Set(tags.keys) }
    changed.formIntersection(tags.keys)
    if changed.count == tags.count {
      nextSweep = .never
      nextLook = now + HealthWatch.wait / 2
    }
    // In an order that a simulation can repeat.
    unread = changed.sorted(by: >)
    hasReadStale = false
    state = .reading(isChange: isChange)
    // Reading all of them is rare: what changes right after it does not wait for that.
    let share = Self.share * (isSweep ? 0 : min(changed.count, 1000))
    nextRound = now + min(Self.ceiling, max(Self.floor, share))
  }

  /// What is to be read now.
  mutating func nextReads(_ actions: inout [HealthWatch.Action]) -> [HealthWatch.Question] {
    var questions: [HealthWatch.Question] = []
    while reading.count < Self.parallel, let next = unread.popLast() {
      if ConsulAgent.isSegment(next.text) {
        reading.insert(next)
        questions.append(.instances(next))
      } else {
        leaveOut(next, .unaddressable, &actions)
      }
    }
    return questions
  }

  enum Reading {
    case done
    /// The server knew less than was known already, and is to be asked to be consistent.
    case behind
  }

  mutating func read(
    _ service: ByteKey, _ instances: [ServiceInstance], _ terms: ConsulAgent.Terms,
    _ asked: ConsulAgent.Consistency
  ) -> Reading {
    guard reading.contains(service) else { return .done }
    if terms.index < neededIndex(of: service, instances) {
      if asked == .consistent {
        renewed.insert(service)
      } else if terms.hasLeader {
        return .behind
      } else {
        late.insert(service)
      }
    }
    reading.remove(service)
    unreadable.remove(service)
    if asked == .stale { hasReadStale = true }
    if !late.contains(service) || known[service] == nil {
      known[service] = instances
      readIndex[service] = terms.index
    }
    return .done
  }

  mutating func readAgain(_ service: ByteKey) {
    if reading.remove(service) != nil { unread.append(service) }
  }

  /// Goes on without a service that cannot be read, with one note.
  mutating func leaveOut(
    _ service: ByteKey, _ reason: HealthWatch.Reason, _ actions: inout [HealthWatch.Action]
  ) {
    reading.remove(service)
    known[service] = []
    if unreadable.insert(service).inserted { actions.append(.note(.leftOut(service.text, reason))) }
  }

  /// All instances, once the round is over.
  mutating func takeList(at now: Deadline) -> [ServiceInstance]? {
    guard case .reading(let isChange) = state, unread.isEmpty, reading.isEmpty else { return nil }
    state = .waiting
    settle(at: now)
    if isChange, hasReadStale { nextSweep = min(nextSweep, now + Self.sweepDelay) }
    let names = tags.keys.sorted()
    services = names.map(\.text)
    return names.flatMap { known[$0] ?? [] }
  }

  // MARK: What has changed

  /// - Returns: the services that are new, or have other tags than before.
  private mutating func take(_ listing: Listing) -> [ByteKey] {
    var listed: [ByteKey: [ByteKey]] = [:]
    for (name, tags) in listing.services where !name.isSame(as: "consul") {
      listed[ByteKey(name)] = tags.map(ByteKey.init)
    }
    // One that was read after this was listed is there again, which the next list will say.
    for (name, tags) in tags where listed[name] == nil && known[name]?.isEmpty == false {
      if listing.index < readIndex[name] ?? 0 { listed[name] = tags }
    }
    known = known.filter { listed[$0.key] != nil }
    readIndex = readIndex.filter { listed[$0.key] != nil }
    unreadable = unreadable.filter { listed[$0] != nil }
    let changed = listed.keys.filter { tags[$0] != listed[$0] }
    tags = listed
    return changed
  }

  /// - Returns: the services whose checks, or those of a node of theirs, say something else than before.
  private mutating func take(_ states: [ConsulAgent.CheckState]) -> Set<ByteKey> {
    var byService = CheckTable()
    var byNode = CheckTable()
    for state in states {
      if state.service.isEmpty {
        byNode.add(state.status, of: state.node, state.index)
      } else {
        byService.add("\(state.node)\0\(state.instance)\0\(state.status)", of: state.service, state.index)
      }
    }
    byService.sort()
    byNode.sort()
    var changed = byService.changes(since: serviceChecks)
    let nodes = byNode.changes(since: nodeChecks)
    if !nodes.isEmpty {
      for (name, instances) in known where instances.contains(where: { nodes.contains(ByteKey($0.node)) }) {
        changed.insert(name)
      }
    }
    serviceChecks = byService
    nodeChecks = byNode
    // One that was read in between may have been read in a state that has passed since.
    for (name, index) in readIndex where index < neededIndex(of: name, known[name] ?? []) { changed.insert(name) }
    return changed
  }

  /// The index that an answer about a service has at least, if it is not older than the checks: what changes a check of an
  /// instance, or of its node, counts up that of the service (`ensureCheckTxn` in agent/consul/state/catalog.go).
  private func neededIndex(of service: ByteKey, _ instances: [ServiceInstance]) -> UInt64 {
    let nodes = Set(instances.map { ByteKey($0.node) })
    let least = max(readIndex[service] ?? 0, serviceChecks.index[service] ?? 0)
    return nodes.reduce(least) { max($0, nodeChecks.index[$1] ?? 0) }
  }
}

/// What the checks of each service, or of each node, say.
private struct CheckTable {
  private var words: [ByteKey: [ByteKey]] = [:]
  /// When one of them was changed last.
  private(set) var index: [ByteKey: UInt64] = [:]

  mutating func add(_ text: String, of owner: String, _ changed: UInt64) {
    let owner = ByteKey(owner)
    words[owner, default: []].append(ByteKey(text))
    index[owner] = max(index[owner] ?? 0, changed)
  }

  mutating func sort() { words = words.mapValues { $0.sorted() } }

  /// The owners of which something else is said than before.
  func changes(since old: CheckTable) -> Set<ByteKey> {
    var changed = Set(words.keys.filter { old.words[$0] != words[$0] })
    changed.formUnion(old.words.keys.filter { words[$0] == nil })
    return changed
  }
}
