import Foundation
import Synchronization

/// The private services that `Scripts/services` started.
package enum Services {
  package static var broker: String { variable("AMQP_URL") }
  package static var consul: String { variable("CONSUL_HTTP_ADDR") }
  package static var guardedConsul: String { variable("MSCTL_TEST_CONSUL_ACL") }
  package static var guardedToken: String { variable("MSCTL_TEST_CONSUL_ACL_TOKEN") }
  package static var brokerOverTLS: String { variable("MSCTL_TEST_AMQPS") }
  /// The folder with the authority (`ca.pem`, `ca.key`) and the servers' certificate.
  package static var certificates: String { variable("MSCTL_TEST_TLS") }
  package static var folder: String { variable("MSCTL_TEST_SERVICES") }
  package static var managementAPI: String { variable("MSCTL_TEST_RABBITMQ_API") }

  package static let promises = BrokerPromises(version: variable("MSCTL_TEST_RABBITMQ"))

  /// A name that no other test has.
  package static func uniqueName(_ prefix: String) -> String {
    "\(prefix)-\(UUID().uuidString.prefix(8).lowercased())"
  }

  /// Those that were given out, lest two tests get the same one.
  private static let usedPorts = Mutex<Set<Int>>([])

  /// A port on which nobody listens now, and that no other test gets. Not one of those that the kernel gives to outgoing connections
  /// (from 32768 on, ip(7)): such a connection could have it by the time it is listened on.
  package static func freePort() throws -> Int {
    for _ in 0..<100 {
      let port = Int.random(in: 10_000..<32_000)
      guard usedPorts.withLock({ $0.insert(port).inserted }) else { continue }
      if let listener = try? Descriptors.listener(on: port) {
        close(listener.descriptor)
        return port
      }
    }
    throw TestFailure("no free port")
  }

  /// Registers an instance that listens on this machine.
  package static func register(_ service: String, _ port: Int, as name: String, weight: Int = 1) async throws {
    let output = try await Tool.run(
      "register", service, "-p", "\(port)", "--id", "\(service)-\(name)", "--address", "127.0.0.1", "--weight",
      "\(weight)")
    if output.status != 0 { throw TestFailure(output.err) }
  }

  /// Asks RabbitMQ's management API: the witness for what is in a queue, independent of msctl.
  package static func management(_ method: String = "GET", _ path: String, body: String? = nil) async throws -> String {
    var words = ["-sS", "-u", "guest:guest", "-X", method, managementAPI + path]
    if let body { words += ["-H", "Content-Type: application/json", "-d", body] }
    return try await RunningProcess("/usr/bin/curl", words).end().out
  }

  /// The messages in a queue as the management API shows them, which are put back.
  package static func messages(in queue: String) async throws -> [[String: Any]] {
    let answer = try await management(
      "POST", "/queues/%2F/\(queue)/get", body: #"{"count":1000,"ackmode":"ack_requeue_true","encoding":"auto"}"#)
    return try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [[String: Any]] ?? []
  }

  package static func deleteQueue(_ queue: String) async throws {
    _ = try await management("DELETE", "/queues/%2F/\(queue)")
  }

  /// Makes a queue with these arguments, as JSON.
  package static func makeQueue(_ queue: String, arguments: String = "{}") async throws {
    _ = try await management("PUT", "/queues/%2F/\(queue)", body: #"{"durable":true,"arguments":\#(arguments)}"#)
  }

  private static func variable(_ name: String) -> String {
    guard let value = ProcessInfo.processInfo.environment[name] else {
      fatalError("\(name) is not set; run the tests with 'make test' or 'Scripts/services run -- swift test'")
    }
    return value
  }
}

/// What the broker under test promises, by its version. Tests ask for a promise and never for a version.
package struct BrokerPromises: Sendable {
  /// A quorum queue without an argument drops a message at its 21st failed delivery (since 4.0).
  package let limitsDeliveries: Bool
  /// Every return to a quorum queue counts as a failed delivery, `basic.nack` with requeue included (4.0 to 4.2).
  /// Without it only a closed channel or connection counts.
  package let countsReturns: Bool
  /// A consumer that holds a message too long gets `basic.cancel` (since 4.3); before, its channel is closed with 406.
  package let cancelsLateConsumers: Bool
  /// A queue may have a consumer timeout of its own (since 3.12).
  package let takesConsumerTimeouts: Bool
  /// A stream leaves out chunks without the value of a filter (since 3.13).
  package let filtersStreams: Bool
  /// A queue that is neither durable nor exclusive can be declared (up to 4.2).
  package let takesTransientQueues: Bool
  /// With the connected node of three killed, the other two go on to take messages for a quorum queue.
  package let publishesWithoutLostNode: Bool
  /// A message's headers arrive in the order in which they were sent; 4.0 and later sort them.
  package let keepsHeaderOrder: Bool
  /// The size of the largest message, in bytes (`max_message_size`). Above it the channel is closed with 406.
  package let largestMessage: Int

  init(version: String) {
    filtersStreams = version != "3.10"
    switch version {
    case "3.10":
      (limitsDeliveries, countsReturns, cancelsLateConsumers, takesConsumerTimeouts) = (false, false, false, false)
      (takesTransientQueues, publishesWithoutLostNode, keepsHeaderOrder, largestMessage) = (
        true, false, true, 128 << 20
      )
    case "4.0":
      (limitsDeliveries, countsReturns, cancelsLateConsumers, takesConsumerTimeouts) = (true, true, false, true)
      (takesTransientQueues, publishesWithoutLostNode, keepsHeaderOrder, largestMessage) = (true, true, false, 16 << 20)
    case "4.3":
      (limitsDeliveries, countsReturns, cancelsLateConsumers, takesConsumerTimeouts) = (true, false, true, true)
      (takesTransientQueues, publishesWithoutLostNode, keepsHeaderOrder, largestMessage) = (
        false, true, false, 16 << 20
      )
    default: fatalError("no promises are known of RabbitMQ \(version)")
    }
  }
}

/// A queue of a test's own, which is gone after it.
package func withQueue(
  arguments: String? = nil, _ body: (String) async throws -> Void
) async throws {
  let queue = Services.uniqueName("queue")
  if let arguments { try await Services.makeQueue(queue, arguments: arguments) }
  do {
    try await body(queue)
  } catch {
    try? await Services.deleteQueue(queue)
    throw error
  }
  try await Services.deleteQueue(queue)
}

/// A user of a test's own, who may not publish unless it says so.
package func withUser(writes: Bool, _ body: (_ uri: String, _ name: String) async throws -> Void) async throws {
  let name = Services.uniqueName("user")
  _ = try await Services.management("PUT", "/users/\(name)", body: #"{"password":"secret","tags":""}"#)
  _ = try await Services.management(
    "PUT", "/permissions/%2F/\(name)",
    body: #"{"configure":".*","write":"\#(writes ? ".*" : "")","read":".*"}"#)
  let uri = Services.broker.replacingOccurrences(of: "guest:guest", with: "\(name):secret")
  do { try await body(uri, name) } catch {
    _ = try? await Services.management("DELETE", "/users/\(name)")
    throw error
  }
  _ = try await Services.management("DELETE", "/users/\(name)")
}

/// A queue, and another one that gets its dead letters.
/// - Parameter arguments: of the first queue, beside those that say so.
package func withDeadLetters(
  _ arguments: [String] = [], _ body: (_ queue: String, _ dead: String) async throws -> Void
) async throws {
  try await withQueue(arguments: "{}") { dead in
    let all = [#""x-dead-letter-exchange":"""#, #""x-dead-letter-routing-key":"\#(dead)""#] + arguments
    try await withQueue(arguments: "{\(all.joined(separator: ","))}") { queue in try await body(queue, dead) }
  }
}

/// A service of a test's own, whose instances are gone after it.
package func withService(_ body: (String) async throws -> Void) async throws {
  let service = Services.uniqueName("service")
  do {
    try await body(service)
  } catch {
    _ = try? await Tool.run("register", service, "--remove")
    throw error
  }
  _ = try await Tool.run("register", service, "--remove")
}
