import Glibc
import Synchronization

/// The address of an instance, which may say nothing but an address: whoever may register a service has written it.
package enum HostAddress: Equatable {
  /// As `inet_ntop` writes it.
  case ip(String)
  /// Letters, digits, dots, hyphens and underscores (Docker's names have them).
  case name(String)

  package init?(_ text: String) {
    let bytes = Array(text.utf8)
    let isBracketed = bytes.first == UInt8(ascii: "[") && bytes.last == UInt8(ascii: "]")
    let inner = isBracketed ? bytes.dropFirst().dropLast() : bytes[...]
    if let address = Self.ip(inner) {
      self = .ip(address)
    } else if !isBracketed, (1...253).contains(bytes.count), bytes[0] != UInt8(ascii: "-"),
      bytes.allSatisfy(Self.isNameByte)
    {
      self = .name(text)
    } else {
      return nil
    }
  }

  package static func isNameByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: "-._".utf8.contains(byte)
    }
  }

  private static func ip(_ bytes: ArraySlice<UInt8>) -> String? {
    // The longest there is takes 45 bytes; NUL would end it early.
    guard bytes.count <= 45, !bytes.contains(0) else { return nil }
    let text = String(decoding: bytes, as: UTF8.self)
    for family in [AF_INET, AF_INET6] {
      var address = in6_addr()
      var name = [CChar](repeating: 0, count: 64)
      guard inet_pton(family, text, &address) == 1,
        inet_ntop(family, &address, &name, socklen_t(name.count)) != nil  // lint-ok: a constant
      else { continue }
      return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
    return nil
  }
}

/// Looks up host names on threads of its own, since getaddrinfo(3) blocks. Who asks gets a response in a bounded time, and at once
/// for names that were asked for before: a name server that does not respond must not hold up what has nothing to do with it.
package final class HostResolver: LoopMember, Sendable {
  /// For those who run one loop: its bell wakes one.
  package static let system = HostResolver()

  /// How long a result counts, a failure as well.
  private static let age: Duration = .seconds(30)
  /// How many names are looked up at a time, wait for that, and are known.
  private static let threads = 16
  private static let mostWaiting = 10_000
  private static let mostKnown = 10_000
  private static let mostAddresses = 8

  private struct State {
    var known: [ByteKey: (addresses: [String], until: Deadline)] = [:]
    var waiting: [ByteKey] = []
    /// What waits or is being looked up.
    var asked: Set<ByteKey> = []
    var threads = 0
    var changes = 0
    /// After a wait that was of no use, the next ones are short for a while.
    var impatient = Deadline.now
  }

  private let state = Mutex(State())
  /// Rung when a result has come.
  private let bell = Bell()
  private let patience: Duration
  private let lookUp: @Sendable (String) -> [String]

  package init(patience: Duration = .seconds(2), lookUp: (@Sendable (String) -> [String])? = nil) {
    self.patience = patience
    self.lookUp = lookUp ?? Self.systemLookUp
  }

  /// How often a result has come that is another one than a look-up gave before.
  package var changes: Int { state.withLock { $0.changes } }

  package var wakeTime: Deadline { .never }

  package func addInterests(to polls: inout PollSet) { polls.add(bell.descriptor) }

  package func proceed() { bell.clear() }

  /// Looks names up whose addresses are not known, or old.
  /// - Parameter end: when it has to be over at the latest.
  package func lookUp(_ names: Set<ByteKey>, until end: Deadline = .never) -> HostLookUp {
    let (new, limit, missing) = state.withLock { state in
      if state.known.count > Self.mostKnown { state.known = [:] }
      for name in names.sorted() where state.known[name]?.until.isPast ?? true && !state.asked.contains(name) {
        guard state.waiting.count < Self.mostWaiting else { break }
        state.waiting.append(name)
        state.asked.insert(name)
      }
      let missing = max(0, min(Self.threads - state.threads, state.waiting.count))
      state.threads += missing
      return (
        names.filter { state.known[$0] == nil },
        state.impatient.isPast ? Deadline.after(patience) : .after(min(patience, .milliseconds(50))), missing
      )
    }
    for _ in 0..<missing { start() }
    return HostLookUp(self, names, new, until: min(limit, end))
  }

  fileprivate func areKnown(_ names: Set<ByteKey>) -> Bool {
    state.withLock { state in names.allSatisfy { state.known[$0] != nil } }
  }

  /// The next look-ups are not waited for as long.
  fileprivate func losePatience() { state.withLock { $0.impatient = .after(Self.age) } }

  fileprivate func addresses(of names: Set<ByteKey>) -> [ByteKey: [String]] {
    state.withLock { state in
      names.reduce(into: [:]) { found, name in
        // A result that comes later is another one than this.
        if state.known[name] == nil { state.known[name] = ([], .after(Self.age)) }
        found[name] = state.known[name]?.addresses
      }
    }
  }

  private func start() {
    if let thread = startThread({ self.work() }) {
      pthread_detach(thread)
    } else {
      state.withLock { $0.threads -= 1 }
    }
  }

  private func work() {
    while let name = state.withLock({ next(&$0) }) {
      let addresses = lookUp(name.text)
      state.withLock { state in
        if let old = state.known[name], old.addresses != addresses { state.changes += 1 }
        state.known[name] = (addresses, .after(Self.age))
        state.asked.remove(name)
      }
      bell.ring()
    }
  }

  /// - Returns: nil where there is nothing to do: the thread ends.
  private func next(_ state: inout State) -> ByteKey? {
    if state.waiting.isEmpty {
      state.threads -= 1
      return nil
    }
    return state.waiting.removeFirst()
  }

  private static func systemLookUp(_ name: String) -> [String] {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    guard getaddrinfo(name, nil, &hints, &list) == 0 else { return [] }
    defer { freeaddrinfo(list) }
    var found: [String] = []
    var entry = list
    while let current = entry?.pointee, found.count < mostAddresses {
      var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
      let code = getnameinfo(
        current.ai_addr, current.ai_addrlen, &text, socklen_t(NI_MAXHOST), nil, 0, NI_NUMERICHOST)
      let bytes = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      if code == 0, case .ip(let address)? = HostAddress(String(decoding: bytes, as: UTF8.self)) {
        if !found.contains(address) { found.append(address) }
      }
      entry = current.ai_next
    }
    return found
  }
}

/// A look-up of host names that is on its way: the IP addresses of each; none for one that is not known in time. What comes later
/// counts as a change of the resolver.
package final class HostLookUp: LoopQuestion {
  private let resolver: HostResolver
  private let names: Set<ByteKey>
  /// Those of which nothing was known.
  private let new: Set<ByteKey>
  private let limit: Deadline

  fileprivate init(_ resolver: HostResolver, _ names: Set<ByteKey>, _ new: Set<ByteKey>, until limit: Deadline) {
    (self.resolver, self.names, self.new, self.limit) = (resolver, names, new, limit)
  }

  package var wakeTime: Deadline { limit }

  package func take() -> [ByteKey: [String]]? {
    if !resolver.areKnown(new) {
      guard limit.isPast else { return nil }
      resolver.losePatience()
    }
    return resolver.addresses(of: names)
  }
}
