extension Consumer {
  /// Who handles the messages, as far as that makes a difference.
  package enum Handling: Sendable, Equatable {
    /// Written one after the other; each is handled when it is flushed.
    case output
    /// One filter for all, which may need all of them before it answers the first. One that chooses answers in any order, and not
    /// all of them; else it answers all, in their order.
    case filter(chooses: Bool)
    /// As many commands at a time, each for as many messages at most; they end in any order.
    case commands(parallel: Int, batch: Int = 1)

    /// How many messages commands are at work on; nil where there are none.
    var parallel: Int? { if case .commands(let parallel, let batch) = self { parallel * batch } else { nil } }
    /// Whether a command may get several messages.
    var isOfBatches: Bool { if case .commands(_, batch: 2...) = self { true } else { false } }
    package var isFilter: Bool { if case .filter = self { true } else { false } }
    /// Whether messages are settled in the order in which they were handed on.
    var isInOrder: Bool {
      switch self {
      case .output, .filter(chooses: false): true
      case .filter(chooses: true), .commands: false
      }
    }
  }

  package struct Options: Sendable {
    /// What is consumed.
    package enum Source: Sendable, Equatable {
      case queue(String)
      /// A queue that is bound to an exchange on each connection; on the first one that is done already.
      case bound(Binding, queue: String)
    }

    /// How a queue is bound to an exchange, and what is made sure of before.
    package struct Binding: Sendable, Equatable {
      package enum Queue: Sendable, Equatable {
        /// Of this connection alone, with the same name on each.
        case exclusive(arguments: [AMQPField])
        /// Of this connection alone, and the broker names it.
        case brokerNamed
        /// Declared, unless it is there with these arguments.
        case declared(arguments: [AMQPField])
        /// It must be there, with whatever arguments.
        case existing
      }

      package var queue: Queue
      package var exchange: String
      package var keys: [String]
      package var arguments: [AMQPField]

      package init(_ queue: Queue, to exchange: String, keys: [String], arguments: [AMQPField] = []) {
        (self.queue, self.exchange, self.keys, self.arguments) = (queue, exchange, keys, arguments)
      }

      /// Whether the queue goes with its connection, and with it what it holds.
      var isExclusive: Bool {
        switch queue {
        case .exclusive, .brokerNamed: true
        case .declared, .existing: false
        }
      }

      /// What binds a queue of this name.
      package func methods(_ name: String) -> [AMQPMethod] {
        keys.map { .bind(name, exchange: exchange, key: $0, arguments: arguments) }
      }
    }

    package var source: Source
    package var handling = Handling.output
    package var traits = QueueTraits()
    /// Where in a stream to begin.
    package var offset = AMQPValue.string("first")
    /// What else the broker is told of the consumer, such as `x-priority` or `x-stream-filter`.
    package var consumerArguments: [AMQPField] = []
    /// How many messages are wanted; with `peeks` no more than were ready.
    package var limit: Int?
    /// Of how many messages one is handed on; the others are acknowledged unseen, so that the queue must be nobody else's.
    package var sample = 1
    /// Whether the place up to which a stream is handled is to be kept.
    package var keepsPlace = false
    /// How many are handed on at most.
    package var rate: Rate?
    /// How long it may go without a message and without work.
    package var idle: Duration?
    /// How long it may take.
    package var time: Duration?
    package var drains = false
    package var peeks = false
    /// Whether it fails where there was no message.
    package var requires = false
    /// How many deliveries may be unacknowledged at first; 0: no bound.
    package var prefetch = standardPrefetch
    /// How many may be for a filter that has read so many and is silent; nil: no more than that.
    package var roomForSilence: Int?
    /// How long the first connection may be tried for, where it is the driver that opens it.
    package var connectFor: Duration = .zero
    /// How long an outage may last; 0: there is no other connection.
    package var reconnectFor: Duration = .seconds(60)
    /// Whether a refused login may be followed by another password.
    package var awaitsPassword = false
    /// When consuming began, in seconds since 1970.
    package var began: Int64 = 0

    package init(_ source: Source) { self.source = source }

    /// Whether messages must be saved that a return would be the end of.
    var saves: Bool { peeks && traits.deliveryLimit != nil }

    /// How many messages commands are at work on; nil where there are none.
    var parallel: Int? { handling.parallel }

    /// What `basic.consume` says beside the queue. A priority of 0 is that of every consumer. A stream refuses any, and with that
    /// says what it is.
    /// - Parameters:
    ///   - offset: where a stream begins; nil for another queue.
    ///   - own: asked for.
    package static func arguments(streamOffset offset: AMQPValue?, _ own: [AMQPField]) -> [AMQPField] {
      if let offset { return [AMQPField("x-stream-offset", offset)] + own }
      let priority =
        own.contains { $0.name.isSame(as: "x-priority") } ? [] : [AMQPField("x-priority", .narrow(.int32, 0))]
      return priority + own
    }
  }

  package static let standardPrefetch = 100
  /// With commands, how many messages may be under way beside those whose command runs: failed ones that wait to go back must not
  /// keep the others from coming.
  package static let waitingRoom = 10

  /// The most that a prefetch can say.
  package static let mostHeld = 65535

  /// How many deliveries may be unacknowledged. With a limit, few beyond the last one wanted: see `acknowledge`. A filter may need
  /// all of them before it answers the first.
  ///
  /// What is delivered and not handled in the end is requeued. Where the broker counts that towards the delivery limit, a run
  /// that is sure to end takes no more than it can handle.
  /// - Parameters:
  ///   - asked: what the user wants.
  ///   - endsInTime: whether the run has a limit, of whatever kind.
  package static func prefetch(
    _ asked: Int?, for handling: Handling, limit: Int?, endsInTime: Bool, countsReturns: Bool
  ) -> Int {
    var parallel = 1
    var (most, sure) = (standardPrefetch, waitingRoom)
    if let number = handling.parallel {
      parallel = number
      (most, sure) = (number + waitingRoom, number)
    }
    most = asked ?? most
    if countsReturns, endsInTime, !handling.isFilter { most = min(most, sure) }
    guard let limit else { return most }
    if handling.isFilter { return min(asked ?? mostHeld, limit) }
    return max(min(parallel, limit), min(most, limit / 10))
  }
}
