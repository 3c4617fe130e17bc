import Foundation
import Synchronization

/// How a process ended, and what it wrote.
package struct Output: Sendable {
  /// The exit code, or 128 + the signal, as a shell shows it.
  package let status: Int32
  package let out: String
  package let err: String

  package var lines: [String] { out.split(separator: "\n").map(String.init) }
}

/// Runs the real binary in a scrubbed environment that names the private services.
package enum Tool {
  /// The binary under test: the release build where the variable names it, else the debug build beside the tests.
  package static let binary: String =
    ProcessInfo.processInfo.environment["MSCTL_TEST_BINARY"] ?? debugBinary

  /// The debug build, which is linked dynamically: a test can put functions of its own before the C library's.
  package static let debugBinary =
    URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("msctl").path

  /// Runs msctl to its end.
  package static func run(
    _ words: String..., input: String = "", environment: [String: String] = [:]
  ) async throws -> Output {
    try await RunningProcess(binary, words, input: input, environment: environment).end()
  }

  /// Runs a line of shell, in which `msctl` is the binary under test.
  package static func shell(
    _ line: String, input: String = "", environment: [String: String] = [:]
  ) async throws -> Output {
    try await RunningProcess("/bin/bash", ["-c", line], input: input, environment: environment).end()
  }

  /// Runs msctl with no descriptors but the standard ones, whatever the tests have open at the moment.
  package static func startBare(
    _ words: [String], environment: [String: String] = [:]
  ) throws -> RunningProcess {
    let script = #"for f in /proc/$$/fd/*; do n=${f##*/}; test $n -gt 2 && eval "exec $n>&-"; done; exec "$@""#
    return try RunningProcess("/bin/bash", ["-c", script, "bash", binary] + words, environment: environment)
  }

  /// Starts msctl and leaves it running.
  package static func start(
    _ words: String..., input: String? = nil, environment: [String: String] = [:]
  ) throws -> RunningProcess {
    try RunningProcess(binary, words, input: input, environment: environment)
  }
}

/// A process whose output is kept in files, so that no full pipe can ever stop it. It is killed when nobody holds it any more.
///
/// Foundation's own notices an end by a descriptor that other children inherit, and so not before they end, too.
package final class RunningProcess: Sendable {
  package let pid: pid_t
  private let folder: URL
  /// What feeds its standard input, where the test does that itself.
  private let feed: FileHandle?
  private let ended: AsyncStream<Int32>
  private let state = State()

  /// Shared with the thread that waits for the end.
  private final class State: Sendable {
    let isRunning = Mutex(true)
  }

  /// - Parameter input: what stands on standard input; nil: what `write` brings.
  package init(
    _ path: String, _ words: [String], input: String? = "", environment: [String: String] = [:]
  ) throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent("msctl-test-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let inherited = ProcessInfo.processInfo.environment
    let variables = [
      "PATH": URL(fileURLWithPath: Tool.binary).deletingLastPathComponent().path + ":" + (inherited["PATH"] ?? ""),
      "HOME": folder.path, "AMQP_URL": inherited["AMQP_URL"] ?? "",
      "CONSUL_HTTP_ADDR": inherited["CONSUL_HTTP_ADDR"] ?? "",
    ].merging(environment) { $1 }

    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    var ends: [Int32] = [-1, -1]
    if let input {
      let file = folder.appendingPathComponent("in")
      try Descriptors.withoutChildren { try Data(input.utf8).write(to: file) }
      posix_spawn_file_actions_addopen(&actions, 0, folder.path + "/in", O_RDONLY, 0)
      feed = nil
    } else {
      guard Descriptors.withoutChildren({ Descriptors.pipe(&ends) }) else { throw TestFailure("no pipe") }
      posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
      feed = FileHandle(fileDescriptor: ends[1], closeOnDealloc: true)
    }
    for (descriptor, name) in [(Int32(1), "out"), (2, "err")] {
      posix_spawn_file_actions_addopen(
        &actions, descriptor, folder.path + "/" + name, O_WRONLY | O_CREAT | O_APPEND, 0o644)
    }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

    let line: [UnsafeMutablePointer<CChar>?] = ([path] + words).map { strdup($0) } + [nil]
    let pairs: [UnsafeMutablePointer<CChar>?] = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for text in line + pairs { free(text) } }
    var pid: pid_t = 0
    let code = Descriptors.withoutChildren { posix_spawn(&pid, path, &actions, &attributes, line, pairs) }
    if ends[0] >= 0 { close(ends[0]) }
    guard code == 0 else { throw TestFailure("cannot run \(path): \(String(cString: strerror(code)))") }
    self.pid = pid
    let (stream, continuation) = AsyncStream<Int32>.makeStream()
    ended = stream
    Thread.detachNewThread { [pid, state] in
      // The number stays this process's until it is taken here, so that no signal can go astray.
      var information = siginfo_t()
      while waitid(P_PID, id_t(pid), &information, Int32(WEXITED) | WNOWAIT) < 0, errno == EINTR {}
      let raw = state.isRunning.withLock { isRunning in
        isRunning = false
        var raw: Int32 = 0
        waitpid(pid, &raw, 0)
        return raw
      }
      continuation.yield(raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + (raw & 0x7F))
      continuation.finish()
    }
  }

  deinit {
    signal(SIGKILL)
    try? FileManager.default.removeItem(at: folder)
  }

  package var outputPath: String { folder.path + "/out" }
  package var out: String { text("out") }
  package var err: String { text("err") }

  /// Adds to standard input.
  package func write(_ text: String) throws {
    try feed?.write(contentsOf: Data(text.utf8))
  }

  package func closeInput() throws {
    try feed?.close()
  }

  package var isRunning: Bool { state.isRunning.withLock { $0 } }

  package func signal(_ number: Int32) {
    state.isRunning.withLock { if $0 { kill(pid, number) } }
  }

  /// Waits for the end.
  package func end() async throws -> Output {
    for await status in ended { return Output(status: status, out: out, err: err) }
    throw TestFailure("the end of a process can be waited for once")
  }

  private func text(_ name: String) -> String {
    String(decoding: (try? Data(contentsOf: folder.appendingPathComponent(name))) ?? Data(), as: UTF8.self)
  }
}

/// Descriptors that no other process may inherit: one that does would keep a connection or a pipe open for as long as it lives.
enum Descriptors {
  private static let lock = Mutex(())

  /// No process is started meanwhile.
  static func withoutChildren<T>(_ body: () throws -> T) rethrows -> T { try lock.withLock { _ in try body() } }

  /// A socket that listens, without `port` on one of its own.
  static func listener(on port: Int = 0) throws -> (descriptor: Int32, port: Int) {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var yes: Int32 = 1
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, 4)
    var address = loopback(port)
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let bound = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(listener, raw, length) == 0 && listen(listener, 128) == 0 && getsockname(listener, raw, &length) == 0
      }
    }
    guard bound else {
      close(listener)
      throw TestFailure("cannot listen")
    }
    return (listener, Int(UInt16(bigEndian: address.sin_port)))
  }

  /// The next connection; nil once the listener is shut down.
  static func accept(_ listener: Int32) -> Int32? {
    while true {
      var waiting = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
      poll(&waiting, 1, -1)
      let (connection, code) = withoutChildren {
        let connection = Foundation.accept(listener, nil, nil)
        let code = errno
        if connection >= 0 { _ = fcntl(connection, F_SETFD, FD_CLOEXEC) }
        return (connection, code)
      }
      if connection >= 0 { return connection }
      // EINVAL: the listener is shut down. Anything else (a client that is gone again, no descriptor left) passes.
      if [EINVAL, EBADF, ENOTSOCK].contains(code) { return nil }
      usleep(1000)
    }
  }

  /// A connection to a port of this machine.
  static func connect(_ port: Int) -> Int32? {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = loopback(port)
    let code = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        Foundation.connect(descriptor, raw, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    if code == 0 { return descriptor }
    close(descriptor)
    return nil
  }

  private static func loopback(_ port: Int) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    address.sin_port = UInt16(port).bigEndian
    return address
  }

  static func pipe(_ ends: inout [Int32]) -> Bool {
    guard Foundation.pipe(&ends) == 0 else { return false }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    return true
  }
}

package struct TestFailure: Error, CustomStringConvertible {
  package let description: String

  package init(_ description: String) {
    self.description = description
  }
}

/// Whether something is done within a time. A busy machine may be too slow for it now and then, so it is tried again: to be in time
/// once is proof.
package func isInTime(_ limit: Duration, _ measure: () async throws -> Duration) async rethrows -> Bool {
  for _ in 0..<5 {
    if try await measure() < limit { return true }
  }
  return false
}

/// Waits until something is true. The deadline only ends a test that has failed: no machine is too slow for it.
package func eventually(
  _ what: String, within seconds: Double = 180, _ condition: () async throws -> Bool
) async throws {
  let deadline = Date(timeIntervalSinceNow: seconds)
  while try await !condition() {
    guard Date() < deadline else { throw TestFailure("never came true: \(what)") }
    try await Task.sleep(for: .milliseconds(20))
  }
}
