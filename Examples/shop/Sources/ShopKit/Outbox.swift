import Foundation
import GRDB
import MsctlCore

/// Messages on their way to the broker, kept in the service's own database: what a transaction has stored and what it has to
/// tell are written together or not at all, and a message is deleted only when the broker has confirmed it.
///
/// It may arrive twice, under the same `message_id`: who consumes it must not mind.
public final class Outbox: Sendable {
  public static let schema = """
    CREATE TABLE IF NOT EXISTS outbox (
      id INTEGER PRIMARY KEY, message_id TEXT NOT NULL, routing_key TEXT NOT NULL, body TEXT NOT NULL,
      traceparent TEXT NOT NULL, owner TEXT NOT NULL, written REAL NOT NULL);
    """
  /// The exchange of the shop's events: one that every broker has.
  public static let exchange = "amq.topic"
  /// A message this old was left by an instance that has died, in seconds: others may send it.
  private static let abandoned = 3.0
  private static let batch = 64

  private let shop: Shop
  private let database: DatabasePool
  private let wakes: AsyncStream<Void>.Continuation

  public init(_ shop: Shop, _ database: DatabasePool) {
    (self.shop, self.database) = (shop, database)
    let (stream, wakes) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
    self.wakes = wakes
    shop.keepTrying("the outbox waits") { [self] in for await _ in stream { try await send() } }
    // For what was not confirmed, and what an instance that has died has left.
    shop.keepTrying("the outbox waits") {
      while true {
        wakes.yield()
        try await Task.sleep(for: .milliseconds(500))
      }
    }
  }

  /// Adds a message in the transaction that is under way. Once it is committed, `wake` sends it at once.
  public func add(_ db: Database, _ routingKey: String, _ body: JSONValue, step: TraceContext) throws {
    try db.execute(
      sql: """
        INSERT INTO outbox (message_id, routing_key, body, traceparent, owner, written) VALUES (?, ?, ?, ?, ?, ?)
        """,
      arguments: [
        UUID().uuidString, routingKey, body.description, step.traceparent, shop.instance,
        Date().timeIntervalSince1970,
      ])
  }

  public func wake() { wakes.yield() }

  /// Sends what is there. What no queue took stays, and is tried again: who consumes it may not have made its queue yet.
  private func send() async throws {
    let messages = try await waiting()
    await withDiscardingTaskGroup { group in
      for message in messages {
        group.addTask { [self] in
          do {
            try await shop.broker.publish(message)
            try await database.write {
              try $0.execute(sql: "DELETE FROM outbox WHERE message_id = ?", arguments: [message.properties.messageID])
            }
          } catch { shop.complain("a message waits: \(error)") }
        }
      }
    }
  }

  private func waiting() async throws -> [AMQPMessage] {
    try await database.read { [shop] db in
      let rows = try Row.fetchAll(
        db, sql: "SELECT * FROM outbox WHERE owner = ? OR written < ? ORDER BY id LIMIT ?",
        arguments: [shop.instance, Date().timeIntervalSince1970 - Self.abandoned, Self.batch])
      return rows.map { row in
        var properties = AMQPProperties()
        properties.contentType = "application/json"
        properties.deliveryMode = 2
        properties.messageID = row["message_id"]
        properties.type = row["routing_key"]
        properties.appID = shop.service
        properties.headers = [AMQPField("traceparent", .string(row["traceparent"]))]
        let body: String = row["body"]
        return AMQPMessage(
          body: Array(body.utf8), properties: properties, exchange: Self.exchange, routingKey: row["routing_key"])
      }
    }
  }
}
