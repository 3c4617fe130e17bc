import Glibc

/// The descriptors that a loop waits for at once: see poll(2).
package struct PollSet {
  private var entries: [pollfd] = []

  package init() {}

  /// - Returns: the place to ask `isReady` about.
  @discardableResult
  package mutating func add(_ descriptor: Int32, for events: Int32 = POLLIN) -> Int {
    entries.append(pollfd(fd: descriptor, events: Int16(truncatingIfNeeded: events), revents: 0))
    return entries.count - 1
  }

  /// Empties it, and keeps its memory.
  mutating func removeAll() { entries.removeAll(keepingCapacity: true) }

  /// Waits until a descriptor is ready, the deadline is past, or a signal came.
  package mutating func wait(until deadline: Deadline) {
    let count = entries.count
    if Glibc.poll(&entries, nfds_t(count), deadline.pollTimeout) < 0 {
      for index in entries.indices { entries[index].revents = 0 }
    }
  }

  /// What is so at a descriptor now, of these events and of what is always told: POLLERR, POLLHUP and POLLNVAL.
  package static func events(at descriptor: Int32, of events: Int32 = 0) -> Int32 {
    var entry = pollfd(fd: descriptor, events: Int16(truncatingIfNeeded: events), revents: 0)
    return Glibc.poll(&entry, 1, 0) > 0 ? Int32(truncatingIfNeeded: entry.revents) : 0
  }

  /// Whether a read or write there would not block now.
  package static func isReady(_ descriptor: Int32, for events: Int32) -> Bool {
    Self.events(at: descriptor, of: events) != 0
  }

  /// Whether a read or write there would not block: there is data or room, the other end has closed, or it fails.
  package func isReady(_ place: Int) -> Bool {
    entries[place].revents != 0
  }
}
