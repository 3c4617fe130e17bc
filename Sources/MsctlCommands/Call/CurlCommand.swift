import MsctlCore

/// A call as the curl command that makes the same request (https://curl.se/docs/manpage.html).
enum CurlCommand {
  /// An argument of a command cannot be longer than 128 KiB on Linux; the body then comes through a pipe.
  private static let longestArgument = 100_000

  static func text(_ request: HTTPRequest, _ instance: ServiceInstance?, _ options: Call.Options) -> String {
    var words = Words("curl")
    var url = shownURL(request.url)
    if let instance {
      // Host and the name that the certificate must bear stay the service's.
      if let (_, rest) = url.cut(at: ":") { url = "\(instance.scheme):\(rest)" }
      words.add("--connect-to", "::" + hostPort(instance.address, instance.port), "--noproxy", "*")
    }
    // In a URL, curl would take brackets and braces for ranges and lists.
    if url.utf8.contains(where: { "[]{}".utf8.contains($0) }) { words.add("--globoff") }
    if request.method == "HEAD", request.body == .none {
      words.add("--head")
    } else if request.method != (request.body == .none ? "GET" : "POST") {
      words.add("--request", request.method)
    }
    // The type of a form in a pipe is written with its boundary.
    let hasOwnType = if case .form(let parts) = request.body { !parts.allSatisfy(canBeOption) } else { false }
    for header in request.headers where !hasOwnType || !isType(header.name) {
      words.add("--header", header.value.isEmpty ? header.name + ";" : "\(header.name): \(header.shownValue)")
    }
    for name in request.leftOut where !hasOwnType || !isType(name) { words.add("--header", name + ":") }
    let isNamed = { (name: String) in
      request.header(name) != nil || request.leftOut.contains { $0.lowercasedASCII == name.lowercasedASCII }
    }
    var feed: [String] = []
    switch request.body {
    case .none: break
    case .bytes(let bytes):
      if !isNamed("Content-Type") { words.add("--header", "Content-Type:") }
      addBody(masked(bytes, of: request), to: &words, &feed)
    case .form(let parts):
      let isBare = request.leftOut.contains(where: isType)
      let type = request.header("Content-Type") ?? (isBare ? "" : "multipart/form-data")
      addForm(parts.map(masked), type, to: &words, &feed)
    }
    // curl would wait for a go-ahead before a large body.
    if request.body != .none, !isNamed("Expect") { words.add("--header", "Expect:") }
    if let jar = options.cookieJar?.text {
      // To curl, a word with an equals sign is a cookie itself.
      words.add("--cookie", jar.holds("=") && !jar.begins(with: "/") ? "./" + jar : jar, "--cookie-jar", jar)
    } else if request.cookies != nil {
      words.add("--cookie", "")
    }
    if request.redirects > 0 {
      words.add("--location", "--max-redirs", String(request.redirects), "--proto-redir", "=http,https")
    }
    let limits = [options.timeout, options.attemptTimeout].compactMap { $0 }.filter { $0 != .zero }
    if let limit = limits.min() { words.add("--max-time", seconds(limit)) }
    if request.connectTimeout != .zero { words.add("--connect-timeout", seconds(request.connectTimeout)) }
    // curl repeats whatever the method is.
    if options.retries > 0, request.isIdempotent {
      words.add("--retry", String(options.retries), "--retry-connrefused")
    }
    if let file = request.tls.authorityFile { words.add("--cacert", file) }
    if let folder = request.tls.authorityFolder { words.add("--capath", folder) }
    if let file = request.tls.certificateFile { words.add("--cert", file) }
    if let file = request.tls.keyFile { words.add("--key", file) }
    if request.tls.keyPassphrase != nil { words.add("--pass", SecretName.mask) }
    if let (user, _) = request.digest { words.add("--digest", "--user", "\(user):\(SecretName.mask)") }
    if !request.tls.verifies { words.add("--insecure") }
    if let path = request.unixSocket { words.add("--unix-socket", path) }
    if let file = options.outputFile?.text { words.add("--output", file) }
    if request.acceptsCompression { words.add("--compressed") }
    words.add("--url", url)
    switch feed.count {
    case 0: return words.text
    case 1: return feed[0] + " | " + words.text
    default: return "{ " + feed.joined(separator: "; ") + "; } | " + words.text
    }
  }

  /// What curl does otherwise than msctl, and what the command does not show.
  static func remarks(_ request: HTTPRequest, _ options: Call.Options) -> [String] {
    var remarks: [String] = []
    if !options.retried.isEmpty {
      remarks.append("curl cannot choose the statuses that it retries: '--retry-on' is left out")
    }
    if request.redirects > 0 {
      remarks.append("curl sends your headers to another host, too, and keeps '--request' after a redirect")
    }
    if hasSecrets(request) {
      remarks.append(
        "the command shows '\(SecretName.mask)' instead of each secret; replace it before you run the command")
    }
    return remarks
  }

  private struct Words {
    private(set) var text: String

    init(_ text: String) { self.text = text }

    mutating func add(_ words: String...) {
      for word in words { add(bytes: Array(word.utf8)) }
    }

    mutating func add(bytes: [UInt8]) {
      text += " " + Shell.quoted(bytes)
    }
  }

  /// - Parameter feed: the commands whose output is curl's standard input.
  private static func addBody(_ bytes: [UInt8], to words: inout Words, _ feed: inout [String]) {
    let isText = bytes.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 0x0A }
    if bytes.count <= longestArgument, isText, String(validating: bytes, as: UTF8.self) != nil {
      words.add("--data-raw", String(decoding: bytes, as: UTF8.self))
    } else {
      feed.append(Shell.printing(bytes))
      words.add("--data-binary", "@-")
    }
  }

  // MARK: Forms

  private static func addForm(
    _ parts: [HTTPFormPart], _ type: String, to words: inout Words, _ feed: inout [String]
  ) {
    guard parts.allSatisfy(canBeOption) else { return addMultipart(parts, type, to: &words, &feed) }
    for part in parts {
      switch part.content {
      case .bytes(let bytes):
        words.add("--form-string")
        words.add(bytes: Array(part.name.utf8) + [UInt8(ascii: "=")] + bytes)
      case .file(let path):
        // Between double quotes a comma and a semicolon are parts of the name. A dash alone would be standard input.
        let quoted = (path == "-" ? "./-" : path).utf8.flatMap { byte in
          byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") ? [UInt8(ascii: "\\"), byte] : [byte]
        }
        words.add("--form")
        words.add(bytes: Array("\(part.name)=@\"".utf8) + quoted + [UInt8(ascii: "\"")])
      }
    }
  }

  /// Whether `--form` or `--form-string` can say it: a name ends at the first equals sign, and no argument holds NUL.
  private static func canBeOption(_ part: HTTPFormPart) -> Bool {
    guard !part.name.isEmpty, !part.name.holds("=") else { return false }
    if case .bytes(let bytes) = part.content { return bytes.count <= longestArgument && !bytes.contains(0) }
    return true
  }

  /// The body as libcurl would build it (RFC 7578).
  private static func addMultipart(
    _ parts: [HTTPFormPart], _ type: String, to words: inout Words, _ feed: inout [String]
  ) {
    let disposition = type.lowercasedASCII.begins(with: "multipart/form-data") ? "form-data" : "attachment"
    let boundary = "------------------------" + randomUUID().utf8.filter { $0 != UInt8(ascii: "-") }.prefix(16).text
    var pending: [UInt8] = []
    for part in parts {
      pending += "--\(boundary)\r\nContent-Disposition: \(disposition); name=\"\(escaped(part.name))\"".utf8
      switch part.content {
      case .bytes(let bytes): pending += Array("\r\n\r\n".utf8) + bytes
      case .file(let path):
        let name = path.parts(between: "/").last.map(String.init) ?? path
        pending += "; filename=\"\(escaped(name))\"\r\nContent-Type: \(contentType(name))\r\n\r\n".utf8
        feed += [Shell.printing(pending), "cat -- \(Shell.quoted(path == "-" ? "./-" : path))"]
        pending = []
      }
      pending += "\r\n".utf8
    }
    feed.append(Shell.printing(pending + Array("--\(boundary)--\r\n".utf8)))
    words.add("--header", "Content-Type: \(type); boundary=\(boundary)", "--data-binary", "@-")
  }

  private static func isType(_ name: String) -> Bool { name.lowercasedASCII == "content-type" }

  private static func escaped(_ name: String) -> String {
    let bytes = name.utf8.flatMap { byte -> [UInt8] in
      switch byte {
      case UInt8(ascii: "\""): Array("%22".utf8)
      case 0x0D: Array("%0D".utf8)
      case 0x0A: Array("%0A".utf8)
      default: [byte]
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// What libcurl guesses from a file's name.
  private static func contentType(_ name: String) -> String {
    let types = [
      (".gif", "image/gif"), (".jpg", "image/jpeg"), (".jpeg", "image/jpeg"), (".png", "image/png"),
      (".svg", "image/svg+xml"), (".txt", "text/plain"), (".htm", "text/html"), (".html", "text/html"),
      (".pdf", "application/pdf"), (".xml", "application/xml"),
    ]
    return types.first { name.lowercasedASCII.ends(with: $0.0) }?.1 ?? "application/octet-stream"
  }

  // MARK: Secrets

  private static func hasSecrets(_ request: HTTPRequest) -> Bool {
    if !shownURL(request.url).isSame(as: request.url) || request.digest != nil { return true }
    if request.tls.keyPassphrase != nil { return true }
    if request.headers.contains(where: { !$0.shownValue.isSame(as: $0.value) }) { return true }
    return switch request.body {
    case .none: false
    case .bytes(let bytes): masked(bytes, of: request) != bytes
    case .form(let parts): parts.contains { masked($0) != $0 }
    }
  }

  private static func masked(_ body: [UInt8], of request: HTTPRequest) -> [UInt8] {
    isForm(request) ? maskedFields(body[...]) : maskedMembers(body)
  }

  private static func isForm(_ request: HTTPRequest) -> Bool {
    request.header("Content-Type")?.lowercasedASCII.begins(with: "application/x-www-form-urlencoded") ?? false
  }

  private static func masked(_ part: HTTPFormPart) -> HTTPFormPart {
    guard case .bytes = part.content, SecretName.matches(part.name) else { return part }
    return HTTPFormPart(name: part.name, content: .bytes(Array(SecretName.mask.utf8)))
  }

  private static func seconds(_ duration: Duration) -> String { "\(Double(duration.milliseconds) / 1000)" }
}

extension Sequence<UInt8> {
  fileprivate var text: String { String(decoding: Array(self), as: UTF8.self) }
}
