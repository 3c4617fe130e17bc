/// What may be asked again: https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2 and section 10.2.3 (Retry-After).
package enum RetryPolicy {
  /// The header that lets a service know a request that it has had before
  /// (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
  package static let keyHeader = "Idempotency-Key"

  /// A `Retry-After` beyond this is taken for a refusal where the call has no deadline of its own.
  package static let longestRetryAfter: Duration = .seconds(300)

  /// Whether a request may reach a service twice without doing its work twice.
  package static func mayRepeat(_ request: HTTPRequest) -> Bool {
    ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"].contains(request.method) || request.header(keyHeader) != nil
  }

  /// Whether a status says that another try may fare better.
  package static func isTransient(_ status: Int) -> Bool {
    [408, 429, 502, 503, 504].contains(status)
  }

  /// Whether a failure says nothing of the next try.
  package static func isTransient(_ error: HTTPError) -> Bool {
    switch error.kind {
    case .unreachable, .timedOut, .broken: true
    case .malformedURL, .tls, .tooLarge: false
    }
  }
}
