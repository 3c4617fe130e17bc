import Foundation
import Support
import Synchronization
import Testing

private func withFolder(_ body: (String) async throws -> Void) async throws {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("settling"))
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  try await body(folder.path)
}

private func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }
private func touch(_ path: String) throws { try Data().write(to: URL(fileURLWithPath: path)) }

private func number(in path: String) throws -> pid_t {
  let text = try String(contentsOfFile: path, encoding: .utf8)
  return try #require(pid_t(text.trimmingCharacters(in: .whitespacesAndNewlines)))
}

/// A broker that can be out of reach for a while.
private final class Away: Sendable {
  private let isAway = Mutex(false)

  func proxy() throws -> FaultProxy {
    try FaultProxy(to: brokerPort) { [self] _ in isAway.withLock { $0 } ? .cut(.down, after: 0) : .none }
  }

  func go(_ proxy: FaultProxy) {
    isAway.withLock { $0 = true }
    proxy.cutAll()
  }

  func comeBack() { isAway.withLock { $0 = false } }
}

private func through(_ proxy: FaultProxy) -> [String: String] { ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)"] }

@Suite("What commands do while the broker is away", .serialized)
struct ServedReconnectionTests {
  @Test("their output is read and their ends are taken while the broker is away")
  func served() async throws {
    try await withFolder { folder in
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "1")
        let away = Away()
        let proxy = try away.proxy()
        // More than a pipe holds: it cannot end unless it is read.
        let consumer = try RunningProcess(
          Tool.binary,
          [
            "consume", queue, "--exec",
            "touch \(folder)/begun; until test -e \(folder)/go; do sleep 0.05; done; head -c 1000000 /dev/zero; touch \(folder)/done",
          ], environment: through(proxy))
        try await eventually("it has begun") { exists(folder + "/begun") }
        away.go(proxy)
        try await eventually("it tries again") { consumer.err.shows("consuming reconnecting") }
        try touch(folder + "/go")
        try await eventually("its output is taken and written") {
          exists(folder + "/done") && consumer.out.utf8.count == 1_000_000
        }
        #expect(!consumer.err.shows("consuming reconnected"))
        away.comeBack()
        // Handled, and so only acknowledged when it comes again.
        try await eventually("it is acknowledged") {
          let state = try await Services.management("GET", "/queues/%2F/\(queue)")
          return consumer.err.shows("consuming reconnected") && state.contains(#""messages":0"#)
        }
        consumer.signal(SIGTERM)
        #expect(try await consumer.end().out.utf8.count == 1_000_000)
      }
    }
  }

  @Test("a command whose failure ends the run does so while the broker is away")
  func failure() async throws {
    try await withFolder { folder in
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "1")
        let away = Away()
        let proxy = try away.proxy()
        let consumer = try RunningProcess(
          Tool.binary,
          [
            "consume", queue, "--on-error", "stop", "--exec",
            "touch \(folder)/begun; until test -e \(folder)/go; do sleep 0.05; done; exit 42",
          ], environment: through(proxy))
        try await eventually("it has begun") { exists(folder + "/begun") }
        away.go(proxy)
        try await eventually("it tries again") { consumer.err.shows("consuming reconnecting") }
        try touch(folder + "/go")
        #expect(try await consumer.end().status == 42)
        #expect(try await Tool.run("consume", queue, "--drain").out == "1\n")
      }
    }
  }

  @Test("a signal is taken while a login gets no response", arguments: ["consume", "publish"])
  func signalInLogin(_ verb: String) async throws {
    // An attempt takes 5 s.
    let isInTime = try await isInTime(.seconds(4)) {
      var time = Duration.zero
      try await withQueue(arguments: "{}") { queue in
        // Each connection after the first is taken, and nothing comes back.
        let proxy = try FaultProxy(to: brokerPort) { number in
          number == 0 ? .none : .blackHole(.down, after: 0)
        }
        let process = try RunningProcess(
          Tool.binary, [verb, queue, "--reconnect-for", "10m"], input: nil, environment: through(proxy))
        if verb == "publish" { try process.write("1\n") }
        try await eventually("it is there") {
          try await Services.management("GET", "/queues/%2F/\(queue)").contains(
            verb == "publish" ? #""messages":1"# : #""consumers":1"#)
        }
        proxy.cutAll()
        try await eventually("it logs in") { proxy.connections > 1 }
        let begin = ContinuousClock.now
        process.signal(SIGINT)
        #expect(try await process.end().status == 128 + SIGINT)
        time = begin.duration(to: .now)
      }
      return time
    }
    #expect(isInTime)
  }

  @Test("Ctrl-C ends --wait at once, also while a login gets no response", arguments: ["consume", "publish"])
  func signalInWait(_ verb: String) async throws {
    let refused = "amqp://127.0.0.1:\(try Services.freePort())"
    let proxy = try FaultProxy(to: brokerPort) { _ in .blackHole(.down, after: 0) }
    let waiting = try Tool.start(verb, "q", "--wait", "1h", environment: ["AMQP_URL": refused])
    let silent = try Tool.start(
      verb, "q", "--wait", "1h", environment: ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)?connection_timeout=3600000"])
    try await eventually("both wait") { waiting.err.shows("note waitingForBroker") && proxy.connections > 0 }
    for process in [waiting, silent] {
      process.signal(SIGINT)
      try await eventually("it ends") { !process.isRunning }
      #expect(try await process.end().status == 130)
    }
  }

  @Test("a broker that ends each connection right after the login is one outage, and ends in time")
  func loginAndGone() async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .consume else { return false }
      if peer.number == 0 { peer.send(FakeBroker.consuming()) }
      peer.cut()
      return true
    }
    let output = try await Tool.run("consume", "q", "--reconnect-for", "4s", environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 6, "\(output.err)")
    #expect(broker.connections >= 2)
  }
}

@Suite("A second signal", .serialized)
struct SecondSignalTests {
  @Test("ends msctl at once, and what it runs with it", arguments: [["--exec"], ["--through"]])
  func second(_ words: [String]) async throws {
    try await withFolder { folder in
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "1")
        let consumer = try Tool.start(
          "consume", queue, words[0],
          "trap '' TERM INT; sleep 600 & echo $! > \(folder)/child; echo $$ > \(folder)/shell; wait; sleep 600")
        try await eventually("it runs") {
          exists(folder + "/shell") && (try? number(in: folder + "/shell")) != nil
        }
        let pids = try [number(in: folder + "/shell"), number(in: folder + "/child")]
        consumer.signal(SIGTERM)
        // The first one ends the consumer: the message is not taken back yet.
        try await eventually("it has taken the first") {
          try await Services.management("GET", "/queues/%2F/\(queue)").contains(#""consumers":0"#)
        }
        consumer.signal(SIGTERM)
        #expect(try await consumer.end().status == 128 + SIGTERM)
        try await eventually("nothing of it is left") { pids.allSatisfy { kill($0, 0) != 0 } }
        #expect(try await Tool.run("consume", queue, "--drain").out == "1\n")
      }
    }
  }
}

@Suite("Output that cannot be read back", .serialized)
struct KeptOutputTests {
  /// What a command does that writes more than is kept in memory, once msctl has all of it.
  private static func writing(_ then: String) -> String {
    """
    head -c 20000000 /dev/zero
    for fd in /proc/$PPID/fd/*; do case $(readlink $fd) in */msctl-*) file=$fd; esac; done
    until test $(stat -L -c %s $file) = 20000000; do sleep 0.05; done
    \(then)
    """
  }

  @Test("a file of it that is cut short is an error, and its message is requeued")
  func cut() async throws {
    try await withQueue(arguments: "{}") { queue in
      _ = try await Tool.run("publish", queue, "1")
      let output = try await Tool.run("consume", queue, "--count", "1", "--exec", Self.writing(": > $file"))
      #expect(output.status == 1)
      #expect(output.err.contains("the file ends early"), "\(output.err)")
      #expect(try await Tool.run("consume", queue, "--drain").out == "1\n")
    }
  }

  @Test("an error of the disk ends the run")
  func disk() async throws {
    try await withFolder { folder in
      try await withQueue(arguments: "{}") { queue in
        _ = try await Tool.run("publish", queue, "1")
        // Reading from a place in a file fails.
        let source =
          "#include <errno.h>\\nlong pread64(int f, void *b, unsigned long n, long o) { errno = EIO; return -1; }\\nlong pread(int f, void *b, unsigned long n, long o) { errno = EIO; return -1; }"
        let output = try await Tool.shell(
          """
          printf '\(source)' > \(folder)/f.c && clang -w -shared -fPIC -o \(folder)/f.so \(folder)/f.c || exit 99
          LD_PRELOAD=\(folder)/f.so timeout 300 \(Tool.debugBinary) consume \(queue) --count 1 --exec 'head -c 20000000 /dev/zero'
          """)
        #expect(output.status == 1)
        #expect(output.err.shows("unreadableOutput"), "\(output.err.prefix(2000))")
        #expect(output.err.utf8.count < 2000)
        #expect(try await Tool.run("consume", queue, "--drain").out == "1\n")
      }
    }
  }
}

@Suite("Idle", .serialized)
struct IdleTests {
  @Test("a command that ran shorter than the idle time does not end the run before the others")
  func work() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 20 | msctl publish \(queue) -q")
      let output = try await Tool.run("consume", queue, "--idle", "5s", "--exec", "sleep 0.15; cat; echo")
      #expect(output.status == 0)
      #expect(output.lines == (1...20).map(String.init))
    }
  }

  @Test("a filter that keeps a line for itself is told the end, and the messages are requeued")
  func filter() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 5 | msctl publish \(queue) -q")
      let output = try await Tool.shell(
        "timeout 300 msctl consume \(queue) --idle 5 --through 'grep --line-buffered -v 5'")
      #expect(output.status == 1)
      #expect(output.lines == ["1", "2", "3", "4"])
      #expect(output.err.shows("consuming idleFilter", ["3": "1"]), "\(output.err)")
      #expect(output.err.contains("exited with 0, with 1 message unprocessed"))
      #expect(try await Tool.run("consume", queue, "--drain").out == "1\n2\n3\n4\n5\n")
    }
  }

  @Test(
    "a filter that is at work is waited for longer than the idle time, and one that holds its output gives it in the end"
  )
  func slowFilter() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) -q")
      let slow = try await Tool.run(
        "consume", queue, "--idle", "5s", "--prefetch", "1", "--through", "while read x; do sleep 5.5; echo $x; done")
      #expect(slow.status == 0 && slow.lines == ["1", "2", "3"], "\(slow.err)")
      _ = try await Tool.shell("seq 3 | msctl publish \(queue) -q")
      let holding = try await Tool.shell("timeout 300 msctl consume \(queue) --idle 5s --through tac")
      #expect(holding.status == 0, "\(holding.err)")
      #expect(holding.lines == ["3", "2", "1"])
    }
  }
}

@Suite("What publish says at its end", .serialized)
struct PublishEndTests {
  @Test("interrupted, it says that standard input was not read to its end")
  func interrupted() async throws {
    try await withQueue { queue in
      let publisher = try Tool.start("publish", queue, "--tee", input: nil)
      try publisher.write("1\n2\n3\n")
      try await eventually("they are confirmed") { publisher.out == "1\n2\n3\n" }
      publisher.signal(SIGINT)
      let output = try await publisher.end()
      #expect(output.status == 130)
      #expect(output.err.shows("note confirmed 2"), "\(output.err)")
    }
  }

  @Test("where nobody reads what --tee writes, what is in flight is counted when it is confirmed")
  func closedOutput() async throws {
    try await withQueue { queue in
      for _ in 1...5 {
        let output = try await Tool.shell(
          "seq 100000 | msctl publish \(queue) --tee | head -n 1; echo ${PIPESTATUS[1]}")
        #expect(output.lines == ["1", "141"])
        let words = output.err.split(separator: " ")
        let confirmed = try #require(words.count > 1 ? Int(words[1]) : nil, "\(output.err)")
        #expect(output.err.contains("standard input was not read to its end"))
        let count = try await Tool.shell("msctl consume \(queue) --drain | wc -l")
        #expect(Int(count.out.trimmingCharacters(in: .whitespacesAndNewlines)) == confirmed)
      }
    }
  }
}

@Suite("Small words", .serialized)
struct SmallWordsTests {
  @Test("a queue's name that is refused is named")
  func queueName() async throws {
    let output = try await Tool.run("publish", "a\nb", "1")
    #expect(output.status == 2)
    #expect(output.err.hasPrefix(#"msctl: QUEUE: 'a\nb' contains a line break"#), "\(output.err)")
  }

  @Test("an empty value does not widen a request")
  func emptySegment() async throws {
    let server = try TestServer { _ in .ok("{}") }
    let output = try await Tool.run(
      "call", "DELETE", "http://127.0.0.1:\(server.port)/users/{id}", "--each", input: #"{"id":""}"#)
    #expect(output.status == 9)
    #expect(output.err.contains("has a field 'id' that leaves a segment of the path empty"), "\(output.err)")
    let none = try await Tool.run("call", "http://127.0.0.1:\(server.port)/{id}", "--each", "--stats")
    #expect(none.status == 0 && none.err == "msctl: 0 calls\n", "\(none.err)")
  }

  @Test("a command of a watch that is not there has no message")
  func watchCommand() async throws {
    let output = try await Tool.run("discover", "consul", "--watch", "--exec", "msctl-no-such-command")
    #expect(output.status == 127)
    #expect(output.err.shows("spawn not found", ["command": "msctl-no-such-command"]), "\(output.err)")
    #expect(!output.err.contains("essage"))
  }
}
