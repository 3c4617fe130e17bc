import CommandTable
import MsctlCore

/// RabbitMQ's management API, for what AMQP does not tell.
enum ManagementAPI {
  /// The largest answer that is read, in bytes: the names of a hundred thousand queues.
  private static let sizeLimit = 16 << 20

  /// - Parameter field: where the API is, if the user says so.
  static func variable<Options>(into field: WritableKeyPath<Options, String?> & Sendable) -> Variable<Options> {
    .value(
      "MSCTL_MANAGEMENT_URL", into: field,
      "Base URL of RabbitMQ's management API, including /api: http://HOST:15672/api; https:// for an amqps:// broker")
  }

  /// Asks the API for JSON.
  /// - Parameters:
  ///   - url: its base; nil: where it usually is, beside the broker.
  ///   - path: after the base, encoded.
  ///   - broker: whose login and certificates are used.
  /// - Returns: nil where the password would go in the clear although it goes to the broker over TLS.
  static func get(
    _ path: String, of url: String?, beside broker: AMQPURI, within patience: Duration, _ console: Console
  ) throws -> JSONValue? {
    let base =
      url
      ?? (broker.usesTLS
        ? "https://\(hostPort(broker.host, 15671))/api" : "http://\(hostPort(broker.host, 15672))/api")
    guard !broker.usesTLS || base.lowercasedASCII.begins(with: "https://") else { return nil }
    let http = try makeHTTPClient(console)
    let loop = EventLoop(http)
    var request = HTTPRequest(url: base + path)
    request.deadline = .after(patience)
    request.usesProxy = false
    request.tls.authorityFile = broker.authorityFile
    request.tls.certificateFile = broker.certificateFile
    request.tls.keyFile = broker.keyFile
    request.tls.verifies = broker.verifiesPeer
    if let login = HTTPHeader(
      "Authorization", "Basic " + Base64.encode(Array("\(broker.user):\(broker.password)".utf8)))
    {
      request.headers.append(login)
    }
    let transfer = try http.start(request)
    var body: [UInt8] = []
    var held = HeldBytes(limit: sizeLimit)
    while transfer.outcome == nil {
      loop.turn()
      let piece = transfer.takeBody()
      do { try held.check(body.count + piece.count, "the response") } catch {
        throw HTTPError(kind: .broken, reason: error.message)
      }
      body += piece
    }
    if case .failure(let error)? = transfer.outcome { throw error }
    if let status = transfer.head?.status, status != 200 {
      throw HTTPError(kind: .broken, reason: "it returned \(status)")
    }
    return try JSONValue(parsing: body)
  }
}
