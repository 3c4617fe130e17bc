/// Keeps up with the instances of a service, or of all services: asks an agent what a `HealthWatch` wants to know. It makes
/// progress while the HTTP client runs.
package final class ConsulWatch {
  private let agent: ConsulAgent
  private let selection: ConsulAgent.Selection
  private let notes: (HealthWatch.Note) -> Void
  private var machine: HealthWatch
  private var open: [(question: HealthWatch.Question, exchange: ConsulExchange)] = []

  /// - Parameters:
  ///   - service: its name; nil: all services but Consul itself.
  ///   - accepts: the statuses of the instances that count.
  package convenience init(
    _ agent: ConsulAgent, service: String?, _ selection: ConsulAgent.Selection = .init(),
    where accepts: (HealthStatus) -> Bool
  ) {
    self.init(agent, service: service, selection, where: accepts, notes: { _ in })
  }

  package init(
    _ agent: ConsulAgent, service: String?, _ selection: ConsulAgent.Selection, where accepts: (HealthStatus) -> Bool,
    notes: @escaping (HealthWatch.Note) -> Void
  ) {
    (self.agent, self.selection, self.notes) = (agent, selection, notes)
    var options = HealthWatch.Options(service: service, statuses: Set(HealthStatus.allCases.filter(accepts)))
    options.portName = selection.portName
    options.consistency = agent.consistency
    machine = HealthWatch(options, at: .now, SplitMix())
  }

  /// The accepted instances, by service, node and id; nil before the first answer.
  package var instances: [ServiceInstance]? { machine.instances }
  /// The names of all services, also of those without an accepted instance; nil where one is watched.
  package var services: [String]? { machine.services }
  /// Why the agent could not be asked the last time; nil where it could.
  package var trouble: Failure? { machine.trouble }
  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline { machine.wakeTime }

  /// Takes in what has come, and asks again.
  /// - Returns: whether the instances have changed, or are known for the first time.
  /// - Throws: what asking again cannot mend: the token may not read.
  package func advance() throws(Failure) -> Bool {
    var hasChanged = handle(.tick)
    var place = 0
    while place < open.count {
      guard let answer = answer(to: open[place].question, open[place].exchange) else {
        place += 1
        continue
      }
      let question = open.remove(at: place).question
      if handle(.answered(question, answer)) { hasChanged = true }
    }
    switch machine.cause {
    case .mayNotRead(let service): throw agent.deniedReading(service)
    case .failed(let failure): throw failure
    case nil: return hasChanged
    }
  }

  /// - Returns: whether the instances have changed.
  private func handle(_ event: HealthWatch.Event) -> Bool {
    var hasChanged = false
    var events = [event]
    while let event = events.popLast() {
      var actions: [HealthWatch.Action] = []
      machine.handle(event, at: .now, into: &actions)
      for action in actions {
        switch action {
        case .ask(let question, let index, let consistency):
          do throws(Failure) { open.append((question, try begin(question, beyond: index, consistency))) } catch {
            events.append(.answered(question, .failed(error)))
          }
        case .dropQuestions: open = []
        case .changed: hasChanged = true
        case .note(let note): notes(note)
        case .end: break
        }
      }
    }
    return hasChanged
  }

  // MARK: The agent

  private func begin(
    _ question: HealthWatch.Question, beyond index: UInt64?, _ consistency: ConsulAgent.Consistency
  ) throws(Failure) -> ConsulExchange {
    let (path, query): (String, [(String, String)]) =
      switch question {
      case .catalog: (ConsulAgent.catalogPath, selection.place)
      case .checks: (ConsulAgent.allChecksPath, selection.place)
      case .instances(let service): (ConsulAgent.healthPath(of: service.text), selection.query)
      case .permission(let service): (ConsulAgent.ownHealthPath(of: service.text), [])
      }
    return try agent.beginLookUp(path, query, beyond: index, wait: HealthWatch.wait, consistency)
  }

  /// What came of a question; nil while nothing has.
  private func answer(to question: HealthWatch.Question, _ exchange: ConsulExchange) -> HealthWatch.Answer? {
    do throws(Failure) {
      guard let response = try exchange.take() else { return nil }
      let (path, status) = (exchange.path, response.head.status)
      if let trouble = agent.transientTrouble(response, "GET", path) {
        return agent.isLeaderless(response) ? .leaderless(trouble) : .failed(trouble)
      }
      if case .permission = question { return .mayRead(status != 403) }
      if (300..<500).contains(status), status != 403 {
        return .refused(agent.refusal(response, "GET", path))
      }
      let answer = try agent.answer(response, to: path)
      switch question {
      case .catalog: return .catalog(try agent.services(in: answer), answer.terms)
      case .checks: return .checks(try agent.checks(in: answer), answer.terms)
      case .instances: return .instances(try agent.list(in: answer), answer.terms)
      case .permission: return .mayRead(true)
      }
    } catch { return .failed(error) }
  }
}
