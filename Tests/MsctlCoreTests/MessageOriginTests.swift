import MsctlCore
import Testing

@Suite("The origin of a dead letter")
struct MessageOriginTests {
  private func death(_ queue: String, _ exchange: String, _ keys: [String], _ reason: String = "rejected") -> AMQPValue
  {
    .table([
      AMQPField("count", .integer(1)), AMQPField("reason", .string(reason)), AMQPField("queue", .string(queue)),
      AMQPField("time", .timestamp(1)), AMQPField("exchange", .string(exchange)),
      AMQPField("routing-keys", .array(keys.map { .string($0) })),
    ])
  }

  private func message(_ deaths: [AMQPValue], first: (queue: String, reason: String)?, _ more: [AMQPField] = [])
    -> AMQPMessage
  {
    var message = AMQPMessage(body: [0x31], exchange: "", routingKey: "dead")
    var headers = [AMQPField("h", .string("v"))] + more + [AMQPField("x-death", .array(deaths))]
    if let first {
      headers += [
        AMQPField("x-first-death-exchange", .string("?")), AMQPField("x-first-death-queue", .string(first.queue)),
        AMQPField("x-first-death-reason", .string(first.reason)),
        AMQPField("x-last-death-queue", .string("dead")),
      ]
    }
    message.properties.headers = headers
    return message
  }

  @Test("is that of the first death, wherever it stands among the others")
  func first() throws {
    let first = death("q", "shop", ["order.new"])
    let again = death("q", "", ["q"], "expired")
    let retry = death("retry", "", ["retry"], "expired")
    for deaths in [[first], [retry, first], [first, retry], [retry, first, again], [again, first, retry]] {
      let original = try #require(message(deaths, first: ("q", "rejected")).atOrigin)
      #expect(original.exchange == "shop" && original.routingKey == "order.new" && original.body == [0x31])
      #expect(original.properties.headers == [AMQPField("h", .string("v"))])
    }
    // Without a word which it was, it is the oldest record.
    #expect(message([retry, first], first: nil).atOrigin?.routingKey == "order.new")
  }

  @Test("has the sender's copies again that a broker has taken out")
  func copies() {
    let copies = AMQPField("CC", .array([.string("b"), .string("c")]))
    let taken = message([death("q", "e", ["a", "b", "c"])], first: ("q", "rejected"))
    #expect(taken.atOrigin?.properties.header("CC") == copies.value && taken.atOrigin?.routingKey == "a")
    let left = message([death("q", "e", ["a", "b", "c"])], first: ("q", "rejected"), [copies])
    #expect(left.atOrigin?.properties.headers == [AMQPField("h", .string("v")), copies])
  }

  @Test("is not known of what no broker has dead-lettered, nor of what only looks like it")
  func none() {
    var plain = AMQPMessage(body: [], exchange: "e", routingKey: "k")
    #expect(plain.atOrigin == nil)
    let wrong: [AMQPValue] = [
      .string("q"), .array([]), .array([.string("q")]), .array([.table([])]), .array([death("q", "e", [])]),
      .array([death("q", String(repeating: "e", count: 256), ["k"])]),
      .array([death("q", "e", [String(repeating: "k", count: 256)])]),
      .array([.table([AMQPField("exchange", .string("e")), AMQPField("routing-keys", .array([.integer(1)]))])]),
      .array([.table([AMQPField("exchange", .bytes([])), AMQPField("routing-keys", .array([.string("k")]))])]),
    ]
    for value in wrong {
      plain.properties.headers = [AMQPField("x-death", value)]
      #expect(plain.atOrigin == nil, "\(value)")
    }
    #expect(message([death("q", "e", ["k"])], first: ("other", "rejected")).atOrigin == nil)
    // Names that only look the same.
    #expect(message([death("e\u{301}", "e", ["k"])], first: ("\u{E9}", "rejected")).atOrigin == nil)
  }
}
