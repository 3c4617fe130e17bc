import GRDB
import MsctlCore
import ShopKit

/// `GET /users/:id`, `POST /users`.
@main
enum UserService {
  static func main() async {
    await Shop.run("user-service") { shop in
      let database = try shop.database("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);")

      try await shop.serve([
        Route("GET /users/:id") { request in
          let id = request.id.flatMap { Int64($0) }
          let name = try await database.read {
            try String.fetchOne($0, sql: "SELECT name FROM users WHERE id = ?", arguments: [id])
          }
          shop.note("look a user up", step: request.step, after: request.caller)
          guard let id, let name else { throw WebError(404, "there is no such user") }
          return user(200, id, name)
        },
        Route("POST /users") { request in
          guard let name = try request.object()["name"]?.string, !name.isEmpty else {
            throw WebError(422, "a user needs a 'name'")
          }
          let id = try await database.write { db in
            try db.execute(sql: "INSERT INTO users (name) VALUES (?)", arguments: [name])
            return db.lastInsertedRowID
          }
          return user(201, id, name)
        },
      ])
    }
  }

  private static func user(_ status: Int, _ id: Int64, _ name: String) -> WebAnswer {
    WebAnswer(status) { user in
      user.field("id", id)
      user.field("name", name)
    }
  }
}
