import CPosix
import Glibc
import Synchronization

/// Goes on whenever something has happened, and never waits by itself: a connection, a call, a child, a signal.
package protocol LoopMember: AnyObject {
  /// The descriptors at which something is to happen.
  func addInterests(to polls: inout PollSet)
  /// When it goes on even if nothing happens.
  var wakeTime: Deadline { get }
  /// Goes on as far as it can.
  func proceed()
}

/// The one place that waits, for all members at once.
package final class EventLoop {
  private var members: [any LoopMember] = []

  package init() {}

  package func add(_ member: any LoopMember) { members.append(member) }

  package func remove(_ member: any LoopMember) { members.removeAll { $0 === member } }

  /// Lets all members go on, and waits until something has happened for one of them, at most until the deadline.
  package func turn(until deadline: Deadline = .never) {
    // A member may add or remove others.
    for member in members { member.proceed() }
    var polls = PollSet()
    var deadline = deadline
    for member in members {
      member.addInterests(to: &polls)
      deadline = min(deadline, member.wakeTime)
    }
    polls.wait(until: deadline)
  }
}

/// A thread with an event loop, for callers that must not wait, such as tasks: what belongs to the loop is touched there alone.
package final class LoopThread: Sendable {
  /// Work that is to be done on the thread.
  private struct Queue {
    var work: [@Sendable (EventLoop) -> Void] = []
    var isOver = false
  }

  /// Takes in the work.
  private final class Inbox: LoopMember {
    let loop: EventLoop
    let thread: LoopThread
    var isOver = false

    init(_ loop: EventLoop, _ thread: LoopThread) { (self.loop, self.thread) = (loop, thread) }

    // What was read just now woke the loop for the last time.
    var wakeTime: Deadline { isOver ? .now : .never }

    func addInterests(to polls: inout PollSet) { polls.add(thread.descriptor) }

    func proceed() {
      var count: UInt64 = 0
      _ = read(thread.descriptor, &count, MemoryLayout<UInt64>.size)
      let (work, isOver) = thread.queue.withLock { queue in
        defer { queue.work = [] }
        return (queue.work, queue.isOver)
      }
      for one in work { one(loop) }
      self.isOver = isOver
    }
  }

  private let queue = Mutex(Queue())
  private let descriptor: Int32

  /// - Throws: where there are no more threads or descriptors.
  package init() throws(Failure) {
    descriptor = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
    guard descriptor >= 0 else { throw Failure(.failed, "no event loop: \(String(cString: strerror(errno)))") }
    guard let thread = startThread({ self.run() }) else { throw Failure(.failed, "no event loop: no more threads") }
    pthread_detach(thread)
  }

  deinit {
    close(descriptor)
  }

  /// Does the work on the thread, after what was handed in before.
  package func run(_ work: @escaping @Sendable (EventLoop) -> Void) {
    queue.withLock { $0.work.append(work) }
    wake()
  }

  /// Ends the thread once all work that was handed in is done.
  package func stop() {
    queue.withLock { $0.isOver = true }
    wake()
  }

  private func wake() {
    var one: UInt64 = 1
    _ = write(descriptor, &one, MemoryLayout<UInt64>.size)
  }

  private func run() {
    let loop = EventLoop()
    let inbox = Inbox(loop, self)
    loop.add(inbox)
    while !inbox.isOver { loop.turn() }
  }
}
