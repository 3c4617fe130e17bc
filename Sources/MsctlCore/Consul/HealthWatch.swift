/// Keeps up with the instances of a service, or of all services, by blocking queries
/// (https://developer.hashicorp.com/consul/api-docs/features/blocking). It makes progress while the HTTP client runs.
///
/// What an agent answers is compared, since an answer does not mean a change. An agent that is away is asked again, after
/// pauses; what it said last stays known meanwhile. Of all services only those are read again whose checks or instances
/// have changed, and what changes meanwhile waits for the next round: a list is always complete, however much flaps.
public final class HealthWatch {
  /// How long a query may stay without an answer.
  private static let wait: Duration = .seconds(300)
  /// The shortest time between two questions of the same kind.
  private static let floor: Duration = .milliseconds(250)
  /// A round of all services begins so long after the last one for each service that was read, within these bounds.
  private static let roundShare: Duration = .milliseconds(200)
  private static let roundFloor: Duration = .seconds(1)
  private static let roundCeiling: Duration = .seconds(3)
  /// How long the answer of one query waits for that of the other: a new instance usually changes both.
  private static let settling: Duration = .milliseconds(50)
  /// How many services are read at a time.
  private static let parallel = 8
  /// When all services are read again after a change of the catalog that the checks have explained already: another one may
  /// hide behind it, of an instance without checks.
  private static let sweepDelay: Duration = .seconds(10)

  /// A query that is answered when something has changed: asked again and again.
  private struct Trigger {
    let path: String
    let query: [(String, String)]
    var index: UInt64 = 0
    var exchange: ConsulExchange?
    var asked = Deadline.now
    /// When it may be asked again.
    var earliest = Deadline.now
    var idle = Backoff(from: .seconds(1), to: .seconds(10))
    /// What came, until a round takes it.
    var answer: ConsulAgent.Answer?
  }

  private let agent: ConsulAgent
  /// Nil: all services.
  private let service: String?
  private let selection: ConsulAgent.Selection
  private let accepts: (HealthStatus) -> Bool
  private var consistency: ConsulAgent.Consistency
  private var triggers: [Trigger]
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(10))
  private var pauseEnd: Deadline?

  // Of all services:
  /// The index of the catalog that the last round began with; nil before the first.
  private var catalogIndex: UInt64?
  /// What was read of each, in every status.
  private var known: [ByteKey: [ServiceInstance]] = [:]
  /// The tags of each in the catalog, and what the checks of each and of each node say.
  private var tags: [ByteKey: [ByteKey]] = [:]
  private var checks: [ByteKey: [ByteKey]] = [:]
  private var nodeChecks: [ByteKey: [ByteKey]] = [:]
  /// The index that an answer about a service must have, by the change that asked for it.
  private var neededIndex: [ByteKey: UInt64] = [:]
  /// What is still to be read in this round; nil between rounds.
  private var unread: [ByteKey]?
  private var reading: [(service: ByteKey, exchange: ConsulExchange)] = []
  /// What is to be read again in the next round: an answer was older than what is known.
  private var late: Set<ByteKey> = []
  /// Those that the agent does not look up, of which there was a remark.
  private var unreadable: Set<ByteKey> = []
  private var settled = Deadline.never
  private var nextRound = Deadline.now
  private var nextSweep = Deadline.never

  /// The accepted instances, by service, node and id; nil before the first answer.
  public private(set) var instances: [ServiceInstance]?
  /// The names of all services, also of those without an accepted instance; nil where one is watched.
  public private(set) var services: [String]?
  /// Why the agent could not be asked the last time; nil where it could.
  public private(set) var trouble: Failure?

  /// - Parameters:
  ///   - service: its name; nil: all services but Consul itself.
  ///   - accepts: the statuses of the instances that count.
  public init(
    _ agent: ConsulAgent, service: String?, _ selection: ConsulAgent.Selection = .init(),
    where accepts: @escaping (HealthStatus) -> Bool
  ) {
    self.agent = agent
    self.service = service
    self.selection = selection
    self.accepts = accepts
    consistency = agent.consistency
    if let service {
      triggers = [Trigger(path: ConsulAgent.healthPath(of: service), query: selection.query)]
    } else {
      // A service without checks appears in the one, a change of health in the other.
      triggers = [ConsulAgent.catalogPath, ConsulAgent.allChecksPath].map { Trigger(path: $0, query: selection.place) }
    }
  }

  /// When it goes on even if nothing comes.
  public var wakeTime: Deadline {
    if let pauseEnd { return pauseEnd }
    let questions = triggers.filter { $0.exchange == nil && $0.answer == nil }.map(\.earliest)
    return (questions + [roundTime]).min() ?? .never
  }

  /// Takes in what has come, and asks again.
  /// - Returns: whether the instances have changed, or are known for the first time.
  /// - Throws: what asking again cannot mend: the token may not read.
  public func advance() throws(Failure) -> Bool {
    if let pauseEnd {
      guard pauseEnd.isPast else { return false }
      self.pauseEnd = nil
    }
    do {
      for place in triggers.indices { try takeAnswer(place) }
      let found = service == nil ? try readChanged() : try takeInstances()
      for place in triggers.indices { try ask(place) }
      guard var found else { return false }
      // Not before all of it was read: an agent whose answers are of no use is asked less and less.
      trouble = nil
      backoff.reset()
      if let name = selection.portName { found = found.compactMap { $0.at(port: name) } }
      let accepted = found.filter { accepts($0.status) }
        .map { (key: $0.key, instance: $0) }.sorted { $0.key < $1.key }.map(\.instance)
      guard accepted != instances else { return false }
      instances = accepted
      return true
    } catch {
      guard error.code != .denied, error.code != .usage else { throw error }
      trouble = error
      // What an agent forgets with a restart may have been its indexes.
      for place in triggers.indices {
        triggers[place] = Trigger(path: triggers[place].path, query: triggers[place].query)
      }
      reading = []
      unread = nil
      // All are read again once it answers.
      catalogIndex = nil
      tags = [:]
      checks = [:]
      nodeChecks = [:]
      neededIndex = [:]
      pauseEnd = .after(max(Self.floor, backoff.next()))
      return false
    }
  }

  // MARK: The queries

  private func ask(_ place: Int) throws(Failure) {
    let trigger = triggers[place]
    guard trigger.exchange == nil, trigger.answer == nil, trigger.earliest.isPast else { return }
    triggers[place].asked = .now
    triggers[place].earliest = .after(Self.floor)
    triggers[place].exchange = try agent.beginBlocking(
      trigger.path, trigger.query, after: trigger.index, wait: Self.wait, consistency)
  }

  private func takeAnswer(_ place: Int) throws(Failure) {
    guard let response = try triggers[place].exchange?.take() else { return }
    triggers[place].exchange = nil
    guard try checkLeader(response, triggers[place].path) else {
      triggers[place].earliest = .now
      return
    }
    let answer = try agent.answer(response, to: triggers[place].path)
    let before = triggers[place].index
    // An index that goes down is worth nothing; below 1 it would be answered at once for ever.
    triggers[place].index = answer.index < before ? 0 : max(1, answer.index)
    // Only the end of its time is a reason to answer that nothing has changed. An agent that does so at once is not asked
    // at its own pace.
    if before > 0, answer.index <= before, triggers[place].asked.secondsSince < 1 {
      triggers[place].earliest = .after(max(Self.floor, triggers[place].idle.next()))
    } else {
      triggers[place].idle.reset()
    }
    triggers[place].answer = answer
  }

  /// Turns to stale look-ups where there is no leader, and back once there is one.
  /// - Returns: whether the response is an answer; else it is to be asked for again.
  private func checkLeader(_ response: HTTPResponse, _ path: String) throws(Failure) -> Bool {
    if agent.consistency == .standard {
      if consistency == .standard, agent.isLeaderless(response) {
        consistency = .stale
        agent.tellStale()
        return false
      }
      if consistency == .stale, response.head.header("X-Consul-KnownLeader") == "true" { consistency = .standard }
    }
    if let failure = agent.transientTrouble(response, "GET", path) { throw failure }
    return true
  }

  /// Of the one service: its instances, where an answer has come.
  private func takeInstances() throws(Failure) -> [ServiceInstance]? {
    guard let service, let answer = triggers[0].answer else { return nil }
    triggers[0].answer = nil
    return try agent.instances(in: answer, of: service)
  }

  // MARK: All services, in rounds

  /// When the next round begins, as far as that is known.
  private var roundTime: Deadline {
    guard unread == nil else { return .never }
    let answers = triggers.count { $0.answer != nil }
    var time = min(nextSweep, late.isEmpty ? .never : nextRound)
    if answers == triggers.count {
      time = min(time, nextRound)
    } else if answers > 0, catalogIndex != nil {
      time = min(time, max(nextRound, settled))
    }
    return time
  }

  /// Reads the services that have changed.
  /// - Returns: all instances, once the round is over.
  private func readChanged() throws(Failure) -> [ServiceInstance]? {
    if triggers.contains(where: { $0.answer != nil }), settled == .never { settled = .after(Self.settling) }
    if roundTime.isPast { try beginRound() }
    guard unread != nil else { return nil }
    var open: [(service: ByteKey, exchange: ConsulExchange)] = []
    for (service, exchange) in reading {
      guard let response = try exchange.take() else {
        open.append((service, exchange))
        continue
      }
      let path = ConsulAgent.healthPath(of: service.text)
      guard try checkLeader(response, path) else {
        unread?.append(service)
        continue
      }
      // A name that the agent cannot look up, such as one with a '/', must not hold up the others.
      if (300..<500).contains(response.head.status), ![403, 429].contains(response.head.status) {
        leaveOut(service, agent.refusal(response, "GET", path).description)
        continue
      }
      unreadable.remove(service)
      let answer = try agent.answer(response, to: path)
      if consistency == .stale, answer.index < neededIndex[service] ?? 0 {
        late.insert(service)
        if known[service] != nil { continue }
      }
      known[service] = try agent.list(in: answer)
    }
    reading = open
    while reading.count < Self.parallel, let next = unread?.popLast() {
      guard ConsulAgent.isSegment(next.text) else {
        leaveOut(next, "its name cannot stand in a URL")
        continue
      }
      reading.append(
        (next, try agent.beginLookUp(ConsulAgent.healthPath(of: next.text), selection.query, consistency)))
    }
    guard reading.isEmpty else { return nil }
    unread = nil
    let names = tags.keys.sorted()
    services = names.map(\.text)
    return names.flatMap { known[$0] ?? [] }
  }

  /// Goes on without a service that cannot be read, with one remark.
  private func leaveOut(_ service: ByteKey, _ reason: String) {
    known[service] = []
    if unreadable.insert(service).inserted { agent.tell("left out the service '\(service.text)': \(reason)") }
  }

  /// Finds what has changed since the last round.
  private func beginRound() throws(Failure) {
    settled = .never
    var changed = late
    late = []
    var isCatalogChanged = false
    let isFirst = catalogIndex == nil
    if let answer = triggers[0].answer {
      triggers[0].answer = nil
      isCatalogChanged = answer.index != catalogIndex
      catalogIndex = answer.index
      var listed: [ByteKey: [ByteKey]] = [:]
      for (name, tags) in try agent.services(in: answer) where !name.isSame(as: "consul") {
        listed[ByteKey(name)] = tags.map(ByteKey.init)
      }
      known = known.filter { listed[$0.key] != nil }
      unreadable = unreadable.filter { listed[$0] != nil }
      changed.formUnion(listed.keys.filter { tags[$0] != listed[$0] })
      tags = listed
    }
    if let answer = triggers[1].answer {
      triggers[1].answer = nil
      changed.formUnion(takeChecks(try agent.checks(in: answer)))
    }
    if isCatalogChanged {
      if changed.isEmpty {
        changed = Set(tags.keys)
      } else if nextSweep == .never {
        nextSweep = .after(Self.sweepDelay)
      }
    }
    let isSweep = isFirst || nextSweep.isPast
    if isSweep { changed = Set(tags.keys) }
    changed.formIntersection(tags.keys)
    if changed.count == tags.count { nextSweep = .never }
    unread = Array(changed)
    // Reading all of them is rare: what changes right after it does not wait for that.
    let share = Self.roundShare * (isSweep ? 0 : min(changed.count, 1000))
    nextRound = .after(min(Self.roundCeiling, max(Self.roundFloor, share)))
  }

  /// - Returns: the services whose checks say something else than before.
  private func takeChecks(_ states: [ConsulAgent.CheckState]) -> Set<ByteKey> {
    var byService: [ByteKey: [ByteKey]] = [:]
    var byNode: [ByteKey: [ByteKey]] = [:]
    for state in states {
      if state.service.isEmpty {
        byNode[ByteKey(state.node), default: []].append(ByteKey(state.status))
      } else {
        let service = ByteKey(state.service)
        byService[service, default: []].append(ByteKey("\(state.node)\0\(state.instance)\0\(state.status)"))
        neededIndex[service] = max(neededIndex[service] ?? 0, state.index)
      }
    }
    byService = byService.mapValues { $0.sorted() }
    byNode = byNode.mapValues { $0.sorted() }
    var changed = Set(byService.keys.filter { checks[$0] != byService[$0] })
    changed.formUnion(checks.keys.filter { byService[$0] == nil })
    let nodes = Set(byNode.keys.filter { nodeChecks[$0] != byNode[$0] } + nodeChecks.keys.filter { byNode[$0] == nil })
    if !nodes.isEmpty {
      for (name, instances) in known where instances.contains(where: { nodes.contains(ByteKey($0.node)) }) {
        changed.insert(name)
      }
    }
    checks = byService
    nodeChecks = byNode
    return changed
  }
}
