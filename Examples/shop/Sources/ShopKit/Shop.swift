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
  let broker: AMQPURI
  let consul: ConsulAddress

  /// Runs a service; where it cannot, the process ends with a sentence that says why.
  public static func run(_ service: String, _ body: @Sendable (Shop) async throws -> Void) async {
    do { try await body(Shop(service, environment: ProcessInfo.processInfo.environment)) } catch {
      FileHandle.standardError.write(Data("\(service): \(error)\n".utf8))
      exit(1)
    }
  }

  /// - Throws: a `Failure` that names the variable which is wrong.
  private init(_ service: String, environment: [String: String]) throws {
    func variable<T>(_ name: String, _ fallback: T?, _ read: (String) throws -> T?) throws -> T {
      guard let text = environment[name] else {
        guard let fallback else {
          throw Failure(.usage, "\(name) is not set; run it with 'msctl register \(service) --port 0 -- ...'")
        }
        return fallback
      }
      guard let value = try? read(text) else { throw Failure(.usage, "\(name) is not what it should be") }
      return value
    }
    self.service = service
    port = try variable("PORT", nil) { UInt16($0) }
    instance = environment["MSCTL_SERVICE_ID"] ?? "\(service)-\(port)"
    folder = try variable("SHOP_DATA", nil) { $0 }
    broker = try variable("AMQP_URL", AMQPURI()) { try AMQPURI($0) }
    consul = try variable("CONSUL_HTTP_ADDR", .standard) { ConsulAddress($0) }
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

  func complain(_ text: String) {
    FileHandle.standardError.write(Data("\(service): \(text)\n".utf8))
  }
}

/// A thread of its own for what waits in `poll`: the connection to the broker, calls to other services. Async code is never
/// blocked by it.
func startThread(_ name: String, _ body: @escaping @Sendable () -> Void) {
  let thread = Thread(block: body)
  thread.name = name
  thread.start()
}

/// Wakes a thread that waits on a descriptor.
final class WakePipe: Sendable {
  let descriptor: Int32
  private let end: Int32

  init() {
    var ends: [Int32] = [-1, -1]
    pipe(&ends)
    for end in ends { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
    (descriptor, end) = (ends[0], ends[1])
  }

  func wake() {
    var byte: UInt8 = 1
    _ = write(end, &byte, 1)
  }

  func clear() {
    var bytes = [UInt8](repeating: 0, count: 512)
    while read(descriptor, &bytes, bytes.count) > 0 {}
  }
}

/// Waits until one of these can be read, at most so long.
func wait(for descriptors: [Int32], atMost milliseconds: Int32) {
  var polls = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
  _ = poll(&polls, nfds_t(polls.count), milliseconds)
}
