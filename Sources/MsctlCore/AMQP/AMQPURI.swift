/// Why a text is no AMQP URI. The text itself may hold a password, so it is not repeated.
public struct AMQPURIError: Error, Equatable, Sendable {
  public let reason: String

  package init(reason: String) {
    self.reason = reason
  }
}

/// Where a broker is and how to log in: RabbitMQ's URI specification (https://www.rabbitmq.com/docs/uri-spec) and its query
/// parameters (https://www.rabbitmq.com/docs/uri-query-parameters).
public struct AMQPURI: Sendable, Equatable {
  public enum Mechanism: String, Sendable { case plain, external }

  public var usesTLS = false
  public var host = "localhost"
  public var port = 5672
  public var user = "guest"
  public var password = "guest"
  /// Without a path it is `/`; with the path `/` it is the empty name.
  public var vhost = "/"
  /// Seconds between heartbeats; 0 turns them off. A broker that is silent for two of them is taken for gone.
  public var heartbeat = 15
  public var connectTimeout: Duration = .seconds(10)
  public var authorityFile: String?
  public var certificateFile: String?
  public var keyFile: String?
  public var verifiesPeer = true
  public var mechanism = Mechanism.plain

  public init() {}

  public init(_ text: String) throws(AMQPURIError) {
    guard let colon = text.range(of: "://") else {
      throw AMQPURIError(reason: "does not begin with 'amqp://' or 'amqps://'")
    }
    switch text[..<colon.lowerBound].lowercased() {
    case "amqp": break
    case "amqps":
      usesTLS = true
      port = 5671
    default: throw AMQPURIError(reason: "does not begin with 'amqp://' or 'amqps://'")
    }
    var rest = text[colon.upperBound...]
    guard !rest.unicodeScalars.contains(where: { $0.value <= 0x20 || $0.value == 0x7F }) else {
      throw AMQPURIError(reason: "holds white space or control characters (write them as %XX)")
    }
    guard !rest.contains("#") else { throw AMQPURIError(reason: "has a fragment ('#'; in a password write %23)") }

    // A password with a raw '/' or '?' would be taken for a host, and then shown as one.
    let authority = rest.prefix { $0 != "/" && $0 != "?" }
    guard authority.contains("@") || !rest.contains("@") else {
      throw AMQPURIError(reason: "has an '@' after a '/' or '?' (in a user name or password write %2F and %3F)")
    }

    var query: Substring = ""
    if let mark = rest.firstIndex(of: "?") {
      query = rest[rest.index(after: mark)...]
      rest = rest[..<mark]
    }
    if let slash = rest.firstIndex(of: "/") {
      let path = rest[rest.index(after: slash)...]
      guard !path.contains("/") else {
        throw AMQPURIError(reason: "has more than one '/' after the host (in a virtual host's name write %2F)")
      }
      vhost = try decoded(path, "virtual host")
      rest = rest[..<slash]
    }
    if let at = rest.lastIndex(of: "@") {
      let login = rest[..<at].split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
      guard !rest[..<at].contains("@") else {
        throw AMQPURIError(reason: "has more than one '@' before the host (in a password write %40)")
      }
      user = try decoded(login[0], "user name")
      if login.count == 2 { password = try decoded(login[1], "password") }
      rest = rest[rest.index(after: at)...]
    }
    try readHost(rest)
    for parameter in query.split(separator: "&") { try read(parameter: parameter) }
  }

  /// The brokers of a list that is separated by commas, in its order.
  public static func list(_ text: String) throws(AMQPURIError) -> [AMQPURI] {
    var uris: [AMQPURI] = []
    let items = text.split(separator: ",", omittingEmptySubsequences: false)
    for item in items {
      do { uris.append(try AMQPURI(item.drop { $0 == " " }.description)) } catch {
        guard items.count > 1, text.contains("@") else { throw error }
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

  private mutating func readHost(_ text: Substring) throws(AMQPURIError) {
    var name = text
    var portText: Substring?
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else { throw AMQPURIError(reason: "has a '[' without ']' in its host") }
      name = text[text.index(after: text.startIndex)..<end]
      let after = text[text.index(after: end)...]
      guard after.isEmpty || after.hasPrefix(":") else { throw AMQPURIError(reason: "has text after ']' in its host") }
      portText = after.isEmpty ? nil : after.dropFirst()
    } else if let colon = text.lastIndex(of: ":") {
      name = text[..<colon]
      portText = text[text.index(after: colon)...]
      guard !name.contains(":") else {
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
    let parts = parameter.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    let name = String(parts[0])
    let value = parts.count == 2 ? try decoded(parts[1], "parameters") : ""
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

extension StringProtocol {
  /// The first place of `needle`.
  fileprivate func range(of needle: String) -> Range<Index>? {
    var start = startIndex
    while start < endIndex {
      if self[start...].hasPrefix(needle) { return start..<index(start, offsetBy: needle.count) }
      start = index(after: start)
    }
    return nil
  }
}
