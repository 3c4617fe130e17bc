/// Where an agent is: what `CONSUL_HTTP_ADDR` may say (https://developer.hashicorp.com/consul/commands#environment-variables).
public struct ConsulAddress: Sendable, Equatable {
  public static let standard = ConsulAddress(base: "http://127.0.0.1:8500", unixSocket: nil)

  /// Scheme, host, port and path prefix, without a slash at the end.
  public let base: String
  public let unixSocket: String?

  private init(base: String, unixSocket: String?) {
    self.base = base
    self.unixSocket = unixSocket
  }

  /// Reads `http://host:port`, `https://host:port`, `host:port` or `unix:///path`. Returns nil for anything else.
  public init?(_ text: String) {
    if text.hasPrefix("unix://") {
      let path = String(text.dropFirst("unix://".count))
      guard path.hasPrefix("/") else { return nil }
      self.init(base: "http://localhost", unixSocket: path)
      return
    }
    let hasScheme = text.hasPrefix("http://") || text.hasPrefix("https://")
    guard hasScheme || !text.contains("://") else { return nil }
    let url = hasScheme ? text : "http://" + text
    guard let parts = try? URLParts(url), !parts.host.isEmpty, parts.user == nil, !parts.target.contains("?") else {
      return nil
    }
    let authority = url.dropFirst(parts.scheme.count + 3).prefix { $0 != "/" }
    // Go's client takes 80 and 443 where no port is named; everybody means the agent's.
    let hasPort =
      authority.drop(while: { $0 != "]" }).contains(":") || !authority.contains("]") && authority.contains(":")
    let path = parts.target == "/" ? "" : parts.target
    let trimmed = path.hasSuffix("/") ? String(path.dropLast()) : path
    self.init(
      base: "\(parts.scheme)://\(authority)\(hasPort ? "" : parts.scheme == "https" ? ":8501" : ":8500")\(trimmed)",
      unixSocket: nil)
  }

  /// The same address over TLS.
  public var overTLS: ConsulAddress {
    guard unixSocket == nil, base.hasPrefix("http://") else { return self }
    return ConsulAddress(base: "https://" + base.dropFirst("http://".count), unixSocket: nil)
  }

  public var shown: String { unixSocket.map { "unix://" + $0 } ?? base }
}
