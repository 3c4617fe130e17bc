import Foundation
import Support
import Testing

/// Names that say more than a name, and what is typed of each before Tab.
private let hostileNames: [(name: String, typed: String)] = [
  ("1$(touch canary)", "1"), ("2`touch canary`", "2"), ("3; touch canary", "3"), ("4 two words", "4"),
  ("5it's \"quoted\"", "5"), ("6a\\b", "6"), ("7:eu:west=a@b", "7:eu:w"), ("8{a,b}*?[c]~", "8"), ("9wow!wow", "9"),
  ("aünï'\u{301}$(touch canary)", "a"), ("b&|<>()#", "b"), ("c$HOME", "c"), ("d'$(touch canary)'", "d"),
  ("e=x=$(touch canary)", "e=x"),
]

@Suite("Completions of names that others chose", .serialized)
struct HostileCompletionTests {
  /// Types lines into a real shell on a terminal, and gives the words that a function of it got for each.
  private func words(
    _ shell: String, _ setUp: String, typing lines: [String], environment: [String: String]
  ) async throws -> (words: [[String]], files: [String], screen: String) {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("tab"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let driver = """
      import json, os, pty, select, sys, time
      command, keys = json.loads(sys.argv[1]), json.loads(sys.argv[2])
      os.chdir(sys.argv[3])
      child, terminal = pty.fork()
      if child == 0: os.execvp(command[0], command)
      seen = b''
      def read_until(done, limit=600):
        global seen
        end = time.time() + limit
        while not done():
          if time.time() > end: print(seen.decode(errors='replace'), file=sys.stderr); sys.exit(1)
          if select.select([terminal], [], [], 0.02)[0]:
            try: piece = os.read(terminal, 65536)
            except OSError: break
            # fish asks what the terminal is.
            if b'\\x1b[c' in piece: os.write(terminal, b'\\x1b[?62;c')
            seen += piece
      for index, key in enumerate(keys):
        before, name = len(seen), 'got%d' % index
        os.write(terminal, key.encode())
        # Where Tab offered nothing, a quote is open still, and the shell waits for its end.
        read_until(lambda: os.path.exists(name) or b'unclosed>' in seen[before:])
        if not os.path.exists(name):
          before = len(seen)
          os.write(terminal, b'\\x03')
          read_until(lambda: b'ready>' in seen[before:])
          open(name, 'x').close()
      print(seen.decode(errors='replace'))
      os.kill(child, 9)
      """
    func json(_ value: [String]) throws -> String {
      String(decoding: try JSONSerialization.data(withJSONObject: value), as: UTF8.self)
    }
    let command =
      shell == "zsh"
      ? ["zsh", "-f", "-i"]
      : shell == "fish"
        ? ["fish", "--no-config"]
        : [
          "bash", "--norc", "--noprofile", "-i",
        ]
    let keys =
      [setUp + "; true > got0\r"]
      + lines.enumerated().map { index, line in
        // At the beginning of the line stands a function that keeps its words; Control-A goes there.
        line + "\t\u{01}keep got\(index + 1) \r"
      }
    var variables = environment.merging(["TERM": "xterm", "LC_ALL": "C.UTF-8", "HOME": folder.path]) { $1 }
    variables["XDG_CONFIG_HOME"] = folder.path
    let output = try await RunningProcess(
      "/usr/bin/env", ["python3", "-c", driver, try json(command), try json(keys), folder.path],
      environment: variables
    ).end()
    guard output.status == 0 else { throw TestFailure("\(shell): \(output.err.suffix(2000))") }
    let words = try lines.indices.map { index in
      let data = try Data(contentsOf: folder.appendingPathComponent("got\(index + 1)"))
      return String(decoding: data, as: UTF8.self).components(separatedBy: "\0").dropLast().map { $0 }
    }
    let files = try FileManager.default.contentsOfDirectory(atPath: folder.path)
    return (words, files, output.out)
  }

  private static let shells: [(shell: String, setUp: String)] = [
    (
      "bash",
      "bind 'set enable-bracketed-paste off'; PS1='rea''dy>'; PS2='un''closed>'; keep() { local f=$1; shift; printf '%s\\0' \"$@\" > $f.new; mv $f.new $f; }; "
        + "source \(ShellTests.root)/completions/msctl.bash"
    ),
    (
      "zsh",
      "PROMPT='$ '; keep() { local f=$1; shift; printf '%s\\0' \"$@\" > $f.new; mv $f.new $f }; "
        + "fpath=(\(ShellTests.root)/completions $fpath); autoload -Uz compinit; compinit -u -D"
    ),
    (
      "fish",
      "function keep; set f $argv[1]; set -e argv[1]; printf '%s\\0' $argv > $f.new; mv $f.new $f; end; "
        + "source \(ShellTests.root)/completions/msctl.fish"
    ),
  ]

  /// Checks that each name comes back as one word, and that nothing has run.
  private func check(_ prefix: String, verb: String, environment: [String: String]) async throws {
    for (shell, setUp) in Self.shells {
      var left = hostileNames
      // A busy management API fails now and then: then nothing is offered, and Tab is pressed again.
      for attempt in 1...10 where !left.isEmpty {
        let (words, files, screen) = try await words(
          shell, setUp, typing: left.map { "msctl \(verb) \(prefix)\($0.typed)" }, environment: environment)
        let results = zip(words, left).map { (words: $0, name: $1) }
        left = results.filter { $0.words == ["msctl", verb, prefix + $0.name.typed] }.map(\.name)
        for result in results where !left.contains(where: { $0.name == result.name.name }) || attempt == 10 {
          #expect(result.words == ["msctl", verb, prefix + result.name.name], "\(shell): \(screen.suffix(500))")
        }
        #expect(!files.contains("canary"), "\(shell)")
      }
    }
  }

  @Test("Tab quotes the name of a queue, and runs nothing of it, in bash, zsh and fish")
  func queues() async throws {
    let prefix = Services.uniqueName("q") + "-"
    for (name, _) in hostileNames + [("tab\there", ""), ("esc\u{1B}[31m", "")] { try await declare(prefix + name) }
    try await declare("-\(prefix)")
    let environment = ShellTests.patient.merging(["MSCTL_MANAGEMENT_URL": Services.managementAPI]) { $1 }
    do {
      var list = try await Tool.run("completion", "--list", "queue", environment: environment)
      for _ in 1...10 where list.out.isEmpty {
        list = try await Tool.run("completion", "--list", "queue", environment: environment)
      }
      #expect(list.lines.count { $0.hasPrefix(prefix) } == hostileNames.count)
      #expect(!list.out.contains("here\n") && !list.out.contains("\u{1B}"))
      try await check(prefix, verb: "consume", environment: environment)
      try await quotes(prefix, environment)
    } catch {
      try await forget(prefix)
      throw error
    }
    try await forget(prefix)
  }

  @Test("a list of queues without an end is not read to it")
  func endless() async throws {
    let api = try TestServer { _ in .ok(#"[{"name":"orders"}"# + String(repeating: " ", count: 17 << 20) + "]") }
    let environment = ShellTests.patient.merging(["MSCTL_MANAGEMENT_URL": api.url]) { $1 }
    let list = try await Tool.run("completion", "--list", "queue", environment: environment)
    #expect(list.status == 0 && list.out == "" && api.requests.count == 1, "\(list)")
  }

  /// A quote that is open already, and a name that would be an option.
  private func quotes(_ prefix: String, _ environment: [String: String]) async throws {
    let (shell, setUp) = Self.shells[0]
    let expected = [
      ["consume", prefix + "1$(touch canary)"], ["consume", prefix + "1$(touch canary)"],
      ["consume", prefix + "5it's \"quoted\""], ["consume", prefix + "2`touch canary`"],
      ["consume", prefix + "4 two words"],
      ["consume", prefix + "4 two words"], ["consume", "--", "-" + prefix], ["publish", prefix + "7:eu:west=a@b"],
      // It would be an option.
      ["consume", "-" + prefix.dropLast(2)],
    ].map { ["msctl"] + $0 }
    // As above.
    for attempt in 1...10 {
      let (words, files, _) = try await words(
        shell, setUp,
        typing: [
          "msctl consume '\(prefix)1", "msctl consume \"\(prefix)1", "msctl consume '\(prefix)5",
          "msctl consume \"\(prefix)2",
          "msctl consume \(prefix)4\\ tw", "msctl consume '\(prefix)'4", "msctl consume -- -\(prefix.dropLast(2))",
          "msctl publish \(prefix)7:", "msctl consume -\(prefix.dropLast(2))",
        ], environment: environment)
      #expect(!files.contains("canary"))
      if words == expected { break }
      if attempt == 10 { #expect(words == expected) }
    }
  }

  @Test("Tab quotes the name of a service, and runs nothing of it, in bash, zsh and fish")
  func services() async throws {
    let agent = try await PrivateAgent()
    for (name, _) in hostileNames {
      let body = String(
        decoding: try JSONSerialization.data(withJSONObject: ["Name": "s-" + name, "Port": 1]), as: UTF8.self)
      _ = try await RunningProcess(
        "/usr/bin/curl", ["-sS", "-f", "-X", "PUT", "-d", body, agent.address + "/v1/agent/service/register"]
      ).end()
    }
    try await eventually("the catalogue has them") {
      try await Tool.run("discover", environment: agent.environment).lines.count > hostileNames.count
    }
    try await check("s-", verb: "discover", environment: agent.environment.merging(ShellTests.patient) { $1 })
  }

  private func declare(_ queue: String) async throws {
    let name = queue.utf8.map { String(format: "%%%02X", $0) }.joined()
    _ = try await Services.management("PUT", "/queues/%2F/\(name)", body: #"{"durable":true}"#)
  }

  private func forget(_ prefix: String) async throws {
    for name in hostileNames.map({ prefix + $0.name }) + [prefix + "tab\there", prefix + "esc\u{1B}[31m", "-" + prefix]
    {
      try await Services.deleteQueue(name.utf8.map { String(format: "%%%02X", $0) }.joined())
    }
  }
}
