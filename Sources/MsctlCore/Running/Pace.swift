/// So many in a time.
package struct Rate: Sendable, Equatable {
  package let count: Int
  package let period: Duration

  /// - Parameter count: at least 1.
  package init(_ count: Int, per period: Duration) { (self.count, self.period) = (max(1, count), period) }

  /// How many fit into a time; at least 1.
  package func count(within time: Duration) -> Int {
    let interval = max(1, (period / count).nanoseconds)
    return max(1, Int(clamping: time.nanoseconds / interval))
  }
}

/// Lets one begin after the other, evenly and no more than a rate says.
package struct Pace: Sendable {
  /// What one that begins late may be made up for by those after it: a loop wakes up a little late.
  package static let slack: Duration = .milliseconds(10)

  package let interval: Duration
  /// When the next may begin.
  package private(set) var next: Deadline

  package init(_ rate: Rate, at now: Deadline) {
    interval = rate.period / rate.count
    next = now
  }

  package mutating func began(at now: Deadline) { next = max(next, now + (.zero - Self.slack)) + interval }
}
