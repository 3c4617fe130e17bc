/// Why a ``ServiceClient`` has not done what it was asked for, where neither the agent nor the connection to an instance says it.
public enum ServiceError: Error, Equatable, Sendable {
  case noSuchService(String)
  /// There are instances, and none whose checks pass.
  case nothingPassing(String)
  /// The call did not begin in time: as many as may be were under way (``ServiceClient/Options/parallel``).
  case crowded(service: String, parallel: Int)
  /// The connection ended without a response.
  case noResponse(service: String)
  /// The response has a status other than 2xx.
  case returned(status: Int, reason: String, method: String, url: String)
  case notJSON(service: String, JSONError)
  /// What was given is no address of an agent.
  case invalidAddress
  case invalidName(String)
  case invalidID(String)
  case invalidPort(Int)
  case invalidMethod(String)
  /// A path does not begin with a slash, or is not percent-encoded.
  case invalidPath
  /// A header, by its name: its value may be a secret.
  case invalidHeader(String)

  var failure: Failure {
    let code: Failure.Code =
      switch self {
      case .noSuchService, .nothingPassing: .nothingThere
      case .crowded: .timedOut
      case .noResponse: .unreachable
      case .returned(let status, _, _, _): status >= 500 ? .serverError : .clientError
      case .notJSON: .badInput
      case .invalidAddress, .invalidName, .invalidID, .invalidPort, .invalidMethod, .invalidPath, .invalidHeader: .usage
      }
    return Failure(code, .service(self))
  }
}
