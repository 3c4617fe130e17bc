import Foundation
import Synchronization

/// A small HTTP/1.1 server in the test's process. It is our own because tests need the bytes: what was really sent, and
/// answers that no library would give.
package final class TestServer: Sendable {
  package struct Request: Sendable {
    package let method: String
    package let target: String
    package let headers: [(name: String, value: String)]
    package let body: String

    package func header(_ name: String) -> String? {
      headers.last { $0.name.lowercased() == name.lowercased() }?.value
    }
  }

  /// The bytes of an answer. The connection is closed after it, unless it says otherwise.
  package struct Answer: Sendable {
    package let pieces: [String]
    /// What must be waited for before each piece but the first.
    package let gate: (@Sendable (Int) -> Void)?
    package var keepsConnection = false
    /// Whether the connection is reset at its end, and not closed.
    package var resetsConnection = false

    /// No answer: the request is read, and the connection closed or reset.
    package static func none(resets: Bool) -> Answer {
      var answer = Answer([])
      answer.resetsConnection = resets
      return answer
    }

    /// The request is read, and nothing is ever said to it.
    package static var silence: Answer {
      var answer = Answer([])
      answer.keepsConnection = true
      return answer
    }

    package init(_ pieces: [String], gate: (@Sendable (Int) -> Void)? = nil) {
      self.pieces = pieces
      self.gate = gate
    }

    package static func ok(_ body: String, type: String = "application/json") -> Answer {
      status(200, "OK", body, headers: ["Content-Type: \(type)"])
    }

    /// As `ok`, on a connection that is kept.
    package static func kept(_ body: String) -> Answer {
      var answer = Answer([
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n\r\n" + body
      ])
      answer.keepsConnection = true
      return answer
    }

    package static func status(_ code: Int, _ reason: String, _ body: String, headers: [String] = []) -> Answer {
      let head = ["HTTP/1.1 \(code) \(reason)", "Content-Length: \(body.utf8.count)", "Connection: close"] + headers
      return Answer([head.joined(separator: "\r\n") + "\r\n\r\n" + body])
    }
  }

  package let port: Int
  private let listener: Int32
  private let seen = Log()

  /// The requests so far, shared with the threads that read them.
  private final class Log: Sendable {
    let requests = Mutex<[Request]>([])
    let connections = Mutex(0)
    let isStopped = Mutex(false)
  }

  package init(_ handler: @escaping @Sendable (Request) -> Answer) throws {
    let (listener, port) = try Descriptors.listener()
    self.listener = listener
    self.port = port
    Thread.detachNewThread { [seen] in
      while true {
        guard let connection = Descriptors.accept(listener) else {
          close(listener)
          return
        }
        Thread.detachNewThread {
          defer { close(connection) }
          seen.connections.withLock { $0 += 1 }
          while let request = Self.read(connection) {
            seen.requests.withLock { $0.append(request) }
            let answer = handler(request)
            for (index, piece) in answer.pieces.enumerated() {
              if index > 0 { answer.gate?(index) }
              Self.write(connection, piece)
            }
            if answer.resetsConnection {
              var lingering = linger(l_onoff: 1, l_linger: 0)
              setsockopt(connection, SOL_SOCKET, SO_LINGER, &lingering, socklen_t(MemoryLayout<linger>.size))
            }
            if !answer.keepsConnection { break }
          }
        }
      }
    }
  }

  deinit {
    stop()
  }

  /// Refuses connections from now on.
  package func stop() {
    // The thread that accepts closes it: closed here, its number could be another server's before that thread looks again.
    // And only once: afterwards the number may be another server's.
    seen.isStopped.withLock { isStopped in
      if !isStopped { shutdown(listener, Int32(SHUT_RDWR)) }
      isStopped = true
    }
  }

  /// The requests so far.
  package var requests: [Request] { seen.requests.withLock { $0 } }
  package var connections: Int { seen.connections.withLock { $0 } }
  package var url: String { "http://127.0.0.1:\(port)" }

  private static func write(_ connection: Int32, _ text: String) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { send(connection, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }

  private static func read(_ connection: Int32) -> Request? {
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 65536)
    func more() -> Bool {
      let count = recv(connection, &piece, piece.count, 0)
      guard count > 0 else { return false }
      bytes += piece[..<count]
      return true
    }
    let mark = Array("\r\n\r\n".utf8)
    var end: Int?
    while end == nil {
      guard more() else { return nil }
      end = bytes.indices.first { bytes[$0...].starts(with: mark) }
    }
    guard let end else { return nil }
    let lines = String(decoding: bytes[..<end], as: UTF8.self).components(separatedBy: "\r\n")
    let words = lines[0].split(separator: " ").map(String.init)
    guard words.count == 3 else { return nil }
    let headers = lines.dropFirst().compactMap { line -> (name: String, value: String)? in
      guard let colon = line.firstIndex(of: ":") else { return nil }
      return (String(line[..<colon]), line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces))
    }
    let length = headers.last { $0.name.lowercased() == "content-length" }.flatMap { Int($0.value) } ?? 0
    while bytes.count < end + 4 + length { guard more() else { return nil } }
    return Request(
      method: words[0], target: words[1], headers: headers,
      body: String(decoding: bytes[(end + 4)..<(end + 4 + length)], as: UTF8.self))
  }
}
