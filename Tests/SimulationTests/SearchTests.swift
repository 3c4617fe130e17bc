import MsctlCore
import Simulation
import Testing

/// A world in which three special things together break a rule.
private enum Fragile: World {
  static let name = "fragile"

  static func run(_ choices: Choices, _ story: Story) throws(Violation) {
    var special = 0
    for place in 0..<100 where choices.chance(5) {
      story.tell(Clock.start, "something special at \(place)")
      special += 1
    }
    if special >= 3 { throw Violation("at most two", "\(special)") }
  }
}

@Suite("The search for a schedule")
struct SearchTests {
  @Test("finds a seed that breaks a rule, runs it again, and makes it as short as can be")
  func shortens() throws {
    let search = Search([Fragile.self])
    let seed = try #require(search.firstFailure(in: 0..<1000, threads: 2).seed)
    let finding = try #require(search.explain(seed: seed))
    #expect(finding.violation.rule == "at most two")
    #expect(finding.story.count == 3, "\(finding.story)")
    #expect(finding.shortest.count { $0 != 0 } == 3)
    #expect(search.explain(seed: seed)?.shortest == finding.shortest)
  }

  @Test("the same seed makes the same choices")
  func repeats() {
    let one = Choices(seed: 7)
    let other = Choices(seed: 7)
    for count in 1...50 { #expect(one.pick(count) == other.pick(count)) }
    let again = Choices(script: one.made)
    for count in 1...50 { _ = again.pick(count) }
    #expect(again.made == one.made)
  }

  @Test("each world keeps its rules", arguments: allWorlds.map { $0.name })
  func worlds(name: String) throws {
    let search = Search(allWorlds.filter { $0.name == name })
    let failing = search.firstFailure(in: 0..<200, threads: 1).seed
    let finding = failing.flatMap { search.explain(seed: $0) }
    #expect(finding == nil, "\(finding.map { "\($0.violation), seed \($0.seed)" } ?? "")")
  }
}
