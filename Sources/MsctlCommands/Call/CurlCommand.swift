import MsctlCore

/// A call as the curl command that would make it (https://curl.se/docs/manpage.html).
enum CurlCommand {
  static func text(_ request: HTTPRequest, _ instance: ServiceInstance?, _ options: Call.Options) -> String {
    var words = ["curl"]
    var url = request.url
    if let instance {
      // Host and the name that the certificate must bear stay the service's.
      url = instance.scheme + url.drop { $0 != ":" }
      words += ["--connect-to", "::" + hostPort(instance.address, instance.port)]
    }
    if request.method == "HEAD" {
      words.append("--head")
    } else if request.method != (request.body == .none ? "GET" : "POST") {
      words += ["--request", request.method]
    }
    for header in request.headers {
      words += ["--header", header.value.isEmpty ? header.name + ";" : "\(header.name): \(header.shownValue)"]
    }
    for name in request.leftOut { words += ["--header", name + ":"] }
    switch request.body {
    case .none: break
    case .bytes(let bytes):
      if let text = String(validating: bytes, as: UTF8.self), !text.contains("\0") {
        words += ["--data-raw", text]
      } else {
        words += ["--data-binary", "@-"]
      }
    case .form(let parts):
      for part in parts {
        switch part.content {
        case .bytes(let bytes): words += ["--form-string", "\(part.name)=\(String(decoding: bytes, as: UTF8.self))"]
        case .file(let path): words += ["--form", "\(part.name)=@\(path)"]
        }
      }
    }
    if request.redirects > 0 { words += ["--location", "--max-redirs", String(request.redirects)] }
    if let timeout = options.timeout, timeout != .zero { words += ["--max-time", seconds(timeout)] }
    if request.connectTimeout != .zero { words += ["--connect-timeout", seconds(request.connectTimeout)] }
    if options.retries > 0 { words += ["--retry", String(options.retries)] }
    if let file = request.tls.authorityFile { words += ["--cacert", file] }
    if !request.tls.verifies { words.append("--insecure") }
    if let path = request.unixSocket { words += ["--unix-socket", path] }
    if let file = options.outputFile { words += ["--output", file] }
    words += ["--compressed", url]
    return words.map(shellQuoted).joined(separator: " ")
  }

  private static func seconds(_ duration: Duration) -> String { "\(Double(duration.milliseconds) / 1000)" }
}
