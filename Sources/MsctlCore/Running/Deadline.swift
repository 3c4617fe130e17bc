import Glibc

/// A moment on the monotonic clock until which something may take, or never.
package struct Deadline: Sendable, Comparable {
  /// Nanoseconds since an arbitrary start.
  private let nanoseconds: Int64

  package static let never = Deadline(nanoseconds: .max)
  /// A moment that is over, whatever the clock: what is due then is due at once.
  package static let past = Deadline(nanoseconds: 0)
  package static var now: Deadline { Deadline(nanoseconds: clock(CLOCK_MONOTONIC)) }

  package static func after(_ duration: Duration) -> Deadline { now + duration }

  /// - Parameter nanoseconds: since the start of the clock, which need not be that of this machine.
  package init(nanoseconds: Int64) {
    self.nanoseconds = nanoseconds
  }

  /// The moment so long after this one.
  package static func + (moment: Deadline, duration: Duration) -> Deadline {
    let (sum, overflow) = moment.nanoseconds.addingReportingOverflow(duration.nanoseconds)
    return moment == .never || overflow ? .never : Deadline(nanoseconds: sum)
  }

  /// How long it is from the other moment to this one: below zero where this one is earlier.
  package static func - (moment: Deadline, earlier: Deadline) -> Duration {
    let (difference, overflow) = moment.nanoseconds.subtractingReportingOverflow(earlier.nanoseconds)
    return .nanoseconds(overflow ? .max : difference)
  }

  package static func < (a: Deadline, b: Deadline) -> Bool { a.nanoseconds < b.nanoseconds }

  package var isPast: Bool { self != .never && remaining == .zero }

  /// What is left, never below zero.
  package var remaining: Duration {
    .nanoseconds(max(0, nanoseconds - clock(CLOCK_MONOTONIC)))
  }

  /// How long ago this moment was.
  package var secondsSince: Double { Double(clock(CLOCK_MONOTONIC) - nanoseconds) / 1e9 }

  /// What is left as `poll` takes it: -1 for ever; rounded up, so that a wait never ends early and spins.
  package var pollTimeout: Int32 {
    if self == .never { return -1 }
    let (milliseconds, rest) = remaining.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000)
    return Int32(clamping: milliseconds + (rest == 0 ? 0 : 1))
  }
}

extension Duration {
  package var nanoseconds: Int64 {
    let (seconds, attoseconds) = components
    let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    let (sum, isTooLong) = product.addingReportingOverflow(attoseconds / 1_000_000_000)
    return overflow || isTooLong ? (seconds < 0 ? .min : .max) : sum
  }

  package var milliseconds: Int { Int(clamping: nanoseconds / 1_000_000) }

  package var timeval: timeval {
    let (seconds, attoseconds) = components
    return Glibc.timeval(tv_sec: Int(clamping: seconds), tv_usec: Int(clamping: attoseconds / 1_000_000_000_000))
  }

  /// `1.5 s`, `250 ms`: as messages show it.
  package var shown: String {
    let milliseconds = milliseconds
    if milliseconds < 1000 { return "\(milliseconds) ms" }
    let rest = milliseconds % 1000
    return rest == 0 ? "\(milliseconds / 1000) s" : "\(milliseconds / 1000).\(String(1000 + rest).dropFirst()) s"
  }
}

package func clock(_ id: clockid_t) -> Int64 {
  var time = timespec()
  clock_gettime(id, &time)
  return Int64(clamping: time.tv_sec) * 1_000_000_000 + Int64(clamping: time.tv_nsec)
}

/// Seconds since 1970, in UTC.
package func unixTime() -> Int64 {
  clock(CLOCK_REALTIME) / 1_000_000_000
}
