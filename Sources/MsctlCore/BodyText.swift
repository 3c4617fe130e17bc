/// How the bytes of a body stand in JSON: as the JSON that they are, as a string of text, or as base64.
package struct BodyText: Sendable, Equatable {
  package enum Encoding: String, Sendable { case json, text, base64 }

  package let value: JSONValue
  package let encoding: Encoding

  /// - Parameter contentType: the type that the sender says it is. What it calls text is text, even where it looks like JSON.
  package init(_ bytes: [UInt8], contentType: String?) {
    let isText = contentType.map { $0.lowercased().hasPrefix("text/") && !$0.lowercased().hasPrefix("text/json") } ?? false
    if !isText, let json = try? JSONValue(parsing: bytes) {
      value = json
      encoding = .json
    } else if let text = String(validating: bytes, as: UTF8.self) {
      value = JSONValue(string: text)
      encoding = .text
    } else {
      value = JSONValue(string: Base64.encode(bytes))
      encoding = .base64
    }
  }

  /// Adds the fields `body` and, unless the body is JSON itself, `bodyEncoding` of an envelope.
  package func write(to object: inout JSONWriter) {
    object.field("body", value)
    if encoding != .json { object.field("bodyEncoding", encoding.rawValue) }
  }
}
