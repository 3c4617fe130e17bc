import CommandTable
import MsctlCore

/// What is called: a URL, or a service that Consul knows, with the path of the request.
enum CallTarget: ArgumentValue, Equatable {
  case url(String)
  case service(name: String, path: String)
  /// One of these once `--each` has filled its `{placeholders}`.
  case template(CallTemplate)

  init(argument: String) throws(ValueError) {
    do { self = try Self.read(argument) } catch {
      var error = error
      error.isSecret = argument.holds("@") || !shownURL(argument).isSame(as: argument)
      throw error
    }
  }

  private static func read(_ argument: String) throws(ValueError) -> CallTarget {
    if argument.utf8.contains(where: { $0 == UInt8(ascii: "{") || $0 == UInt8(ascii: "}") }) {
      do {
        return .template(try CallTemplate(argument))
      } catch let error as TemplateError {
        throw ValueError(error.reason)
      } catch let error as ValueError {
        throw error
      } catch { throw ValueError(invalid: "target") }
    }
    let target: CallTarget
    // A scheme's case does not matter (RFC 3986, section 3.1).
    let (before, after) = argument.cut(at: ":") ?? (argument[...], "")
    let scheme = before.lowercasedASCII
    let authority = String(argument.utf8.prefix { $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "?") }) ?? ""
    if after.begins(with: "//"), ["http", "https"].contains(scheme) {
      target = .url("\(scheme):\(after)")
    } else if after.begins(with: "//"), scheme == "consul" {
      target = try service(after.rest(after: "//") ?? after)
    } else if after.begins(with: "//"), !before.holds("/"), !before.holds("?") {
      throw ValueError("has the scheme '\(before)'; http, https and consul can be called")
    } else if authority.holds(":") {
      // `:3000/path` is this machine, as for HTTPie.
      target = .url("http://" + (authority.begins(with: ":") ? "localhost" : "") + argument)
    } else {
      target = try service(argument[...])
    }
    guard !argument.utf8.contains(UInt8(ascii: "#")) else {
      throw ValueError("has a fragment ('#'), which is never sent; write %23")
    }
    try target.validate()
    return target
  }

  var argumentText: String? { nil }
  static var completion: Completion { .live("service") }

  /// The URL with `http://` and the service's name as its host.
  var url: String {
    switch self {
    case .url(let url): url
    case .service(let name, let path): "http://" + name + path
    case .template: ""
    }
  }

  /// The target for a value of `--each`.
  func filled(with value: JSONValue) throws(ValueError) -> CallTarget {
    guard case .template(let template) = self else { return self }
    do { return try template.filled(with: value) } catch let error as TemplateError {
      throw ValueError(error.reason)
    } catch let error as ValueError {
      throw ValueError("makes a TARGET that " + error.reason)
    } catch { return self }
  }

  /// The target with a path that begins with a slash after its own.
  fileprivate func appending(_ path: Substring) -> CallTarget {
    switch self {
    case .url(let url): .url(url + path)
    case .service(let name, let start): .service(name: name, path: (start.isSame(as: "/") ? "" : start) + path)
    case .template: self
    }
  }

  private static func service(_ text: Substring) throws(ValueError) -> CallTarget {
    let end = text.utf8.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") } ?? text.endIndex
    let path = text[end...]
    return .service(
      name: try ServiceName(argument: String(text[..<end])).text, path: (path.begins(with: "/") ? "" : "/") + path)
  }

  private func validate() throws(ValueError) {
    guard url.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else {
      throw ValueError("contains a space or a control character; write it as %XX")
    }
    let parts: URLParts
    do { parts = try URLParts(url) } catch {
      throw ValueError("is not a URL: \(error.reason)")
    }
    guard parts.user == nil, parts.password == nil else {
      throw ValueError(
        "contains credentials, which every process can see; use '--basic @FILE' or '--basic env:NAME'")
    }
  }
}

/// A target with `{placeholders}`.
struct CallTemplate: Equatable, Sendable {
  private let template: URITemplate
  /// The bytes before the path, where no placeholder is among them: what they make is known for all values.
  private let startLength: Int
  private let start: [CallTarget]

  /// - Throws: `TemplateError` or `ValueError`.
  init(_ text: String) throws {
    template = try URITemplate(text)
    // Filled with anything, it must make a target.
    _ = try CallTarget(argument: template.expanded { _ in .text("1") })
    let head = template.head
    var authority = head[...]
    if let (scheme, after) = head.cut(at: ":"), !scheme.holds("/"), !scheme.holds("?"),
      let rest = after.rest(after: "//")
    {
      authority = rest
    }
    let slash = authority.utf8.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") }
    guard let slash, head.utf8[slash] == UInt8(ascii: "/") else {
      (startLength, start) = (0, [])
      return
    }
    startLength = head.utf8.distance(from: head.startIndex, to: slash)
    start = [try CallTarget(argument: String(head[..<slash]))]
  }

  /// - Throws: `TemplateError` or `ValueError`.
  func filled(with value: JSONValue) throws -> CallTarget {
    let text = try template.expanded(with: value)
    let path = text.utf8.dropFirst(startLength)
    guard let start = start.first, path.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "#") }) else {
      return try CallTarget(argument: text)
    }
    return start.appending(text[path.startIndex...])
  }
}
