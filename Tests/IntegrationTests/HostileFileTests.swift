import Foundation
import Support
import Testing

@Suite("Files that are no files", .serialized)
struct HostileFileTests {
  @Test("--output writes through what is no regular file, and follows every link")
  func output() async throws {
    let server = try TestServer { _ in .ok("new\n", type: "text/plain") }
    let output = try await Tool.shell(
      """
      mkdir $HOME/w; cd $HOME/w; umask 022
      msctl call \(server.url) -o >(cat > copy; mv copy copied); while [ ! -e copied ]; do sleep 0.05; done; cat copied
      { echo before >&2; msctl call \(server.url) -o /dev/stderr; echo after >&2; } 2> log; cat log
      { echo before; msctl call \(server.url) -o /dev/fd/1; echo after; } > log; cat log
      ln -s /dev/stderr err; msctl call \(server.url) -o err 2> log; cat log; test -L err && echo link
      mkdir d e; ln -s ../e/target d/link; msctl call \(server.url) -o d/link; cat e/target; test -L d/link && echo link
      echo old > file; chmod 600 file; ln -s file one; ln -s one two; msctl call \(server.url) -o two; cat file
      stat -c %a file; test -L one && test -L two && echo links
      ln -s nowhere/file lost; msctl call \(server.url) -o lost; echo $?; ls -A | tr '\\n' ' ' | sed 's/ $//'
      """)
    #expect(
      output.lines == [
        "new", "before", "new", "after", "before", "new", "after", "new", "link", "new", "link", "new", "600", "links",
        "1", "copied d e err file log lost one two",
      ], "\(output)")
    #expect(output.err.shows("unwritableFile", ["path": "lost"]), "\(output)")
  }

  @Test("a message that --failed-to cannot keep is told, though it is the last one")
  func fullDisk() async throws {
    let output = try await Tool.run(
      "publish", "--envelope", "--failed-to", "/dev/full",
      input: #"{"body":1,"exchange":"","routingKey":"\#(Services.uniqueName("none"))"}"#)
    #expect(output.status == 1, "\(output)")
    #expect(output.err.contains("msctl: cannot write the file '/dev/full': No space left on device\n"), "\(output)")
  }

  @Test("--output - is standard output, with the bytes as they come")
  func standardOutput() async throws {
    let server = try TestServer { request in
      request.target == "/bad" ? .status(404, "Not Found", "gone") : .ok("{ \"a\" : 1 }")
    }
    let output = try await Tool.shell(
      "mkdir $HOME/w; cd $HOME/w; msctl call \(server.url) -o -; test -e ./- && echo file")
    #expect(output.out == "{ \"a\" : 1 }", "\(output)")
    let failed = try await Tool.run("call", server.url + "/bad", "-o", "-")
    #expect(failed.status == 4 && failed.out == "gone")
    #expect(try await Tool.run("call", server.url, "-o", "-", "-e").status == 2)
  }

  @Test("a second signal leaves no half of a file behind")
  func secondSignal() async throws {
    let long = "\"" + String(repeating: "x", count: 1 << 20) + "\""
    let server = try TestServer { _ in .ok(long) }
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("drafts"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    func files() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: folder.path) }
    // Once a signal has come, it waits a while for who reads its output.
    let call = try RunningProcess(
      "/bin/bash",
      [
        "-c",
        "mkfifo $HOME/p; exec 5<>$HOME/p; exec msctl call \(server.url) --each --failed-to \(folder.path)/f > $HOME/p",
      ], input: nil)
    try call.write("{}{}")
    try await eventually("the output is full") { try server.requests.count == 2 && !files().isEmpty }
    try await eventually("it has ended") {
      call.signal(SIGINT)
      return !call.isRunning
    }
    #expect(try await call.end().status == 130)
    // The file is there where the second signal came late.
    #expect(try files().filter { $0 != "f" } == [])
  }

  @Test("a signal ends a write into a pipe that nobody reads")
  func fullPipe() async throws {
    let server = try TestServer { _ in .ok(String(repeating: "x", count: 1 << 20), type: "text/plain") }
    let call = try RunningProcess(
      "/bin/bash", ["-c", "exec 5> >(exec sleep 300); exec msctl call \(server.url) -o /dev/fd/5"])
    try await eventually("it is called") { server.requests.count == 1 }
    call.signal(SIGTERM)
    #expect(try await call.end().status == 143)
  }

  @Test("a signal ends publishing that waits for a pipe of --failed-to, which nobody reads")
  func fullFailedPipe() async throws {
    try await withQueue(arguments: #"{"x-max-length":1,"x-overflow":"reject-publish"}"#) { queue in
      _ = try await Tool.run("publish", queue, "--passive", "0")
      let publish = try RunningProcess(
        "/bin/bash",
        [
          "-c",
          """
          exec 5> >(exec sleep 300) < <(yes $(printf 'x%.0s' {1..1000}) | head -n 20000)
          exec msctl publish \(queue) --lines --passive --failed-to /dev/fd/5
          """,
        ])
      var (told, since) = (0, ContinuousClock.now)
      // How many that are depends on the pipe, which a busy system makes smaller.
      try await eventually("as many have failed as the pipe takes") {
        let count = publish.err.split(separator: "\n").count
        if count != told { (told, since) = (count, .now) }
        return told > 0 && since.duration(to: .now) > .seconds(2)
      }
      publish.signal(SIGTERM)
      #expect(try await publish.end().status == 143)
      #expect(publish.err.split(separator: "\n").count < 20000, "publishing waits for the pipe")
    }
  }

  @Test("a signal ends publishing into a pipe of --failed-to that nobody has opened, and what is in flight is settled")
  func unopenedFailedPipe() async throws {
    try await withQueue(arguments: #"{"x-max-length":10}"#) { queue in
      let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("pipe"))
      defer { try? FileManager.default.removeItem(at: folder) }
      #expect(mkfifo(folder.path, 0o600) == 0)
      let publish = try Tool.start("publish", queue, "1", "--failed-to", folder.path)
      try await eventually("it is published") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains(#""messages_ready":1"#)
      }
      try await eventually("it is told what is waited for") {
        publish.err.shows("note unreadPipe", ["path": folder.path])
      }
      publish.signal(SIGTERM)
      let output = try await publish.end()
      #expect(output.status == 143 && output.err.shows("note confirmed", ["3": "1"]), "\(output)")
    }
  }

  @Test(
    "a pipe of --failed-to that is opened late gets what could not be sent, and a signal ends the wait for a reader")
  func lateFailedPipe() async throws {
    let output = try await Tool.shell(
      """
      cd $HOME; mkfifo pipe; msctl publish q 1 --failed-to pipe & sleep 1; timeout 300 jq -c .body pipe; wait $!; echo $?
      msctl publish q 1 --failed-to pipe & sleep 1; kill $!; wait $!; echo $?
      """, environment: ["AMQP_URL": "amqp://127.0.0.1:\(try Services.freePort())"])
    #expect(output.lines == ["1", "6", "143"], "\(output)")
  }

  @Test("--failed-to writes through what is no regular file, and follows every link")
  func failedTo() async throws {
    try await withQueue(arguments: #"{"x-max-length":1,"x-overflow":"reject-publish"}"#) { queue in
      let output = try await Tool.shell(
        """
        mkdir $HOME/w; cd $HOME/w; publish() { printf '1 2' | msctl publish \(queue) -q --passive "$@"; }
        msctl publish \(queue) --passive 0 -q
        publish --failed-to - 2> log | jq -c .body
        publish --failed-to >(cat > copy; mv copy copied) 2> log; while [ ! -e copied ]; do sleep 0.05; done; jq -c .body copied
        { echo 0; publish --failed-to /dev/fd/3; echo 3; } 3>&1 2> log | jq -c '.body? // .'
        ln -s target link; publish --failed-to link 2> log; jq -c .body target; test -L link && echo '"link"'
        mkfifo pipe; cat pipe > copy & publish --failed-to pipe 2> log; wait %1; jq -c .body copy; test -p pipe && echo '"pipe"'
        publish --failed-to - --tee 2> log; echo $?; publish --failed-to - --reply 2> log; echo $?
        """)
      #expect(
        output.lines == [
          "1", "2", "1", "2", "0", "1", "2", "3", "1", "2", "\"link\"", "1", "2", "\"pipe\"", "2", "2",
        ], "\(output)")
    }
  }
}
