import Foundation
import Support
import Synchronization
import Testing

/// What one bad message, a broker that stays away or an old file must not cost.
@Suite("msctl publish loses nothing", .serialized)
struct PublishLossTests {
  @Test("a file of failed messages may be the input, and holds again what fails again")
  func sameFile() async throws {
    try await withQueue(arguments: #"{"x-max-length":1,"x-overflow":"reject-publish"}"#) { queue in
      let output = try await Tool.shell(
        """
        printf '1 2 3 4' | msctl publish \(queue) --failed-to $HOME/f -q 2>&-; wc -l < $HOME/f
        msctl publish -e --failed-to $HOME/f < $HOME/f 2>&-; echo $?; wc -l < $HOME/f
        msctl consume \(queue) --drain > /dev/null
        head -n 1 $HOME/f > $HOME/g; msctl publish -e --failed-to $HOME/g < $HOME/g; echo $?; wc -c < $HOME/g; ls $HOME | wc -l
        """)
      let numbers = output.lines.compactMap { Int($0.filter { $0 != " " }) }
      // One fits. Of the three that failed, none does; then there is room for one. f, g and what the test itself has there.
      #expect(numbers.prefix(5) == [3, 7, 3, 0, 0], "\(output)")
    }
  }

  @Test("a file that is the input and is not read to its end stays as it was")
  func unreadInput() async throws {
    try await withQueue { queue in
      let output = try await Tool.shell(
        """
        printf '{"body":1}\n{bad\n{"body":3}\n' > $HOME/f; cp $HOME/f $HOME/g
        msctl publish \(queue) -e --failed-to $HOME/f < $HOME/f; echo $?; cmp $HOME/f $HOME/g && echo same
        msctl publish \(queue) x --text --failed-to /dev/stdout | wc -c; test -L /dev/stdout && echo link
        """)
      #expect(output.lines.map { $0.filter { $0 != " " } } == ["9", "same", "0", "link"], "\(output)")
      #expect(output.err.shows("note unchangedFile"))
    }
  }

  @Test("a run that is killed leaves the old file of failed messages alone, one that succeeds empties it")
  func oldFile() async throws {
    try await withQueue { queue in
      let file = FileManager.default.temporaryDirectory.appendingPathComponent(queue)
      defer { try? FileManager.default.removeItem(at: file) }
      try Data("old\n".utf8).write(to: file)
      let publisher = try Tool.start("publish", queue, "--tee", "--failed-to", file.path, input: nil)
      try publisher.write("1\n")
      try await eventually("it publishes") { publisher.out == "1\n" }
      publisher.signal(SIGKILL)
      #expect(try await publisher.end().status == 137)
      #expect(try String(contentsOf: file, encoding: .utf8) == "old\n")
      #expect(try await Tool.run("publish", queue, "1", "--failed-to", file.path).status == 0)
      #expect(try String(contentsOf: file, encoding: .utf8) == "")
      for draft in try FileManager.default.contentsOfDirectory(atPath: file.deletingLastPathComponent().path)
      where draft.hasPrefix(queue + ".msctl-") {
        try? FileManager.default.removeItem(at: file.deletingLastPathComponent().appendingPathComponent(draft))
      }
    }
  }

  @Test("headers that are larger than a frame cost their message alone")
  func largeHeaders() async throws {
    try await withQueue(arguments: "{}") { queue in
      let output = try await Tool.shell(
        """
        { for n in $(seq 200); do
            test $n = 150 && { printf '{"body":%s,"properties":{"messageId":"big","headers":{"h":"' $n; head -c 140000 /dev/zero | tr '\\0' x; echo '"}}}'; } \
              || echo '{"body":'$n'}'
          done; } | msctl publish \(queue) -e --failed-to $HOME/f; echo $?; jq -c .body $HOME/f; msctl consume \(queue) --drain | sort -u | wc -l
        """)
      #expect(output.lines == ["7", "150", "199"], "\(output)")
      #expect(
        output.err == "msctl: message 150 (big) cannot be sent: its headers do not fit into a frame of 131072 bytes\n"
          + "msctl: 199 messages confirmed\nmsctl: 1 message of 200 not delivered\n")
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("a value that is not an envelope is named at its place, kept, and does not stop the others")
  func badEnvelope() async throws {
    try await withQueue(arguments: "{}") { queue in
      let output = try await Tool.shell(
        """
        printf '{"body":1}{"nobody":2}\\n{"body":3}' | msctl publish \(queue) -e --failed-to $HOME/f; echo $?; cat $HOME/f
        msctl consume \(queue) --drain
        """)
      #expect(output.lines == ["9", #"{"nobody":2}"#, "1", "3"], "\(output)")
      #expect(
        output.err.showsOnly(
          "notEnvelope", "note confirmed", "unpublished", with: ["3": "2", "reason": "has no 'body'"]))
    }
  }

  @Test("a message that is too large for the broker is refused by itself")
  func tooLarge() async throws {
    let control = ProcessInfo.processInfo.environment["MSCTL_TEST_RABBITMQCTL"] ?? ""
    // The limit of RabbitMQ 4, on older ones too.
    _ = try await RunningProcess(
      control, ["eval", "application:set_env(rabbit, max_message_size, 16777216)."]
    ).end()
    try await withQueue(arguments: "{}") { queue in
      let output = try await Tool.shell(
        """
        large() { printf '"'; head -c 17000000 /dev/zero | tr '\\0' $1; echo '"'; }
        { seq 20; large a; seq 21 40; large b; seq 41 60; } | msctl publish \(queue) --failed-to $HOME/f; echo $?
        wc -l < $HOME/f; cut -c 1-12 $HOME/f; msctl consume \(queue) --drain | tr '\\n' ' '
        """)
      #expect(
        output.lines == [
          "7", "2", #"{"body":"aaa"#, #"{"body":"bbb"#, (1...60).map { "\($0) " }.joined(),
        ], "\(output.status) \(output.err.prefix(500)) \(output.out.prefix(500))")
      let err = output.err.split(separator: "\n").map(String.init)
      try #require(err.count == 4, "\(err)")
      #expect(err[0].hasPrefix("msctl: message 21 ") && err[1].hasPrefix("msctl: message 42 "), "\(err)")
      #expect(err[0].contains("16777216") && err[1].contains("17000002 bytes, and the broker takes 16777216"), "\(err)")
      #expect(err[3].shows("undelivered", ["2": "2", "3": "62"]))
    }
  }

  @Test("a message that breaks a rule of the broker is found among those in flight")
  func culprit() async throws {
    try await withQueue(arguments: "{}") { queue in
      let output = try await Tool.shell(
        """
        for n in $(seq 50); do
          case $n in 20|21|44) echo '{"body":'$n',"properties":{"userId":"nobody"}}';; *) echo '{"body":'$n'}';; esac
        done | msctl publish \(queue) -e --failed-to $HOME/f; echo $?; jq -c .body $HOME/f; msctl consume \(queue) --drain | sort -nu | wc -l
        """)
      #expect(output.lines == ["7", "20", "21", "44", "47"], "\(output)")
      #expect(output.err.contains("msctl: message 20 was refused by the broker: PRECONDITION_FAILED - user_id "))
      #expect(output.err.hasSuffix("msctl: 47 messages confirmed\nmsctl: 3 messages of 50 not delivered\n"))
    }
  }

  @Test("with --failed-to, a broker that is not there costs nothing, and a signal ends the reading")
  func noBroker() async throws {
    let uri = "amqp://127.0.0.1:\(try Services.freePort())"
    let output = try await Tool.shell(
      "seq 3 | msctl publish q --failed-to $HOME/f; echo $?; jq -c .body $HOME/f", environment: ["AMQP_URL": uri])
    #expect(output.lines == ["6", "1", "2", "3"], "\(output)")
    #expect(output.err.shows("note savingRest"))

    let file = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("failed"))
    defer { try? FileManager.default.removeItem(at: file) }
    let publisher = try Tool.start(
      "publish", "q", "--failed-to", file.path, input: nil, environment: ["AMQP_URL": uri])
    try publisher.write("1 2 ")
    try await eventually("it reads on") {
      publisher.err.shows("note savingRest", ["path": file.path])
    }
    // What it has read is not to be seen from outside, but a signal counts only after what came before it is taken.
    try await eventually("it has read them") {
      let link = try await RunningProcess("/bin/cat", ["/proc/\(publisher.pid)/io"]).end().out
      return link.split(separator: "\n").first.flatMap { Int($0.dropFirst(7)) } ?? 0 > 0
    }
    publisher.signal(SIGTERM)
    let end = try await publisher.end()
    #expect(end.status == 143 && end.err.shows("note restNotSaved"), "\(end)")
    let kept = try String(contentsOf: file, encoding: .utf8)
    #expect(kept.isEmpty || kept.contains(#""body":1"#))
  }

  @Test("messages of one run do not share a message id")
  func messageIDs() async throws {
    try await withQueue { queue in
      #expect(try await Tool.run("publish", queue, "--message-id", "x", input: "1 2 3").status == 0)
      let output = try await Tool.shell(
        "msctl consume \(queue) --drain -e | jq -r .properties.messageId | paste -sd ' '")
      #expect(output.out == "x x-2 x-3\n")
    }
  }

  @Test(
    "a queue that exists is used with its own arguments",
    arguments: [
      #"{"x-queue-type":"quorum"}"#, #"{"x-dead-letter-exchange":"amq.fanout","x-max-length":9}"#,
      #"{"x-queue-type":"stream"}"#,
    ])
  func existing(_ arguments: String) async throws {
    try await withQueue(arguments: arguments) { queue in
      let output = try await Tool.run("publish", queue, "1")
      #expect(output.status == 0 && output.err.showsOnly("note confirmed", with: ["3": "1"]), "\(output)")
    }
  }

  @Test("a wrong argument of a new queue and a queue of another connection are told as that")
  func wrongQueue() async throws {
    try await withQueue { queue in
      let output = try await Tool.run("publish", queue, "1", "--queue-argument", "x-queue-type=qourum")
      #expect(output.status == 1, "\(output)")
      #expect(output.err.shows("queue with invalid arguments", ["queue": queue]), "\(output)")
    }
    let broker = try FakeBroker { peer, method in
      guard method.name == .declareQueue else { return false }
      peer.send(FakeBroker.closeChannel(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'"))
      return true
    }
    let output = try await Tool.run("publish", "q", "1", environment: ["AMQP_URL": broker.uri])
    #expect(
      output.status == 1 && output.err.shows("queue channelClosed(code: 405)", ["queue": "q"]), "\(output)")
  }

  @Test("the name of a queue with a line break is refused", arguments: ["a\nb", "a\r", "\n"])
  func lineBreak(_ name: String) async throws {
    for words in [["publish", name, "1"], ["consume", name, "--drain"]] {
      let output = try await RunningProcess(Tool.binary, words).end()
      #expect(output.status == 2 && output.err.contains("line break, which RabbitMQ removes"), "\(output)")
    }
  }

  @Test("names that are not UTF-8 keep their bytes, from a broker to a broker")
  func names() async throws {
    let headers =
      FakeBroker.header([0xFF], "one") + FakeBroker.header([0xFE], "two") + FakeBroker.header([0x61, 0x80], "three")
    let broker = try FakeBroker { peer, method in
      guard method.name == .consume else { return false }
      peer.send(
        FakeBroker.method(0x003C_0015, FakeBroker.shortText("tag"))
          + FakeBroker.deliver(tag: 1, body: [0x31], headers: headers))
      return true
    }
    let consumed = try await Tool.run(
      "consume", "q", "-e", "--count", "1", "--passive", environment: ["AMQP_URL": broker.uri])
    #expect(consumed.status == 0, "\(consumed)")
    let sent = LockedBytes()
    let second = try FakeBroker { peer, method in
      guard method.name == .publish else { return false }
      peer.send(FakeBroker.ack(peer.publishes))
      return true
    }
    // What goes over the wire is seen by a proxy.
    let proxy = try FaultProxy(to: second.port) { _ in .none }
    let published = try await Tool.run(
      "publish", "q", "-e", input: consumed.out, environment: ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)"])
    #expect(published.status == 0, "\(published)")
    sent.bytes = proxy.recorded.up
    #expect(sent.holds(headers))
  }

  @Test("every type of a header value arrives as it was, and what a broker adds is not published again")
  func types() async throws {
    try await withQueue { queue in
      let headers =
        #"{"i8":{"$int8":-5},"u8":{"$uint8":200},"i16":{"$int16":-300},"u16":{"$uint16":60000},"i32":-7,"u32":{"$uint32":4000000000},"i64":{"$int64":7},"big":9007199254740993,"f":{"$float32":1.5},"d":1.25,"dec":{"$decimal":"-1.25"},"ts":{"$timestamp":1700000000},"b":{"$bytes":"/wA="},"s":{"$string":"/wA="},"t":true,"a":[1,{"$int64":2}]}"#
      let input =
        #"{"body":1,"properties":{"headers":"# + headers.dropLast() + #","x-delivery-count":9,"x-acquired-count":9}}}"#
      let output = try await Tool.shell(
        "msctl publish \(queue) -e -q && msctl consume \(queue) --count 1 -e | jq -cS .properties.headers",
        input: input)
      let sorted = try await Tool.shell("jq -cS .", input: headers)
      #expect(output.out == sorted.out, "\(output)")
    }
  }

  @Test(
    "the first connection is waited for, by publisher and consumer", arguments: ["publish q 1", "consume q --count 1"])
  func waits(_ words: String) async throws {
    let broker = try FakeBroker { peer, method in
      switch method.name {
      case .startOk where peer.number < 3: peer.cut()
      case .publish: peer.send(FakeBroker.ack(1))
      case .consume:
        peer.send(
          FakeBroker.method(0x003C_0015, FakeBroker.shortText("tag")) + FakeBroker.deliver(tag: 1, body: [0x31]))
      default: return false
      }
      return true
    }
    let once = try await Tool.shell("msctl \(words)", environment: ["AMQP_URL": broker.uri])
    #expect(once.status == 6 && broker.connections == 1)
    let output = try await Tool.shell("msctl \(words) --wait 10m", environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 0 && broker.connections == 4, "\(output)")
    #expect(output.err.shows("note waitingForBroker"))
  }

  /// A broker that replies to nothing after `connection.tune` before the last method of the opening has come.
  private func silentBroker(until last: FakeBroker.Name, then: @escaping @Sendable (FakeBroker.Peer) -> Void) throws
    -> (broker: FakeBroker, methods: Methods)
  {
    let methods = Methods()
    let broker = try FakeBroker { peer, method in
      guard let name = method.name, ![.startOk, .tuneOk].contains(name), !methods.names.contains(last) else {
        return false
      }
      let all = methods.add(method)
      if name == last {
        for method in all { FakeBroker.reply(to: method, peer) }
        then(peer)
      }
      return true
    }
    return (broker, methods)
  }

  private final class Methods: Sendable {
    private let all = Mutex<[FakeBroker.Method]>([])
    var names: [FakeBroker.Name] { all.withLock { $0.compactMap(\.name) } }

    func add(_ method: FakeBroker.Method) -> [FakeBroker.Method] {
      all.withLock {
        $0.append(method)
        return $0
      }
    }
  }

  @Test("connection, channel, queue, confirms and the first message are one flight")
  func oneFlight() async throws {
    let publishing = try silentBroker(until: .publish) { $0.send(FakeBroker.ack(1)) }
    let published = try await Tool.run("publish", "q", "1", environment: ["AMQP_URL": publishing.broker.uri])
    #expect(published.status == 0, "\(published)")
    #expect(
      publishing.methods.names == [.connectionOpen, .channelOpen, .declareQueue, .selectConfirms, .publish])

    let consuming = try silentBroker(until: .consume) { $0.send(FakeBroker.deliver(tag: 1, body: [0x31])) }
    let consumed = try await Tool.run(
      "consume", "q", "--count", "1", environment: ["AMQP_URL": consuming.broker.uri])
    #expect(consumed.status == 0 && consumed.out == "1\n", "\(consumed)")
    #expect(
      consuming.methods.names == [.connectionOpen, .channelOpen, .declareQueue, .prefetch, .consume])
  }

  @Test("a connection that breaks when the first message was sent along is another one's business")
  func brokenFlight() async throws {
    let ids = LockedBytes()
    let broker = try FakeBroker { peer, method in
      switch method.name {
      // Its replies are lost.
      case .connectionOpen, .channelOpen, .declareQueue, .selectConfirms: return peer.number == 0
      case .publish:
        ids.bytes += method.body
        if peer.number == 0 { peer.cut() } else { peer.send(FakeBroker.ack(1)) }
        return true
      default: return false
      }
    }
    let output = try await Tool.run("publish", "q", "1", environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 0 && broker.connections == 2, "\(output)")
    #expect(ids.bytes == Array("11".utf8))
    let once = try FakeBroker { peer, method in
      if method.name == .publish { peer.cut() }
      return [.connectionOpen, .channelOpen, .declareQueue, .selectConfirms, .publish].contains(method.name)
    }
    let lost = try await Tool.run("publish", "q", "1", "--reconnect-for", "0", environment: ["AMQP_URL": once.uri])
    #expect(lost.status == 7 && lost.err.shows("publish broker with unconfirmed", ["3": "1"]), "\(lost)")
    #expect(once.connections == 1)
  }

  @Test("a message that was sent along is not there where the queue is refused, and there once where it is new")
  func refusedFlight() async throws {
    try await withQueue(arguments: #"{"x-max-length":5}"#) { queue in
      let refused = try await Tool.run("publish", queue, "1", "--queue-argument", "x-max-length=6")
      #expect(refused.status == 1 && refused.err.shows("queue with other arguments", ["queue": queue]), "\(refused)")
      #expect(try await Services.messages(in: queue).isEmpty)
      try await Services.deleteQueue(queue)
      for words in [["2"], ["3"]] {
        #expect(try await RunningProcess(Tool.binary, ["publish", queue] + words).end().status == 0)
      }
      #expect(try await Tool.run("consume", queue, "--drain").out == "2\n3\n")
      let kept = try await Tool.shell(
        "msctl publish \(queue) 4 --queue-argument x-max-length=6 --failed-to -", environment: [:])
      #expect(kept.status == 1 && kept.out.contains(#""body":4"#), "\(kept)")
    }
  }

  @Test("a password is read again at every connection, and one that expires leads to a new connection")
  func passwordFile() async throws {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("password"))
    defer { try? FileManager.default.removeItem(at: file) }
    try Data("first-token\n".utf8).write(to: file)
    let logins = LockedBytes()
    let broker = try FakeBroker { peer, method in
      switch method.name {
      case .startOk:
        logins.bytes += method.arguments
        return false
      case .publish where peer.number == 0:
        try? Data("second-token\n".utf8).write(to: file)
        peer.send(
          FakeBroker.closeChannel(403, "ACCESS_REFUSED - Provided JWT token has expired at timestamp 1700000000"))
      case .publish: peer.send(FakeBroker.ack(1))
      default: return false
      }
      return true
    }
    let output = try await Tool.run(
      "publish", "q", "1", environment: ["AMQP_URL": broker.uri, "AMQP_PASSWORD_FILE": file.path])
    #expect(output.status == 0 && broker.connections == 2, "\(output)")
    #expect(logins.holds(Array("\0guest\0first-token".utf8)) && logins.holds(Array("\0guest\0second-token".utf8)))
    #expect(!output.err.contains("token\n") && !output.err.contains("-token"))
  }

  @Test("a command inherits no socket of msctl", arguments: [false, true])
  func inherited(_ overTLS: Bool) async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, "1")
      let uri = overTLS ? "\(Services.brokerOverTLS)?cacertfile=\(Services.certificates)/ca.pem" : Services.broker
      let output = try await Tool.startBare(
        ["consume", queue, "--count", "1", "--exec", "readlink /proc/$$/fd/*; :"], environment: ["AMQP_URL": uri]
      ).end()
      #expect(output.lines.count >= 3 && !output.out.contains("socket:"), "\(output)")
    }
  }
}

/// Bytes that a server's thread collects.
private final class LockedBytes: @unchecked Sendable {
  private let lock = NSLock()
  private var stored: [UInt8] = []

  var bytes: [UInt8] {
    get { lock.withLock { stored } }
    set { lock.withLock { stored = newValue } }
  }

  func holds(_ part: [UInt8]) -> Bool {
    let all = bytes
    return all.indices.contains { all[$0...].starts(with: part) }
  }
}

@Suite("TLS to an IP address", .serialized)
struct AddressTLSTests {
  /// A TLS server with a certificate of these names, and what msctl says to it.
  private func publish(to host: String, names: String, within time: Int = 600_000) async throws -> Output {
    let port = try Services.freePort()
    let script = """
      cd $HOME; ca=\(Services.certificates)
      openssl req -newkey rsa:2048 -nodes -keyout key -out csr -subj /CN=x; echo subjectAltName=\(names) > ext
      openssl x509 -req -in csr -CA $ca/ca.pem -CAkey $ca/ca.key -set_serial $RANDOM -days 2 -extfile ext -out cert
      openssl s_server -accept \(port) -cert cert -key key -quiet < <(sleep 600) & server=$!
      until (exec 3<>/dev/tcp/127.0.0.1/\(port)); do sleep 0.1; done
      msctl publish q 1 --broker "amqps://\(host):\(port)?cacertfile=$ca/ca.pem&connection_timeout=\(time)"; echo $?; kill $server
      """
    return try await Tool.shell("{ \(script); } 2>$HOME/err; grep msctl: $HOME/err")
  }

  @Test(
    "a name in the certificate does not stand for an address",
    arguments: ["DNS:*.0.0.1", "DNS:127.0.0.1", "IP:127.0.0.2"])
  func wrong(_ names: String) async throws {
    for host in ["127.0.0.1", "127.1"] {
      let output = try await publish(to: host, names: names)
      #expect(output.out.shows("broker tls", hint: false), "\(output)")
    }
  }

  @Test("an address in the certificate does, and a name goes with names")
  func right() async throws {
    // Trusted, and then it does not speak AMQP.
    let output = try await publish(to: "127.0.0.1", names: "IP:127.0.0.1", within: 10_000)
    #expect(!output.out.shows("broker tls", hint: false) && output.out.contains("AMQP"), "\(output)")
    let name = try await publish(to: "localhost", names: "IP:127.0.0.1")
    #expect(name.out.shows("broker tls", hint: false), "\(name)")
    try await withQueue { queue in
      let uri = "\(Services.brokerOverTLS)?cacertfile=\(Services.certificates)/ca.pem"
        .replacingOccurrences(of: "localhost", with: "127.0.0.1")
      let published = try await Tool.run("publish", queue, "1", environment: ["AMQP_URL": uri])
      #expect(published.status == 0, "\(published)")
    }
  }
}
