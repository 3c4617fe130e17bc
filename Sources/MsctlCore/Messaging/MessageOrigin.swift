extension AMQPMessage {
  /// What a broker writes into a message that it dead-letters (https://www.rabbitmq.com/docs/dlx#effects). Published again they would
  /// count deaths of before: RabbitMQ up to 3.13 then takes a second expiry for a cycle, and drops the message.
  private static let deathHeaders =
    ["x-death"]
    + ["first", "last"].flatMap { which in
      ["exchange", "queue", "reason"].map { "x-\(which)-death-\($0)" }
    }

  /// The message as it was first published: to the exchange and with the routing keys of its first death, without the headers of its
  /// deaths. Its expiration, which the broker took out, would only end it again.
  ///
  /// Nil where no broker has dead-lettered it, as far as its headers say.
  package var atOrigin: AMQPMessage? {
    guard let death = firstDeath, let exchange = death.text("exchange"),
      case .array(let values)? = death.value("routing-keys")
    else { return nil }
    let keys = values.compactMap { if case .string(let key) = $0 { key } else { nil } }
    guard let key = keys.first, keys.count == values.count,
      (keys + [exchange]).allSatisfy({ AMQPText.count($0) <= 255 })
    else { return nil }
    var message = self
    (message.exchange, message.routingKey) = (exchange, key)
    message.properties.headers?.removeAll { field in Self.deathHeaders.contains { field.name.isSame(as: $0) } }
    // A queue with a routing key for dead letters takes the sender's copies (CC) out of the headers, up to 3.13.
    if keys.count > 1, properties.header("CC") == nil {
      message.properties.headers?.append(AMQPField("CC", .array(Array(values.dropFirst()))))
    }
    if message.properties.headers?.isEmpty == true { message.properties.headers = nil }
    return message
  }

  /// The record of the first death. The order of the records is that of the last deaths, so that a message that went round has its
  /// first one anywhere.
  private var firstDeath: [AMQPField]? {
    guard case .array(let records)? = properties.header("x-death") else { return nil }
    let deaths = records.compactMap { if case .table(let fields) = $0 { fields } else { nil } }
    guard let headers = properties.headers, let queue = headers.text("x-first-death-queue"),
      let reason = headers.text("x-first-death-reason")
    else { return deaths.last }
    return deaths.last {
      $0.text("queue")?.isSame(as: queue) ?? false && $0.text("reason")?.isSame(as: reason) ?? false
    }
  }
}

extension AMQPDelivery {
  /// The delivery of the message as it was first published; see `AMQPMessage.atOrigin`.
  package var atOrigin: AMQPDelivery? {
    message.atOrigin.map { AMQPDelivery(message: $0, tag: tag, connection: connection, redelivered: redelivered) }
  }
}

extension [AMQPField] {
  fileprivate func value(_ name: String) -> AMQPValue? { first { $0.name.isSame(as: name) }?.value }
  fileprivate func text(_ name: String) -> String? { if case .string(let text)? = value(name) { text } else { nil } }
}
