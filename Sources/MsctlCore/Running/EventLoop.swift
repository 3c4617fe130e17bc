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
  /// As `proceed()`, for one that is to know at which of its descriptors something has happened.
  func proceed(after polls: PollSet)
}

extension LoopMember {
  package func proceed(after polls: PollSet) { proceed() }
}

/// The one place that waits, for all members at once. They go on in the order in which they were added: who uses another member
/// comes after it.
package final class EventLoop {
  private var members: [any LoopMember]
  /// Whether a member was added that has not gone on yet.
  private var hasNew = false
  /// Kept for its memory.
  private var polls = PollSet()

  package init(_ members: any LoopMember...) { self.members = members }

  package func add(_ member: any LoopMember) {
    members.append(member)
    hasNew = true
  }

  package func remove(_ member: any LoopMember) { members.removeAll { $0 === member } }

  /// Waits until something has happened for one of the members, at most until the deadline, and lets all of them go on.
  package func turn(until deadline: Deadline = .never) {
    // A member may add or remove others.
    let members = members
    var polls = PollSet()
    swap(&polls, &self.polls)
    polls.removeAll()
    // What a new member waits for may have come already, while the others went on.
    var deadline = hasNew ? .now : deadline
    hasNew = false
    for member in members {
      member.addInterests(to: &polls)
      deadline = min(deadline, member.wakeTime)
    }
    polls.wait(until: deadline)
    for member in members { member.proceed(after: polls) }
    swap(&polls, &self.polls)
  }
}

/// Something that is asked and has an answer in the end, while the members of a loop go on.
package protocol LoopQuestion: AnyObject {
  associatedtype Answer
  /// When it goes on even if nothing comes.
  var wakeTime: Deadline { get }
  /// The answer; nil while there is none.
  func take() throws(Failure) -> Answer?
}

extension EventLoop {
  /// Turns until there is an answer.
  package func answer<Question: LoopQuestion>(to question: Question) throws(Failure) -> Question.Answer {
    while true {
      if let answer = try question.take() { return answer }
      turn(until: question.wakeTime)
    }
  }
}

/// A descriptor of which is to be known whether a read or a write would block.
package final class Readiness: LoopMember {
  private let descriptor: Int32
  private let events: Int32
  private var place: Int?
  /// Whether it is waited for.
  package var isWanted: Bool
  /// Whether something happened there when it was waited for last: there is data or room, the other end has closed, or it fails.
  package private(set) var isReady = false

  package init(_ descriptor: Int32, for events: Int32 = POLLIN, isWanted: Bool = true) {
    (self.descriptor, self.events, self.isWanted) = (descriptor, events, isWanted)
  }

  package var wakeTime: Deadline { .never }

  package func addInterests(to polls: inout PollSet) { place = isWanted ? polls.add(descriptor, for: events) : nil }

  package func proceed(after polls: PollSet) { isReady = place.map(polls.isReady) ?? false }

  package func proceed() {}
}

/// Wakes a loop from another thread: see eventfd(2).
package final class Bell: Sendable {
  /// Readable once it has been rung.
  package let descriptor: Int32

  package init() { descriptor = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK)) }

  deinit { if descriptor >= 0 { close(descriptor) } }

  package func ring() {
    var one: UInt64 = 1
    _ = write(descriptor, &one, MemoryLayout<UInt64>.size)
  }

  package func clear() {
    var count: UInt64 = 0
    _ = read(descriptor, &count, MemoryLayout<UInt64>.size)
  }
}

/// A thread with an event loop, for callers that must not wait, such as tasks. It starts with the first work. What belongs to the loop
/// is touched there alone.
package final class LoopThread: Sendable {
  private struct State {
    /// To be done on the thread.
    var work: [@Sendable (EventLoop) -> Void] = []
    var isOver = false
    /// Wakes the loop, once the thread has started.
    var bell: Bell?
  }

  /// Takes in the work.
  private final class Inbox: LoopMember {
    let loop: EventLoop
    let thread: LoopThread
    let bell: Bell
    var isOver = false

    init(_ loop: EventLoop, _ thread: LoopThread, _ bell: Bell) {
      (self.loop, self.thread, self.bell) = (loop, thread, bell)
    }

    var wakeTime: Deadline { .never }

    func addInterests(to polls: inout PollSet) { polls.add(bell.descriptor) }

    func proceed() {
      bell.clear()
      let (work, isOver) = thread.state.withLock { state in
        defer { state.work = [] }
        return (state.work, state.isOver)
      }
      for one in work { one(loop) }
      self.isOver = isOver
    }
  }

  private let state = Mutex(State())

  package init() {}

  /// Does the work on the thread, after what was handed in before.
  /// - Throws: where the thread cannot start: there are no more threads or descriptors.
  package func run(_ work: @escaping @Sendable (EventLoop) -> Void) throws(Failure) {
    try state.withLock { state throws(Failure) in
      if state.bell == nil { state.bell = try start() }
      state.work.append(work)
      state.bell?.ring()
    }
  }

  /// Does the work on the thread, and waits until it has resumed the continuation.
  package func result<Value: Sendable>(
    of work: @escaping @Sendable (EventLoop, CheckedContinuation<Value, any Error>) -> Void
  ) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
      do throws(Failure) { try run { loop in work(loop, continuation) } } catch { continuation.resume(throwing: error) }
    }
  }

  /// Ends the thread once all work that was handed in is done, and this after it. Does nothing where it has not started.
  package func stop(after last: @escaping @Sendable (EventLoop) -> Void = { _ in }) {
    state.withLock { state in
      guard let bell = state.bell else { return }
      state.work.append(last)
      state.isOver = true
      bell.ring()
    }
  }

  private func start() throws(Failure) -> Bell {
    let bell = Bell()
    guard bell.descriptor >= 0 else { throw Failure(.failed, .noEventLoop(errno)) }
    guard let thread = startThread({ self.turn(wokenBy: bell) }) else { throw Failure(.failed, .noEventLoop(EAGAIN)) }
    pthread_detach(thread)
    return bell
  }

  private func turn(wokenBy bell: Bell) {
    let loop = EventLoop()
    let inbox = Inbox(loop, self, bell)
    loop.add(inbox)
    while !inbox.isOver { loop.turn() }
  }
}
