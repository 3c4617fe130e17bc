import GRDB
import MsctlCore
import ShopKit

/// `POST /notices` writes a notice once, `GET /notices`. The events come by `msctl consume notif --exec`, which posts them
/// here: a consumer in a line of shell.
@main
enum NotifService {
  static func main() async {
    await Shop.run("notif-service") { shop in
      let database = try shop.database(
        "CREATE TABLE IF NOT EXISTS notices (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL UNIQUE, text TEXT NOT NULL);"
      )
      shop.makeQueue("notif", for: ["payment.*"])

      try await shop.serve([
        Route("POST /notices") { request in
          let event = try request.object()
          guard let order = event["order"]?.integer, let status = event["status"]?.string else {
            throw WebError(422, "a notice needs an 'order' and a 'status'")
          }
          let text = status == "settled" ? "Order \(order) is paid." : "Order \(order) could not be paid."
          let isNew = try await database.write { db in
            try db.execute(
              sql: "INSERT INTO notices (order_id, text) VALUES (?, ?) ON CONFLICT (order_id) DO NOTHING",
              arguments: [order, text])
            let isNew = db.changesCount == 1
            shop.note(isNew ? "write a notice" : "hear again", order: order, step: request.step, after: request.caller)
            return isNew
          }
          return WebAnswer(isNew ? 201 : 200, Notice(order: order, text: text).json)
        },
        Route("GET /notices") { _ in
          let notices = try await database.read { try Notice.fetchAll($0, sql: "SELECT * FROM notices ORDER BY id") }
          return WebAnswer("notices", notices.map(\.json))
        },
      ])
    }
  }
}

struct Notice: FetchableRecord, Sendable {
  let order: Int64
  let text: String

  init(order: Int64, text: String) {
    self.order = order
    self.text = text
  }

  init(row: Row) {
    self.init(order: row["order_id"], text: row["text"])
  }

  var json: JSONValue {
    var writer = JSONWriter()
    writer.object { notice in
      notice.field("order", order)
      notice.field("text", text)
    }
    return writer.value
  }
}
