import CCurl
import Glibc

/// Makes requests over kept-alive connections: owns libcurl's handles, and is moved on by an event loop. To be used by one thread.
///
/// See https://curl.se/libcurl/c/libcurl-multi.html.
package final class HTTPClient {
  /// The largest answer that is kept in memory, in bytes.
  package static let bodyLimit = 256 << 20

  private let sockets: SocketSet
  private let handles: EasyHandles
  private let arrivals = HTTPArrivals()
  private var lanes: [HTTPLane] = []
  /// The lanes that have room, the one where a transfer ended last at the end: its connection is free.
  private var roomyLanes: [HTTPLane] = []
  /// How many connections are kept open for the requests to come; nil: as many as libcurl keeps.
  private var keptConnections: Int?
  /// Each transfer knows its place.
  private var running: [HTTPTransfer] = []
  /// Where the loop waits for the sockets.
  private var place = 0
  /// Is told each request and each answer's head, credentials masked.
  private let trace: ((String) -> Void)?

  package convenience init() throws(HTTPError) {
    try self.init(trace: nil)
  }

  /// - Parameter spareHandles: how many of libcurl's handles may be kept for requests to come; nil: what is good for the library.
  package init(trace: ((String) -> Void)?, spareHandles: Int? = nil) throws(HTTPError) {
    guard curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK, let sockets = SocketSet() else {
      throw HTTPError(kind: .broken, reason: "libcurl cannot be set up")
    }
    self.sockets = sockets
    self.trace = trace
    handles = EasyHandles(most: spareHandles)
    // What the machine does not have is told now, not in the middle of something.
    try addLane()
  }

  /// Leaves the settings of TLS for the first request that uses it: a third of what one call without TLS computes. To be called
  /// before the first client is made, in a process where nobody else uses TLS.
  package static func deferTLS() {
    // A proxy may be spoken to over TLS, too, which no URL of a request says.
    let proxies = ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    if !proxies.contains(where: {
      getenv($0).map { String(cString: $0).lowercasedASCII.begins(with: "https:") } ?? false
    }) {
      msctl_tls_later()
    }
  }

  deinit {
    for transfer in running {
      transfer.lane?.remove(transfer.handle)
      transfer.lane = nil
      transfer.place = nil
    }
  }

  /// Keeps so many connections open for the requests to come. By itself libcurl keeps four for each transfer that runs at the
  /// moment, and opens new ones after a moment in which few did.
  package func keep(connections: Int) throws(HTTPError) {
    keptConnections = connections
    for lane in lanes { try lane.keep(connections: connections) }
  }

  private func addLane() throws(HTTPError) {
    let lane = try HTTPLane(sockets)
    if let keptConnections { try lane.keep(connections: keptConnections) }
    lanes.append(lane)
    roomyLanes.append(lane)
  }

  /// Begins a request. It makes progress while the event loop turns, or `run` is called.
  package func start(_ request: HTTPRequest) throws(HTTPError) -> HTTPTransfer {
    try start(request, number: nil)
  }

  /// Begins a request for one of many that run at a time.
  /// - Parameter number: what `takeArrivals` tells of it.
  package func start(_ request: HTTPRequest, number: Int?) throws(HTTPError) -> HTTPTransfer {
    let transfer = try HTTPTransfer(
      request, number, from: handles, over: sockets, telling: arrivals, trace: trace)
    if roomyLanes.isEmpty { try addLane() }
    guard let lane = roomyLanes.last else { throw HTTPError(kind: .broken, reason: "libcurl cannot be set up") }
    try lane.add(transfer.handle)
    if lane.isFull { roomyLanes.removeLast() }
    transfer.lane = lane
    transfer.place = running.count
    running.append(transfer)
    return transfer
  }

  /// The numbers of the transfers to which something has come since the last call: a part of the body, or the end.
  package func takeArrivals() -> [Int] { arrivals.take() }

  /// Moves all transfers on, waiting at most until the deadline for something to happen. With nothing to wait for and no
  /// deadline it returns at once.
  /// - Parameter descriptor: something else to wait for, which is to be read.
  /// - Returns: whether the descriptor can be read.
  @discardableResult
  package func run(until deadline: Deadline, orReading descriptor: Int32? = nil) throws(HTTPError) -> Bool {
    guard !running.isEmpty || descriptor != nil || deadline != .never else { return false }
    let other = descriptor.map { Readiness($0) }
    let loop = EventLoop(self)
    if let other { loop.add(other) }
    loop.turn(until: deadline)
    return other?.isReady ?? false
  }

  /// Stops a transfer before its end.
  package func cancel(_ transfer: HTTPTransfer) {
    guard transfer.place != nil else { return }
    transfer.lane?.remove(transfer.handle)
    forget(transfer)
  }

  /// Moves on what is to go on by itself: what has just been added, and what has taken too long.
  private func moveTimed() {
    for lane in lanes where lane.timer.isPast {
      lane.timer = .never
      move(lane, CURL_SOCKET_TIMEOUT, 0)
    }
  }

  private func moveReady() {
    for index in 0..<sockets.takeEvents() {
      if let (lane, descriptor, mask) = sockets.event(index) { move(lane, descriptor, mask) }
    }
  }

  private func move(_ lane: HTTPLane, _ descriptor: Int32, _ mask: Int32) {
    do throws(HTTPError) { try lane.move(descriptor, mask) } catch { return give(up: lane, error) }
    while let (handle, code) = lane.nextEnded() {
      guard let transfer = HTTPTransfer.owner(of: handle) else { continue }
      lane.remove(handle)
      guard transfer.end(code) else {
        forget(transfer)
        continue
      }
      do throws(HTTPError) { try lane.add(transfer.handle) } catch {
        transfer.fail(error)
        forget(transfer)
      }
    }
  }

  /// Ends all transfers of a lane that libcurl itself cannot go on with.
  private func give(up lane: HTTPLane, _ error: HTTPError) {
    lanes.removeAll { $0 === lane }
    for transfer in running where transfer.lane === lane {
      lane.remove(transfer.handle)
      transfer.fail(error)
      forget(transfer)
    }
    roomyLanes.removeAll { $0 === lane }
  }

  /// Forgets a transfer that its lane has forgotten; in its place comes the last one.
  private func forget(_ transfer: HTTPTransfer) {
    guard let place = transfer.place, let last = running.popLast() else { return }
    if last !== transfer {
      running[place] = last
      last.place = place
    }
    transfer.place = nil
    if let lane = transfer.lane, lane.hasJustRoom { roomyLanes.append(lane) }
    transfer.lane = nil
  }
}

extension HTTPClient: LoopMember {
  package func addInterests(to polls: inout PollSet) {
    // What libcurl waits for is known once it has done what is due.
    moveTimed()
    place = polls.add(sockets.prepare())
  }

  /// When libcurl is to be called even if nothing happens.
  package var wakeTime: Deadline { arrivals.areUnseen ? .now : lanes.reduce(.never) { min($0, $1.timer) } }

  package func proceed(after polls: PollSet) {
    if polls.isReady(place) { moveReady() }
    moveTimed()
    // Who has begun the transfers looks at them now.
    arrivals.areUnseen = false
  }

  package func proceed() {
    moveReady()
    moveTimed()
    arrivals.areUnseen = false
  }
}

/// What has come for transfers.
final class HTTPArrivals {
  /// Whether something has come since the loop let the client go on, as it does when a body is taken that libcurl holds back.
  var areUnseen = false
  private var numbers: [Int] = []

  /// The numbers of the transfers for which something has come since the last call.
  func take() -> [Int] {
    defer { numbers.removeAll(keepingCapacity: true) }
    return numbers
  }

  /// Something has come for a transfer.
  func tell(_ number: Int?) {
    areUnseen = true
    // What comes at once is told once.
    if let number, numbers.last != number { numbers.append(number) }
  }
}
