import MsctlCore

/// A rule that a world has seen broken.
package struct Violation: Error, Equatable {
  /// The rule, as the documents state it.
  package let rule: String
  /// What was seen.
  package let detail: String

  package init(_ rule: String, _ detail: String) {
    (self.rule, self.detail) = (rule, detail)
  }
}

/// What happens in a schedule, line by line; kept only where somebody reads it.
package final class Story {
  package private(set) var lines: [String] = []
  private let isKept: Bool

  package init(isKept: Bool) {
    self.isKept = isKept
  }

  package func tell(_ now: Deadline, _ line: @autoclosure () -> String) {
    guard isKept else { return }
    let milliseconds = (now - Clock.start).milliseconds
    lines.append("\(milliseconds / 1000).\(String(1000 + milliseconds % 1000).dropFirst())  \(line())")
  }
}

/// The time of a simulated world: it passes only when the world says so.
package enum Clock {
  package static let start = Deadline(nanoseconds: 1_000_000_000)
}

/// A world in which the real machines run: the one seed moves everything in it, without real time.
package protocol World: SendableMetatype {
  /// One word, for the command line and reports.
  static var name: String { get }
  /// Runs one schedule to its end.
  /// - Throws: the rule that was broken.
  static func run(_ choices: Choices, _ story: Story) throws(Violation)
}

/// What is to happen, in the order of time; at the same time, in the order in which it was planned.
package struct Agenda<Event> {
  private struct Entry {
    let time: Deadline
    let number: Int
    let event: Event

    func isBefore(_ other: Entry) -> Bool { time < other.time || time == other.time && number < other.number }
  }

  private var heap: [Entry] = []
  private var count = 0

  package init() {}

  package var next: Deadline { heap.first?.time ?? .never }

  package mutating func add(_ event: Event, at time: Deadline) {
    count += 1
    heap.append(Entry(time: time, number: count, event: event))
    var place = heap.count - 1
    while place > 0, heap[place].isBefore(heap[(place - 1) / 2]) {
      heap.swapAt(place, (place - 1) / 2)
      place = (place - 1) / 2
    }
  }

  package mutating func popFirst() -> Event? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    guard !heap.isEmpty else { return first.event }
    heap[0] = last
    var place = 0
    while true {
      var least = place
      for child in [2 * place + 1, 2 * place + 2] where child < heap.count && heap[child].isBefore(heap[least]) {
        least = child
      }
      if least == place { return first.event }
      heap.swapAt(place, least)
      place = least
    }
  }
}
