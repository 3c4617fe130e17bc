import Foundation
import MsctlCommands
import Support
import Testing

@Suite("Completions, man pages and packages, as a shell sees them", .serialized)
struct ShellTests {
  static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().path

  /// Who presses Tab does not wait: a busy machine would name nothing in time.
  static let patient = ["MSCTL_COMPLETION_TIMEOUT": "10m"]

  private func queues(_ queue: String) -> [String: String] {
    ["MSCTL_MANAGEMENT_URL": Services.managementAPI, "MSCTL_COMPLETION_TIMEOUT": "10m"]
  }

  @Test("bash completes verbs, options, their values, and names of services and queues")
  func bash() async throws {
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1")
      try await withQueue(arguments: "{}") { queue in
        let script = """
          source \(Self.root)/completions/msctl.bash
          t() { COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; _msctl; echo "${COMPREPLY[*]}"; }
          t msctl ca; t msctl call --idem; t msctl call --color al; t msctl discover -o ho; t msctl call --color=ne
          t msctl help disc; t msctl call PATC; t msctl call \(service.prefix(14)); t msctl consume \(queue.prefix(12))
          CONSUL_HTTP_ADDR=127.0.0.1:1 AMQP_URL=amqp://127.0.0.1:1 MSCTL_MANAGEMENT_URL=
          export CONSUL_HTTP_ADDR AMQP_URL MSCTL_MANAGEMENT_URL
          t msctl discover x; t msctl consume x
          """
        let output = try await RunningProcess("/bin/bash", ["-c", script], environment: queues(queue)).end()
        #expect(
          output.out == "call\n--idempotency-key\nalways\nhostport\nnever\ndiscover\nPATCH\n\(service)\n\(queue)\n\n\n")
        #expect(output.err == "")
      }
    }
  }

  @Test("fish completes with descriptions")
  func fish() async throws {
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1")
      let script = """
        source \(Self.root)/completions/msctl.fish
        for line in "msctl ca" "msctl call --idem" "msctl discover -o host" "msctl discover \(service.prefix(14))"
          complete -C $line
        end
        """
      let output = try await RunningProcess(
        "/usr/bin/env", ["fish", "--no-config", "-c", script], environment: Self.patient
      ).end()
      #expect(
        output.lines == [
          "call\tcall a REST service, found by name or by URL",
          "--idempotency-key\tSend an Idempotency-Key, so a POST can be retried",
          "hostport\tPrint instances in this format", "\(service)\tNAME",
        ], "\(output)")
    }
  }

  @Test("zsh completes what Tab is pressed for")
  func zsh() async throws {
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1")
      // A shell of its own on a terminal: what Tab brings into its line, its prompt shows.
      let script = """
        zmodload zsh/zpty; zpty -b z "zsh -f -i"
        zpty -w z "PROMPT=''; fpath=(\(Self.root)/completions $fpath); autoload -Uz compinit; compinit -u -D; echo REA''DY"
        zpty -r -m z out '*READY*'
        t() { zpty -n -w z "$1"$'\\t'; zpty -r -m z out "*$2*" && echo "$2"; zpty -n -w z $'\\x15'; }
        t 'msctl ca' 'msctl call'; t 'msctl call --idem' --idempotency-key; t 'msctl discover -o ho' hostport
        t 'msctl discover \(service.prefix(14))' \(service)
        zpty -d z
        """
      let output = try await RunningProcess(
        "/usr/bin/env", ["timeout", "300", "zsh", "-f", "-c", script], environment: Self.patient
      )
      .end()
      #expect(output.lines == ["msctl call", "--idempotency-key", "hostport", service], "\(output)")
    }
  }

  @Test("a list of names is waited for as long as MSCTL_COMPLETION_TIMEOUT says, and else not for long")
  func timeLimit() async throws {
    let agent = try FakeAgent { _ in
      Thread.sleep(forTimeInterval: 0.6)
      return FakeAgent.answer(#"{"users":[]}"#)
    }
    func names(_ variables: [String: String]) async throws -> Output {
      try await Tool.run(
        "completion", "--list", "service", environment: agent.environment.merging(variables) { $1 })
    }
    let late = try await names([:])
    #expect(late.status == 0 && late.out == "" && late.err == "", "\(late)")
    #expect(try await names(Self.patient).out == "users\n")
    #expect(try await names(["MSCTL_COMPLETION_TIMEOUT": "soon"]).status == 2)
  }

  @Test("man pages have no mistakes, and read well in 80 columns")
  func manPages() async throws {
    let lint = try await Tool.shell("for page in \(Self.root)/man/*.1; do mandoc -T lint -W style $page; done")
    #expect(lint.out == "")
    let shown = try await Tool.shell("mandoc -T utf8 -O width=78 \(Self.root)/man/msctl-call.1 | col -b")
    #expect(shown.lines.allSatisfy { $0.count <= 80 || $0.contains("msctl ") })
    #expect(shown.out.contains("--retry N"))
  }

  @Test("each short help fits on a screen of 60 lines")
  func shortHelp() async throws {
    for spec in AllCommands.specs {
      let output = try await Tool.run(spec.name, "-h")
      #expect(output.out.split(separator: "\n", omittingEmptySubsequences: false).count <= 60, "\(spec.name)")
    }
  }

  @Test("what is installed can be used, and is gone again")
  func install() async throws {
    let output = try await Tool.shell(
      """
      cd \(Self.root); mkdir -p $HOME/build; test -x .build/release/msctl || exit 77
      make -s install DESTDIR=$HOME/stage PREFIX=/usr && $HOME/stage/usr/bin/msctl --version | head -1
      find $HOME/stage -type f | sed "s|$HOME/stage||" | sort
      make -s uninstall DESTDIR=$HOME/stage PREFIX=/usr; find $HOME/stage -type f
      """)
    guard output.status != 77 else { return }
    #expect(output.out.hasPrefix("msctl 0."))
    #expect(output.out.contains("/usr/share/man/man1/msctl-call.1\n"))
    #expect(output.out.hasSuffix("/usr/share/zsh/vendor-completions/_msctl\n"))
  }

  @Test("what would be sent or called is shown without doing it")
  func dryRuns() async throws {
    let away = ["CONSUL_HTTP_ADDR": "127.0.0.1:1", "AMQP_URL": "amqp://127.0.0.1:1", "SECRET": "hunter2"]
    let published = try await Tool.run("publish", "q", "--dry-run", input: "1 {\"a\":2}", environment: away)
    #expect(published.status == 0 && published.lines.count == 2)
    #expect(published.lines[1].hasPrefix(#"{"body":{"a":2},"exchange":"","routingKey":"q","#))
    let registered = try await Tool.run("register", "s", "-p", "1", "--check", "tcp", "--dry-run", environment: away)
    #expect(registered.out.contains(#""Name":"s""#) && registered.out.contains(#""TCP":"127.0.0.1:1""#))
    let server = try TestServer { request in .ok("[\"\(request.method)\",\"\(request.target)\",\"\(request.body)\"]") }
    let words = [
      "call", "PUT", "http://127.0.0.1:\(server.port)/a?b='c'", "--data", "it's", "X-Key:1", "--bearer", "env:SECRET",
    ]
    let curl = try await RunningProcess(Tool.binary, words + ["--as-curl"], environment: away).end()
    #expect(curl.status == 0 && server.requests.isEmpty)
    #expect(curl.out.contains("'Authorization: ***'") && !curl.out.contains("hunter2"))
    let called = try await Tool.shell(curl.out)
    let direct = try await RunningProcess(Tool.binary, words, environment: away).end()
    #expect(called.out == direct.out.trimmingCharacters(in: .newlines))
  }

  @Test("--verbose shows what happens on the wire, without secrets")
  func verbose() async throws {
    let server = try TestServer { _ in .ok("1") }
    let call = try await Tool.run(
      "call", server.url, "-v", "--bearer", "env:SECRET", environment: ["SECRET": "hunter2"])
    #expect(call.out == "1\n")
    #expect(call.err.contains("> GET \(server.url)\n") && call.err.contains("> Authorization: ***\n"))
    #expect(call.err.contains("< 200 OK\n") && !call.err.contains("hunter2"))
    try await withQueue { queue in
      let publish = try await Tool.run("publish", queue, "1", "-v")
      for line in ["> connect amqp://guest@127.0.0.1", "> queue.declare \(queue)", "> basic.publish", "< basic.ack 1"] {
        #expect(publish.err.contains(line), "\(publish.err)")
      }
      #expect(!publish.err.contains("guest:guest"))
    }
    let token = try await Tool.run(
      "discover", "s", "-v", environment: ["CONSUL_HTTP_ADDR": Services.guardedConsul, "CONSUL_HTTP_TOKEN": "hunter2"])
    #expect(token.err.contains("> X-Consul-Token: ***") && !token.err.contains("hunter2"))
  }
}
