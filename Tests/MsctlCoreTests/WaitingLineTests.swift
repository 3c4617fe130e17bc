import Testing

@testable import MsctlCore

@Suite("A waiting line")
struct WaitingLineTests {
  private static func moment(_ second: Int64) -> Deadline { Deadline(nanoseconds: second * 1_000_000_000) }

  @Test("those who wait are taken in order, without those who have given up")
  func order() {
    var line = WaitingLine<Int>()
    let places = (1...10).map { line.add($0, until: .never) }
    for number in [1, 4, 5, 10] { line.remove(places[number - 1]) }
    line.remove(places[3])
    #expect(line.popFirst() == 2)
    line.remove(places[1])
    var rest: [Int] = []
    while let next = line.popFirst() { rest.append(next) }
    #expect(rest == [3, 6, 7, 8, 9])
    #expect(line.isEmpty && line.wakeTime == .never)
  }

  @Test("each waits until its own end")
  func ends() {
    var line = WaitingLine<Int>()
    for (number, end) in [(1, 30), (2, 5), (3, 20), (4, 5)] as [(Int, Int64)] {
      _ = line.add(number, until: Self.moment(end))
    }
    #expect(line.popLate(at: Self.moment(4)).isEmpty && line.wakeTime == Self.moment(5))
    #expect(line.popLate(at: Self.moment(5)) == [2, 4])
    #expect(line.wakeTime == Self.moment(20))
    #expect(line.popFirst() == 1)
    #expect(line.popLate(at: Self.moment(40)) == [3])
    #expect(line.isEmpty && line.popFirst() == nil && line.wakeTime == .never)
  }

  @Test("whoever has given up is not held")
  func memory() {
    final class Body {}
    var line = WaitingLine<Body>()
    weak var body: Body?
    do {
      let given = Body()
      body = given
      _ = line.add(Body(), until: .never)
      _ = line.add(Body(), until: .never)
      line.remove(line.add(given, until: .never))
    }
    #expect(body == nil && !line.isEmpty)
  }
}
