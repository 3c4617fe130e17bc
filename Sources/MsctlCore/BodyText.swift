/// How the bytes of a body stand in JSON: as the JSON that they are, as a string of text, or as base64.
package struct BodyText: Sendable, Equatable {
  package enum Encoding: String, Sendable { case json, text, base64 }

  package let value: JSONValue
  package let encoding: Encoding

  /// For reading: white space outside strings is dropped.
  /// - Parameter contentType: the type that the sender says it is. What it calls text is text, even where it looks like JSON.
  package init(_ bytes: [UInt8], contentType: String?) {
    self.init(bytes, json: Self.isText(contentType) ? nil : try? JSONValue(parsing: bytes))
  }

  /// For reading back: `value` holds the very bytes. JSON that spans lines stands as text, since an envelope is one line.
  package init(exactly bytes: [UInt8], contentType: String?) {
    let json = Self.isText(contentType) ? nil : try? JSONValue(parsing: bytes, keepsWhiteSpace: true)
    let isSame = json?.text.count == bytes.count && !bytes.contains { $0 == 0x0A || $0 == 0x0D }
    self.init(bytes, json: isSame ? json : nil)
  }

  private init(_ bytes: [UInt8], json: JSONValue?) {
    if let json {
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

  /// What the bytes of a body are, where nobody wants its value.
  package static func encoding(of bytes: [UInt8]) -> Encoding {
    if (try? JSONValue(parsing: bytes)) != nil { return .json }
    return String(validating: bytes, as: UTF8.self) != nil ? .text : .base64
  }

  private static func isText(_ contentType: String?) -> Bool {
    guard let type = contentType?.lowercasedASCII else { return false }
    return type.begins(with: "text/") && !type.begins(with: "text/json")
  }

  /// Adds the fields `body` and, unless the body is JSON itself, `bodyEncoding` of an envelope.
  package func write(to object: inout JSONWriter) {
    object.field("body", value)
    if encoding != .json { object.field("bodyEncoding", encoding.rawValue) }
  }
}
