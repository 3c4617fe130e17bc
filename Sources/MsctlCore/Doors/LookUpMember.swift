/// A look-up that a caller of a ``ServiceClient`` waits for.
final class LookUpMember: LoopMember, @unchecked Sendable {
  private let service: String
  private let selection: ConsulAgent.Selection
  private var lookUp: ConsulLookUp?
  private weak var loop: EventLoop?
  private var continuation: CheckedContinuation<[ServiceInstance], any Error>?
  private var isCancelled = false

  init(_ service: String, _ selection: ConsulAgent.Selection) {
    (self.service, self.selection) = (service, selection)
  }

  func begin(
    _ agent: ConsulAgent, _ loop: EventLoop, _ continuation: CheckedContinuation<[ServiceInstance], any Error>
  ) {
    guard !isCancelled else { return continuation.resume(throwing: CancellationError()) }
    do { lookUp = try agent.beginInstances(of: service, selection, until: .never) } catch {
      return continuation.resume(throwing: error)
    }
    (self.loop, self.continuation) = (loop, continuation)
    loop.add(self)
  }

  func cancel() {
    isCancelled = true
    end(.failure(CancellationError()))
  }

  // MARK: The loop

  var wakeTime: Deadline { lookUp?.wakeTime ?? .never }

  func addInterests(to polls: inout PollSet) {}

  func proceed() {
    do { if let found = try lookUp?.take() { end(.success(found)) } } catch { end(.failure(error)) }
  }

  private func end(_ result: Result<[ServiceInstance], any Error>) {
    lookUp = nil
    loop?.remove(self)
    continuation.take()?.resume(with: result)
  }
}
