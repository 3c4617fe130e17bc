/// What a client asks of a broker, on its one channel. The reply to it, where there is one, is an `AMQPEvent`.
package enum AMQPMethod: Sendable, Equatable {
  /// `channel.open`; also anew, where the broker has closed it. Consumers, confirms and unacknowledged messages of the old one
  /// are gone. The reply is `channelOpen`.
  case openChannel
  /// `exchange.declare`: durable, made where it does not exist. The reply is `exchange`.
  case declareExchange(AMQPExchange)
  /// `queue.declare`: a durable queue with these arguments, made where it does not exist. The reply is `queue`.
  case declare(String, arguments: [AMQPField])
  /// `queue.declare` of a queue that is this connection's own and goes with it; the broker names it where the name is empty. The reply
  /// is `queue`.
  case declareExclusive(String, arguments: [AMQPField] = [])
  /// `queue.declare` with `passive`: the queue must exist, and is left as it is. The reply is `queue`; it comes after all that was
  /// delivered before it.
  case inspect(String)
  /// `queue.bind`. The reply is `bound`.
  case bind(String, exchange: String, key: String, arguments: [AMQPField] = [])
  /// `basic.qos`: how many deliveries may be unacknowledged; 0: no bound. The reply is `prefetchSet`.
  case setPrefetch(Int)
  /// `basic.consume`, with manual acknowledgement unless `isAutomatic`. The reply is `consuming`.
  case consume(String, arguments: [AMQPField], isAutomatic: Bool)
  /// `basic.cancel`: no more deliveries, those on their way excepted. The reply is `consumerEnded`.
  case cancel(consumer: String)
  /// `basic.ack` of this delivery, and with `multiple` of all before it.
  case acknowledge(UInt64, multiple: Bool)
  /// `basic.reject` of this delivery: back to the queue or, without `requeue`, dropped or dead-lettered.
  case reject(UInt64, requeue: Bool)
  /// `basic.nack` of this delivery, and with `multiple` of all before it: as `reject`, and RabbitMQ 4.3 does not count it as a failed
  /// delivery (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
  case refuse(UInt64, multiple: Bool, requeue: Bool)
  /// `basic.nack` of everything that was delivered and is not settled: back to the queue.
  case requeueAll
  /// `confirm.select`: from here on the broker confirms each message. The reply is `confirmsSelected`.
  case selectConfirms
  /// `basic.publish`, with `mandatory` where the message says so: one that reaches no queue comes back.
  indirect case publish(AMQPMessage)
}
