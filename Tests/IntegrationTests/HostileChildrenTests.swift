import Foundation
import Support
import Testing

/// Waits for the end of a process that may never come to one.
private func end(of process: RunningProcess) async throws -> Output {
  try await eventually("it ends") { kill(process.pid, 0) != 0 }
  return try await process.end()
}

@Suite("Commands that msctl runs: what they get", .serialized)
struct ChildEnvironmentTests {
  private static let secrets = ["CONSUL_HTTP_TOKEN": "no-token", "OTHER": "1", "LANG": "C", "MSCTL_TYPE": "stale"]

  private func names(_ output: String) -> Set<String> {
    // The shell itself sets the folder.
    Set(output.split(separator: "\n").map { String($0.prefix { $0 != "=" }) }).subtracting([
      "PWD", "OLDPWD", "_", "SHLVL",
    ])
  }

  @Test("the end of a child is noticed though the one who started msctl ignores SIGCHLD")
  func ignoredSignal() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, "7")
      let start =
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execvp('msctl', sys.argv[1:])"
      let output = try await RunningProcess(
        "/usr/bin/env", ["python3", "-c", start, "msctl", "consume", queue, "--count", "1", "--exec", "cat"]
      ).end()
      #expect(output.status == 0 && output.out == "7", "\(output)")
    }
  }

  @Test(
    "--clean-env leaves a command PATH, HOME, LANG, the trace and what msctl says of the message",
    arguments: [true, false])
  func cleanEnvironment(_ isClean: Bool) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1")
      let words = isClean ? ["--clean-env"] : []
      let exec = try await RunningProcess(
        Tool.binary, ["consume", queue, "--drain", "--exec", "env"] + words, environment: Self.secrets
      ).end()
      #expect(exec.status == 0)
      let found = names(exec.out)
      let expected: Set = ["PATH", "HOME", "LANG", "TRACEPARENT"]
      #expect(found.isSuperset(of: expected.union(["MSCTL_MESSAGE_ID", "MSCTL_ATTEMPT"])))
      #expect(!found.contains("MSCTL_TYPE"))
      #expect(found.subtracting(expected).allSatisfy { $0.hasPrefix("MSCTL_") } == isClean)
      #expect(found.contains("AMQP_URL") != isClean && found.contains("CONSUL_HTTP_TOKEN") != isClean)

      _ = try await Tool.run("publish", queue, input: "1")
      let through = try await RunningProcess(
        Tool.binary, ["consume", queue, "--drain", "--through", "env >&2; cat"] + words, environment: Self.secrets
      ).end()
      #expect(through.status == 0)
      #expect(names(through.err).isSuperset(of: expected))
      #expect(names(through.err).contains("AMQP_URL") != isClean)
    }
    let service = Services.uniqueName("none")
    let watch = try Tool.start(
      "discover", service, "--watch", "--exec", "env >&2", isClean ? "--clean-env" : "-q", environment: Self.secrets)
    try await eventually("the command has run") { watch.err.contains("MSCTL_SERVICE=\(service)\n") }
    try await eventually("all is written") { watch.err.contains("PATH=") && watch.err.hasSuffix("\n") }
    #expect(watch.err.contains("CONSUL_HTTP_TOKEN=") != isClean)
    watch.signal(SIGTERM)
    _ = try await end(of: watch)
  }

  @Test("a variable that is not UTF-8 reaches a command as it is, and a property without what ends it")
  func bytes() async throws {
    try await withQueue { queue in
      _ = try await Tool.run(
        "publish", queue, "--envelope",
        input: #"{"body":1,"properties":{"messageId":"a\u0000b\n$(touch x);'é","type":"\u0000"}}"#)
      let output = try await Tool.shell(
        #"""
        X=$'\xff\xfe' msctl consume \#(queue) --drain --exec 'printf "%s|%s|%s" "$X" "$MSCTL_MESSAGE_ID" "$MSCTL_TYPE"' | od -An -tx1 | tr -d ' \n'
        """#)
      let expected = [0xFF, 0xFE, 0x7C] + Array("ab\n$(touch x);'é||".utf8).dropLast()
      #expect(output.out == expected.map { String(format: "%02x", $0) }.joined())
    }
  }

  /// Descriptors beside the standard ones; what the shell itself opens for the list is gone again.
  private static let list =
    "for f in /proc/$$/fd/*; do case ${f##*/} in [012]) ;; *) test -L $f && readlink $f >&2;; esac; done; echo listed >&2"

  @Test("a command inherits the standard descriptors alone, however many others run")
  func descriptors() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let folder = FileManager.default.temporaryDirectory.appendingPathComponent(queue)
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      defer { try? FileManager.default.removeItem(at: folder) }
      // Each waits until all three run.
      let wait = "touch \(folder.path)/$$; while [ $(ls \(folder.path) | wc -l) -lt 3 ]; do sleep 0.05; done"
      let exec = try await Tool.startBare(
        ["consume", queue, "--drain", "--parallel", "3", "--exec", "\(wait); \(Self.list)"]
      ).end()
      #expect(exec.err == "listed\nlisted\nlisted\n")
      _ = try await Tool.run("publish", queue, input: "1")
      let through = try await Tool.startBare(["consume", queue, "--drain", "--through", "\(Self.list); cat"]).end()
      #expect(through.err == "listed\n")
    }
  }

  @Test("a held service and the command of a watch inherit the standard descriptors alone")
  func descriptorsBesideAnAgent() async throws {
    let held = try await Tool.startBare(
      ["register", Services.uniqueName("held"), "-p", "0", "--", "sh", "-c", Self.list]
    ).end()
    #expect(held.err == "listed\n")
    let watch = try Tool.startBare(["discover", Services.uniqueName("none"), "--watch", "--exec", Self.list])
    try await eventually("the command has run") { watch.err.contains("listed\n") }
    #expect(watch.err == "listed\n")
    watch.signal(SIGTERM)
    _ = try await end(of: watch)
  }

  @Test("a message whose properties do not fit a command's environment fails by itself, and the next one is handled")
  func tooLarge() async throws {
    try await withQueue { queue in
      let long = String(repeating: "x", count: 255)
      _ = try await Tool.shell(
        """
        msctl publish \(queue) 1 -q --message-id \(long) --type \(long) --app-id \(long) --correlation-id \(long) \
        --reply-to \(long) --content-encoding \(long)
        msctl publish \(queue) 2 -q --message-id small
        """)
      // As large an environment as msctl itself can be started with, and a little less, for what it adds of the small one.
      let output = try await Tool.shell(
        """
        ulimit -s 512
        size=72000
        until PAD1=$(head -c 60000 /dev/zero | tr '\\0' x) PAD2=$(head -c $size /dev/zero | tr '\\0' x) \
          msctl --version >/dev/null 2>&1; do size=$((size - 100)); done
        export PAD1=$(head -c 60000 /dev/zero | tr '\\0' x) PAD2=$(head -c $((size - 900)) /dev/zero | tr '\\0' x)
        msctl consume \(queue) --drain --on-error reject --exec cat; echo "status $?"
        """)
      #expect(output.out == "2status 1\n", "\(output.err.prefix(2000))")
      #expect(output.err.contains("its properties do not fit the environment of a command"))
      #expect(output.err.shows("consume rejected", ["3": "1"]))
    }
  }
}

@Suite("Commands that msctl runs: their end has a bound", .serialized)
struct ChildEndTests {
  private static let killed = "did not end within 10 s and was killed"

  @Test(
    "a command of --exec that ignores SIGTERM is killed, one that is stopped is ended, and the message goes back",
    arguments: [
      ("trap '' TERM; echo up >&2; while :; do sleep 1; done", true), ("echo up >&2; kill -STOP $$; exit 3", false),
    ])
  func exec(_ script: String, _ isKilled: Bool) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1")
      let consumer = try Tool.start("consume", queue, "--exec", script, "--on-error", "reject")
      try await eventually("it runs") { consumer.err.contains("up\n") }
      consumer.signal(SIGTERM)
      let output = try await end(of: consumer)
      #expect(output.status == 128 + SIGTERM)
      #expect(output.err.contains(Self.killed) == isKilled, "\(output.err)")
      // It was msctl that ended the command, so the message is not to blame.
      #expect(output.err.contains("; the message is requeued\n"))
      #expect(try await Services.messages(in: queue).count == 1)
    }
  }

  @Test("a filter that ignores SIGTERM is killed, and its messages go back")
  func filter() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2")
      let consumer = try Tool.start(
        "consume", queue, "--for", "10s", "--through", "trap '' TERM; read x; echo $x; while :; do sleep 1; done")
      let output = try await end(of: consumer)
      #expect(output.out == "1\n" && output.status == 137)
      // It has not said which of them its line is for.
      #expect(
        output.err.contains(
          "\(Self.killed), with 1 message unprocessed\n       2 messages are requeued, from message 1 ("), "\(output)")
      #expect(try await Services.messages(in: queue).count == 2)
    }
  }

  @Test(
    "what a filter leaves behind may hold its output, and does not hold up the end",
    arguments: ["sleep 300 & exec cat", "setsid sh -c 'echo $$ > $HOME/pid; exec sleep 300' & exec cat"])
  func daemon(_ script: String) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2")
      let folder = FileManager.default.temporaryDirectory.appendingPathComponent(queue)
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      defer { try? FileManager.default.removeItem(at: folder) }
      let consumer = try Tool.start(
        "consume", queue, "--drain", "--through", script, environment: ["HOME": folder.path])
      defer { consumer.signal(SIGKILL) }
      let output = try await end(of: consumer)
      #expect(output.out == "1\n2\n" && output.status == 0, "\(output)")
      #expect(try await Services.messages(in: queue).isEmpty)
      if let pid = try? String(contentsOf: folder.appendingPathComponent("pid"), encoding: .utf8) {
        kill(try #require(pid_t(pid.dropLast())), SIGKILL)
      }
    }
  }

  @Test(
    "a filter that has written all its lines and does not exit at the end of its input is ended, and that is no failure",
    arguments: [["--drain"], ["--count", "2"]])
  func deafFilter(_ ending: [String]) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2")
      func run(_ filter: String) async throws -> Output {
        try await end(of: RunningProcess(Tool.binary, ["consume", queue] + ending + ["--through", filter]))
      }
      let output = try await run("cat; exec sleep 300")
      #expect(output.out == "1\n2\n" && output.status == 0, "\(output)")
      let cause = "did not exit at the end of its input"
      #expect(output.err.contains("\(cause), was terminated and exited with 143\n"), "\(output)")
      #expect(try await Services.messages(in: queue).isEmpty)
      _ = try await Tool.run("publish", queue, input: "1 2")
      let killed = try await run("trap '' TERM; cat; while :; do sleep 1; done")
      #expect(killed.out == "1\n2\n" && killed.status == 0, "\(killed)")
      #expect(killed.err.contains("\(cause), \(Self.killed)\n"), "\(killed)")
    }
  }

  @Test(
    "a filter that closes its input or output costs no time, may answer what it has read, and is ended",
    arguments: [("exec <&-; sleep 2; echo $x", "input"), ("echo $x; exec >&-", "output")])
  func closed(_ script: String, _ what: String) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let script = "sleep 1; read x; \(script); exec sleep 300"
      let output = try await Tool.shell(
        "timeout -k 1 300 msctl consume \(queue) --through '\(script)'; echo status $?; times")
      #expect(output.lines.prefix(2) == ["1", "status 143"], "\(output)")
      #expect(
        output.err.hasPrefix(
          "msctl: the filter '\(script)' closed its \(what), was terminated and exited with 143, "
            + "with 2 messages unprocessed\n       3 messages are requeued, from message 1 ("))
      // Ten seconds and more were waited; `times` shows what the children used on its last line: 0m0.123s 0m0.045s
      let used = try #require(output.lines.last).split(separator: " ").map { Double($0.dropFirst(2).dropLast()) ?? 99 }
      #expect(used.reduce(0, +) < 5, "\(used)")
      #expect(try await Services.messages(in: queue).count == 3)
    }
  }

  @Test("a held service that ignores SIGTERM is killed, one that is stopped is ended, and so is what it leaves behind")
  func held() async throws {
    func start(_ script: String) throws -> RunningProcess {
      try RunningProcess(
        Tool.binary, ["register", Services.uniqueName("held"), "-p", "0", "--", "bash", "-c", script])
    }
    let deaf = try start("trap '' TERM; echo up; while :; do sleep 1; done")
    let stopped = try start("echo up; kill -STOP $$")
    let parent = try start(
      "(trap '' TERM; echo $BASHPID | tee $HOME/up; exec sleep 300) & until test -s $HOME/up; do sleep 0.05; done; exit 3"
    )
    for process in [deaf, stopped] {
      try await eventually("it runs") { process.out.contains("up\n") }
      process.signal(SIGTERM)
    }
    let first = try await end(of: deaf)
    #expect(first.status == 128 + SIGKILL && first.err.shows("note killed", ["command": "bash"]), "\(first)")
    #expect(try await end(of: stopped).status == 128 + SIGTERM)
    let last = try await end(of: parent)
    #expect(last.status == 3 && last.err.shows("register leftoversKilled", ["command": "bash"]), "\(last)")
    let left = try #require(pid_t(last.out.dropLast()))
    try await eventually("nothing is left") { kill(left, 0) != 0 }
  }

  @Test("a command of a watch that ignores SIGTERM is killed")
  func watch() async throws {
    let watch = try Tool.start(
      "discover", Services.uniqueName("none"), "--watch", "--exec", "trap '' TERM; echo $$; while :; do sleep 1; done")
    try await eventually("it runs") { watch.out.contains("\n") }
    watch.signal(SIGTERM)
    let output = try await end(of: watch)
    #expect(output.status == 128 + SIGTERM && output.err.shows("note killed"))
    let pid = try #require(pid_t(output.out.dropLast()))
    try await eventually("it is gone") { kill(pid, 0) != 0 }
  }
}

@Suite("Commands that msctl runs: what they write", .serialized)
struct ChildOutputTests {
  @Test("a long line of a filter is read in linear time, an endless one is bounded, and a signal ends it")
  func longLines() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1")
      let long = try Tool.start(
        "consume", queue, "--drain", "--through", "read x; head -c 33554432 /dev/zero | tr '\\0' y; echo; cat")
      let output = try await end(of: long)
      #expect(output.out.utf8.count == 33_554_433 && output.status == 0, "\(output.err)")

      _ = try await Tool.run("publish", queue, input: "1")
      let endless = try Tool.start("consume", queue, "--through", "tr '\\0' y < /dev/zero")
      let failed = try await end(of: endless)
      #expect(failed.status == 9)
      #expect(failed.err.shows("tooLarge", ["input": "a line of the filter 'tr '\\0' y < /dev/zero'", "64": "256"]))
      #expect(try await Services.messages(in: queue).count == 1)

      let slow = try Tool.start(
        "consume", queue, "--through", "echo up >&2; while printf yyyyyyyyyyyyyyyyyy; do :; done")
      try await eventually("it writes") { slow.err.contains("up\n") }
      slow.signal(SIGTERM)
      #expect(try await end(of: slow).status == 128 + SIGTERM)
    }
  }

  @Test("the output of a command is not kept in memory, and is written whole once it has succeeded")
  func largeOutput() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2")
      let output = try await Tool.shell(
        """
        msctl consume \(queue) --drain --parallel 2 --exec 'head -c 200000000 /dev/zero; grep VmHWM /proc/$PPID/status >&2' | wc -c
        """)
      #expect(output.out == "400000000\n")
      let peaks = output.err.split(separator: "\n").compactMap { Int($0.split(separator: " ").dropLast().last ?? "") }
      #expect(peaks.count == 2 && peaks.allSatisfy { $0 < 150_000 }, "\(output.err)")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("output that cannot be kept, or is too much, fails its message with a sentence")
  func refusedOutput() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1")
      let nowhere = try await Tool.run(
        "consume", queue, "--drain", "--on-error", "reject", "--exec", "head -c 20000000 /dev/zero",
        environment: ["TMPDIR": "/no-such-folder"])
      #expect(nowhere.status == 1 && nowhere.out == "")
      #expect(nowhere.err.shows("unkeptOutput", ["path": "/no-such-folder", "reason": "No such file or directory"]))
      _ = try await Tool.run("publish", queue, input: "1")
      let endless = try await Tool.run(
        "consume", queue, "--drain", "--on-error", "reject", "--exec", "exec cat /dev/zero")
      #expect(endless.status == 1 && endless.out == "")
      #expect(endless.err.shows("tooMuchOutput"))
    }
  }

  @Test("what a command leaves behind may write without an end, and holds up nothing")
  func leftBehind() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2")
      let consumer = try Tool.start("consume", queue, "--drain", "--exec", "(exec timeout 300 yes) & echo done")
      let output = try await end(of: consumer)
      #expect(output.status == 0)
      #expect(output.lines.count { $0 == "done" } == 2)
    }
  }
}
