/// What the checks of an instance say together: the worst of them.
public enum HealthStatus: String, Sendable, CaseIterable, Comparable {
  case passing, warning, critical

  public static func < (a: HealthStatus, b: HealthStatus) -> Bool {
    (allCases.firstIndex(of: a) ?? 0) < (allCases.firstIndex(of: b) ?? 0)
  }
}

/// One instance of a service, as `GET /v1/health/service/:service` shows it.
public struct ServiceInstance: Sendable, Equatable {
  /// The name of the service.
  public let service: String
  /// Its id at its agent.
  public let id: String
  /// The node of its agent.
  public let node: String
  /// The service's own address or, where it has none, its node's.
  public let address: String
  /// Of named ports the default one, or the one that was asked for.
  public private(set) var port: Int
  /// Its named ports (Consul 1.22); empty where it has one port without a name.
  public let ports: [Port]
  /// Its tags.
  public let tags: [String]
  /// Its metadata.
  public let meta: [(name: String, value: String)]
  /// The worst of its checks.
  public let status: HealthStatus
  /// Its share of calls while it is passing (`Weights.Passing`).
  public let weight: Int
  /// The checks that do not pass, each with its output in one line.
  public let complaints: [String]
  /// The peered cluster that it is imported from (`NodeService.PeerName` in agent/structs/structs.go); nil: it is of this one.
  public let peer: String?
  /// Of Consul Enterprise; nil where the agent says none.
  public let partition: String?
  /// Its namespace (Consul Enterprise).
  public let namespace: String?

  /// A named port (https://developer.hashicorp.com/consul/docs/connect/proxy/multiport).
  public struct Port: Sendable, Equatable {
    /// The name.
    public let name: String
    /// The port.
    public let port: Int
    /// Whether it is used where none is named.
    public let isDefault: Bool
  }

  /// The same instance at this named port; nil where it has none of that name.
  package func at(port name: String) -> ServiceInstance? {
    guard let found = ports.first(where: { $0.name.isSame(as: name) }) else { return nil }
    var instance = self
    instance.port = found.port
    return instance
  }

  /// `https` where a tag or the meta value `scheme` says so.
  public var scheme: String {
    meta.contains { $0.name.isSame(as: "scheme") && $0.value.isSame(as: "https") }
      || tags.contains { $0.isSame(as: "https") }
      ? "https" : "http"
  }

  /// `HOST:PORT`, an IPv6 address in brackets.
  public var hostPort: String { MsctlCore.hostPort(address, port) }

  /// `http://HOST:PORT`, or `https`.
  public var url: String { "\(scheme)://\(hostPort)" }

  private static let places = JSONPlaces([
    ["Service", "Service"], ["Service", "ID"], ["Service", "Address"], ["Service", "Port"], ["Service", "Tags"],
    ["Service", "Meta"], ["Service", "Weights", "Passing"], ["Service", "Ports"], ["Service", "PeerName"],
    ["Service", "Partition"], ["Service", "Namespace"], ["Node", "Node"], ["Node", "Address"], ["Checks"],
  ])
  private static let checkFields: [StaticString] = ["Status", "Name", "Output"]

  /// Reads an element of the answer; nil where it is none.
  package init?(health entry: JSONValue) {
    let service = entry[Self.places]
    guard let name = service[0]?.string, service[11] != nil || service[12] != nil else { return nil }
    let own = service[2]?.string ?? ""
    self.service = name
    id = service[1]?.string ?? name
    node = service[11]?.string ?? ""
    address = own.isEmpty ? service[12]?.string ?? "" : own
    ports =
      service[7]?.elements.compactMap { entry in
        let parts = entry[["Name", "Port", "Default"]]
        guard let name = parts[0]?.string, let port = parts[1]?.integer else { return nil }
        return Port(name: name, port: Int(clamping: port), isDefault: parts[2]?.bool ?? false)
      } ?? []
    let single = Int(clamping: service[3]?.integer ?? 0)
    port = single != 0 ? single : (ports.first(where: \.isDefault) ?? ports.first)?.port ?? 0
    func text(_ place: Int) -> String? { service[place]?.string.flatMap { $0.isEmpty ? nil : $0 } }
    peer = text(8)
    partition = text(9)
    namespace = text(10)
    tags = service[4]?.elements.compactMap(\.string) ?? []
    meta = service[5]?.members.compactMap { member in member.value.string.map { (member.name, $0) } } ?? []
    // Consul takes none above this.
    weight = min(65535, max(0, Int(clamping: service[6]?.integer ?? 1)))
    var status = HealthStatus.passing
    var complaints: [String] = []
    for check in service[13]?.elements ?? [] {
      let check = check[Self.checkFields]
      // A service or node in maintenance has a critical check that says so.
      let own = check[0]?.string.flatMap(HealthStatus.init(rawValue:))
      status = max(status, own ?? .passing)
      if own == .passing { continue }
      let output = (check[2]?.string ?? "").parts(between: "\n").first { !$0.isEmpty }.map { ": " + $0 } ?? ""
      complaints.append((check[1]?.string ?? "") + output)
    }
    self.status = status
    self.complaints = complaints
  }

  /// Whether they are the same for a caller: what checks say, beside their status, does not count.
  public static func == (a: ServiceInstance, b: ServiceInstance) -> Bool { a.weight == b.weight && a.json == b.json }

  /// What makes it the same instance: its id is unique at its node, of its cluster. It sorts by service, node and id.
  package var key: ByteKey { ByteKey([service, peer ?? "", node, id].joined(separator: "\0")) }

  /// One line of `discover`.
  public var json: JSONValue {
    var writer = JSONWriter(capacity: 384)
    writer.object { object in
      object.field("service", service)
      object.field("id", id)
      object.field("node", node)
      object.field("address", address)
      object.field("port", port)
      object.field("url", url)
      object.field("status", status.rawValue)
      object.field("tags", tags)
      object.field("meta", meta)
      if !ports.isEmpty {
        object.key("ports")
        object.object { object in for port in ports { object.field(port.name, port.port) } }
      }
      for (name, value) in [("peer", peer), ("partition", partition), ("namespace", namespace)] {
        if let value { object.field(name, value) }
      }
    }
    return writer.value
  }
}

extension [ServiceInstance] {
  /// One of the instances at random, each as often as its weight says. An instance of weight 0 is chosen only where all
  /// have it.
  package func weightedRandom(using generator: inout some RandomNumberGenerator) -> ServiceInstance? {
    let total = reduce(0) { $0 + $1.weight }
    guard total > 0 else { return randomElement(using: &generator) }
    var place = Int.random(in: 0..<total, using: &generator)
    for instance in self {
      place -= instance.weight
      if place < 0 { return instance }
    }
    return last
  }
}
