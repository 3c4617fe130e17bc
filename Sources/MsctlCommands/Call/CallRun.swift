import MsctlCore

/// What all calls of a command have in common.
final class CallRun {
  let options: Call.Options
  let http: HTTPClient
  let loop: EventLoop
  let console: Console
  let policy: RetryPolicy
  let driver: DirectoryDriver
  private let agent: ConsulAgent
  private let selection: ConsulAgent.Selection

  /// - Parameter request: what all calls send, but for URL and body.
  init(
    _ options: Call.Options, _ request: HTTPRequest, _ http: HTTPClient, _ console: Console
  ) throws(Failure) {
    self.options = options
    self.http = http
    loop = EventLoop(http)
    self.console = console
    policy = RetryPolicy(
      isIdempotent: options.sendsKey || request.isIdempotent, accepting: options.accepted, retrying: options.retried)
    selection = options.selection
    agent = try options.agent.agent(
      over: http, console, options.lookUp, timeout: options.connectTimeout == .zero ? nil : options.connectTimeout)
    var rules = ServiceDirectory.Options()
    rules.retries = options.retries
    rules.attemptTimeout = options.attemptTimeout
    rules.keepsOrder = options.near != nil
    driver = DirectoryDriver(rules, agent, selection, over: http) { console.note($0.text) }
  }

  // MARK: Look-ups

  /// When it goes on even if nothing comes.
  var wakeTime: Deadline { driver.wakeTime }

  /// What the look-ups found, for the calls with these numbers.
  func takeLookUps() -> [(number: Int, result: Result<[ServiceInstance], LookUpFailure>)] { driver.takeLookUps() }

  /// Takes one of the instances, as a call does.
  func choose(from instances: [ServiceInstance]) -> ServiceInstance? {
    var candidates = instances
    return driver.directory.choose(from: &candidates, at: .now)
  }

  /// Waits for the instances of a service.
  func instances(of name: String, path: String, until deadline: Deadline) throws(Failure) -> [ServiceInstance] {
    driver.want(name, by: 0, until: deadline)
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
