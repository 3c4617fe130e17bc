/// How one attempt of a call ended.
package struct CallAttempt: Sendable {
  /// The status of the response, or why there is none.
  package var result: Result<Int, HTTPError>
  /// Whether any byte of the request has gone out, so that its work may have been done.
  package var hasSent: Bool
  /// Whether the head of a response came, also where its body failed.
  package var hasHead: Bool
  /// What the response's `Retry-After` says.
  package var retryAfter: Duration?

  package init(_ result: Result<Int, HTTPError>, hasSent: Bool, hasHead: Bool = false, retryAfter: Duration? = nil) {
    (self.result, self.hasSent, self.hasHead, self.retryAfter) = (result, hasSent, hasHead, retryAfter)
  }
}

/// What may be tried again, and when: the one place that knows. See RFC 9110, section 9.2.2
/// (https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2) and section 10.2.3 (Retry-After).
package struct RetryPolicy: Sendable {
  /// What follows from an attempt.
  package enum Verdict: Equatable {
    /// It counts.
    case final
    /// Nothing was sent, and another instance waits: this is no retry.
    case another
    /// It may be tried again, after this time at least.
    case retry(after: Duration?)
  }

  /// A retry with less time than this is not made: it would hide why the attempt before failed behind a time limit of its own.
  package static let shortestRetry: Duration = .milliseconds(50)
  /// A `Retry-After` beyond this is taken for a refusal where the call has no deadline of its own.
  private static let longestRetryAfter: Duration = .seconds(300)

  /// Whether the request may reach a service twice without doing its work twice.
  package let isIdempotent: Bool
  /// Statuses that count as success, and so are not retried by themselves.
  private let accepted: [StatusSet]
  /// Statuses that are retried beside those that are so by themselves, also where they are accepted in the end.
  private let retried: [StatusSet]

  package init(isIdempotent: Bool, accepting accepted: [StatusSet] = [], retrying retried: [StatusSet] = []) {
    self.isIdempotent = isIdempotent
    self.accepted = accepted
    self.retried = retried
  }

  /// - Parameters:
  ///   - hasRetries: whether a retry is left.
  ///   - hasOthers: whether there are instances that have not been tried.
  package func verdict(on attempt: CallAttempt, hasRetries: Bool, hasOthers: Bool) -> Verdict {
    switch attempt.result {
    case .failure(let error):
      guard Self.isTransient(error) else { return .final }
      // Where nothing was sent, the next instance may be asked whatever the method.
      if !attempt.hasSent, hasOthers { return .another }
      return hasRetries && (!attempt.hasSent || isIdempotent) ? .retry(after: nil) : .final
    case .success(let status):
      guard hasRetries, isIdempotent, isTransient(status) else { return .final }
      // One instance that is busy says nothing of the others; too many requests are too many for all.
      return .retry(after: status == 429 || !hasOthers ? attempt.retryAfter : nil)
    }
  }

  /// Whether the response of an attempt counts, whatever else comes of it.
  package func isFinal(_ status: Int, hasRetries: Bool) -> Bool {
    !(hasRetries && isIdempotent && isTransient(status))
  }

  /// - Parameters:
  ///   - pause: what the call would wait by itself.
  ///   - wanted: what the service asks for.
  /// - Returns: how long to wait; nil where there is no time for that and a retry.
  package static func pause(
    _ pause: Duration, wanted: Duration?, until deadline: Deadline, at now: Deadline
  ) -> Duration? {
    let pause = max(pause, wanted ?? .milliseconds(1))
    guard deadline != .never else { return pause <= longestRetryAfter ? pause : nil }
    return hasTime(until: deadline, at: now + pause) ? pause : nil
  }

  /// Whether a retry may begin now.
  package static func hasTime(until deadline: Deadline, at now: Deadline) -> Bool {
    deadline == .never || now + shortestRetry < deadline
  }

  /// Whether the instance is worth leaving alone for a while.
  package static func isTrouble(_ attempt: CallAttempt) -> Bool {
    switch attempt.result {
    case .failure(let error): isTransient(error) || error.kind == .tls
    case .success(let status): (502...504).contains(status)
    }
  }

  /// Whether a status says that another try may fare better.
  private func isTransient(_ status: Int) -> Bool {
    retried.contain(status) || [408, 429, 502, 503, 504].contains(status) && !accepted.contain(status)
  }

  /// Whether a failure says nothing of the next try.
  private static func isTransient(_ error: HTTPError) -> Bool {
    switch error.kind {
    case .unreachable, .timedOut, .broken: true
    case .malformedURL, .tls, .certificate, .tooLarge: false
    }
  }
}
