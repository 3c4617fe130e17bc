import Foundation
import MsctlCore
import Support
import Synchronization
import Testing

@Suite("Envelopes", .serialized)
struct EnvelopeTests {
  @Test("consume writes what publish reads, with every property, header type and kind of body")
  func roundTrip() async throws {
    try await withQueue { first in
      try await withQueue { second in
        let headers = [
          #""b":true"#, #""i":9223372036854775807"#, #""n":-9223372036854775808"#, #""d":1.5"#, #""w":1.0"#,
          #""dec":{"$decimal":"1.25"}"#, #""s":"é""#, #""x":{"$bytes":"AP8="}"#, #""t":{"$timestamp":1700000000}"#,
          #""v":null"#,
          #""l":[1,"a",{"k":[]}]"#, #""f":{"$table":{"$x":1}}"#,
        ]
        let delivered = Services.promises.keepsHeaderOrder ? headers : headers.sorted()
        let envelopes = [
          #"{"body":{"a": 1.10, "b":[1,  2]},"exchange":"","routingKey":"\#(first)","redelivered":false,"properties":{"contentType":"application/json","contentEncoding":"utf-8","correlationId":"c","replyTo":"r","expiration":"3600000","messageId":"m1","type":"t","userId":"guest","appId":"a","clusterId":"cl","deliveryMode":2,"priority":9,"timestamp":1700000000,"headers":{\#(headers.joined(separator: ","))}}}"#,
          #"{"body":"line\none","bodyEncoding":"text","exchange":"","routingKey":"\#(first)","redelivered":false,"properties":{"contentType":"text/plain"}}"#,
          #"{"body":"/wAB","bodyEncoding":"base64","exchange":"","routingKey":"\#(first)","redelivered":false,"properties":{}}"#,
        ]
        let published = try await Tool.run("publish", first, "--envelope", input: envelopes.joined(separator: "\n"))
        #expect(published.err.showsOnly("note confirmed"))
        let moved = try await Tool.shell(
          "msctl consume \(first) --drain --envelope | tee $HOME/o | msctl publish \(second) --envelope -q; cat $HOME/o; msctl consume \(second) --drain --envelope"
        )
        #expect(moved.lines.count == 6)
        let expected = envelopes.map {
          $0.replacingOccurrences(of: headers.joined(separator: ","), with: delivered.joined(separator: ","))
        }
        #expect(Array(moved.lines.prefix(3)) == expected)
        let payloads = try await Tool.run("publish", first, "--envelope", input: envelopes[0])
        #expect(payloads.status == 0)
        #expect(try await Services.messages(in: first).first?["payload"] as? String == #"{"a": 1.10, "b":[1,  2]}"#)
        #expect(Array(moved.lines.suffix(3)) == expected.map { $0.replacingOccurrences(of: first, with: second) })
      }
    }
  }

  @Test("an envelope without properties gets the usual ones, and what is none is told with its number")
  func handWritten() async throws {
    try await withQueue { queue in
      let output = try await Tool.run("publish", queue, "--envelope", input: #"{"body":1} {"corpse":2}"#)
      #expect(output.status == 9)
      #expect(
        output.err.showsOnly("notEnvelope", "note confirmed", "unpublished", with: ["reason": "has no 'body'"]))
      let message = try #require(try await Services.messages(in: queue).first)
      #expect((message["properties"] as? [String: Any])?["delivery_mode"] as? Int == 2)
    }
  }
}

@Suite("msctl call --each", .serialized)
struct CallEachTests {
  @Test("fills the target from each value, in input order however late an answer comes, over kept connections")
  func order() async throws {
    let first = DispatchSemaphore(value: 0)
    let count = Mutex(0)
    let server = try TestServer { request in
      if request.target == "/users/1" { first.wait() }
      if count.withLock({
        $0 += 1; return $0
      }) == 19 {
        first.signal()
      }
      return .kept("{\"path\" : \"\(request.target)\"}")
    }
    let output = try await Tool.shell(
      "seq 20 | jq -c '{id:.}' | msctl call '\(server.url)/users/{id}' --each --parallel 4 --stats")
    #expect(output.status == 0)
    #expect(output.lines == (1...20).map { "{\"path\":\"/users/\($0)\"}" })
    #expect(output.err.hasPrefix("msctl: 20 calls in ") && output.err.contains(": 20 200; latency in ms: 50% "))
    #expect(server.connections <= 4)
  }

  @Test("holds back while the first answer is late: what waits for it is bounded")
  func lateAnswer() async throws {
    let first = DispatchSemaphore(value: 0)
    let server = try TestServer { request in
      if request.target == "/1" { first.wait() }
      return .kept("1")
    }
    let call = try RunningProcess(
      "/bin/bash", ["-c", "seq 500 | jq -c '{n:.}' | msctl call '\(server.url)/{n}' --each --parallel 4"])
    // Eight for each that runs at a time, and not one more.
    try await eventually("it has gone as far ahead as it may") { server.requests.count == 32 }
    #expect(call.out == "")
    first.signal()
    let output = try await call.end()
    #expect(output.lines.count == 500 && output.status == 0)
    #expect(server.requests.count == 500)
  }

  @Test("runs more calls at a time than the soft limit of descriptors allows, and says where the hard one is too low")
  func descriptors() async throws {
    let arrived = NSCondition()
    let count = Mutex(0)
    let server = try TestServer { _ in
      // None is answered before all have come.
      arrived.lock()
      defer { arrived.unlock() }
      count.withLock { $0 += 1 }
      arrived.broadcast()
      while count.withLock({ $0 < 250 }) { arrived.wait() }
      return .kept("1")
    }
    let call = "seq 500 | jq -c '{n:.}' | msctl call '\(server.url)/{n}' --each --parallel 250"
    let output = try await Tool.shell("ulimit -Sn 100; " + call)
    #expect(output.status == 0 && output.lines.count == 500, "\(output.err)")
    #expect(server.connections == 250)
    let refused = try await Tool.shell("ulimit -n 100; " + call)
    #expect(refused.status == 1 && refused.out == "")
    #expect(
      refused.err.showsOnly(
        "tooFewDescriptors", with: ["1000": "250", "1100": "326", "1024": "100", "900": "34"]))
    #expect(server.requests.count == 500)
  }

  @Test("sends each value as the body, as it was written")
  func bodies() async throws {
    let server = try TestServer { .kept($0.body) }
    let output = try await Tool.run(
      "call", server.url, "--each", "-P", "3", input: #"{"a":1.10} [2, 3] "x" 12345678901234567890"#)
    #expect(output.lines == [#"{"a":1.10}"#, "[2,3]", #""x""#, "12345678901234567890"])
    #expect(Set(server.requests.map(\.method)) == ["POST"])
    let put = try await Tool.run("call", "PUT", server.url + "/{id}", "--each", input: #"{"id":"a b/é"}"#)
    #expect(put.out == "{\"id\":\"a b/é\"}\n")
    #expect(server.requests.last?.target == "/a%20b%2F%C3%A9")
  }

  @Test("writes one line for every value, whatever the body is")
  func oneLineEach() async throws {
    let server = try TestServer { request in
      switch request.target {
      case "/1": .status(204, "No Content", "")
      case "/2": .ok("two\nlines", type: "text/plain")
      case "/3": .ok("{\"a\":1}\n{\"b\":2}\n", type: "application/x-ndjson")
      default: .ok("{\n\"d\":4\n}")
      }
    }
    let output = try await Tool.run("call", server.url + "/{n}", "--each", input: #"{"n":1}{"n":2}{"n":3}{"n":4}"#)
    #expect(output.lines == ["null", #""two\nlines""#, #""{\"a\":1}\n{\"b\":2}\n""#, #"{"d":4}"#])
  }

  @Test("stops at the first failure with the count done, or goes on and fails in the end")
  func failures() async throws {
    let server = try TestServer { request in
      request.target == "/2"
        ? .status(500, "Oops", "{\"e\":1}", headers: ["Content-Type: application/json"]) : .ok("{}")
    }
    let input = #"{"n":1}{"n":2}{"m":3}{"n":4}"#
    let stopped = try await Tool.run("call", server.url + "/{n}", "--each", input: input)
    #expect(stopped.status == 5)
    #expect(stopped.out == "{}\n")
    #expect(
      stopped.err.showsOnly("call ended by a value", with: ["3": "2", "1": "1"])
        && stopped.err.shows("call status", ["404": "500"]))
    let whole = try await Tool.run("call", server.url + "/{n}", "--each", "--keep-going", input: input)
    #expect(whole.status == 5)
    #expect(whole.out == "{}\n{}\n")
    #expect(
      whole.err.showsOnly("call of a value", "call of a value", "callsFailed")
        && whole.err.shows("call status", ["404": "500"])
        && whole.err.shows("unfillable", ["reason": "has no field 'n'"])
        && whole.err.shows("callsFailed", ["2": "2", "3": "4"]))
    let envelopes = try await Tool.run(
      "call", server.url + "/{n}", "--each", "--keep-going", "--envelope", input: input)
    #expect(envelopes.lines.count == 4)
    #expect(
      envelopes.lines[1].contains(#""status":500"#) && envelopes.lines[2].hasPrefix(#"{"error":{"code":"bad-input""#))
    let broken = try await Tool.run("call", server.url + "/{n}", "--each", input: #"{"n":1} oops"#)
    #expect(broken.status == 9 && broken.out == "{}\n")
    #expect(
      broken.err.showsOnly("inputNotJSON") && broken.err.contains("line 1, column 9: expected a value, found 'o'"))
  }

  @Test("looks a service up once for many calls, and turns to another instance when one goes away")
  func service() async throws {
    try await withService { service in
      let stays = try TestServer { _ in .kept("1") }
      let goes = try TestServer { _ in .kept("1") }
      for server in [stays, goes] {
        _ = try await Tool.run("register", service, "-p", "\(server.port)", "--address", "127.0.0.1")
      }
      let caller = try Tool.start("call", service + "/{n}", "--each", "-q", input: nil)
      for n in 1...10 { try caller.write("{\"n\":\(n)}\n") }
      try await eventually("ten answers") { caller.out.count == 20 }
      goes.stop()
      for n in 11...40 { try caller.write("{\"n\":\(n)}\n") }
      try caller.closeInput()
      let output = try await caller.end()
      #expect(output.status == 0)
      #expect(output.out == String(repeating: "1\n", count: 40))

      let all = try await Tool.run("call", service + "/x", "--all", "--envelope", "-q")
      #expect(all.lines.count == 2)
      #expect(all.status == 6)
      #expect(all.lines.contains { $0.contains(#""status":200"#) && $0.contains("-\(stays.port)\"") })
    }
  }

  @Test(
    "refuses what cannot be combined",
    arguments: [
      (["call", "s/{id}"], "a TARGET with {placeholders} requires '--each'"),
      (["call", "s/{id", "--each"], "TARGET: 's/{id' has unmatched braces"),
      (
        ["call", "s", "--each", "a=1"],
        "'--data' and items that build a body cannot be combined with '--each', whose values are the bodies"
      ),
      (["call", "s", "--parallel", "2"], "'--parallel' requires '--each' or '--all'"),
      (
        ["call", ":80", "--all"],
        "'--all' requires a TARGET of the form NAME/PATH and cannot be combined with '--each'"
      ),
      (["call", "s", "--each", "-o", "f"], "'--output' cannot be combined with '--each' or '--all'"),
    ])
  func usage(_ words: [String], _ message: String) async throws {
    let output = try await RunningProcess(Tool.binary, words).end()
    #expect(output.status == 2)
    #expect(output.err.hasPrefix("msctl: \(message)\n"))
  }
}

@Suite("msctl publish as a stage", .serialized)
struct PublishStageTests {
  @Test("--tee writes each value on once it is confirmed, and nothing that is not")
  func tee() async throws {
    try await withQueue(arguments: #"{"x-max-length":2,"x-overflow":"reject-publish"}"#) { queue in
      let output = try await Tool.run("publish", queue, "--passive", "--tee", input: #"{"a" : 1.10} 2 3"#)
      #expect(output.status == 7)
      #expect(output.out == "{\"a\":1.10}\n2\n")
    }
  }

  @Test("a long run shows on a terminal how far it is")
  func progress() async throws {
    try await withQueue { queue in
      let seen = FileManager.default.temporaryDirectory.appendingPathComponent(queue)
      defer { try? FileManager.default.removeItem(at: seen) }
      let input = "echo 1; until test -e \(seen.path); do sleep 0.1; done; echo 2"
      let run = try RunningProcess(
        "/usr/bin/env", ["script", "-qec", "(\(input)) | msctl publish \(queue)", "/dev/null"])
      try await eventually("it is shown") { run.out.contains("\u{1B}[K1 confirmed") }
      try Data().write(to: seen)
      #expect(try await run.end().out.hasSuffix("msctl: 2 messages confirmed\r\n"))
    }
  }

  @Test("--failed-to keeps what was not confirmed, as input for the next try with the same ids")
  func failedTo() async throws {
    try await withQueue(arguments: #"{"x-max-length":1,"x-overflow":"reject-publish"}"#) { small in
      try await withQueue { queue in
        let output = try await Tool.shell(
          """
          printf '1 2 3' | msctl publish \(small) --passive --failed-to $HOME/f -q; echo $?
          jq -r .properties.messageId $HOME/f | sort > $HOME/ids
          msctl publish \(queue) --envelope < $HOME/f
          msctl consume \(queue) --drain --envelope | tee $HOME/o | jq -r .properties.messageId | sort | cmp - $HOME/ids && echo same ids
          jq -c .body $HOME/o
          """)
        #expect(output.lines == ["7", "same ids", "2", "3"])
      }
    }
  }

  @Test("--failed-to keeps all that was never confirmed when the broker goes, the rest of the input too")
  func failedToAfterBreak() async throws {
    let output = try await Tool.shell(
      "seq 5 | msctl publish -x no-such-exchange -k k --window 2 --failed-to $HOME/f -q; echo $?; jq -c .body $HOME/f | tr '\\n' ' '"
    )
    #expect(output.out == "7\n1 2 3 4 5 ")
  }

  @Test("--reply waits for the answer to each message, in order")
  func reply() async throws {
    try await withQueue { queue in
      let responder = try Tool.start(
        "consume", queue, "--parallel", "4", "--exec",
        #"jq -c '{answer:(.n*2)}' | msctl publish -x '' -k "$MSCTL_REPLY_TO" --correlation-id "$MSCTL_CORRELATION_ID" -q"#
      )
      try await eventually("it consumes") { responder.err.shows("note declaredQueue") }
      let output = try await Tool.run(
        "publish", queue, "--reply", "--reply-timeout", "10m", "-q",
        input: #"{"n":1}{"n":2}{"n":3}{"n":4}{"n":5}"#)
      #expect(output.err == "")
      #expect(output.lines == (1...5).map { "{\"answer\":\($0 * 2)}" })
      responder.signal(SIGTERM)
      #expect(try await responder.end().status == 143)

      let late = try await Tool.run("publish", queue, "{}", "--reply", "--reply-timeout", "200ms")
      #expect(late.status == 8)
      #expect(late.err.shows("publish noReply", ["3": "1", "30 s": "200 ms"]), "\(late)")
    }
  }
}

@Suite("msctl consume as a source", .serialized)
struct ConsumeSourceTests {
  @Test("--raw and -0 write the bytes of each body")
  func raw() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: #""a b" {"n":1.10}"#)
      #expect(try await Tool.run("consume", queue, "--peek", "--raw").out == "\"a b\"\n{\"n\":1.10}\n")
      #expect(try await Tool.run("consume", queue, "--drain", "-0").out == "\"a b\"\0{\"n\":1.10}\0")
    }
  }

  @Test("--exec hands over body and properties, and acknowledges what succeeded")
  func exec() async throws {
    try await withQueue { queue in
      let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
      _ = try await Tool.run(
        "publish", queue, #"{"n":1}"#, "--message-id", "m1", "--type", "t1", environment: ["TRACEPARENT": trace])
      let output = try await Tool.run(
        "consume", queue, "--drain", "--exec",
        #"cat; echo " $MSCTL_MESSAGE_ID $MSCTL_TYPE $MSCTL_ROUTING_KEY $MSCTL_ATTEMPT $TRACEPARENT""#)
      #expect(output.status == 0)
      #expect(output.out.hasPrefix("{\"n\":1} m1 t1 \(queue) 1 00-0af7651916cd43dd8448eb211c80319c-"))
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("a command that fails has its message back in the queue, and a dead-letter queue gets it in the end")
  func attempts() async throws {
    try await withDeadLetters { queue, dead in
      _ = try await Tool.run("publish", queue, "--passive", input: "1 2 3")
      let output = try await Tool.run(
        "consume", queue, "--drain", "--max-attempts", "2", "--exec", "read x; echo try $x; test $x != 2")
      #expect(output.status == 1)
      #expect(Set(output.lines) == ["try 1", "try 3"])
      #expect(output.err.contains("the command exited with 1 (attempt 1); requeued in 200 ms"))
      #expect(output.err.contains("the command exited with 1 (attempt 2); rejected"))
      #expect(output.err.shows("consume rejected", ["3": "1"]))
      #expect(try await Services.messages(in: dead).map { $0["payload"] as? String } == ["2"])
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("--on-error says what becomes of a message: rejected, or back and the end")
  func onError() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1")
      let stopped = try await Tool.run("consume", queue, "--exec", "exit 42", "--on-error", "stop")
      #expect(stopped.status == 42)
      #expect(stopped.err.contains(": the command exited with 42\n       The message is requeued.\n"))
      #expect(try await Services.messages(in: queue).count == 1)
      let rejected = try await Tool.run("consume", queue, "--drain", "--exec", "exit 42", "--on-error", "reject")
      #expect(rejected.status == 1)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test(
    "a command that cannot be started stops the consumer at once, and nothing is lost",
    arguments: [
      (["--exec", "no-such-command-here"], 127), (["--through", "no-such-command-here"], 127),
      (["--exec", "/dev/null"], 126),
      (["--through", "no-such-command-here", "--restart"], 127),
    ] as [([String], Int32)])
  func cannotStart(_ words: [String], _ status: Int32) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let output = try await RunningProcess(Tool.binary, ["consume", queue] + words).end()
      #expect(output.status == status)
      #expect(
        output.err.shows(status == 127 ? "spawn not found" : "spawn by shell")
      )
      #expect(try await Services.messages(in: queue).count == 3)
    }
  }

  @Test("heartbeats go on while a command is slow")
  func slowCommand() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1")
      let output = try await Tool.run(
        "consume", queue, "--drain", "--exec", "sleep 15; echo done", "--broker", Services.broker + "?heartbeat=4")
      #expect(output.err == "")
      #expect(output.out == "done\n")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("--through acknowledges a message by each line of the filter")
  func through() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 5000 | msctl publish \(queue) -q")
      let output = try await Tool.shell(
        "msctl consume \(queue) --drain --through 'jq -c --unbuffered \"{n:.}\"' | tail -n 1; echo ${PIPESTATUS[0]}")
      #expect(output.out == "{\"n\":5000}\n0\n")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test(
    "a filter that ends with messages unanswered has failed, whatever its status; they go back",
    arguments: [
      // Each has read all three: one that ends before the last has come has left nothing unanswered.
      ("read x; read y; read z; echo $x; echo $y", 1, 1), ("read x; read y; read z; echo $x; printf half", 1, 2),
      ("read x; read y; read z; exit 7", 7, 3), ("read x; read y; read z; kill -9 $$", 137, 3),
    ] as [(String, Int32, Int)])
  func filterEnds(_ filter: String, _ status: Int32, _ left: Int) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let output = try await Tool.run("consume", queue, "--through", filter)
      #expect(output.status == status)
      #expect(
        output.err.contains("the filter '\(filter)' exited with \(status == 1 ? 0 : status), with \(left) message"))
      // Which of them the lines belong to, nobody can know.
      #expect(try await Services.messages(in: queue).count == 3)
    }
  }

  @Test("a filter that writes more lines than it got has no answers to give")
  func tooManyLines() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1")
      let output = try await Tool.run("consume", queue, "--through", "echo banner; echo more; cat")
      #expect(output.status == 1)
      #expect(output.err.shows("filter tooManyLines"))
    }
  }

  @Test(
    "a filter that holds back its output answers at the end of its input", arguments: [["--drain"], ["--count", "3"]])
  func bufferingFilter(_ end: [String]) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let output = try await RunningProcess(Tool.binary, ["consume", queue, "--through", "jq -c '[.]'"] + end).end()
      #expect(output.out == "[1]\n[2]\n[3]\n")
      #expect(output.status == 0)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("a filter that does not answer is remarked on")
  func silentFilter() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, input: "1 2 3")
      let consumer = try Tool.start("consume", queue, "--through", "cat > /dev/null")
      try await eventually("the remark") {
        consumer.err.contains(
          "msctl: the filter has written no line for 10 s, 3 messages unprocessed; if it buffers its output,")
      }
      consumer.signal(SIGTERM)
      #expect(try await consumer.end().status == 1)
      #expect(try await Services.messages(in: queue).count == 3)
    }
  }

  @Test("commands run beside each other, also with a count")
  func parallelCount() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 12 | msctl publish \(queue) -q")
      // Each waits until four have begun: one after another they would wait for ever.
      let output = try await Tool.shell(
        "msctl consume \(queue) --count 4 --parallel 4 --exec 'read x; touch $HOME/$x.run; until [ $(ls $HOME | grep -c run) = 4 ]; do sleep 0.05; done; echo $x' | sort"
      )
      #expect(output.out == "1\n2\n3\n4\n")
      let rest = try await Services.messages(in: queue)
      #expect(rest.count == 8 && rest.allSatisfy { $0["redelivered"] as? Bool == false })
    }
  }

  @Test("--restart starts a filter again, and rejects the message that it dies on")
  func restart() async throws {
    try await withDeadLetters { queue, dead in
      _ = try await Tool.run("publish", queue, "--passive", input: "1 2 3")
      let output = try await Tool.run(
        "consume", queue, "--drain", "--restart", "--max-attempts", "2", "--through",
        "while read x; do test $x = 2 && exit 5; echo $x; done")
      #expect(output.out == "1\n3\n")
      #expect(output.status == 1)
      #expect(output.err.contains("exited with 5, with 2 messages unprocessed\n       It is restarted in "))
      #expect(try await Services.messages(in: dead).map { $0["payload"] as? String } == ["2"])
    }
  }

  @Test("--exchange and --bind consume an own queue")
  func exchange() async throws {
    let key = Services.uniqueName("key")
    let consumer = try Tool.start("consume", "--exchange", "amq.topic", "--bind", key + ".#", "--count", "2")
    try await eventually("its queue is bound") {
      try await Tool.run("publish", "-x", "amq.topic", "-k", key + ".first", "1").status == 0
    }
    // What has another key is for others.
    _ = try await Tool.run("publish", "-x", "amq.topic", "-k", Services.uniqueName("other"), "0")
    _ = try await Tool.run("publish", "-x", "amq.topic", "-k", key, "2")
    #expect(try await consumer.end().lines == ["1", "2"])
    let wrong = try await Tool.run("consume", "--exchange", "no-such-exchange")
    #expect(wrong.status == 3)
    #expect(wrong.err.contains("no exchange 'no-such-exchange'"))
  }

  @Test("--stream reads from an offset, and takes nothing away")
  func stream() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"stream"}"#) { queue in
      _ = try await Tool.shell("seq 10 | msctl publish \(queue) --passive -q")
      let all = try await Tool.run("consume", queue, "--stream", "--offset", "first", "--count", "10", "--for", "10m")
      #expect(all.lines == (1...10).map(String.init))
      let rest = try await Tool.run("consume", queue, "--stream", "--offset", "7", "--count", "3", "--for", "10m")
      #expect(rest.lines == ["8", "9", "10"])
    }
  }
}

@Suite("Whole pipes", .serialized)
struct WholePipeTests {
  /// The lines of README.md that begin with `msctl` or `seq` under the heading of pipes.
  private static func readmeLines() throws -> [String] {
    let readme = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../README.md")
    let text = try String(contentsOf: readme, encoding: .utf8)
    let section = try #require(text.components(separatedBy: "## Pipes\n").last?.components(separatedBy: "\n## ").first)
    return section.split(separator: "\n").filter { $0.hasPrefix("    ") }.map { String($0.dropFirst(4)) }
  }

  @Test("the README's three pipes work as they stand")
  func readme() async throws {
    let lines = try Self.readmeLines()
    try #require(lines.count == 3)
    let server = try TestServer { request in
      if request.target == "/health" { return .ok("{\"up\":true}") }
      return request.method == "POST" ? .kept("{\"charged\":\(request.body)}") : .kept("{\"id\":\"\(request.target)\"}")
    }
    for service in ["user-service", "payment-service"] {
      _ = try await Tool.run("register", service, "-p", "\(server.port)", "--address", "127.0.0.1")
    }
    for queue in ["users", "orders", "receipts"] { try await Services.makeQueue(queue) }

    #expect(try await Tool.shell(lines[0]).out == "{\"up\":true}\n")

    #expect(try await Tool.shell("set -o pipefail; " + lines[1]).status == 0)
    let users = try await Tool.run("consume", "users", "--drain")
    #expect(users.lines == (1...100).map { "{\"id\":\"/users/\($0)\"}" })

    let published = try await Tool.shell("seq 50 | msctl publish orders -q")
    #expect(published.status == 0 && published.err == "", "\(published)")
    let pipe = try RunningProcess("/bin/bash", ["-c", "exec " + lines[2]])
    try await eventually("fifty receipts have come out") { pipe.out.split(separator: "\n").count == 50 }
    pipe.signal(SIGTERM)
    let end = try await pipe.end()
    #expect(end.status == 143, "\(end)")
    #expect(try await Services.messages(in: "orders").isEmpty)
    let receipts = try await Tool.run("consume", "receipts", "--drain")
    #expect(receipts.lines == (1...50).map { "{\"charged\":\($0)}" })

    for service in ["user-service", "payment-service"] { _ = try await Tool.run("register", service, "--remove") }
    for queue in ["users", "orders", "receipts"] { try await Services.deleteQueue(queue) }
  }

  @Test("every order has a receipt, though any process of the pipe is killed at any moment")
  func kills() async throws {
    let seed = UInt64.random(in: .min ... .max)
    var generator = SplitMix(seed: seed)
    let server = try TestServer { request in .kept(request.body) }
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "\(server.port)", "--address", "127.0.0.1")
      try await withQueue(arguments: "{}") { receipts in
        try await withQueue(arguments: "{}") { orders in
          let total = 2000
          _ = try await Tool.shell("seq \(total) | msctl publish \(orders) -q")
          let pipe = "msctl call POST \(service)/charges --each | msctl publish \(receipts) --tee -q"
          var killed: [String] = []
          for _ in 0..<20 {
            let run = try RunningProcess(
              Tool.binary, ["consume", orders, "--drain", "--prefetch", "20", "--through", pipe])
            let moment = Int.random(in: 0..<250, using: &generator)
            try await Task.sleep(for: .milliseconds(moment))
            let victim =
              [
                "consume \(orders)", "call POST \(service)/charges --each$", "publish \(receipts) --tee -q$",
                "sh -c .*\(receipts)",
              ]
              .randomElement(using: &generator) ?? ""
            let found = try await RunningProcess("/usr/bin/pkill", ["-KILL", "-f", "-o", victim]).end()
            killed.append("\(moment) ms: \(victim) \(found.status == 0)")
            _ = try await run.end()
          }
          var received: Set<String> = []
          // What the last one held is back once the broker has noticed its end.
          try await eventually("each has a receipt (seed \(seed), kills \(killed))") {
            let last = try await Tool.run("consume", orders, "--drain", "--through", pipe)
            #expect(last.status == 0, "seed \(seed), kills \(killed)")
            received.formUnion(try await Tool.run("consume", receipts, "--drain").lines)
            return received.count >= total
          }
          #expect(received == Set((1...total).map(String.init)), "seed \(seed), kills \(killed)")
          print(
            "Killed with seed \(seed): \(killed.count { $0.hasSuffix("true") }) of \(killed.count) found their process")
        }
      }
    }
  }

  @Test("one trace goes from the first publish to the last request")
  func trace() async throws {
    let server = try TestServer { _ in .ok("{}") }
    try await withQueue { queue in
      let id = "0af7651916cd43dd8448eb211c80319c"
      _ = try await Tool.run("publish", queue, "1", environment: ["TRACEPARENT": "00-\(id)-b7ad6b7169203331-01"])
      _ = try await Tool.run("consume", queue, "--drain", "--exec", "msctl call \(server.url)/last")
      #expect(server.requests.first?.header("traceparent")?.hasPrefix("00-\(id)-") == true)
    }
  }
}
