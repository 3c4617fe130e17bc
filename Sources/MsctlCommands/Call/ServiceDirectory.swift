import MsctlCore

/// The passing instances of services, looked up once for many calls and again when they are old or one has failed. An
/// instance that has failed is left alone for a while where there are others.
final class ServiceDirectory {
  /// How long what was looked up is believed.
  private static let age: Duration = .seconds(5)
  /// How long an instance that has failed is left alone: longer than Consul's checks usually need to notice.
  static let rest: Duration = .seconds(15)

  private struct Entry {
    var instances: [ServiceInstance]
    var until: Deadline
  }

  private let agent: ConsulAgent
  private let http: HTTPClient
  private let options: Call.Options
  private let console: Console
  private var known: [ByteKey: Entry] = [:]
  private var resting: [ByteKey: Deadline] = [:]

  init(_ options: Call.Options, over http: HTTPClient, _ console: Console) throws(Failure) {
    self.options = options
    self.console = console
    self.http = http
    agent = try options.agent.agent(
      over: http, console, options.lookUp, timeout: options.connectTimeout == .zero ? nil : options.connectTimeout)
  }

  /// The passing instances of a service, at least one.
  ///
  /// An agent that goes away meanwhile does not end the calls: what it said last goes on to be believed.
  /// - Parameter deadline: the end of the call that wants them.
  func instances(of name: String, path: String, until deadline: Deadline) throws(Failure) -> [ServiceInstance] {
    let old = known[ByteKey(name)]
    if let old, !old.until.isPast { return old.instances }
    let instances: [ServiceInstance]
    // Where there is something to go on with, nobody waits for an agent that is away.
    do { instances = try lookUp(name, path, retries: old == nil ? options.retries : 0, until: deadline) } catch {
      guard let old, [.unreachable, .timedOut, .failed].contains(error.code) else { throw error }
      console.note("\(error.message); using the last known instances of '\(name)'")
      instances = old.instances
    }
    known[ByteKey(name)] = Entry(instances: instances, until: .after(Self.age))
    return instances
  }

  /// The instance has failed: the next call looks again, and takes another one where there is one.
  func leaveAlone(_ instance: ServiceInstance) {
    known[ByteKey(instance.service)]?.until = .now
    resting[instance.key] = .after(Self.rest)
  }

  /// Takes one of the candidates: by weight or, with `--near`, in Consul's order.
  func choose(from candidates: inout [ServiceInstance]) -> ServiceInstance? {
    let rested = candidates.filter { resting[$0.key]?.isPast ?? true }
    let eligible = rested.isEmpty ? candidates : rested
    var generator = SystemRandomNumberGenerator()
    let chosen = options.near == nil ? eligible.weightedRandom(using: &generator) : eligible.first
    if let chosen { candidates.removeAll { $0.key == chosen.key } }
    return chosen
  }

  /// Asks the agent, and again as often as the call may be retried.
  private func lookUp(
    _ name: String, _ path: String, retries: Int, until deadline: Deadline
  ) throws(Failure) -> [ServiceInstance] {
    var backoff = Backoff()
    for retry in 0...retries {
      do { return try lookUpOnce(name, path, until: deadline) } catch {
        let pause = backoff.next()
        guard [.unreachable, .timedOut].contains(error.code), retry < retries, pause < deadline.remaining else {
          throw error
        }
        console.note("\(error.message); trying again in \(pause.shown)")
        let end = Deadline.after(pause)
        while !end.isPast { try http.move(until: end) }
      }
    }
    return []
  }

  private func lookUpOnce(
    _ name: String, _ path: String, until deadline: Deadline
  ) throws(Failure) -> [ServiceInstance] {
    let selection = options.selection
    let attempt = min(deadline, options.attemptTimeout.map { .after($0) } ?? .never)
    let all: [ServiceInstance]
    do { all = try agent.instances(of: name, selection, until: attempt) } catch {
      var failure = error
      if failure.code == .unreachable {
        failure.message = "'\(name)' is read as a service name: " + failure.message
        failure.hint = (failure.hint.map { $0 + " " } ?? "") + "To call a host, write 'http://\(name)\(path)'."
      }
      throw failure
    }
    let passing = all.filter { $0.status == .passing }
    guard passing.isEmpty else { return passing }
    throw Discover.nothingPassing(
      name, all, isNarrowed: selection.isNarrow, orElse: "If '\(name)' is a host, write 'http://\(name)\(path)'.")
  }
}
