import MsctlCore

/// A gateway before services, for nginx to include where `http` stands (https://nginx.org/en/docs/http/ngx_http_upstream_module.html):
/// an upstream for each service, and one server in which `/NAME/path` is `/path` of the service NAME.
enum NginxFormat {
  /// - Parameters:
  ///   - services: the names; one without an instance answers 503.
  ///   - port: what the server listens on.
  static func text(_ services: [String], _ instances: [ServiceInstance], port: Int) -> String {
    var upstreams = ""
    var locations = ""
    for service in services.sorted() {
      guard isName(service) else {
        upstreams += "# the name of a service is left out: nginx could not read it\n"
        continue
      }
      let own = instances.filter { $0.service == service }.sorted { ($0.hostPort, $0.id) < ($1.hostPort, $1.id) }
      if own.isEmpty {
        locations += "  location /\(service)/ { return 503; }\n"
        continue
      }
      upstreams += "upstream \(service) {\n"
      for instance in own { upstreams += "  server \(instance.hostPort) weight=\(max(1, instance.weight));\n" }
      upstreams += "  keepalive 16;\n}\n"
      let scheme = own.allSatisfy { $0.scheme == "https" } ? "https" : "http"
      locations += """
          location /\(service)/ {
            proxy_pass \(scheme)://\(service)/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host \(service);
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        \(scheme == "https" ? "    proxy_ssl_server_name on;\n    proxy_ssl_name \(service);\n" : "")\
            proxy_next_upstream error timeout http_502 http_503;
          }

        """
    }
    return "# Written by msctl discover.\n\(upstreams)server {\n  listen \(port);\n\(locations)}\n"
  }

  /// What comes from a registry must not become a directive.
  private static func isName(_ text: String) -> Bool {
    text.unicodeScalars.allSatisfy {
      ("a"..."z").contains($0) || ("A"..."Z").contains($0) || ("0"..."9").contains($0)
        || "-._".unicodeScalars.contains($0)
    }
  }
}
