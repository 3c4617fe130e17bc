import CCurl
import CPosix
import Glibc

/// One of libcurl's multi handles, which has transfers and keeps connections. There is one for every so many transfers: for each
/// request libcurl looks at all connections to a host, which takes longer than the request where there are thousands.
final class HTTPLane {
  /// How many transfers it takes.
  private static let size = 100

  private let multi: UnsafeMutableRawPointer
  private let sockets: SocketSet
  private var count = 0
  /// When libcurl wants to be called even if nothing happens.
  var timer = Deadline.never

  init(_ sockets: SocketSet) throws(HTTPError) {
    let unused = sockets.unusedDescriptors()
    guard let multi = curl_multi_init() else {
      throw HTTPError(kind: .broken, reason: "libcurl cannot be set up")
    }
    // The pair that wakes the handle up: libcurl lets children inherit it.
    for descriptor in unused { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
    self.multi = multi
    self.sockets = sockets
    let owner = Unmanaged.passUnretained(self).toOpaque()
    try Self.check(msctl_multi_set_socket_hook(multi, watchSocket))
    try Self.check(msctl_multi_set_pointer(multi, CURLMOPT_SOCKETDATA, owner))
    try Self.check(msctl_multi_set_timer_hook(multi, setTimer))
    try Self.check(msctl_multi_set_pointer(multi, CURLMOPT_TIMERDATA, owner))
  }

  deinit {
    curl_multi_cleanup(multi)
  }

  /// Keeps so many connections open, or as many as it can use.
  func keep(connections: Int) throws(HTTPError) {
    try Self.check(msctl_multi_set_long(multi, CURLMOPT_MAXCONNECTS, min(connections, Self.size)))
  }

  var isFull: Bool { count >= Self.size }
  /// Whether it was full before the last transfer was removed.
  var hasJustRoom: Bool { count == Self.size - 1 }

  /// Begins a transfer.
  func add(_ handle: UnsafeMutableRawPointer) throws(HTTPError) {
    try Self.check(curl_multi_add_handle(multi, handle))
    count += 1
  }

  func remove(_ handle: UnsafeMutableRawPointer) {
    curl_multi_remove_handle(multi, handle)
    count -= 1
  }

  /// Tells libcurl what happened at a descriptor, or with CURL_SOCKET_TIMEOUT that its time has come.
  func move(_ descriptor: Int32, _ mask: Int32) throws(HTTPError) {
    var stillRunning: Int32 = 0
    try Self.check(curl_multi_socket_action(multi, descriptor, mask, &stillRunning))
  }

  /// A transfer that has ended, to be removed, and how; nil where there is none.
  func nextEnded() -> (handle: UnsafeMutableRawPointer, code: CURLcode)? {
    var left: Int32 = 0
    while let message = curl_multi_info_read(multi, &left) {
      guard message.pointee.msg == CURLMSG_DONE, let handle = message.pointee.easy_handle else { continue }
      return (handle, msctl_message_result(message))
    }
    return nil
  }

  fileprivate func want(_ descriptor: Int32, _ events: UInt32) {
    sockets.want(descriptor, events, self)
  }

  private static func check(_ code: CURLMcode) throws(HTTPError) {
    guard code == CURLM_OK else {
      throw HTTPError(kind: .broken, reason: String(cString: curl_multi_strerror(code)))
    }
  }
}

private let watchSocket:
  @convention(c) (
    UnsafeMutableRawPointer?, curl_socket_t, Int32, UnsafeMutableRawPointer?, UnsafeMutableRawPointer?
  ) -> Int32 = { _, socket, events, owner, _ in
    guard let owner else { return 0 }
    let lane = Unmanaged<HTTPLane>.fromOpaque(owner).takeUnretainedValue()
    switch events {
    case CURL_POLL_IN: lane.want(socket, EPOLLIN.rawValue)
    case CURL_POLL_OUT: lane.want(socket, EPOLLOUT.rawValue)
    case CURL_POLL_INOUT: lane.want(socket, EPOLLIN.rawValue | EPOLLOUT.rawValue)
    default: lane.want(socket, 0)
    }
    return 0
  }

private let setTimer: @convention(c) (UnsafeMutableRawPointer?, Int, UnsafeMutableRawPointer?) -> Int32 = {
  _, milliseconds, owner in
  guard let owner else { return 0 }
  let lane = Unmanaged<HTTPLane>.fromOpaque(owner).takeUnretainedValue()
  lane.timer = milliseconds < 0 ? .never : .after(.milliseconds(milliseconds))
  return 0
}
