import Glibc
import MsctlCore

/// The command of `--exec`, which is told of every change: runs it when its `ChangeRuns` says so.
final class ChangeCommand: LoopMember {
  private let command: String
  private let environment: [String: String]
  private let console: Console
  private var machine = ChangeRuns(SplitMix())
  private var child: ChildProcess?
  /// What it is to read, and what is left of that for the one that runs.
  private var text: [UInt8] = []
  private var input: ArraySlice<UInt8> = []
  private var hasChanged = false

  init(_ command: String, _ environment: [String: String], _ console: Console) {
    self.command = command
    self.environment = environment
    self.console = console
  }

  /// Whether it was told to finish, and nothing runs any more.
  var isOver: Bool { machine.isOver }

  var wakeTime: Deadline { min(machine.wakeTime, child?.wakeTime ?? .never) }

  func addInterests(to polls: inout PollSet) {
    if let child, child.input >= 0 { polls.add(child.input, for: POLLOUT) }
  }

  /// Who runs the loop calls `work()`.
  func proceed() {}

  /// Something has changed: this is what the command is to read.
  func tell(_ text: [UInt8]) {
    self.text = text
    hasChanged = true
  }

  /// Lets what runs come to its end; nothing more is run.
  func finish() {
    var actions: [ChangeRuns.Action] = []
    machine.handle(.finish, at: .now, into: &actions)
  }

  /// Starts what is due, feeds what runs, and takes in how it ended.
  /// - Throws: what no other run can mend: the command is not there.
  func work() throws(Failure) {
    if hasChanged { try handle(.changed) }
    hasChanged = false
    if let child {
      feed(child)
      child.checkEnd()
      if let status = child.status {
        self.child = nil
        if child.wasKilled { console.note(.killed(command: command)) }
        if let error = SpawnError(command, shellStatus: status) {
          try handle(.cannotRun)
          throw error.failure
        }
        try handle(.ended(status))
      }
    }
    try handle(.tick)
  }

  private func handle(_ event: ChangeRuns.Event) throws(Failure) {
    var actions: [ChangeRuns.Action] = []
    machine.handle(event, at: .now, into: &actions)
    for action in actions {
      switch action {
      case .run: try run()
      case .terminate: child?.terminate()
      case .note(.failed(let status, let pause)):
        console.report(Failure(.changeCommandFailed(command, status, again: pause)))
      }
    }
  }

  private func run() throws(Failure) {
    input = text[...]
    let new: ChildProcess
    do { new = try ChildProcess(shell: command, environment: environment, readsOutput: false) } catch {
      try handle(.cannotRun)
      throw error.failure
    }
    child = new
    feed(new)
  }

  private func feed(_ child: ChildProcess) {
    while !input.isEmpty {
      guard let count = child.write(input) else { break }
      if count == 0 { return }
      input = input.dropFirst(count)
    }
    child.closeInput()
  }
}
