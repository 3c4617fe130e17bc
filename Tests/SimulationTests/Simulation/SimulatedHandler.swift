import DequeModule
import MsctlCore

/// Who handles the messages of a run: standard output, one filter, or commands, as good and as bad as real ones.
final class SimulatedHandler {
  enum Filter: CaseIterable { case sound, dies, holdsBack, silent }

  private struct Work {
    let number: Int
    let key: String
    /// When it is done; a command that never ends by itself has none.
    let end: Deadline
    let outcome: Outcome
  }

  private enum Outcome { case done, requeue, reject, stop }

  private let handling: Consumer.Handling
  private let filter: Filter
  private let timeline: Timeline
  private let choices: Choices
  private let story: Story
  /// How many of a hundred commands fail.
  private let failures: Int
  private let slowness: Int
  private var work = Deque<Work>()
  private var delayed: [(work: Work, until: Deadline)] = []
  private var failure: Failure?
  private var answersLeft: Int
  private var isFinishing = false
  private var isOver = false
  private var isStopping = false
  private var lastEnd: Deadline
  /// How often each content was requeued because its command failed.
  private(set) var requeued: [String: Int] = [:]
  private(set) var rejected: [String: Int] = [:]

  init(_ handling: Consumer.Handling, _ timeline: Timeline, _ choices: Choices, _ story: Story) {
    (self.handling, self.timeline, self.choices, self.story) = (handling, timeline, choices, story)
    failures = handling.isCommands ? choices.pick(from: [0, 0, 20]) : 0
    slowness = choices.pick(from: [1, 20, 300])
    filter = choices.chance(30) ? choices.pick(from: Filter.allCases) : .sound
    answersLeft = filter == .dies ? choices.pick(6) : .max
    lastEnd = timeline.now
  }

  /// Whether it handles all that it is given, and soon.
  var isReliable: Bool { handling == .filter ? filter == .sound : handling == .output }

  var state: Consumer.HandlerState {
    switch handling {
    case .output:
      return .init(hasRoom: work.count < 16, isFinished: work.isEmpty)
    case .filter:
      return .init(hasRoom: !isOver && work.count < 50, isFinished: isOver && failure == nil, hasEnded: isOver)
    case .commands(let parallel):
      return .init(
        hasRoom: !isStopping && work.count < parallel, failed: delayed.count,
        isFinished: work.isEmpty && failure == nil)
    }
  }

  func take(_ number: Int, _ key: String) {
    var end = timeline.now + (handling == .output ? .zero : choices.time(slowness))
    if handling == .filter {
      end = max(lastEnd, end)
      lastEnd = end
    }
    if handling.isCommands, choices.chance(2) { end = .never }
    var outcome = Outcome.done
    if choices.chance(failures) { outcome = choices.pick(from: [.requeue, .reject, .stop]) }
    work.append(Work(number: number, key: key, end: end, outcome: outcome))
  }

  /// When something more is done.
  var wakeTime: Deadline {
    if failure != nil { return timeline.now }
    switch handling {
    case .output: return work.isEmpty ? .never : timeline.now
    case .filter:
      if isOver { return .never }
      if isFinishing, work.isEmpty { return timeline.now }
      switch filter {
      case .sound: return work.first?.end ?? .never
      case .dies: return answersLeft == 0 ? timeline.now : work.first?.end ?? .never
      case .holdsBack: return isFinishing ? timeline.now : .never
      case .silent: return .never
      }
    case .commands: return min(work.map(\.end).min() ?? .never, delayed.map(\.until).min() ?? .never)
    }
  }

  /// What has been done since, and what it says of that.
  /// - Parameter write: what it adds to the output.
  func proceed(_ write: (_ number: Int, _ key: String) -> Void) -> Result<[Consumer.Settlement], Failure> {
    if let failure {
      self.failure = nil
      return .failure(failure)
    }
    let now = timeline.now
    var settled: [Consumer.Settlement] = []
    switch handling {
    case .output:
      while let one = work.popFirst() {
        write(one.number, one.key)
        settled.append(.init(one.number, .acknowledge))
      }
    case .filter:
      guard !isOver else { return .success([]) }
      while let one = work.first, filter != .silent, answersLeft > 0 {
        if filter == .holdsBack ? !isFinishing : one.end > now { break }
        work.removeFirst()
        answersLeft -= 1
        write(one.number, one.key)
        settled.append(.init(one.number, .acknowledge))
      }
      if answersLeft == 0, settled.isEmpty {
        story.tell(now, "filter: dies with \(work.count) unanswered")
        isOver = true
        if !work.isEmpty || !isFinishing { return .failure(Failure(.command(1), "the filter exited with 1")) }
      } else if isFinishing, work.isEmpty, settled.isEmpty {
        isOver = true
      }
    case .commands:
      for one in work where one.end <= now {
        work.removeAll { $0.number == one.number }
        switch one.outcome {
        case .done:
          write(one.number, one.key)
          settled.append(.init(one.number, .acknowledge))
        case .requeue where !isStopping && !isFinishing:
          delayed.append((one, now + .milliseconds(200)))
        case .reject where !isStopping && !isFinishing:
          rejected[one.key, default: 0] += 1
          settled.append(.init(one.number, .reject))
        case .stop where !isStopping && !isFinishing:
          isStopping = true
          failure = Failure(.command(1), "the command exited with 1")
        default: break
        }
      }
      for (one, _) in delayed where delayed.contains(where: { $0.work.number == one.number && $0.until <= now }) {
        delayed.removeAll { $0.work.number == one.number }
        requeued[one.key, default: 0] += 1
        settled.append(.init(one.number, .requeue))
      }
    }
    return .success(settled)
  }

  func finish() {
    isFinishing = true
    delayed = []
  }

  /// Processes are told to end, and do so after a moment, with nothing more handled.
  func terminate() {
    isStopping = true
    let moment = choices.time(1000)
    timeline.after(moment) { [self] in
      if handling == .filter, !isOver {
        isOver = true
        if !work.isEmpty { failure = Failure(.command(143), "the filter exited with 143") }
      }
      if handling != .output { work = [] }
    }
  }
}

extension Consumer.Handling {
  var isCommands: Bool { if case .commands = self { true } else { false } }
}
