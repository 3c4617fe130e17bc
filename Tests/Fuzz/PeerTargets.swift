import Glibc

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

/// What a broker can send after a good handshake: frames of any content, or bytes that are no frames.
enum FakeBroker {
  private static let server: (peer: Peer, port: Int)? = {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isBound = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(listener, raw, length) == 0 && listen(listener, 8) == 0 && getsockname(listener, raw, &length) == 0
      }
    }
    return isBound ? (Peer(listener), Int(UInt16(bigEndian: address.sin_port))) : nil
  }()

  /// The first byte says who listens; then each frame is a type, two bytes of length, and its payload.
  static func fuzz(_ bytes: [UInt8]) {
    guard let server, let kind = bytes.first else { return }
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
    server.peer.say(said)
    var uri = AMQPURI()
    uri.host = "127.0.0.1"
    uri.port = server.port
    guard let connection = try? AMQPConnection.open(uri, name: "fuzz") else { return }
    if kind & 1 == 0 { publish(connection) } else { consume(connection) }
  }

  private static func publish(_ connection: AMQPConnection) {
    do {
      _ = try connection.declareQueue("q")
      try connection.selectConfirms()
      let publisher = AMQPPublisher(connection, window: 4)
      for number in 0..<4 {
        var message = AMQPMessage(body: [1, 2, 3], exchange: "", routingKey: "q")
        message.properties.messageID = "\(number)"
        if publisher.hasRoom { try publisher.send(message) }
      }
      while true {
        _ = try publisher.settle()
        for delivery in publisher.takeDeliveries() { _ = Envelope.write(delivery.message, redelivered: false) }
        waitForMore(connection)
      }
    } catch {}
  }

  private static func consume(_ connection: AMQPConnection) {
    do {
      try connection.setPrefetch(4)
      _ = try connection.consume("q")
      while true {
        while let event = try connection.nextEvent() {
          guard case .delivery(let delivery) = event else { continue }
          _ = Envelope.write(delivery.message, redelivered: delivery.redelivered)
          try connection.acknowledge(delivery.tag, multiple: false)
        }
        waitForMore(connection)
      }
    } catch {}
  }

  private static func waitForMore(_ connection: AMQPConnection) {
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

  /// The first byte says what is asked; the rest is the answer.
  static func fuzz(_ bytes: [UInt8]) {
    guard let server, let http, let kind = bytes.first,
      let address = ConsulAddress("unix://" + server.path)
    else { return }
    server.peer.say(Array(bytes.dropFirst()))
    var settings = ConsulAgent.Settings()
    settings.address = address
    settings.timeout = .seconds(2)
    let agent = ConsulAgent(settings, over: http)
    switch kind % 6 {
    case 0: for instance in (try? agent.instances(of: "s")) ?? [] { _ = instance.json }
    case 1: _ = try? agent.services()
    case 2: _ = try? agent.localIDs(of: "s")
    case 3: _ = try? agent.deregister(id: "s")
    case 4:
      let watch = HealthWatch(agent, service: kind & 8 == 0 ? nil : "s") { _ in true }
      for _ in 0..<4 {
        _ = try? watch.advance()
        _ = try? http.run(until: .after(.milliseconds(5)))
      }
    default:
      var request = HTTPRequest(url: "http://localhost/")
      request.unixSocket = server.path
      request.redirects = 3
      request.deadline = .after(.seconds(2))
      guard let transfer = try? http.start(request) else { return }
      while transfer.outcome == nil {
        _ = try? http.run(until: .after(.seconds(1)))
        _ = transfer.takeBody()
      }
      _ = transfer.head?.grouped
      _ = transfer.head?.isJSON
      _ = transfer.retryAfter
    }
  }
}
