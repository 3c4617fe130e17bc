import MsctlCore

/// The passing instances of services, looked up once for many calls and again when they are old or one has failed.
final class ServiceDirectory {
  private static let age: Duration = .seconds(5)

  private let agent: ConsulAgent
  private let options: Call.Options
  private var known: [String: (instances: [ServiceInstance], until: Deadline)] = [:]

  init(_ options: Call.Options, over http: HTTPClient) throws(Failure) {
    self.options = options
    agent = try options.agent.agent(over: http)
  }

  /// The passing instances of a service, at least one.
  func instances(of name: String, path: String) throws(Failure) -> [ServiceInstance] {
    if let (instances, until) = known[name], !until.isPast { return instances }
    let instances = try lookUp(name, path)
    known[name] = (instances, .after(Self.age))
    return instances
  }

  /// One of its instances has failed: the next call looks again.
  func forget(_ name: String) {
    known[name] = nil
  }

  /// Takes one of the candidates: by weight or, with `--near`, in Consul's order.
  func choose(from candidates: inout [ServiceInstance]) -> ServiceInstance? {
    guard options.near == nil else { return candidates.isEmpty ? nil : candidates.removeFirst() }
    var generator = SystemRandomNumberGenerator()
    guard let chosen = candidates.weightedRandom(using: &generator) else { return nil }
    candidates.removeAll { $0.id == chosen.id && $0.node == chosen.node }
    return chosen
  }

  private func lookUp(_ name: String, _ path: String) throws(Failure) -> [ServiceInstance] {
    var selection = ConsulAgent.Selection()
    selection.tags = options.tags
    selection.datacenter = options.datacenter
    selection.near = options.near
    let all: [ServiceInstance]
    do { all = try agent.instances(of: name, selection) } catch {
      var failure = error
      if failure.code == .unreachable {
        failure.message = "'\(name)' is taken for a service's name: " + failure.message
        failure.hint = (failure.hint.map { $0 + " " } ?? "") + "A host is called as 'http://\(name)\(path)'."
      }
      throw failure
    }
    let passing = all.filter { $0.status == .passing }
    guard passing.isEmpty else { return passing }
    throw Discover.nothingPassing(
      name, all, isNarrowed: selection.isNarrow, orElse: "Where '\(name)' is a host, write 'http://\(name)\(path)'.")
  }
}
