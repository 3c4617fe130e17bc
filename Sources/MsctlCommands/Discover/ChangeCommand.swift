import Glibc
import MsctlCore

/// Runs a command whenever something has changed: once it is quiet, never two at once, and again after a failure.
struct ChangeCommand {
  /// How long nothing may have changed before it is run, and how long a restless service can put that off.
  private static let quiet: Duration = .milliseconds(200)
  private static let longestDelay: Duration = .seconds(2)
  /// How long a command that runs may go on at the end, before it is asked to end.
  private static let grace: Duration = .seconds(5)

  private let command: String
  private let environment: [String: String]
  private let console: Console
  private var child: ChildProcess?
  private var input: ArraySlice<UInt8> = []
  /// What it is to be told, where it has not been.
  private var news: [UInt8]?
  private var quietEnd = Deadline.never
  private var latest = Deadline.never
  private var backoff = Backoff(from: .seconds(1), to: .seconds(30))
  private var told: [UInt8] = []

  init(_ command: String, _ environment: [String: String], _ console: Console) {
    self.command = command
    self.environment = environment
    self.console = console
  }

  var wakeTime: Deadline {
    if let child { return child.input >= 0 ? .after(.milliseconds(50)) : .never }
    return news == nil ? .never : min(quietEnd, latest)
  }

  /// Something has changed: this is what the command is to read.
  mutating func tell(_ text: [UInt8]) {
    if news == nil { latest = .after(Self.longestDelay) }
    news = text
    quietEnd = .after(Self.quiet)
  }

  /// Starts what is due, feeds what runs, and takes in how it ended.
  /// - Throws: what no other run can mend: the command is not there.
  mutating func work() throws(Failure) {
    if let child {
      feed(child)
      child.checkEnd()
      guard let status = child.status else { return }
      self.child = nil
      if let error = SpawnError(command, shellStatus: status) { throw error.failure }
      if status == 0 {
        backoff.reset()
      } else {
        let pause = max(.milliseconds(200), backoff.next())
        console.report(Failure(.changeCommandFailed(command, status, again: pause)))
        if news == nil {
          news = told
          latest = .never
          quietEnd = .after(pause)
        }
      }
    }
    guard let text = news, min(quietEnd, latest).isPast else { return }
    news = nil
    told = text
    input = text[...]
    let new: ChildProcess
    do { new = try ChildProcess(shell: command, environment: environment, readsOutput: false) } catch {
      throw error.failure
    }
    child = new
    feed(new)
  }

  /// Lets what runs come to its end. What does not is terminated, and killed in the end.
  mutating func finish() {
    guard let child else { return }
    let deadline = Deadline.after(Self.grace)
    var isAsked = false
    while true {
      feed(child)
      child.checkEnd()
      if child.status != nil { break }
      if deadline.isPast, !isAsked {
        isAsked = true
        child.terminate()
      }
      var polls = PollSet()
      if child.input >= 0 { polls.add(child.input, for: POLLOUT) }
      polls.wait(until: .after(.milliseconds(20)))
    }
    if child.wasKilled { console.note(.killed(command: command)) }
  }

  private mutating func feed(_ child: ChildProcess) {
    while !input.isEmpty {
      guard let count = child.write(input) else { break }
      if count == 0 { return }
      input = input.dropFirst(count)
    }
    child.closeInput()
  }
}
