import MsctlCore

/// What all calls of a command have in common, and the driver of their directory: it carries out the look-ups.
final class CallRun {
  let options: Call.Options
  let http: HTTPClient
  let loop: EventLoop
  let console: Console
  let policy: RetryPolicy
  var directory: ServiceDirectory
  /// For the actions of a call, so that not each has an array of its own.
  var actions: [ServiceCall.Action] = []
  private let agent: ConsulAgent
  private let selection: ConsulAgent.Selection
  private var lookUps: [(name: String, lookUp: ConsulLookUp)] = []
  private var told: [(number: Int, result: Result<[ServiceInstance], LookUpFailure>)] = []
  private var generator = SplitMix()

  /// - Parameter request: what all calls send, but for URL and body.
  init(
    _ options: Call.Options, _ request: HTTPRequest, _ http: HTTPClient, _ console: Console
  ) throws(Failure) {
    self.options = options
    self.http = http
    loop = EventLoop(http)
    self.console = console
    policy = RetryPolicy(isIdempotent: options.sendsKey || request.isIdempotent)
    selection = options.selection
    agent = try options.agent.agent(
      over: http, console, options.lookUp, timeout: options.connectTimeout == .zero ? nil : options.connectTimeout)
    var rules = ServiceDirectory.Options()
    rules.retries = options.retries
    rules.attemptTimeout = options.attemptTimeout
    rules.keepsOrder = options.near != nil
    directory = ServiceDirectory(rules, SplitMix(seed: generator.next()))
  }

  /// Random numbers for one call.
  func split() -> SplitMix { SplitMix(seed: generator.next()) }

  // MARK: Look-ups

  /// When it goes on even if nothing comes.
  var wakeTime: Deadline {
    told.isEmpty ? lookUps.reduce(directory.wakeTime) { min($0, $1.lookUp.wakeTime) } : .now
  }

  /// Looks a service up for a call.
  func want(_ name: String, by number: Int, until deadline: Deadline) {
    handle(.wanted(name, by: number, until: deadline))
  }

  /// Moves the look-ups on.
  /// - Returns: what they found, for the calls with these numbers.
  func takeLookUps() -> [(number: Int, result: Result<[ServiceInstance], LookUpFailure>)] {
    if directory.wakeTime.isPast { handle(.tick) }
    // A look-up that ends may begin another.
    let running = lookUps
    for (name, lookUp) in running {
      do {
        guard let found = try lookUp.take() else { continue }
        lookUps.removeAll { $0.lookUp === lookUp }
        handle(.found(name, found))
      } catch {
        lookUps.removeAll { $0.lookUp === lookUp }
        handle(.failed(name, error))
      }
    }
    defer { told = [] }
    return told
  }

  private func handle(_ event: ServiceDirectory.Event) {
    var actions: [ServiceDirectory.Action] = []
    directory.handle(event, at: .now, into: &actions)
    for action in actions {
      switch action {
      case .lookUp(let name, let deadline):
        do { lookUps.append((name, try agent.beginInstances(of: name, selection, until: deadline))) } catch {
          handle(.failed(name, error))
        }
      case .tell(let numbers, let result): told += numbers.map { ($0, result) }
      case .note(let note): console.note(note.text)
      }
    }
  }

  /// Waits for the instances of a service.
  func instances(of name: String, path: String, until deadline: Deadline) throws(Failure) -> [ServiceInstance] {
    want(name, by: 0, until: deadline)
    while true {
      if let result = takeLookUps().first?.result {
        do { return try result.get() } catch { throw failure(error, name, path) }
      }
      loop.turn(until: wakeTime)
    }
  }

  func failure(_ cause: LookUpFailure, _ name: String, _ path: String) -> Failure {
    cause.failure(name, path, isNarrowed: selection.isNarrow, agent.address)
  }
}
