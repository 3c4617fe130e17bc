/// Keeps up with the instances of a service, or of all services, by blocking queries
/// (https://developer.hashicorp.com/consul/api-docs/features/blocking). It makes progress while the HTTP client runs.
///
/// What an agent answers is compared, since an answer does not mean a change. An agent that is away is asked again, after
/// pauses; what it said last stays known meanwhile.
public final class HealthWatch {
  /// How long a query may stay without an answer.
  private static let wait: Duration = .seconds(300)

  /// A query that is answered when something has changed: asked again and again.
  private struct Trigger {
    let path: String
    let query: [(String, String)]
    var index: UInt64 = 0
    var exchange: ConsulExchange?
  }

  private let agent: ConsulAgent
  /// Nil: all services.
  private let service: String?
  private let selection: ConsulAgent.Selection
  private let accepts: (HealthStatus) -> Bool
  private var triggers: [Trigger]
  /// Of all services, those that have not been looked up since the last change, and what was found so far.
  private var unread: [String] = []
  private var found: [ServiceInstance] = []
  private var reading: (service: String, exchange: ConsulExchange)?
  private var isStale = false
  private var backoff = Backoff(from: .milliseconds(200), to: .seconds(10))
  private var pauseEnd: Deadline?

  /// The accepted instances, by service, node and id; nil before the first answer.
  public private(set) var instances: [ServiceInstance]?
  /// The names of all services, also of those without an accepted instance; nil where one is watched.
  public private(set) var services: [String]?
  /// Why the agent could not be asked the last time; nil where it could.
  public private(set) var trouble: Failure?

  /// - Parameters:
  ///   - service: its name; nil: all services but Consul itself.
  ///   - accepts: the statuses of the instances that count.
  public init(
    _ agent: ConsulAgent, service: String?, _ selection: ConsulAgent.Selection = .init(),
    where accepts: @escaping (HealthStatus) -> Bool
  ) {
    self.agent = agent
    self.service = service
    self.selection = selection
    self.accepts = accepts
    if let service {
      triggers = [Trigger(path: ConsulAgent.healthPath(of: service), query: selection.query)]
    } else {
      // A service without checks appears in the one, a change of health in the other.
      let place = selection.datacenter.map { [("dc", $0)] } ?? []
      triggers = [
        Trigger(path: ConsulAgent.catalogPath, query: place), Trigger(path: ConsulAgent.allChecksPath, query: place),
      ]
    }
  }

  /// When it goes on even if nothing comes.
  public var wakeTime: Deadline { pauseEnd ?? .never }

  /// Takes in what has come, and asks again.
  /// - Returns: whether the instances have changed, or are known for the first time.
  /// - Throws: what asking again cannot mend: the token may not read.
  public func advance() throws(Failure) -> Bool {
    if let pauseEnd {
      guard pauseEnd.isPast else { return false }
      self.pauseEnd = nil
    }
    do {
      let hasChanged = try takeAnswers()
      for place in triggers.indices where triggers[place].exchange == nil {
        let trigger = triggers[place]
        triggers[place].exchange = try agent.beginBlocking(
          trigger.path, trigger.query, after: trigger.index, wait: Self.wait)
      }
      return hasChanged
    } catch {
      guard error.code != .denied, error.code != .usage else { throw error }
      trouble = error
      // What an agent forgets with a restart may have been its indexes.
      for place in triggers.indices {
        triggers[place].exchange = nil
        triggers[place].index = 0
      }
      reading = nil
      pauseEnd = .after(backoff.next())
      return false
    }
  }

  private func takeAnswers() throws(Failure) -> Bool {
    var new: [ServiceInstance]?
    for place in triggers.indices {
      let path = triggers[place].path
      guard let response = try triggers[place].exchange?.take() else { continue }
      triggers[place].exchange = nil
      let answer = try agent.answer(response, to: path)
      // An index that goes down is worth nothing; below 1 it would be answered at once for ever.
      triggers[place].index = answer.index < triggers[place].index ? 0 : max(1, answer.index)
      trouble = nil
      backoff.reset()
      if let service {
        new = try agent.instances(in: answer, of: service)
      } else {
        if path == ConsulAgent.catalogPath {
          services = try agent.services(in: answer).map(\.name).filter { $0 != "consul" }
        }
        isStale = services != nil
      }
    }
    if service == nil { new = try readAll() }
    guard let new else { return false }
    let accepted = new.filter { accepts($0.status) }
      .sorted { ($0.service, $0.node, $0.id) < ($1.service, $1.node, $1.id) }
    guard accepted != instances else { return false }
    instances = accepted
    return true
  }

  /// Looks all services up, one after the other, when something has changed.
  /// - Returns: all instances, once all are there.
  private func readAll() throws(Failure) -> [ServiceInstance]? {
    if let (service, exchange) = reading {
      guard let response = try exchange.take() else { return nil }
      reading = nil
      let answer = try agent.answer(response, to: ConsulAgent.healthPath(of: service))
      found += answer.value.elements.compactMap { ServiceInstance(health: $0) }
      if unread.isEmpty, !isStale { return found }
    }
    if isStale, unread.isEmpty {
      isStale = false
      unread = services ?? []
      found = []
      if unread.isEmpty { return [] }
    }
    if let next = unread.popLast() {
      reading = (
        next, try agent.beginBlocking(ConsulAgent.healthPath(of: next), selection.query, after: 0, wait: Self.wait)
      )
    }
    return nil
  }
}
