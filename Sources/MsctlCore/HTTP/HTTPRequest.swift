import Glibc

// Not the HTTPField of swift-http-types (1.8): with it `msctl --help` takes 15 % more instructions, one call 8 %, and the file 6 MiB; and
// what comes in may be no token, which it cannot hold.

/// One header field (RFC 9110, section 5).
public struct HTTPHeader: Sendable, Equatable {
  /// The name.
  public let name: String
  /// The value.
  public let value: String

  /// - Returns: nil where the name is no token, or the value holds a control character (CR, LF, NUL): those would let a
  ///   value begin a header of its own.
  public init?(_ name: String, _ value: String) {
    guard isToken(name),
      value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 })
    else { return nil }
    self.name = name
    self.value = value
  }

  /// A header as it came in, whatever it holds.
  init(received name: String, _ value: String) {
    self.name = name
    self.value = value
  }

  /// Whether this is its name; the case of ASCII letters does not matter (RFC 9110, section 5.1).
  package func isNamed(_ other: String) -> Bool {
    name.utf8.elementsEqual(other.utf8) { lowercased($0) == lowercased($1) }
  }

  /// The value as it may be shown: a credential is masked, which headers of many names may be.
  package var shownValue: String {
    if SecretName.matches(name) { return SecretName.mask }
    return ["location", "content-location", "referer", "link", "refresh"].contains(name.lowercasedASCII)
      ? shownURL(value) : value
  }
}

private func lowercased(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte | 0x20 : byte }

/// Whether it is a token (RFC 9110, section 5.6.2), as methods and the names of headers are.
func isToken(_ text: String) -> Bool { !text.isEmpty && text.utf8.allSatisfy(isTokenByte) }

private func isTokenByte(_ byte: UInt8) -> Bool {
  switch byte {
  case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
    UInt8(ascii: "0")...UInt8(ascii: "9"):
    true
  default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
  }
}

/// A part of a `multipart/form-data` body.
package struct HTTPFormPart: Sendable, Equatable {
  package enum Content: Sendable, Equatable {
    case bytes([UInt8])
    /// The file is read while the body is sent.
    case file(path: String)
  }

  package let name: String
  package let content: Content

  package init(name: String, content: Content) {
    self.name = name
    self.content = content
  }
}

/// An HTTP request. Programs outside use its ``TLS`` alone.
public struct HTTPRequest: Sendable {
  package enum Body: Sendable, Equatable {
    case none
    case bytes([UInt8])
    case form([HTTPFormPart])
  }

  /// How the server proves who it is, and the client in turn. TLS 1.2 at least.
  public struct TLS: Sendable, Equatable {
    /// A file of authorities in PEM; nil: the system's.
    public var authorityFile: String?
    /// A folder of CA certificates.
    public var authorityFolder: String?
    /// A file with the client's certificate, in PEM.
    public var certificateFile: String?
    /// A file with its key; nil: the key stands in the certificate's file.
    public var keyFile: String?
    /// The passphrase of the key.
    public var keyPassphrase: String?
    /// Whether peer and host name are verified.
    public var verifies = true

    /// The CA certificates of the system.
    public init() {}
  }

  package var method: String
  package var url: String
  package var headers: [HTTPHeader] = []
  /// The names of headers that libcurl would add by itself, and is not to.
  package var leftOut: [String] = []
  package var body = Body.none
  /// Connects to this host and port, whatever the URL says; Host and SNI stay the URL's. No proxy is used then.
  package var connectTo: (host: String, port: Int)?
  package var unixSocket: String?
  package var tls = TLS()
  /// Whom to log in as where the server asks for it by a Digest challenge (RFC 7616).
  package var digest: (user: String, password: String)?
  /// How long connecting may take; zero: as long as the whole may.
  package var connectTimeout: Duration = .seconds(10)
  /// When the transfer must be over, redirects included.
  package var deadline = Deadline.never
  /// Ends a transfer in which no byte has moved for so long, in whole seconds.
  package var silence: Duration?
  package var usesProxy = true
  /// Whether the answer may come compressed; it is then unpacked.
  package var acceptsCompression = true
  /// Cookies that are sent to the hosts they are of, as lines of Netscape's cookie files. Those that a response sets are sent to
  /// where a redirect leads. Nil: none is kept.
  package var cookies: [String]?
  /// How many redirects are followed.
  package var redirects = 0

  package init(method: String = "GET", url: String) {
    self.method = method
    self.url = url
  }

  package func header(_ name: String) -> String? {
    headers.last { $0.isNamed(name) }?.value
  }

  /// The header that lets a service know a request that it has had before
  /// (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
  package static let idempotencyKey = "Idempotency-Key"

  /// Whether it may reach a service twice without doing its work twice (RFC 9110, section 9.2.2; RFC 10008 for QUERY).
  package var isIdempotent: Bool {
    ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "QUERY"].contains(method) || header(Self.idempotencyKey) != nil
  }
}

/// Status and headers of an answer.
public struct HTTPHead: Sendable, Equatable {
  /// The status code.
  public let status: Int
  /// The words after the status; empty in HTTP/2.
  public let reason: String
  /// The lines of the headers as they came: most are never asked for.
  private let lines: [UInt8]
  /// The URL that answered: after redirects the last one.
  public let url: String

  init(status: Int, reason: String, lines: [UInt8], url: String) {
    self.status = status
    self.reason = reason
    self.lines = lines
    self.url = url
  }

  /// All header fields.
  public var headers: [HTTPHeader] {
    var headers: [HTTPHeader] = []
    forEachField { name, value in
      headers.append(
        HTTPHeader(received: String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self)))
    }
    return headers
  }

  /// The value of a header, whatever the case of its name.
  public func header(_ name: String) -> String? {
    var found: String?
    forEachField { own, value in
      guard own.count == name.utf8.count, own.elementsEqual(name.utf8, by: { lowercased($0) == lowercased($1) }) else {
        return
      }
      found = String(decoding: value, as: UTF8.self)
    }
    return found
  }

  /// Calls `body` with the name and the value of each line that has both.
  private func forEachField(
    _ body: (_ name: Slice<UnsafeRawBufferPointer>, _ value: Slice<UnsafeRawBufferPointer>) -> Void
  ) {
    lines.withUnsafeBytes { lines in
      var start = 0
      while let end = place(of: 0x0A, in: lines, from: start, to: lines.count) {
        let line = start..<end
        start = end + 1
        guard let colon = place(of: UInt8(ascii: ":"), in: lines, from: line.lowerBound, to: end) else { continue }
        let value = lines[(colon + 1)..<end].drop { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
        let lineEnd = place(of: UInt8(ascii: "\r"), in: lines, from: value.startIndex, to: end) ?? end
        body(lines[line.lowerBound..<colon], lines[value.startIndex..<lineEnd])
      }
    }
  }

  private func place(of byte: UInt8, in bytes: UnsafeRawBufferPointer, from start: Int, to end: Int) -> Int? {
    guard start < end, let base = bytes.baseAddress else { return nil }
    return memchr(base + start, Int32(clamping: byte), end - start).map { UnsafeRawPointer($0) - base }
  }

  /// The headers in their order, those with the same name together.
  package var grouped: [(name: String, values: [String])] {
    var groups: [(name: String, values: [String])] = []
    for header in headers {
      if let place = groups.firstIndex(where: { header.isNamed($0.name) }) {
        groups[place].values.append(header.value)
      } else {
        groups.append((header.name, [header.value]))
      }
    }
    return groups
  }

  /// Whether the body says that it is JSON: `application/json`, NDJSON, or a type that ends in `+json`.
  package var isJSON: Bool {
    guard let field = header("Content-Type") else { return false }
    let type = field.utf8.prefix { $0 != UInt8(ascii: ";") }.filter { $0 != 0x20 && $0 != 0x09 }
    let name = String(decoding: type, as: UTF8.self).lowercasedASCII
    return ["application/json", "text/json", "application/x-ndjson", "application/jsonl"].contains {
      name.isSame(as: $0)
    }
      || name.ends(with: "+json")
  }
}

/// A whole answer, for those that are small.
package struct HTTPResponse: Sendable {
  package let head: HTTPHead
  package let body: [UInt8]
}

/// Why a transfer failed, before an answer or in the middle of it.
public struct HTTPError: Error, Sendable, Equatable {
  /// What kind of error it is.
  public enum Kind: Sendable {
    case malformedURL
    case unreachable
    case timedOut
    /// The server could not prove who it is, or wants a certificate.
    case tls
    /// The client's own certificate or its key cannot be used.
    case certificate
    /// The connection broke, or what came is not HTTP.
    case broken
    case tooLarge
  }

  /// What kind of error it is.
  public let kind: Kind
  /// The cause in a few words: `connection refused`.
  public let reason: String

  package init(kind: Kind, reason: String) {
    self.kind = kind
    self.reason = reason
  }

  var code: Failure.Code {
    switch kind {
    case .malformedURL, .certificate: .usage
    case .unreachable, .tls, .broken: .unreachable
    case .timedOut: .timedOut
    case .tooLarge: .failed
    }
  }

  /// As a failure.
  /// - Parameter target: the URL, or the name of what was called.
  package func failure(reaching target: String) -> Failure { Failure(code, .http(self, target: shownURL(target))) }
}
