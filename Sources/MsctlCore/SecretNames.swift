/// Which names of headers, query parameters and form fields say that their value is a secret. It is shown nowhere.
package enum SecretName {
  /// What stands for a secret.
  package static let mask = "***"

  /// Parts of names, wherever they stand.
  private static let parts = [
    "authoriz", "authentic", "oauth", "cookie", "token", "secret", "password", "passwd", "passphrase", "credential",
    "apikey", "accesskey", "subscriptionkey", "sharedkey", "privatekey", "jwt", "signature", "session", "assertion",
    "bearer", "hmac",
  ]
  /// Whole words of names, between characters that are neither letters nor digits.
  private static let words = ["auth", "xauth", "key", "sig", "sid", "pass", "pwd", "pw", "otp"]
  /// Names that look like a secret's, and hold none.
  private static let harmless = ["idempotency-key", "sec-websocket-key", "sort-key", "sort_key"]

  package static func matches(_ name: String) -> Bool {
    let name = name.lowercasedASCII
    guard !harmless.contains(where: { name.isSame(as: $0) }) else { return false }
    if parts.contains(where: { name.holds(text: $0) }) { return true }
    let pieces = name.utf8.split { !(0x61...0x7A).contains($0) && !(0x30...0x39).contains($0) }
    return pieces.contains { piece in words.contains { piece.elementsEqual($0.utf8) } }
  }
}

/// A URL, or a sentence's name of a place, as it may be shown: without a password, and without what secret parameters of its
/// query hold.
package func shownURL(_ url: String) -> String {
  var bytes = Array(url.utf8)[...]
  var shown: [UInt8] = []
  let query = bytes.firstIndex(of: UInt8(ascii: "?")) ?? bytes.endIndex
  if let start = authority(bytes[..<query]) {
    let end = bytes[start..<query].firstIndex(of: UInt8(ascii: "/")) ?? query
    if let at = bytes[start..<end].lastIndex(of: UInt8(ascii: "@")) {
      shown += bytes[..<start] + Array(SecretName.mask.utf8)
      bytes = bytes[at...]
    }
  }
  shown += bytes[..<query]
  guard query < bytes.endIndex else { return String(decoding: shown, as: UTF8.self) }
  let end = bytes[query...].firstIndex(of: UInt8(ascii: "#")) ?? bytes.endIndex
  shown.append(UInt8(ascii: "?"))
  shown += maskedFields(bytes[(query + 1)..<end])
  return String(decoding: shown + bytes[end...], as: UTF8.self)
}

/// `a=b&password=c`, of a query or a form, with the secrets masked.
package func maskedFields(_ fields: ArraySlice<UInt8>) -> [UInt8] {
  var shown: [UInt8] = []
  var rest = fields
  while true {
    let end = rest.firstIndex { $0 == UInt8(ascii: "&") || $0 == UInt8(ascii: ";") } ?? rest.endIndex
    let field = rest[..<end]
    if let equals = field.firstIndex(of: UInt8(ascii: "=")), equals + 1 < field.endIndex,
      SecretName.matches(decodedName(field[..<equals]))
    {
      shown += field[...equals] + Array(SecretName.mask.utf8)
    } else {
      shown += field
    }
    guard end < rest.endIndex else { return shown }
    shown.append(rest[end])
    rest = rest[(end + 1)...]
  }
}

private func decodedName(_ bytes: ArraySlice<UInt8>) -> String {
  let text = String(decoding: bytes, as: UTF8.self)
  return Percent.decode(text) ?? text
}

/// Where the part after `scheme://` begins.
private func authority(_ bytes: ArraySlice<UInt8>) -> Int? {
  let colon = bytes.firstIndex(of: UInt8(ascii: ":")) ?? bytes.endIndex
  return bytes[colon...].starts(with: "://".utf8) ? colon + 3 : nil
}
