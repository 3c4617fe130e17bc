import CPosix
import Glibc

/// Why a process could not be started.
public struct SpawnError: Error, Equatable, Sendable {
  /// What could not be run; nil: no process could be started at all.
  public let command: String?
  /// The error number; nil where only a shell knows it.
  public let number: Int32?

  package init(_ command: String?, _ number: Int32?) {
    self.command = command
    self.number = number
  }

  /// A shell's word that a command was not found or cannot be run: then it does not help to run it again.
  package init?(_ command: String, shellStatus status: Int32) {
    switch status {
    case 126: self.init(command, nil)
    case 127: self.init(command, ENOENT)
    default: return nil
    }
  }

  /// Whether its arguments and environment are larger than the system takes.
  package var isTooLarge: Bool { number == E2BIG }

  package var failure: Failure {
    Failure(command == nil ? .failed : .command(number == ENOENT ? 127 : 126), .spawn(self))
  }
}

/// A child process: a line of shell with pipes to its standard input and output, or a program with ours. It has a process
/// group of its own, so that Ctrl-C reaches it only through us. Owns the process and the pipes; when nobody holds it any more,
/// it is killed.
package final class ChildProcess {
  /// How long a process group may take to end after it was asked to; then it is killed.
  package static let grace: Duration = .seconds(10)
  /// How long it is waited for after SIGKILL, which cannot end what is stuck in the kernel, and does not reach a descendant in a
  /// group of its own that holds the output.
  private static let lastWait: Duration = .seconds(1)

  /// How far its end has been pressed for.
  private enum Pressure {
    case none
    case asked(until: Deadline)
    case killed(until: Deadline)
    case abandoned
  }

  package let pid: pid_t
  /// What is written to its standard input, without blocking; -1 once it is closed.
  package private(set) var input: Int32
  /// Its standard output, read without blocking; -1 once it has ended.
  package private(set) var output: Int32
  /// How it ended: its exit code, or 128 + the signal; nil while it runs.
  package private(set) var status: Int32?
  /// The signal that ended it.
  package private(set) var endSignal: Int32?
  private var pressure = Pressure.none
  private var isReaped = false

  /// Starts `/bin/sh -c command`, with pipes.
  /// - Parameters:
  ///   - environment: the variables of the child, all of them.
  ///   - output: whether its standard output comes here; else it is ours.
  package convenience init(shell command: String, environment: [String: String], readsOutput: Bool = true)
    throws(SpawnError)
  {
    try self.init(["/bin/sh", "-c", command], environment, hasInput: true, hasOutput: readsOutput)
  }

  /// Starts a program, which is searched for in PATH, with our standard input and output. It does not get a terminal as its
  /// input: who reads from one in the background is stopped.
  /// - Throws: `command(127)` where it is not found, `command(126)` where it cannot be run.
  package convenience init(program words: [String], environment: [String: String]) throws(SpawnError) {
    try self.init(words, environment, hasInput: false, hasOutput: false)
  }

  private init(
    _ line: [String], _ environment: [String: String], hasInput: Bool, hasOutput: Bool
  ) throws(SpawnError) {
    var toChild: [Int32] = [-1, -1]
    var fromChild: [Int32] = [-1, -1]
    // Closed on exec from the first moment: another child that held an end would keep this one from its end of input.
    guard !hasInput || pipe2(&toChild, O_CLOEXEC) == 0, !hasOutput || pipe2(&fromChild, O_CLOEXEC) == 0 else {
      let number = errno
      for descriptor in toChild where descriptor >= 0 { close(descriptor) }
      throw SpawnError(nil, number)
    }

    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    if hasInput {
      posix_spawn_file_actions_adddup2(&actions, toChild[0], STDIN_FILENO)
    } else if isatty(STDIN_FILENO) == 1 {
      posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
    }
    if hasOutput { posix_spawn_file_actions_adddup2(&actions, fromChild[1], STDOUT_FILENO) }

    // The child gets the signals as a program expects them, whatever we have done with ours.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var defaults = sigset_t()
    sigfillset(&defaults)
    var mask = sigset_t()
    sigemptyset(&mask)
    posix_spawnattr_setsigdefault(&attributes, &defaults)
    posix_spawnattr_setsigmask(&attributes, &mask)
    posix_spawnattr_setpgroup(&attributes, 0)
    posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP))

    var pid: pid_t = 0
    let words: [UnsafeMutablePointer<CChar>?] = line.map { strdup($0) } + [nil]
    let variables: [UnsafeMutablePointer<CChar>?] = Self.entries(environment) + [nil]
    defer { for pointer in words + variables { free(pointer) } }
    var result: Int32 = 0
    pid = ProcessGroups.start {
      result = posix_spawnp(&pid, line[0], &actions, &attributes, words, variables)
      return result == 0 ? pid : 0
    }
    for descriptor in [toChild[0], fromChild[1]] where descriptor >= 0 { close(descriptor) }
    self.pid = pid
    input = toChild[1]
    output = fromChild[0]
    for descriptor in [input, output] where descriptor >= 0 { _ = fcntl(descriptor, F_SETFL, O_NONBLOCK) }
    guard result == 0 else {
      status = 126
      isReaped = true
      closeInput()
      closeOutput()
      throw SpawnError(line[0], result)
    }
  }

  /// The variables as a program gets them. One that is as in our own environment keeps its bytes, which need not be UTF-8.
  private static func entries(_ environment: [String: String]) -> [UnsafeMutablePointer<CChar>?] {
    var rest = environment
    var entries: [UnsafeMutablePointer<CChar>?] = []
    var own = environ
    while let entry = own.pointee {
      own += 1
      guard let sign = strchr(entry, Int32(UInt8(ascii: "="))) else { continue }
      let name = UnsafeRawBufferPointer(start: entry, count: UnsafePointer(sign) - UnsafePointer(entry))
      let key = String(decoding: name, as: UTF8.self)
      guard rest[key] == String(cString: sign + 1) else { continue }
      rest[key] = nil
      entries.append(strdup(entry))
    }
    return entries + rest.map { strdup($0.key + "=" + $0.value) }
  }

  deinit {
    closeInput()
    closeOutput()
    if status == nil {
      signalGroup(SIGKILL)
      // Nobody else waits for it any more; SIGKILL takes effect at once, but for what is stuck in the kernel.
      let (deadline, loop) = (Deadline.after(Self.lastWait), EventLoop())
      while status == nil, !deadline.isPast {
        checkEnd()
        loop.turn(until: .after(.milliseconds(1)))
      }
    }
    reap()
  }

  /// Writes as much as goes.
  /// - Returns: how many bytes were taken; nil where the child reads no more.
  package func write(_ bytes: ArraySlice<UInt8>) -> Int? {
    guard input >= 0 else { return nil }
    let count = bytes.withUnsafeBytes { Glibc.write(input, $0.baseAddress, $0.count) }
    if count >= 0 { return count }
    return errno == EAGAIN || errno == EINTR ? 0 : nil
  }

  /// Whether nobody reads its standard input any more: see pipe(7).
  package var isInputUnread: Bool {
    input >= 0 && PollSet.events(at: input) != 0
  }

  /// How many bytes of its input nobody has read yet.
  package var unreadInput: Int { input >= 0 ? Int(clamping: msctl_pipe_fill(input)) : 0 }

  /// Says that there is no more input.
  package func closeInput() {
    if input >= 0 { close(input) }
    input = -1
  }

  /// What the child has written since; empty where there is nothing yet, and `output` is -1 after its end.
  package func read() -> [UInt8] {
    guard output >= 0 else { return [] }
    var hasEnded = false
    let bytes = [UInt8](unsafeUninitializedCapacity: 64 << 10) { buffer, count in
      let got = Glibc.read(output, buffer.baseAddress, buffer.count)
      count = max(0, got)
      hasEnded = got == 0 || got < 0 && errno != EAGAIN && errno != EINTR
    }
    if hasEnded { closeOutput() }
    return bytes
  }

  // MARK: The end

  /// Looks whether the child has ended, without waiting, and goes on pressing for its end where it was asked to.
  package func checkEnd() {
    if status == nil {
      // Its number stays its own until `reap`, so that no signal to its group can reach another.
      var information = siginfo_t()
      if waitid(P_PID, id_t(pid), &information, Int32(WEXITED) | WNOHANG | WNOWAIT) == 0,
        information._sifields._sigchld.si_pid == pid
      {
        let value = information._sifields._sigchld.si_status
        let hasExited = information.si_code == Int32(CLD_EXITED)
        if !hasExited { endSignal = value }
        status = hasExited ? value & 0xFF : 128 + value
      }
    }
    guard !isOver else { return }
    switch pressure {
    case .asked(let until) where until.isPast:
      signalGroup(SIGKILL)
      pressure = .killed(until: .after(Self.lastWait))
    case .killed(let until) where until.isPast:
      pressure = .abandoned
      closeInput()
      closeOutput()
      if status == nil {
        status = 128 + SIGKILL
        endSignal = SIGKILL
      }
    default: break
    }
  }

  /// Whether it has ended and nothing more can come from it.
  private var isOver: Bool { status != nil && output < 0 }

  /// When `checkEnd` is due although nothing else has happened.
  package var wakeTime: Deadline {
    switch pressure {
    case .asked(let until) where !isOver, .killed(let until) where !isOver: until
    default: .never
    }
  }

  /// Whether it did not end when it was asked to.
  package var wasKilled: Bool {
    switch pressure {
    case .none, .asked: false
    case .killed, .abandoned: true
    }
  }

  /// Asks the whole process group to end. What does not within the grace is killed, and given up a moment later: so that every
  /// end has a bound.
  package func terminate(with number: Int32 = SIGTERM) {
    guard !isOver else { return }
    signalGroup(number)
    // What is stopped acts on no other signal.
    signalGroup(SIGCONT)
    if case .none = pressure { pressure = .asked(until: .after(Self.grace)) }
  }

  /// Sends a signal to the process group: also to those that the process has left behind.
  package func signalGroup(_ number: Int32) {
    kill(-pid, number)
  }

  /// Whether nothing is left of its process group. Asked after its own end.
  package var isGroupGone: Bool {
    reap()
    return kill(-pid, 0) != 0
  }

  private func reap() {
    guard !isReaped else { return }
    isReaped = true
    ProcessGroups.remove(pid)
    var ignored: Int32 = 0
    waitpid(pid, &ignored, WNOHANG)
  }

  private func closeOutput() {
    if output >= 0 { close(output) }
    output = -1
  }
}
