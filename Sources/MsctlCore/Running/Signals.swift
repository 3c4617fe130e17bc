import CPosix
import Glibc

/// Where the handler leaves a signal's number. A handler may touch nothing but such a global.
nonisolated(unsafe) private var pipeEnd: Int32 = -1

/// Turns signals into bytes on a descriptor, so that a loop waits for them beside everything else (the self-pipe trick).
package final class Signals {
  /// Whether signals are caught. Something is owed then (a message, a registration, a file), so that nothing may be waited for
  /// without an end.
  nonisolated(unsafe) package private(set) static var areCaught = false
  nonisolated(unsafe) private static weak var current: Signals?

  package let descriptor: Int32

  /// Catches the signals that end a command for the rest of the process: the first ends it cleanly, a second one of the
  /// same kind at once.
  /// - Parameters:
  ///   - children: the end of a child wakes a wait on the descriptor as well.
  ///   - passing: every signal that a program may be sent is caught, each time: for who passes them on.
  package init(children: Bool = false, passing: Bool = false) {
    let signals =
      [SIGINT, SIGTERM, SIGHUP] + (children ? [SIGCHLD] : []) + (passing ? [SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH] : [])
    var ends: [Int32] = [-1, -1]
    pipe2(&ends, O_CLOEXEC | O_NONBLOCK)
    descriptor = ends[0]
    pipeEnd = ends[1]
    var caught = sigset_t()
    sigemptyset(&caught)
    for signal in signals {
      var action = sigaction()
      sigaction(signal, nil, &action)
      // Ignored by who started us (nohup, a background job of a script): that stays so.
      if unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 1 { continue }
      sigaddset(&caught, signal)
      action = sigaction()
      action.__sigaction_handler.sa_handler = { number in
        let saved = errno
        var byte = UInt8(truncatingIfNeeded: number)
        _ = write(pipeEnd, &byte, 1)
        errno = saved
      }
      action.sa_flags =
        signal == SIGCHLD ? Int32(SA_NOCLDSTOP) : passing ? 0 : Int32(bitPattern: UInt32(SA_RESETHAND))
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
    var byte: UInt8 = 0
    while read(descriptor, &byte, 1) == 1 {
      if Int32(clamping: byte) != SIGCHLD { return Int32(clamping: byte) }
    }
    return nil
  }

  /// Waits until a descriptor is ready, for those who wait for nothing else: a signal that is caught ends the wait.
  /// - Parameter descriptor: nil waits for the deadline alone.
  /// - Throws: `signal`, where one has come.
  package static func wait(
    for descriptor: Int32?, _ events: Int32 = POLLIN, until deadline: Deadline = .never
  ) throws(Failure) {
    while true {
      if let number = current?.take() { throw Failure(.signal(number), "interrupted") }
      var polls = PollSet()
      let place = descriptor.map { polls.add($0, for: events) }
      if let current { polls.add(current.descriptor) }
      polls.wait(until: deadline)
      if let place, polls.isReady(place) { return }
      if deadline.isPast { return }
    }
  }
}
