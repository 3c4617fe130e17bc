import Foundation
import MsctlCommands
import Support
import Testing

/// Every example of help, man pages and README, run as it stands: on an agent and in a virtual host of its own, since the
/// names are those of the text.
@Suite("The examples", .serialized)
struct ExampleTests {
  /// What cannot be run here as it stands, and why.
  private static let excluded = [
    "/etc/nginx": "it writes into the machine's own nginx; the test of the gateway runs it with another folder"
  ]

  private static func lines() throws -> [String] {
    let readme = try String(contentsOfFile: ShellTests.root + "/README.md", encoding: .utf8)
    let shown = readme.split(separator: "\n").filter { $0.hasPrefix("    ") && !$0.hasPrefix("    make ") }
    let all = AllCommands.allSpecs.flatMap(\.examples).map(\.line) + shown.map { String($0.dropFirst(4)) }
    return all.filter { line in !excluded.keys.contains { line.contains($0) } }
  }

  @Test("work")
  func run() async throws {
    let agent = try await PrivateAgent()
    let vhost = Services.uniqueName("examples")
    _ = try await Services.management("PUT", "/vhosts/\(vhost)")
    _ = try await Services.management(
      "PUT", "/permissions/\(vhost)/guest", body: #"{"configure":".*","write":".*","read":".*"}"#)
    let server = try TestServer { request in
      .kept(
        request.target == "/health"
          ? "{\"ok\":true}" : request.body.isEmpty ? "{\"id\":42,\"name\":\"Ada\"}" : request.body)
    }
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(vhost)
    try FileManager.default.createDirectory(
      at: folder.appendingPathComponent("bin"), withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    // What examples name and a machine need not have.
    for (name, text) in [
      ("node", "exec python3 -m http.server $PORT"), ("sendmail", "cat > /dev/null"), ("less", "cat"),
    ] {
      let file = folder.appendingPathComponent("bin/\(name)").path
      try Data("#!/bin/sh\n\(text)\n".utf8).write(to: URL(fileURLWithPath: file))
      chmod(file, 0o755)
    }
    try Data(#"[{"id":1},{"id":2}]"#.utf8).write(to: folder.appendingPathComponent("orders.json"))
    var environment = agent.environment
    environment["AMQP_URL"] = Services.broker + "/" + vhost
    let prepare = """
      for s in user-service order-service payment-service; do
        msctl register $s -q --port \(server.port) --address 127.0.0.1 --id $s-1
        msctl register $s -q --port \(server.port) --address 127.0.0.1 --id $s-2
      done
      seq 3 | jq -c '{id:.}' | msctl publish -q orders; msctl publish -q mails '"x"'
      msctl consume orders.dead -q --idle 1ms
      msctl publish -q refused 4 --queue-argument x-dead-letter-exchange= --queue-argument x-dead-letter-routing-key=orders.dead
      msctl consume refused -q -n 1 --exec false --on-error reject 2>/dev/null
      """
    for line in try Self.lines() {
      let goesOn = ["--watch", "consume mails", "consume sums", "node server.js", "consume orders --through"].contains(
        where: line.contains)
      let text = line.replacing(":3000/", with: ":\(server.port)/")
      let output = try await Tool.shell(
        """
        cd \(folder.path); PATH=\(folder.path)/bin:$PATH; export PATH
        \(prepare)
        timeout \(goesOn ? 3 : 300) bash -c "$(cat <<'EXAMPLE'
        \(text)
        EXAMPLE
        )"
        """, environment: environment)
      #expect(output.status == (goesOn ? 124 : 0), "\(line)\n\(output)")
    }
    _ = try await Services.management("DELETE", "/vhosts/\(vhost)")
  }
}
