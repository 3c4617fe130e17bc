import MsctlCore

/// Reconnects to the broker for as long as `--reconnect-for` says: to the first broker of the list that lets us in, with pauses
/// that grow.
///
/// A connection that breaks again before anything was settled is the same outage: its time and its pauses go on, so that what
/// breaks every connection at the same place does not do so for ever.
struct Reconnection {
  /// Time limit of one attempt, so that the next broker of the list gets its turn.
  private static let attempt: Duration = .seconds(5)
  /// A connection that has held so long with nothing to settle is sound.
  private static let soundAfter = 5.0

  private struct Outage {
    let begin = Deadline.now
    let deadline: Deadline
    var backoff = Backoff(to: .seconds(5))
    var breaks = 1
    var isRefusalTold = false
  }

  private let broker: BrokerOptions
  private let verb: String
  private let console: Console
  private var outage: Outage?
  private var connectedAt = Deadline.now

  init(_ broker: BrokerOptions, as verb: String, _ console: Console) {
    self.broker = broker
    self.verb = verb
    self.console = console
  }

  /// Whether nothing was settled since the connection broke.
  var isInOutage: Bool { outage != nil }

  /// Something was settled: the next break is another outage.
  mutating func settled() { outage = nil }

  /// - Parameters:
  ///   - error: why the old connection is lost.
  ///   - place: where it broke, as the end of a sentence.
  ///   - isIdle: whether the old connection had nothing to settle.
  ///   - limit: when to give up, if that is before the outage has lasted `--reconnect-for`.
  ///   - serve: waits until the descriptor is readable, the time has come or something else has been done, such as reading from
  ///     a command. What it throws gives up.
  ///   - prepare: declares and selects what the new connection needs; an error of it may be transient as well.
  /// - Throws: the error itself if another connection would not help; the last failure when time has run out.
  mutating func connect<T>(
    after error: AMQPError, _ old: AMQPConnection, at place: String, isIdle: Bool, until limit: Deadline = .never,
    serving serve: (Int32?, Deadline) throws(Failure) -> Void, _ prepare: (AMQPConnection) throws -> T
  ) throws -> T {
    guard error.isTransient, broker.reconnectFor > .zero else { throw error }
    old.close()
    // Time in which it worked counts only if nothing came of it.
    let held = connectedAt.secondsSince
    if held >= Double(broker.reconnectFor.nanoseconds) / 1e9 || isIdle && held >= Self.soundAfter { outage = nil }
    var outage = self.outage ?? Outage(deadline: .after(broker.reconnectFor))
    if self.outage != nil { outage.breaks += 1 }
    defer { self.outage = outage }
    guard !outage.deadline.isPast else { throw repeated(error, old, place, outage) }
    if outage.breaks == 1 { console.note("\(error.failure(old.uri).message); connecting again") }
    let deadline = min(outage.deadline, limit)
    while true {
      let pauseEnd = min(deadline, .after(outage.backoff.next()))
      while !pauseEnd.isPast { try serve(nil, pauseEnd) }
      let isLast = deadline.isPast
      do {
        let uris = try broker.currentURIs().map { uri in
          var uri = uri
          uri.connectTimeout = min(uri.connectTimeout, Self.attempt)
          return uri
        }
        let connection = try AMQPConnection.open(anyOf: uris, name: "msctl \(verb)", trace: console.amqpTrace) {
          descriptor throws(Failure) in try serve(descriptor, .never)
        }
        let result = try prepare(connection)
        if outage.breaks == 1 { console.note("connected again to RabbitMQ at \(connection.uri.shown)") }
        connectedAt = .now
        return result
      } catch let failure as Failure {
        // A node that is coming up may refuse for a while, and a password file may be about to be replaced.
        let awaitsPassword = failure.code == .denied && broker.passwordFile != nil
        let isTransient =
          awaitsPassword || [.unreachable, .timedOut].contains(failure.code) || failure.message.holds(text: " is down")
        if isLast || !isTransient { throw failure }
        if awaitsPassword, !outage.isRefusalTold {
          outage.isRefusalTold = true
          console.note("\(failure.message); trying again")
        }
      } catch let error as AMQPError {
        guard error.isTransient else { throw error }
        // It stood, and broke again.
        outage.breaks += 1
        if isLast { throw repeated(error, old, place, outage) }
      }
    }
  }

  private func repeated(_ error: AMQPError, _ old: AMQPConnection, _ place: String, _ outage: Outage) -> Failure {
    let time = Duration.seconds(outage.begin.secondsSince)
    return Failure(
      .unreachable,
      "the connection to RabbitMQ at \(old.uri.shown) broke \(outage.breaks) times within \(time.shown) at the same place, "
        + "\(place): \(error.reason)",
      hint: "A message there may be unreadable, for example with headers larger than a frame; "
        + "inspect the queue with RabbitMQ's management page.")
  }
}
