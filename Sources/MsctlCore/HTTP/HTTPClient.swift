import CCurl
import Glibc

/// Makes requests over kept-alive connections: owns libcurl's multi handle. To be used by one thread.
///
/// See https://curl.se/libcurl/c/libcurl-multi.html.
public final class HTTPClient {
  /// The largest answer that is kept in memory, in bytes.
  package static let bodyLimit = 256 << 20

  private let multi: UnsafeMutableRawPointer
  private let handles = EasyHandles()
  private var running: [HTTPTransfer] = []
  private var ended = 0
  /// Is told each request and each answer's head, credentials masked.
  private let trace: ((String) -> Void)?

  public convenience init() throws(HTTPError) {
    try self.init(trace: nil)
  }

  package init(trace: ((String) -> Void)?) throws(HTTPError) {
    guard curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK else {
      throw HTTPError(kind: .broken, reason: "libcurl cannot be set up")
    }
    let unused = Self.unusedDescriptors()
    guard let multi = curl_multi_init() else {
      throw HTTPError(kind: .broken, reason: "libcurl cannot be set up")
    }
    // The pair that wakes the handle up: libcurl lets children inherit it.
    for descriptor in unused { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
    self.multi = multi
    self.trace = trace
  }

  /// The lowest descriptors that are not open: the next ones to be opened, since the kernel takes the lowest.
  private static func unusedDescriptors() -> [Int32] {
    Array((3..<1024).lazy.filter { fcntl($0, F_GETFD) < 0 }.prefix(4))
  }

  deinit {
    for transfer in running { curl_multi_remove_handle(multi, transfer.handle) }
    curl_multi_cleanup(multi)
  }

  /// Begins a request. It makes progress while `run` is called.
  public func start(_ request: HTTPRequest) throws(HTTPError) -> HTTPTransfer {
    let transfer = try HTTPTransfer(request, from: handles, trace: trace)
    try add(transfer)
    running.append(transfer)
    return transfer
  }

  /// Moves all transfers on, waiting at most until the deadline for something to happen. With nothing to wait for and no
  /// deadline it returns at once.
  /// - Parameter descriptor: something else to wait for, which is to be read.
  /// - Returns: whether the descriptor can be read.
  @discardableResult
  public func run(until deadline: Deadline, orReading descriptor: Int32? = nil) throws(HTTPError) -> Bool {
    let before = ended
    try perform()
    let hasNews = ended != before || running.contains { $0.bufferedBytes > 0 }
    guard !running.isEmpty || descriptor != nil || deadline != .never else { return false }
    var extra = curl_waitfd(fd: descriptor ?? -1, events: Int16(CURL_WAIT_POLLIN), revents: 0)
    try check(
      curl_multi_poll(multi, &extra, descriptor == nil ? 0 : 1, hasNews ? 0 : deadline.curlTimeout, nil))
    try perform()
    return extra.revents != 0
  }

  /// Stops a transfer before its end.
  public func cancel(_ transfer: HTTPTransfer) {
    curl_multi_remove_handle(multi, transfer.handle)
    running.removeAll { $0 === transfer }
  }

  private func perform() throws(HTTPError) {
    var stillRunning: Int32 = 0
    try check(curl_multi_perform(multi, &stillRunning))
    var left: Int32 = 0
    while let message = curl_multi_info_read(multi, &left) {
      guard message.pointee.msg == CURLMSG_DONE,
        let transfer = running.first(where: { $0.handle == message.pointee.easy_handle })
      else { continue }
      let code = msctl_message_result(message)
      curl_multi_remove_handle(multi, transfer.handle)
      if transfer.end(code) {
        try add(transfer)
      } else {
        running.removeAll { $0 === transfer }
        ended += 1
      }
    }
  }

  private func add(_ transfer: HTTPTransfer) throws(HTTPError) {
    try check(curl_multi_add_handle(multi, transfer.handle))
  }

  private func check(_ code: CURLMcode) throws(HTTPError) {
    guard code == CURLM_OK else {
      throw HTTPError(kind: .broken, reason: String(cString: curl_multi_strerror(code)))
    }
  }
}

extension Deadline {
  /// As `curl_multi_poll` takes it, which knows no "for ever": it is called again.
  fileprivate var curlTimeout: Int32 { self == .never ? 60_000 : pollTimeout }
}
