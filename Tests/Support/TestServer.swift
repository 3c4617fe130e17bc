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
  }

  package init(_ handler: @escaping @Sendable (Request) -> Answer) throws {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    self.listener = listener
    var yes: Int32 = 1
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, 4)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let bound = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(listener, raw, length) == 0 && listen(listener, 128) == 0 && getsockname(listener, raw, &length) == 0
      }
    }
    guard bound else { throw TestFailure("cannot listen") }
    port = Int(UInt16(bigEndian: address.sin_port))
    Thread.detachNewThread { [seen] in
      while true {
        var waiting = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
        poll(&waiting, 1, -1)
        let connection = Descriptors.withoutChildren {
          let connection = accept(listener, nil, nil)
          if connection >= 0 { _ = fcntl(connection, F_SETFD, FD_CLOEXEC) }
          return connection
        }
        guard connection >= 0 else {
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
    shutdown(listener, Int32(SHUT_RDWR))
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
