/// Keeps up with the instances of a service, for an iteration over ``ServiceClient/Instances``. Touched on the loop's thread alone.
final class WatchMember: LoopMember, @unchecked Sendable {
  private let service: String
  private let selection: ConsulAgent.Selection
  private let accepts: @Sendable (HealthStatus) -> Bool
  private var watch: ConsulWatch?
  private weak var loop: EventLoop?
  private let stream: AsyncThrowingStream<[ServiceInstance], any Error>.Continuation
  /// Whether nobody iterates any more.
  private var isOver = false

  init(
    _ service: String, _ selection: ConsulAgent.Selection, where accepts: @escaping @Sendable (HealthStatus) -> Bool,
    _ stream: AsyncThrowingStream<[ServiceInstance], any Error>.Continuation
  ) {
    (self.service, self.selection, self.accepts, self.stream) = (service, selection, accepts, stream)
  }

  func begin(_ agent: ConsulAgent, _ loop: EventLoop) {
    guard !isOver else { return }
    watch = ConsulWatch(agent, service: service, selection, where: accepts)
    self.loop = loop
    loop.add(self)
  }

  func end() {
    isOver = true
    watch = nil
    loop?.remove(self)
  }

  // MARK: The loop

  var wakeTime: Deadline { watch?.wakeTime ?? .never }

  func addInterests(to polls: inout PollSet) {}

  func proceed() {
    guard let watch else { return }
    do throws(Failure) {
      if try watch.advance(), let instances = watch.instances { stream.yield(instances) }
    } catch {
      stream.finish(throwing: error)
      end()
    }
  }
}
