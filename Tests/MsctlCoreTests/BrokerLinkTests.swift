import Testing

@testable import MsctlCore

@Suite("The connection of a driver")
struct BrokerLinkTests {
  private final class Connection: BrokerConnection {
    let id: UInt64
    var uri = AMQPURI()
    var setup = AMQPConnection.SetupResult()
    let descriptor: Int32 = 7
    var wakeTime = Deadline.never
    var hasInput = false
    var hasEvents = false
    var isFull = false
    var isCancelled = false
    var waitingMessages: [AMQPMessage] = []
    var error: AMQPError?
    var sent = 0
    var isClosing = false
    var isClosed = false

    init(_ id: UInt64 = 1) { self.id = id }

    private func check() throws(AMQPError) { if let error { throw error } }
    func nextEvent() throws(AMQPError) -> AMQPEvent? {
      try check()
      return .channelOpen
    }
    func pump() throws(AMQPError) { try check() }
    func send(_ method: AMQPMethod) throws(AMQPError) {
      try check()
      sent += 1
    }
    func dropBodies() {}
    func limitStall(to time: Duration) {}
    func beginClosing() { isClosing = true }
    func hasClosed() throws(AMQPError) -> Bool {
      try check()
      return isClosed
    }
  }

  private final class Opening: BrokerOpening {
    var descriptor: Int32 = 8
    var result: Result<Connection, Failure>?
    func opened() throws(Failure) -> (any BrokerConnection)? { try result?.get() }
  }

  private static let broken = AMQPError(kind: .broken, reason: "it broke")
  private static let message = AMQPMethod.publish(AMQPMessage(body: [1], exchange: "", routingKey: "q"))

  private func link(on connection: Connection) -> BrokerLink {
    var link = BrokerLink()
    link.take(connection)
    return link
  }

  @Test("that it is lost is told once, and what is to be sent after that is dropped")
  func lost() throws {
    let connection = Connection()
    var link = link(on: connection)
    try link.send(.selectConfirms)
    connection.error = Self.broken
    connection.waitingMessages = [AMQPMessage(body: [1], exchange: "", routingKey: "q")]
    #expect(link.unread.isEmpty)
    #expect(throws: AMQPError.self) { try link.send(.selectConfirms) }
    #expect(link.unread.count == 1)
    connection.error = nil
    try link.send(.selectConfirms)
    try link.pump()
    #expect(try link.next() == nil && connection.sent == 1)
    #expect(link.isUsed && !link.isOver && link.wakeTime(wantsInput: true) == .never)
  }

  @Test("a channel is opened anew on a connection whose channel the broker has closed, and then it stands again")
  func reopened() throws {
    let connection = Connection()
    var link = link(on: connection)
    connection.error = AMQPError(kind: .channelClosed(code: 406), reason: "no")
    #expect(throws: AMQPError.self) { try link.next() }
    connection.error = nil
    try link.send(.selectConfirms)
    #expect(connection.sent == 0)
    try link.send(.openChannel)
    try link.send(.selectConfirms)
    #expect(try connection.sent == 2 && link.next() != nil)
  }

  @Test("a message that cannot be sent loses nothing; anything else that is invalid does")
  func unsendable() throws {
    let connection = Connection()
    var link = link(on: connection)
    connection.error = AMQPError(kind: .invalid, reason: "too large")
    #expect(throws: AMQPError.self) { try link.send(Self.message) }
    connection.error = nil
    try link.send(Self.message)
    #expect(connection.sent == 1)
    connection.error = AMQPError(kind: .invalid, reason: "too large")
    #expect(throws: AMQPError.self) { try link.send(.selectConfirms) }
    connection.error = nil
    try link.send(Self.message)
    #expect(connection.sent == 1)
  }

  @Test("a connection that is opened is taken once it stands, and one that failed leaves none")
  func opening() throws {
    var link = BrokerLink()
    let opening = Opening()
    link.open(opening)
    #expect(try link.takeOpened() == nil && link.isUsed && !link.isOver)
    opening.result = .failure(Failure(.unreachable, "nobody is there"))
    #expect(throws: Failure.self) { try link.takeOpened() }
    #expect(link.isOver)
    link.open(opening)
    opening.descriptor = -1
    #expect(link.wakeTime(wantsInput: false) == .past)
    opening.result = .success(Connection(2))
    #expect(try link.takeOpened()?.id == 2)
    #expect(try link.takeOpened() == nil && link.next() != nil)
    link.open(opening)
    link.stopOpening()
    #expect(link.isOver)
  }

  @Test("it is closed once the broker has replied, and a break meanwhile is told")
  func closing() throws {
    let connection = Connection()
    var link = link(on: connection)
    link.close()
    #expect(try connection.isClosing && !link.hasClosed() && !link.isOver)
    try link.send(.selectConfirms)
    #expect(connection.sent == 0)
    connection.isClosed = true
    #expect(try link.hasClosed() && link.isOver)
    #expect(try !link.hasClosed())
    let other = Connection()
    link.take(other)
    link.close()
    other.error = Self.broken
    #expect(throws: AMQPError.self) { try link.hasClosed() }
    #expect(try !link.hasClosed() && link.isUsed)
  }

  @Test("one that is of no use is closed in good order, beside another one, and waited for")
  func leaving() throws {
    let connection = Connection()
    var link = link(on: connection)
    link.disconnect()
    #expect(connection.isClosing && !link.isUsed && !link.isOver)
    connection.wakeTime = .past
    #expect(link.wakeTime(wantsInput: false) == .past)
    link.take(Connection(2))
    link.moveLeaving()
    #expect(link.wakeTime(wantsInput: false) == .past)
    // One that breaks then is gone, too.
    connection.error = Self.broken
    link.moveLeaving()
    #expect(link.wakeTime(wantsInput: false) == .never)
    link.disconnect()
    link.disconnect()
    #expect(!link.isOver)
  }

  @Test("it goes on at once where something has come that is wanted, and listens where there is room")
  func waiting() {
    let connection = Connection()
    let link = link(on: connection)
    func interests() -> Int {
      var polls = PollSet()
      link.addInterests(to: &polls)
      return polls.add(0)
    }
    #expect(link.wakeTime(wantsInput: true) == .never && interests() == 1)
    connection.hasInput = true
    #expect(link.wakeTime(wantsInput: false) == .past)
    connection.hasEvents = true
    #expect(link.wakeTime(wantsInput: false) == .never && link.wakeTime(wantsInput: true) == .past)
    connection.isFull = true
    #expect(interests() == 0)
  }
}
