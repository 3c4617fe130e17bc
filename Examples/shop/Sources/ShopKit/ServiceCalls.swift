import Foundation
import MsctlCore
import Synchronization

/// Calls other services by their names: one thread and one event loop for all calls and for what Consul says meanwhile.
///
/// A call goes to a passing instance; where that fails, to another.
public final class ServiceCalls: Sendable {
  public struct Answer: Sendable {
    public let status: Int
    public let body: [UInt8]
  }

  /// How long a call may take, and one instance of those that are tried.
  private static let patience: Duration = .seconds(5)
  private static let attempt: Duration = .seconds(2)

  private struct Call {
    let service: String
    let path: String
    let headers: [HTTPHeader]
    let deadline: Deadline
    let continuation: CheckedContinuation<Answer, any Error>
    /// The instances that have failed.
    var tried: Set<String> = []
  }

  private let shop: Shop
  private let new = Mutex<[Call]>([])
  private let pipe = WakePipe()

  public init(_ shop: Shop) {
    self.shop = shop
    startThread("calls") { [self] in
      while true {
        do { try run() } catch {
          shop.complain("calls begin anew: \(error)")
          Thread.sleep(forTimeInterval: 0.2)
        }
      }
    }
  }

  /// GET of a path, with the trace and the request's id passed on.
  /// - Throws: a `Failure` where no instance has answered in time.
  public func get(_ service: String, _ path: String, for request: WebRequest) async throws -> Answer {
    let fields = [("traceparent", request.step.traceparent), ("X-Request-Id", request.requestID ?? "")]
    let headers = fields.filter { !$0.1.isEmpty }.compactMap { HTTPHeader($0.0, $0.1) }
    return try await withCheckedThrowingContinuation { continuation in
      let call = Call(
        service: service, path: path, headers: headers, deadline: .after(Self.patience), continuation: continuation)
      new.withLock { $0.append(call) }
      pipe.wake()
    }
  }

  private func run() throws {
    var loop = try Loop(shop)
    do {
      while true {
        pipe.clear()
        let calls = new.withLock { calls in
          defer { calls = [] }
          return calls
        }
        try loop.turn(with: calls, wokenBy: pipe.descriptor)
      }
    } catch {
      for call in loop.waiting + loop.running.map(\.call) { call.continuation.resume(throwing: error) }
      throw error
    }
  }

  /// What the thread works on.
  private struct Loop {
    let http: HTTPClient
    let agent: ConsulAgent
    var watches: [String: ConsulWatch] = [:]
    var waiting: [Call] = []
    var running: [(call: Call, transfer: HTTPTransfer)] = []

    init(_ shop: Shop) throws {
      http = try HTTPClient()
      var settings = ConsulAgent.Settings()
      settings.address = shop.consul
      agent = ConsulAgent(settings, over: http)
    }

    mutating func turn(with new: [Call], wokenBy descriptor: Int32) throws {
      waiting += new
      for call in waiting where watches[call.service] == nil {
        watches[call.service] = ConsulWatch(agent, service: call.service) { $0 == .passing }
      }
      // What Consul said last stays known while it cannot be asked.
      for watch in watches.values { _ = try? watch.advance() }
      try startWaiting()
      takeAnswers()
      // A call that has failed is tried again after a moment, so that dead instances are not called in a circle.
      try http.run(until: .after(waiting.isEmpty ? .seconds(1) : .milliseconds(20)), orReading: descriptor)
    }

    private mutating func startWaiting() throws {
      var left: [Call] = []
      for var call in waiting {
        let instances = watches[call.service]?.instances ?? []
        // All have failed: once more from the beginning, for as long as there is time.
        if instances.allSatisfy({ call.tried.contains($0.id) }) { call.tried = [] }
        var generator = SystemRandomNumberGenerator()
        if call.deadline.isPast {
          call.continuation.resume(throwing: Failure(.timedOut, "no instance of \(call.service) has answered"))
        } else if let instance = instances.filter({ !call.tried.contains($0.id) }).weightedRandom(using: &generator) {
          var request = HTTPRequest(url: instance.url + call.path)
          request.headers = call.headers
          request.deadline = .after(attempt)
          call.tried.insert(instance.id)
          running.append((call, try http.start(request)))
        } else {
          left.append(call)
        }
      }
      waiting = left
    }

    private mutating func takeAnswers() {
      var still: [(call: Call, transfer: HTTPTransfer)] = []
      for (call, transfer) in running {
        switch transfer.outcome {
        case nil: still.append((call, transfer))
        case .success:
          call.continuation.resume(returning: Answer(status: transfer.head?.status ?? 0, body: transfer.takeBody()))
        case .failure: waiting.append(call)
        }
      }
      running = still
    }
  }
}
