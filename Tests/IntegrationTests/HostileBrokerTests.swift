import Foundation
import Support
import Synchronization
import Testing

/// What a broker must not send, sent without end. The limit of memory is what makes a test fail that only ends late.
@Suite("A hostile broker", .serialized)
struct HostileBrokerTests {
  /// Runs msctl with at most 1 GiB of memory.
  private func run(_ words: String, _ broker: FakeBroker) async throws -> Output {
    try await Tool.shell("ulimit -v 1048576; msctl \(words)", environment: ["AMQP_URL": broker.uri])
  }

  /// Sends a piece again and again, many at a time.
  private static func flood(_ peer: FakeBroker.Peer, _ piece: [UInt8]) {
    let pieces = Array(repeating: piece, count: max(1, 65536 / piece.count)).flatMap { $0 }
    while peer.send(pieces) {}
  }

  enum Flood: CaseIterable { case deliveries, acks, nacks, returns, cancels, strangers }

  @Test("cannot fill the memory of a publisher", arguments: Flood.allCases)
  func publisher(_ flood: Flood) async throws {
    let (piece, sentence) =
      switch flood {
      case .deliveries:
        (
          FakeBroker.deliver(tag: 1, body: [UInt8](repeating: 0x61, count: 1 << 20)),
          "the broker sent a message although nothing is consumed"
        )
      case .acks: (FakeBroker.ack(1), "the broker confirmed more messages than were published")
      case .nacks: (FakeBroker.nack(1), "the broker confirmed more messages than were published")
      case .returns: (FakeBroker.returned(body: [0x31]), "the broker returned more messages than were published")
      case .cancels:
        (
          FakeBroker.method(0x003C_001E, [3, 0x74, 0x61, 0x67, 0]), "the broker cancelled more consumers than there are"
        )
      case .strangers: (FakeBroker.method(0x0014_0014, [1]), "the broker sent AMQP_CHANNEL_FLOW_METHOD")
      }
    let broker = try FakeBroker { peer, method in
      guard method.name == .publish else { return false }
      Self.flood(peer, piece)
      return true
    }
    // Two: the first ack may be for the first message.
    let output = try await run("publish q --reconnect-for 5s <<< '1 2'", broker)
    #expect([1, 7].contains(output.status), "\(output)")
    #expect(
      output.err.shows("broker violation", ["reason": sentence]) && output.err.contains("127.0.0.1:\(broker.port)"))
    #expect(broker.connections == 1)
  }

  @Test("cannot fill the memory while a reply is waited for")
  func duringReply() async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .declareQueue else { return false }
      Self.flood(peer, FakeBroker.ack(1))
      return true
    }
    let output = try await run("publish q 1", broker)
    // The message was sent along with the opening: whether it arrived, nobody knows.
    #expect(output.status == 7)
    #expect(output.err.contains("the broker confirmed more messages than were published"), "\(output)")
  }

  @Test("cannot fill the memory with replies")
  func replies() async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .publish else { return false }
      peer.send(FakeBroker.ack(1))
      Self.flood(peer, FakeBroker.deliver(tag: 1, body: [UInt8](repeating: 0x61, count: 1 << 20)))
      return true
    }
    let output = try await run("publish q 1 --reply --reconnect-for 5s", broker)
    #expect([1, 7].contains(output.status), "\(output)")
    #expect(output.err.contains("the broker sent more replies than there were requests"), "\(output)")
    #expect(broker.connections == 1)
  }

  @Test("cannot fill the memory while it lets us in")
  func duringLogin() async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .connectionOpen else { return false }
      Self.flood(peer, FakeBroker.ack(1))
      return true
    }
    // The message was sent along with the opening: whether it arrived, nobody knows.
    let output = try await run("publish q 1", broker)
    #expect(output.status == 7)
    #expect(output.err.contains("the broker confirmed more messages than were published"), "\(output)")
  }

  @Test("cannot deliver past the prefetch, whatever the reader of the output does")
  func prefetch() async throws {
    let sent = Counter()
    let broker = try FakeBroker { peer, method in
      guard method.name == .consume else { return false }
      peer.send(FakeBroker.method(0x003C_0015, FakeBroker.shortText("tag")))
      var tag: UInt64 = 0
      let body = [UInt8](repeating: 0x61, count: 100_000)
      repeat {
        tag += 1
        sent.next()
      } while peer.send(FakeBroker.deliver(tag: tag, body: body))
      return true
    }
    // Nobody reads the output, so nothing is acknowledged.
    let script = try RunningProcess(
      "/bin/bash",
      [
        "-c",
        "exec 3<&0; ulimit -v 1048576; { msctl consume q --prefetch 10 --passive; echo $? >&2; } | { read -r go <&3; }",
      ],
      input: nil, environment: ["AMQP_URL": broker.uri])
    var (count, since) = (0, ContinuousClock.now)
    try await eventually("more is sent than may be, and no more is read") {
      if sent.value != count { (count, since) = (sent.value, .now) }
      return count > 12 && since.duration(to: .now) > .seconds(5)
    }
    try script.write("go\n")
    let output = try await script.end()
    #expect(output.err.contains("the broker sent more messages than the prefetch of 10 allows"), "\(output)")
    #expect(output.err.hasSuffix("\n1\n"), "\(output)")
  }

  // Whatever is asked of the broker, its response comes after the messages that it has sent.
  @Test("cannot fill the memory of --peek by what comes before a response", arguments: [false, true])
  func peek(_ isClosed: Bool) async throws {
    let count = 500
    let consuming = Mutex(0)
    let broker = try FakeBroker { peer, method in
      func deliver() {
        let body = [UInt8](repeating: 0x61, count: 1 << 20)
        for tag in 1...count where !peer.send(FakeBroker.deliver(tag: UInt64(tag), body: body)) { return }
      }
      switch method.name {
      case .consume:
        peer.send(FakeBroker.consuming())
        consuming.withLock { $0 = 1 }
        if isClosed { deliver() }
        return true
      case .declareQueue:
        let asked = consuming.withLock { number in
          if number > 0 { number += 1 }
          return number
        }
        // The first question is whether the queue is empty.
        if !isClosed, asked == 2 { deliver() }
        peer.send(FakeBroker.declared("q", messages: asked > 0 ? 0 : count))
        return true
      default: return false
      }
    }
    let output = try await Tool.shell(
      "ulimit -v 524288; { msctl consume q --peek; echo $? >&2; } | \(isClosed ? "head -c 1" : "wc -l")",
      environment: ["AMQP_URL": broker.uri])
    #expect(output.out == (isClosed ? "\"" : "\(count)\n") && output.err == (isClosed ? "141\n" : "0\n"), "\(output)")
  }

  @Test("cannot forge a line, nor write to the terminal, by a reply text", arguments: ["", "-v", "--json-errors"])
  func replyText(_ option: String) async throws {
    let text = "no\nmsctl: all is well\r\u{1B}[2J\u{9B}31m\u{7F}"
    for closing in [FakeBroker.closeChannel(406, text), FakeBroker.closeConnection(501, text)] {
      let broker = try FakeBroker { peer, method in
        guard method.name == .declareQueue else { return false }
        peer.send(FakeBroker.blocked(text) + closing)
        return true
      }
      for words in ["publish q 1 --reconnect-for 1s", "consume q --reconnect-for 1s", "consume q --drain"] {
        let output = try await run("\(words) \(option)", broker)
        #expect(output.status != 0 && output.err.contains("all is well"), "\(output)")
        #expect(!output.err.contains("\nmsctl: all is well"), "\(output)")
        #expect(
          output.err.unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) },
          "\(output)")
      }
    }
  }

  @Test(
    "messages for which there is no memory end it with a sentence, and no trap",
    arguments: [
      (200 << 20, "", "a message is larger than "), (5 << 20, "--parallel 100 --exec 'sleep 300'", "for more messages"),
    ])
  func memory(_ size: Int, _ words: String, _ sentence: String) async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .consume else { return false }
      peer.send(FakeBroker.consuming())
      let body = [UInt8](repeating: 0x61, count: size)
      for tag in 1...100 where !peer.send(FakeBroker.deliver(tag: UInt64(tag), body: body)) { break }
      return true
    }
    let output = try await Tool.shell(
      "ulimit -v 524288; msctl consume q \(words) > $HOME/out", environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 1 && output.err.contains(": not enough memory"), "\(output)")
    #expect(output.err.contains(sentence), "\(output)")
    #expect(broker.connections == 1)
  }

  @Test("that says without end that it blocks us does not stop the clock")
  func blocked() async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .publish else { return false }
      Self.flood(peer, FakeBroker.blocked("disk") + FakeBroker.method(0x000A_003D, [], channel: 0))
      return true
    }
    let output = try await run("publish q 1 --confirm-timeout 1s", broker)
    #expect(output.status == 7 && ["", " 2"].contains { output.err.shows("publish unconfirmed" + $0) }, "\(output)")
  }

  enum Content: CaseIterable { case huge, empty, unasked, interleaved, foreign, exchange }

  @Test("cannot make it believe a message that it does not send", arguments: Content.allCases)
  func content(_ content: Content) async throws {
    let deliver = FakeBroker.method(0x003C_003C, [0] + FakeBroker.longLong(1) + [0, 0, 1, 0x71])
    func header(_ size: UInt64, class number: UInt16 = 60) -> [UInt8] {
      FakeBroker.frame(
        2, FakeBroker.short(number) + FakeBroker.short(0) + FakeBroker.longLong(size) + FakeBroker.short(0))
    }
    let (bytes, sentence): ([UInt8], String) =
      switch content {
      case .huge: (deliver + header(.max - 1), "a message of 18446744073709551614 bytes")
      case .empty: (deliver + header(5) + FakeBroker.frame(3, []), "a message body out of place")
      case .unasked: (header(0), "a message header out of place")
      case .interleaved: (deliver + deliver, "a delivery tag twice")
      case .exchange: (deliver + header(3, class: 40), "a message header of class 40")
      case .foreign: (FakeBroker.frame(3, [1], channel: 7), "a frame on channel 7, which is not open")
      }
    let broker = try FakeBroker { peer, method in
      guard method.name == .consume else { return false }
      peer.send(FakeBroker.method(0x003C_0015, FakeBroker.shortText("tag")) + bytes)
      return true
    }
    let output = try await run("consume q --passive --for 10m", broker)
    #expect(output.status == 1 && output.err.contains(sentence), "\(output)")
  }

  @Test("a body of half a GiB that never comes takes no memory")
  func halfBody() async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .consume else { return false }
      let deliver = FakeBroker.method(0x003C_003C, [0] + FakeBroker.longLong(1) + [0, 0, 1, 0x71])
      let header = FakeBroker.short(60) + FakeBroker.short(0) + FakeBroker.longLong(512 << 20) + FakeBroker.short(0)
      peer.send(FakeBroker.method(0x003C_0015, FakeBroker.shortText("tag")) + deliver + FakeBroker.frame(2, header))
      return true
    }
    let output = try await Tool.shell(
      "ulimit -v 500000; msctl consume q --passive --for 500ms", environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 0 && output.err == "", "\(output)")
  }

  @Test("a frame that cannot be read is told as that, with the place")
  func unreadable() async throws {
    let broker = try FakeBroker { peer, method in
      guard method.name == .consume else { return false }
      // A table that says it is longer than it is.
      let header =
        FakeBroker.short(60) + [UInt8](repeating: 0, count: 10) + FakeBroker.short(1 << 13) + [0xFF, 0xFF, 0, 0]
      peer.send(
        FakeBroker.method(0x003C_0015, FakeBroker.shortText("tag"))
          + FakeBroker.method(0x003C_003C, [0] + FakeBroker.longLong(1) + [0, 0, 1, 0x71]) + FakeBroker.frame(2, header)
      )
      return true
    }
    let output = try await run("consume orders --passive --reconnect-for 0", broker)
    #expect(output.status == 6, "\(output)")
    #expect(
      output.err.shows("queue unreadableFrame", ["queue": "orders"]))
  }

  @Test("headers that fill a frame are consumed, though the broker adds its own")
  func fullHeaders() async throws {
    try await withQueue(arguments: #"{"x-queue-type":"quorum"}"#) { queue in
      // The largest header that publish sends, found from above.
      let script = """
        for n in $(seq 131072 -1 130900); do
          { printf '{"body":1,"routingKey":"%s","properties":{"headers":{"h":"' \(queue); head -c $n /dev/zero | tr '\\0' x; printf '"}}}'; } > $HOME/m
          msctl publish -e -q < $HOME/m 2>/dev/null && break
        done
        echo $n; msctl consume \(queue) --peek > /dev/null; msctl consume \(queue) --count 1 -e --for 10m | wc -c
        """
      let output = try await Tool.shell(script)
      let numbers = output.lines.compactMap { Int($0) }
      #expect(numbers.count == 2 && numbers[0] > 130_990 && numbers[1] > numbers[0], "\(output)")
    }
  }
}
