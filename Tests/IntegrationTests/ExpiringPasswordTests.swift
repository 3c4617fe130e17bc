import Foundation
import Support
import Testing

@Suite("A password that changes while msctl runs", .serialized)
struct ExpiringPasswordTests {
  private static func control(_ words: String...) async throws {
    let program = ProcessInfo.processInfo.environment["MSCTL_TEST_RABBITMQCTL"] ?? "rabbitmqctl"
    let output = try await RunningProcess(program, words).end()
    #expect(output.status == 0, "\(words): \(output)")
  }

  @Test("publisher and consumer go on with the new one, also where the broker knows it before the file does")
  func changes() async throws {
    // A user and a virtual host of the test's own: no other test's connections are closed.
    let name = Services.uniqueName("expiry")
    _ = try await Services.management("PUT", "/vhosts/\(name)")
    _ = try await Services.management("PUT", "/users/\(name)", body: #"{"password":"first-secret","tags":""}"#)
    _ = try await Services.management(
      "PUT", "/permissions/\(name)/\(name)", body: #"{"configure":".*","write":".*","read":".*"}"#)
    let file = FileManager.default.temporaryDirectory.appendingPathComponent(name)
    defer { try? FileManager.default.removeItem(at: file) }
    try Data("first-secret\n".utf8).write(to: file)
    let address = try #require(Services.broker.split(separator: "@").last)
    let environment = ["AMQP_URL": "amqp://\(name)@\(address)/\(name)", "AMQP_PASSWORD_FILE": file.path]
    let consumer = try Tool.start(
      "consume", "q", "--count", "4", "--reconnect-for", "10m", input: "", environment: environment)
    let publisher = try Tool.start("publish", "q", "--reconnect-for", "10m", environment: environment)
    try publisher.write("1\n")
    try await eventually("the first message has arrived") { consumer.out == "1\n" }

    // The file first, as an agent does that renews a token in time.
    try Data("second-secret\n".utf8).write(to: file)
    try await Self.control("change_password", name, "second-secret")
    try await Self.control("close_all_connections", "--vhost", name, "the password has expired")
    try publisher.write("2\n")
    try await eventually("the second message has arrived") { consumer.out == "1\n2\n" }

    // The file last: the login is refused until then.
    try await Self.control("change_password", name, "third-secret")
    try await Self.control("close_all_connections", "--vhost", name, "the password has expired")
    for process in [consumer, publisher] {
      try await eventually("the login is refused") { process.err.contains("ACCESS_REFUSED") }
    }
    try Data("third-secret\n".utf8).write(to: file)
    try publisher.write("3\n4\n")
    try publisher.closeInput()
    let published = try await publisher.end()
    #expect(published.status == 0, "\(published)")
    let consumed = try await consumer.end()
    #expect(consumed.status == 0 && consumed.out == "1\n2\n3\n4\n", "\(consumed)")
    #expect(!(published.err + consumed.err).contains("-secret"))

    // Without a file nothing can change: the refusal is final.
    let fixed = try await Tool.run(
      "publish", "q", "1", environment: ["AMQP_URL": "amqp://\(name):first-secret@\(address)/\(name)"])
    #expect(fixed.status == 6)
    _ = try await Services.management("DELETE", "/vhosts/\(name)")
    _ = try await Services.management("DELETE", "/users/\(name)")
  }
}
