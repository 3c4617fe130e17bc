import DequeModule
import MsctlCore

/// The real `MessageFilter`, and a process that keeps to what is asked of a filter, or does not.
final class SimulatedFilter: SimulatedHandler {
  enum Manner: CaseIterable {
    case sound
    /// It writes all of its lines at the end of its input.
    case holdsBack
    /// It dies after some answers.
    case dies
    /// It dies whenever it reads one of some messages.
    case dislikes
    case silent
    /// A line too many.
    case writesMore
    /// It has no line for some messages: it may, where lines name their messages.
    case leavesOut
    /// The same, and the lines that it writes come at the end of its input.
    case choosesAtLast
    /// It exits with 0 after some answers.
    case leaves
    /// It reads no more, and stays.
    case closesInput
    case closesOutput
    /// It exits, and somebody else holds its output.
    case leavesProcess
    /// It does not exit at the end of its input.
    case deaf
    case unrunnable
  }

  /// A line that is written then, as the answer to the message of that number; 0: to none.
  private struct Line {
    let number: Int
    let time: Deadline
  }

  private struct Process {
    let number: Int
    /// What it was given and has not answered.
    var read: [(number: Int, key: String)] = []
    var lines = Deque<Line>()
    var lastLine: Deadline
    var answersLeft: Int
    var hasEndOfInput = false
    var readsInput = true
    var closedOutput = Deadline.never
    /// When it exits, and with what.
    var exit: (time: Deadline, status: Int32)?
    var wasKilled = false
    var isTold = false

    func hasExited(_ now: Deadline) -> Bool { exit.map { $0.time <= now } ?? false }
  }

  private let timeline: Timeline
  private let choices: Choices
  private let story: Story
  private let manner: Manner
  private let slowness: Int
  /// How many messages its input takes.
  private let room: Int
  /// How many messages of a hundred are left out.
  private let leftOut: Int
  private let options: MessageFilter.Options
  /// Whether it gets more room as long as it is silent, and whether that was more than its input takes.
  private let getsRoom: Bool
  private var wasFull = false
  private var machine: MessageFilter
  private var process: Process?
  private var starts = 0
  private var keys: [Int: String] = [:]
  private var ids: [Int: ByteKey] = [:]
  /// Whose own line was written.
  private var written: Set<Int> = []
  private var settled: [Consumer.Settlement] = []
  private var failure: Failure?
  private var isTerminated = false
  /// How often a filter died with this content as the oldest that it had not answered.
  private var deaths: [String: Int] = [:]
  private(set) var rejected: [String: Int] = [:]
  private(set) var violation: Violation?

  init(
    _ chooses: Bool, _ plan: Consumer.Options, _ timeline: Timeline, _ choices: Choices, _ story: Story
  ) {
    (self.timeline, self.choices, self.story) = (timeline, choices, story)
    slowness = choices.pick(from: [1, 20, 300])
    leftOut = choices.pick(from: [20, 50])
    room = choices.pick(from: [50, 100, 200])
    manner =
      chooses && choices.chance(20)
      ? .choosesAtLast : choices.chance(50) ? choices.pick(from: Manner.allCases) : .sound
    var options = MessageFilter.Options()
    options.restarts = choices.chance(30)
    options.maxAttempts = options.restarts && !chooses ? choices.pick(from: [nil, 1, 3]) : nil
    options.matches = chooses
    options.isFinite = plan.limit != nil || plan.drains || plan.idle != nil || plan.time != nil
    options.mustReachEnd = plan.limit != nil || plan.drains
    options.window = plan.prefetch
    self.options = options
    getsRoom = plan.roomForSilence != nil
    machine = MessageFilter(options)
    process = begin()
  }

  var isReliable: Bool { manner == .sound || manner == .holdsBack && getsRoom && !wasFull }
  /// Whether it may leave out messages, which go back.
  var mayLeaveOut: Bool { options.matches }
  /// Whether its end may be put off for as long as it fails.
  var restarts: Bool { options.restarts }
  var unanswered: Int { keys.count }

  var state: Consumer.HandlerState {
    var state = machine.handlerState
    if process.map({ $0.read.count >= room }) ?? false { state.hasRoom = false }
    if failure != nil || !settled.isEmpty { state.isFinished = false }
    return state
  }

  var wakeTime: Deadline {
    if failure != nil || !settled.isEmpty { return timeline.now }
    var time = machine.wakeTime
    if let process, !process.isTold {
      time = min(time, process.lines.first?.time ?? .never, process.exit?.time ?? .never)
      if process.closedOutput > timeline.now { time = min(time, process.closedOutput) }
    }
    return time
  }

  func take(_ number: Int, _ key: String, _ delivery: AMQPDelivery) {
    keys[number] = key
    ids[number] = delivery.message.idKey
    handle(.taken(number, delivery), number)
  }

  func proceed(_ write: (_ number: Int, _ key: String) -> Void) -> Result<[Consumer.Settlement], Failure> {
    if let failure {
      self.failure = nil
      return .failure(failure)
    }
    let now = timeline.now
    if var process {
      while let line = process.lines.first, line.time <= now {
        process.lines.removeFirst()
        if line.time >= min(process.closedOutput, process.exit?.time ?? .never) { continue }
        process.read.removeAll { $0.number == line.number }
        self.process = process
        handle(.line(subject(line.number)), line.number, write)
        process = self.process ?? process
      }
      var shown = MessageFilter.Process()
      if let exit = process.exit, exit.time <= now { shown.status = exit.status }
      shown.wasKilled = process.wasKilled
      shown.readsInput = process.readsInput
      shown.hasOutput = process.closedOutput > now
      let isOver = shown.status != nil && !shown.hasOutput
      if isOver { noteDeath(process) }
      process.isTold = shown.status != nil
      self.process = isOver ? nil : process
      handle(.turn(shown), 0, write)
    } else {
      handle(.turn(nil), 0, write)
    }
    defer { settled = [] }
    if settled.isEmpty, let failure {
      self.failure = nil
      return .failure(failure)
    }
    return .success(settled)
  }

  func finish() {
    handle(.finish, 0)
    endInput()
  }

  func terminate() {
    isTerminated = true
    handle(.terminate, 0)
  }

  // MARK: What is decided

  private func handle(_ event: MessageFilter.Event, _ number: Int, _ write: (Int, String) -> Void = { _, _ in }) {
    var actions: [MessageFilter.Action] = []
    machine.handle(event, at: timeline.now, into: &actions)
    for action in actions {
      story.tell(timeline.now, "filter > \(action.told)")
      switch action {
      case .write(let number, _): read(number)
      case .passOn(let answered):
        if answered != number, options.matches || ![.leavesOut, .choosesAtLast, .writesMore].contains(manner) {
          violation = Violation("a line is the answer to its own message", "\(number)'s is taken for \(answered)'s")
        }
        written.insert(number)
        guard let key = keys.removeValue(forKey: answered) else {
          violation = Violation("a message is answered once", "\(answered)")
          return
        }
        deaths[key] = nil
        write(answered, key)
      case .acknowledge(let number):
        // A line too many cannot be told from a line of the next message, unless it comes in time. Nor is anything known of the lines
        // of a filter that is cut off at its work, in a run without an end.
        if !written.contains(number), options.matches || manner != .writesMore && (!isTerminated || options.isFinite) {
          violation = Violation("a message is acknowledged for a line of its own", "\(number)")
        }
        settled.append(.init(number, .acknowledge))
      case .reject(let number):
        let key = keys.removeValue(forKey: number) ?? ""
        if deaths[key, default: 0] < options.maxAttempts ?? .max {
          violation = Violation(
            "a message is rejected only after so many failures of its own", "\(key): \(deaths[key, default: 0])")
        }
        deaths[key] = nil
        rejected[key, default: 0] += 1
        settled.append(.init(number, .reject))
      case .start:
        if choices.chance(5) {
          handle(.notStarted(Failure(.failed, "no processes are left")), 0)
        } else {
          process = begin()
          handle(.started, 0)
          endInput()
        }
      case .terminate: end()
      case .note: break
      case .fail(let cause): failure = Failure(.command(1), "\(cause)")
      }
    }
  }

  // MARK: The process

  private func begin() -> Process {
    starts += 1
    var process = Process(number: starts, lastLine: timeline.now, answersLeft: .max)
    switch manner {
    case .dies, .closesInput, .closesOutput: process.answersLeft = choices.pick(6)
    case .leaves: process.answersLeft = choices.pick(1...6)
    case .unrunnable: process.exit = (timeline.now + choices.time(20), 127)
    case .writesMore where choices.chance(50):
      process.lines.append(Line(number: 0, time: timeline.now + choices.time(20)))
    default: break
    }
    if process.exit != nil { process.closedOutput = process.exit?.time ?? .never }
    return process
  }

  private func read(_ number: Int) {
    if let last = process?.read.last, last.number >= number {
      violation = Violation("a filter is given messages in their order", "\(number) after \(last.number)")
    }
    guard var process, process.readsInput, process.exit == nil, let key = keys[number] else { return }
    process.read.append((number, key))
    wasFull = wasFull || process.read.count >= room
    answer(number, key, &process)
    self.process = process
  }

  /// What a line says of its message.
  private func subject(_ number: Int) -> MessageFilter.Subject {
    guard options.matches else { return .next }
    guard number > 0 else { return choices.pick(from: [.unknown, .number(0)]) }
    guard let id = ids[number], keys.keys.count(where: { ids[$0] == id }) == 1, choices.chance(50) else {
      return .number(number)
    }
    return .id(id)
  }

  private func answer(_ number: Int, _ key: String, _ process: inout Process) {
    let time = max(process.lastLine, timeline.now + choices.time(slowness))
    process.lastLine = time
    if process.answersLeft == 0 {
      switch manner {
      case .closesInput: process.readsInput = false
      case .closesOutput: process.closedOutput = time
      default: exit(&process, 1, at: time)
      }
      return
    }
    process.answersLeft -= 1
    switch manner {
    case .silent, .holdsBack, .choosesAtLast: return
    case .dislikes where choices.chance(20): return exit(&process, 5, at: time)
    case .leavesOut where choices.chance(leftOut): return
    case .writesMore where choices.chance(20): process.lines.append(Line(number: 0, time: time))
    default: break
    }
    if manner == .leaves, process.answersLeft == 0 { exit(&process, 0, at: time + .milliseconds(1)) }
    guard options.matches, choices.chance(30) else { return process.lines.append(Line(number: number, time: time)) }
    // Before others.
    process.lines.append(Line(number: number, time: timeline.now + choices.time(slowness)))
    process.lines.sort { $0.time < $1.time }
  }

  private func exit(_ process: inout Process, _ status: Int32, at time: Deadline) {
    process.exit = (time, status)
    process.closedOutput = min(process.closedOutput, time)
  }

  private func endInput() {
    guard machine.isFinishing, var process, !process.hasEndOfInput else { return }
    process.hasEndOfInput = true
    let time = max(process.lastLine, timeline.now + choices.time(slowness))
    if manner == .holdsBack || manner == .choosesAtLast {
      for one in process.read where manner == .holdsBack || !choices.chance(leftOut) {
        process.lines.append(Line(number: one.number, time: time))
      }
    }
    if process.exit == nil {
      switch manner {
      case .deaf: break
      case .leavesProcess: process.exit = (time + .milliseconds(1), 0)
      case .closesInput where !process.readsInput: break
      default: exit(&process, 0, at: time + .milliseconds(1))
      }
    }
    self.process = process
  }

  /// It is told to end, and does so after a moment, or is killed after ten seconds.
  private func end() {
    guard var process else { return }
    let isDeaf = choices.chance(30)
    let time = timeline.now + (isDeaf ? .seconds(11) : choices.time(1000))
    if process.exit.map({ $0.time > time }) ?? true { process.exit = (time, isDeaf ? 137 : 143) }
    process.closedOutput = min(process.closedOutput, time)
    self.process = process
    let number = process.number
    timeline.at(time) { [self] in
      guard self.process?.number == number else { return }
      if isDeaf { self.process?.wasKilled = true }
      self.process?.isTold = false
    }
  }

  private func noteDeath(_ process: Process) {
    guard let oldest = keys.keys.min(), let key = keys[oldest] else { return }
    deaths[key, default: 0] += 1
    if let most = options.maxAttempts, deaths[key, default: 0] > most {
      violation = Violation("a message on which the filter dies is rejected after so many attempts", key)
    }
  }
}

extension MessageFilter.Action {
  fileprivate var told: String {
    switch self {
    case .write: "write"
    case .note(.rejected(_, let attempts, _)): "rejected after \(attempts)"
    default: "\(self)".split(separator: "MsctlCore.").joined()
    }
  }
}
