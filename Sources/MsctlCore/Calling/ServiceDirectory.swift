/// Why there is no instance to call.
package enum LookUpFailure: Error, Sendable {
  /// The agent could not say.
  case agent(Failure)
  /// None is passing: all instances that there are.
  case nothingPassing([ServiceInstance])
  /// The agent had not said by the end of the call.
  case late
}

/// The passing instances of services, looked up once for many calls and again when they are old or one has failed. An
/// instance that has failed is left alone for a while where there are others.
///
/// It only decides. Whoever drives it hands in what has happened and carries out the actions, in their order.
package struct ServiceDirectory: Sendable {
  /// How long what was looked up is believed.
  private static let age: Duration = .seconds(5)
  /// How long an instance that has failed is left alone: longer than Consul's checks usually need to notice.
  package static let rest: Duration = .seconds(15)
  /// How many services and resting instances are kept before those of no more use are forgotten: names may come from input.
  private static let usualCount = 1000

  package struct Options: Sendable {
    /// How often a look-up without an answer is made again, while nothing is known of the service.
    package var retries = 0
    /// How long one look-up may take.
    package var attemptTimeout: Duration?
    /// Whether instances are taken in the agent's order, not by weight.
    package var keepsOrder = false

    package init() {}
  }

  package enum Event: Sendable {
    /// A call, by its number, wants the instances of a service before its end.
    case wanted(String, by: Int, until: Deadline)
    /// The agent's answer: all instances, in every status.
    case found(String, [ServiceInstance])
    case failed(String, Failure)
    case tick
  }

  package enum Action: Sendable {
    case lookUp(String, until: Deadline)
    /// To the calls with these numbers.
    case tell([Int], Result<[ServiceInstance], LookUpFailure>)
    case note(Note)
  }

  package enum Note: Sendable {
    case retrying(String, Failure, after: Duration)
    /// What the agent said last goes on to be believed.
    case usingLastKnown(String, Failure)
  }

  private enum LookUp {
    case none
    /// Asked for those who wait until then.
    case asked(until: Deadline)
    case pausing(until: Deadline)
  }

  private struct Service {
    var instances: [ServiceInstance] = []
    /// Until when they are believed; nil where nothing is known.
    var believed: Deadline?
    var lookUp = LookUp.none
    var retriesLeft = 0
    var backoff = Backoff()
    /// The calls that wait for a look-up, and the end of the last of them.
    var waiting: [Int] = []
    var end = Deadline.never

    mutating func join(_ number: Int, until deadline: Deadline) {
      end = waiting.isEmpty ? deadline : max(end, deadline)
      waiting.append(number)
    }
  }

  private let options: Options
  private var generator: SplitMix
  private var services: [ByteKey: Service] = [:]
  private var resting: [ByteKey: Deadline] = [:]
  /// The services whose look-up is made again after a pause.
  private var pausing: Set<ByteKey> = []

  package init(_ options: Options, _ generator: SplitMix) {
    self.options = options
    self.generator = generator
  }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline {
    var time = Deadline.never
    for key in pausing { if case .pausing(let until)? = services[key]?.lookUp { time = min(time, until) } }
    return time
  }

  /// The instances of a service, where they are known and not old.
  package func known(_ name: String, at now: Deadline) -> [ServiceInstance]? {
    guard let service = services[ByteKey(name)], let believed = service.believed, now < believed else { return nil }
    return service.instances
  }

  /// Takes one of the candidates: by weight or in the agent's order, and none that has failed lately if there is another.
  package mutating func choose(from candidates: inout [ServiceInstance], at now: Deadline) -> ServiceInstance? {
    var eligible = candidates
    if !resting.isEmpty {
      eligible = candidates.filter { resting[$0.key].map { $0 <= now } ?? true }
      if eligible.isEmpty { eligible = candidates }
    }
    let chosen = options.keepsOrder ? eligible.first : eligible.weightedRandom(using: &generator)
    if let chosen { candidates.removeAll { $0.key == chosen.key } }
    return chosen
  }

  /// The instance has failed: the next call looks again, and takes another one where there is one.
  package mutating func leaveAlone(_ instance: ServiceInstance, at now: Deadline) {
    let key = ByteKey(instance.service)
    if services[key]?.believed != nil { services[key]?.believed = now }
    if resting.count >= Self.usualCount { resting = resting.filter { $0.value > now } }
    resting[instance.key] = now + Self.rest
  }

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    switch event {
    case .wanted(let name, let number, let deadline):
      if let instances = known(name, at: now) { return actions.append(.tell([number], .success(instances))) }
      if services.count >= Self.usualCount { forgetOld(at: now) }
      let key = ByteKey(name)
      services[key, default: Service()].join(number, until: deadline)
      guard var service = services[key], case .none = service.lookUp else { return }
      // Where there is something to go on with, nobody waits for an agent that is away.
      service.retriesLeft = service.believed == nil ? options.retries : 0
      service.backoff.reset()
      ask(name, &service, at: now, into: &actions)
      services[key] = service
    case .found(let name, let all):
      let key = ByteKey(name)
      guard var service = services[key], case .asked = service.lookUp else { return }
      let passing = all.filter { $0.status == .passing }
      service.instances = passing
      service.believed = passing.isEmpty ? nil : now + Self.age
      tell(passing.isEmpty ? .failure(.nothingPassing(all)) : .success(passing), &service, into: &actions)
      services[key] = service
    case .failed(let name, let failure):
      let key = ByteKey(name)
      guard var service = services[key], case .asked(let asked) = service.lookUp else { return }
      take(failure, asked, name, &service, at: now, into: &actions)
      if case .pausing = service.lookUp { pausing.insert(key) }
      services[key] = service
    case .tick:
      for key in pausing {
        guard var service = services[key], case .pausing(let until) = service.lookUp, until <= now else { continue }
        pausing.remove(key)
        ask(key.text, &service, at: now, into: &actions)
        services[key] = service
      }
    }
  }

  private func ask(_ name: String, _ service: inout Service, at now: Deadline, into actions: inout [Action]) {
    service.lookUp = .asked(until: service.end)
    let attempt = options.attemptTimeout.map { now + $0 } ?? .never
    actions.append(.lookUp(name, until: min(service.end, attempt)))
  }

  private mutating func take(
    _ failure: Failure, _ asked: Deadline, _ name: String, _ service: inout Service, at now: Deadline,
    into actions: inout [Action]
  ) {
    // An agent that goes away meanwhile does not end the calls.
    if service.believed != nil, [.unreachable, .timedOut, .failed].contains(failure.code) {
      actions.append(.note(.usingLastKnown(name, failure)))
      service.believed = now + Self.age
      return tell(.success(service.instances), &service, into: &actions)
    }
    let isTransient = [.unreachable, .timedOut].contains(failure.code)
    // It ended with the call that it was made for, or so short before that another try did not fit; who came later has time left.
    if isTransient, asked < service.end, asked - now <= ConsulQuestion.longestPause, now < service.end {
      return ask(name, &service, at: now, into: &actions)
    }
    if isTransient, service.retriesLeft > 0 {
      let pause = service.backoff.next(using: &generator)
      if pause < service.end - now {
        service.retriesLeft -= 1
        service.lookUp = .pausing(until: now + pause)
        return actions.append(.note(.retrying(name, failure, after: pause)))
      }
    }
    tell(.failure(.agent(failure)), &service, into: &actions)
  }

  private func tell(
    _ result: Result<[ServiceInstance], LookUpFailure>, _ service: inout Service, into actions: inout [Action]
  ) {
    actions.append(.tell(service.waiting, result))
    service.waiting = []
    service.lookUp = .none
  }

  private mutating func forgetOld(at now: Deadline) {
    services = services.filter { _, service in
      if case .none = service.lookUp { service.believed.map { $0 > now } ?? false } else { true }
    }
  }
}
