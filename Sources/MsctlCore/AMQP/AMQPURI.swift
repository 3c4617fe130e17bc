/// Why a text is no AMQP URI. The text itself may hold a password, so it is not repeated.
public struct AMQPURIError: Error, Equatable, Sendable {
  /// What is wrong with it.
  public let reason: String

  package init(reason: String) {
    self.reason = reason
  }
}

/// Where a broker is and how to log in: RabbitMQ's URI specification (https://www.rabbitmq.com/docs/uri-spec) and its query
/// parameters (https://www.rabbitmq.com/docs/uri-query-parameters).
public struct AMQPURI: Sendable, Equatable {
  /// How the client logs in.
  public enum Mechanism: String, Sendable { case plain, external }

  /// Whether the connection is encrypted (`amqps`).
  public var usesTLS = false
  /// The host name or address.
  public var host = "localhost"
  /// The port.
  public var port = 5672
  /// The user.
  public var user = "guest"
  /// The password.
  public var password = "guest"
  /// Without a path it is `/`; with the path `/` it is the empty name.
  public var vhost = "/"
  /// Seconds between heartbeats; 0 turns them off. A broker that is silent for two of them is taken for gone.
  public var heartbeat = 15
  /// Time limit to connect and log in.
  public var connectTimeout: Duration = .seconds(10)
  /// A file of CA certificates, in PEM.
  public var authorityFile: String?
  /// A file with the client's certificate, in PEM.
  public var certificateFile: String?
  /// A file with its key.
  public var keyFile: String?
  /// Whether the server must have a certificate that is trusted.
  public var verifiesPeer = true
  /// How the client logs in.
  public var mechanism = Mechanism.plain

  /// The broker of this machine, as `guest`.
  public init() {}

  /// Reads a URI.
  public init(_ text: String) throws(AMQPURIError) {
    guard let (scheme, after) = text.cut(at: ":"), var rest = after.rest(after: "//") else {
      throw AMQPURIError(reason: "does not begin with 'amqp://' or 'amqps://'")
    }
    switch scheme.lowercasedASCII {
    case "amqp": break
    case "amqps":
      usesTLS = true
      port = 5671
    default: throw AMQPURIError(reason: "does not begin with 'amqp://' or 'amqps://'")
    }
    guard !rest.unicodeScalars.contains(where: { $0.value <= 0x20 || $0.value == 0x7F }) else {
      throw AMQPURIError(reason: "contains white space or control characters (write them as %XX)")
    }
    guard !rest.holds("#") else { throw AMQPURIError(reason: "has a fragment ('#'; in a password write %23)") }

    // A password with a raw '/' or '?' would be taken for a host and a virtual host, and then shown as such.
    let end = rest.utf8.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") } ?? rest.endIndex
    guard !rest[end...].holds("@") else {
      throw AMQPURIError(
        reason: "has an '@' after a '/' or '?' (in a user name or password write %2F and %3F, elsewhere %40)")
    }

    var query: Substring = ""
    if let (before, after) = rest.cut(at: "?") {
      query = after
      rest = before
    }
    if let (before, path) = rest.cut(at: "/") {
      guard !path.holds("/") else {
        throw AMQPURIError(reason: "has more than one '/' after the host (in a virtual host's name write %2F)")
      }
      vhost = try decoded(path, "virtual host")
      rest = before
    }
    if let (login, host) = rest.cut(atLast: "@") {
      guard !login.holds("@") else {
        throw AMQPURIError(reason: "has more than one '@' before the host (in a password write %40)")
      }
      let parts = login.cut(at: ":")
      user = try decoded(parts?.before ?? login, "user name")
      if let parts { password = try decoded(parts.after, "password") }
      rest = host
    }
    try readHost(rest)
    for parameter in query.parts(between: "&") where !parameter.isEmpty { try read(parameter: parameter) }
  }

  /// The brokers of a list that is separated by commas, in its order.
  public static func list(_ text: String) throws(AMQPURIError) -> [AMQPURI] {
    var uris: [AMQPURI] = []
    let items = text.parts(between: ",")
    for item in items {
      do { uris.append(try AMQPURI(String(item[item.utf8.drop { $0 == 0x20 }.startIndex...]))) } catch {
        guard items.count > 1, text.holds("@") else { throw error }
        throw AMQPURIError(reason: error.reason + " (in a user name or password write %2C for ',')")
      }
    }
    return uris
  }

  /// The URI as messages show it: without password and parameters.
  public var shown: String {
    "\(usesTLS ? "amqps" : "amqp")://\(Percent.encode(user))@\(hostPort(host, port))"
      + (vhost == "/" ? "" : "/" + Percent.encode(vhost))
  }

  var withoutPassword: AMQPURI {
    var uri = self
    uri.password = ""
    return uri
  }

  private mutating func readHost(_ text: Substring) throws(AMQPURIError) {
    var name = text
    var portText: Substring?
    if let bracketed = text.rest(after: "[") {
      guard let (address, after) = bracketed.cut(at: "]") else {
        throw AMQPURIError(reason: "has a '[' without ']' in its host")
      }
      name = address
      portText = after.rest(after: ":")
      guard after.isEmpty || portText != nil else { throw AMQPURIError(reason: "has text after ']' in its host") }
    } else if let (before, after) = text.cut(atLast: ":") {
      name = before
      portText = after
      guard !name.holds(":") else {
        throw AMQPURIError(reason: "has more than one ':' in its host (write an IPv6 address in brackets)")
      }
    }
    if !name.isEmpty { host = try decoded(name, "host") }
    if let portText, !portText.isEmpty {
      guard let number = Int(portText), (1...65535).contains(number) else {
        throw AMQPURIError(reason: "has a port that is not a number between 1 and 65535")
      }
      port = number
    }
  }

  private mutating func read(parameter: Substring) throws(AMQPURIError) {
    let parts = parameter.cut(at: "=")
    let name = String(parts?.before ?? parameter)
    let value = try parts.map { (parts) throws(AMQPURIError) in try decoded(parts.after, "parameters") } ?? ""
    func number(_ range: ClosedRange<Int>) throws(AMQPURIError) -> Int {
      guard let number = Int(value), range.contains(number) else {
        throw AMQPURIError(
          reason: "has a \(name) that is not a number between \(range.lowerBound) and \(range.upperBound)")
      }
      return number
    }
    switch name {
    case "heartbeat": heartbeat = try number(0...65535)
    case "connection_timeout": connectTimeout = .milliseconds(try number(1...86_400_000))
    case "cacertfile": authorityFile = value
    case "certfile": certificateFile = value
    case "keyfile": keyFile = value
    case "verify":
      guard ["verify_peer", "verify_none"].contains(value) else {
        throw AMQPURIError(reason: "has a verify that is not verify_peer or verify_none")
      }
      verifiesPeer = value == "verify_peer"
    case "auth_mechanism":
      guard let found = Mechanism(rawValue: value) else {
        throw AMQPURIError(reason: "has an auth_mechanism that is not plain or external")
      }
      mechanism = found
    default:
      throw AMQPURIError(
        reason:
          "has a parameter that is not one of heartbeat, connection_timeout, cacertfile, certfile, keyfile, verify "
          + "and auth_mechanism")
    }
  }
}

private func decoded(_ text: Substring, _ part: String) throws(AMQPURIError) -> String {
  guard let decoded = Percent.decode(text), !decoded.utf8.contains(0) else {
    throw AMQPURIError(reason: "has a '%' in its \(part) that does not encode a character (write %25 for '%')")
  }
  return decoded
}
