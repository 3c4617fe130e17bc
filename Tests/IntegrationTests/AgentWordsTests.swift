import Foundation
import Support
import Testing

/// Responses of an agent that are told apart by their words, each with the place in github.com/hashicorp/consul that writes them.
@Suite("The words of a Consul agent", .serialized)
struct AgentWordsTests {
  private static let one = FakeAgent.health(FakeAgent.instance("s", "s-1", port: 1))

  @Test(
    "a 500 for a wrong request ends the look-up at once, any other is asked again",
    arguments: [
      // agent/structs/errors.go: errNoDCPath, returned by forwardDC in agent/consul/rpc.go.
      ("No path to datacenter", 1),
      // filter.go of hashicorp/go-bexpr, returned by agent/consul/health_endpoint.go.
      ("Failed to create boolean expression evaluator: 1:10 (9): no match found", 1),
      // agent/structs/errors.go: errDCNotAvailable, errNoServers, errNotReadyForConsistentReads. Through a server, net/rpc puts
      // "rpc error making call: " before them (agent/pool/pool.go).
      ("Remote DC has no server currently reachable", 0), ("No known Consul servers", 0),
      ("rpc error making call: Not ready to serve consistent reads", 0),
    ])
  func serverErrors(_ words: String, _ status: Int32) async throws {
    let count = Counter()
    let agent = try FakeAgent { _ in
      count.next() == 1 ? FakeAgent.error(500, words) : FakeAgent.answer(Self.one)
    }
    let found = try await Tool.run("discover", "s", "-o", "hostport", environment: agent.environment)
    #expect(found.status == status, "\(found)")
    #expect(count.value == (status == 0 ? 2 : 1))
    #expect(found.err.contains(words) == (status != 0))
  }

  @Test("'--peer' is asked of the instances of one service, the only list that takes it")
  func peer() async throws {
    // agent/http.go, parsePeerName; agent/structs/structs.go, NodeService.PeerName.
    let imported = FakeAgent.health(FakeAgent.instance("s", "s-1", port: 1, more: #","PeerName":"east""#))
    let agent = try FakeAgent { request in
      FakeAgent.answer(request.target.contains("peer=east") ? imported : Self.one)
    }
    let found = try await Tool.run("discover", "s", "--peer", "east", environment: agent.environment)
    #expect(found.out.contains(#""peer":"east""#))
    #expect(agent.requests.allSatisfy { $0.target.hasPrefix("/v1/health/service/s") })
    let home = try await Tool.run("discover", "s", environment: agent.environment)
    #expect(home.status == 0 && !home.out.contains(#""peer""#))
    for words in [["--peer", "east"], ["--watch", "--peer", "east"], ["-o", "nginx", "--peer", "east"]] {
      let all = try await RunningProcess(Tool.binary, ["discover"] + words, environment: agent.environment).end()
      #expect(all.status == 2 && all.err == "msctl: '--peer' requires NAME\n")
    }
  }
}
