import DequeModule

/// Carries out what a `HeldRegistration` wants of the agent and of the service's port, and hands on the rest: what concerns the
/// command, and the notes. It goes on after the HTTP client that the agent is spoken to over.
package final class RegistrationDriver: LoopMember {
  private let registration: ServiceRegistration
  private let checkID: String
  private let agent: ConsulAgent
  private var machine: HeldRegistration
  private var exchange: ConsulExchange?
  private var request = HeldRegistration.Request.register
  private let resolver: HostResolver
  private unowned let loop: EventLoop
  private var probe: PortProbe?
  private var pending = Deque<HeldRegistration.Event>()
  /// Is handed what is not for the agent.
  package var perform: (HeldRegistration.Action) -> Void = { _ in }

  /// - Parameters:
  ///   - registration: without the check that keeps it passing. Without a port (0) it is a worker's, which listens nowhere.
  ///   - deregisterAfter: when the agent removes an instance that nobody keeps alive any more.
  package init(
    _ registration: ServiceRegistration, _ options: HeldRegistration.Options, deregisterAfter: Duration,
    with agent: ConsulAgent, _ resolver: HostResolver, on loop: EventLoop
  ) {
    var registration = registration
    checkID = "service:\(registration.id):msctl"
    var check = ServiceRegistration.Check(
      .ttl(options.ttl), interval: options.ttl, deregisterAfter: deregisterAfter)
    check.id = checkID
    check.name = "msctl runs the service"
    registration.checks.append(check)
    (self.registration, self.agent, self.resolver, self.loop) = (registration, agent, resolver, loop)
    var options = options
    options.listens = registration.port != 0
    machine = HeldRegistration(options, at: .now, SplitMix())
  }

  package var isOver: Bool { machine.isOver }
  package var isReady: Bool { machine.isReady && !machine.isOverdue(at: .now) }
  package var isLeaving: Bool { machine.isLeaving }
  package var awaitsGroup: Bool { machine.awaitsGroup }
  package var refusal: Failure? { machine.refusal }

  // MARK: The loop

  package var wakeTime: Deadline { min(machine.wakeTime, probe?.wakeTime ?? .never) }

  package func addInterests(to polls: inout PollSet) {}

  package func proceed() {
    if let isListening = probe?.take() {
      probe = nil
      handle(.probed(isListening))
    }
    takeAnswer()
    handle(.tick)
  }

  package func handle(_ event: HeldRegistration.Event) {
    pending.append(event)
    // What an action leads to comes after the actions beside it.
    guard pending.count == 1 else { return }
    while let event = pending.first {
      var actions: [HeldRegistration.Action] = []
      machine.handle(event, at: .now, into: &actions)
      for action in actions { carryOut(action) }
      pending.removeFirst()
    }
  }

  private func carryOut(_ action: HeldRegistration.Action) {
    switch action {
    // One may take longer than the time until the next.
    case .probe: if probe == nil { probe = PortProbe(registration, resolver, on: loop) }
    case .ask(let request):
      self.request = request
      do throws(Failure) { exchange = try begin(request) } catch {
        exchange = nil
        handle(.answered(.failed(error, isFinal: false)))
      }
    case .dropRequest: exchange = nil
    case .terminate, .signalGroup, .askGroupToEnd, .killGroup, .note: perform(action)
    }
  }

  // MARK: The agent

  private func begin(_ request: HeldRegistration.Request) throws(Failure) -> ConsulExchange {
    switch request {
    case .register: try agent.beginRegister(registration)
    case .pass: try agent.beginPass(check: checkID)
    case .retire: try agent.beginMaintenance(id: registration.id, reason: "msctl: the service is shutting down")
    case .deregister: try agent.beginDeregister(id: registration.id)
    }
  }

  private func takeAnswer() {
    guard let exchange else { return }
    var answer = HeldRegistration.Answer.accepted
    do throws(Failure) {
      guard let response = try exchange.take() else { return }
      // Who says so of a registration is no agent.
      if request != .register, agent.isUnknown(response) {
        answer = .unknown
      } else {
        do throws(Failure) { try agent.check(response, exchange.method, exchange.path) } catch {
          answer = .failed(error, isFinal: [400, 403].contains(response.head.status))
        }
      }
    } catch { answer = .failed(error, isFinal: false) }
    self.exchange = nil
    handle(.answered(answer))
  }
}
