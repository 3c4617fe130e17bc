import Foundation
import Testing

@testable import MsctlCore

@Suite("The event loop")
struct EventLoopTests {
  /// Something that is answered after it went on so many times.
  private final class Counter: LoopMember, LoopQuestion {
    var left: Int

    init(_ left: Int) { self.left = left }

    var wakeTime: Deadline { left > 0 ? .now : .never }
    func addInterests(to polls: inout PollSet) {}
    func proceed() { left -= 1 }
    func take() -> String? { left <= 0 ? "done" : nil }
  }

  @Test("turns until a question is answered, and lets its members go on meanwhile")
  func answers() throws {
    let counter = Counter(3)
    #expect(try EventLoop(counter).answer(to: counter) == "done")
    #expect(counter.left == 0)
  }

  @Test("waits until its deadline, and no longer where a bell rings in another thread")
  func bell() throws {
    let bell = Bell()
    let ear = Readiness(bell.descriptor)
    let loop = EventLoop(ear)
    loop.turn(until: .now)
    #expect(!ear.isReady)
    Thread.detachNewThread { bell.ring() }
    loop.turn()
    #expect(ear.isReady)
    bell.clear()
    loop.turn(until: .now)
    #expect(!ear.isReady)
    bell.ring()
    ear.isWanted = false
    loop.turn(until: .now)
    #expect(!ear.isReady)
  }

  @Test("a member that is added or removed while others go on counts from the next turn on")
  func members() throws {
    final class Adding: LoopMember {
      let (loop, other): (EventLoop, Counter)
      init(_ loop: EventLoop, _ other: Counter) { (self.loop, self.other) = (loop, other) }
      var wakeTime: Deadline { .now }
      func addInterests(to polls: inout PollSet) {}
      func proceed() {
        loop.add(other)
        loop.remove(self)
      }
    }
    let loop = EventLoop()
    let counter = Counter(2)
    loop.add(Adding(loop, counter))
    loop.turn()
    #expect(counter.left == 2)
    loop.turn()
    loop.turn()
    #expect(counter.left == 0)
  }

  @Test("a port is probed without waiting: refused, accepted, or not in time")
  func probe() throws {
    let port = try #require(freePort())
    let refused = TCPProbe("127.0.0.1", port, until: .after(.seconds(10)))
    let unknown = TCPProbe("no address", port, until: .after(.seconds(10)))
    let loop = EventLoop(refused)
    while refused.result == nil { loop.turn() }
    #expect(refused.result == ECONNREFUSED && unknown.result == EADDRNOTAVAIL)
  }
}
