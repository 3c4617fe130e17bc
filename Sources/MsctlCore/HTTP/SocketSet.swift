import CCurl
import CPosix
import Glibc

/// The sockets that libcurl waits for, in an epoll(7) set: what a wait costs does not grow with the number of
/// connections (https://curl.se/libcurl/c/curl_multi_socket_action.html).
final class SocketSet {
  /// What libcurl and the kernel know of a descriptor.
  private struct Socket {
    /// The events that libcurl waits for; 0: none.
    var wanted: UInt32 = 0
    /// The events that the kernel watches for; 0: none.
    var watched: UInt32 = 0
    /// Whether it is a connection's: libcurl tells when it closes it, and not when it goes on keeping it.
    var isConnection = false
    /// Whether it is in `changed`.
    var isListed = false
    /// Who waits there; it outlives its interest.
    unowned(unsafe) var lane: HTTPLane?
  }

  /// How many events are taken at once.
  private static let batch = 256

  private let epoll: Int32
  /// By descriptor.
  private var sockets: [Socket] = []
  /// The descriptors of which the kernel is to be told before the next wait.
  private var changed: [Int32] = []
  private var events = [epoll_event](repeating: epoll_event(), count: batch)

  init?() {
    epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
    if epoll < 0 { return nil }
  }

  deinit {
    Glibc.close(epoll)
  }

  // MARK: What libcurl says

  /// A connection's new socket.
  func opened(_ descriptor: Int32) {
    sockets[place(of: descriptor)].watched = 0
    sockets[place(of: descriptor)].isConnection = true
  }

  /// A connection's socket that is about to be closed, which takes it out of the set.
  func closed(_ descriptor: Int32) {
    sockets[place(of: descriptor)].watched = 0
    sockets[place(of: descriptor)].isConnection = false
  }

  /// Libcurl waits for these events there, or for none any more.
  func want(_ descriptor: Int32, _ events: UInt32, _ lane: HTTPLane) {
    let place = place(of: descriptor)
    sockets[place].wanted = events
    sockets[place].lane = lane
    // Other descriptors may be closed without another word, and their numbers used again.
    if events == 0, !sockets[place].isConnection { return watch(descriptor) }
    if !sockets[place].isListed {
      sockets[place].isListed = true
      changed.append(descriptor)
    }
  }

  /// The lowest descriptors that are not open: the next ones to be opened, since the kernel takes the lowest.
  func unusedDescriptors() -> [Int32] {
    let probes = (0..<4).map { _ in fcntl(epoll, F_DUPFD_CLOEXEC, 3) }.filter { $0 >= 0 }
    probes.forEach { Glibc.close($0) }
    return probes
  }

  /// Descriptors are small numbers, since the kernel takes the lowest.
  private func place(of descriptor: Int32) -> Int {
    let place = Int(clamping: max(0, descriptor))
    while sockets.count <= place { sockets.append(Socket()) }
    return place
  }

  /// Tells the kernel what libcurl waits for.
  private func watch(_ descriptor: Int32) {
    let (wanted, watched) = (sockets[place(of: descriptor)].wanted, sockets[place(of: descriptor)].watched)
    guard wanted != watched else { return }
    var event = epoll_event(events: wanted, data: epoll_data(fd: descriptor))
    if wanted == 0 {
      epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, nil)
    } else if epoll_ctl(epoll, watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, descriptor, &event) < 0 {
      // It is another socket than before, or was watched already.
      epoll_ctl(epoll, errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, descriptor, &event)
    }
    sockets[place(of: descriptor)].watched = wanted
  }

  // MARK: Waiting

  /// Tells the kernel what is waited for.
  /// - Returns: a descriptor that is readable once something has happened at one of the sockets.
  func prepare() -> Int32 {
    for descriptor in changed {
      sockets[place(of: descriptor)].isListed = false
      // Nothing comes over a connection that is kept for the next request: it is taken out once something does.
      if sockets[place(of: descriptor)].wanted != 0 { watch(descriptor) }
    }
    changed.removeAll(keepingCapacity: true)
    return epoll
  }

  /// Takes what has happened, up to a bound.
  /// - Returns: how many sockets have events, for `event`.
  func takeEvents() -> Int {
    Int(clamping: max(0, epoll_wait(epoll, &events, Int32(clamping: Self.batch), 0)))  // lint-ok: without waiting
  }

  /// One of the events that were taken last, as libcurl takes it; nil where it does not wait for it.
  func event(_ index: Int) -> (lane: HTTPLane, descriptor: Int32, mask: Int32)? {
    let (event, descriptor) = (events[index].events, events[index].data.fd)
    let wanted = sockets[place(of: descriptor)].wanted
    guard wanted != 0, let lane = sockets[place(of: descriptor)].lane else {
      // It was left in the set, and is not kept any more.
      watch(descriptor)
      return nil
    }
    // An error is found out by the read or write that fails.
    let hasFailed = event & (EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0
    var mask: Int32 = 0
    if event & EPOLLIN.rawValue != 0 || hasFailed && wanted & EPOLLIN.rawValue != 0 { mask |= CURL_CSELECT_IN }
    if event & EPOLLOUT.rawValue != 0 || hasFailed && wanted & EPOLLOUT.rawValue != 0 { mask |= CURL_CSELECT_OUT }
    return (lane, descriptor, mask)
  }
}
