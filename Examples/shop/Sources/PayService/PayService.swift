import Foundation
import GRDB
import MsctlCore
import ShopKit

/// Charges each order once when it hears `order.created`; tells `payment.settled` or `payment.failed`. `GET /payments`,
/// `GET /payments/:id` by the order's number.
@main
enum PayService {
  /// What a card of this shop can pay.
  private static let limit = 500.0

  static func main() async {
    await Shop.run("pay-service") { shop in
      let database = try shop.database(
        """
        CREATE TABLE IF NOT EXISTS payments (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL UNIQUE, status TEXT NOT NULL);
        """ + Outbox.schema)
      let outbox = Outbox(shop, database)

      shop.handleEvents(["order.created"], from: "pay") { event in
        guard let order = event.body["order"]?.integer, let total = event.body["total"]?.number else {
          throw WebError(422, "an order without number or total")
        }
        let isNew = try await database.write { db in
          let status = total > limit ? "failed" : "settled"
          // The event may come again: an order is charged once.
          try db.execute(
            sql: "INSERT INTO payments (order_id, status) VALUES (?, ?) ON CONFLICT (order_id) DO NOTHING",
            arguments: [order, status])
          guard db.changesCount == 1 else { return false }
          var told = JSONWriter()
          told.object { body in
            body.field("order", order)
            if let user = event.body["user"] { body.field("user", user) }
            body.field("total", event.body["total"] ?? .null)
            body.field("status", status)
          }
          try outbox.add(db, "payment.\(status)", told.value, step: event.step)
          shop.note("charge", order: order, step: event.step, after: event.caller)
          return true
        }
        outbox.wake()
        if !isNew { shop.note("hear again", order: order, step: event.step, after: event.caller) }
      }

      try await shop.serve([
        Route("GET /payments") { _ in
          let payments = try await database.read { try Payment.fetchAll($0, sql: "SELECT * FROM payments ORDER BY id") }
          return WebAnswer("payments", payments.map(\.json))
        },
        Route("GET /payments/:id") { request in
          let id = request.id.flatMap { Int64($0) }
          let payment = try await database.read {
            try Payment.fetchOne($0, sql: "SELECT * FROM payments WHERE order_id = ?", arguments: [id])
          }
          guard let payment else { throw WebError(404, "there is no payment of this order") }
          return WebAnswer(200, payment.json)
        },
      ])
    }
  }
}

struct Payment: FetchableRecord, Sendable {
  let order: Int64
  let status: String

  init(row: Row) {
    order = row["order_id"]
    status = row["status"]
  }

  var json: JSONValue {
    var writer = JSONWriter()
    writer.object { payment in
      payment.field("order", order)
      payment.field("status", status)
    }
    return writer.value
  }
}
