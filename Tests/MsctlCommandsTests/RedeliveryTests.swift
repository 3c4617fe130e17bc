import MsctlCore
import Testing

@testable import MsctlCommands

private func message(_ id: String?, _ body: String, _ headers: [AMQPField] = []) -> AMQPMessage {
  var message = AMQPMessage(body: Array(body.utf8), exchange: "", routingKey: "q")
  message.properties.messageID = id
  if !headers.isEmpty { message.properties.headers = headers }
  return message
}

private func delivery(_ id: String?, _ body: String) -> AMQPDelivery {
  AMQPDelivery(message: message(id, body), tag: 1, connection: 1, redelivered: false)
}

@Suite("Messages that come again")
struct RedeliveryTests {
  @Test("a message is known by all that it says, but not by what the broker counts")
  func same() {
    #expect(message("a", "1").isSame(as: message("a", "1", [AMQPField("x-delivery-count", .integer(.max))])))
    #expect(!message("a", "1").isSame(as: message("a", "2")))
    #expect(!message("a", "1").isSame(as: message("b", "1")))
    #expect(!message("a", "1").isSame(as: message("a", "1", [AMQPField("k", .bool(true))])))
  }

  @Test("what is handled counts once for each")
  func handled() {
    var handled = HandledMessages()
    handled.add(message(nil, "1"))
    handled.add(message(nil, "1"))
    let taken = (1...3).map { _ in handled.take(message(nil, "1")) }
    #expect(taken == [true, true, false])
    #expect(handled.isEmpty)
  }

  @Test("an acknowledgement that may be lost is believed only where the id is the message's own")
  func acknowledged() {
    var recent = AcknowledgedMessages()
    for (id, body) in [("own", "1"), ("shared", "2"), ("shared", "2"), ("waits", "3")] {
      recent.add(delivery(id, body))
    }
    recent.add(delivery(nil, "4"))
    // Nothing is in doubt before a connection breaks.
    let before = recent.take(message("own", "1"))
    recent.connectionBroke(unhandled: [message("waits", "3")])
    let doubtful = [("shared", "2"), ("waits", "3"), (nil, "4")].map { recent.take(message($0.0, $0.1)) }
    let own = [recent.take(message("own", "1")), recent.take(message("own", "1"))]
    recent.connectionBroke(unhandled: [])
    let other = recent.take(message("own", "another"))
    #expect(!before && doubtful == [false, false, false] && own == [true, false] && !other)
  }

  @Test("a stream goes on with the first message that is not handled, at any offset")
  func streamPlace() {
    var place = StreamPlace()
    #expect(place.start == nil)
    for offset in [Int64(5), 6, 9] { place.deliver(offset) }
    place.handle(6)
    #expect(place.start == 5 && place.isHandled(6) && !place.isHandled(9))
    place.handle(5)
    #expect(place.start == 9)
    place.handle(9)
    #expect(place.start == 10 && place.hasSeen(9) && !place.hasSeen(10))
    place.deliver(.max)
    place.handle(.max)
    #expect(place.start == .max)
  }

  @Test("attempts are those of this run, whatever the broker counts")
  func attempts() {
    var attempts = Attempts()
    let huge = message("a", "1", [AMQPField("x-delivery-count", .integer(.max))])
    let counts = [attempts.add(huge), attempts.add(huge), attempts.add(message("a", "2"))]
    #expect(counts == [1, 2, 1])
    attempts.forget(message("a", "2"))
    #expect(attempts.count(huge) == 2)
  }

  @Test(
    "what has failed is known again when as many others as can be under way have failed since, and not all are kept")
  func limitedAttempts() {
    var attempts = Attempts(limit: 3)
    for body in ["1", "2", "3"] { _ = attempts.add(message("a", body)) }
    for body in ["1", "2", "3"] { _ = attempts.add(message("b", body)) }
    #expect(attempts.add(message("a", "1")) == 2)
    for body in ["1", "2", "3"] { _ = attempts.add(message("c", body)) }
    #expect([attempts.count(message("a", "1")), attempts.count(message("a", "2"))] == [2, 0])
  }
}
