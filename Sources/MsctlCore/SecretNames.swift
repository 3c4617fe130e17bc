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
  var query = bytes.firstIndex(of: UInt8(ascii: "?")) ?? bytes.endIndex
  if let start = authority(bytes[..<query]), let at = endOfLogin(bytes[start...]) {
    shown += bytes[..<start] + Array(SecretName.mask.utf8)
    bytes = bytes[at...]
    query = bytes.firstIndex(of: UInt8(ascii: "?")) ?? bytes.endIndex
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

/// JSON, or what begins like it, with the values of members masked whose names say that they are secrets. All other bytes stay.
package func maskedMembers(_ json: [UInt8]) -> [UInt8] {
  let isSpace: (UInt8) -> Bool = { " \n\r\t".utf8.contains($0) }
  var shown: [UInt8] = []
  var rest = json[...]
  while let byte = rest.first {
    guard byte == UInt8(ascii: "\"") else {
      shown.append(byte)
      rest = rest.dropFirst()
      continue
    }
    let end = endOfJSON(rest)
    let text = rest[..<end]
    shown += text
    rest = rest[end...]
    let colon = rest.drop(while: isSpace)
    let value = colon.dropFirst().drop(while: isSpace)
    guard colon.first == UInt8(ascii: ":"), let first = value.first, !"tfn".utf8.contains(first),
      SecretName.matches((try? JSONValue(parsing: text))?.string ?? String(decoding: text, as: UTF8.self))
    else { continue }
    shown += rest[..<value.startIndex] + Array("\"\(SecretName.mask)\"".utf8)
    rest = rest[endOfJSON(value)...]
  }
  return shown
}

/// Where the value ends that the text begins with; what is no JSON ends with the text.
private func endOfJSON(_ text: ArraySlice<UInt8>) -> Int {
  var depth = 0
  var isString = false
  var isEscaped = false
  for (index, byte) in zip(text.indices, text) {
    if isString {
      if !isEscaped, byte == UInt8(ascii: "\"") {
        isString = false
        if depth == 0 { return index + 1 }
      }
      isEscaped = !isEscaped && byte == UInt8(ascii: "\\")
      continue
    }
    switch byte {
    case UInt8(ascii: "\""): isString = true
    case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
    case UInt8(ascii: "}"), UInt8(ascii: "]"):
      if depth <= 1 { return depth == 0 ? index : index + 1 }
      depth -= 1
    case _ where depth == 0 && ", \n\r\t".utf8.contains(byte): return index
    default: break
    }
  }
  return text.endIndex
}

private func decodedName(_ bytes: ArraySlice<UInt8>) -> String {
  let text = String(decoding: bytes, as: UTF8.self)
  return Percent.decode(text) ?? text
}

/// Where the part after `scheme://`, or after `//` at the beginning, begins.
private func authority(_ bytes: ArraySlice<UInt8>) -> Int? {
  if bytes.starts(with: "//".utf8) { return bytes.startIndex + 2 }
  let colon = bytes.firstIndex(of: UInt8(ascii: ":")) ?? bytes.endIndex
  return bytes[colon...].starts(with: "://".utf8) ? colon + 3 : nil
}

/// The place of the '@' after `user:password`; nil where there is no login.
///
/// A password with a raw '/', '?' or '#' ends the authority early for every reader of URLs, and what follows may still be the
/// password. So a login ends at the last '@'. Where the authority has none, a colon that no port follows tells a login.
private func endOfLogin(_ bytes: ArraySlice<UInt8>) -> Int? {
  let end = bytes.firstIndex { "/?#".utf8.contains($0) } ?? bytes.endIndex
  let authority = bytes[..<end]
  if !authority.contains(UInt8(ascii: "@")) {
    guard let colon = authority.lastIndex(of: UInt8(ascii: ":")), authority.last != UInt8(ascii: "]"),
      !authority[(colon + 1)...].allSatisfy({ (0x30...0x39).contains($0) })
    else { return nil }
  }
  // In a sentence the URL ends with a space.
  let url = bytes[..<(bytes[end...].firstIndex(of: UInt8(ascii: " ")) ?? bytes.endIndex)]
  return url.lastIndex(of: UInt8(ascii: "@"))
}
