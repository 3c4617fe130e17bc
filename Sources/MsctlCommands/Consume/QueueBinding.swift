import MsctlCore

/// What binds the queue of `consume` to an exchange.
struct QueueBinding {
  let binding: Consumer.Options.Binding
  /// The queue's name; nil: the broker names it.
  private let queue: String?
  /// Whether the keys were asked for.
  private let namesKeys: Bool

  /// Nil without an exchange.
  init?(_ options: Consume.Options) {
    guard let exchange = options.exchange?.text else { return nil }
    queue = options.queue?.text
    namesKeys = !options.bindings.isEmpty
    var arguments = amqpFields(options.broker.queueArguments)
    if let expires = options.expires {
      arguments.append(AMQPField("x-expires", .integer(Int64(clamping: expires.milliseconds))))
    }
    let kind: Consumer.Options.Binding.Queue =
      if queue == nil {
        .brokerNamed
      } else if options.isExclusive {
        .exclusive(arguments: arguments)
      } else if options.expires != nil {
        .declared(arguments: arguments)
      } else {
        .existing
      }
    binding = Consumer.Options.Binding(
      kind, to: exchange, keys: namesKeys ? options.bindings.map(\.text) : ["#"],
      arguments: amqpFields(options.bindArguments))
  }

  /// Makes sure that the exchange is there, and that it looks at what the queue is to be bound with: another type of exchange would
  /// take that, and route everything to the queue, or nothing.
  func check(on connection: AMQPConnection) throws(Failure) {
    let type: String?
    do throws(AMQPError) { type = try connection.exchangeType(binding.exchange) } catch {
      throw failure(error, connection)
    }
    guard let type, let misfit = misfit(with: type) else { return }
    throw Failure(.unfitBinding(exchange: binding.exchange, type: type, misfit))
  }

  private func misfit(with type: String) -> BindingMisfit? {
    let comparesHeaders = type.isSame(as: "headers")
    if comparesHeaders, namesKeys { return .keyForHeaders(binding.keys.first ?? "") }
    if !binding.arguments.isEmpty, ["direct", "topic", "fanout"].contains(where: type.isSame) { return .headersForKey }
    if type.isSame(as: "direct"), !namesKeys { return .noKey }
    // An empty key, as others write it, filters nothing.
    if type.isSame(as: "fanout"), let key = binding.keys.first(where: { !$0.isEmpty && !$0.isSame(as: "#") }) {
      return .keyForAll(key)
    }
    return nil
  }

  /// Declares the queue, where it is not one that is taken as it is.
  func declareQueue(_ broker: BrokerOptions, on connection: AMQPConnection) throws(Failure) -> String {
    var isOpen = false
    do throws(AMQPError) {
      switch binding.queue {
      case .brokerNamed: return try connection.declareExclusiveQueue("", arguments: [])
      case .exclusive(let arguments):
        do throws(AMQPError) {
          return try connection.declareExclusiveQueue(queue ?? "", arguments: arguments)
        } catch {
          if error.kind == .channelClosed(code: 405) { isOpen = try isShared(on: connection) }
          throw error
        }
      case .declared(let arguments): return try connection.declareQueue(queue ?? "", arguments: arguments).name
      case .existing: return queue ?? ""
      }
    } catch {
      if isOpen { throw Failure(.notExclusive(queue: queue ?? "")) }
      throw broker.failure(error, queue: queue ?? "", connection.uri)
    }
  }

  /// Whether the queue is one for all: the broker refuses to declare it exclusive with the same words as another connection's own.
  private func isShared(on connection: AMQPConnection) throws(AMQPError) -> Bool {
    try connection.openChannel()
    do throws(AMQPError) {
      _ = try connection.inspectQueue(queue ?? "")
      return true
    } catch {
      guard error.kind == .channelClosed(code: 405) else { throw error }
      return false
    }
  }

  func bind(_ queue: String, on connection: AMQPConnection) throws(Failure) {
    do throws(AMQPError) {
      for key in binding.keys {
        try connection.bindQueue(queue, to: binding.exchange, key: key, arguments: binding.arguments)
      }
    } catch { throw failure(error, connection) }
  }

  private func failure(_ error: AMQPError, _ connection: AMQPConnection) -> Failure {
    var failure = error.failure(connection.uri)
    if case .channelClosed(code: 404) = error.kind {
      failure.hint = "'msctl consume' does not declare exchanges; check the name."
    }
    return failure
  }
}

/// What an exchange would not look at, and yet take.
enum BindingMisfit {
  case keyForHeaders(String)
  case keyForAll(String)
  case headersForKey
  /// One that would get nothing without a key.
  case noKey
}
