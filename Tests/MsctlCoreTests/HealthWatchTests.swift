import MsctlCore
import Testing

@Suite("What a watch of instances decides")
struct HealthWatchTests {
  private let start = Deadline(nanoseconds: 1_000_000_000)
  private let away = Failure(.unreachable, "away")

  private func terms(
    _ index: UInt64, isFiltered: Bool = false, hasLeader: Bool = true
  ) -> ConsulAgent.Terms {
    ConsulAgent.Terms(index: index, isFiltered: isFiltered, hasLeader: hasLeader)
  }

  private func instance(_ port: Int) throws -> ServiceInstance {
    let text =
      #"{"Service":{"Service":"s","ID":"i","Port":\#(port)},"Node":{"Node":"n","Address":"10.0.0.1"},"Checks":[]}"#
    return try #require(ServiceInstance(health: JSONValue(parsing: text.utf8)))
  }

  /// A machine, and what it has decided.
  private struct Watch {
    var machine: HealthWatch
    var now: Deadline
    var actions: [HealthWatch.Action] = []

    init(_ service: String?, at now: Deadline) {
      machine = HealthWatch(HealthWatch.Options(service: service), at: now, SplitMix(seed: 1))
      self.now = now
      handle(.tick)
    }

    mutating func handle(_ event: HealthWatch.Event) {
      actions = []
      machine.handle(event, at: now, into: &actions)
    }

    /// Lets time pass until it goes on by itself.
    mutating func wait() {
      now = max(now, machine.wakeTime)
      handle(.tick)
    }

    var asked: [HealthWatch.Question] {
      actions.compactMap { if case .ask(let question, _, _) = $0 { question } else { nil } }
    }

    var hasChanged: Bool { actions.contains { if case .changed = $0 { true } else { false } } }
  }

  @Test("an empty list is told only where the token may read the service")
  func permission() {
    let service = ByteKey("s")
    for mayRead in [true, false] {
      var watch = Watch("s", at: start)
      watch.handle(.answered(.instances(service), .instances([], terms(5))))
      #expect(watch.asked == [.permission(service)])
      #expect(watch.machine.instances == nil)
      watch.handle(.answered(.permission(service), .mayRead(mayRead)))
      #expect(watch.machine.instances == (mayRead ? [] : nil))
      #expect((watch.machine.cause == nil) == mayRead)
    }
    var watch = Watch("s", at: start)
    watch.handle(.answered(.instances(service), .instances([], terms(5, isFiltered: true))))
    #expect(watch.machine.cause != nil && watch.machine.instances == nil)
  }

  @Test("what is known stays known through an outage, and is not told again")
  func outage() throws {
    let (service, one) = (ByteKey("s"), try instance(1))
    var watch = Watch("s", at: start)
    watch.handle(.answered(.instances(service), .instances([one], terms(5))))
    #expect(watch.hasChanged && watch.machine.instances == [one])
    watch.wait()
    watch.handle(.answered(.instances(service), .failed(away)))
    #expect(watch.machine.trouble == away && watch.machine.instances == [one])
    watch.wait()
    #expect(watch.asked == [.instances(service)])
    watch.handle(.answered(.instances(service), .instances([one], terms(5))))
    #expect(!watch.hasChanged && watch.machine.trouble == nil)
  }

  @Test("a server that has yet to read its log again is not believed, with a leader or without")
  func restartedServer() throws {
    let (service, one) = (ByteKey("s"), try instance(1))
    for hasLeader in [true, false] {
      var watch = Watch("s", at: start)
      watch.handle(.answered(.instances(service), .instances([one], terms(5))))
      watch.wait()
      watch.handle(.answered(.instances(service), .leaderless(away)))
      #expect(watch.asked == [.instances(service)])
      watch.handle(.answered(.instances(service), .instances([], terms(1, hasLeader: hasLeader))))
      #expect(watch.machine.instances == [one] && watch.asked.isEmpty)
      watch.wait()
      guard case .ask(_, beyond: nil, let consistency)? = watch.actions.first else {
        Issue.record("it asks again")
        return
      }
      #expect((consistency == .consistent) == hasLeader)
    }
  }

  @Test("a sweep that was due before an outage tells no empty list after it")
  func sweep() throws {
    let (service, one) = (ByteKey("s"), try instance(1))
    func check(_ status: String, _ index: UInt64) -> ConsulAgent.CheckState {
      ConsulAgent.CheckState(node: "n", service: "s", instance: "i", status: status, index: index)
    }
    var watch = Watch(nil, at: start)
    watch.handle(.answered(.catalog, .catalog([("s", [])], terms(5))))
    watch.handle(.answered(.checks, .checks([check("passing", 4)], terms(4))))
    watch.handle(.answered(.instances(service), .instances([one], terms(5))))
    #expect(watch.machine.instances == [one])
    // A change that both show; all are to be read again ten seconds later.
    watch.wait()
    watch.now = watch.now + .seconds(2)
    watch.handle(.answered(.catalog, .catalog([("s", [])], terms(6))))
    watch.handle(.answered(.checks, .checks([check("passing", 6), check("passing", 6)], terms(6))))
    #expect(watch.asked.contains(.instances(service)))
    watch.handle(.answered(.instances(service), .failed(away)))
    watch.now = watch.now + .seconds(20)
    watch.handle(.tick)
    #expect(watch.asked == [.catalog, .checks])
    #expect(watch.machine.instances == [one])
  }
}

@Suite("When a command runs that is to know of every change")
struct ChangeRunsTests {
  private let start = Deadline(nanoseconds: 1_000_000_000)

  private func handle(
    _ machine: inout ChangeRuns, _ event: ChangeRuns.Event, _ time: Duration
  ) -> [ChangeRuns.Action] {
    var actions: [ChangeRuns.Action] = []
    machine.handle(event, at: start + time, into: &actions)
    return actions
  }

  @Test("once it is quiet, and though it never is after two seconds; never twice at the same time")
  func quiet() {
    var machine = ChangeRuns(SplitMix(seed: 1))
    var runs = 0
    for milliseconds in stride(from: 0, through: 2000, by: 100) {
      runs += handle(&machine, .changed, .milliseconds(milliseconds)).count
      #expect(runs == (milliseconds < 2000 ? 0 : 1))
    }
    #expect(handle(&machine, .changed, .seconds(3)).isEmpty)
    #expect(handle(&machine, .tick, .seconds(9)).isEmpty)
    // What changed meanwhile is told at once.
    #expect(handle(&machine, .ended(0), .seconds(10)).count == 1)
    #expect(handle(&machine, .ended(0), .seconds(11)).isEmpty)
    #expect(machine.wakeTime == .never)
  }

  @Test("again after a failure, though nothing changes")
  func failure() {
    var machine = ChangeRuns(SplitMix(seed: 1))
    _ = handle(&machine, .changed, .zero)
    #expect(handle(&machine, .tick, .milliseconds(200)).count == 1)
    guard case .note(.failed(9, let pause))? = handle(&machine, .ended(9), .seconds(1)).first else {
      Issue.record("the failure is told")
      return
    }
    #expect(machine.wakeTime == start + .seconds(1) + pause)
    #expect(handle(&machine, .tick, .seconds(1) + pause).count == 1)
  }

  @Test("at the end, what runs gets its time, and nothing else is run")
  func end() {
    var machine = ChangeRuns(SplitMix(seed: 1))
    _ = handle(&machine, .changed, .zero)
    _ = handle(&machine, .tick, .milliseconds(200))
    _ = handle(&machine, .changed, .milliseconds(300))
    #expect(handle(&machine, .finish, .seconds(1)).isEmpty && !machine.isOver)
    #expect(handle(&machine, .tick, .seconds(5)).isEmpty)
    guard case .terminate? = handle(&machine, .tick, .seconds(6)).first else {
      Issue.record("it is asked to end")
      return
    }
    #expect(handle(&machine, .ended(143), .seconds(7)).isEmpty && machine.isOver)
    var idle = ChangeRuns(SplitMix(seed: 1))
    _ = handle(&idle, .finish, .zero)
    #expect(idle.isOver)
  }
}
