import MsctlCore

/// What happens by chance in one schedule: drawn from a seed, or read from a list of earlier choices, so that a schedule can be run
/// again and made shorter. The choice 0 is always the plainest: nothing special happens.
package final class Choices {
  private var random: SplitMix
  /// The choices to make; after them, always 0. Nil: drawn from the seed.
  private let script: [UInt32]?
  /// The choices that were made, so that the same schedule follows from them.
  package private(set) var made: [UInt32] = []

  package init(seed: UInt64) {
    random = SplitMix(seed: seed)
    script = nil
  }

  package init(script: [UInt32]) {
    random = SplitMix(seed: 0)
    self.script = script
  }

  /// A number below the count.
  package func pick(_ count: Int) -> Int {
    let bound = UInt32(clamping: max(1, count))
    let choice: UInt32
    if let script {
      choice = made.count < script.count ? script[made.count] % bound : 0
    } else {
      choice = UInt32(truncatingIfNeeded: random.next() >> 32) % bound
    }
    made.append(choice)
    return Int(choice)
  }

  package func pick<T>(from list: [T]) -> T { list[pick(list.count)] }

  package func pick(_ range: ClosedRange<Int>) -> Int { range.lowerBound + pick(range.count) }

  /// Whether something special happens, which it does in so many of a hundred cases.
  package func chance(_ percent: Int) -> Bool { pick(100) >= 100 - percent }

  /// A time of up to so many milliseconds; mostly short.
  package func time(_ most: Int) -> Duration {
    .milliseconds(chance(20) ? pick(most + 1) : pick(min(most, 5) + 1))
  }

  /// A seed for a machine that draws random numbers of its own.
  package func seed() -> UInt64 { UInt64(pick(1 << 31)) }
}
