/// Why an agent of Consul did not do what was asked. Its own words are one short line, without control characters.
public enum ConsulError: Error, Equatable, Sendable {
  /// What was to be read.
  public enum Access: Equatable, Sendable {
    case catalog
    case service(String)
    case request(method: String, path: String)
  }

  /// What the agent's response is not.
  public enum Expected: Equatable, Sendable {
    case json(JSONError)
    case instances
    case services
    case checks
  }

  /// It could not be asked.
  case http(HTTPError)
  /// It returned nothing in time.
  case late
  /// It returned a status other than 200.
  /// - Parameter isTransient: whether it limits us or is in trouble, so that it may do it later.
  case returned(status: Int, method: String, path: String, String, isTransient: Bool)
  /// Its cluster has no leader.
  case leaderless(String)
  /// Its ACLs deny it.
  case denied(Access, String, hasToken: Bool)
  /// It returned something else than its API says: it may be no agent.
  case unexpected(path: String, Expected)
  /// No instance of the service has the named port; the names that there are.
  case noPort(String, service: String, ports: [String])
  /// A name or an id is `.` or `..`, which would climb in a URL.
  case climbs(String)
  /// The token contains control characters.
  case invalidToken

  var code: Failure.Code {
    switch self {
    case .http(let error): error.code
    case .late: .timedOut
    case .returned(_, _, _, _, let isTransient): isTransient ? .unreachable : .failed
    case .leaderless: .unreachable
    case .denied: .denied
    case .unexpected: .failed
    case .noPort: .nothingThere
    case .climbs: .badInput
    case .invalidToken: .usage
    }
  }

  /// As a failure of the agent at this address.
  package func failure(_ agent: ConsulAddress) -> Failure { Failure(code, .consul(self, agent: agent.shown)) }
}
