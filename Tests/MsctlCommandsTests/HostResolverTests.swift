import Foundation
import MsctlCore
import Testing

@testable import MsctlCommands

@Suite("Host names of a catalogue")
struct HostResolverTests {
  private func keys(_ names: String...) -> Set<ByteKey> { Set(names.map(ByteKey.init)) }

  @Test("one that is not resolved in time holds up nobody, is not waited for again, and counts when it comes")
  func slow() async throws {
    let gate = DispatchSemaphore(value: 0)
    let resolver = HostResolver(patience: .seconds(5)) { name in
      if name.hasPrefix("slow") { gate.wait() }
      return name.hasPrefix("none") ? [] : ["10.0.0.1"]
    }
    let loop = EventLoop(resolver)
    func addresses(of names: Set<ByteKey>) throws -> [ByteKey: [String]] { try loop.answer(to: resolver.lookUp(names)) }
    // More than are looked up at a time: the others wait for their turn.
    let slow = (1...20).map { ByteKey("slow\($0)") }
    let first = try addresses(of: keys("fast", "none").union(slow))
    #expect(first[ByteKey("fast")] == ["10.0.0.1"] && first[ByteKey("none")] == [])
    #expect(slow.allSatisfy { first[$0] == [] })
    #expect(resolver.changes == 0)
    let start = ContinuousClock.now
    for _ in 0..<100 { _ = try addresses(of: keys("fast", "none").union(slow)) }
    // New names are not waited for as long as before.
    for number in 0..<10 { _ = try addresses(of: [ByteKey("slow-\(number)")]) }
    #expect(start.duration(to: .now) < .seconds(120))
    for _ in 0..<30 { gate.signal() }
    let deadline = Date(timeIntervalSinceNow: 180)
    while resolver.changes < 30, Date() < deadline { try await Task.sleep(for: .milliseconds(10)) }
    #expect(resolver.changes == 30)
    #expect(try addresses(of: Set(slow)).values.allSatisfy { $0 == ["10.0.0.1"] })
  }

  @Test("a look-up that takes the place of another one keeps its limit")
  func replaced() {
    let gate = DispatchSemaphore(value: 0)
    let resolver = HostResolver(patience: .seconds(60)) { _ in
      gate.wait()
      return []
    }
    let first = resolver.lookUp(keys("one"))
    let second = resolver.lookUp(keys("one", "two"), until: first.wakeTime)
    #expect(second.wakeTime == first.wakeTime && second.take() == nil)
    #expect(resolver.lookUp(keys("three"), until: .past).take()?[ByteKey("three")] == [])
    for _ in 0..<3 { gate.signal() }
  }
}

@Suite("The console")
struct ConsoleTests {
  @Test("discards what is not written, and writes what comes later")
  func discard() throws {
    let console = Console(environment: [:])
    console.write(line: "lost")
    #expect(console.hasUnwritten && console.bufferedBytes == 5)
    console.discard()
    #expect(!console.hasUnwritten && console.bufferedBytes == 0)
    console.write(line: "x")
    #expect(console.bufferedBytes == 2)
    console.discard()
    try console.flush()
  }
}
