import MsctlCore

/// A gateway before services, for nginx to include where `http` stands (https://nginx.org/en/docs/http/ngx_http_upstream_module.html):
/// an upstream for each service, and one server in which `/NAME/path` is `/path` of the service NAME.
///
/// nginx refuses all of a configuration for one wrong line, and what stands in it is obeyed: nothing of the catalogue is
/// written but names, IP addresses and numbers that are known to be that.
enum NginxFormat {
  /// The largest weight that Consul takes.
  private static let mostWeight = 65535

  /// - Parameters:
  ///   - services: the names; one without an instance answers 503.
  ///   - listen: where the server listens.
  ///   - resolved: the IP addresses of host names. nginx would look them up when it starts, and would not start without one of
  ///     them.
  static func rendering(
    _ services: [String], _ instances: [ServiceInstance], listen: ListenAddress,
    resolved: [ByteKey: [String]]
  ) -> Discover.Rendering {
    var leftOut: [String] = []
    var upstreams = ""
    var locations = ""
    var names: Set<String> = []  // lint-ok: they are ASCII
    let own = Dictionary(grouping: instances) { ByteKey($0.service) }
    for service in services.sorted() {
      guard isName(service) else {
        leftOut.append("the service '\(Discover.shortened(service))' (invalid name for nginx)")
        continue
      }
      // nginx compares the names of upstreams without case.
      guard names.insert(service.lowercasedASCII).inserted else {
        leftOut.append("the service '\(service)' (the name of another service differs only in case)")
        continue
      }
      var servers: [String] = []
      var isSecure = true
      for instance in (own[ByteKey(service)] ?? []).sorted(by: { ($0.hostPort, $0.id) < ($1.hostPort, $1.id) }) {
        do {
          let weight = max(1, min(instance.weight, mostWeight))
          for address in try addresses(of: instance, resolved) {
            servers.append("  server \(hostPort(address, instance.port)) weight=\(weight);\n")
          }
          isSecure = isSecure && instance.scheme.isSame(as: "https")
        } catch {
          leftOut.append("\(Discover.named(instance)) (\(error.reason))")
        }
      }
      if servers.isEmpty {
        locations += "  location /\(service)/ { return 503; }\n"
        continue
      }
      upstreams += "upstream \(service) {\n\(servers.joined())  keepalive 16;\n}\n"
      locations += """
          location /\(service)/ {
            proxy_pass \(isSecure ? "https" : "http")://\(service)/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host \(service);
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        \(isSecure ? "    proxy_ssl_server_name on;\n    proxy_ssl_name \(service);\n" : "")\
            proxy_next_upstream error timeout http_502 http_503;
          }

        """
    }
    let text =
      "# Written by msctl discover.\n\(upstreams)server {\n  listen \(hostPort(listen.host, listen.port));\n\(locations)}\n"
    return Discover.Rendering(text: Array(text.utf8), leftOut: leftOut)
  }

  private struct Refusal: Error {
    let reason: String
  }

  private static func addresses(
    of instance: ServiceInstance, _ resolved: [ByteKey: [String]]
  ) throws(Refusal) -> [String] {
    guard (1...65535).contains(instance.port) else { throw Refusal(reason: "port \(instance.port)") }
    switch HostAddress(instance.address) {
    case .ip(let address): return [address]
    case .name(let name):
      guard let found = resolved[ByteKey(name)], !found.isEmpty else {
        throw Refusal(reason: "the host name '\(name)' does not resolve")
      }
      return found
    case nil: throw Refusal(reason: "invalid address '\(Discover.shortened(instance.address))'")
    }
  }

  private static func isName(_ text: String) -> Bool {
    (1...200).contains(text.utf8.count) && text.utf8.allSatisfy(HostAddress.isNameByte)
      && text.utf8.contains { $0 != UInt8(ascii: ".") }
  }
}
