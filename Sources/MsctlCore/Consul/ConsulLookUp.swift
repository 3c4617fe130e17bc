/// A request to an agent that is made again with growing pauses while the agent limits us or is in trouble, for as long as one
/// question may take. It makes progress while the HTTP client runs.
package final class ConsulQuestion: LoopQuestion {
  /// How long it pauses at most before it is made again.
  static let longestPause: Duration = .seconds(2)

  private let agent: ConsulAgent
  private let method: String
  private let path: String
  private let query: [(String, String)]
  private let body: JSONValue?
  private let deadline: Deadline
  private let list: InstanceList?
  private var consistency: ConsulAgent.Consistency?
  private var exchange: ConsulExchange?
  /// When it is made again.
  private var pauseEnd = Deadline.never
  private var backoff = Backoff(from: .milliseconds(200), to: ConsulQuestion.longestPause)
  /// Why it was not answered the last time.
  private var trouble: Failure?

  /// - Parameters:
  ///   - consistency: of a look-up.
  ///   - list: takes the body of the answer as it comes, where it can.
  init(
    _ agent: ConsulAgent, _ method: String, _ path: String, _ query: [(String, String)] = [], body: JSONValue? = nil,
    as consistency: ConsulAgent.Consistency? = nil, until limit: Deadline = .never, reading list: InstanceList? = nil
  ) throws(Failure) {
    (self.agent, self.method, self.path, self.query, self.body) = (agent, method, path, query, body)
    self.consistency = consistency
    self.list = list
    deadline = min(limit, .after(agent.settings.timeout))
    try begin()
  }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline { pauseEnd }

  /// The answer, whatever its status; nil while there is none.
  package func take() throws(Failure) -> HTTPResponse? {
    if pauseEnd.isPast { try begin() }
    let response: HTTPResponse
    do {
      guard let taken = try exchange?.take() else { return nil }
      response = taken
    } catch {
      throw error.code == .timedOut ? trouble ?? error : error
    }
    exchange = nil
    guard let failure = agent.transientTrouble(response, method, path) else { return response }
    if consistency == .standard, agent.isLeaderless(response) {
      consistency = .stale
      agent.tell(.leaderless)
      try begin()
      return nil
    }
    trouble = failure
    let pause = backoff.next()
    guard pause < deadline.remaining else { throw failure }
    pauseEnd = .after(pause)
    return nil
  }

  private func begin() throws(Failure) {
    pauseEnd = .never
    let exchange = try agent.begin(method, path, query + (consistency?.query ?? []), body: body, until: deadline)
    if let list { exchange.read(into: list) }
    self.exchange = exchange
  }
}

/// A question whose response is read as a value, by one function or, where that needs another response, by two.
package final class ConsulReading<Answer>: LoopQuestion {
  enum Step {
    case answer(Answer)
    case ask(ConsulQuestion, (HTTPResponse) throws(Failure) -> Step)
  }

  private var question: ConsulQuestion
  private var read: (HTTPResponse) throws(Failure) -> Step

  init(_ question: ConsulQuestion, _ read: @escaping (HTTPResponse) throws(Failure) -> Step) {
    (self.question, self.read) = (question, read)
  }

  package var wakeTime: Deadline { question.wakeTime }

  package func take() throws(Failure) -> Answer? {
    guard let response = try question.take() else { return nil }
    switch try read(response) {
    case .answer(let answer): return answer
    case .ask(let question, let read):
      (self.question, self.read) = (question, read)
      return nil
    }
  }
}

/// A look-up of a service's instances that is on its way. It makes progress while the HTTP client runs.
package final class ConsulLookUp: LoopQuestion {
  private let agent: ConsulAgent
  private let service: String
  private let selection: ConsulAgent.Selection
  private let deadline: Deadline
  private let path: String
  private let list = InstanceList()
  private var question: ConsulQuestion
  /// Whether an empty list has come, and it is asked whether the token may read at all.
  private var isChecking = false

  init(
    _ agent: ConsulAgent, _ service: String, _ selection: ConsulAgent.Selection, until deadline: Deadline
  ) throws(Failure) {
    (self.agent, self.service, self.selection, self.deadline) = (agent, service, selection, deadline)
    path = ConsulAgent.healthPath(of: service)
    question = try ConsulQuestion(
      agent, "GET", path, selection.query, as: agent.consistency, until: deadline, reading: list)
  }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline { question.wakeTime }

  /// The instances in every status; nil while they are not known.
  /// - Throws: `denied` where the token may not read; Consul itself answers that with an empty list.
  package func take() throws(Failure) -> [ServiceInstance]? {
    if let failure = list.failure { throw failure }
    guard let response = try question.take() else { return nil }
    if isChecking {
      if response.head.status == 403 { throw agent.deniedReading(service) }
      return try agent.narrowed([], of: service, selection)
    }
    let (instances, isFiltered) = try read(response)
    guard instances.isEmpty else { return try agent.narrowed(instances, of: service, selection) }
    if isFiltered { throw agent.deniedReading(service) }
    isChecking = true
    question = try ConsulQuestion(agent, "GET", ConsulAgent.ownHealthPath(of: service), until: deadline)
    return nil
  }

  private func read(_ response: HTTPResponse) throws(Failure) -> ([ServiceInstance], isFiltered: Bool) {
    guard list.isBegun else {
      let answer = try agent.answer(response, to: path)
      return (try agent.list(in: answer), answer.terms.isFiltered)
    }
    let all: [ServiceInstance]?
    do throws(InstanceList.Fault) { all = try list.finish() } catch {
      switch error {
      case .json(let error): throw agent.notJSON(error, path)
      case .tooLong(let failure): throw failure
      }
    }
    guard let all else { throw agent.unexpected(path, .instances) }
    return (all, ConsulAgent.Terms(response.head).isFiltered)
  }
}

/// A list of instances that is read as it comes: a long one is never held whole.
final class InstanceList {
  enum Fault: Error {
    case json(JSONError)
    case tooLong(Failure)
  }

  private var reader = JSONStreamReader(elementsAfter: 1)
  private var held = HeldBytes(limit: HTTPClient.bodyLimit)
  private var size = 0
  private var instances: [ServiceInstance]? = []
  private var fault: Fault?
  private var isRefused = false

  /// That it is too long, which ends the look-up at once.
  var failure: Failure? { if case .tooLong(let failure) = fault { failure } else { nil } }

  /// Whether it has taken anything.
  var isBegun: Bool { size > 0 }

  /// - Returns: false where it does not begin as a list.
  func take(_ bytes: UnsafeRawBufferPointer) -> Bool {
    if isRefused || !isBegun && bytes.first != UInt8(ascii: "[") {
      isRefused = true
      return false
    }
    let rest = isBegun ? bytes[...] : bytes.dropFirst()
    size += bytes.count
    do { try held.check(size, "the agent's response") } catch {
      fault = .tooLong(Failure(.failed, error.cause))
    }
    // What follows a fault is not kept.
    guard fault == nil, instances != nil else { return true }
    reader.append(rest)
    readOn()
    return true
  }

  /// The instances; nil where an element is none.
  func finish() throws(Fault) -> [ServiceInstance]? {
    reader.finish()
    readOn()
    if let fault { throw fault }
    return instances
  }

  private func readOn() {
    guard fault == nil, instances != nil else { return }
    do {
      while let entry = try reader.next() {
        guard let instance = ServiceInstance(health: entry) else {
          instances = nil
          return
        }
        instances?.append(instance)
      }
    } catch { fault = .json(error) }
  }
}
