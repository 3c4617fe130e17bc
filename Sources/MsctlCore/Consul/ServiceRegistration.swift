import Glibc

/// Why a definition of a service is refused before an agent sees it.
public enum DefinitionError: Error, Equatable, Sendable {
  case noName
  /// Its name or id is `.` or `..`, which would climb in a URL.
  case climbs

  var failure: Failure { Failure(.badInput, .definition(self)) }
}

/// A service to be registered with the local agent (https://developer.hashicorp.com/consul/api-docs/agent/service#register-service).
public struct ServiceRegistration: Sendable, Equatable {
  /// How the agent finds out whether the service is well.
  public struct Check: Sendable, Equatable {
    /// What is looked at.
    public enum Kind: Sendable, Equatable {
      /// The agent makes a GET request; a 2xx answer passes.
      case http(url: String)
      /// The agent connects to `host:port`.
      case tcp(address: String)
      /// The agent asks by gRPC's health checking protocol: `host:port`, or `host:port/service`.
      case grpc(address: String)
      /// The service itself says that it is well, at least once in the given time.
      case ttl(Duration)
    }

    /// What is looked at.
    public var kind: Kind
    /// Its id at the agent; nil: the agent makes one.
    public var id: String?
    /// What people read; nil: the agent's own words.
    public var name: String?
    /// How often the agent looks; not used by `ttl`.
    public var interval: Duration
    /// How long the agent waits for an answer; nil: the agent's own default of 10 s.
    public var timeout: Duration?
    /// When a service that stays critical is deregistered; at least a minute, looked at every 30 s.
    public var deregisterAfter: Duration?

    /// A check.
    public init(_ kind: Kind, interval: Duration, timeout: Duration? = nil, deregisterAfter: Duration? = nil) {
      self.kind = kind
      self.interval = interval
      self.timeout = timeout
      self.deregisterAfter = deregisterAfter
    }
  }

  /// The name of the service.
  public var name: String
  /// Its id at the agent.
  public var id: String
  /// Empty: callers take the node's address.
  public var address: String
  /// Its port; 0: it has none.
  public var port: Int
  /// Its tags.
  public var tags: [String] = []
  /// Its metadata.
  public var meta: [(name: String, value: String)] = []
  /// Its checks.
  public var checks: [Check] = []
  /// Its share of calls while it is passing; nil: Consul's own of 1.
  public var weight: Int?
  /// What a definition says beside all this, passed on as it is, and its checks.
  private var others: [(name: String, value: JSONValue)] = []
  private var otherChecks: [JSONValue] = []

  /// - Parameters:
  ///   - name: the name of the service.
  ///   - id: nil: one of name, address (or this machine's name) and port (or a random number).
  ///   - address: empty: callers take the node's.
  ///   - port: the port; 0: none.
  public init(name: String, id: String? = nil, address: String = "", port: Int) {
    self.name = name
    self.id = id ?? Self.usualID(name, address, port)
    self.address = address
    self.port = port
  }

  /// Ids are unique an agent, so the name alone would let a second instance take the place of the first.
  package static func usualID(_ name: String, _ address: String, _ port: Int) -> String {
    // The number of the process may be that of another in another container, under the same name of the machine.
    let number = port == 0 ? String(randomUUID().prefix(8)) : String(port)
    return "\(name)-\(address.isEmpty ? hostName() : address)-\(number)"
  }

  /// Reads Consul's own service definition (https://developer.hashicorp.com/consul/docs/services/configuration/services-configuration-reference):
  /// as the configuration writes it (`"enable_tag_override"`) or as the HTTP API does (`"EnableTagOverride"`). What is in it
  /// is for the agent to judge.
  /// - Throws: `badInput` where it has no name.
  package init(definition: JSONValue) throws(Failure) {
    func member(_ name: String) -> JSONValue? {
      definition.members.first { Self.canonical($0.name) == name }?.value
    }
    guard definition.kind == .object, let name = member("name")?.string, !name.isEmpty else {
      throw DefinitionError.noName.failure
    }
    self.name = name
    // As for `consul services register`: an id of its own, or the name.
    id = member("id")?.string ?? name
    guard ConsulAgent.isSegment(name), ConsulAgent.isSegment(id) else {
      throw DefinitionError.climbs.failure
    }
    address = member("address")?.string ?? ""
    port = Int(clamping: member("port")?.integer ?? 0)
    for (name, value) in definition.members {
      switch Self.canonical(name) {
      case "name", "id", "address", "port": break
      case "check": otherChecks.append(Self.check(value))
      case "checks": otherChecks += value.elements.map(Self.check)
      default: others.append((Self.camelCase(name), value))
      }
    }
  }

  /// The definitions of a file: one alone, one as `service`, or several as `services`.
  package static func definitions(in file: JSONValue) throws(Failure) -> [ServiceRegistration] {
    let services = file["services"] ?? file["Services"]
    var found: [ServiceRegistration] = []
    for definition in services?.elements ?? [file["service"] ?? file["Service"] ?? file] {
      found.append(try ServiceRegistration(definition: definition))
    }
    return found
  }

  /// The API knows `CheckID` where the configuration says `id`.
  private static func check(_ value: JSONValue) -> JSONValue {
    var writer = JSONWriter()
    writer.object { object in
      for (name, value) in value.members {
        object.key(canonical(name) == "id" ? "CheckID" : camelCase(name))
        object.raw(value)
      }
    }
    return writer.value
  }

  private static func canonical(_ name: String) -> String { camelCase(name).lowercasedASCII }

  /// `enable_tag_override` as the API writes it; the agent does not mind the case of letters.
  private static func camelCase(_ name: String) -> String {
    String(decoding: name.utf8.filter { $0 != UInt8(ascii: "_") }, as: UTF8.self)
  }

  public static func == (a: ServiceRegistration, b: ServiceRegistration) -> Bool { a.json == b.json }

  /// The body of the request.
  package var json: JSONValue {
    var writer = JSONWriter()
    writer.object { object in
      object.field("Name", name)
      object.field("ID", id)
      if !address.isEmpty { object.field("Address", address) }
      object.field("Port", port)
      if !tags.isEmpty { object.field("Tags", tags) }
      if !meta.isEmpty { object.field("Meta", meta) }
      if let weight {
        object.key("Weights")
        object.object { weights in
          weights.field("Passing", weight)
          weights.field("Warning", 1)
        }
      }
      for other in others {
        object.key(other.name)
        object.raw(other.value)
      }
      if !checks.isEmpty || !otherChecks.isEmpty {
        object.key("Checks")
        object.array { array in
          for check in otherChecks { array.raw(check) }
          for check in checks { array.object { check.write(to: &$0) } }
        }
      }
    }
    return writer.value
  }
}

extension ServiceRegistration.Check {
  fileprivate func write(to object: inout JSONWriter) {
    if let id { object.field("CheckID", id) }
    if let name { object.field("Name", name) }
    switch kind {
    case .http(let url):
      object.field("HTTP", url)
      object.field("Interval", goDuration(interval))
    case .tcp(let address):
      object.field("TCP", address)
      object.field("Interval", goDuration(interval))
    case .grpc(let address):
      object.field("GRPC", address)
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

private func hostName() -> String {
  var buffer = [CChar](repeating: 0, count: 256)
  gethostname(&buffer, buffer.count - 1)
  return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// As Go reads it, in a unit that is exact.
private func goDuration(_ duration: Duration) -> String { "\(duration.milliseconds)ms" }
