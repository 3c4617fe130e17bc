import CCurl
import Glibc

/// Easy handles for one transfer after the other: to set one up takes longer than to set one back
/// (https://curl.se/libcurl/c/curl_easy_reset.html).
///
/// Not before libcurl 8.3: until then a handle that is used again reads freed memory where a server begins its headers with a
/// space (https://github.com/curl/curl/issues/11620).
final class EasyHandles {
  private let most: Int
  private var idle: [UnsafeMutableRawPointer] = []
  private var headers: HeaderList?

  /// - Parameter most: how many may be kept that are not in use; nil: what is good for the library.
  init(most: Int?) { self.most = most ?? (Version.curlNumber >= 0x080300 ? 64 : 0) }

  deinit { idle.forEach(curl_easy_cleanup) }

  func take() throws(HTTPError) -> UnsafeMutableRawPointer {
    guard let handle = idle.popLast() ?? curl_easy_init() else {
      throw HTTPError(kind: .broken, reason: "out of memory")
    }
    return handle
  }

  /// Takes back a handle that no multi handle has.
  /// - Parameter hadCookies: whether it kept cookies: it does so for ever, and they are no business of the next transfer.
  func giveBack(_ handle: UnsafeMutableRawPointer, hadCookies: Bool) {
    guard idle.count < most, !hadCookies else { return curl_easy_cleanup(handle) }
    // Nothing of the transfer may be referred to any more.
    curl_easy_reset(handle)
    idle.append(handle)
  }

  /// The headers of a request, most often those of the one before.
  func headerList(for request: HTTPRequest) -> HeaderList {
    if let headers, headers.fits(request) { return headers }
    let made = HeaderList(request)
    headers = made
    return made
  }
}

/// The headers of a request as libcurl takes them. Transfers share them.
final class HeaderList {
  private(set) var first: UnsafeMutablePointer<curl_slist>?
  private let headers: [HTTPHeader]
  private let leftOut: [String]
  private let hasBytes: Bool

  init(_ request: HTTPRequest) {
    headers = request.headers
    leftOut = request.leftOut
    hasBytes = Self.hasBytes(request)
    for header in headers {
      // libcurl's own notation for a header without a value.
      first = curl_slist_append(first, header.value.isEmpty ? header.name + ";" : header.name + ": " + header.value)
    }
    for name in leftOut where HTTPHeader(name, "") != nil { first = curl_slist_append(first, name + ":") }
    if hasBytes, request.header("Content-Type") == nil { first = curl_slist_append(first, "Content-Type:") }
    if request.header("Expect") == nil { first = curl_slist_append(first, "Expect:") }
  }

  deinit { curl_slist_free_all(first) }

  /// Whether they are the headers of this request, too.
  func fits(_ request: HTTPRequest) -> Bool {
    hasBytes == Self.hasBytes(request) && isSame(headers, request.headers) && isSame(leftOut, request.leftOut)
  }

  /// Whether it is the very same array, as it is for the requests of one command. Two that only compare as equal may differ in
  /// their bytes.
  private func isSame<Element>(_ a: [Element], _ b: [Element]) -> Bool {
    a.isEmpty && b.isEmpty
      || a.withUnsafeBufferPointer { a in
        b.withUnsafeBufferPointer { a.baseAddress == $0.baseAddress && a.count == $0.count }
      }
  }

  private static func hasBytes(_ request: HTTPRequest) -> Bool {
    if case .bytes = request.body { true } else { false }
  }
}

/// One request on its way: holds an easy handle of libcurl, and owns all memory that it refers to.
///
/// What has come so far is taken with `takeBody`; `head` is there as soon as the headers are complete, and `outcome` when
/// the transfer has ended.
package final class HTTPTransfer {
  /// Headers of one answer, in bytes; more is not an answer but an attack.
  private static let headerLimit = 256 << 10
  /// As many bytes as the headers of most answers have.
  private static let usualHeaders = 512
  /// More of a body than this, in bytes, is not kept before `takeBody` has taken it: a few packed bytes may become very many.
  private static let bodyPause = 4 << 20
  /// What must not be sent twice goes over no connection that has been idle for longer than this, in seconds: servers close
  /// theirs after 5 s (Node.js) or more, and one that is closed while a request is under way leaves its fate unknown.
  private static let freshness = 1
  /// CURLAUTH_DIGEST
  private static let digest = 2
  /// How often a login is sent again to a server that refuses it, or calls the nonce stale which it has just given.
  private static let mostLogins = 3
  /// Longer times are as good as this one, the longest that libcurl takes, in milliseconds.
  private static let longestTimeout = Int(clamping: Int32.max)
  private static let longestRetryAfter: Int64 = 365 * 86400

  /// The answer's head, once it is complete. Heads of redirects that are followed are not shown.
  package private(set) var head: HTTPHead?
  /// How the transfer ended; nil while it runs.
  package internal(set) var outcome: Result<Void, HTTPError>?
  /// Whether any byte of the request has gone out to a server, so that its work may have been done. Known at the end.
  package private(set) var hasSent = false

  private(set) var handle: UnsafeMutableRawPointer
  private(set) var request: HTTPRequest
  private var body: [UInt8] = []
  /// Is offered each part of the body as it comes; what it does not take is kept for `takeBody`.
  var bodyReader: ((HTTPHead, UnsafeRawBufferPointer) -> Bool)?
  /// The lines of the headers of the answer, and how many bytes of headers have come altogether.
  private var headerLines: [UInt8] = []
  private var headerBytes = 0
  private var status = 0
  private var reason = ""
  private var isRedirect = false
  /// Whether the answer asks for a login that is there, and was not sent yet.
  private var isChallenge = false
  /// Whether the request goes out with the login.
  private var isLogin = false
  /// Whether the head that is there refuses the login: libcurl by itself sends it once more, or another where the nonce is stale.
  private var mayBeStale = false
  private var redirectsLeft: Int
  private var tooLarge = false
  /// Whether libcurl holds the body back until there is room.
  private var isPaused = false
  private let trace: ((String) -> Void)?
  /// How many bytes libcurl had sent (to a proxy) when it was about to send the request; nil before that.
  private var bytesBeforeRequest: Int?
  /// Whether libcurl was about to send the request a second time, and was stopped.
  private var wasStopped = false
  /// Whether it is sent again, over a connection of its own.
  private var isResent = false

  private var headerList: HeaderList?
  private var connectList: UnsafeMutablePointer<curl_slist>?
  private var form: OpaquePointer?
  private let errorText = UnsafeMutablePointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))
  private let handles: EasyHandles
  private let sockets: SocketSet
  private let arrivals: HTTPArrivals
  /// What the client tells of it where something has come; nil where nobody asks.
  private let number: Int?
  /// Its place among those that run, and where it does; nil while it does not.
  var place: Int?
  var lane: HTTPLane?

  init(
    _ request: HTTPRequest, _ number: Int?, from handles: EasyHandles, over sockets: SocketSet,
    telling arrivals: HTTPArrivals, trace: ((String) -> Void)? = nil
  ) throws(HTTPError) {
    handle = try handles.take()
    self.handles = handles
    self.sockets = sockets
    self.arrivals = arrivals
    self.number = number
    self.request = request
    self.trace = trace
    redirectsLeft = request.redirects
    errorText.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
    try configure()
  }

  /// The transfer whose handle this is.
  static func owner(of handle: UnsafeMutableRawPointer) -> HTTPTransfer? {
    var owner: UnsafeMutableRawPointer?
    msctl_get_private(handle, &owner)
    return owner.map { Unmanaged.fromOpaque($0).takeUnretainedValue() }
  }

  deinit {
    handles.giveBack(handle, hadCookies: request.cookies != nil)
    releaseLists()
    errorText.deallocate()
  }

  /// The part of the body that has come since the last call.
  package func takeBody() -> [UInt8] {
    let taken = body
    body = []
    if isPaused {
      isPaused = false
      curl_easy_pause(handle, CURLPAUSE_CONT)
    }
    return taken
  }

  /// What `Retry-After` says, as seconds or as a date; nil where there is none.
  package var retryAfter: Duration? {
    var seconds: curl_off_t = 0
    msctl_get_offset(handle, CURLINFO_RETRY_AFTER, &seconds)
    return seconds > 0 ? .seconds(min(Int64(clamping: seconds), Self.longestRetryAfter)) : nil
  }

  // MARK: Set-up

  /// Sets up a handle on which nothing is set.
  private func configure() throws(HTTPError) {
    forgetAnswer()
    isLogin = false
    releaseLists()

    try set(CURLOPT_ERRORBUFFER, UnsafeMutableRawPointer(errorText))
    try set(CURLOPT_NOSIGNAL, 1)
    try set(CURLOPT_PROTOCOLS_STR, "http,https")
    try set(CURLOPT_URL, request.url)
    if request.acceptsCompression { try set(CURLOPT_ACCEPT_ENCODING, "") }
    try set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
    try set(CURLOPT_TCP_KEEPALIVE, 1)
    // For libcurl zero is its own time of 5 minutes.
    let connectTimeout = request.connectTimeout == .zero ? Self.longestTimeout : request.connectTimeout.milliseconds
    try set(CURLOPT_CONNECTTIMEOUT_MS, min(max(1, connectTimeout), Self.longestTimeout))
    try configureTimeout()
    if let silence = request.silence {
      try set(CURLOPT_LOW_SPEED_LIMIT, 1)
      try set(CURLOPT_LOW_SPEED_TIME, min(max(1, silence.milliseconds / 1000), Self.longestTimeout))
    }
    if !request.usesProxy || request.connectTo != nil { try set(CURLOPT_NOPROXY, "*") }
    // CURLAUTH_BASIC: with name and password or nothing, since Kerberos is not in the static executable.
    try set(CURLOPT_SOCKS5_AUTH, 1)
    if let path = request.unixSocket { try set(CURLOPT_UNIX_SOCKET_PATH, path) }
    if let (host, port) = request.connectTo {
      connectList = curl_slist_append(nil, "::" + hostPort(host, port))
      try check(msctl_set_list(handle, CURLOPT_CONNECT_TO, connectList))
    }
    if !request.isIdempotent { try set(CURLOPT_MAXAGE_CONN, Self.freshness) }
    if isResent { try set(CURLOPT_FRESH_CONNECT, 1) }
    if let cookies = request.cookies {
      // No file: the cookies are kept in memory.
      try set(CURLOPT_COOKIEFILE, "")
      for cookie in cookies { try set(CURLOPT_COOKIELIST, cookie) }
    }
    try configureTLS()
    try configureBody()

    headerList = handles.headerList(for: request)
    try check(msctl_set_list(handle, CURLOPT_HTTPHEADER, headerList?.first))

    try check(msctl_set_receiver(handle, CURLOPT_WRITEFUNCTION, receiveBody))
    try set(CURLOPT_WRITEDATA, Unmanaged.passUnretained(self).toOpaque())
    try check(msctl_set_receiver(handle, CURLOPT_HEADERFUNCTION, receiveHeader))
    try set(CURLOPT_HEADERDATA, Unmanaged.passUnretained(self).toOpaque())
    try check(msctl_set_prerequest(handle, prepareRequest))
    try set(CURLOPT_PREREQDATA, Unmanaged.passUnretained(self).toOpaque())
    try set(CURLOPT_PRIVATE, Unmanaged.passUnretained(self).toOpaque())
    try check(msctl_set_socket_hook(handle, openSocket))
    try set(CURLOPT_SOCKOPTDATA, Unmanaged.passUnretained(sockets).toOpaque())
    try check(msctl_set_close_hook(handle, closeSocket))
    try set(CURLOPT_CLOSESOCKETDATA, Unmanaged.passUnretained(sockets).toOpaque())
    traceRequest()
  }

  private func configureTimeout() throws(HTTPError) {
    guard request.deadline != .never else { return }
    try set(CURLOPT_TIMEOUT_MS, min(max(1, request.deadline.remaining.milliseconds), Self.longestTimeout))
  }

  private func forgetAnswer() {
    head = nil
    headerLines = []
    headerBytes = 0
    isRedirect = false
    isChallenge = false
    mayBeStale = false
    bytesBeforeRequest = nil
    wasStopped = false
  }

  private func traceRequest() {
    guard let trace else { return }
    let place =
      request.unixSocket.map { " over \($0)" } ?? request.connectTo.map { " at \(hostPort($0.host, $0.port))" } ?? ""
    trace("> \(request.method) \(shownURL(request.url))\(place)")
    for header in request.headers { trace("> \(header.name): \(header.shownValue)") }
    if case .bytes(let bytes) = request.body { trace("> (\(bytes.count) bytes)") }
  }

  private func configureTLS() throws(HTTPError) {
    let tls = request.tls
    // A redirect to https comes here again.
    guard String(Substring(request.url.utf8.prefix(6))).lowercasedASCII.isSame(as: "https:") else { return }
    msctl_tls_now()
    try set(CURLOPT_SSLVERSION, Int(clamping: CURL_SSLVERSION_TLSv1_2))
    try set(CURLOPT_SSL_VERIFYPEER, tls.verifies ? 1 : 0)
    try set(CURLOPT_SSL_VERIFYHOST, tls.verifies ? 2 : 0)
    if tls.verifies { try trust(tls) }
    if let file = tls.certificateFile { try set(CURLOPT_SSLCERT, file) }
    if let file = tls.keyFile { try set(CURLOPT_SSLKEY, file) }
    // Without one OpenSSL would ask for it on the terminal.
    if tls.certificateFile != nil { try set(CURLOPT_KEYPASSWD, tls.keyPassphrase ?? "") }
  }

  /// The CA certificates that the caller names, and no others; else the machine's.
  private func trust(_ tls: HTTPRequest.TLS) throws(HTTPError) {
    var (file, folder) = (tls.authorityFile, tls.authorityFolder)
    if file == nil, folder == nil {
      guard let system = SystemCertificates.found else {
        throw HTTPError(kind: .tls, reason: SystemCertificates.missing)
      }
      (file, folder) = (system.file, system.folder)
    }
    try check(msctl_set_string(handle, CURLOPT_CAINFO, file))
    try check(msctl_set_string(handle, CURLOPT_CAPATH, folder))
  }

  private func configureBody() throws(HTTPError) {
    switch request.body {
    case .none:
      if request.method == "HEAD" { try set(CURLOPT_NOBODY, 1) }
    case .bytes(let bytes):
      try set(CURLOPT_POST, 1)
      try check(msctl_set_offset(handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(bytes.count)))
      // Without a pointer libcurl would read the body from standard input, so an empty one points to something, too.
      try check(
        (bytes.isEmpty ? [0] : bytes).withUnsafeBytes {
          msctl_set_pointer(handle, CURLOPT_COPYPOSTFIELDS, UnsafeMutableRawPointer(mutating: $0.baseAddress))
        })
    case .form(let parts):
      form = curl_mime_init(handle)
      for part in parts {
        let field = curl_mime_addpart(form)
        try check(curl_mime_name(field, part.name))
        switch part.content {
        case .bytes(let bytes):
          let data = bytes.map { CChar(bitPattern: $0) }
          try check(curl_mime_data(field, data, data.count))
        case .file(let path):
          try check(curl_mime_filedata(field, path))
        }
      }
      try check(msctl_set_mime(handle, form))
    }
    try set(CURLOPT_CUSTOMREQUEST, request.method)
  }

  private func releaseLists() {
    curl_slist_free_all(connectList)
    curl_mime_free(form)
    headerList = nil
    connectList = nil
    form = nil
  }

  private func set(_ option: CURLoption, _ value: Int) throws(HTTPError) {
    try check(msctl_set_long(handle, option, value))
  }

  private func set(_ option: CURLoption, _ value: String) throws(HTTPError) {
    try check(msctl_set_string(handle, option, value))
  }

  private func set(_ option: CURLoption, _ value: UnsafeMutableRawPointer) throws(HTTPError) {
    try check(msctl_set_pointer(handle, option, value))
  }

  private func check(_ code: CURLcode) throws(HTTPError) {
    guard code == CURLE_OK else { throw error(code) }
  }

  /// What the cookies are now, where any are kept.
  private func readCookies() {
    guard request.cookies != nil else { return }
    var list: UnsafeMutablePointer<curl_slist>?
    guard msctl_get_list(handle, CURLINFO_COOKIELIST, &list) == CURLE_OK else { return }
    defer { curl_slist_free_all(list) }
    var cookies: [String] = []
    var next = list
    while let entry = next {
      if let data = entry.pointee.data { cookies.append(String(cString: data)) }
      next = entry.pointee.next
    }
    request.cookies = cookies
  }

  /// The cookies at the end, where any are kept.
  package var cookies: [String] { request.cookies ?? [] }

  // MARK: What libcurl hands over

  fileprivate func receive(header line: UnsafeRawBufferPointer) -> Bool {
    headerBytes += line.count
    guard headerBytes <= Self.headerLimit else {
      tooLarge = true
      return false
    }
    if line.starts(with: "HTTP/".utf8) {
      if mayBeStale {
        mayBeStale = false
        head = nil
      }
      headerLines = []
      headerLines.reserveCapacity(Self.usualHeaders)
      let words = line.prefix { !isLineBreak($0) }.split(separator: UInt8(ascii: " "), maxSplits: 2)
      status = words.count > 1 ? Int(String(decoding: words[1], as: UTF8.self)) ?? 0 : 0
      reason = words.count > 2 ? String(decoding: words[2], as: UTF8.self) : ""
    } else if line.count <= 2 {
      // The empty line; what may follow after the body are trailers.
      guard status >= 200, head == nil, !isRedirect, !isChallenge else { return true }
      let head = HTTPHead(status: status, reason: reason, lines: headerLines, url: request.url)
      if let trace {
        trace("< \(status)\(reason.isEmpty ? "" : " " + reason)")
        for header in head.headers { trace("< \(header.name): \(header.shownValue)") }
      }
      isRedirect =
        redirectsLeft > 0 && [301, 302, 303, 307, 308].contains(status) && head.header("Location") != nil
      isChallenge = status == 401 && request.digest != nil && !isLogin && asksForDigest
      if !isRedirect, !isChallenge { self.head = head }
      if status == 401, isLogin {
        // Nothing was done yet.
        mayBeStale = true
        bytesBeforeRequest = nil
      }
    } else if head == nil {
      headerLines += line
    }
    return true
  }

  /// - Returns: whether the bytes were taken; those that were not come again.
  fileprivate func receive(body bytes: UnsafeRawBufferPointer) -> Bool {
    if isRedirect || isChallenge { return true }
    if let bodyReader, let head, bodyReader(head, bytes) { return true }
    guard body.count < Self.bodyPause else {
      isPaused = true
      return false
    }
    body += bytes
    arrivals.tell(number)
    return true
  }

  // MARK: What is sent

  private var bytesSent: Int {
    var bytes = 0
    msctl_get_long(handle, CURLINFO_REQUEST_SIZE, &bytes)
    return bytes
  }

  /// libcurl is connected and about to send the request. By itself it would send it again where a connection that was used
  /// before breaks without a response; whether that may be done is for `end` to decide.
  /// - Returns: whether it may go out.
  fileprivate func mayGoOut() -> Bool {
    guard let before = bytesBeforeRequest else {
      bytesBeforeRequest = bytesSent
      return true
    }
    wasStopped = bytesSent > before
    return !wasStopped
  }

  // MARK: The end

  /// Takes libcurl's result.
  /// - Returns: whether the transfer goes on, to where a redirect points.
  func end(_ code: CURLcode) -> Bool {
    defer { if outcome != nil { arrivals.tell(number) } }
    if code == CURLE_OK, isChallenge {
      // Nothing was done yet.
      readCookies()
      do {
        try logIn()
        return true
      } catch {
        outcome = .failure(error)
        return false
      }
    }
    if let before = bytesBeforeRequest, bytesSent > before { hasSent = true }
    if code != CURLE_OK, wasStopped, !isResent, request.isIdempotent {
      isResent = true
      curl_easy_reset(handle)
      do {
        try configure()
        return true
      } catch {
        outcome = .failure(error)
        return false
      }
    }
    guard code == CURLE_OK else {
      outcome = .failure(
        tooLarge
          ? HTTPError(kind: .tooLarge, reason: "the headers are larger than \(Self.headerLimit) bytes") : error(code))
      return false
    }
    readCookies()
    guard isRedirect else {
      outcome = .success(())
      return false
    }
    do {
      try follow()
      return true
    } catch {
      outcome = .failure(error)
      return false
    }
  }

  private var asksForDigest: Bool {
    var offered = 0
    msctl_get_long(handle, CURLINFO_HTTPAUTH_AVAIL, &offered)
    return offered & Self.digest != 0
  }

  /// Sends the request again, with the login that the server has asked for. Were the login there from the beginning, libcurl would
  /// send the request without its body first, which a server that does not ask takes for the request. Of a handle that is not set
  /// back, libcurl knows the challenge.
  private func logIn() throws(HTTPError) {
    guard let (user, password) = request.digest else { return }
    forgetAnswer()
    isLogin = true
    try configureTimeout()
    try set(CURLOPT_HTTPAUTH, Self.digest)
    try set(CURLOPT_USERNAME, user)
    try set(CURLOPT_PASSWORD, password)
    // To libcurl, a login that is sent once more is a redirect.
    try set(CURLOPT_MAXREDIRS, Self.mostLogins)
    traceRequest()
  }

  /// Ends it where libcurl itself cannot go on.
  func fail(_ error: HTTPError) {
    outcome = .failure(error)
    arrivals.tell(number)
  }

  /// Turns to the URL of a redirect (RFC 9110, section 15.4). On another origin no header of the user's is sent: any of
  /// them may be a credential.
  private func follow() throws(HTTPError) {
    var text: UnsafePointer<CChar>?
    msctl_get_string(handle, CURLINFO_REDIRECT_URL, &text)
    guard let target = text.map({ String(cString: $0) }) else {
      throw HTTPError(kind: .broken, reason: "a redirect without a usable Location")
    }
    let before = try URLParts(request.url)
    let after = try URLParts(target)
    guard ["http", "https"].contains(after.scheme) else {
      throw HTTPError(kind: .broken, reason: "a redirect to '\(after.scheme)', which is not followed")
    }
    redirectsLeft -= 1
    let next = try handles.take()
    handles.giveBack(handle, hadCookies: request.cookies != nil)
    handle = next
    request.url = target
    let becomesGet =
      status == 303 && request.method != "HEAD" || [301, 302].contains(status) && request.method == "POST"
    if becomesGet {
      request.method = "GET"
      request.body = .none
      request.headers.removeAll { $0.isNamed("Content-Type") || $0.isNamed("Content-Length") }
    }
    if !before.hasSameOrigin(as: after) {
      request.headers.removeAll { header in !Self.harmless.contains { header.isNamed($0) } }
      request.connectTo = nil
      request.unixSocket = nil
      request.tls.certificateFile = nil
      request.tls.keyFile = nil
      request.tls.keyPassphrase = nil
      request.digest = nil
    }
    try configure()
  }

  /// A key without which a request that is sent again would do its work again is no credential.
  private static let harmless = ["Accept", "User-Agent", "Content-Type", "traceparent", HTTPRequest.idempotencyKey]

  /// CURLE_TOO_LARGE, which newer libraries use for headers beyond their limits, and older headers of libcurl do not name.
  private static let tooLarge = CURLcode(rawValue: 100)

  private func error(_ code: CURLcode) -> HTTPError {
    let detail = String(cString: errorText)
    // libcurl repeats a proxy's URL, in which a password may stand before an '@', and names as a host what such a password ends in
    // after its own '@'.
    let mayShowLogin =
      detail.holds("@") || code == CURLE_COULDNT_RESOLVE_PROXY || !shownURL(request.url).isSame(as: request.url)
    let text = detail.isEmpty || mayShowLogin ? String(cString: curl_easy_strerror(code)) : detail
    switch code {
    case CURLE_TOO_MANY_REDIRECTS:
      return HTTPError(kind: .broken, reason: "the server asks for another login again and again")
    case CURLE_ABORTED_BY_CALLBACK where wasStopped:
      return HTTPError(kind: .broken, reason: "the server closed the connection without a response")
    case CURLE_URL_MALFORMAT:
      return HTTPError(kind: .malformedURL, reason: text)
    case CURLE_UNSUPPORTED_PROTOCOL:
      // The URL's scheme has been looked at before; this is about what came back.
      return HTTPError(kind: .broken, reason: "the server does not speak HTTP")
    case CURLE_OUT_OF_MEMORY where head == nil && status > 0:
      // libcurl's word for one header beyond its own limit.
      return HTTPError(kind: .tooLarge, reason: "a header is larger than libcurl allows")
    case Self.tooLarge:
      return HTTPError(kind: .tooLarge, reason: detail.isEmpty ? "a header is larger than libcurl allows" : detail)
    case CURLE_BAD_FUNCTION_ARGUMENT where status > 0:
      return HTTPError(kind: .broken, reason: "the response headers begin with a continuation line")
    case CURLE_COULDNT_CONNECT:
      var number = 0
      msctl_get_long(handle, CURLINFO_OS_ERRNO, &number)
      let cause = number == 0 ? text : String(cString: strerror(Int32(clamping: number))).lowercasedASCII
      return HTTPError(kind: .unreachable, reason: cause)
    case CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY, CURLE_PROXY:
      return HTTPError(kind: .unreachable, reason: text)
    case CURLE_OPERATION_TIMEDOUT where !request.deadline.isPast && !hasConnected:
      return HTTPError(
        kind: .unreachable,
        reason: String(text.unicodeScalars.prefix(1)).lowercasedASCII + String(text.unicodeScalars.dropFirst()))
    case CURLE_OPERATION_TIMEDOUT:
      return HTTPError(kind: .timedOut, reason: text)
    case CURLE_SSL_CERTPROBLEM:
      return HTTPError(kind: .certificate, reason: text)
    case CURLE_SSL_CONNECT_ERROR, CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CIPHER,
      CURLE_SSL_CACERT_BADFILE, CURLE_SSL_ISSUER_ERROR:
      return HTTPError(kind: .tls, reason: text)
    default:
      return HTTPError(kind: .broken, reason: text)
    }
  }
}

extension HTTPTransfer {
  /// Whether a connection came about, so that something may have been sent.
  fileprivate var hasConnected: Bool {
    var microseconds: curl_off_t = 0
    msctl_get_offset(handle, CURLINFO_CONNECT_TIME_T, &microseconds)
    return microseconds > 0
  }
}

private let receiveHeader: @convention(c) (UnsafeMutablePointer<CChar>?, Int, Int, UnsafeMutableRawPointer?) -> Int = {
  data, size, count, owner in
  guard let data, let owner else { return 0 }
  let transfer = Unmanaged<HTTPTransfer>.fromOpaque(owner).takeUnretainedValue()
  return transfer.receive(header: UnsafeRawBufferPointer(start: data, count: size * count)) ? size * count : 0
}

private let receiveBody: @convention(c) (UnsafeMutablePointer<CChar>?, Int, Int, UnsafeMutableRawPointer?) -> Int = {
  data, size, count, owner in
  guard let data, let owner else { return 0 }
  let transfer = Unmanaged<HTTPTransfer>.fromOpaque(owner).takeUnretainedValue()
  let isTaken = transfer.receive(body: UnsafeRawBufferPointer(start: data, count: size * count))
  return isTaken ? size * count : Int(CURL_WRITEFUNC_PAUSE)
}

private let prepareRequest:
  @convention(c) (
    UnsafeMutableRawPointer?, UnsafeMutablePointer<CChar>?, UnsafeMutablePointer<CChar>?, Int32, Int32
  ) -> Int32 = { owner, _, _, _, _ in
    guard let owner else { return CURL_PREREQFUNC_ABORT }
    let transfer = Unmanaged<HTTPTransfer>.fromOpaque(owner).takeUnretainedValue()
    return transfer.mayGoOut() ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT
  }

/// No child inherits a socket: it would keep the connection open for as long as it runs, and could speak over it.
private let openSocket: @convention(c) (UnsafeMutableRawPointer?, curl_socket_t, curlsocktype) -> Int32 = {
  owner, socket, _ in
  _ = fcntl(socket, F_SETFD, FD_CLOEXEC)
  if let owner { Unmanaged<SocketSet>.fromOpaque(owner).takeUnretainedValue().opened(socket) }
  return CURL_SOCKOPT_OK
}

private let closeSocket: @convention(c) (UnsafeMutableRawPointer?, curl_socket_t) -> Int32 = { owner, socket in
  if let owner { Unmanaged<SocketSet>.fromOpaque(owner).takeUnretainedValue().closed(socket) }
  return close(socket)
}

private func isLineBreak(_ byte: UInt8) -> Bool { byte == UInt8(ascii: "\r") || byte == UInt8(ascii: "\n") }
