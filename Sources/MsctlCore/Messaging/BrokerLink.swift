/// A connection to a broker as a driver needs it: see `AMQPConnection`. The simulated world has one of its own.
package protocol BrokerConnection: AnyObject {
  var uri: AMQPURI { get }
  /// Tells it from every other connection.
  var id: UInt64 { get }
  /// What has become of what was asked for along with the opening.
  var setup: AMQPConnection.SetupResult { get }
  /// What to wait on for reading.
  var descriptor: Int32 { get }
  /// When it is to be looked after although nothing comes.
  var wakeTime: Deadline { get }
  /// Whether something has come that no wait on the descriptor would notice.
  var hasInput: Bool { get }
  /// Whether `pump` has put something by.
  var hasEvents: Bool { get }
  /// Whether so much is put by that `pump` takes in no more.
  var isFull: Bool { get }
  /// Whether the broker has ended the consumer, which `nextEvent` says only after what came before.
  var isCancelled: Bool { get }
  /// The messages that were delivered and put by.
  var waitingMessages: [AMQPMessage] { get }

  /// The next thing that has come, without waiting.
  func nextEvent() throws(AMQPError) -> AMQPEvent?
  /// Puts by what has come.
  func pump() throws(AMQPError)
  /// - Throws: `invalid` for a message that cannot be sent; the connection is as it was then.
  func send(_ method: AMQPMethod) throws(AMQPError)
  /// Does not keep the bodies that come from here on.
  func dropBodies()
  func limitStall(to time: Duration)
  func beginClosing()
  /// Whether the closing is over, once it has begun.
  func hasClosed() throws(AMQPError) -> Bool
}

/// A connection that is being opened.
package protocol BrokerOpening: AnyObject {
  /// Readable once it is over; below 0 where that is so already.
  var descriptor: Int32 { get }
  /// The connection; nil as long as it is being opened.
  func opened() throws(Failure) -> (any BrokerConnection)?
}

extension AMQPConnection: BrokerConnection {
  // Closing, it waits for its reply; else a heartbeat may be due.
  package var wakeTime: Deadline { closingEnd ?? .after(.seconds(1)) }
}

extension AMQPOpening: BrokerOpening {
  package func opened() throws(Failure) -> (any BrokerConnection)? { try result?.get() }
}

/// The connection of a driver: one that stands, is being opened or closed, or none. That it is lost is told once, and what is to be
/// sent after that is dropped.
package struct BrokerLink {
  private enum State {
    case none
    case opening(any BrokerOpening)
    case up(any BrokerConnection)
    /// It broke, or the broker has closed the channel: then it may be opened anew.
    case down(any BrokerConnection)
    /// The broker's reply is to come.
    case closing(any BrokerConnection)
  }

  private var state = State.none
  /// Those that are of no use any more, and are closed in good order.
  private var leaving: [any BrokerConnection] = []
  /// The broker of the last connection.
  package private(set) var uri = AMQPURI()

  package init() {}

  /// Whether there is a connection, or will be.
  package var isUsed: Bool { if case .none = state { false } else { true } }
  /// Whether there is nothing left to wait for.
  package var isOver: Bool { !isUsed && leaving.isEmpty }

  // MARK: Opening

  package mutating func open(_ opening: any BrokerOpening) { state = .opening(opening) }

  package mutating func stopOpening() { if case .opening = state { state = .none } }

  /// Takes a connection that stands.
  package mutating func take(_ connection: any BrokerConnection) {
    state = .up(connection)
    uri = connection.uri
  }

  /// The connection that was being opened, once it stands.
  package mutating func takeOpened() throws(Failure) -> (any BrokerConnection)? {
    guard case .opening(let opening) = state else { return nil }
    do throws(Failure) {
      guard let connection = try opening.opened() else { return nil }
      take(connection)
      return connection
    } catch {
      state = .none
      throw error
    }
  }

  // MARK: While it stands

  /// The next event.
  /// - Throws: how the connection was lost.
  package mutating func next() throws(AMQPError) -> AMQPEvent? {
    guard case .up(let connection) = state else { return nil }
    do { return try connection.nextEvent() } catch { throw lost(connection, error) }
  }

  /// Puts by what has come, so that heartbeats go on.
  /// - Throws: how the connection was lost.
  package mutating func pump() throws(AMQPError) {
    guard case .up(let connection) = state else { return }
    do { try connection.pump() } catch { throw lost(connection, error) }
  }

  /// Sends a method; `openChannel` also where the broker has closed the channel.
  /// - Throws: how the connection was lost; `invalid` for a message that cannot be sent as it is, which loses nothing.
  package mutating func send(_ method: AMQPMethod) throws(AMQPError) {
    if case .openChannel = method, case .down(let connection) = state { state = .up(connection) }
    guard case .up(let connection) = state else { return }
    do { try connection.send(method) } catch {
      if error.kind == .invalid, case .publish = method { throw error }
      throw lost(connection, error)
    }
  }

  /// The connection is lost, as its setup says.
  package mutating func lose() { if case .up(let connection) = state { state = .down(connection) } }

  private mutating func lost(_ connection: any BrokerConnection, _ error: AMQPError) -> AMQPError {
    state = .down(connection)
    return error
  }

  /// What a lost connection had delivered, and nobody has read.
  package var unread: [AMQPMessage] { if case .down(let connection) = state { connection.waitingMessages } else { [] } }

  package var hasEvents: Bool { up?.hasEvents ?? false }
  package var isCancelled: Bool { up?.isCancelled ?? false }
  package func dropBodies() { up?.dropBodies() }

  private var up: (any BrokerConnection)? { if case .up(let connection) = state { connection } else { nil } }

  // MARK: The end of a connection

  /// Closes the connection in good order: `hasClosed` tells.
  package mutating func close() {
    guard case .up(let connection) = state else { return }
    connection.beginClosing()
    state = .closing(connection)
  }

  /// Whether the connection has been closed just now.
  /// - Throws: how it broke meanwhile.
  package mutating func hasClosed() throws(AMQPError) -> Bool {
    guard case .closing(let connection) = state else { return false }
    do { guard try connection.hasClosed() else { return false } } catch { throw lost(connection, error) }
    state = .none
    return true
  }

  /// The connection is of no use any more, nor is one that is being opened.
  package mutating func disconnect() {
    switch state {
    case .none, .opening: break
    case .up(let connection), .down(let connection): leave(connection)
    case .closing(let connection): leaving.append(connection)
    }
    state = .none
  }

  /// Closes a connection that is of no use any more.
  package mutating func leave(_ connection: any BrokerConnection) {
    connection.beginClosing()
    leaving.append(connection)
  }

  /// Lets those go that are closed.
  package mutating func moveLeaving() {
    if !leaving.isEmpty { leaving.removeAll { (try? $0.hasClosed()) ?? true } }
  }

  // MARK: The loop

  /// - Parameter wantsInput: whether what has come is taken.
  package func wakeTime(wantsInput: Bool) -> Deadline {
    var time = Deadline.never
    switch state {
    case .none, .down: break
    case .opening(let opening): if opening.descriptor < 0 { return .past }
    case .up(let connection):
      if connection.hasEvents ? wantsInput : connection.hasInput { return .past }
      time = connection.wakeTime
    case .closing(let connection): time = connection.wakeTime
    }
    for connection in leaving { time = min(time, connection.wakeTime) }
    return time
  }

  package func addInterests(to polls: inout PollSet) {
    switch state {
    case .none, .down: break
    case .opening(let opening): if opening.descriptor >= 0 { polls.add(opening.descriptor) }
    // What it has no room for is left to the broker.
    case .up(let connection): if !connection.isFull { polls.add(connection.descriptor) }
    case .closing(let connection): polls.add(connection.descriptor)
    }
    for connection in leaving { polls.add(connection.descriptor) }
  }
}
