import CommandTable
import Glibc
import MsctlCore
import Synchronization

/// The address of an instance, which may say nothing but an address: whoever may register a service has written it.
enum HostAddress: Equatable {
  /// As `inet_ntop` writes it.
  case ip(String)
  /// Letters, digits, dots, hyphens and underscores (Docker's names have them).
  case name(String)

  init?(_ text: String) {
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

  static func isNameByte(_ byte: UInt8) -> Bool {
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

/// Where the server of `-o nginx` listens: on this machine alone, unless it is said.
struct ListenAddress: ArgumentValue, Equatable {
  static let standard = "127.0.0.1:8080"

  var host = "127.0.0.1"
  var port = 8080

  init() {}

  init(argument: String) throws(ValueError) {
    let (host, port) = argument.cut(atLast: ":").map { (String($0.before), $0.after) } ?? (self.host, argument[...])
    guard !port.isEmpty, port.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = Int(port),
      (1...65535).contains(number)
    else { throw ValueError("is not [HOST:]PORT with a port from 1 to 65535") }
    if host.isSame(as: "*") || host.isSame(as: "localhost") {
      self.host = host
    } else if case .ip(let address)? = HostAddress(host), !address.holds(":") || host.begins(with: "[") {
      self.host = address
    } else {
      throw ValueError("is not [HOST:]PORT, where HOST is an IP address (IPv6 in brackets), 'localhost' or '*'")
    }
    self.port = number
  }

  var argumentText: String? { hostPort(host, port) }
}

/// Looks up host names, several at a time and within a bounded time: a name server that does not respond must not hold up
/// what has nothing to do with it.
enum HostResolver {
  private static let patience: Duration = .seconds(2)
  /// How long a result counts, a failure as well.
  private static let age: Duration = .seconds(30)
  private static let threads = 16
  private static let mostAddresses = 8
  private static let cache = Mutex<[String: (addresses: [String], until: Deadline)]>([:])

  private final class Work: Sendable {
    let state: Mutex<(waiting: [String], running: Int)>

    init(_ names: [String]) {
      state = Mutex((names, 0))
    }

    func next() -> String? {
      state.withLock {
        let name = $0.waiting.popLast()
        if name != nil { $0.running += 1 }
        return name
      }
    }

    func ended() { state.withLock { $0.running -= 1 } }
    func giveUp() { state.withLock { $0.waiting = [] } }
    var isDone: Bool { state.withLock { $0.waiting.isEmpty && $0.running == 0 } }
  }

  /// The IP addresses of each name; none for one that is not known in time.
  static func addresses(of names: Set<String>) -> [String: [String]] {
    guard !names.isEmpty else { return [:] }
    let unknown = cache.withLock { known in
      if known.count > 10_000 { known = [:] }
      return names.filter { known[$0]?.until.isPast ?? true }
    }
    let work = Work(unknown.sorted())
    for _ in 0..<min(threads, unknown.count) {
      var thread = pthread_t()
      let argument = Unmanaged.passRetained(work)
      let code = pthread_create(
        &thread, nil,
        { argument in
          guard let argument else { return nil }
          HostResolver.run(Unmanaged<Work>.fromOpaque(argument).takeRetainedValue())
          return nil
        }, argument.toOpaque())
      if code == 0 { pthread_detach(thread) } else { argument.release() }
    }
    let deadline = Deadline.after(patience)
    while !work.isDone, !deadline.isPast { usleep(2000) }
    work.giveUp()
    return cache.withLock { known in
      for name in unknown where known[name]?.until.isPast ?? true { known[name] = ([], .after(age)) }
      return names.reduce(into: [:]) { $0[$1] = known[$1]?.addresses ?? [] }
    }
  }

  private static func run(_ work: Work) {
    while let name = work.next() {
      let addresses = lookUp(name)
      cache.withLock { $0[name] = (addresses, .after(age)) }
      work.ended()
    }
  }

  private static func lookUp(_ name: String) -> [String] {
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
