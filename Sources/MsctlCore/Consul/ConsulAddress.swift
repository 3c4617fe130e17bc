/// Where an agent is: what `CONSUL_HTTP_ADDR` may say (https://developer.hashicorp.com/consul/commands#environment-variables).
public struct ConsulAddress: Sendable, Equatable {
  /// The agent of this machine.
  public static let standard = ConsulAddress(base: "http://127.0.0.1:8500", unixSocket: nil)

  /// Scheme, host, port and path prefix, without a slash at the end.
  package let base: String
  package let unixSocket: String?

  private init(base: String, unixSocket: String?) {
    self.base = base
    self.unixSocket = unixSocket
  }

  /// Reads `http://host:port`, `https://host:port`, `host:port` or `unix:///path`. Returns nil for anything else.
  public init?(_ text: String) {
    if let path = text.rest(after: "unix://") {
      guard path.begins(with: "/"), !path.utf8.contains(0) else { return nil }
      self.init(base: "http://localhost", unixSocket: String(path))
      return
    }
    let hasScheme = text.begins(with: "http://") || text.begins(with: "https://")
    guard hasScheme || !text.holds(text: "://"), !text.holds("#") else { return nil }
    let url = hasScheme ? text : "http://" + text
    // What follows a '?' may be a token, which belongs into a header; what stands before an '@' is a login or part of one.
    guard !url.holds("?"), !url.holds("@"), let parts = try? URLParts(url), !parts.host.isEmpty, parts.user == nil
    else { return nil }
    let rest = url.rest(after: parts.scheme + "://") ?? ""
    let authority = rest.cut(at: "/")?.before ?? rest[...]
    // Go's client takes 80 and 443 where no port is named; everybody means the agent's.
    let hasPort = (authority.cut(at: "]")?.after ?? authority).holds(":")
    var path = parts.target
    if path.ends(with: "/") { path.unicodeScalars.removeLast() }
    self.init(
      base: "\(parts.scheme)://\(authority)\(hasPort ? "" : parts.scheme == "https" ? ":8501" : ":8500")\(path)",
      unixSocket: nil)
  }

  /// The same address over TLS.
  package var overTLS: ConsulAddress {
    guard unixSocket == nil, let rest = base.rest(after: "http://") else { return self }
    return ConsulAddress(base: "https://" + rest, unixSocket: nil)
  }

  /// As it is shown.
  public var shown: String { unixSocket.map { "unix://" + $0 } ?? base }
}
