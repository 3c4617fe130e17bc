/// A service to be registered with the local agent (https://developer.hashicorp.com/consul/api-docs/agent/service#register-service).
public struct ServiceRegistration: Sendable, Equatable {
  /// How the agent finds out whether the service is well.
  public struct Check: Sendable, Equatable {
    public enum Kind: Sendable, Equatable {
      /// The agent makes a GET request; a 2xx answer passes.
      case http(url: String)
      /// The agent connects to `host:port`.
      case tcp(address: String)
      /// The service itself says that it is well, at least once in the given time.
      case ttl(Duration)
    }

    public var kind: Kind
    /// How often the agent looks; not used by `ttl`.
    public var interval: Duration
    /// How long the agent waits for an answer; nil: the agent's own default of 10 s.
    public var timeout: Duration?
    /// When a service that stays critical is deregistered; at least a minute, looked at every 30 s.
    public var deregisterAfter: Duration?

    public init(_ kind: Kind, interval: Duration, timeout: Duration? = nil, deregisterAfter: Duration? = nil) {
      self.kind = kind
      self.interval = interval
      self.timeout = timeout
      self.deregisterAfter = deregisterAfter
    }
  }

  public var name: String
  public var id: String
  /// Empty: callers take the node's address.
  public var address: String
  public var port: Int
  public var tags: [String] = []
  public var meta: [(name: String, value: String)] = []
  public var check: Check?

  public init(name: String, id: String, address: String, port: Int) {
    self.name = name
    self.id = id
    self.address = address
    self.port = port
  }

  public static func == (a: ServiceRegistration, b: ServiceRegistration) -> Bool { a.json == b.json }

  /// The body of the request.
  public var json: JSONValue {
    var writer = JSONWriter()
    writer.object { object in
      object.field("Name", name)
      object.field("ID", id)
      if !address.isEmpty { object.field("Address", address) }
      object.field("Port", port)
      object.field("Tags", tags)
      object.field("Meta", meta)
      if let check {
        object.key("Check")
        object.object { check.write(to: &$0) }
      }
    }
    return writer.value
  }
}

extension ServiceRegistration.Check {
  fileprivate func write(to object: inout JSONWriter) {
    switch kind {
    case .http(let url):
      object.field("HTTP", url)
      object.field("Interval", goDuration(interval))
    case .tcp(let address):
      object.field("TCP", address)
      object.field("Interval", goDuration(interval))
    case .ttl(let time):
      object.field("TTL", goDuration(time))
      // A TTL check begins critical; who registers is there, so it passes at once.
      object.field("Status", HealthStatus.passing.rawValue)
    }
    if let timeout { object.field("Timeout", goDuration(timeout)) }
    if let deregisterAfter { object.field("DeregisterCriticalServiceAfter", goDuration(deregisterAfter)) }
  }
}

/// As Go reads it, in a unit that is exact.
private func goDuration(_ duration: Duration) -> String { "\(duration.milliseconds)ms" }
