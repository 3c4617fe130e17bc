extension Consumer {
  /// A new connection, its channel open.
  package struct Connection: Sendable, Equatable {
    package var id: UInt64
    package var heartbeat: Duration
    /// Whether the queue was found and the consumer asked for along with the opening: then its reply, or its refusal (`lost`),
    /// comes next.
    package var isConsumerAsked: Bool

    package init(id: UInt64, heartbeat: Duration, isConsumerAsked: Bool = false) {
      (self.id, self.heartbeat, self.isConsumerAsked) = (id, heartbeat, isConsumerAsked)
    }
  }

  /// What is to become of a message that was taken.
  package struct Settlement: Sendable, Equatable {
    package enum Outcome: Sendable, Equatable {
      /// Handled, once what was written for it is flushed.
      case acknowledge
      case requeue
      /// Dropped, or handed to the queue's dead-letter exchange.
      case reject
    }

    /// The number it was taken with.
    package var number: Int
    package var outcome: Outcome

    package init(_ number: Int, _ outcome: Outcome) { (self.number, self.outcome) = (number, outcome) }
  }

  /// What the one who handles the messages says of itself.
  package struct HandlerState: Sendable, Equatable {
    /// Whether another message can be taken.
    package var hasRoom: Bool
    /// How many have failed and only wait to be requeued.
    package var failed: Int
    /// Whether nothing is left to be done once it was told to finish.
    package var isFinished: Bool
    /// Whether it wants no more messages, though nobody has told it to finish.
    package var hasEnded: Bool
    /// How many are answered, and settled only once it is sure that the answers are theirs.
    package var answered: Int
    /// How many it keeps until there are more, or `startBatch`.
    package var gathered: Int
    /// Whether it is silent, and may need more than it was given before it answers.
    package var wantsMore: Bool

    package init(
      hasRoom: Bool = true, failed: Int = 0, isFinished: Bool = false, hasEnded: Bool = false, answered: Int = 0,
      wantsMore: Bool = false, gathered: Int = 0
    ) {
      (self.hasRoom, self.failed, self.isFinished, self.hasEnded) = (hasRoom, failed, isFinished, hasEnded)
      (self.answered, self.wantsMore, self.gathered) = (answered, wantsMore, gathered)
    }
  }

  package enum Event: Sendable {
    /// A connection stands: the first event, and later the response to `connect`.
    case connected(Connection)
    /// No broker of the list let us in.
    case connectFailed(Failure)
    /// What the broker sent. Asked for by `wantsInput`.
    case broker(AMQPEvent)
    /// The connection or its channel is of no use any more.
    /// - unsent: the method that met the break; what was to be sent after it is dropped.
    /// - unread: what had come, and was not handed in.
    case lost(AMQPError, unsent: AMQPMethod?, unread: [AMQPMessage])
    /// The broker has ended the consumer; its word for that stands behind deliveries that were not handed in yet.
    case cancelAhead
    /// The response to `askElsewhere`: whether the queue is there, as far as another connection can know.
    case foundElsewhere(Bool)
    /// A message was taken, as `take` asked. The next one is handed on after this only.
    case taken(HandlerState)
    /// What was written for them stands in the output, not flushed yet.
    case settled([Settlement], HandlerState)
    /// It has changed, and settled nothing. The response to `finish`, too.
    case handler(HandlerState)
    /// It cannot go on.
    case handlerFailed(Failure)
    /// All that was written before `flush` is out.
    case flushed
    /// What is not flushed never will be; nil: for a reason that was told before.
    case outputLost(Failure?)
    /// The response to `save`: whether a copy is confirmed.
    case saved(AMQPDelivery, Bool)
    /// The response to `close`: all that was sent has been sent.
    case closed
    case interrupted(Int32)
    /// All that was ready is handed in, or `wakeTime` has come.
    /// - hasMore: what the broker sent is put by, since it was not wanted.
    case turn(hasMore: Bool)
  }

  package enum Action: Sendable, Equatable {
    case send(AMQPMethod)
    /// Opens a connection: `connected` or `connectFailed` tells.
    case connect
    /// Nobody waits for the connection any more that is being opened.
    case stopConnecting
    /// Ends a connection that is of no use.
    case disconnect
    /// Ends the connection in good order, after all that was sent: `closed` or `lost` tells.
    case close
    /// Hands a message on: `taken` tells, and `settled` or nothing what becomes of it. It is known by its number, whatever becomes of
    /// its connection.
    case take(Int, AMQPDelivery)
    /// What is under way with this number was delivered anew, by another connection, and may be counted anew.
    case renew(Int, AMQPDelivery)
    /// For a while no more messages may come: what it keeps until there are more is begun. `handler` or `settled` tells.
    case startBatch
    /// No more messages come: `handler` or `settled` tells how it is then.
    case finish
    /// Time is up: processes are told to end.
    case terminate
    /// `flushed` or `outputLost` tells.
    case flush
    /// What is not flushed is dropped, and what is written from here on.
    case discardOutput
    /// Bodies that come from here on are of no use.
    case dropBodies
    /// Publishes a message again that must not go back to the queue: `saved` tells.
    case save(AMQPDelivery, returnsLeft: Int)
    /// All of the stream that comes before this offset is handled.
    case keepPlace(Int64)
    /// Asks on another connection whether the queue is there: `foundElsewhere` tells.
    case askElsewhere
    case note(Note)
    /// Another failure, beside the one that ends the run.
    case report(Cause)
  }

  /// A remark.
  package enum Note: Sendable, Equatable {
    /// The queue has turned out to be a stream.
    case isStream
    case reconnecting(AMQPError)
    case reconnected
    /// The login was refused, and is tried again.
    case loginRefused(Failure)
    /// What was published to the exchange meanwhile is not in the new queue.
    case newQueue(exchange: String)
    /// Idle, with so many that the filter has not answered.
    case idleFilter(unprocessed: Int)
    /// So many are handled and not acknowledged.
    case unacknowledged(Int)
  }

  /// Why a run failed.
  package enum Cause: Sendable, Equatable {
    case interrupted(Int32)
    /// The time is over, or nothing came.
    case tooFew(handled: Int, of: Int)
    case output(Failure)
    case handling(Failure)
    /// What the broker said, or how the connection broke.
    case broker(AMQPError)
    /// No other connection came about.
    case unconnected(Failure)
    /// The connection broke again and again before anything was settled.
    case repeatedBreaks(AMQPError, breaks: Int, within: Duration, after: String?)
    case queueDeleted
    /// The broker requeued what was unacknowledged for too long.
    case consumerTimeout(String)
    /// A stream is never empty.
    case neverEmpties
    /// A message must not go back to the queue, so that no more can be peeked at.
    case spent
    /// So many are handled and not acknowledged, since the connection broke.
    case unacknowledged(Int, AMQPError?)
    case rejected(Int)
    case noMessages

    /// Whether what fails while the run ends says more than this.
    var isOutweighed: Bool {
      switch self {
      case .interrupted, .tooFew, .consumerTimeout: true
      case .broker(let error): error.kind == .timedOut
      case .handling(let failure), .output(let failure), .unconnected(let failure): failure.isOutweighed
      default: false
      }
    }

    var isOutputClosed: Bool { if case .output(let failure) = self { failure.code == .outputClosed } else { false } }
  }
}

extension Failure {
  fileprivate var isOutweighed: Bool {
    switch code {
    case .signal, .timedOut: true
    default: false
    }
  }
}
