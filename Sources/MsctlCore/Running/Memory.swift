import Glibc

/// Whether so many bytes can be had, by the limit of the process (`ulimit -v`): an array that cannot grow ends the process by
/// a trap, so who holds much asks before.
package func hasMemory(for count: Int) -> Bool {
  let place = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
  guard let place, place != MAP_FAILED else { return false }
  munmap(place, count)
  return true
}

/// Counts bytes that are held, up to a limit, and asks whether there is memory for them whenever they have doubled.
package struct HeldBytes {
  /// Below this the memory is not asked for.
  private static let step = 1 << 20
  /// What becomes of a value on its way: the array that it grows out of, the next one, and a copy for whoever sends it.
  private static let copies = 4

  private let limit: Int
  private var asked = step

  package init(limit: Int) {
    self.limit = limit
  }

  /// - Parameters:
  ///   - count: how many bytes are to be held.
  ///   - what: what they are, as the subject of a sentence.
  package mutating func check(_ count: Int, _ what: @autoclosure () -> String) throws(Failure) {
    guard count <= limit else {
      throw Failure(.badInput, .tooLarge(what(), limit: limit))
    }
    guard count > asked else { return }
    while asked < count { asked *= 2 }
    guard hasMemory(for: asked * Self.copies) else {
      throw Failure(.failed, .noMemory(what(), size: count))
    }
  }

  /// What was held is handed on.
  package mutating func reset() {
    asked = Self.step
  }
}
