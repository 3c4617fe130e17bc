import MsctlCore

extension Shop {
  /// An event as it came from the broker.
  public struct Event: Sendable {
    public let body: JSONValue
    /// The step that told it, and the one that handles it.
    public let caller: TraceContext
    public let step: TraceContext

    fileprivate init(_ message: Broker.Message) throws {
      body = try JSONValue(parsing: message.body)
      var caller = TraceContext()
      if case .string(let text) = message.content.properties.header("traceparent") {
        caller = TraceContext(text) ?? caller
      }
      self.caller = caller
      step = caller.child()
    }
  }

  /// Declares a queue that gets the events with these routing keys, as soon as the broker can be reached.
  public func makeQueue(_ name: String, for keys: [String]) {
    keepTrying("its queue waits") { try await broker.declareQueue(name, boundTo: Outbox.exchange, keys: keys) }
  }

  /// Handles events, each again and again until `handle` does not throw; only then it is acknowledged.
  public func handleEvents(
    _ keys: [String], from queue: String, _ handle: @escaping @Sendable (Event) async throws -> Void
  ) {
    keepTrying("events wait") {
      try await broker.declareQueue(queue, boundTo: Outbox.exchange, keys: keys)
      for try await message in broker.messages(of: queue, prefetch: 32) {
        do { try await handle(Event(message)) } catch {
          complain("an event goes back to its queue: \(error)")
          try await Task.sleep(for: .milliseconds(100))
          try await message.requeue()
          continue
        }
        try await message.acknowledge()
      }
    }
  }
}
