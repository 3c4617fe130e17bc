import DequeModule
import MsctlCore

/// Who handles the messages of a run: standard output, one filter, or commands, as good and as bad as real ones.
protocol SimulatedHandler: AnyObject {
  var state: Consumer.HandlerState { get }
  /// When something more is done.
  var wakeTime: Deadline { get }
  /// Whether it handles all that it is given, and soon.
  var isReliable: Bool { get }
  /// How many it was given and has said nothing of.
  var unanswered: Int { get }
  /// A rule that its machine has broken.
  var violation: Violation? { get }
  /// How often each content was requeued because its command failed.
  var requeued: [String: Int] { get }
  var rejected: [String: Int] { get }

  /// - Throws: it cannot be handed on.
  func take(_ number: Int, _ key: String, _ delivery: AMQPDelivery) throws(Failure)
  func renew(_ number: Int, _ delivery: AMQPDelivery)
  /// What has been done since, and what it says of that.
  /// - Parameter write: what it adds to the output.
  func proceed(_ write: (_ number: Int, _ key: String) -> Void) -> Result<[Consumer.Settlement], Failure>
  /// For a while no more messages may come.
  func startBatch()
  func finish()
  /// Time is up.
  func terminate()
}

extension SimulatedHandler {
  var requeued: [String: Int] { [:] }
  var violation: Violation? { nil }
  func renew(_ number: Int, _ delivery: AMQPDelivery) {}
  func startBatch() {}
}

func makeHandler(
  _ plan: Consumer.Options, isStream: Bool, _ timeline: Timeline, _ choices: Choices, _ story: Story
) -> any SimulatedHandler {
  switch plan.handling {
  case .output: SimulatedOutput(timeline)
  case .filter(let chooses): SimulatedFilter(chooses, plan, timeline, choices, story)
  case .commands(let parallel, let batch):
    SimulatedCommands(parallel, batch, isStream: isStream, timeline, choices, story)
  }
}

/// Lines, one after the other.
private final class SimulatedOutput: SimulatedHandler {
  private let timeline: Timeline
  private var work = Deque<(number: Int, key: String)>()
  let rejected: [String: Int] = [:]

  init(_ timeline: Timeline) { self.timeline = timeline }

  let isReliable = true
  var unanswered: Int { 0 }
  var state: Consumer.HandlerState { .init(hasRoom: work.count < 16, isFinished: work.isEmpty) }
  var wakeTime: Deadline { work.isEmpty ? .never : timeline.now }

  func take(_ number: Int, _ key: String, _ delivery: AMQPDelivery) { work.append((number, key)) }

  func proceed(_ write: (_ number: Int, _ key: String) -> Void) -> Result<[Consumer.Settlement], Failure> {
    var settled: [Consumer.Settlement] = []
    while let one = work.popFirst() {
      write(one.number, one.key)
      settled.append(.init(one.number, .acknowledge))
    }
    return .success(settled)
  }

  func finish() {}
  func terminate() {}
}
