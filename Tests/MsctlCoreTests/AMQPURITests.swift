import MsctlCore
import Testing

@Suite("An AMQP URI")
struct AMQPURITests {
  /// Appendix A of RabbitMQ's URI specification, as far as it names a host.
  @Test(
    "is read as RabbitMQ's specification says",
    arguments: [
      ("amqp://user:pass@host:10000/vhost", "user", "pass", "host", 10000, "vhost"),
      ("amqp://user%61:%61pass@ho%61st:10000/v%2fhost", "usera", "apass", "hoast", 10000, "v/host"),
      ("amqp://", "guest", "guest", "localhost", 5672, "/"),
      ("amqp://:@/", "", "", "localhost", 5672, ""),
      ("amqp://user@", "user", "guest", "localhost", 5672, "/"),
      ("amqp://user:pass@", "user", "pass", "localhost", 5672, "/"),
      ("amqp://host", "guest", "guest", "host", 5672, "/"),
      ("amqp://:10000", "guest", "guest", "localhost", 10000, "/"),
      ("amqp:///vhost", "guest", "guest", "localhost", 5672, "vhost"),
      ("amqp://host/", "guest", "guest", "host", 5672, ""),
      ("amqp://host/%2f", "guest", "guest", "host", 5672, "/"),
      ("amqp://[::1]", "guest", "guest", "::1", 5672, "/"),
      ("AMQPS://[::1]:99/x", "guest", "guest", "::1", 99, "x"),
      ("amqps://h", "guest", "guest", "h", 5671, "/"),
      ("amqp://p%C3%A4ul:p%40ss@h", "päul", "p@ss", "h", 5672, "/"),
    ])
  func parts(_ text: String, _ user: String, _ password: String, _ host: String, _ port: Int, _ vhost: String) throws {
    let uri = try AMQPURI(text)
    #expect(uri.user == user)
    #expect(uri.password == password)
    #expect(uri.host == host)
    #expect(uri.port == port)
    #expect(uri.vhost == vhost)
  }

  @Test("takes query parameters")
  func parameters() throws {
    let uri = try AMQPURI(
      "amqps://h/v?heartbeat=7&connection_timeout=1500&cacertfile=%2Fca.pem&certfile=c&keyfile=k&verify=verify_none"
        + "&auth_mechanism=external")
    #expect(uri.heartbeat == 7)
    #expect(uri.connectTimeout == .milliseconds(1500))
    #expect(uri.authorityFile == "/ca.pem")
    #expect(uri.certificateFile == "c" && uri.keyFile == "k")
    #expect(!uri.verifiesPeer)
    #expect(uri.mechanism == .external)
  }

  private static let atReason =
    "has an '@' after a '/' or '?' (in a user name or password write %2F and %3F, elsewhere %40)"

  @Test(
    "is refused with the reason, which never holds the password",
    arguments: [
      ("http://u:topsecret@h", "does not begin with 'amqp://' or 'amqps://'"),
      ("u:topsecret@h", "does not begin with 'amqp://' or 'amqps://'"),
      ("amqp://u:topsecret@h:x", "has a port that is not a number between 1 and 65535"),
      ("amqp://u:topsecret@h:0", "has a port that is not a number between 1 and 65535"),
      ("amqp://u:topsecret@h:65536", "has a port that is not a number between 1 and 65535"),
      ("amqp://u:top%secret@h", "has a '%' in its password that does not encode a character (write %25 for '%')"),
      ("amqp://u:topsecret@h/a/b", "has more than one '/' after the host (in a virtual host's name write %2F)"),
      ("amqp://u:top@secret@h", "has more than one '@' before the host (in a password write %40)"),
      ("amqp://u:topsecret@[::1", "has a '[' without ']' in its host"),
      ("amqp://u:topsecret@::1", "has more than one ':' in its host (write an IPv6 address in brackets)"),
      ("amqp://u:top\r\nsecret@h", "contains white space or control characters (write them as %XX)"),
      ("amqp://u:top secret@h", "contains white space or control characters (write them as %XX)"),
      ("amqp://u:topsecret@h%00", "has a '%' in its host that does not encode a character (write %25 for '%')"),
      ("amqp://u:topsecret@h?heartbeat=soon", "has a heartbeat that is not a number between 0 and 65535"),
      ("amqp://u:topsecret@h?verify=maybe", "has a verify that is not verify_peer or verify_none"),
      (
        "amqp://u:topsecret@h?colour=red",
        "has a parameter that is not one of heartbeat, connection_timeout, cacertfile, certfile, keyfile, verify "
          + "and auth_mechanism"
      ),
      ("amqp://u:top/secret@h", atReason), ("amqp://u:top?secret@h", atReason), ("amqp://u:t@op/secret@h", atReason),
      ("amqp://u:topsecret@h/v@w", atReason),
    ])
  func refusals(_ text: String, _ reason: String) {
    #expect(throws: AMQPURIError(reason: reason)) { _ = try AMQPURI(text) }
  }

  @Test("may be one of a list")
  func list() throws {
    #expect(try AMQPURI.list("amqp://a:1,amqp://b:2/v, amqps://c").map(\.host) == ["a", "b", "c"])
    #expect(throws: AMQPURIError.self) { _ = try AMQPURI.list("amqp://a,") }
    let reason = "has a port that is not a number between 1 and 65535 (in a user name or password write %2C for ',')"
    #expect(throws: AMQPURIError(reason: reason)) { _ = try AMQPURI.list("amqp://u:top,secret@h") }
  }

  @Test("is shown without password and parameters")
  func shown() throws {
    #expect(try AMQPURI("amqps://u:topsecret@h:1/v%2Fw?keyfile=/k").shown == "amqps://u@h:1/v%2Fw")
    #expect(try AMQPURI("amqp://[::1]").shown == "amqp://guest@[::1]:5672")
  }
}
