import Foundation
import MsctlCore

extension Shop {
  /// An event as it came from the broker.
  public struct Event: Sendable {
    public let body: JSONValue
    /// The step that told it, and the one that handles it.
    public let caller: TraceContext
    public let step: TraceContext
  }

  /// Makes a durable queue that gets the events with these routing keys, as soon as the broker can be reached.
  public func makeQueue(_ name: String, for keys: [String]) {
    startThread("queue") {
      while true {
        do {
          let connection = try AMQPConnection.open(broker, name: instance)
          defer { connection.close() }
          return try makeQueue(name, for: keys, on: connection)
        } catch {
          complain("its queue waits: \(error)")
          Thread.sleep(forTimeInterval: 0.5)
        }
      }
    }
  }

  private func makeQueue(_ name: String, for keys: [String], on connection: AMQPConnection) throws(AMQPError) {
    _ = try connection.declareQueue(name)
    for key in keys { try connection.bindQueue(name, to: Outbox.exchange, key: key) }
  }

  /// Handles events on a thread of its own, again and again until `handle` does not throw; only then an event is acknowledged.
  public func handleEvents(_ keys: [String], from queue: String, _ handle: @escaping @Sendable (Event) throws -> Void) {
    startThread("events") {
      while true {
        do { try consume(keys, queue, handle) } catch {
          complain("events wait: \(error)")
          Thread.sleep(forTimeInterval: 0.5)
        }
      }
    }
  }

  private func consume(_ keys: [String], _ queue: String, _ handle: (Event) throws -> Void) throws {
    let connection = try AMQPConnection.open(broker, name: "\(instance) events")
    defer { connection.close() }
    try makeQueue(queue, for: keys, on: connection)
    try connection.setPrefetch(32)
    _ = try connection.consume(queue)
    while true {
      guard let event = try connection.nextEvent() else {
        wait(for: [connection.descriptor], atMost: 1000)
        continue
      }
      switch event {
      case .delivery(let delivery):
        do {
          try handle(Event(delivery))
          try connection.acknowledge(delivery.tag, multiple: false)
        } catch let error as AMQPError {
          throw error
        } catch {
          complain("an event goes back to its queue: \(error)")
          Thread.sleep(forTimeInterval: 0.1)
          try connection.reject(delivery.tag, requeue: true)
        }
      case .cancelled: throw Failure(.nothingThere, "the queue '\(queue)' was deleted")
      default: break
      }
    }
  }
}

extension Shop.Event {
  fileprivate init(_ delivery: AMQPDelivery) throws {
    body = try JSONValue(parsing: delivery.message.body)
    var caller = TraceContext()
    if case .string(let text) = delivery.message.properties.header("traceparent") {
      caller = TraceContext(text) ?? caller
    }
    self.caller = caller
    step = caller.child()
  }
}
