import Foundation

/// A Consul agent of a test's own, which can be killed and started again, with its data or without.
package final class PrivateAgent {
  package private(set) var address = ""
  package let folder: URL
  private var securePort = -1
  private var process: RunningProcess?

  /// - Parameter overTLS: whether it speaks HTTPS as well, with the services' certificate.
  package init(overTLS: Bool = false) async throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent("msctl-agent-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    // Somebody else on this machine may take a port before the agent does.
    for _ in 0..<5 {
      try configure(overTLS)
      do {
        try await start()
        return
      } catch { if process?.isRunning == true { throw error } }
    }
    throw TestFailure("the agent does not start: \(process?.out ?? "")")
  }

  private func configure(_ overTLS: Bool) throws {
    let port = try Services.freePort()
    address = "http://127.0.0.1:\(port)"
    if overTLS { securePort = try Services.freePort() }
    let certificates = Services.certificates
    let ports = [try Services.freePort(), try Services.freePort(), try Services.freePort()]
    let configuration = """
      { "node_name": "own", "server": true, "bootstrap_expect": 1, "log_level": "WARN", "bind_addr": "127.0.0.1",
        "addresses": { "http": "127.0.0.1 unix://\(socket)" }, "performance": { "raft_multiplier": 1 },
        "ca_file": "\(certificates)/ca.pem", "cert_file": "\(certificates)/cert.pem", "key_file": "\(certificates)/key.pem",
        "data_dir": "\(folder.path)/data", "disable_update_check": true, "leave_on_terminate": false,
        "ports": { "http": \(port), "https": \(securePort), "server": \(ports[0]), "serf_lan": \(ports[1]), "serf_wan": \(ports[2]), "dns": -1 } }
      """
    try Data(configuration.utf8).write(to: folder.appendingPathComponent("agent.json"))
  }

  deinit {
    process?.signal(SIGKILL)
    try? FileManager.default.removeItem(at: folder)
  }

  package var socket: String { folder.path + "/agent.sock" }
  package var secureAddress: String { "https://localhost:\(securePort)" }
  package var environment: [String: String] { ["CONSUL_HTTP_ADDR": address] }

  package func start() async throws {
    try? FileManager.default.removeItem(atPath: socket)
    process = try RunningProcess(
      "/usr/bin/env", ["consul", "agent", "-config-file", folder.path + "/agent.json"], environment: ["GOMAXPROCS": "1"]
    )
    // A leader whose first look at its members fails looks again after a minute (`leaderLoop` of agent/consul/leader.go).
    try await eventually("the agent has a leader and has joined itself") {
      guard process?.isRunning == true else { throw TestFailure("the agent has ended") }
      let health = try await RunningProcess("/usr/bin/curl", ["-sf", address + "/v1/health/node/own"]).end()
      return health.out.contains("serfHealth")
    }
  }

  /// As a crash: nothing is said to anybody.
  package func kill() async throws {
    process?.signal(SIGKILL)
    _ = try await process?.end()
    process = nil
  }

  package func forgetEverything() throws {
    try FileManager.default.removeItem(at: folder.appendingPathComponent("data"))
  }
}
