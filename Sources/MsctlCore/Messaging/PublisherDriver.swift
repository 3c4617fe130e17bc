import DequeModule

/// Who has the messages that a `PublisherDriver` publishes, and says what becomes of them.
package protocol PublisherHost: AnyObject {
  /// Whether there is a message, or the end of them, without waiting.
  var hasInput: Bool { get }
  /// The next message, or the end of them (`inputEnded`, `failed`); nil where there is none for now. Asked for by the publisher.
  func nextInput() -> Publisher.Event?
  /// Whether what becomes of messages can be told. Where it cannot, the broker is not listened to.
  var isReady: Bool { get }

  /// - Parameter isInOrder: whether all before it are settled; not so for some at a failed end.
  func confirmed(_ outgoing: OutgoingMessage, isInOrder: Bool)
  /// - Throws: why the run cannot go on.
  func failed(_ outgoing: OutgoingMessage, _ reason: Publisher.Reason) throws(Failure)
  func reply(_ message: AMQPMessage)
  func note(_ note: Publisher.Note, _ driver: PublisherDriver)

  /// Opens another connection.
  func connect() throws(Failure) -> any BrokerOpening

  /// Its part of each turn, also after the end: it writes out, and tells the driver whatever has happened.
  func work(_ driver: PublisherDriver)
  /// All is over, and the connections are closed.
  func ended(_ driver: PublisherDriver)
  func addInterests(to polls: inout PollSet)
  /// When it goes on even if nothing happens.
  var wakeTime: Deadline { get }
}

/// Hands to a `Publisher` what happens on its connections, and carries out what it decides.
package final class PublisherDriver: LoopMember {
  /// How much is sent, in bytes, before the broker is listened to: between large messages it may want no more.
  private static let burst = 256 << 10
  /// How many events are taken in before other things are looked at: a broker may send without end.
  private static let turn = 4096

  package private(set) var publisher: Publisher
  private let host: any PublisherHost
  private let confirmTimeout: Duration
  private let clock: () -> Deadline
  private var now: Deadline
  private var link = BrokerLink()
  private var events = Deque<Publisher.Event>()
  private var actions: [Publisher.Action] = []
  private var isHandling = false

  /// - Parameters:
  ///   - connection: where the queue and confirms were asked for along with the opening; nil: a bare one is opened.
  ///   - first: a message that was to be sent along with that.
  ///   - clock: the time.
  package init(
    _ plan: Publisher.Options, _ host: any PublisherHost, on connection: (any BrokerConnection)? = nil,
    sending first: OutgoingMessage? = nil, seed: UInt64 = .random(in: 0 ... .max),
    clock: @escaping () -> Deadline = { .now }
  ) {
    (self.host, self.clock, confirmTimeout) = (host, clock, plan.confirmTimeout)
    now = clock()
    publisher = Publisher(plan, seed: seed, at: now)
    if let connection {
      begin(on: connection, first)
    } else {
      connect()
    }
  }

  private func begin(on connection: any BrokerConnection, _ first: OutgoingMessage?) {
    link.take(connection)
    connection.limitStall(to: confirmTimeout)
    let setup = connection.setup
    let isSent = setup.isSent && (setup.error == nil || setup.isInDoubt)
    if let first, !isSent { handle(.message(first)) }
    if let error = setup.error, !isSent {
      handle(.connected(.refused(error)))
    } else {
      handle(.connected(.prepared(sent: isSent ? first : nil)))
      guard let error = setup.error else { return }
      link.lose()
      handle(.lost(error))
    }
  }

  /// The broker of the last connection.
  package var uri: AMQPURI { link.uri }

  /// Whether all is over, and the connections are closed.
  package private(set) var isOver = false

  // MARK: What happens

  /// Goes on as far as it can.
  package func proceed() {
    now = clock()
    if !publisher.isEnded {
      if host.isReady {
        readInput()
        readBroker()
        takeOpened()
        handle(.tick)
      } else {
        pump()
      }
    }
    host.work(self)
    if publisher.isEnded { link.disconnect() }
    link.moveLeaving()
    guard publisher.isEnded, link.isOver, !isOver else { return }
    isOver = true
    host.ended(self)
  }

  /// Something has happened that the host knows of.
  package func tell(_ event: Publisher.Event) {
    now = clock()
    handle(event)
  }

  private func readInput() {
    var sent = 0
    while sent < Self.burst, publisher.wantsMessage, let event = host.nextInput() {
      if case .message(let outgoing) = event { sent += outgoing.message.body.count }
      handle(event)
    }
  }

  private func readBroker() {
    do throws(AMQPError) {
      for _ in 0..<Self.turn {
        guard let event = try link.next() else { return }
        handle(.broker(event))
      }
    } catch { handle(.lost(error)) }
  }

  /// Heartbeats go on while nothing can be told.
  private func pump() { do throws(AMQPError) { try link.pump() } catch { handle(.lost(error)) } }

  private func takeOpened() {
    do throws(Failure) {
      guard let connection = try link.takeOpened() else { return }
      connection.limitStall(to: confirmTimeout)
      handle(.connected(.bare))
    } catch { handle(.connectFailed(error)) }
  }

  // MARK: What is decided

  private func handle(_ event: Publisher.Event) {
    // What comes of an action is handed in after all of them are carried out.
    guard !isHandling else { return events.append(event) }
    isHandling = true
    decide(event)
    while let event = events.popFirst() { decide(event) }
    isHandling = false
  }

  private func decide(_ event: Publisher.Event) {
    actions.removeAll(keepingCapacity: true)
    publisher.handle(event, at: now, into: &actions)
    for action in actions { carryOut(action) }
  }

  private func carryOut(_ action: Publisher.Action) {
    switch action {
    case .send(let method): send(method)
    case .confirmed(let outgoing, let isInOrder): host.confirmed(outgoing, isInOrder: isInOrder)
    case .failed(let outgoing, let reason):
      do { try host.failed(outgoing, reason) } catch { handle(.failed(error)) }
    case .reply(let message): host.reply(message)
    case .note(let note): host.note(note, self)
    case .connect: connect()
    case .disconnect: link.disconnect()
    }
  }

  private func send(_ method: AMQPMethod) {
    do throws(AMQPError) { try link.send(method) } catch {
      if error.kind == .invalid, case .publish(let message) = method {
        handle(.unsendable(number: message.number, error))
      } else {
        handle(.lost(error))
      }
    }
  }

  private func connect() {
    do { link.open(try host.connect()) } catch { handle(.connectFailed(error)) }
  }

  // MARK: The loop

  package func addInterests(to polls: inout PollSet) {
    link.addInterests(to: &polls)
    host.addInterests(to: &polls)
  }

  package var wakeTime: Deadline {
    if isOver { return host.wakeTime }
    if publisher.isEnded, link.isUsed || link.isOver { return .past }
    let isReady = host.isReady
    let time = min(link.wakeTime(wantsInput: isReady), host.wakeTime)
    guard isReady, !publisher.isEnded else { return time }
    return publisher.wantsMessage && host.hasInput ? .past : min(time, publisher.wakeTime)
  }
}
