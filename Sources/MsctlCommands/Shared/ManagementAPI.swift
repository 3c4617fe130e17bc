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

  /// Asks the API for JSON, where nothing else is to be done meanwhile.
  /// - Returns: nil where the password would go in the clear although it goes to the broker over TLS.
  static func get(
    _ path: String, of url: String?, beside broker: AMQPURI, within patience: Duration, _ console: Console
  ) throws -> JSONValue? {
    guard let query = try Query(path, of: url, beside: broker, within: patience, console) else { return nil }
    let loop = EventLoop(query.http)
    while true {
      if let answer = try query.answer() { return answer }
      loop.turn()
    }
  }

  /// A question to the API, whose HTTP client is to be in a loop.
  final class Query {
    let http: HTTPClient
    private let transfer: HTTPTransfer
    private var body: [UInt8] = []
    private var held = HeldBytes(limit: sizeLimit)

    /// - Parameters:
    ///   - url: the base of the API; nil: where it usually is, beside the broker.
    ///   - path: after the base, encoded.
    ///   - broker: whose login and certificates are used.
    /// - Returns: nil where the password would go in the clear although it goes to the broker over TLS.
    init?(
      _ path: String, of url: String?, beside broker: AMQPURI, within patience: Duration, _ console: Console
    ) throws {
      let base =
        url
        ?? (broker.usesTLS
          ? "https://\(hostPort(broker.host, 15671))/api" : "http://\(hostPort(broker.host, 15672))/api")
      guard !broker.usesTLS || base.lowercasedASCII.begins(with: "https://") else { return nil }
      http = try makeHTTPClient(console)
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
      transfer = try http.start(request)
    }

    /// The answer; nil while there is none.
    func answer() throws -> JSONValue? {
      let piece = transfer.takeBody()
      do { try held.check(body.count + piece.count, "the response") } catch {
        throw HTTPError(kind: .broken, reason: error.message)
      }
      body += piece
      guard let outcome = transfer.outcome else { return nil }
      if case .failure(let error) = outcome { throw error }
      if let status = transfer.head?.status, status != 200 {
        throw HTTPError(kind: .broken, reason: "it returned \(status)")
      }
      return try JSONValue(parsing: body)
    }
  }
}
