/// Finds out whether somebody listens on a service's port. It goes on while the loop turns, of which the resolver is a member.
package final class PortProbe: LoopQuestion {
  /// Time limit to connect.
  private static let patience: Duration = .milliseconds(200)

  private let port: Int
  private let loop: EventLoop
  private var lookUp: HostLookUp?
  private var attempts: [TCPProbe] = []

  package init(_ registration: ServiceRegistration, _ resolver: HostResolver, on loop: EventLoop) {
    (port, self.loop) = (registration.port, loop)
    if registration.address.isEmpty {
      connect(["127.0.0.1", "::1"])
    } else if case .ip(let address)? = HostAddress(registration.address) {
      connect([address])
    } else {
      lookUp = resolver.lookUp([ByteKey(registration.address)])
    }
  }

  deinit { attempts.forEach(loop.remove) }

  private func connect(_ addresses: [String]) {
    attempts = addresses.map { TCPProbe($0, port, until: .after(Self.patience)) }
    attempts.forEach(loop.add)
  }

  package func take() -> Bool? {
    if let addresses = lookUp?.take() {
      lookUp = nil
      connect(addresses.values.flatMap { $0 })
    }
    return result
  }

  private var result: Bool? {
    if attempts.contains(where: { $0.result == 0 }) { return true }
    return lookUp == nil && attempts.allSatisfy { $0.result != nil } ? false : nil
  }

  /// The attempts go on after who asks.
  package var wakeTime: Deadline { result == nil ? lookUp?.wakeTime ?? .never : .now }
}
