/// When a command runs that is to know of every change: once it is quiet, never twice at the same time, and again after a
/// failure. In the end what runs has a while to come to its own end.
///
/// It only decides. Whoever drives it hands in what has happened and carries out the actions, in their order.
package struct ChangeRuns: Sendable {
  /// How long nothing may have changed before it runs, and how long a restless service can put that off.
  package static let quiet: Duration = .milliseconds(200)
  package static let longestDelay: Duration = .seconds(2)
  /// The shortest pause after a failure.
  private static let floor: Duration = .milliseconds(200)
  /// How long a command that runs may go on at the end, before it is asked to end.
  package static let grace: Duration = .seconds(5)

  package enum Event: Sendable {
    case changed
    /// With this exit code.
    case ended(Int32)
    /// It is not there, which no other run can mend.
    case cannotRun
    /// No other run begins.
    case finish
    case tick
  }

  package enum Action: Sendable {
    /// Runs the command, which reads what is so now.
    case run
    /// Asks it to end; it is killed if it does not.
    case terminate
    case note(Note)
  }

  package enum Note: Sendable {
    case failed(Int32, again: Duration)
  }

  private struct Due {
    var quietEnd: Deadline
    var latest: Deadline

    var time: Deadline { min(quietEnd, latest) }
  }

  private enum State {
    case idle
    case waiting(Due)
    /// When it is to run again, where something has changed since it began.
    case running(next: Due?)
    case finishing(until: Deadline)
    case terminating
    case over
  }

  private var state = State.idle
  private var backoff = Backoff(from: .seconds(1), to: .seconds(30))
  private var generator: SplitMix

  package init(_ generator: SplitMix) {
    self.generator = generator
  }

  package var isOver: Bool { if case .over = state { true } else { false } }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline {
    switch state {
    case .waiting(let due): due.time
    case .finishing(let until): until
    case .idle, .running, .terminating, .over: .never
    }
  }

  package mutating func handle(_ event: Event, at now: Deadline, into actions: inout [Action]) {
    switch event {
    case .changed: change(at: now)
    case .ended(let status): end(status, at: now, into: &actions)
    case .cannotRun: state = .over
    case .finish:
      switch state {
      case .idle, .waiting: state = .over
      case .running: state = .finishing(until: now + Self.grace)
      case .finishing, .terminating, .over: break
      }
    case .tick: break
    }
    switch state {
    case .waiting(let due) where due.time <= now:
      state = .running(next: nil)
      actions.append(.run)
    case .finishing(let until) where until <= now:
      state = .terminating
      actions.append(.terminate)
    case .idle, .waiting, .running, .finishing, .terminating, .over: break
    }
  }

  private mutating func change(at now: Deadline) {
    func later(_ due: Due?) -> Due {
      Due(quietEnd: now + Self.quiet, latest: min(due?.latest ?? .never, now + Self.longestDelay))
    }
    switch state {
    case .idle: state = .waiting(later(nil))
    case .waiting(let due): state = .waiting(later(due))
    case .running(let next): state = .running(next: later(next))
    case .finishing, .terminating, .over: break
    }
  }

  private mutating func end(_ status: Int32, at now: Deadline, into actions: inout [Action]) {
    guard case .running(var next) = state else {
      state = .over
      return
    }
    if status == 0 {
      backoff.reset()
    } else {
      let pause = max(Self.floor, backoff.next(using: &generator))
      let due = next ?? Due(quietEnd: now + pause, latest: .never)
      next = due
      actions.append(.note(.failed(status, again: max(.zero, due.time - now))))
    }
    state = next.map { .waiting($0) } ?? .idle
  }
}
