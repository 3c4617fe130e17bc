import Dispatch
import MsctlCore
import Synchronization

/// A schedule that broke a rule, and the shortest one that was found to break it, too.
package struct Finding {
  package let world: String
  package let seed: UInt64
  package let violation: Violation
  package let shortest: [UInt32]
  /// What happens in the shortest.
  package let story: [String]
}

/// Looks for a schedule that breaks a rule.
package struct Search: Sendable {
  /// How many schedules are tried to make one shorter.
  package static let tries = 4000

  private let worlds: [any World.Type]

  package init(_ worlds: [any World.Type]) {
    self.worlds = worlds
  }

  /// Runs the schedule of one seed. Worlds take turns.
  package func run(seed: UInt64, _ story: Story = Story(isKept: false)) -> Violation? {
    let choices = Choices(seed: seed)
    return run(world(of: seed), choices, story)
  }

  private func world(of seed: UInt64) -> any World.Type { worlds[Int(seed % UInt64(worlds.count))] }

  private func run(_ world: any World.Type, _ choices: Choices, _ story: Story) -> Violation? {
    do throws(Violation) {
      try world.run(choices, story)
      return nil
    } catch { return error }
  }

  /// - Returns: a seed of the range that breaks a rule, and how many schedules were run. With several threads it may be another than the
  ///   lowest.
  package func firstFailure(in seeds: Range<UInt64>, threads: Int) -> (seed: UInt64?, count: UInt64) {
    let next = Mutex(seeds.lowerBound)
    let found = Mutex(UInt64?.none)
    DispatchQueue.concurrentPerform(iterations: threads) { _ in
      while found.withLock({ $0 == nil }) {
        let seed = next.withLock { next in
          defer { next += 1 }
          return next
        }
        guard seed < seeds.upperBound else { return }
        if run(seed: seed) != nil { found.withLock { $0 = min($0 ?? .max, seed) } }
      }
    }
    return (found.withLock { $0 }, next.withLock { min($0, seeds.upperBound) } - seeds.lowerBound)
  }

  /// Runs the seed again, and makes its schedule shorter.
  /// - Parameter tries: how many schedules are run for that at most.
  package func explain(seed: UInt64, tries: Int = Self.tries) -> Finding? {
    let world = world(of: seed)
    let choices = Choices(seed: seed)
    guard let violation = run(world, choices, Story(isKept: false)) else { return nil }
    let shortest = shortened(choices.made, world, violation.rule, tries)
    let story = Story(isKept: true)
    let again = Choices(script: shortest)
    let last = run(world, again, story)
    return Finding(
      world: world.name, seed: seed, violation: last ?? violation, shortest: shortest, story: story.lines)
  }

  /// Takes out parts of the schedule, and makes choices plainer, as long as the same rule is broken.
  private func shortened(_ made: [UInt32], _ world: any World.Type, _ rule: String, _ tries: Int) -> [UInt32] {
    var best = made
    var left = tries
    func breaks(_ script: [UInt32]) -> [UInt32]? {
      guard left > 0 else { return nil }
      left -= 1
      let choices = Choices(script: script)
      guard run(world, choices, Story(isKept: false))?.rule == rule else { return nil }
      // What comes after the last choice that is not 0 says nothing.
      return Array(script.prefix((script.lastIndex { $0 != 0 } ?? -1) + 1))
    }
    var hasShrunk = true
    while hasShrunk, left > 0 {
      hasShrunk = false
      var size = best.count / 2
      while size > 0 {
        var start = 0
        while start < best.count, left > 0 {
          let end = min(best.count, start + size)
          let without = Array(best[..<start] + best[end...])
          let plain = Array(best[..<start]) + [UInt32](repeating: 0, count: end - start) + Array(best[end...])
          if let shorter = breaks(without) ?? (plain == best ? nil : breaks(plain)), shorter != best {
            best = shorter
            hasShrunk = true
          } else {
            start = end
          }
        }
        size /= 2
      }
      for place in best.indices where place < best.count && best[place] > 0 {
        for smaller in [best[place] / 2, best[place] - 1] {
          var script = best
          script[place] = smaller
          if let shorter = breaks(script) {
            best = shorter
            hasShrunk = true
            break
          }
        }
      }
    }
    return best
  }
}
