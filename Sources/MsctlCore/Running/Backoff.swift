/// How long to wait before the next try: exponential, with full jitter, so that many who failed together do not come back
/// together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
package struct Backoff: Sendable {
  private let shortest: Duration
  private let longest: Duration
  private var failures = 0

  /// - Parameters:
  ///   - shortest: the longest pause after the first failure; it doubles with each.
  ///   - longest: what it never exceeds.
  package init(from shortest: Duration = .milliseconds(100), to longest: Duration = .seconds(10)) {
    self.shortest = shortest
    self.longest = longest
  }

  /// The pause after another failure.
  package mutating func next() -> Duration {
    var generator = SystemRandomNumberGenerator()
    return next(using: &generator)
  }

  package mutating func next(using generator: inout some RandomNumberGenerator) -> Duration {
    let most = min(longest, shortest * (1 << min(failures, 20)))
    failures += 1
    return .nanoseconds(Int64.random(in: 0...max(1, most.nanoseconds), using: &generator))
  }

  /// It has worked again.
  package mutating func reset() {
    failures = 0
  }
}
