import Foundation
import MsctlCore
import Support
import Testing

@testable import MsctlCommands

@Suite("A catalogue that others wrote", .serialized)
struct HostileCatalogueTests {
  private static let addresses = [
    "127.0.0.1", "10.0.0.7", "::1", "[::1]", "fe80::1%eth0", "localhost", "nowhere.invalid", "a;b",
    "1.2.3.4; } server { listen 1",
    "x\ny", "", " ", "-x", "unix:/tmp/s", "127.0.0.1:80", "256.1.1.1", "0x7f.1", "$host", "a_b", "ü.example",
    "127.0.0.1'\u{301}",
  ]
  private static let ports: [Int64] = [80, 8080, 65535, 1, 0, -1, 65536, 99999, .max, .min]

  /// The entries of `GET /v1/health/service/NAME`, and the names of all services.
  private func catalogue(_ random: inout SplitMix) throws -> (instances: [ServiceInstance], services: [String]) {
    var instances: [ServiceInstance] = []
    var services: Set<String> = []
    for _ in 0..<Int.random(in: 0...6, using: &random) {
      let name =
        random.chance(60) ? random.pick(["web", "Web", "a.b", "a_b", "-", "..", "10", "unix"]) : random.hostileText()
      services.insert(name)
      for id in 0..<Int.random(in: 0...4, using: &random) {
        var writer = JSONWriter()
        writer.object { entry in
          entry.key("Node")
          entry.object {
            $0.field("Node", "n"); $0.field("Address", "127.0.0.1")
          }
          entry.key("Service")
          entry.object { service in
            service.field("Service", name)
            service.field("ID", random.hostileText() + "\(id)")
            service.field("Address", random.chance(80) ? random.pick(Self.addresses) : random.hostileText())
            service.field("Port", random.chance(50) ? 80 : random.pick(Self.ports))
            service.field("Tags", [random.chance(30) ? "https" : random.hostileText()])
            service.key("Weights")
            service.object { $0.field("Passing", random.pick(Self.ports)) }
          }
        }
        instances += [ServiceInstance(health: writer.value)].compactMap { $0 }
      }
    }
    return (instances, services.sorted())
  }

  private func options(_ format: Discover.Format) -> Discover.Options {
    var options = Discover.Options()
    options.format = format
    return options
  }

  @Test("nginx takes the gateway of any catalogue, and nothing stands in it but addresses and names")
  func nginx() async throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("nginx"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let name = "[A-Za-z0-9._-]+"
    let forms = [
      "# Written by msctl discover\\.", "upstream \(name) \\{",
      "  server (\\d+\\.\\d+\\.\\d+\\.\\d+|\\[[0-9a-f:.]+\\]):\\d+ weight=\\d+;",
      "  keepalive 16;", "\\}", "server \\{", "  listen 127\\.0\\.0\\.1:8080;",
      "  location /\(name)/ \\{ return 503; \\}",
      "  location /\(name)/ \\{", "    proxy_pass https?://\(name)/;", "    proxy_http_version 1\\.1;",
      "    proxy_set_header Connection \"\";", "    proxy_set_header Host \(name);",
      "    proxy_set_header X-Forwarded-[A-Za-z]+ \\$[a-z_]+;", "    proxy_ssl_server_name on;",
      "    proxy_ssl_name \(name);",
      "    proxy_next_upstream error timeout http_502 http_503;", "  \\}",
    ]
    let grammar = try NSRegularExpression(pattern: "^(" + forms.joined(separator: "|") + ")$")
    var random = SplitMix(seed: 15)
    var written = 0
    for number in 0..<150 {
      let (instances, services) = try catalogue(&random)
      let rendering = Discover.text(
        instances, services: services, options(.nginx), resolved: [ByteKey("localhost"): ["127.0.0.1", "::1"]])
      let text = String(decoding: rendering.text, as: UTF8.self)
      for line in text.components(separatedBy: "\n").dropLast() {
        #expect(grammar.firstMatch(in: line, range: NSRange(line.startIndex..., in: line)) != nil, "\(line)")
      }
      #expect(text.components(separatedBy: "\nserver {").count == 2, "one server")
      written += text.components(separatedBy: "  server ").count - 1
      try rendering.text.withUnsafeBytes { try Data($0).write(to: folder.appendingPathComponent("\(number).conf")) }
    }
    #expect(written > 50, "good instances are written")
    let output = try await RunningProcess(
      "/bin/bash",
      [
        "-c",
        """
        cd \(folder.path)
        for file in [0-9]*.conf; do
          echo "pid $PWD/pid; error_log $PWD/log; events {} http { access_log off; include $PWD/$file; }" > nginx.conf
          /usr/sbin/nginx -t -q -c $PWD/nginx.conf -g 'daemon off;' 2> out || { echo "$file: $(head -3 out)"; }
        done
        """,
      ]
    ).end()
    #expect(output.out == "", "\(output.out)")
  }

  @Test("no format writes more lines than there are instances")
  func lines() throws {
    var random = SplitMix(seed: 16)
    for _ in 0..<300 {
      let (instances, _) = try catalogue(&random)
      for format in [Discover.Format.url, .hostport, .table, .json] {
        let rendering = Discover.text(instances, services: nil, options(format))
        let lines = rendering.text.split(separator: 0x0A, omittingEmptySubsequences: false).count - 1
        #expect(lines + rendering.leftOut.count == instances.count + (format == .table ? 1 : 0), "\(format)")
        #expect(!rendering.text.contains { $0 < 0x20 && $0 != 0x0A || $0 == 0x7F && format != .json }, "\(format)")
      }
    }
  }

  @Test("an instance that nginx would refuse is left out with one remark, and the others go on")
  func remark() async throws {
    let agent = try await PrivateAgent()
    func register(_ id: String, _ address: String, _ port: Int) async throws {
      let body = try JSONSerialization.data(
        withJSONObject: ["Name": "web", "ID": id, "Address": address, "Port": port])
      let output = try await RunningProcess(
        "/usr/bin/curl",
        [
          "-sSf", "-X", "PUT", "-d", String(decoding: body, as: UTF8.self),
          agent.address + "/v1/agent/service/register",
        ]
      ).end()
      #expect(output.status == 0, "\(output.err)")
    }
    try await register("good", "10.0.0.1", 80)
    try await register("named", "localhost", 81)
    try await register("evil", "1.2.3.4; } server { listen 81; location / { return 200; }", 80)
    try await register("portless", "10.0.0.2", 0)
    try await register("nowhere", "nowhere.invalid", 80)
    try await eventually("all are there") {
      try await Tool.run("discover", "web", environment: agent.environment).lines.count == 5
    }
    let output = try await Tool.run(
      "discover", "web", "-o", "nginx", "--listen", "[::1]:81", environment: agent.environment)
    #expect(output.status == 0)
    let servers = output.lines.filter { $0.hasPrefix("  server ") }
    #expect(servers.contains("  server 10.0.0.1:80 weight=1;") && servers.contains("  server 127.0.0.1:81 weight=1;"))
    #expect(servers.allSatisfy { $0.hasSuffix(":80 weight=1;") && $0.contains("10.0.0.1") || $0.contains(":81 ") })
    #expect(output.lines.contains("  listen [::1]:81;"))
    #expect(output.err.hasPrefix("msctl: left out: ") && output.err.utf8.count { $0 == 0x0A } == 1)
    for id in ["evil", "portless", "nowhere"] { #expect(output.err.contains("'\(id)' of 'web'")) }
    let all = try await Tool.run("discover", "-o", "nginx", environment: agent.environment)
    #expect(all.lines.contains("  listen 127.0.0.1:8080;"))
    for listen in ["0", "65536", "x", "1.2.3.4", "1.2.3.4:", "a;b:80", ":80", "::1:80", "[x]:80"] {
      #expect(try await Tool.run("discover", "web", "-o", "nginx", "--listen", listen).status == 2, "\(listen)")
    }
  }
}
