import MsctlCore

/// Connects again when the connection to the broker broke, for as long as `--reconnect-for` says: to the first broker of
/// the list that lets us in, with pauses that grow.
struct Reconnection {
  /// How long one try may take, so that the next broker has its turn.
  private static let attempt: Duration = .seconds(5)

  private let broker: BrokerOptions
  private let verb: String
  private let console: Console
  private let signals: Signals

  init(_ broker: BrokerOptions, as verb: String, _ console: Console, _ signals: Signals) {
    self.broker = broker
    self.verb = verb
    self.console = console
    self.signals = signals
  }

  /// - Parameters:
  ///   - error: why the connection is of no use any more.
  ///   - prepare: declares and selects what the new one needs; what it throws may pass as well.
  /// - Throws: the error itself where another connection would not mend it; the last failure when time has run out.
  func connect<T>(
    after error: AMQPError, _ old: AMQPConnection, _ prepare: (AMQPConnection) throws -> T
  ) throws -> T {
    guard error.isPassing, broker.reconnectFor > .zero else { throw error }
    old.close()
    console.note("\(error.failure(old.uri).message); connecting again")
    let deadline = Deadline.after(broker.reconnectFor)
    var backoff = Backoff(to: .seconds(5))
    while true {
      try pause(until: min(deadline, .after(backoff.next())), signals)
      let isLast = deadline.isPast
      do {
        let uris = try broker.currentURIs().map { uri in
          var uri = uri
          uri.connectTimeout = min(uri.connectTimeout, Self.attempt)
          return uri
        }
        let connection = try AMQPConnection.open(anyOf: uris, name: "msctl \(verb)", trace: console.amqpTrace)
        let result = try prepare(connection)
        console.note("connected again to RabbitMQ at \(connection.uri.shown)")
        return result
      } catch let failure as Failure {
        // A node that is coming up may refuse for a while.
        let isPassing = [.unreachable, .timedOut].contains(failure.code) || failure.message.contains(" is down")
        if isLast || !isPassing { throw failure }
      } catch let error as AMQPError {
        if isLast || !error.isPassing { throw error }
      }
    }
  }
}
