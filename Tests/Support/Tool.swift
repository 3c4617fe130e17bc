import Foundation

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
    ProcessInfo.processInfo.environment["MSCTL_TEST_BINARY"]
    ?? URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("msctl").path

  /// Runs msctl to its end.
  package static func run(
    _ words: String..., input: String = "", environment: [String: String] = [:]
  ) async throws -> Output {
    try await RunningProcess(binary, words, input: input, environment: environment).end()
  }

  /// Runs a line of shell, in which `msctl` is the binary under test.
  package static func shell(_ line: String, environment: [String: String] = [:]) async throws -> Output {
    try await RunningProcess("/bin/bash", ["-c", line], environment: environment).end()
  }

  /// Starts msctl and leaves it running.
  package static func start(
    _ words: String..., input: String? = nil, environment: [String: String] = [:]
  ) throws -> RunningProcess {
    try RunningProcess(binary, words, input: input, environment: environment)
  }
}

/// A process whose output is kept in files, so that no full pipe can ever stop it. It is killed when nobody holds it any more.
package final class RunningProcess: Sendable {
  private let process: Process
  private let folder: URL
  /// What feeds its standard input, where the test does that itself.
  private let feed: FileHandle?
  private let ended: AsyncStream<Int32>

  /// - Parameter input: what stands on standard input; nil: what `write` brings.
  package init(
    _ path: String, _ words: [String], input: String? = "", environment: [String: String] = [:]
  ) throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent("msctl-test-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    process = Process()
    process.executableURL = URL(fileURLWithPath: path)
    process.arguments = words
    let inherited = ProcessInfo.processInfo.environment
    process.environment = [
      "PATH": URL(fileURLWithPath: Tool.binary).deletingLastPathComponent().path + ":" + (inherited["PATH"] ?? ""),
      "HOME": folder.path, "AMQP_URL": inherited["AMQP_URL"] ?? "",
      "CONSUL_HTTP_ADDR": inherited["CONSUL_HTTP_ADDR"] ?? "",
    ].merging(environment) { $1 }
    process.standardOutput = try Self.file(folder, "out")
    process.standardError = try Self.file(folder, "err")
    if let input {
      feed = nil
      try Data(input.utf8).write(to: folder.appendingPathComponent("in"))
      process.standardInput = try FileHandle(forReadingFrom: folder.appendingPathComponent("in"))
    } else {
      let pipe = Pipe()
      process.standardInput = pipe
      feed = pipe.fileHandleForWriting
    }
    let (stream, continuation) = AsyncStream<Int32>.makeStream()
    ended = stream
    process.terminationHandler = { process in
      let isSignal = process.terminationReason == .uncaughtSignal
      continuation.yield(isSignal ? 128 + process.terminationStatus : process.terminationStatus)
      continuation.finish()
    }
    try process.run()
  }

  deinit {
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    try? FileManager.default.removeItem(at: folder)
  }

  package var out: String { text("out") }
  package var err: String { text("err") }

  /// Adds to standard input.
  package func write(_ text: String) throws {
    try feed?.write(contentsOf: Data(text.utf8))
  }

  package func closeInput() throws {
    try feed?.close()
  }

  package func signal(_ number: Int32) {
    kill(process.processIdentifier, number)
  }

  /// Waits for the end.
  package func end() async throws -> Output {
    for await status in ended { return Output(status: status, out: out, err: err) }
    throw TestFailure("the end of a process can be waited for once")
  }

  private func text(_ name: String) -> String {
    String(decoding: (try? Data(contentsOf: folder.appendingPathComponent(name))) ?? Data(), as: UTF8.self)
  }

  private static func file(_ folder: URL, _ name: String) throws -> FileHandle {
    let url = folder.appendingPathComponent(name)
    try Data().write(to: url)
    return try FileHandle(forWritingTo: url)
  }
}

package struct TestFailure: Error, CustomStringConvertible {
  package let description: String

  package init(_ description: String) {
    self.description = description
  }
}

/// Waits until something is true. The deadline only ends a test that has failed.
package func eventually(
  _ what: String, within seconds: Double = 60, _ condition: () async throws -> Bool
) async throws {
  let deadline = Date(timeIntervalSinceNow: seconds)
  while try await !condition() {
    guard Date() < deadline else { throw TestFailure("never came true: \(what)") }
    try await Task.sleep(for: .milliseconds(20))
  }
}
