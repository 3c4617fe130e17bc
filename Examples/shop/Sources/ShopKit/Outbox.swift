import Foundation
import GRDB
import MsctlCore
import Synchronization

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
  private static let window = 64

  private let shop: Shop
  private let database: DatabasePool
  private let pipe = WakePipe()

  public init(_ shop: Shop, _ database: DatabasePool) {
    self.shop = shop
    self.database = database
    startThread("outbox") { [self] in
      while true {
        do { try send() } catch {
          shop.complain("the outbox waits: \(error)")
          Thread.sleep(forTimeInterval: 0.5)
        }
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

  public func wake() { pipe.wake() }

  /// Sends what is there and what comes, until the connection breaks.
  private func send() throws {
    let connection = try AMQPConnection.open(shop.broker, name: "\(shop.instance) outbox")
    defer { connection.close() }
    try connection.selectConfirms()
    let publisher = AMQPPublisher(connection, window: Self.window)
    var underWay: Set<String> = []
    while true {
      pipe.clear()
      for message in try waiting(but: underWay) where publisher.hasRoom {
        try publisher.send(message)
        underWay.insert(message.properties.messageID ?? "")
      }
      wait(for: [connection.descriptor, pipe.descriptor], atMost: 500)
      let settled = try publisher.settle()
      let confirmed = settled.filter { $0.outcome == .confirmed }.compactMap(\.message.properties.messageID)
      if !confirmed.isEmpty {
        try database.write { db in
          try db.execute(
            sql: "DELETE FROM outbox WHERE message_id IN (\(confirmed.map { _ in "?" }.joined(separator: ",")))",
            arguments: StatementArguments(confirmed))
        }
      }
      // What no queue took stays, and is tried again: who consumes it may not have made its queue yet.
      if confirmed.count < settled.count { Thread.sleep(forTimeInterval: 0.2) }
      for message in settled.map(\.message) { underWay.remove(message.properties.messageID ?? "") }
    }
  }

  private func waiting(but underWay: Set<String>) throws -> [AMQPMessage] {
    let rows = try database.read { db in
      try Row.fetchAll(
        db, sql: "SELECT * FROM outbox WHERE owner = ? OR written < ? ORDER BY id LIMIT ?",
        arguments: [shop.instance, Date().timeIntervalSince1970 - Self.abandoned, 2 * Self.window])
    }
    return rows.compactMap { row in
      let id: String = row["message_id"]
      guard !underWay.contains(id) else { return nil }
      var properties = AMQPProperties()
      properties.contentType = "application/json"
      properties.deliveryMode = 2
      properties.messageID = id
      properties.type = row["routing_key"]
      properties.appID = shop.service
      properties.headers = [AMQPField("traceparent", .string(row["traceparent"]))]
      let body: String = row["body"]
      return AMQPMessage(
        body: Array(body.utf8), properties: properties, exchange: Self.exchange, routingKey: row["routing_key"])
    }
  }
}
