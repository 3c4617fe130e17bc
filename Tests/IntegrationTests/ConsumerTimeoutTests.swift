import Foundation
import Support
import Synchronization
import Testing

/// A message that is unacknowledged for too long: up to RabbitMQ 4.2 the channel is closed with 406, since 4.3 the consumer is
/// cancelled (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
@Suite("A consumer that the broker finds too slow", .serialized)
struct ConsumerTimeoutTests {
  static let closed = FakeBroker.closeChannel(
    406,
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 2000 ms. "
      + "This timeout value can be configured, see consumers doc guide to learn more")

  @Test(
    "what is under way is finished, and acknowledged when it comes again; exit code 8",
    arguments: [closed, FakeBroker.cancelConsumer()], [true, false])
  func finished(_ word: [UInt8], _ isCommand: Bool) async throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("late"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let first = Mutex<FakeBroker.Peer?>(nil)
    let acknowledged = Mutex<[Int]>([])
    let isClosed = Mutex(false)
    let broker = try FakeBroker { peer, method in
      switch method.name {
      case .consume:
        peer.send(FakeBroker.consuming() + FakeBroker.deliver(tag: 1, body: [0x37], redelivered: peer.number > 0))
        if peer.number == 0 { first.withLock { $0 = peer } }
      case .connectionClose where peer.number == 0:
        isClosed.withLock { $0 = true }
        return false
      case .acknowledge: acknowledged.withLock { $0.append(peer.number) }
      default: return false
      }
      return true
    }
    let command =
      "read x || test -n \"$x\"; echo $x >> \(folder.path)/begun; until test -e \(folder.path)/go; do sleep 0.05; done; echo $x"
    let consumer = try Tool.start(
      "consume", "q", isCommand ? "--exec" : "--through", command, environment: ["AMQP_URL": broker.uri])
    try await eventually("it has begun") { FileManager.default.fileExists(atPath: folder.path + "/begun") }
    let peer = try #require(first.withLock { $0 })
    peer.send(word)
    // It has left that connection.
    try await eventually("it closes the connection") { isClosed.withLock { $0 } }
    try Data().write(to: folder.appendingPathComponent("go"))
    let output = try await consumer.end()
    #expect(output.status == 8, "\(output.err)")
    #expect(output.out == "7\n")
    #expect(output.err.shows("consume consumerTimeout", ["queue": "q"]), "\(output.err)")
    #expect(try String(contentsOf: folder.appendingPathComponent("begun"), encoding: .utf8) == "7\n")
    // Once, and on another connection than the first.
    let connections = acknowledged.withLock { $0 }
    #expect(connections.count == 1 && connections != [0], "\(connections)")
  }

  @Test("a real broker does so", arguments: ["classic", "quorum"])
  func real(_ type: String) async throws {
    // In newer brokers, classic queues have no such time.
    guard Services.promises.takesConsumerTimeouts, type == "quorum" || !Services.promises.cancelsLateConsumers else {
      return
    }
    let tool = try #require(ProcessInfo.processInfo.environment["MSCTL_TEST_RABBITMQCTL"])
    func tick(_ interval: Int) async throws {
      let setting = "application:set_env(rabbit, channel_tick_interval, \(interval))."
      let output = try await RunningProcess(tool, ["eval", setting]).end()
      guard output.status == 0 else { throw TestFailure(output.err) }
    }
    // How often a broker looks. It is the same for all queues, and harms none.
    try await tick(500)
    try await withQueue(arguments: #"{"x-queue-type":"\#(type)","x-consumer-timeout":1000}"#) { queue in
      _ = try await Tool.run("publish", queue, "--passive", "7")
      let output = try await Tool.shell(
        "timeout 300 msctl consume \(queue) --exec 'echo begun >&2; sleep 5; cat; echo'")
      #expect(output.status == 8, "\(output.err)")
      #expect(output.out == "7\n")
      #expect(output.err.shows("consume consumerTimeout"), "\(output.err)")
      try await eventually("it is acknowledged") { try await Services.messages(in: queue).isEmpty }
    }
    try await tick(60_000)
  }
}
