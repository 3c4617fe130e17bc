import Foundation
import MsctlCore
import Support
import Synchronization
import Testing

/// The door for Swift programs, on a real agent and real servers.
@Suite("ServiceClient", .serialized)
struct ServiceDoorTests {
  private let services: ServiceClient

  init() throws { services = try ServiceClient(consul: Services.consul) }

  // MARK: Calls

  @Test("a response is a value, whatever its status; validated() throws where it is a failure")
  func responses() async throws {
    try await withService { service in
      let server = try TestServer { request in
        request.target == "/users/42?a=b"
          ? .ok(#"{"name":"Ann"}"#) : .status(404, "Not Found", "no such user", headers: ["X-Reason: none"])
      }
      try await Services.register(service, server.port, as: "one")
      let user = try await services.call(service, path: "/users/42?a=b", headers: ["traceparent": "00-1"])
      #expect(try user.validated().json()["name"]?.string == "Ann")
      #expect(user.status == 200 && user.instance.id == service + "-one" && user.attempts == 1)
      #expect(server.requests.last?.header("traceparent") == "00-1")
      #expect(server.requests.last?.header("host") == service)
      let missing = try await services.call(service, .delete, path: "/users/43", headers: ["accept": "text/plain"])
      #expect(missing.status == 404 && missing.text == "no such user" && missing.header("x-reason") == "none")
      #expect(server.requests.last?.method == "DELETE" && server.requests.last?.header("accept") == "text/plain")
      #expect(throws: Failure.self) { try missing.validated() }
      #expect(throws: Failure.self) { try missing.json() }
      do { try missing.validated() } catch let failure as Failure { #expect(failure.code == .clientError) }
    }
  }

  @Test("a body is sent with its type")
  func bodies() async throws {
    try await withService { service in
      let server = try TestServer { request in .ok(request.body, type: request.header("content-type") ?? "") }
      try await Services.register(service, server.port, as: "one")
      let json = try await services.call(service, .post, body: .json(#"{"user":42}"#))
      #expect(json.text == #"{"user":42}"# && json.header("content-type") == "application/json")
      let text = try await services.call(service, "PATCH", headers: ["Content-Type": "text/csv"], body: .text("a,b"))
      #expect(text.text == "a,b" && text.header("content-type") == "text/csv")
      let empty = try await services.call(service, .put, body: Body([], contentType: "x/y"))
      #expect(empty.text.isEmpty && empty.header("content-type") == "x/y")
    }
  }

  private typealias Body = ServiceClient.Body

  @Test("an instance that is gone costs an attempt, not the call, and is left alone afterwards")
  func anotherInstance() async throws {
    try await withService { service in
      let dying = try TestServer { _ in .ok("dying") }
      let good = try TestServer { _ in .ok("good") }
      try await Services.register(service, dying.port, as: "heavy", weight: 65535)
      try await Services.register(service, good.port, as: "light")
      #expect(try await services.call(service).text == "dying")
      dying.stop()
      let response = try await services.call(service, .post, body: .json("1"), retries: 0)
      #expect(response.text == "good" && response.attempts == 2)
      #expect(try await services.call(service).attempts == 1)
    }
  }

  @Test("a response that breaks off, comes too late or says 503 is tried again at another instance", arguments: 0..<3)
  func anotherResponse(_ trouble: Int) async throws {
    let end = DispatchSemaphore(value: 0)
    defer { end.signal() }
    try await withService { service in
      let bad = try TestServer { _ in
        switch trouble {
        case 0: TestServer.Answer(["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"])
        case 1: TestServer.Answer(["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", ""], gate: { _ in end.wait() })
        default: .status(503, "Busy", "")
        }
      }
      let good = try TestServer { _ in .ok("good") }
      try await Services.register(service, bad.port, as: "heavy", weight: 65535)
      try await Services.register(service, good.port, as: "light")
      var options = ServiceClient.Options()
      options.attemptTimeout = .seconds(4)
      let services = try ServiceClient(consul: Services.consul, options: options)
      let response = try await services.call(service)
      #expect(response.text == "good" && response.attempts == 2)
    }
  }

  @Test("a POST is sent once, unless it has an idempotency key, which is the same with every attempt")
  func idempotency() async throws {
    try await withService { service in
      let server = try TestServer { _ in .status(503, "Busy", "busy") }
      try await Services.register(service, server.port, as: "one")
      let once = try await services.call(service, .post, body: .json("1"), retries: 2)
      #expect(once.status == 503 && once.attempts == 1 && server.requests.count == 1)
      let again = try await services.call(service, .post, body: .json("1"), idempotencyKey: "order-1", retries: 2)
      #expect(again.status == 503 && again.attempts == 3)
      #expect(server.requests.dropFirst().allSatisfy { $0.header("idempotency-key") == "order-1" })
      #expect(server.requests.count == 4)
    }
  }

  @Test("Retry-After is waited for")
  func retryAfter() async throws {
    try await withService { service in
      let count = Counter()
      let server = try TestServer { _ in
        count.next() == 1 ? .status(429, "Slow down", "", headers: ["Retry-After: 1"]) : .ok("1")
      }
      try await Services.register(service, server.port, as: "one")
      let start = ContinuousClock.now
      let response = try await services.call(service)
      #expect(response.status == 200 && response.attempts == 2)
      #expect(ContinuousClock.now - start >= .seconds(1))
    }
  }

  @Test("the timeout holds for the whole call, and one that is cancelled ends at once")
  func ends() async throws {
    let end = DispatchSemaphore(value: 0)
    defer { for _ in 0..<2 { end.signal() } }
    try await withService { service in
      let silent = try TestServer { _ in .init(["", "HTTP/1.1 200 OK\r\n\r\n"], gate: { _ in end.wait() }) }
      try await Services.register(service, silent.port, as: "one")
      let late = await failure { try await services.call(service, timeout: .milliseconds(300)) }
      #expect(late?.code == .timedOut)
      let task = Task { try await services.call(service, path: "/second", timeout: .seconds(3600)) }
      try await eventually("the request is there") { silent.requests.contains { $0.target == "/second" } }
      task.cancel()
      await #expect(throws: CancellationError.self) { try await task.value }
      // Before it has begun, too.
      let early = Task {
        withUnsafeCurrentTask { $0?.cancel() }
        return try await services.call(service, path: "/third")
      }
      await #expect(throws: CancellationError.self) { try await early.value }
      #expect(!silent.requests.contains { $0.target == "/third" })
    }
  }

  @Test("no more calls are under way than may be; others wait, until they are cancelled or their time is over")
  func parallel() async throws {
    let gate = DispatchSemaphore(value: 0)
    defer { for _ in 0..<20 { gate.signal() } }
    let running = Atomic(0)
    let most = Atomic(0)
    try await withService { service in
      let server = try TestServer { _ in
        most.max(running.add(1, ordering: .relaxed).newValue, ordering: .relaxed)
        gate.wait()
        running.subtract(1, ordering: .relaxed)
        return .ok("1")
      }
      try await Services.register(service, server.port, as: "one")
      var options = ServiceClient.Options()
      (options.parallel, options.timeout) = (2, .zero)
      let services = try ServiceClient(consul: Services.consul, options: options)
      async let first = services.call(service)
      async let second = services.call(service)
      try await eventually("two are under way") { server.requests.count == 2 }
      let late = await failure { try await services.call(service, timeout: .milliseconds(300)) }
      #expect(late?.code == .timedOut && late?.cause == .service(.crowded(service: service, parallel: 2)))
      let task = Task { try await services.call(service) }
      task.cancel()
      await #expect(throws: CancellationError.self) { try await task.value }
      let others = try await withThrowingTaskGroup(of: Int.self) { group in
        for _ in 0..<10 { group.addTask { try await services.call(service).status } }
        for _ in 0..<12 { gate.signal() }
        return try await group.reduce(into: []) { $0.append($1) }
      }
      #expect(try await [first.status, second.status] + others == Array(repeating: 200, count: 12))
      #expect(server.requests.count == 12 && most.load(ordering: .relaxed) == 2)
    }
  }

  /// The failure that it throws.
  private func failure(_ body: () async throws -> Void) async -> Failure? {
    do { try await body() } catch { return error as? Failure }
    return nil
  }

  @Test("failures say what kind they are, and no request is made of what is none")
  func failures() async throws {
    #expect(await failure { try await services.call("no-such-service") }?.code == .nothingThere)
    for (service, path) in [("a b", "/"), ("", "/"), ("..", "/"), ("a@b", "/"), ("a", ""), ("a", "/ b"), ("a", "/#")] {
      #expect(await failure { try await services.call(service, path: path) }?.code == .usage)
    }
    #expect(await failure { try await services.call("a", "G T") }?.code == .usage)
    let header = await failure { try await services.call("a", headers: ["X": "secret\r\nY: 1"]) }
    #expect(header?.code == .usage && header.map { !"\($0)".contains("secret") } == true)
    #expect(await failure { _ = try ServiceClient(consul: "http://user:secret@x") }?.code == .usage)
    let nobody = try ServiceClient(consul: "http://127.0.0.1:\(Services.freePort())", options: impatient)
    #expect(await failure { try await nobody.call("a") }?.code == .unreachable)
    #expect(await failure { _ = try await nobody.discover("a") }?.code == .unreachable)
    let anonymous = try ServiceClient(consul: Services.guardedConsul)
    #expect(await failure { try await anonymous.call("a") }?.code == .denied)
    let known = try ServiceClient(consul: Services.guardedConsul, token: Services.guardedToken)
    #expect(await failure { try await known.call("a") }?.code == .nothingThere)
  }

  private var impatient: ServiceClient.Options {
    var options = ServiceClient.Options()
    options.retries = 0
    return options
  }

  @Test("many calls share one look-up, and what the agent said last is used while it is away")
  func directory() async throws {
    let good = try TestServer { _ in .ok("good") }
    let dying = try TestServer { _ in .ok("dying") }
    let isAway = Atomic(false)
    let agent = try FakeAgent { request in
      if isAway.load(ordering: .relaxed) { return TestServer.Answer.none(resets: true) }
      guard request.target.hasPrefix("/v1/health/service/s") else { return nil }
      return FakeAgent.answer(
        FakeAgent.health(FakeAgent.instance("s", "1", port: good.port), FakeAgent.instance("s", "2", port: dying.port)))
    }
    let services = try ServiceClient(consul: agent.server.url, options: impatient)
    let start = ContinuousClock.now
    let texts = try await withThrowingTaskGroup(of: String.self) { group in
      for _ in 0..<200 { group.addTask { try await services.call("s").text } }
      return try await group.reduce(into: Set<String>()) { $0.insert($1) }
    }
    #expect(texts == ["good", "dying"])
    // It counts for five seconds.
    #expect(agent.requests.count <= 1 + Int(start.duration(to: .now) / .seconds(5)))
    isAway.store(true, ordering: .relaxed)
    dying.stop()
    // The one that has failed makes the calls after it look up again.
    for _ in 0..<20 { #expect(try await services.call("s").text == "good") }
    #expect(agent.requests.count > 1)
  }

  @Test("a client that nobody else holds does its work")
  func temporary() async throws {
    try await withService { service in
      let server = try TestServer { _ in .ok("1") }
      try await Services.register(service, server.port, as: "one")
      for _ in 0..<20 { #expect(try await ServiceClient(consul: Services.consul).call(service).text == "1") }
    }
  }

  // MARK: Instances

  @Test("instances are found, passing ones or all, and no service is no failure")
  func discovers() async throws {
    try await withService { service in
      #expect(try await services.discover(service).isEmpty)
      try await Services.register(service, 1, as: "one")
      _ = try await Tool.run("register", service, "-p", "2", "--id", "two", "--check", "tcp", "--tag", "a")
      #expect(try await services.discover(service).map(\.id) == [service + "-one"])
      let all = try await services.discover(service, passing: false)
      #expect(Set(all.map(\.id)) == [service + "-one", "two"])
      let tagged = try await services.discover(service, passing: false, .init(tags: ["a"]))
      #expect(tagged.map(\.id) == ["two"] && tagged.first?.status == .critical)
    }
  }

  @Test("a watch tells the instances there are, and each change, until its loop ends")
  func watches() async throws {
    try await withService { service in
      var iterator = services.instances(of: service).makeAsyncIterator()
      #expect(try await iterator.next()?.isEmpty == true)
      try await Services.register(service, 1, as: "one")
      #expect(try await iterator.next()?.map(\.id) == [service + "-one"])
      _ = try await Tool.run("register", service, "--remove")
      #expect(try await iterator.next()?.isEmpty == true)
      let task = Task { for try await _ in services.instances(of: service) {} }
      task.cancel()
      try await task.value
      // The sequence holds its client.
      let temporary = try ServiceClient(consul: Services.consul).instances(of: service, passing: false)
      for try await instances in temporary {
        #expect(instances.isEmpty)
        break
      }
    }
    let anonymous = try ServiceClient(consul: Services.guardedConsul)
    #expect(await failure { for try await _ in anonymous.instances(of: "s") {} }?.code == .denied)
    #expect(await failure { for try await _ in anonymous.instances(of: "..") {} }?.code == .usage)
  }

  // MARK: Registrations

  @Test("a registration lives as long as its closure, whether that returns or throws")
  func lifetime() async throws {
    let service = Services.uniqueName("door")
    let server = try TestServer { _ in .ok("1") }
    let value = try await services.register(service, port: server.port, address: "127.0.0.1", tags: ["a"]) {
      try await eventually("it is registered") { try await !services.discover(service).isEmpty }
      let found = try await services.discover(service)
      #expect(found.first?.tags == ["a"] && found.first?.port == server.port)
      return try await services.call(service).text
    }
    #expect(value == "1")
    #expect(try await services.discover(service, passing: false).isEmpty)
    struct Trouble: Error {}
    await #expect(throws: Trouble.self) {
      try await services.register(service, port: server.port) {
        try await eventually("it is registered") { try await !services.discover(service).isEmpty }
        throw Trouble()
      }
    }
    #expect(try await services.discover(service, passing: false).isEmpty)
  }

  @Test("an instance is registered once it listens, and never if it does not")
  func notListening() async throws {
    let service = Services.uniqueName("door")
    try await services.register(service, port: Services.freePort()) {
      try await Task.sleep(for: .milliseconds(300))
      #expect(try await services.discover(service, passing: false).isEmpty)
    }
  }

  @Test("a task that is cancelled is in maintenance first, then drains, then its closure is cancelled, and it is gone")
  func cancelled() async throws {
    let service = Services.uniqueName("door")
    let server = try TestServer { _ in .ok("1") }
    let seen = Mutex<[HealthStatus]>([])
    let task = Task {
      try await services.register(service, port: server.port, drain: .milliseconds(300)) {
        do { try await Task.sleep(for: .seconds(3600)) } catch {
          let all = try await Task.detached { try await services.discover(service, passing: false) }.value
          seen.withLock { $0 = all.map(\.status) }
          throw error
        }
      }
    }
    try await eventually("it is registered") { try await !services.discover(service).isEmpty }
    let start = ContinuousClock.now
    task.cancel()
    await #expect(throws: CancellationError.self) { try await task.value }
    #expect(ContinuousClock.now - start >= .milliseconds(300))
    #expect(seen.withLock { $0 } == [.critical])
    #expect(try await services.discover(service, passing: false).isEmpty)
  }

  @Test("a registration that the agent refuses ends the closure, and says why")
  func refused() async throws {
    let server = try TestServer { _ in .ok("1") }
    let anonymous = try ServiceClient(consul: Services.guardedConsul)
    let refusal = await failure {
      try await anonymous.register("s", port: server.port) { try await Task.sleep(for: .seconds(3600)) }
    }
    #expect(refusal?.code == .denied)
    #expect(await failure { try await services.register("s", port: 0) {} }?.code == .usage)
    #expect(await failure { try await services.register("..", port: 1) {} }?.code == .usage)
  }

  @Test("an agent that is away does not end the closure, and one that has forgotten is told again")
  func agentRestarts() async throws {
    let agent = try await PrivateAgent()
    let server = try TestServer { _ in .ok("1") }
    let services = try ServiceClient(consul: agent.address)
    let isRegistered = { (try? await services.discover("s").isEmpty) == false }
    let task = Task {
      try await services.register("s", port: server.port) { try await Task.sleep(for: .seconds(3600)) }
    }
    try await eventually("it is registered") { await isRegistered() }
    try await agent.kill()
    try agent.forgetEverything()
    try await agent.start()
    try await eventually("it is registered again") { await isRegistered() }
    try await agent.kill()
    task.cancel()
    // Nobody answers: its end has a bound.
    await #expect(throws: CancellationError.self) { try await task.value }
  }
}
