import CPosix
import Glibc

/// Where the handler leaves a signal's number. A handler may touch nothing but such a global.
nonisolated(unsafe) private var pipeEnd: Int32 = -1
/// The signals that have come, a bit for each.
nonisolated(unsafe) private var signalsSeen: UInt64 = 0
/// The process groups of our children, for the handler; 0 is a free place.
nonisolated(unsafe) private var groups: UnsafeMutablePointer<pid_t>?
/// More children than any verb runs at a time.
private let groupLimit = 2048

/// The process groups that must not outlive msctl when a second signal ends it at once.
enum ProcessGroups {
  /// Starts a process and notes its group. A signal comes before that or after it.
  /// - Parameter start: returns the process's number; 0 where it was not started.
  static func start(_ start: () -> pid_t) -> pid_t {
    var (all, old) = (sigset_t(), sigset_t())
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &old)
    defer { pthread_sigmask(SIG_SETMASK, &old, nil) }
    let pid = start()
    if let groups, pid != 0, let place = (0..<groupLimit).first(where: { groups[$0] == 0 }) { groups[place] = pid }
    return pid
  }

  /// Whether it is one of ours, and not reaped.
  static func contains(_ pid: pid_t) -> Bool {
    guard let groups else { return false }
    return (0..<groupLimit).contains { groups[$0] == pid }
  }

  static func remove(_ pid: pid_t) {
    if let groups, let place = (0..<groupLimit).first(where: { groups[$0] == pid }) { groups[place] = 0 }
  }
}

/// The paths of files that must not stay when a second signal ends msctl at once; a path that begins with 0 is a free place.
nonisolated(unsafe) private var drafts: UnsafeMutablePointer<CChar>?
/// More files than any verb writes at a time.
private let draftLimit = 8
private let pathSize = Int(PATH_MAX)

/// The files that are not whole yet, under names of their own.
package enum DraftFiles {
  /// Notes one that is about to be created.
  package static func add(_ path: UnsafePointer<CChar>) {
    let length = strlen(path)
    if drafts == nil {
      drafts = .allocate(capacity: draftLimit * pathSize)
      drafts?.initialize(repeating: 0, count: draftLimit * pathSize)
    }
    guard length > 0, length < pathSize, let place = places.first(where: { $0.pointee == 0 }) else { return }
    // A signal may come at any moment: it is there with its first byte.
    strcpy(place + 1, path + 1)
    place.pointee = path.pointee
  }

  /// It is in its place, or removed.
  package static func remove(_ path: UnsafePointer<CChar>) {
    places.first { strcmp($0, path) == 0 }?.pointee = 0
  }

  fileprivate static var places: [UnsafeMutablePointer<CChar>] {
    guard let drafts else { return [] }
    return (0..<draftLimit).map { drafts + $0 * pathSize }
  }
}

/// Wakes the wait on the pipe.
private func note(_ number: Int32) {
  let saved = errno
  var byte = UInt8(truncatingIfNeeded: number)
  _ = write(pipeEnd, &byte, 1)
  errno = saved
}

/// The first signal of its kind; at a second one, ends the process and all that it has started.
private func noteOnce(_ number: Int32) {
  let bit: UInt64 = 1 << UInt64(truncatingIfNeeded: number)
  guard signalsSeen & bit != 0 else {
    signalsSeen |= bit
    return note(number)
  }
  if let groups { for place in 0..<groupLimit where groups[place] != 0 { kill(-groups[place], SIGKILL) } }
  if let drafts {
    for place in 0..<draftLimit where drafts[place * pathSize] != 0 { unlink(drafts + place * pathSize) }
  }
  // It is blocked until the handler returns.
  signal(number, SIG_DFL)
  raise(number)
  if Signals.isFirstProcess { _exit(128 + number) }
}

/// Turns signals into bytes on a descriptor, so that a loop waits for them beside everything else (the self-pipe trick).
package final class Signals {
  /// Whether signals are caught. Something is owed then (a message, a registration, a file), so that nothing may be waited for
  /// without an end.
  nonisolated(unsafe) package private(set) static var areCaught = false
  nonisolated(unsafe) private static weak var current: Signals?

  /// Whether this is the first process of a PID namespace, as in a container: the kernel keeps signals from it that it does not
  /// catch, and it inherits the children of all others.
  static var isFirstProcess: Bool { getpid() == 1 }

  package let descriptor: Int32
  private let reaps: Bool

  /// Catches the signals that end a command for the rest of the process: the first ends it cleanly, a second one of the
  /// same kind at once, and what it has started is killed then.
  /// - Parameters:
  ///   - children: the end of a child wakes a wait on the descriptor as well.
  ///   - passing: every signal that a program may be sent is caught, each time: for who passes them on.
  package init(children: Bool = false, passing: Bool = false) {
    let signals =
      [SIGINT, SIGTERM, SIGHUP] + (children ? [SIGCHLD] : []) + (passing ? [SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH] : [])
    var ends: [Int32] = [-1, -1]
    pipe2(&ends, O_CLOEXEC | O_NONBLOCK)
    descriptor = ends[0]
    reaps = children && Self.isFirstProcess
    pipeEnd = ends[1]
    if groups == nil {
      groups = .allocate(capacity: groupLimit)
      groups?.initialize(repeating: 0, count: groupLimit)
    }
    var caught = sigset_t()
    sigemptyset(&caught)
    for signal in signals {
      // That stays so; but with SIGCHLD ignored the end of a child could not be known.
      if signal != SIGCHLD, Self.isIgnored(signal) { continue }
      sigaddset(&caught, signal)
      var action = sigaction()
      if signal == SIGCHLD || passing {
        action.__sigaction_handler.sa_handler = { note($0) }
      } else {
        action.__sigaction_handler.sa_handler = { noteOnce($0) }
      }
      action.sa_flags = signal == SIGCHLD ? Int32(SA_NOCLDSTOP) : 0
      sigaction(signal, &action, nil)
    }
    Self.areCaught = true
    Self.current = self
    // Some parents start their children with signals blocked; a command that no Ctrl-C can end would be a trap.
    pthread_sigmask(SIG_UNBLOCK, &caught, nil)
  }

  deinit {
    close(descriptor)
  }

  /// The ending signal that came first and has not been taken yet.
  package func take() -> Int32? {
    if reaps { reapOrphans() }
    var byte: UInt8 = 0
    while read(descriptor, &byte, 1) == 1 {
      if Int32(clamping: byte) != SIGCHLD { return Int32(clamping: byte) }
    }
    return nil
  }

  /// Lets go of what others have left behind that has ended.
  private func reapOrphans() {
    while true {
      var information = siginfo_t()
      waitid(P_ALL, 0, &information, Int32(WEXITED) | WNOHANG | WNOWAIT)
      let pid = information._sifields._sigchld.si_pid
      // A child of our own is reaped by who holds it. The others behind it come at the next turn.
      guard pid != 0, !ProcessGroups.contains(pid) else { return }
      var ignored: Int32 = 0
      waitpid(pid, &ignored, WNOHANG)
    }
  }

  /// Gives the signals that end a process their effect where it is the first of a PID namespace, for as long as nobody catches
  /// them.
  package static func endFirstProcess() {
    guard isFirstProcess else { return }
    for number in [SIGINT, SIGTERM, SIGHUP] where !isIgnored(number) { signal(number) { _exit(128 + $0) } }
  }

  /// Ignored by who started us (nohup, a background job of a script).
  private static func isIgnored(_ number: Int32) -> Bool {
    var action = sigaction()
    sigaction(number, nil, &action)
    return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 1
  }

  /// Waits until a descriptor is ready, for those who wait for nothing else: a signal that is caught ends the wait.
  /// - Parameter descriptor: nil waits for the deadline alone.
  /// - Throws: `signal`, where one has come.
  package static func wait(
    for descriptor: Int32?, _ events: Int32 = POLLIN, until deadline: Deadline = .never
  ) throws(Failure) {
    let readiness = Readiness(descriptor ?? -1, for: events, isWanted: descriptor != nil)
    try wait(for: readiness, until: deadline) { !readiness.isReady }
  }

  /// Lets a member go on alone, for as long as the condition holds, at most until the deadline.
  /// - Throws: `signal`, where one that is caught has come.
  package static func wait(
    for member: any LoopMember, until deadline: Deadline = .never, while isBusy: () -> Bool
  ) throws(Failure) {
    let loop = EventLoop(member)
    if let current { loop.add(current) }
    while true {
      if let number = current?.take() { throw .interrupted(by: number) }
      guard isBusy(), !deadline.isPast else { return }
      loop.turn(until: deadline)
    }
  }
}

/// Wakes the loop when a signal has come; who runs the loop takes it.
extension Signals: LoopMember {
  package var wakeTime: Deadline { .never }
  package func addInterests(to polls: inout PollSet) { polls.add(descriptor) }
  package func proceed() {}
}
