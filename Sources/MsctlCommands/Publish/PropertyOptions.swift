import CommandTable
import MsctlCore

/// A header: `NAME=VALUE`, or `NAME:=JSON` as in the items of `call`.
struct HeaderField: ArgumentValue {
  let name: String
  let value: AMQPValue

  init(argument: String) throws(ValueError) {
    let pair = try NameValue(argument: argument)
    guard pair.name.ends(with: ":") else {
      (name, value) = (pair.name, .string(pair.value))
      return
    }
    name = String(decoding: pair.name.utf8.dropLast(), as: UTF8.self)
    guard !name.isEmpty else { throw ValueError("is not of the form NAME=VALUE or NAME:=JSON") }
    let json: JSONValue
    do { json = try JSONValue(parsing: pair.value.utf8) } catch {
      throw ValueError("has a value that is not JSON (\(error)); for a string, write '=' instead of ':='")
    }
    do { value = try Envelope.header(json) } catch { throw ValueError(error.reason) }
  }

  var argumentText: String? { nil }
}

/// The basic properties that options set.
struct PropertyOptions: Defaulted {
  var contentType: ShortString?
  var contentEncoding: ShortString?
  var headers: [HeaderField] = []
  var priority: Int?
  var correlationID: ShortString?
  var replyTo: ShortString?
  var ttl: Duration?
  var messageID: ShortString?
  var type: ShortString?
  var userID: ShortString?
  var appID: ShortString?
  var isTransient = false

  init() {}

  static let flags: [Flag<PropertyOptions>] = [
    .value("content-type", nil, "TYPE", into: \.contentType, "content_type (default: depends on the kind of message)"),
    .value("content-encoding", nil, "NAME", into: \.contentEncoding, "content_encoding"),
    .list("header", "H", "NAME=VALUE", into: \.headers, "Add a header; NAME:=JSON for a number, true or a list")
      .details("A type that JSON lacks is tagged, as in an envelope: 'n:={\"$int64\":5}'."),
    .number("priority", nil, "N", in: 0...255, into: \.priority, "priority"),
    .value("correlation-id", nil, "ID", into: \.correlationID, "correlation_id"),
    .value("reply-to", nil, "QUEUE", into: \.replyTo, "reply_to"),
    .value("ttl", nil, "TIME", into: \.ttl, "expiration: drop the message after TIME"),
    .value("message-id", nil, "ID", into: \.messageID, "message_id (default: a random UUID per message)")
      .details("The second message gets ID-2, the third ID-3, and so on."),
    .value("type", nil, "NAME", into: \.type, "type"),
    .value("user-id", nil, "NAME", into: \.userID, "user_id; the broker checks it"),
    .value("app-id", nil, "NAME", into: \.appID, "app_id (default: msctl)"),
    .toggle("transient", nil, into: \.isTransient, "Publish non-persistent messages (delivery mode 1)"),
  ].under("Properties")

  /// Sets what the options say, and leaves the rest.
  func apply(to properties: inout AMQPProperties) {
    func set(_ field: WritableKeyPath<AMQPProperties, String?>, _ text: String?) {
      if let text { properties[keyPath: field] = text }
    }
    set(\.contentType, contentType?.text)
    set(\.contentEncoding, contentEncoding?.text)
    set(\.correlationID, correlationID?.text)
    set(\.replyTo, replyTo?.text)
    set(\.expiration, ttl.map { String($0.milliseconds) })
    set(\.messageID, messageID?.text)
    set(\.type, type?.text)
    set(\.userID, userID?.text)
    set(\.appID, appID?.text)
    if let priority { properties.priority = UInt8(clamping: priority) }
    if isTransient { properties.deliveryMode = 1 }
    if !headers.isEmpty {
      let names = headers.map(\.name)
      properties.headers =
        (properties.headers ?? []).filter { header in !names.contains(where: header.name.isSame) }
        + headers.map { AMQPField($0.name, $0.value) }
    }
  }

  /// A message without body: what all messages of this command line have in common.
  func template(_ options: Publish.Options, _ trace: TraceContext) -> AMQPMessage {
    var properties = AMQPProperties()
    properties.contentType =
      options.isText || options.byLine ? "text/plain" : options.isRaw ? "application/octet-stream" : "application/json"
    properties.deliveryMode = 2
    properties.appID = "msctl"
    properties.headers = [AMQPField("traceparent", .string(trace.child().traceparent))]
    apply(to: &properties)
    return AMQPMessage(
      body: [], properties: properties, exchange: options.exchange?.text ?? "",
      routingKey: options.exchange == nil ? options.queue ?? "" : options.routingKey?.text ?? "")
  }
}
