import Glibc

/// Tries to connect, and closes the connection at once.
/// - Returns: 0 where it came about, else the error number; nil where the host is not known or time ran out.
package func tryConnect(_ host: String, _ port: Int, until deadline: Deadline) -> Int32? {
  var hints = addrinfo()
  hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
  var addresses: UnsafeMutablePointer<addrinfo>?
  guard getaddrinfo(host, String(port), &hints, &addresses) == 0, let address = addresses?.pointee else { return nil }
  defer { freeaddrinfo(addresses) }
  let flags = Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
  let descriptor = socket(address.ai_family, address.ai_socktype | flags, 0)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  if Glibc.connect(descriptor, address.ai_addr, address.ai_addrlen) == 0 { return 0 }
  guard errno == EINPROGRESS else { return errno }
  var polls = PollSet()
  let place = polls.add(descriptor, for: POLLOUT)
  polls.wait(until: deadline)
  guard polls.isReady(place) else { return nil }
  var cause: Int32 = 0
  var length = socklen_t(MemoryLayout<Int32>.size)
  getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &cause, &length)
  return cause
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
