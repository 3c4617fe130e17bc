import CommandTable
import MsctlCore

/// One ITEM of `call`, in the notation of HTTPie (https://httpie.io/docs/cli/request-items).
enum CallItem: ArgumentValue, Equatable {
  enum Source: Equatable {
    case text(String)
    case file(String)
  }

  /// `Name:value`.
  case header(HTTPHeader)
  /// `Name:`: a header that would be sent by default is left out.
  case noHeader(String)
  /// `name==value`.
  case query(name: String, value: String)
  /// `name=value`, `name=@file`: a string.
  case string(name: String, Source)
  /// `name:=json`, `name:=@file`.
  case json(name: String, Source)
  /// `name@file`.
  case upload(name: String, path: String)

  /// Whether it is a part of the body.
  var isField: Bool {
    switch self {
    case .string, .json, .upload: true
    default: false
    }
  }

  private static let separators = [":=@", "=@", ":=", "==", "=", ":", "@"]

  init(argument: String) throws(ValueError) {
    guard let (name, separator, value) = Self.split(argument) else {
      throw ValueError(
        invalid: "item", "write name=text, name:=json, name==query, Header:value, name=@file, name:=@file or name@file")
    }
    guard !name.isEmpty || separator == "=" || separator == ":=" else { throw ValueError("has no name") }
    switch separator {
    case ":" where value.isEmpty:
      guard HTTPHeader(name, "") != nil else { throw ValueError(invalid: "header name", isSecret: true) }
      self = .noHeader(name)
    case ":":
      guard let header = HTTPHeader(name, value) else {
        throw ValueError(
          invalid: "header", "the name must be one word, and the value must not contain control characters",
          isSecret: true)
      }
      self = .header(header)
    case "==": self = .query(name: name, value: value)
    case "=": self = .string(name: name, .text(value))
    case "=@": self = .string(name: name, .file(value))
    case ":=": self = .json(name: name, .text(value))
    case ":=@": self = .json(name: name, .file(value))
    default: self = .upload(name: name, path: value)
    }
    if case .json(_, .text(let text)) = self {
      do { _ = try JSONValue(parsing: text.utf8) } catch {
        let detail = SecretName.matches(name) ? "" : " (\(error))"
        throw ValueError("of '\(name)' is not JSON\(detail); for a string, write '=' instead of ':='", isSecret: true)
      }
    }
  }

  var argumentText: String? { nil }

  /// The first separator counts, and of those that begin at the same place the longest. A backslash takes a separator's
  /// meaning away.
  private static func split(_ text: String) -> (name: String, separator: String, value: String)? {
    var name: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.first {
      if byte == UInt8(ascii: "\\"), let next = rest.dropFirst().first, "=:@\\".utf8.contains(next) {
        name.append(next)
        rest = rest.dropFirst(2)
      } else if let separator = separators.first(where: { rest.starts(with: $0.utf8) }) {
        let value = rest.dropFirst(separator.utf8.count)
        return (String(decoding: name, as: UTF8.self), separator, String(decoding: value, as: UTF8.self))
      } else {
        name.append(byte)
        rest = rest.dropFirst()
      }
    }
    return nil
  }
}
