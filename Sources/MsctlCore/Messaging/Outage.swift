/// The time and the pauses of an outage.
///
/// A connection that breaks again before anything was settled is the same outage: its time and its pauses go on, so that what
/// breaks every connection at the same place does not do so for ever.
struct Outage: Sendable {
  /// A connection that has held so long with nothing to settle is sound.
  private static let soundAfter: Duration = .seconds(5)

  private let limit: Duration
  private var connectedAt: Deadline
  private(set) var begin: Deadline
  private(set) var deadline: Deadline
  private(set) var breaks = 0
  private var backoff = Backoff(to: .seconds(5))
  private var isRefusalTold = false

  /// - Parameters:
  ///   - limit: how long an outage may last.
  ///   - first: how long there may be no connection at first.
  init(limit: Duration, first: Duration, at now: Deadline) {
    self.limit = limit
    (connectedAt, begin, deadline) = (now, now, now + first)
  }

  /// Whether nothing was settled since a connection broke.
  var isLasting: Bool { breaks > 0 }
  var isFirstBreak: Bool { breaks == 1 }

  /// Something was settled: the next break is another outage.
  mutating func settled() { breaks = 0 }

  mutating func connected(at now: Deadline) { connectedAt = now }

  /// A connection broke.
  /// - Parameter isIdle: whether it had nothing to settle.
  /// - Returns: whether another one may be tried.
  mutating func broke(isIdle: Bool, at now: Deadline) -> Bool {
    // Time in which it worked counts only if nothing came of it.
    let held = now - connectedAt
    if held >= limit || isIdle && held >= Self.soundAfter { breaks = 0 }
    if breaks == 0 {
      (begin, deadline) = (now, now + limit)
      backoff.reset()
      isRefusalTold = false
    }
    breaks += 1
    return now < deadline
  }

  mutating func pause(using generator: inout SplitMix) -> Duration { backoff.next(using: &generator) }

  /// Whether a refused login is to be told; only the first one is.
  mutating func tellsRefusal() -> Bool {
    defer { isRefusalTold = true }
    return !isRefusalTold
  }
}

extension Failure {
  /// Whether another attempt to connect to a broker may succeed.
  /// - Parameter awaitsPassword: whether a password file may be about to be replaced.
  package func isTransient(awaitsPassword: Bool) -> Bool {
    switch code {
    case .unreachable, .timedOut: true
    case .denied where awaitsPassword: true
    // A node or a virtual host that is coming up refuses for a while.
    default:
      if case .amqp(let errors) = cause { errors.contains { $0.error.reason.holds(text: " is down") } } else { false }
    }
  }
}
