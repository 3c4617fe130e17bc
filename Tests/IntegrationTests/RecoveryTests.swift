import Foundation
import Support
import Synchronization
import Testing

/// What became of one run through a fault.
struct Trial {
  /// What was handed in, what msctl said is confirmed (or wrote out), what is in the queue or came out of it.
  let input: [String]
  let confirmed: [String]
  let present: [String]
  /// What a consumer left in the queue.
  var rest: [String] = []
  let status: Int32

  /// Confirmed or acknowledged, and not there; or, where msctl says that all is well, handed in and nowhere.
  var lost: Int {
    Set(confirmed).subtracting(present).count
      + (status == 0 ? Set(input).subtracting(present).subtracting(rest).count : 0)
  }
  var duplicated: Int { present.count - Set(present).count }
}

/// Publishes numbers through a proxy, with `--tee` as msctl's word for what is confirmed, and looks into the queue.
func publishTrial(
  _ count: Int, fault: @escaping @Sendable (Int) -> FaultProxy.Fault, query: String = "", words: [String] = [],
  arguments: String? = nil, prepare: (@Sendable () async throws -> Void)? = nil,
  meanwhile: (@Sendable (FaultProxy, RunningProcess) async throws -> Void)? = nil
) async throws -> (trial: Trial, output: Output, proxy: FaultProxy) {
  var result: (Trial, Output, FaultProxy)?
  try await withQueue(arguments: arguments) { queue in
    try await prepare?()
    let proxy = try FaultProxy(to: brokerPort, fault)
    let input = (1...count).map(String.init)
    let process = try RunningProcess(
      Tool.binary,
      ["publish", queue, "--tee", "--reconnect-for", "30s"] + (arguments == nil ? [] : ["--passive"]) + words,
      input: input.map { $0 + "\n" }.joined(),
      environment: ["AMQP_URL": "amqp://guest:guest@127.0.0.1:\(proxy.port)\(query)"])
    try await meanwhile?(proxy, process)
    let output = try await process.end()
    let present = try await Tool.run("consume", queue, "--drain", "--envelope")
    let messages = present.lines.map(message)
    // A message that is there twice bears one id.
    #expect(Set(messages.map(\.id)).count == Set(messages.map(\.body)).count)
    let trial = Trial(input: input, confirmed: output.lines, present: messages.map(\.body), status: output.status)
    result = (trial, output, proxy)
  }
  return try #require(result)
}

private func message(_ line: String) -> (body: String, id: String) {
  let body = line.split(separator: ",")[0].split(separator: ":")[1]
  let id = line.components(separatedBy: "\"messageId\":\"").last?.prefix(36) ?? ""
  return (String(body), String(id))
}

/// Consumes numbers through a proxy, and looks what is left.
func consumeTrial(
  _ count: Int, fault: @escaping @Sendable (Int) -> FaultProxy.Fault, query: String = "", words: [String] = []
) async throws -> (trial: Trial, output: Output, proxy: FaultProxy) {
  var result: (Trial, Output, FaultProxy)?
  try await withQueue { queue in
    let input = (1...count).map(String.init)
    _ = try await Tool.run("publish", queue, input: input.joined(separator: " "))
    let proxy = try FaultProxy(to: brokerPort, fault)
    let output = try await RunningProcess(
      Tool.binary, ["consume", queue, "--count", "\(count)", "--reconnect-for", "30s"] + words,
      environment: ["AMQP_URL": "amqp://guest:guest@127.0.0.1:\(proxy.port)\(query)"]
    ).end()
    // What a cut connection held is back as soon as the broker has noticed: so what is missing is looked for once more.
    var rest: [String] = []
    for _ in 0..<50 {
      rest += try await Tool.run("consume", queue, "--idle", "100ms").lines
      if Set(input).subtracting(rest).isSubset(of: output.lines) { break }
      try await Task.sleep(for: .milliseconds(200))
    }
    // Acknowledged is what is not in the queue any more: it must have been written.
    let acknowledged = Set(input).subtracting(rest)
    let trial = Trial(
      input: input, confirmed: Array(acknowledged), present: output.lines, rest: rest, status: output.status)
    result = (trial, output, proxy)
  }
  return try #require(result)
}

var brokerPort: Int { Services.broker.split(separator: ":").last.flatMap { Int($0) } ?? 0 }

@Suite("Recovery of publish and consume", .serialized)
struct RecoveryTests {
  @Test("a publisher loses nothing, wherever between two frames its connection is cut")
  func publishCuts() async throws {
    let clean = try await publishTrial(4, fault: { _ in .none })
    #expect(clean.trial.lost == 0 && clean.trial.duplicated == 0 && clean.output.status == 0)
    let (cuts, recovered) = try await sweep("publish", clean.proxy) { try await publishTrial(4, fault: $0) }
    #expect(cuts > 20)
    #expect(recovered > 10)
  }

  @Test("a consumer loses nothing, wherever between two frames its connection is cut")
  func consumeCuts() async throws {
    let clean = try await consumeTrial(4, fault: { _ in .none })
    #expect(clean.trial.lost == 0 && clean.output.status == 0)
    let (_, recovered) = try await sweep("consume", clean.proxy) { try await consumeTrial(4, fault: $0) }
    #expect(recovered > 5)
  }

  /// Cuts the first connection after each frame that a clean run has sent or got.
  /// - Returns: how many cuts there were, and after how many of them all went well on another connection.
  private func sweep(
    _ verb: String, _ clean: FaultProxy,
    _ run: (@escaping @Sendable (Int) -> FaultProxy.Fault) async throws -> (
      trial: Trial, output: Output, proxy: FaultProxy
    )
  ) async throws -> (cuts: Int, recovered: Int) {
    let recorded = clean.recorded
    let cuts =
      frameEnds(recorded.up, hasHeader: true).map { (FaultProxy.Direction.up, $0) }
      + frameEnds(recorded.down, hasHeader: false).map { (.down, $0) }
    var recovered = 0
    var trials: [Trial] = []
    for (direction, place) in cuts {
      let (trial, output, proxy) = try await run { $0 == 0 ? .cut(direction, after: place) : .none }
      trials.append(trial)
      #expect(trial.lost == 0, "cut \(direction) after \(place): \(output)")
      if output.status == 0, proxy.connections > 1 { recovered += 1 }
      // Before the first connection stands, there is nothing to recover.
      #expect([0, 6].contains(output.status), "cut \(direction) after \(place): \(output)")
    }
    try FaultTable.add("cut at each frame boundary, \(verb)", trials)
    return (cuts.count, recovered)
  }

  @Test("bytes that come one by one, or late, change nothing")
  func slowBytes() async throws {
    for fault in [FaultProxy.Fault.oneByOne, .delay(0.01)] {
      let published = try await publishTrial(50, fault: { _ in fault })
      #expect(published.trial.lost == 0 && published.trial.duplicated == 0 && published.output.status == 0)
      let consumed = try await consumeTrial(50, fault: { _ in fault })
      #expect(consumed.trial.lost == 0 && consumed.output.lines == consumed.trial.input)
      let name = if case .oneByOne = fault { "one byte at a time" } else { "each piece 10 ms late" }
      try FaultTable.add(name, [published.trial, consumed.trial])
    }
  }

  @Test("a connection that is half open is noticed by its heartbeat", arguments: [FaultProxy.Direction.up, .down])
  func halfOpen(_ direction: FaultProxy.Direction) async throws {
    let (trial, output, proxy) = try await publishTrial(
      300, fault: { $0 == 0 ? .blackHole(direction, after: direction == .up ? 20_000 : 2_000) : .none },
      query: "?heartbeat=1", words: ["--window", "1"])
    #expect(trial.lost == 0 && output.status == 0)
    // On a busy machine more than the first one may fall silent.
    #expect(proxy.connections >= 2)
    #expect(output.err.shows("publish reconnecting"))
    try FaultTable.add("black hole \(direction), publish", [trial])
  }

  @Test("a filter goes on with what it has, and none of it is handed over twice")
  func filterGoesOn() async throws {
    try await withQueue { queue in
      _ = try await Tool.shell("seq 20 | msctl publish \(queue)")
      let proxy = try FaultProxy(to: brokerPort) { _ in .none }
      let folder = FileManager.default.temporaryDirectory.appendingPathComponent(queue)
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      defer { try? FileManager.default.removeItem(at: folder) }
      // Reads all, and answers when it is told to.
      let consumer = try RunningProcess(
        Tool.binary,
        [
          "consume", queue, "--count", "20", "--through",
          "while read x; do echo $x >> \(folder.path)/got; test $x = 20 && while ! test -e \(folder.path)/go; do sleep 0.05; done; done; seq 20",
        ], environment: ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)"])
      try await eventually("the filter has all") {
        ((try? String(contentsOf: folder.appendingPathComponent("got"), encoding: .utf8)) ?? "").hasSuffix("20\n")
      }
      proxy.cutAll()
      try await eventually("it is connected again") { consumer.err.shows("consuming reconnected") }
      try await eventually("all are with it again") {
        try await Services.management("GET", "/queues/%2F/\(queue)").contains("\"messages_unacknowledged\":20")
      }
      try Data().write(to: folder.appendingPathComponent("go"))
      let output = try await consumer.end()
      #expect(output.status == 0)
      #expect(output.lines.count == 20)
      let got = try String(contentsOf: folder.appendingPathComponent("got"), encoding: .utf8)
      #expect(got.split(separator: "\n").count == 20)
      #expect(try await Services.messages(in: queue).isEmpty)
    }
  }

  @Test("a broker that takes nothing does not hold a large message for ever")
  func stalled() async throws {
    try await withQueue(arguments: "{}") { queue in
      let proxy = try FaultProxy(to: brokerPort) { _ in .stall(.up, after: 20_000) }
      let output = try await Tool.shell(
        "head -c 30000000 /dev/zero | tr '\\0' x | msctl publish \(queue) --raw --confirm-timeout 1s --reconnect-for 0",
        environment: ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)?heartbeat=1"])
      #expect(output.status == 7)
      #expect(output.err.shows("publish broker with unconfirmed", ["3": "1"]))
    }
  }

  @Test("the next broker of the list takes over, and time runs out where there is none")
  func otherBrokers() async throws {
    try await withQueue(arguments: "{}") { queue in
      let first = try FaultProxy(to: brokerPort) { _ in .cut(.down, after: 2_000) }
      let publisher = try Tool.start(
        "publish", queue, "--tee", input: nil,
        environment: ["AMQP_URL": "amqp://127.0.0.1:\(first.port),\(Services.broker)"])
      try publisher.write("1\n")
      try await eventually("the first is confirmed") { publisher.out == "1\n" }
      first.cutAll()
      try publisher.write("2\n")
      try publisher.closeInput()
      let output = try await publisher.end()
      #expect(output.status == 0 && output.out == "1\n2\n")

      let only = try FaultProxy(to: brokerPort) { $0 == 0 ? .none : .cut(.down, after: 0) }
      let stranded = try Tool.start(
        "publish", queue, "--tee", "--reconnect-for", "500ms", input: nil,
        environment: ["AMQP_URL": "amqp://127.0.0.1:\(only.port)"])
      try stranded.write("3\n")
      try await eventually("it is confirmed") { stranded.out == "3\n" }
      only.cutAll()
      let end = try await stranded.end()
      #expect(end.status == 6)
    }
  }

  @Test("a signal ends the waiting for a broker")
  func interrupted() async throws {
    try await withQueue { queue in
      _ = try await Tool.run("publish", queue, "1")
      let proxy = try FaultProxy(to: brokerPort) { $0 == 0 ? .none : .cut(.down, after: 0) }
      let consumer = try Tool.start(
        "consume", queue, environment: ["AMQP_URL": "amqp://127.0.0.1:\(proxy.port)"])
      try await eventually("it consumes") { consumer.out == "1\n" }
      proxy.cutAll()
      try await eventually("it tries again") { consumer.err.shows("consuming reconnecting") }
      consumer.signal(SIGTERM)
      #expect(try await consumer.end().status == 128 + SIGTERM)
    }
  }

  /// How the broker says that what was settled last may be unsettled, while the run closes its connection.
  enum LateEnd: CaseIterable {
    /// What was sent before this may be lost.
    case isCut
    /// It was unacknowledged for too long, and the broker has taken it back.
    case takesBack

    func end(_ peer: FakeBroker.Peer) -> Bool {
      switch self {
      case .isCut:
        peer.cut()
        return true
      case .takesBack:
        peer.send(ConsumerTimeoutTests.closed)
        return false
      }
    }
  }

  @Test(
    "what was acknowledged last is acknowledged again where the broker says only while it is closed that it was in vain",
    arguments: LateEnd.allCases)
  func brokenWhileClosed(_ end: LateEnd) async throws {
    let acknowledged = Mutex<[Int]>([])
    let broker = try FakeBroker { peer, method in
      switch method.name {
      case .consume:
        let isAgain = peer.number > 0
        peer.send(
          FakeBroker.consuming()
            + FakeBroker.deliver(tag: 1, body: [0x37], messageID: "seven", redelivered: isAgain))
      case .acknowledge: acknowledged.withLock { $0.append(peer.number) }
      case .connectionClose where peer.number == 0: return end.end(peer)
      default: return false
      }
      return true
    }
    let output = try await Tool.run("consume", "q", "--count", "1", environment: ["AMQP_URL": broker.uri])
    #expect(output.status == 0, "\(output.err)")
    #expect(output.out == "7\n")
    #expect(acknowledged.withLock { $0 } == [0, 1])
  }
}
