import MsctlCore

extension Consume {
  /// Time limit for what the management API adds.
  private static let patience: Duration = .seconds(5)

  private final class Answer: @unchecked Sendable {
    var state: Result<AMQPConnection.QueueState, AMQPError>?
  }

  /// What there is in a queue, of which nothing is taken.
  static func showState(_ options: Options, _ console: Console) throws(Failure) {
    let queue = options.queue?.text ?? ""
    let answer = Answer()
    let connection = try options.broker.connect(as: "consume", console, EventLoop()) { connection in
      answer.state = Result { () throws(AMQPError) in try connection.inspectQueue(queue) }
    }
    defer { connection.close() }
    guard let result = answer.state else { return }
    let state: AMQPConnection.QueueState
    do throws(AMQPError) { state = try result.get() } catch {
      throw options.broker.failure(error, queue: queue, connection.uri)
    }
    let unacknowledged = unacknowledged(in: queue, connection.uri, options, console)
    var writer = JSONWriter()
    writer.object { object in
      object.field("queue", queue)
      object.field("messages", state.messages)
      object.field("consumers", state.consumers)
      if let unacknowledged { object.field("unacknowledged", unacknowledged) }
    }
    console.write(value: writer.value)
    try console.flush()
    if options.requires, state.messages == 0 { throw Failure(.emptyQueue(queue)) }
  }

  /// Only the management API knows that, and only where the user says where it is.
  private static func unacknowledged(
    in queue: String, _ uri: AMQPURI, _ options: Options, _ console: Console
  ) -> Int64? {
    guard let url = options.managementURL else { return nil }
    let path = "/queues/\(Percent.encode(uri.vhost))/\(Percent.encode(queue))?columns=messages_unacknowledged"
    do {
      let value = try ManagementAPI.get(path, of: url, beside: uri, within: patience, console)
      return value?["messages_unacknowledged"]?.integer
    } catch {
      console.note(.managementUnusable(reason: (error as? HTTPError)?.reason ?? "\(error)"))
      return nil
    }
  }
}
