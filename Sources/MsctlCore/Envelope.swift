/// Why a JSON value is no envelope.
package struct EnvelopeError: Error, Equatable {
  package let reason: String
}

/// A message as one line of JSON, and back: the same body bytes and properties.
///
/// `{"body","bodyEncoding"?,"exchange","routingKey","redelivered","properties":{…}}`. A whole number in a header is a signed one
/// of 32 bits where it fits, else of 64, and a fraction one of 64 bits. Every other type is tagged: `{"$int64":1}`,
/// `{"$uint8":1}`, `{"$float32":1.5}`, `{"$bytes":"base64"}`, `{"$timestamp":seconds}`, `{"$decimal":"1.25"}`,
/// `{"$double":"nan"}`, `{"$string":"base64"}` (text that is not UTF-8); a table whose only field begins with `$` stands in
/// `{"$table":{…}}`.
package enum Envelope {
  /// What a broker adds to the headers on delivery. It is shown, as plain numbers, and not published again: beside what the
  /// next broker adds it would be wrong.
  private static let brokersOwn = ["x-delivery-count", "x-acquired-count", "x-stream-offset"]

  /// - Parameter number: what it is to be known by, where it may have no id.
  package static func write(_ message: AMQPMessage, redelivered: Bool, number: Int? = nil) -> JSONValue {
    var writer = JSONWriter()
    writer.object { object in
      BodyText(exactly: message.body, contentType: message.properties.contentType).write(to: &object)
      object.field("exchange", message.exchange)
      object.field("routingKey", message.routingKey)
      object.field("redelivered", redelivered)
      if let number { object.field("deliveryTag", number) }
      object.key("properties")
      object.object { write(message.properties, to: &$0) }
    }
    return writer.value
  }

  /// - Parameter value: read with its white space kept, so that the body's bytes are the same.
  /// - Returns: the message; its properties are nil where the envelope has none at all.
  package static func read(_ value: JSONValue) throws(EnvelopeError) -> (message: AMQPMessage, hasProperties: Bool) {
    guard value.kind == .object else { throw EnvelopeError(reason: "is not an object") }
    guard let body = value["body"] else { throw EnvelopeError(reason: "has no 'body'") }
    let bytes: [UInt8]
    switch try text(value, "bodyEncoding") {
    case nil: bytes = Array(body.text)
    case BodyText.Encoding.text.rawValue:
      guard let string = body.string else { throw EnvelopeError(reason: "has a 'body' that is not a string of text") }
      bytes = Array(string.utf8)
    case BodyText.Encoding.base64.rawValue:
      guard let decoded = body.string.flatMap(Base64.decode) else {
        throw EnvelopeError(reason: "has a 'body' that is not base64")
      }
      bytes = decoded
    case let other?: throw EnvelopeError(reason: "has the 'bodyEncoding' '\(other)', which is not text or base64")
    }
    var message = AMQPMessage(
      body: bytes, exchange: try text(value, "exchange") ?? "", routingKey: try text(value, "routingKey") ?? "")
    guard let properties = value["properties"] else { return (message, false) }
    message.properties = try readProperties(properties)
    return (message, true)
  }

  private static func text(_ object: JSONValue, _ name: String) throws(EnvelopeError) -> String? {
    guard let value = object[name] else { return nil }
    guard let string = value.string else { throw EnvelopeError(reason: "has a '\(name)' that is not a string") }
    return string
  }

  // MARK: Properties

  /// The properties that are short strings, by their names in an envelope.
  private static let strings: [(name: String, field: WritableKeyPath<AMQPProperties, String?> & Sendable)] = [
    ("contentType", \.contentType), ("contentEncoding", \.contentEncoding), ("correlationId", \.correlationID),
    ("replyTo", \.replyTo), ("expiration", \.expiration), ("messageId", \.messageID), ("type", \.type),
    ("userId", \.userID), ("appId", \.appID), ("clusterId", \.clusterID),
  ]

  private static func write(_ properties: AMQPProperties, to object: inout JSONWriter) {
    for (name, field) in strings {
      if let text = properties[keyPath: field] { object.field(name, text) }
    }
    if let mode = properties.deliveryMode { object.field("deliveryMode", mode) }
    if let priority = properties.priority { object.field("priority", priority) }
    if let timestamp = properties.timestamp { object.field("timestamp", timestamp) }
    if let headers = properties.headers {
      object.key("headers")
      object.object { object in
        for field in headers {
          object.key(field.name)
          if brokersOwn.contains(where: field.name.isSame), let number = field.value.wholeNumber {
            object.integer(number)
          } else {
            write(field.value, to: &object)
          }
        }
      }
    }
  }

  private static func readProperties(_ value: JSONValue) throws(EnvelopeError) -> AMQPProperties {
    guard value.kind == .object else { throw EnvelopeError(reason: "has 'properties' that are not an object") }
    var properties = AMQPProperties()
    for (name, value) in value.members {
      if let field = strings.first(where: { $0.name.isSame(as: name) })?.field {
        guard let text = value.string, AMQPText.count(text) <= 255 else {
          throw EnvelopeError(reason: "has the property '\(name)', which is not a string of at most 255 bytes")
        }
        properties[keyPath: field] = text
        continue
      }
      switch name {
      case "deliveryMode": properties.deliveryMode = try integer(value, name)
      case "priority": properties.priority = try integer(value, name)
      case "timestamp": properties.timestamp = try integer(value, name)
      case "headers":
        guard value.kind == .object else { throw EnvelopeError(reason: "has 'headers' that are not an object") }
        // Not a tagged value, whatever its only name is.
        properties.headers = try fields(value.members).filter { field in !brokersOwn.contains(where: field.name.isSame)
        }
      default: throw EnvelopeError(reason: "has the property '\(name)', which AMQP does not have")
      }
    }
    return properties
  }

  private static func integer<I: FixedWidthInteger>(_ value: JSONValue, _ name: String) throws(EnvelopeError) -> I {
    guard let number = I(value.description) else {
      throw EnvelopeError(reason: "has the property '\(name)', which is not a number between 0 and \(I.max)")
    }
    return number
  }

  // MARK: Headers

  private static func write(_ fields: [AMQPField], to writer: inout JSONWriter) {
    writer.object { object in
      for field in fields {
        object.key(field.name)
        write(field.value, to: &object)
      }
    }
  }

  private static func write(_ value: AMQPValue, to writer: inout JSONWriter) {
    func tagged(_ tag: String, _ text: String) { writer.object { $0.field(tag, text) } }
    switch value {
    case .bool(let flag): writer.bool(flag)
    case .narrow(.int32, let number): writer.integer(number)
    case .narrow(let width, let number): writer.object { $0.field("$" + width.rawValue, number) }
    case .integer(let number):
      if Int32(exactly: number) == nil { writer.integer(number) } else { writer.object { $0.field("$int64", number) } }
    case .unsigned(let number): writer.object { $0.field("$uint64", number) }
    case .float(let number):
      guard number.isFinite else { return tagged("$float32", String(number)) }
      writer.object { object in
        object.key("$float32")
        object.number(String(number))
      }
    case .double(let number):
      // Swift writes a fraction or an exponent always, so that it reads back as no integer.
      if number.isFinite { writer.number(String(number)) } else { tagged("$double", String(number)) }
    case .string(let text):
      if let bytes = AMQPText.bytes(text) { tagged("$string", Base64.encode(bytes)) } else { writer.string(text) }
    case .bytes(let bytes): tagged("$bytes", Base64.encode(bytes))
    case .timestamp(let seconds): writer.object { $0.field("$timestamp", seconds) }
    case .decimal(let scale, let number): tagged("$decimal", decimal(scale, number))
    case .table(let fields):
      if fields.count == 1, fields[0].name.begins(with: "$") {
        writer.object { object in
          object.key("$table")
          write(fields, to: &object)
        }
      } else {
        write(fields, to: &writer)
      }
    case .array(let values):
      writer.array { array in
        for value in values { write(value, to: &array) }
      }
    case .void: writer.raw(.null)
    }
  }

  /// The value of a header, with its type: what JSON has no type for is tagged.
  package static func header(_ value: JSONValue) throws(EnvelopeError) -> AMQPValue {
    switch value.kind {
    case .null: return .void
    case .bool: return .bool(value.bool ?? false)
    case .string: return .string(value.string ?? "")
    case .number:
      let text = value.description
      if let number = Int64(text) { return Int32(exactly: number) == nil ? .integer(number) : .narrow(.int32, number) }
      guard let number = Double(text), number.isFinite else {
        throw EnvelopeError(reason: "has the header value \(text), which is too large")
      }
      return .double(number)
    case .array:
      var values: [AMQPValue] = []
      for element in value.elements { values.append(try header(element)) }
      return .array(values)
    case .object:
      let members = value.members
      if members.count == 1, members[0].name.begins(with: "$") { return try tagged(members[0].name, members[0].value) }
      return .table(try fields(members))
    }
  }

  private static func fields(_ members: [(name: String, value: JSONValue)]) throws(EnvelopeError) -> [AMQPField] {
    var fields: [AMQPField] = []
    for member in members {
      guard AMQPText.count(member.name) <= 255 else {
        throw EnvelopeError(reason: "has a header's name of over 255 bytes")
      }
      fields.append(AMQPField(member.name, try header(member.value)))
    }
    return fields
  }

  /// The values of a type with fewer than 64 bits.
  private static func range(_ width: AMQPValue.Width) -> ClosedRange<Int64> {
    switch width {
    case .int8: -0x80...0x7F
    case .uint8: 0...0xFF
    case .int16: -0x8000...0x7FFF
    case .uint16: 0...0xFFFF
    case .int32: -0x8000_0000...0x7FFF_FFFF
    case .uint32: 0...0xFFFF_FFFF
    }
  }

  private static func tagged(_ tag: String, _ value: JSONValue) throws(EnvelopeError) -> AMQPValue {
    if let width = AMQPValue.Width(rawValue: String(tag.dropFirst())) {
      guard let number = value.integer, range(width).contains(number) else {
        throw EnvelopeError(reason: "has a header value tagged '\(tag)' that is not such a number")
      }
      return .narrow(width, number)
    }
    let found: AMQPValue? =
      switch tag {
      case "$int64": value.integer.map { .integer($0) }
      case "$uint64": UInt64(value.description).map { .unsigned($0) }
      case "$float32": value.kind == .number ? Float(value.description).flatMap { $0.isFinite ? .float($0) : nil } : nil
      case "$bytes": value.string.flatMap(Base64.decode).map { .bytes($0) }
      case "$string":
        value.string.flatMap(Base64.decode).map { bytes in .string(bytes.withUnsafeBytes { AMQPText.text($0) }) }
      case "$timestamp": UInt64(value.description).map { .timestamp($0) }
      case "$decimal": value.string.flatMap(decimal)
      case "$table": value.kind == .object ? .table(try fields(value.members)) : nil
      default: nil
      }
    // Written for whoever reads it, but a broker of RabbitMQ closes the connection that sends it one.
    guard tag != "$double", tag != "$float32" || value.kind != .string else {
      throw EnvelopeError(reason: "has the header value \(value.description), a number that RabbitMQ cannot carry")
    }
    guard let found else {
      throw EnvelopeError(reason: "has a header value tagged '\(tag)', which is not a known type")
    }
    return found
  }

  private static func decimal(_ scale: UInt8, _ value: Int32) -> String {
    let digits = String(value.magnitude)
    let padded = String(repeating: "0", count: max(0, Int(clamping: scale) + 1 - digits.count)) + digits
    let point = padded.utf8.dropLast(Int(clamping: scale)).endIndex
    return (value < 0 ? "-" : "") + padded[..<point] + (scale == 0 ? "" : "." + padded[point...])
  }

  private static func decimal(_ text: String) -> AMQPValue? {
    let parts = text.parts(between: ".")
    guard parts.count <= 2, let value = Int32(parts.joined()) else { return nil }
    let scale = parts.count == 2 ? parts[1].utf8.count : 0
    return scale <= 255 && !parts[0].isEmpty ? .decimal(scale: UInt8(clamping: scale), value: value) : nil
  }
}
