import MsctlCore
import Testing

@Suite("What a held registration decides")
struct HeldRegistrationTests {
  private let start = Deadline(nanoseconds: 1_000_000_000)

  private func machine() -> HeldRegistration {
    HeldRegistration(
      HeldRegistration.Options(ttl: .seconds(15), drain: .zero, grace: .seconds(10)), at: start, SplitMix(seed: 1))
  }

  @Test("a probe that takes longer than the interval does not lead to the next one at once")
  func slowProbe() {
    var machine = machine()
    var actions: [HeldRegistration.Action] = []
    machine.handle(.tick, at: start, into: &actions)
    #expect(actions.count == 1)
    actions = []
    machine.handle(.probed(false), at: start + .seconds(3), into: &actions)
    #expect(actions.isEmpty)
    #expect(machine.wakeTime > start + .seconds(3))
  }

  @Test("an agent that says nothing is overdue when it would be asked again")
  func silence() {
    var machine = machine()
    var actions: [HeldRegistration.Action] = []
    for event: HeldRegistration.Event in [.tick, .probed(true), .tick, .answered(.accepted)] {
      machine.handle(event, at: start, into: &actions)
    }
    let next = machine.wakeTime
    #expect(machine.isReady && next == start + .seconds(5) && !machine.isOverdue(at: next))
    machine.handle(.tick, at: next, into: &actions)
    #expect(!machine.isOverdue(at: next + .milliseconds(4999)))
    #expect(machine.isOverdue(at: next + .seconds(5)))
    machine.handle(.answered(.accepted), at: next + .seconds(6), into: &actions)
    #expect(!machine.isOverdue(at: next + .seconds(6)))
  }

  @Test("a signal is not passed on to a process group that is gone")
  func goneGroup() {
    var machine = machine()
    var actions: [HeldRegistration.Action] = []
    for event: HeldRegistration.Event in [.tick, .probed(true), .commandEnded, .groupEnded] {
      machine.handle(event, at: start, into: &actions)
    }
    actions = []
    machine.handle(.signal(15, isEnding: true), at: start, into: &actions)
    #expect(!actions.contains { if case .signalGroup = $0 { true } else { false } })
  }
}
