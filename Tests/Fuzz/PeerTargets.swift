import Glibc

@testable import MsctlCommands
@testable import MsctlCore

/// A peer on a thread of its own that says what a target wants and then nothing more, whatever it is told.
private final class Peer: @unchecked Sendable {
  let listener: Int32
  private var lock = pthread_mutex_t()
  private var text: [UInt8] = []

  init(_ listener: Int32) {
    self.listener = listener
    pthread_mutex_init(&lock, nil)
    var thread = pthread_t()
    let owner = Unmanaged.passRetained(self).toOpaque()
    pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        Unmanaged<Peer>.fromOpaque(argument).takeUnretainedValue().serve()
        return nil
      }, owner)
  }

  func say(_ bytes: [UInt8]) {
    pthread_mutex_lock(&lock)
    text = bytes
    pthread_mutex_unlock(&lock)
  }

  private func serve() {
    while true {
      let connection = accept(listener, nil, nil)
      guard connection >= 0 else { continue }
      pthread_mutex_lock(&lock)
      let text = self.text
      pthread_mutex_unlock(&lock)
      var piece = [UInt8](repeating: 0, count: 65536)
      // Nothing before the other end has spoken, as a server.
      _ = recv(connection, &piece, piece.count, 0)
      _ = text.withUnsafeBytes { send(connection, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      shutdown(connection, Int32(SHUT_WR))
      while recv(connection, &piece, piece.count, 0) > 0 {}
      close(connection)
    }
  }
}

/// What a broker can send after a good handshake: frames of any content, or bytes that are no frames. It has said all of it before
/// the client asks, over a socket pair.
enum FakeBroker {
  /// The first byte says who listens; then each frame is a type, two bytes of length, and its payload.
  static func fuzz(_ bytes: [UInt8]) {
    guard let kind = bytes.first else { return }
    var said = handshake
    var rest = bytes.dropFirst()
    if kind & 2 != 0 {
      said += rest
    } else {
      while rest.count >= 3 {
        let count = Int(rest[rest.startIndex + 1]) << 8 | Int(rest[rest.startIndex + 2])
        said += frame(rest[rest.startIndex], Array(rest.dropFirst(3).prefix(count)))
        rest = rest.dropFirst(3 + count)
      }
    }
    var ends: [Int32] = [-1, -1]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else { return }
    defer { close(ends[1]) }
    // The input is small enough for the socket's buffer, and so is what the client says to it.
    let sent = said.withUnsafeBytes { send(ends[1], $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT)) }
    precondition(sent == said.count, "an input that the socket does not take at once")
    shutdown(ends[1], Int32(SHUT_WR))
    guard let connection = try? AMQPConnection.open(over: ends[0], name: "fuzz") else { return }
    if kind & 1 == 0 { publish(connection, replies: kind & 4 != 0) } else { consume(connection) }
  }

  /// As `publish` does, with `--reply` where `replies` says so.
  private static func publish(_ connection: AMQPConnection, replies: Bool) {
    do {
      _ = try connection.declareQueue("q")
      try connection.selectConfirms()
      if replies { _ = try connection.consume(AMQPConnection.directReply, isAutomatic: true) }
      let publisher = AMQPPublisher(connection, window: 4)
      for number in 0..<4 {
        var message = AMQPMessage(body: [1, 2, 3], exchange: "", routingKey: "q")
        message.properties.messageID = "\(number)"
        if publisher.hasRoom { try publisher.send(message) }
      }
      while true {
        _ = try publisher.settle()
        for delivery in publisher.takeDeliveries() { look(at: delivery) }
        waitForMore(connection)
      }
    } catch {}
  }

  /// As `consume` does: what comes is looked at by all that decides what becomes of it.
  private static func consume(_ connection: AMQPConnection) {
    var handled = HandledMessages()
    var acknowledged = AcknowledgedMessages()
    var attempts = Attempts()
    var place = StreamPlace()
    do {
      try connection.setPrefetch(4)
      _ = try connection.consume("q")
      while true {
        while let event = try connection.nextEvent() {
          _ = event.shown
          guard case .delivery(let delivery) = event else { continue }
          look(at: delivery)
          let message = delivery.message
          if !handled.take(message), !acknowledged.take(message) { handled.add(message) }
          acknowledged.add(delivery)
          acknowledged.connectionBroke(unhandled: [])
          precondition(attempts.add(message) > 0)
          if let offset = message.streamOffset, !place.hasSeen(offset) {
            place.deliver(offset)
            place.handle(offset)
          }
          try connection.acknowledge(delivery.tag, multiple: false)
        }
        waitForMore(connection)
      }
    } catch {}
  }

  private static func look(at delivery: AMQPDelivery) {
    let line = Envelope.write(delivery.message, redelivered: delivery.redelivered)
    precondition((try? JSONValue(parsing: line.text, keepsWhiteSpace: true)) != nil, "an envelope that is not JSON")
    _ = BodyText(delivery.message.body, contentType: delivery.message.properties.contentType)
    _ = TraceContext(of: delivery.message, environment: [:])
  }

  private static func waitForMore(_ connection: AMQPConnection) {
    guard !connection.hasInput else { return }
    var polls = PollSet()
    polls.add(connection.descriptor)
    polls.wait(until: .after(.seconds(1)))
  }

  private static let handshake: [UInt8] =
    method(0, [0, 10, 0, 10, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5] + Array("PLAIN".utf8) + [0, 0, 0, 5] + Array("en_US".utf8))
    + method(0, [0, 10, 0, 30, 7, 0xFF, 0, 2, 0, 0, 0, 0]) + method(0, [0, 10, 0, 41, 0])
    + method(1, [0, 20, 0, 11, 0, 0, 0, 0])

  private static func method(_ channel: UInt8, _ payload: [UInt8]) -> [UInt8] { frame(1, payload, channel: channel) }

  private static func frame(_ type: UInt8, _ payload: [UInt8], channel: UInt8 = 1) -> [UInt8] {
    let count = payload.count
    return [type, 0, channel, 0, 0, UInt8(count >> 8 & 255), UInt8(count & 255)] + payload + [0xCE]
  }
}

/// What an agent, or a server, can answer.
enum FakeAgent {
  private static let server: (peer: Peer, path: String)? = {
    let path = "/tmp/msctl-fuzz-agent-\(getpid())"
    let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    unlink(path)
    let isBound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(listener, raw, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0 && listen(listener, 8) == 0
      }
    }
    return isBound ? (Peer(listener), path) : nil
  }()

  nonisolated(unsafe) private static let http = try? HTTPClient()
  nonisolated(unsafe) private static let loop = http.map { EventLoop($0) }

  /// The first byte says what is asked; the rest is the answer.
  static func fuzz(_ bytes: [UInt8]) {
    guard let server, let http, let loop, let kind = bytes.first,
      let address = ConsulAddress("unix://" + server.path)
    else { return }
    server.peer.say(Array(bytes.dropFirst()))
    var settings = ConsulAgent.Settings()
    settings.address = address
    settings.timeout = .seconds(2)
    let agent = ConsulAgent(settings, over: http)
    switch kind % 6 {
    case 0: for instance in (try? loop.answer(to: agent.beginInstances(of: "s"))) ?? [] { _ = instance.json }
    case 1: _ = try? loop.answer(to: agent.beginServices())
    case 2: _ = try? loop.answer(to: agent.beginLocalIDs(of: "s"))
    case 3: _ = try? loop.answer(to: agent.deregistering(id: "s"))
    case 4:
      let watch = ConsulWatch(agent, service: kind & 8 == 0 ? nil : "s") { _ in true }
      for _ in 0..<4 {
        _ = try? watch.advance()
        loop.turn(until: .after(.milliseconds(5)))
      }
    default:
      var request = HTTPRequest(url: "http://localhost/")
      request.unixSocket = server.path
      request.redirects = 3
      request.deadline = .after(.seconds(2))
      guard let transfer = try? http.start(request) else { return }
      while transfer.outcome == nil {
        loop.turn()
        _ = transfer.takeBody()
      }
      _ = transfer.head?.grouped
      _ = transfer.head?.isJSON
      _ = transfer.retryAfter
    }
  }
}
