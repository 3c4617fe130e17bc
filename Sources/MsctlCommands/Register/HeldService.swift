import Glibc
import MsctlCore

/// A registration that lives exactly as long as a command: carries out what its `HeldRegistration` decides.
struct HeldService {
  private let registration: ServiceRegistration
  private let checkID: String
  private let options: Register.Options
  private let agent: ConsulAgent
  private let loop: EventLoop
  private let console: Console
  private let child: ChildProcess
  private let signals: Signals
  private var machine: HeldRegistration
  private var probe: PortProbe?
  private var pending: (request: HeldRegistration.Request, exchange: ConsulExchange)?

  init(
    _ registration: ServiceRegistration, _ options: Register.Options, _ agent: ConsulAgent, _ loop: EventLoop,
    _ console: Console, _ environment: [String: String]
  ) throws(Failure) {
    let port = registration.port
    guard (1...65535).contains(port) else {
      throw Failure(.noPort(service: registration.name))
    }
    loop.add(HostResolver.system)
    let probe = PortProbe(registration, loop)
    while probe.result == nil { loop.turn(until: probe.wakeTime) }
    guard probe.result == false else { throw Failure(.portInUse(port)) }
    var registration = registration
    var ttl = Register.heldTTL
    for case .ttl(let time) in options.checks { ttl = time }
    checkID = "service:\(registration.id):msctl"
    var check = ServiceRegistration.Check(
      .ttl(ttl), interval: options.interval, deregisterAfter: options.deregisterAfter ?? Register.heldDeregisterAfter)
    check.id = checkID
    check.name = "msctl runs the service"
    registration.checks.append(check)
    machine = HeldRegistration(
      HeldRegistration.Options(ttl: ttl, drain: options.drain, grace: ChildProcess.grace), at: .now, SplitMix())
    self.registration = registration
    self.options = options
    self.agent = agent
    self.loop = loop
    self.console = console
    signals = Signals(children: true, passing: true)
    loop.add(signals)
    do {
      child = try ChildProcess(
        program: options.command,
        environment: environment.merging([
          "PORT": "\(port)", "MSCTL_SERVICE_ID": variableValue(registration.id),
        ]) { $1 })
    } catch { throw error.failure }
  }

  mutating func run() throws(Failure) {
    while !machine.isOver {
      handle(.tick)
      child.checkEnd()
      if child.status != nil, !machine.isLeaving {
        if child.wasKilled { console.note(.killed(command: options.command.first ?? "")) }
        handle(.commandEnded)
      }
      if machine.awaitsGroup, child.isGroupGone { handle(.groupEnded) }
      while let number = signals.take() {
        handle(.signal(number, isEnding: [SIGTERM, SIGINT, SIGQUIT].contains(number)))
      }
      takeAnswer()
      if let isListening = probe?.result {
        probe = nil
        handle(.probed(isListening))
      }
      console.moveErrors()
      if !machine.isOver { wait() }
    }
    if let failure = machine.refusal { throw failure }
    try leave()
  }

  /// The one wait.
  private func wait() {
    // Nothing tells of the end of what is not our child.
    let longest: Duration = machine.awaitsGroup ? .milliseconds(10) : .seconds(1)
    let own = min(machine.wakeTime, child.wakeTime, probe?.wakeTime ?? .never)
    loop.turn(until: min(.after(longest), own))
  }

  private mutating func handle(_ event: HeldRegistration.Event) {
    var actions: [HeldRegistration.Action] = []
    machine.handle(event, at: .now, into: &actions)
    for action in actions {
      switch action {
      case .probe: if probe == nil { probe = PortProbe(registration, loop) }
      case .ask(let request):
        do throws(Failure) { pending = (request, try begin(request)) } catch {
          pending = nil
          handle(.answered(.failed(error, isFinal: false)))
        }
      case .dropRequest: pending = nil
      case .terminate(let number): child.terminate(with: number)
      case .signalGroup(let number): child.signalGroup(number)
      case .askGroupToEnd:
        child.signalGroup(SIGTERM)
        child.signalGroup(SIGCONT)
      case .killGroup: child.signalGroup(SIGKILL)
      case .note(let note): console.note(note.text(registration, options, agent.address))
      }
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

  private mutating func takeAnswer() {
    guard let (request, exchange) = pending else { return }
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
    pending = nil
    handle(.answered(answer))
  }

  // MARK: The command

  /// Ends as the command did.
  private func leave() throws(Failure) {
    let name = options.command.first ?? ""
    if let signal = child.endSignal {
      // Of the others most would leave a second core file, and SIGKILL would look like an end of msctl's own.
      if [SIGTERM, SIGINT, SIGHUP, SIGPIPE].contains(signal) {
        throw .interrupted(by: signal)
      }
      throw Failure(.ended(command: name, signal: signal))
    }
    if let status = child.status, status != 0 {
      throw Failure(.exited(command: name, status))
    }
  }
}

/// Finds out whether somebody listens on a service's port.
private final class PortProbe {
  /// Time limit to connect.
  private static let patience: Duration = .milliseconds(200)

  private let port: Int
  private let loop: EventLoop
  private var lookUp: HostLookUp?
  private var attempts: [TCPProbe] = []

  init(_ registration: ServiceRegistration, _ loop: EventLoop) {
    (port, self.loop) = (registration.port, loop)
    if registration.address.isEmpty {
      connect(["127.0.0.1", "::1"])
    } else if case .ip(let address)? = HostAddress(registration.address) {
      connect([address])
    } else {
      lookUp = HostResolver.system.lookUp([ByteKey(registration.address)])
    }
  }

  deinit { attempts.forEach(loop.remove) }

  private func connect(_ addresses: [String]) {
    attempts = addresses.map { TCPProbe($0, port, until: .after(Self.patience)) }
    attempts.forEach(loop.add)
  }

  /// Nil while it is not known.
  var result: Bool? {
    if let addresses = lookUp?.take() {
      lookUp = nil
      connect(addresses.values.flatMap { $0 })
    }
    if attempts.contains(where: { $0.result == 0 }) { return true }
    return lookUp == nil && attempts.allSatisfy { $0.result != nil } ? false : nil
  }

  /// When it goes on even if nothing comes.
  var wakeTime: Deadline { lookUp?.wakeTime ?? .never }
}
