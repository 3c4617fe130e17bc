import Foundation
import Synchronization

/// A broker in the test's process that speaks plain bytes of AMQP 0-9-1: the handshake and a reply to each method by itself, and
/// then whatever the test wants, which no real broker would send.
///
///     let broker = try FakeBroker { peer, method in
///       guard method.name == .publish else { return false }        // false: the usual reply
///       while peer.send(FakeBroker.deliver(tag: 1, body: [])) {}   // send is false once the client is gone
///       return true
///     }
///     try await Tool.run("publish", "q", "1", environment: ["AMQP_URL": broker.uri])
///
/// A publish is handed over once its body has come. By itself the broker confirms nothing and delivers nothing.
package final class FakeBroker: Sendable {
  package enum Name: UInt32, Sendable {
    case startOk = 0x000A_000B
    case tuneOk = 0x000A_001F
    case connectionOpen = 0x000A_0028
    case connectionClose = 0x000A_0032
    case connectionCloseOk = 0x000A_0033
    case channelOpen = 0x0014_000A
    case channelCloseOk = 0x0014_0029
    case declareQueue = 0x0032_000A
    case bindQueue = 0x0032_0014
    case prefetch = 0x003C_000A
    case consume = 0x003C_0014
    case cancel = 0x003C_001E
    case publish = 0x003C_0028
    case acknowledge = 0x003C_0050
    case reject = 0x003C_005A
    case nack = 0x003C_0078
    case selectConfirms = 0x0055_000A
  }

  /// What a client has sent.
  package struct Method: Sendable {
    package let name: Name?
    /// The bytes of its arguments.
    package let arguments: [UInt8]
    /// The message's body, where it is a publish.
    package var body: [UInt8] = []
  }

  /// One client's connection.
  package final class Peer: Sendable {
    /// Which connection it is, from 0.
    package let number: Int
    private let descriptor: Int32
    private let published = Mutex(0)

    fileprivate init(_ descriptor: Int32, _ number: Int) {
      self.descriptor = descriptor
      self.number = number
    }

    /// How many messages it has published, and so the delivery tag of the last one.
    package var publishes: Int { published.withLock { $0 } }
    fileprivate func addPublish() { published.withLock { $0 += 1 } }

    /// - Returns: whether it was sent; false once the client is gone.
    @discardableResult
    package func send(_ bytes: [UInt8]) -> Bool {
      var rest = bytes[...]
      while !rest.isEmpty {
        let count = rest.withUnsafeBytes { Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        guard count > 0 else { return false }
        rest = rest.dropFirst(count)
      }
      return true
    }

    /// Ends the connection without a word.
    package func cut() { shutdown(descriptor, Int32(SHUT_RDWR)) }

    fileprivate func read(_ count: Int) -> [UInt8]? {
      var bytes = [UInt8](repeating: 0, count: count)
      var place = 0
      while place < count {
        let read = bytes.withUnsafeMutableBytes {
          recv(descriptor, $0.baseAddress.map { $0 + place }, count - place, 0)
        }
        guard read > 0 else { return nil }
        place += read
      }
      return bytes
    }
  }

  package let port: Int
  private let listener: Int32
  private let count: Counter

  private final class Counter: Sendable { let connections = Mutex(0) }

  /// - Parameter script: is told each method but those of the handshake, and says whether it has dealt with it.
  package init(_ script: @escaping @Sendable (Peer, Method) -> Bool) throws {
    let (listener, port) = try Descriptors.listener()
    self.listener = listener
    self.port = port
    let count = Counter()
    self.count = count
    Thread.detachNewThread {
      while let client = Descriptors.accept(listener) {
        let number = count.connections.withLock {
          $0 += 1; return $0 - 1
        }
        Thread.detachNewThread {
          Self.serve(Peer(client, number), script)
          close(client)
        }
      }
      close(listener)
    }
  }

  deinit { shutdown(listener, Int32(SHUT_RDWR)) }

  package var uri: String { "amqp://guest:guest@127.0.0.1:\(port)" }
  package var connections: Int { count.connections.withLock { $0 } }

  private static func serve(_ peer: Peer, _ script: (Peer, Method) -> Bool) {
    guard peer.read(8) != nil else { return }
    // connection.start: 0-9, no properties, the mechanisms and a locale.
    peer.send(method(0x000A_000A, [0, 9] + long(0) + longText("PLAIN EXTERNAL") + longText("en_US"), channel: 0))
    var publish: Method?
    var left = 0
    while let head = peer.read(7) {
      let size = head[3...6].reduce(0) { $0 << 8 | Int($1) }
      guard let payload = peer.read(size + 1)?.dropLast() else { return }
      switch head[0] {
      case 1:
        let id = payload.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
        let method = Method(name: Name(rawValue: id), arguments: Array(payload.dropFirst(4)))
        if method.name == .publish { publish = method } else { handle(method, peer, script) }
      case 2: left = payload[4..<12].reduce(0) { $0 << 8 | Int($1) }
      case 3:
        publish?.body += payload
        left -= payload.count
      default: continue
      }
      if head[0] != 1, left == 0, let message = publish {
        publish = nil
        peer.addPublish()
        handle(message, peer, script)
      }
    }
  }

  private static func handle(_ method: Method, _ peer: Peer, _ script: (Peer, Method) -> Bool) {
    if !script(peer, method) { reply(to: method, peer) }
  }

  /// The usual reply to a method.
  package static func reply(to method: Method, _ peer: Peer) {
    switch method.name {
    // connection.tune: one channel, frames of 131072 bytes, no heartbeats.
    case .startOk: peer.send(Self.method(0x000A_001E, short(1) + long(131_072) + short(0), channel: 0))
    case .connectionOpen: peer.send(Self.method(0x000A_0029, [0], channel: 0))
    case .connectionClose: peer.send(Self.method(0x000A_0033, [], channel: 0))
    case .channelOpen: peer.send(Self.method(0x0014_000B, long(0)))
    case .declareQueue: peer.send(declared("q", messages: 0))
    case .bindQueue: peer.send(Self.method(0x0032_0015, []))
    case .prefetch: peer.send(Self.method(0x003C_000B, []))
    case .consume: peer.send(Self.method(0x003C_0015, shortText("tag")))
    case .cancel: peer.send(Self.method(0x003C_001F, shortText("tag")))
    case .selectConfirms: peer.send(Self.method(0x0055_000B, []))
    default: break
    }
  }

  // MARK: Bytes

  package static func declared(_ queue: String, messages: Int) -> [UInt8] {
    method(0x0032_000B, shortText(queue) + long(UInt32(messages)) + long(0))
  }

  package static func deliver(
    tag: UInt64, body: [UInt8], headers: [UInt8] = [], messageID: String? = nil, replyTo: String? = nil,
    redelivered: Bool = false
  ) -> [UInt8] {
    method(
      0x003C_003C, shortText("tag") + longLong(tag) + [redelivered ? 1 : 0] + shortText("") + shortText("q"))
      + content(body, headers: headers, messageID: messageID, replyTo: replyTo)
  }

  package static func returned(body: [UInt8]) -> [UInt8] {
    method(0x003C_0032, short(312) + shortText("NO_ROUTE") + shortText("") + shortText("q")) + content(body)
  }

  package static func ack(_ tag: Int, multiple: Bool = false) -> [UInt8] {
    method(0x003C_0050, longLong(UInt64(tag)) + [multiple ? 1 : 0])
  }

  package static func nack(_ tag: Int) -> [UInt8] { method(0x003C_0078, longLong(UInt64(tag)) + [0]) }

  package static func blocked(_ reason: String) -> [UInt8] { method(0x000A_003C, shortText(reason), channel: 0) }

  /// `basic.consume-ok`, for a script that sends deliveries after it.
  package static func consuming() -> [UInt8] { method(0x003C_0015, shortText("tag")) }

  /// `basic.cancel`: the broker ends the consumer.
  package static func cancelConsumer() -> [UInt8] { method(0x003C_001E, shortText("tag") + [1]) }

  package static func closeChannel(_ code: UInt16, _ text: String) -> [UInt8] {
    method(0x0014_0028, short(code) + shortText(text) + short(0) + short(0))
  }

  package static func closeConnection(_ code: UInt16, _ text: String) -> [UInt8] {
    method(0x000A_0032, short(code) + shortText(text) + short(0) + short(0), channel: 0)
  }

  /// A message's header and body, in frames as large as may be.
  /// - Parameter headers: the bytes of the header table, its length not counted.
  package static func content(
    _ body: [UInt8], headers: [UInt8] = [], messageID: String? = nil, replyTo: String? = nil
  ) -> [UInt8] {
    let flags: UInt16 =
      (headers.isEmpty ? 0 : 1 << 13) + (replyTo == nil ? 0 : 1 << 9) + (messageID == nil ? 0 : 1 << 7)
    let table = headers.isEmpty ? [] : long(UInt32(headers.count)) + headers
    let properties = short(flags) + table + (replyTo.map(shortText) ?? []) + (messageID.map(shortText) ?? [])
    var bytes = frame(2, short(60) + short(0) + longLong(UInt64(body.count)) + properties)
    for start in stride(from: 0, to: body.count, by: 131_064) {
      bytes += frame(3, Array(body[start..<min(body.count, start + 131_064)]))
    }
    return bytes
  }

  /// An entry of a header table whose value is a long string.
  package static func header(_ name: [UInt8], _ value: String) -> [UInt8] {
    [UInt8(name.count)] + name + [UInt8(ascii: "S")] + longText(value)
  }

  package static func method(_ id: UInt32, _ arguments: [UInt8], channel: UInt16 = 1) -> [UInt8] {
    frame(1, long(id) + arguments, channel: channel)
  }

  package static func frame(_ type: UInt8, _ payload: [UInt8], channel: UInt16 = 1) -> [UInt8] {
    [type] + short(channel) + long(UInt32(payload.count)) + payload + [0xCE]
  }

  package static func short(_ number: UInt16) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }
  package static func long(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }
  package static func longLong(_ number: UInt64) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }
  package static func shortText(_ text: String) -> [UInt8] { [UInt8(text.utf8.count)] + Array(text.utf8) }
  package static func longText(_ text: String) -> [UInt8] { long(UInt32(text.utf8.count)) + Array(text.utf8) }
}
