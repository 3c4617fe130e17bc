import CommandTable
import MsctlCore

/// Where the server of `-o nginx` listens: on this machine alone, unless it is said.
struct ListenAddress: ArgumentValue, Equatable {
  static let standard = "127.0.0.1:8080"

  var host = "127.0.0.1"
  var port = 8080

  init() {}

  init(argument: String) throws(ValueError) {
    let (host, port) = argument.cut(atLast: ":").map { (String($0.before), $0.after) } ?? (self.host, argument[...])
    guard !port.isEmpty, port.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = Int(port),
      (1...65535).contains(number)
    else { throw ValueError("is not [HOST:]PORT with a port from 1 to 65535") }
    if host.isSame(as: "*") || host.isSame(as: "localhost") {
      self.host = host
    } else if case .ip(let address)? = HostAddress(host), !address.holds(":") || host.begins(with: "[") {
      self.host = address
    } else {
      throw ValueError("is not [HOST:]PORT, where HOST is an IP address (IPv6 in brackets), 'localhost' or '*'")
    }
    self.port = number
  }

  var argumentText: String? { hostPort(host, port) }
}
