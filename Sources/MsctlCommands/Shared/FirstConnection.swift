import MsctlCore

/// The first connection of a run, tried for as long as `--wait` says.
final class FirstConnection: LoopMember, LoopQuestion {
  private enum State {
    case opening(AMQPOpening)
    /// The next attempt begins then.
    case pausing(until: Deadline)
  }

  private let options: BrokerOptions
  private let verb: String
  private let console: Console
  private let signals: Signals?
  private let setup: AMQPConnection.Setup?
  private let prepare: ((AMQPConnection) -> Void)?
  private let deadline: Deadline
  private var state = State.pausing(until: .now)
  private var backoff = Backoff(to: .seconds(2))
  private var isWaitTold = false

  /// - Parameters:
  ///   - signals: what ends the wait, where signals are caught.
  ///   - setup: what the channel is to be; what has become of that, the connection says.
  ///   - prepare: questions to the broker, each of which waits for its reply: see `AMQPOpening`.
  init(
    _ options: BrokerOptions, as verb: String, _ console: Console, _ signals: Signals?, _ setup: AMQPConnection.Setup?,
    preparing prepare: ((AMQPConnection) -> Void)?
  ) {
    (self.options, self.verb, self.console, self.signals) = (options, verb, console, signals)
    (self.setup, self.prepare) = (setup, prepare)
    deadline = .after(options.wait)
  }

  /// The connection; nil as long as there is none.
  func take() throws(Failure) -> AMQPConnection? {
    if let number = signals?.take() { throw .interrupted(by: number) }
    do throws(Failure) {
      switch state {
      case .pausing(let until): if until.isPast { try open() }
      case .opening(let opening):
        guard let connection = try opening.result?.get() else { return nil }
        console.trace("< connected to \(connection.uri.shown)")
        return connection
      }
    } catch { try pause(after: error) }
    return nil
  }

  private func open() throws(Failure) {
    let uris = try options.currentURIs()
    for uri in uris { console.trace("> connect \(uri.shown)") }
    // Where signals are not caught they end the process, and there is nothing else to wait for.
    state = .opening(
      AMQPOpening(
        anyOf: uris, name: "msctl \(verb)", setup, trace: console.amqpTrace, isAwaited: signals == nil,
        preparing: prepare))
  }

  private func pause(after failure: Failure) throws(Failure) {
    guard failure.isTransient(awaitsPassword: options.passwordFile != nil), !deadline.isPast else {
      throw options.explained(failure)
    }
    if !isWaitTold { console.note(.waitingForBroker(failure, upTo: options.wait)) }
    isWaitTold = true
    state = .pausing(until: min(deadline, .after(backoff.next())))
  }

  func proceed() {}

  func addInterests(to polls: inout PollSet) {
    if let signals { polls.add(signals.descriptor) }
    if case .opening(let opening) = state, opening.descriptor >= 0 { polls.add(opening.descriptor) }
  }

  var wakeTime: Deadline {
    switch state {
    case .opening(let opening): opening.descriptor < 0 ? .now : .never
    case .pausing(let until): until
    }
  }
}
