import Foundation
import GRDB
import MsctlCore
import ShopKit

/// `POST /orders`, `GET /orders`, `GET /orders/:id`; tells `order.created`.
@main
enum OrderService {
  static func main() async {
    await Shop.run("order-service") { shop in
      let database = try shop.database(
        """
        CREATE TABLE IF NOT EXISTS orders (
          id INTEGER PRIMARY KEY, user INTEGER NOT NULL, total TEXT NOT NULL, idempotency_key TEXT UNIQUE);
        """ + Outbox.schema)
      let outbox = Outbox(shop, database)

      try await shop.serve([
        Route("POST /orders") { request in
          let wanted = try request.object()
          guard let user = wanted["user"]?.integer, let total = wanted["total"], total.kind == .number else {
            throw WebError(422, "an order needs a 'user' and a 'total'")
          }
          let key = request.idempotencyKey
          if let key, let known = try await database.read({ try Order.fetch($0, "idempotency_key", key) }) {
            return WebAnswer(201, known.json)
          }
          try await lookUp(user, shop, request)
          // The order and the message that tells of it are one write.
          let order = try await database.write { db in
            if let key, let known = try Order.fetch(db, "idempotency_key", key) { return known }
            try db.execute(
              sql: "INSERT INTO orders (user, total, idempotency_key) VALUES (?, ?, ?)",
              arguments: [user, total.description, key])
            let order = Order(id: db.lastInsertedRowID, user: user, total: total)
            try outbox.add(db, "order.created", order.json, step: request.step)
            shop.note("store an order", order: order.id, step: request.step, after: request.caller)
            return order
          }
          outbox.wake()
          return WebAnswer(201, order.json)
        },
        Route("GET /orders") { _ in
          let orders = try await database.read { try Order.fetchAll($0, sql: "SELECT * FROM orders ORDER BY id") }
          return WebAnswer("orders", orders.map(\.json))
        },
        Route("GET /orders/:id") { request in
          let id = request.id.flatMap { Int64($0) }
          guard let order = try await database.read({ try Order.fetch($0, "id", id) }) else {
            throw WebError(404, "there is no such order")
          }
          return WebAnswer(200, order.json)
        },
      ])
    }
  }

  private static func lookUp(_ user: Int64, _ shop: Shop, _ request: WebRequest) async throws {
    switch try? await shop.services.call("user-service", path: "/users/\(user)", headers: request.headers).status {
    case 200: return
    case 404: throw WebError(422, "there is no such user")
    default: throw WebError(503, "the user cannot be looked up now")
    }
  }
}

struct Order: FetchableRecord, Sendable {
  let id: Int64
  let user: Int64
  /// As it was written: 9.90 stays 9.90.
  let total: JSONValue

  init(id: Int64, user: Int64, total: JSONValue) {
    self.id = id
    self.user = user
    self.total = total
  }

  init(row: Row) throws {
    self.init(id: row["id"], user: row["user"], total: try JSONValue(parsing: (row["total"] as String).utf8))
  }

  static func fetch(_ db: Database, _ column: String, _ value: (any DatabaseValueConvertible)?) throws -> Order? {
    try fetchOne(db, sql: "SELECT * FROM orders WHERE \(column) = ?", arguments: [value])
  }

  var json: JSONValue {
    var writer = JSONWriter()
    writer.object { order in
      order.field("order", id)
      order.field("user", user)
      order.field("total", total)
    }
    return writer.value
  }
}
