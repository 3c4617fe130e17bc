import Foundation
import MsctlCore
import Simulation

/// `Simulate`: runs schedules of the simulated worlds. It ends with 1 at the first that breaks a rule, and shows the shortest one
/// that it found for the same rule.
@main
struct Main {
  static func main() {
    let environment = ProcessInfo.processInfo.environment
    func number(_ name: String) -> UInt64? { environment[name].flatMap { $0.isEmpty ? nil : UInt64($0) } }
    let chosen = environment["WORLD"] ?? ""
    let worlds = allWorlds.filter { chosen.isEmpty || $0.name == chosen }
    guard !worlds.isEmpty else { return end("no world '\(chosen)'; there are \(allWorlds.map { $0.name })") }
    let search = Search(worlds)
    if let seed = number("SEED") { return explain(seed, search) }

    let count = number("SEEDS") ?? 1000
    let first = number("FIRST") ?? 0
    let threads = Int(clamping: number("THREADS") ?? 1)
    let began = Deadline.now
    let (failing, total) = search.firstFailure(in: first..<(first + count), threads: threads)
    let seconds = began.secondsSince
    let speed = Int(Double(total) / max(seconds, 0.001) / Double(threads))
    print("\(total) schedules of \(worlds.map { $0.name }.joined(separator: ", ")), \(speed) a second on one core")
    if let failing { explain(failing, search) }
  }

  private static func explain(_ seed: UInt64, _ search: Search) {
    let tries = ProcessInfo.processInfo.environment["TRIES"].flatMap { Int($0) } ?? Search.tries
    guard let finding = search.explain(seed: seed, tries: tries) else { return print("SEED=\(seed) breaks no rule") }
    print(finding.story.joined(separator: "\n"))
    end(
      """
      SEED=\(seed) of the world '\(finding.world)' breaks the rule: \(finding.violation.rule)
      \(finding.violation.detail)
      (above: the shortest schedule found, of \(finding.shortest.count) choices)
      """)
  }

  private static func end(_ text: String) {
    print(text)
    exit(1)
  }
}
