import Glibc

/// A registration that lives exactly as long as a caller's closure: see ``ServiceClient/register(_:drain:deregisterAfter:while:)``.
/// Touched on the loop's thread alone.
final class RegisteringMember: LoopMember, @unchecked Sendable {
  private let registration: ServiceRegistration
  private let options: HeldRegistration.Options
  private let deregisterAfter: Duration
  private weak var loop: EventLoop?
  /// Nil before it has begun, and once it is over.
  private var driver: RegistrationDriver?
  private var cancelBody: () -> Void = {}
  private var continuation: CheckedContinuation<Failure?, Never>?
  private var isCancelled = false
  private var hasBodyEnded = false

  init(_ registration: ServiceRegistration, drain: Duration, deregisterAfter: Duration) {
    (self.registration, self.deregisterAfter) = (registration, deregisterAfter)
    // The closure leaves nothing behind that would need a grace.
    options = .init(ttl: HeldRegistration.ttl, drain: drain, grace: .seconds(1))
  }

  /// - Parameters:
  ///   - continuation: gets in the end why the agent has refused the registration, if it has.
  ///   - cancelBody: asks the closure to end.
  func begin(
    _ agent: ConsulAgent, _ resolver: HostResolver, _ loop: EventLoop,
    _ continuation: CheckedContinuation<Failure?, Never>,
    cancelBody: @escaping () -> Void
  ) {
    guard !hasBodyEnded else { return continuation.resume(returning: nil) }
    (self.loop, self.continuation, self.cancelBody) = (loop, continuation, cancelBody)
    let driver = RegistrationDriver(
      registration, options, deregisterAfter: deregisterAfter, with: agent, resolver, on: loop)
    driver.perform = { [weak self] action in if case .terminate = action { self?.cancelBody() } }
    self.driver = driver
    loop.add(driver)
    loop.add(self)
    if isCancelled { cancel() }
  }

  /// The caller's task is cancelled.
  func cancel() {
    isCancelled = true
    driver?.handle(.signal(SIGTERM, isEnding: true))
  }

  /// The closure has returned or thrown.
  func bodyEnded() {
    hasBodyEnded = true
    driver?.handle(.commandEnded)
    driver?.handle(.groupEnded)
  }

  // MARK: The loop

  var wakeTime: Deadline { driver?.isOver ?? false ? .now : .never }

  func addInterests(to polls: inout PollSet) {}

  func proceed() {
    guard let driver, driver.isOver else { return }
    loop?.remove(driver)
    loop?.remove(self)
    self.driver = nil
    cancelBody = {}
    continuation.take()?.resume(returning: driver.refusal)
  }
}
