import Foundation
import GRDB
import MsctlCore

/// What a service of the shop is given: by `msctl register` its port, by whoever starts it the rest.
public struct Shop: Sendable {
  /// The name that it is registered under.
  public let service: String
  /// Tells this process from other instances.
  public let instance: String
  let port: UInt16
  /// Where data outlives the process.
  let folder: String
  let broker: Broker
  /// The other services, by their names.
  public let services: ServiceClient

  /// Runs a service; where it cannot, the process ends with a sentence that says why.
  public static func run(_ service: String, _ body: @Sendable (Shop) async throws -> Void) async {
    do { try await body(Shop(service, environment: ProcessInfo.processInfo.environment)) } catch {
      FileHandle.standardError.write(Data("\(service): \(error)\n".utf8))
      exit(1)
    }
  }

  /// A variable of the environment that is not what it must be.
  private struct EnvironmentError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
  }

  /// - Throws: an error that names the variable which is wrong.
  private init(_ service: String, environment: [String: String]) throws {
    func variable<T>(_ name: String, _ fallback: T?, _ read: (String) throws -> T?) throws -> T {
      guard let text = environment[name] else {
        guard let fallback else {
          throw EnvironmentError("\(name) is not set; run it with 'msctl register \(service) --port 0 -- ...'")
        }
        return fallback
      }
      guard let value = try? read(text) else { throw EnvironmentError("\(name) is not what it should be") }
      return value
    }
    self.service = service
    port = try variable("PORT", nil) { UInt16($0) }
    instance = environment["MSCTL_SERVICE_ID"] ?? "\(service)-\(port)"
    folder = try variable("SHOP_DATA", nil) { $0 }
    var options = Broker.Options()
    options.name = instance
    broker = Broker(at: try variable("AMQP_URL", [AMQPURI()]) { try AMQPURI.list($0) }, options: options)
    var patience = ServiceClient.Options()
    (patience.timeout, patience.attemptTimeout, patience.retries) = (.seconds(5), .seconds(2), 10)
    services = try ServiceClient(
      consul: environment["CONSUL_HTTP_ADDR"] ?? "http://127.0.0.1:8500", options: patience)
  }

  /// The service's own database, which its instances share.
  public func database(_ schema: String) throws -> DatabasePool {
    var configuration = Configuration()
    // Several instances write: one waits for the other.
    configuration.busyMode = .timeout(10)
    let pool = try DatabasePool(path: "\(folder)/\(service).sqlite", configuration: configuration)
    try pool.write { try $0.execute(sql: schema) }
    return pool
  }

  /// Notes that a step of a trace was done here, in the file that all services write to: a line each, in one write.
  ///
  /// - Parameter step: the context that this step's own calls and messages carry on.
  public func note(_ what: String, order: Int64? = nil, step: TraceContext, after caller: TraceContext) {
    var writer = JSONWriter()
    writer.object { span in
      span.field("service", service)
      span.field("what", what)
      if let order { span.field("order", order) }
      span.field("trace", step.traceID)
      span.field("span", step.parentID)
      span.field("parent", caller.parentID)
    }
    let file = open("\(folder)/spans.jsonl", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0o644)
    guard file >= 0 else { return complain("cannot write spans.jsonl: \(String(cString: strerror(errno)))") }
    defer { close(file) }
    let line = writer.bytes + [0x0A]
    _ = line.withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
  }

  /// Does something beside all else, again until it does not throw.
  func keepTrying(_ what: String, _ work: @escaping @Sendable () async throws -> Void) {
    Task {
      while true {
        do { return try await work() } catch { complain("\(what): \(error)") }
        try await Task.sleep(for: .milliseconds(500))
      }
    }
  }

  func complain(_ text: String) {
    FileHandle.standardError.write(Data("\(service): \(text)\n".utf8))
  }
}
