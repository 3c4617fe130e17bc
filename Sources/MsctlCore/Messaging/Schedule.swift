/// When the messages of a run are sent, unless something else keeps them.
struct Schedule: Sendable {
  /// What RabbitMQ's message timestamp plug-in adds: the time when the broker got a message, to the millisecond.
  private static let preciseTime = "timestamp_in_ms"

  private let timing: Publisher.Timing
  private var pace: Pace?
  /// When the first message that has a time was due, and its time in seconds.
  private var origin: (due: Deadline, time: Double)?

  init(_ timing: Publisher.Timing, at now: Deadline) {
    self.timing = timing
    if case .rate(let rate) = timing { pace = Pace(rate, at: now) }
  }

  /// When the message is due that is next.
  mutating func due(_ message: AMQPMessage, at now: Deadline) -> Deadline {
    switch timing {
    case .atOnce: return now
    case .rate: return pace?.next ?? now
    case .replay(let speed):
      guard let time = Self.time(of: message) else { return now }
      guard let origin else {
        self.origin = (now, time)
        return now
      }
      let nanoseconds = ((time - origin.time) / speed * 1e9).rounded()
      return origin.due + .nanoseconds(Int64(exactly: max(0, nanoseconds)) ?? .max)
    }
  }

  /// A message has been sent for the first time.
  mutating func sent(at now: Deadline) { pace?.began(at: now) }

  private static func time(of message: AMQPMessage) -> Double? {
    if let precise = message.properties.header(preciseTime)?.wholeNumber { return Double(precise) / 1000 }
    return message.properties.timestamp.map { Double($0) }
  }
}
