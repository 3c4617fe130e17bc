import DequeModule

/// Who waits for room, in order, each until a moment of its own.
struct WaitingLine<Element> {
  private struct Place {
    let number: Int
    let end: Deadline
    /// Nil where it has been given up.
    var element: Element?
  }

  private var places = Deque<Place>()
  private var lastNumber = 0
  /// How many places are given up.
  private var gaps = 0
  /// When somebody's time may be over: none is over before.
  private(set) var wakeTime = Deadline.never

  var isEmpty: Bool { places.count == gaps }

  /// - Returns: the number of its place.
  mutating func add(_ element: Element, until end: Deadline) -> Int {
    lastNumber += 1
    places.append(Place(number: lastNumber, end: end, element: element))
    wakeTime = min(wakeTime, end)
    return lastNumber
  }

  /// Gives up a place, if it is still there.
  mutating func remove(_ number: Int) {
    let place = places.firstPlace(after: { $0.number < number })
    guard place < places.count, places[place].number == number, places[place].element != nil else { return }
    places[place].element = nil
    gaps += 1
    closeGaps()
  }

  /// Takes out the one that has waited longest.
  mutating func popFirst() -> Element? {
    while let place = places.popFirst() {
      if let element = place.element { return element }
      gaps -= 1
    }
    return nil
  }

  /// Takes out those whose time is over, in order.
  mutating func popLate(at now: Deadline) -> [Element] {
    guard wakeTime <= now else { return [] }
    wakeTime = .never
    var late: [Element] = []
    for index in places.indices {
      guard let element = places[index].element else { continue }
      if places[index].end <= now {
        late.append(element)
        places[index].element = nil
        gaps += 1
      } else {
        wakeTime = min(wakeTime, places[index].end)
      }
    }
    closeGaps()
    return late
  }

  /// A gap costs as much as whoever waits.
  private mutating func closeGaps() {
    guard gaps > places.count / 2 else { return }
    places.removeAll { $0.element == nil }
    gaps = 0
  }
}
