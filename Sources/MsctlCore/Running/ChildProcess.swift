import Glibc

/// A child process: a line of shell with pipes to its standard input and output, or a program with ours. It has a process
/// group of its own, so that Ctrl-C reaches it only through us. Owns the process and the pipes; when nobody holds it any more,
/// it is killed.
package final class ChildProcess {
  package let pid: pid_t
  /// What is written to its standard input, without blocking; -1 once it is closed.
  package private(set) var input: Int32
  /// Its standard output, read without blocking; -1 once it has ended.
  package private(set) var output: Int32
  /// How it ended: its exit code, or 128 + the signal; nil while it runs.
  package private(set) var status: Int32?
  /// The signal that ended it.
  package private(set) var endSignal: Int32?

  /// Starts `/bin/sh -c command`, with pipes.
  /// - Parameters:
  ///   - environment: the variables of the child, all of them.
  ///   - output: whether its standard output comes here; else it is ours.
  package convenience init(shell command: String, environment: [String: String], readsOutput: Bool = true)
    throws(Failure)
  {
    try self.init(["/bin/sh", "-c", command], environment, hasInput: true, hasOutput: readsOutput)
  }

  /// Starts a program, which is searched for in PATH, with our standard input and output. It does not get a terminal as its
  /// input: who reads from one in the background is stopped.
  /// - Throws: `command(127)` where it is not found, `command(126)` where it cannot be run.
  package convenience init(program words: [String], environment: [String: String]) throws(Failure) {
    try self.init(words, environment, hasInput: false, hasOutput: false)
  }

  private init(
    _ line: [String], _ environment: [String: String], hasInput: Bool, hasOutput: Bool
  ) throws(Failure) {
    var toChild: [Int32] = [-1, -1]
    var fromChild: [Int32] = [-1, -1]
    guard !hasInput || pipe(&toChild) == 0, !hasOutput || pipe(&fromChild) == 0 else {
      throw Failure(.failed, "cannot start a process: \(String(cString: strerror(errno)))")
    }
    for descriptor in toChild + fromChild where descriptor >= 0 { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }

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
    let variables: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0.key + "=" + $0.value) } + [nil]
    defer { for pointer in words + variables { free(pointer) } }
    let result = posix_spawnp(&pid, line[0], &actions, &attributes, words, variables)
    for descriptor in [toChild[0], fromChild[1]] where descriptor >= 0 { close(descriptor) }
    self.pid = pid
    input = toChild[1]
    output = fromChild[0]
    for descriptor in [input, output] where descriptor >= 0 { _ = fcntl(descriptor, F_SETFL, O_NONBLOCK) }
    guard result == 0 else {
      status = 126
      closeInput()
      closeOutput()
      throw result == ENOENT
        ? Failure(.command(127), "'\(line[0])' was not found")
        : Failure(.command(126), "'\(line[0])' could not be run: \(String(cString: strerror(result)).lowercased())")
    }
  }

  deinit {
    closeInput()
    closeOutput()
    if status == nil {
      kill(-pid, SIGKILL)
      var ignored: Int32 = 0
      waitpid(pid, &ignored, 0)
    }
  }

  /// Writes as much as goes.
  /// - Returns: how many bytes were taken; nil where the child reads no more.
  package func write(_ bytes: ArraySlice<UInt8>) -> Int? {
    guard input >= 0 else { return nil }
    let count = bytes.withUnsafeBytes { Glibc.write(input, $0.baseAddress, $0.count) }
    if count >= 0 { return count }
    return errno == EAGAIN || errno == EINTR ? 0 : nil
  }

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

  /// Looks whether the child has ended, without waiting.
  package func checkEnd() {
    guard status == nil else { return }
    var raw: Int32 = 0
    guard waitpid(pid, &raw, WNOHANG) == pid else { return }
    let signal = raw & 0x7F
    if signal != 0 { endSignal = signal }
    status = signal == 0 ? raw >> 8 & 0xFF : 128 + signal
  }

  /// Asks the whole process group to end.
  package func terminate() {
    if status == nil { signalGroup(SIGTERM) }
  }

  /// Sends a signal to the process group: also to those that the process has left behind.
  package func signalGroup(_ number: Int32) {
    kill(-pid, number)
  }

  private func closeOutput() {
    if output >= 0 { close(output) }
    output = -1
  }
}
