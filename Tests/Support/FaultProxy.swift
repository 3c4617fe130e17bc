import Foundation
import Synchronization

/// Stands between a client and a server, and breaks what goes through.
package final class FaultProxy: Sendable {
  package enum Direction: Sendable { case up, down }

  /// What happens to a connection.
  package enum Fault: Sendable {
    case none
    /// Cut once so many bytes have gone one way.
    case cut(Direction, after: Int)
    /// From then on, what goes one way is taken and lost; nobody is told.
    case blackHole(Direction, after: Int)
    /// From then on, nothing is taken any more: the sender's buffers fill.
    case stall(Direction, after: Int)
    /// Each byte by itself.
    case oneByOne
    /// Each piece so much later, in seconds.
    case delay(Double)
  }

  package let port: Int
  private let listener: Int32
  private let state = State()

  private final class State: Sendable {
    let connections = Mutex<[Int32]>([])
    let count = Mutex(0)
    /// What has gone through the first connection.
    let recorded = Mutex<(up: [UInt8], down: [UInt8])>(([], []))
  }

  /// - Parameters:
  ///   - port: where it listens; without it on a port of its own.
  ///   - fault: what happens to a connection, by its number from 0.
  package init(to target: Int, on port: Int = 0, _ fault: @escaping @Sendable (Int) -> Fault) throws {
    let (listener, port) = try Descriptors.listener(on: port)
    self.listener = listener
    self.port = port
    Thread.detachNewThread { [state] in
      while let client = Descriptors.accept(listener) {
        let number = state.count.withLock {
          $0 += 1
          return $0 - 1
        }
        guard let server = Descriptors.connect(target) else {
          close(client)
          continue
        }
        state.connections.withLock { $0 += [client, server] }
        let kind = fault(number)
        for (from, to, direction) in [(client, server, Direction.up), (server, client, .down)] {
          Thread.detachNewThread { Self.pump(from, to, direction, kind, number == 0 ? state : nil) }
        }
      }
      close(listener)
    }
  }

  deinit {
    shutdown(listener, Int32(SHUT_RDWR))
    cutAll()
  }

  package var connections: Int { state.count.withLock { $0 } }
  package var recorded: (up: [UInt8], down: [UInt8]) { state.recorded.withLock { $0 } }

  /// Cuts every connection.
  package func cutAll() {
    state.connections.withLock { open in
      for descriptor in open { shutdown(descriptor, Int32(SHUT_RDWR)) }
      open = []
    }
  }

  private static func pump(_ from: Int32, _ to: Int32, _ direction: Direction, _ fault: Fault, _ state: State?) {
    var seen = 0
    var piece = [UInt8](repeating: 0, count: 65536)
    pumping: while true {
      var most = piece.count
      switch fault {
      case .cut(direction, let limit): most = min(most, limit - seen)
      case .blackHole(direction, let limit) where seen < limit: most = min(most, limit - seen)
      case .stall(direction, let limit):
        most = min(most, limit - seen)
        if most == 0 {
          // Until the other way is closed.
          Thread.sleep(forTimeInterval: 0.02)
          var byte: UInt8 = 0
          if send(to, &byte, 0, Int32(MSG_NOSIGNAL)) < 0 { break pumping }
          var error: Int32 = 0
          var length = socklen_t(4)
          getsockopt(from, SOL_SOCKET, SO_ERROR, &error, &length)
          if error != 0 { break pumping }
          continue
        }
      default: break
      }
      if most == 0 { break }
      let count = recv(from, &piece, most, 0)
      guard count > 0 else { break }
      state?.recorded.withLock {
        if direction == .up { $0.up += piece[..<count] } else { $0.down += piece[..<count] }
      }
      switch fault {
      case .blackHole(direction, let limit) where seen >= limit: continue
      case .oneByOne:
        for place in 0..<count where send(to, &piece[place], 1, Int32(MSG_NOSIGNAL)) != 1 { break pumping }
      case .delay(let seconds):
        Thread.sleep(forTimeInterval: seconds)
        fallthrough
      default:
        var sent = 0
        while sent < count {
          let done = piece[sent..<count].withUnsafeBytes { send(to, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
          guard done > 0 else { break pumping }
          sent += done
        }
      }
      seen += count
    }
    shutdown(from, Int32(SHUT_RDWR))
    shutdown(to, Int32(SHUT_RDWR))
  }
}

/// Where the frames of AMQP 0-9-1 end in what one side has sent (section 4.2.3).
package func frameEnds(_ bytes: [UInt8], hasHeader: Bool) -> [Int] {
  var ends: [Int] = []
  var place = hasHeader ? 8 : 0
  if hasHeader { ends.append(8) }
  while place + 7 <= bytes.count {
    let size = bytes[(place + 3)..<(place + 7)].reduce(0) { $0 << 8 | Int($1) }
    place += 8 + size
    guard place <= bytes.count else { break }
    ends.append(place)
  }
  return ends
}
