import Glibc
import MsctlCore

/// A registration that lives exactly as long as a command.
final class HeldService: LoopMember {
  private let registration: ServiceRegistration
  private let options: Register.Options
  private let agent: ConsulAgent
  private let loop: EventLoop
  private let console: Console
  private let child: ChildProcess
  private let signals: Signals
  private let driver: RegistrationDriver
  private let readyFile: ReadyFile?

  init(
    _ registration: ServiceRegistration, _ options: Register.Options, _ agent: ConsulAgent, _ loop: EventLoop,
    _ console: Console, _ environment: [String: String]
  ) throws(Failure) {
    let port = registration.port
    guard (0...65535).contains(port) else {
      throw Failure(.invalidPort(port, service: registration.name))
    }
    readyFile = try options.readyFile.map { path throws(Failure) in try ReadyFile(path.text, console) }
    loop.add(HostResolver.system)
    if port != 0, try loop.answer(to: PortProbe(registration, .system, on: loop)) { throw Failure(.portInUse(port)) }
    var ttl = HeldRegistration.ttl
    for case .ttl(let time) in options.checks { ttl = time }
    driver = RegistrationDriver(
      registration, HeldRegistration.Options(ttl: ttl, drain: options.drain, grace: ChildProcess.grace),
      deregisterAfter: options.deregisterAfter ?? HeldRegistration.deregisterAfter, with: agent, .system, on: loop)
    self.registration = registration
    self.options = options
    self.agent = agent
    self.loop = loop
    self.console = console
    signals = Signals(children: true, passing: true)
    do {
      var variables = environment
      variables["MSCTL_SERVICE_ID"] = variableValue(registration.id)
      if port != 0 { variables["PORT"] = "\(port)" }
      child = try ChildProcess(program: options.command, environment: variables)
    } catch { throw error.failure }
  }

  func run() throws(Failure) {
    loop.add(driver)
    loop.add(self)
    driver.perform = { [unowned self] in carryOut($0) }
    while !driver.isOver {
      readyFile?.isThere = driver.isReady
      loop.turn()
    }
    readyFile?.isThere = false
    if let failure = driver.refusal { throw failure }
    try leave()
  }

  // MARK: The loop

  func addInterests(to polls: inout PollSet) { polls.add(signals.descriptor) }

  var wakeTime: Deadline {
    // Nothing tells of the end of what is not our child.
    driver.awaitsGroup ? .after(.milliseconds(10)) : min(child.wakeTime, .after(.seconds(1)))
  }

  func proceed() {
    child.checkEnd()
    if child.status != nil, !driver.isLeaving {
      if child.wasKilled { console.note(.killed(command: options.command.first ?? "")) }
      driver.handle(.commandEnded)
    }
    if driver.awaitsGroup, child.isGroupGone { driver.handle(.groupEnded) }
    while let number = signals.take() {
      driver.handle(.signal(number, isEnding: [SIGTERM, SIGINT, SIGQUIT].contains(number)))
    }
    console.moveErrors()
  }

  private func carryOut(_ action: HeldRegistration.Action) {
    switch action {
    case .terminate(let number): child.terminate(with: number)
    case .signalGroup(let number): child.signalGroup(number)
    case .askGroupToEnd:
      child.signalGroup(SIGTERM)
      child.signalGroup(SIGCONT)
    case .killGroup: child.signalGroup(SIGKILL)
    case .note(let note): console.note(note.text(registration, options, agent.address))
    case .probe, .ask, .dropRequest: break
    }
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
