import CommandTable
import MsctlCore

extension Call {
  /// Builds the request that the command line describes; reads the files that it names. Its URL is the target's, where that
  /// is no template.
  static func request(_ options: Options, environment: [String: String]) throws(Failure) -> HTTPRequest {
    var request = HTTPRequest(url: options.target.map { url($0, options) } ?? "")
    request.leftOut = options.items.compactMap { if case .noHeader(let name) = $0 { name } else { nil } }
    request.headers = try headers(options, environment).filter { header in
      !request.leftOut.contains { header.isNamed($0) }
    }
    let (body, contentType) = try body(options)
    request.body = body
    let isBare = request.leftOut.contains { $0.lowercasedASCII.isSame(as: "content-type") }
    if let contentType, !isBare, request.header("Content-Type") == nil,
      let header = HTTPHeader("Content-Type", contentType)
    {
      request.headers.append(header)
    }
    request.method = options.method ?? (body == .none ? "GET" : "POST")
    request.redirects = options.follows ? 10 : 0
    request.cookies = try options.cookieJar.map { (jar) throws(Failure) in try CookieJar.read(jar.text) }
    if options.follows, request.cookies == nil { request.cookies = [] }
    request.connectTimeout = options.connectTimeout
    request.unixSocket = options.unixSocket
    request.silence = options.timeout == nil ? ServiceCall.silence : nil
    request.tls.authorityFile = options.authorityFile
    request.tls.verifies = !options.isInsecure
    if let file = options.certificateFile {
      for file in [file, options.keyFile].compactMap({ $0 }) { try checkReadable(file, what: "the client certificate") }
      request.tls.certificateFile = file
      request.tls.keyFile = options.keyFile
      request.tls.keyPassphrase = try options.passphrase?.read(environment)
    }
    if let source = options.digest {
      let (user, password) = try parts(ofLogin: try source.read(environment))
      request.digest = (String(user), String(password))
    }
    return request
  }

  /// The target's URL with the query of the items.
  static func url(_ target: CallTarget, _ options: Options) -> String {
    let pairs = options.items.compactMap { item -> String? in
      guard case .query(let name, let value) = item else { return nil }
      return Percent.encode(name) + "=" + Percent.encode(value)
    }
    guard !pairs.isEmpty else { return target.url }
    return target.url + (target.url.holds("?") ? "&" : "?") + pairs.joined(separator: "&")
  }

  private static func headers(_ options: Options, _ environment: [String: String]) throws(Failure) -> [HTTPHeader] {
    var given = options.headers.map(\.header)
    for case .header(let header) in options.items { given.append(header) }
    if let source = options.basic {
      let login = try source.read(environment)
      _ = try parts(ofLogin: login)
      given.append(try authorization("Basic " + Base64.encode(Array(login.utf8))))
    }
    if let source = options.bearer {
      given.append(try authorization("Bearer " + (try source.read(environment))))
    }
    let standard = [
      HTTPHeader("User-Agent", "msctl/" + Version.msctl), HTTPHeader("Accept", "application/json, */*;q=0.5"),
      HTTPHeader("traceparent", TraceContext(environment: environment).child().traceparent),
    ]
    return standard.compactMap { $0 }.filter { header in !given.contains { $0.isNamed(header.name) } } + given
  }

  /// Without a colon it is something else, such as a token, none of which may be shown or sent as a name.
  private static func parts(ofLogin login: String) throws(Failure) -> (Substring, Substring) {
    guard let (user, password) = login.cut(at: ":") else { throw Failure(.loginWithoutColon) }
    return (user, password)
  }

  private static func authorization(_ value: String) throws(Failure) -> HTTPHeader {
    guard let header = HTTPHeader("Authorization", value) else {
      throw Failure(.unsendableCredentials)
    }
    return header
  }

  private static func body(_ options: Options) throws(Failure) -> (HTTPRequest.Body, contentType: String?) {
    if let data = options.data {
      let file = data.isSame(as: "-") ? "-" : data.rest(after: "@").map { String($0) }
      let bytes = try file.map { (name) throws(Failure) in try readFile(name, what: "the body") } ?? Array(data.utf8)
      return (.bytes(bytes), (try? JSONValue(parsing: bytes)) == nil ? "text/plain; charset=utf-8" : "application/json")
    }
    let fields = options.items.filter(\.isField)
    if fields.isEmpty { return (.none, nil) }
    return options.isForm ? try form(fields) : (.bytes(try json(fields)), "application/json")
  }

  private static func json(_ fields: [CallItem]) throws(Failure) -> [UInt8] {
    var tree: JSONTree?
    for field in fields {
      let name: String
      let value: JSONValue
      switch field {
      case .string(let field, let source):
        name = field
        guard let text = String(validating: try bytes(source), as: UTF8.self) else {
          throw Failure(.itemNotText(field))
        }
        value = JSONValue(string: text)
      case .json(let field, let source):
        name = field
        let text = try bytes(source)
        do { value = try JSONValue(parsing: text) } catch {
          throw Failure(.itemNotJSON(field, error))
        }
      default: continue
      }
      var built = tree ?? .empty(for: name)
      do { try built.set(name, value) } catch { throw Failure(.conflictingItem(reason: error.reason)) }
      tree = built
    }
    return Array((tree ?? .object([])).value.text)
  }

  private static func form(_ fields: [CallItem]) throws(Failure) -> (HTTPRequest.Body, contentType: String?) {
    var parts: [HTTPFormPart] = []
    var hasFile = false
    for field in fields {
      switch field {
      case .string(let name, let source), .json(let name, let source):
        parts.append(HTTPFormPart(name: name, content: .bytes(try bytes(source))))
      case .upload(let name, let path):
        hasFile = true
        try checkReadable(path, what: "the file of '\(name)'")
        parts.append(HTTPFormPart(name: name, content: .file(path: path)))
      default: break
      }
    }
    if hasFile { return (.form(parts), nil) }
    let pairs = parts.map { part in
      guard case .bytes(let bytes) = part.content else { return "" }
      return Percent.encode(part.name) + "=" + Percent.encode(bytes: bytes)
    }
    return (.bytes(Array(pairs.joined(separator: "&").utf8)), "application/x-www-form-urlencoded")
  }

  private static func bytes(_ source: CallItem.Source) throws(Failure) -> [UInt8] {
    switch source {
    case .text(let text): Array(text.utf8)
    case .file(let path): try readFile(path, what: "a field")
    }
  }
}

extension HTTPRequest {
  /// Adds a new Idempotency-Key, unless the request has one.
  mutating func addIdempotencyKey() {
    guard header(Self.idempotencyKey) == nil else { return }
    headers += [HTTPHeader(Self.idempotencyKey, randomUUID())].compactMap { $0 }
  }
}
