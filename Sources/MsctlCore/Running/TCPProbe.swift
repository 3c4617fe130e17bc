import Glibc

/// An attempt to connect, whose connection is closed at once.
package final class TCPProbe: LoopMember {
  private let limit: Deadline
  private var descriptor: Int32 = -1
  private var place: Int?
  /// 0 where it came about, else the error number; nil while it is not known.
  package private(set) var result: Int32?

  /// - Parameter address: an IP address.
  package convenience init(_ address: String, _ port: Int, until limit: Deadline) {
    var hints = addrinfo()
    hints.ai_flags = AI_NUMERICHOST
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    let isAddress = getaddrinfo(address, String(port), &hints, &found) == 0
    defer { if isAddress { freeaddrinfo(found) } }
    self.init(isAddress ? found?.pointee : nil, until: limit)
  }

  fileprivate init(_ address: addrinfo?, until limit: Deadline) {
    self.limit = limit
    guard let address else {
      result = EADDRNOTAVAIL
      return
    }
    let flags = Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    descriptor = socket(address.ai_family, address.ai_socktype | flags, 0)
    if descriptor >= 0, Glibc.connect(descriptor, address.ai_addr, address.ai_addrlen) == 0 {
      result = 0
    } else if descriptor < 0 || errno != EINPROGRESS {
      result = errno
    }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  package var wakeTime: Deadline { result == nil ? limit : .never }

  package func addInterests(to polls: inout PollSet) {
    place = result == nil ? polls.add(descriptor, for: POLLOUT) : nil
  }

  package func proceed(after polls: PollSet) {
    if let place, polls.isReady(place) {
      var cause: Int32 = 0
      var length = socklen_t(MemoryLayout<Int32>.size)
      getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &cause, &length)
      result = cause
    } else if result == nil, limit.isPast {
      result = ETIMEDOUT
    }
  }

  package func proceed() {}
}

/// Tries to connect, and closes the connection at once. For who waits for nothing else: to look a host up may block.
/// - Returns: 0 where it came about, else the error number; nil where the host is not known or time ran out.
package func tryConnect(_ host: String, _ port: Int, until deadline: Deadline) -> Int32? {
  var hints = addrinfo()
  hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
  var addresses: UnsafeMutablePointer<addrinfo>?
  guard getaddrinfo(host, String(port), &hints, &addresses) == 0, let address = addresses?.pointee else { return nil }
  defer { freeaddrinfo(addresses) }
  let probe = TCPProbe(address, until: deadline)
  let loop = EventLoop(probe)
  while probe.result == nil { loop.turn() }
  return probe.result == ETIMEDOUT ? nil : probe.result
}

/// A port on which nobody listens now, as the system picks it.
package func freePort() -> Int? {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  var length = socklen_t(MemoryLayout<sockaddr_in>.size)
  let isBound = withUnsafeMutablePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
      bind(descriptor, raw, length) == 0 && getsockname(descriptor, raw, &length) == 0
    }
  }
  return isBound ? Int(clamping: UInt16(bigEndian: address.sin_port)) : nil
}
