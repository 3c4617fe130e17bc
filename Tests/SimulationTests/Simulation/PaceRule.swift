import MsctlCore

/// What a rate promises: however the time passes, no more begin than it allows.
struct PaceRule {
  /// What the one after a late one may make up for.
  private static let slack: Duration = .milliseconds(10)

  private let rate: Rate
  private var begun: [Deadline] = []

  init(_ rate: Rate) { self.rate = rate }

  /// Another one begins.
  mutating func check(at now: Deadline) throws(Violation) {
    for (place, earlier) in begun.enumerated() {
      let least = rate.period / rate.count * (begun.count - place) - Self.slack
      guard now - earlier < least else { continue }
      throw Violation(
        "no more begin than the rate allows", "\(begun.count - place + 1) within \((now - earlier).shown)")
    }
    begun.append(now)
  }
}
