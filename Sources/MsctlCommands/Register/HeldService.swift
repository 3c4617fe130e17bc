import Glibc
import MsctlCore

/// A registration that lives exactly as long as a command: registered when the command listens, kept alive while it runs,
/// in maintenance before it is ended, deregistered when it has ended.
struct HeldService {
  /// How often it is looked whether the command listens.
  private static let probeInterval: Duration = .milliseconds(50)
  /// After how long without listening there is a remark.
  private static let patience: Duration = .seconds(10)
  /// How long a request to the agent may hold up the end of the command.
  private static let farewell: Duration = .seconds(3)

  private enum Phase {
    /// The command does not listen yet.
    case starting
    case up
    /// It is to end: the agent is told that nobody should call it any more.
    case retiring(signal: Int32, until: Deadline)
    /// Calls under way may finish.
    case draining(signal: Int32, until: Deadline)
    /// The signal has been passed on.
    case ending
  }

  private enum Step { case register, pass, retire }

  private let registration: ServiceRegistration
  private let checkID: String
  private let ttl: Duration
  private let options: Register.Options
  private let agent: ConsulAgent
  private let http: HTTPClient
  private let console: Console
  private let child: ChildProcess
  private let signals: Signals
  private var phase = Phase.starting
  private var request: (step: Step, exchange: ConsulExchange)?
  /// Whether the agent knows the instance, as far as we know; whether it was ever asked to, and ever did.
  private var isRegistered = false
  private var wasSent = false
  private var wasRegistered = false
  private var isAway = false
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(2))
  private var nextRequest = Deadline.now
  private var nextProbe = Deadline.now
  private var remarkTime = Deadline.after(patience)
  /// Why the command was ended by us.
  private var refusal: Failure?

  init(
    _ registration: ServiceRegistration, _ options: Register.Options, _ agent: ConsulAgent, _ http: HTTPClient,
    _ console: Console, _ environment: [String: String]
  ) throws(Failure) {
    let port = registration.port
    guard (1...65535).contains(port) else {
      throw Failure(.badInput, "the definition of '\(registration.name)' has no port for COMMAND to listen on")
    }
    guard !Self.accepts(registration) else {
      throw Failure(
        .usage, "port \(port) is already in use",
        hint: "Use '--port 0' to pick a free one; COMMAND finds it in $PORT.")
    }
    var registration = registration
    var ttl = Register.heldTTL
    for case .ttl(let time) in options.checks { ttl = time }
    checkID = "service:\(registration.id):msctl"
    var check = ServiceRegistration.Check(
      .ttl(ttl), interval: options.interval, deregisterAfter: options.deregisterAfter ?? Register.heldDeregisterAfter)
    check.id = checkID
    check.name = "msctl runs the service"
    registration.checks.append(check)
    self.ttl = ttl
    self.registration = registration
    self.options = options
    self.agent = agent
    self.http = http
    self.console = console
    signals = Signals(children: true, passing: true)
    do {
      child = try ChildProcess(
        program: options.command,
        environment: environment.merging([
          "PORT": "\(port)", "MSCTL_SERVICE_ID": variableValue(registration.id),
        ]) { $1 })
    } catch { throw error.failure }
  }

  mutating func run() throws(Failure) {
    var fault: Failure?
    do {
      while true {
        child.checkEnd()
        if child.status != nil { break }
        while let number = signals.take() { handle(number) }
        tick()
        console.moveErrors()
        try http.move(until: wakeTime, orReading: signals.descriptor)
      }
    } catch {
      // What msctl itself cannot go on with must not leave the command behind.
      fault = error
      child.terminate()
      while child.status == nil {
        child.checkEnd()
        usleep(10_000)
      }
    }
    if child.wasKilled { tellKilled("'\(options.command.first ?? "")'") }
    // A process that the command has left behind would go on with the port.
    let end = Deadline.after(ChildProcess.grace)
    child.signalGroup(SIGTERM)
    child.signalGroup(SIGCONT)
    deregister()
    if child.endGroup(until: end) { tellKilled("what '\(options.command.first ?? "")' left behind") }
    if let failure = refusal ?? fault { throw failure }
    try leave()
  }

  private func tellKilled(_ what: String) {
    console.note("\(what) did not end within \(ChildProcess.grace.shown) and was killed")
  }

  private var wakeTime: Deadline {
    var time = min(Deadline.after(.seconds(1)), child.wakeTime)
    switch phase {
    case .starting: time = min(time, nextProbe)
    case .up: break
    case .retiring(_, let until), .draining(_, let until): time = min(time, until)
    case .ending: break
    }
    return request == nil ? min(time, max(nextRequest, .after(.milliseconds(10)))) : time
  }

  // MARK: Signals

  private mutating func handle(_ number: Int32) {
    guard [SIGTERM, SIGINT, SIGQUIT].contains(number) else { return child.signalGroup(number) }
    guard case .up = phase, isRegistered else { return end(number) }
    phase = .retiring(signal: number, until: .after(Self.farewell))
    request = nil
    start(.retire)
  }

  private mutating func end(_ number: Int32) {
    child.terminate(with: number)
    phase = .ending
  }

  // MARK: The registration

  private mutating func tick() {
    takeResponse()
    switch phase {
    case .starting:
      guard nextProbe.isPast else { return }
      nextProbe = .after(Self.probeInterval)
      if Self.accepts(registration) {
        phase = .up
      } else if remarkTime.isPast {
        remarkTime = .never
        console.note(
          "the command does not listen on port \(registration.port) yet; it is registered when it does"
            + (options.port == 0 ? " ($PORT)" : ""))
      }
    case .up: break
    case .retiring(let signal, let until):
      if request == nil || until.isPast {
        request = nil
        phase = .draining(signal: signal, until: .after(options.drain))
      }
    case .draining(let signal, let until):
      if until.isPast { end(signal) }
    case .ending: break
    }
    guard request == nil, nextRequest.isPast else { return }
    switch phase {
    case .up: start(isRegistered ? .pass : .register)
    // Kept alive to its end, in maintenance; but not registered anew.
    case .draining, .ending: if isRegistered { start(.pass) }
    case .starting, .retiring: break
    }
  }

  private mutating func start(_ step: Step) {
    nextRequest = .after(ttl / 3)
    do {
      switch step {
      case .register:
        wasSent = true
        request = (step, try agent.beginRegister(registration))
      case .pass: request = (step, try agent.beginPass(check: checkID))
      case .retire:
        request = (step, try agent.beginMaintenance(id: registration.id, reason: "msctl: the service is shutting down"))
      }
    } catch { failed(step, error) }
  }

  private mutating func takeResponse() {
    guard let (step, exchange) = request else { return }
    do {
      guard let response = try exchange.take() else { return }
      request = nil
      // An agent that was restarted without its data has forgotten the check.
      if step == .pass, agent.isUnknown(response) {
        isRegistered = false
        nextRequest = .now
        console.note("the agent no longer knows '\(registration.id)'; registering it again")
        return
      }
      let status = response.head.status
      do { try agent.check(response, exchange.method, exchange.path) } catch {
        return failed(step, error, isFinal: [400, 403].contains(status))
      }
      if isAway { console.note("the Consul agent is back") }
      isAway = false
      backoff.reset()
      if step == .register {
        isRegistered = true
        wasRegistered = true
        console.note("registered '\(registration.name)' as '\(registration.id)' with \(agent.address.shown)")
      }
    } catch {
      request = nil
      failed(step, error)
    }
  }

  private mutating func failed(_ step: Step, _ failure: Failure, isFinal: Bool = false) {
    // What the agent refuses at first, it will refuse again; later, the command goes on and so do we.
    if step == .register, isFinal, !wasRegistered, case .up = phase {
      refusal = failure
      end(SIGTERM)
      return
    }
    if !isAway { console.note(failure.message + "; the command keeps running") }
    isAway = true
    nextRequest = .after(backoff.next())
  }

  /// Takes the instance out, whatever has ended the command.
  private mutating func deregister() {
    guard wasSent, refusal == nil else { return }
    let deadline = Deadline.after(Self.farewell)
    do throws(Failure) {
      // A registration that is under way must not arrive after its end.
      while let (_, exchange) = request, try exchange.take() == nil, !deadline.isPast {
        try http.move(until: deadline)
      }
      request = nil
      let exchange = try agent.beginDeregister(id: registration.id)
      while !deadline.isPast {
        if let response = try exchange.take() {
          // One that the agent has forgotten by itself is gone, too.
          if !agent.isUnknown(response) { try agent.check(response, exchange.method, exchange.path) }
          return console.note("deregistered '\(registration.id)'")
        }
        try http.move(until: deadline)
      }
      throw Failure(.timedOut, "no response from the agent within \(Self.farewell.shown)")
    } catch {
      let time = (options.deregisterAfter ?? Register.heldDeregisterAfter).shown
      console.note(
        "'\(registration.id)' could not be deregistered: \(error.message); Consul removes it once it has been critical for \(time)"
      )
    }
  }

  // MARK: The command

  /// Whether somebody listens on the port.
  private static func accepts(_ registration: ServiceRegistration) -> Bool {
    let hosts = registration.address.isEmpty ? ["127.0.0.1", "::1"] : [registration.address]
    return hosts.contains { tryConnect($0, registration.port, until: .after(.milliseconds(200))) == 0 }
  }

  /// Ends as the command did.
  private func leave() throws(Failure) {
    let name = options.command.first ?? ""
    if let signal = child.endSignal {
      // Of the others most would leave a second core file, and SIGKILL would look like an end of msctl's own.
      if [SIGTERM, SIGINT, SIGHUP, SIGPIPE].contains(signal) {
        throw Failure(.signal(signal), "ended by a signal")
      }
      throw Failure(
        .command(128 + signal), "'\(name)' was terminated by signal \(signal) (\(String(cString: strsignal(signal))))")
    }
    if let status = child.status, status != 0 {
      throw Failure(.command(status), "'\(name)' exited with \(status)")
    }
  }
}
