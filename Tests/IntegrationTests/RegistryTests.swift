import Foundation
import Support
import Testing

@Suite("msctl register and discover", .serialized)
struct RegistryTests {
  @Test("registers with tags and meta, is found in every form, and is removed again")
  func thereAndBack() async throws {
    try await withService { service in
      let registered = try await Tool.run(
        "register", service, "--port", "3000", "--address", "10.0.0.1", "--tag", "a", "--tag", "b", "--meta",
        "version=1.10")
      #expect(registered.status == 0)
      #expect(registered.out == "")
      let id = "\(service)-10.0.0.1-3000"
      #expect(registered.err.showsOnly("note registered", with: ["service": service, "id": id]))

      let json = try await Tool.run("discover", service)
      #expect(
        json.out == #"{"service":"\#(service)","id":"\#(id)","node":"msctl-test","address":"10.0.0.1","port":3000,"#
          + #""url":"http://10.0.0.1:3000","status":"passing","tags":["a","b"],"meta":{"version":"1.10"}}"# + "\n")
      #expect(try await Tool.run("discover", service, "-o", "url").out == "http://10.0.0.1:3000\n")
      #expect(try await Tool.run("discover", service, "-o", "hostport").out == "10.0.0.1:3000\n")
      let name = service.uppercased().replacingOccurrences(of: "-", with: "_")
      let env = try await Tool.shell(
        "eval \"$(msctl discover \(service) -o env)\"; echo $\(name)_URL $\(name)_HOST $\(name)_PORT")
      #expect(env.out == "http://10.0.0.1:3000 10.0.0.1 3000\n")
      let table = try await Tool.run("discover", service, "-o", "table")
      #expect(
        table.lines.count == 2 && table.lines[0].hasPrefix("ID ") && table.lines[1].contains("10.0.0.1:3000  passing"))
      #expect(try await Tool.run("discover").out.contains(#"{"service":"\#(service)","tags":["a","b"]}"# + "\n"))

      #expect(try await Tool.run("register", service, "--remove").err.showsOnly("note removed", with: ["id": id]))
      let again = try await Tool.run("register", service, "--remove")
      #expect(again.status == 0)
      #expect(again.err.showsOnly("note notRegistered", with: ["service": service]))
      let gone = try await Tool.run("discover", service)
      #expect(gone.status == 3 && gone.out == "")
      #expect(gone.err.showsOnly("discover nothing passing", with: ["service": service]))
    }
  }

  @Test("shows instances by what their checks say")
  func statuses() async throws {
    try await withService { service in
      let server = try TestServer { request in
        request.target == "/warn" ? .status(429, "Too Many Requests", "slow down") : .ok("{}")
      }
      let port = "\(server.port)"
      _ = try await Tool.run(
        "register", service, "-p", port, "--id", service + "-up", "-c", "http=/health", "--interval", "1s")
      _ = try await Tool.run(
        "register", service, "-p", port, "--id", service + "-warn", "-c", "http=/warn", "--interval", "1s")
      let dead = try Services.freePort()
      _ = try await Tool.run(
        "register", service, "-p", "\(dead)", "--id", service + "-down", "-c", "tcp", "--interval", "1s")
      _ = try await Tool.run("register", service, "-p", port, "--id", service + "-ttl", "-c", "ttl=1h")

      func ids(_ words: String...) async throws -> [String] {
        let output = try await RunningProcess(Tool.binary, ["discover", service] + words).end()
        return output.lines.compactMap {
          $0.components(separatedBy: "\"id\":\"\(service)-").last?.components(separatedBy: "\"").first
        }
        .sorted()
      }
      try await eventually("the checks have run") {
        let (passing, warning) = (try await ids(), try await ids("--status", "warning"))
        return passing == ["ttl", "up"] && warning == ["warn"]
      }
      #expect(try await ids("--status", "critical") == ["down"])
      #expect(try await ids("--status", "any") == ["down", "ttl", "up", "warn"])
      #expect(try await ids("--one").count == 1)
      try await eventually("the refused connection is shown") {
        try await Tool.run("discover", service, "--status", "any", "-o", "table").out.contains("connection refused")
      }
    }
  }

  @Test("narrows a search down by tag and by Consul's own filter")
  func selection() async throws {
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1", "--tag", "blue", "--meta", "v=1")
      _ = try await Tool.run("register", service, "-p", "2", "--tag", "green", "--meta", "v=2")
      #expect(try await Tool.run("discover", service, "--tag", "blue", "-o", "hostport").out == "127.0.0.1:1\n")
      #expect(
        try await Tool.run("discover", service, "--filter", "Service.Meta.v == \"2\"", "-o", "hostport").out
          == "127.0.0.1:2\n")
      let none = try await Tool.run("discover", service, "--tag", "red")
      #expect(none.status == 3)
      #expect(
        none.err.shows("look-up nothing selected", ["service": service]))
      // An agent that has a critical instance says so by 503.
      let critical = service + "-c"
      _ = try await Tool.run("register", critical, "-p", "1", "--check", "ttl=1h")
      let noneOfOne = try await Tool.run("discover", critical, "--tag", "red")
      _ = try await Tool.run("register", critical, "--remove")
      #expect(noneOfOne.status == 3)
      let near = try await Tool.run("discover", service, "--near", "_agent", "--dc", "dc1", "-o", "hostport")
      #expect(near.lines.count == 2)
      let elsewhere = try await Tool.run("discover", service, "--dc", "nowhere")
      #expect(elsewhere.status == 1)
      #expect(elsewhere.err.contains("No path to datacenter"))
      let wrong = try await Tool.run("discover", service, "--filter", "nonsense ==")
      #expect(wrong.status == 1)
      #expect(wrong.err.shows("consul returned", ["method": "GET", "path": "/v1/health/service/\(service)"]))
      #expect(wrong.err.contains("Failed to create boolean expression evaluator"))
    }
  }

  @Test("is told apart: no token, a wrong token, and the right one")
  func tokens() async throws {
    let agent = ["CONSUL_HTTP_ADDR": Services.guardedConsul]
    let service = Services.uniqueName("guarded")
    let bare = try await Tool.run("register", service, "-p", "1", environment: agent)
    #expect(bare.status == 6)
    #expect(
      bare.err.shows("consul denied request without token", ["method": "PUT", "path": "/v1/agent/service/register"])
        && bare.err.contains(Services.guardedConsul) && bare.err.contains("Permission denied"))

    let wrong = agent.merging(["CONSUL_HTTP_TOKEN": "00000000-dead-beef-0000-000000000000"]) { $1 }
    let refused = try await Tool.run("discover", service, "--json-errors", environment: wrong)
    #expect(refused.status == 6)
    #expect(refused.err.hasPrefix(#"{"error":{"code":"denied","message":"#))
    #expect(refused.err.contains("ACL not found"))
    #expect(!refused.err.contains("dead-beef"))

    let right = agent.merging(["CONSUL_HTTP_TOKEN": Services.guardedToken]) { $1 }
    #expect(try await Tool.run("register", service, "-p", "1", environment: right).status == 0)
    let fromFile = try await Tool.shell(
      "echo $TOKEN > $HOME/t; msctl discover \(service) -o hostport --consul-token-file $HOME/t",
      environment: agent.merging(["TOKEN": Services.guardedToken]) { $1 })
    #expect(fromFile.out == "127.0.0.1:1\n")
    // Consul answers who may not read with an empty list: that is not "nothing there".
    let blind = try await Tool.run("discover", service, environment: agent)
    #expect(blind.status == 6)
    #expect(blind.err.shows("consul denied service without token", ["service": service]))
    let helpless = try await Tool.run("register", service, "--remove", environment: agent)
    #expect(helpless.status == 6)
    #expect(helpless.err.shows("consul denied service without token", ["service": service]))
    #expect(try await Tool.run("register", service, "--remove", environment: right).status == 0)
    let again = try await Tool.run("register", service, "--remove", environment: right)
    #expect(again.status == 0)
    #expect(again.err.shows("note notRegistered"))
  }

  @Test("removes an id only where it is an instance of the named service")
  func removeByID() async throws {
    try await withService { service in
      _ = try await Tool.run("register", service, "-p", "1", "--id", service + "-x")
      let other = try await Tool.run("register", "other-\(service)", "--remove", "--id", service + "-x")
      #expect(other.status == 0)
      #expect(other.err.shows("note notRegistered"))
      #expect(try await Tool.run("discover", service, "-o", "hostport").out == "127.0.0.1:1\n")
      _ = try await Tool.run("register", service, "--remove", "--id", service + "-x")
      #expect(try await Tool.run("discover", service).status == 3)
    }
  }

  @Test(
    "an agent that is away is told, whatever is asked of it",
    arguments: [["discover", "s"], ["register", "s", "-p", "1"]])
  func away(_ words: [String]) async throws {
    let port = try Services.freePort()
    let output = try await RunningProcess(
      Tool.binary, words, environment: ["CONSUL_HTTP_ADDR": "127.0.0.1:\(port)"]
    ).end()
    #expect(output.status == 6)
    #expect(
      output.err.shows("consul http unreachable", ["reason": "connection refused"])
        && output.err.contains("127.0.0.1:\(port)"))
  }

  @Test(
    "refuses what cannot be meant, and says why",
    arguments: [
      (["register", "s"], "'register' requires '--port N', the port that the service listens on, or COMMAND"),
      (["register", "s", "--port", "65536"], "--port: '65536' must be between 0 and 65535"),
      (["register", "s", "--port", "http"], "--port: 'http' is not a whole number"),
      (
        ["register", "s", "-p", "1", "--check", "ping"],
        "--check: 'ping' is not one of http=/PATH, http=URL, tcp, grpc, grpc=SERVICE and ttl=TIME"
      ),
      (["register", "s", "-p", "1", "--meta", "x"], "--meta: 'x' is not of the form NAME=VALUE"),
      (
        ["register", "a b", "-p", "1"],
        "NAME: invalid service name 'a b': must not be empty or contain spaces, '/' or '?'"
      ),
      (["discover", "-o", "url"], "'-o url' requires NAME"),
      (["discover", "s", "-o", "yaml"], "-o: 'yaml' is not one of json, url, hostport, env, table, nginx"),
      (
        ["discover", "--consul-addr", "ftp://x"],
        "--consul-addr: 'ftp://x' is not an agent address such as http://127.0.0.1:8500, host:8500 or unix:///path"
      ),
    ])
  func usage(_ words: [String], _ message: String) async throws {
    let output = try await RunningProcess(Tool.binary, words).end()
    #expect(output.status == 2)
    #expect(output.err.hasPrefix("msctl: \(message)\n"))
  }

  @Test("says when what answers is no agent")
  func notAnAgent() async throws {
    let server = try TestServer { _ in .ok("<html>", type: "text/html") }
    let output = try await Tool.run("discover", "s", environment: ["CONSUL_HTTP_ADDR": server.url])
    #expect(output.status == 1)
    #expect(
      output.err.shows("consul unexpected json", ["path": "/v1/health/service/s"]))
  }
}
