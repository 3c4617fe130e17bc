import CommandTable
import MsctlCore

extension Duration: ArgumentValue {
  private static let units: [(suffix: String, nanoseconds: Double)] = [
    ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9),
  ]

  /// `5s`, `1.5m`, `250ms`, `2h`; a number alone is seconds.
  package init(argument: String) throws(ValueError) {
    let end = argument.utf8.firstIndex { !(0x30...0x39).contains($0) && $0 != UInt8(ascii: ".") }
    let digits = argument[..<(end ?? argument.endIndex)]
    let suffix = argument[digits.endIndex...]
    guard let number = Double(digits), number.isFinite,
      let unit = Self.units.first(where: { $0.suffix.isSame(as: suffix.isEmpty ? "s" : suffix) })
    else { throw ValueError("is not a duration such as 5s, 250ms, 1m or 2h") }
    guard number * unit.nanoseconds < 1e18 else { throw ValueError("is too long") }
    self = .nanoseconds(Int64(exactly: (number * unit.nanoseconds).rounded(.down)) ?? .max)
  }

  package var argumentText: String? {
    let milliseconds = milliseconds
    return milliseconds % 1000 == 0 ? "\(milliseconds / 1000)s" : "\(milliseconds)ms"
  }
}

extension Rate: ArgumentValue {
  private static let units: [(name: String, period: Duration)] = [
    ("s", .seconds(1)), ("m", .seconds(60)), ("h", .seconds(3600)),
  ]

  /// `50`, `50/s`, `10/m`, `100/h`; a number alone is per second.
  package init(argument: String) throws(ValueError) {
    let (digits, unit) = argument.cut(at: "/").map { (String($0), String($1)) } ?? (argument, "s")
    guard let count = Int(digits), (1...1_000_000).contains(count),
      let period = Self.units.first(where: { $0.name.isSame(as: unit) })?.period
    else { throw ValueError("is not a rate such as 50, 10/m or 100/h, of 1 to 1000000") }
    self.init(count, per: period)
  }

  package var argumentText: String? { nil }
}

extension StatusSet: ArgumentValue {
  /// `404`, `4xx`, `404,5xx`.
  package init(argument: String) throws(ValueError) {
    guard let statuses = StatusSet(argument) else {
      throw ValueError("is not a list of statuses or classes such as 404, 4xx or 404,5xx")
    }
    self = statuses
  }

  package var argumentText: String? { nil }
}

/// A file that is written. Without a name it is most likely a variable that is not set.
struct FileName: ArgumentValue {
  let text: String

  init(argument: String) throws(ValueError) {
    guard !argument.isEmpty else { throw ValueError(invalid: "file name", "it must not be empty") }
    text = argument
  }

  var argumentText: String? { nil }
  static var completion: Completion { .file }
}

/// How many times as fast as it was: `1x`, `0.5x`; the `x` may be left out.
struct Speed: ArgumentValue {
  let factor: Double

  init(argument: String) throws(ValueError) {
    let digits = argument.utf8.last == UInt8(ascii: "x") ? String(argument.utf8.dropLast()) ?? "" : argument
    guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == UInt8(ascii: ".") }),
      let factor = Double(digits), (1e-6...1e6).contains(factor)
    else { throw ValueError("is not a speed such as 1x, 10x or 0.5x") }
    self.factor = factor
  }

  var argumentText: String? { nil }
}

extension ConsulAddress: ArgumentValue {
  package init(argument: String) throws(ValueError) {
    guard let address = ConsulAddress(argument) else {
      throw ValueError(
        "is not an agent address such as http://127.0.0.1:8500, host:8500 or unix:///path",
        isSecret: argument.holds("@") || argument.holds("?"))
    }
    self = address
  }

  package var argumentText: String? { shown }
}

/// The brokers of a cluster, in the order in which they are tried.
struct BrokerList: ArgumentValue {
  var uris = [AMQPURI()]

  init() {}

  init(argument: String) throws(ValueError) {
    do { uris = try AMQPURI.list(argument) } catch { throw ValueError("is not an AMQP URI: it " + error.reason) }
  }

  var argumentText: String? { "amqp://localhost" }
}

/// `name=value`.
struct NameValue: ArgumentValue {
  var name: String
  var value: String

  init(_ name: String, _ value: String) {
    self.name = name
    self.value = value
  }

  init(argument: String) throws(ValueError) {
    guard let (before, after) = argument.cut(at: "="), !before.isEmpty else {
      throw ValueError("is not of the form NAME=VALUE")
    }
    name = String(before)
    // A broker closes the connection on a longer one.
    guard name.utf8.count <= 255 else { throw ValueError("has a name longer than 255 bytes") }
    value = String(after)
  }

  var argumentText: String? { nil }
}

/// An AMQP short string: the name of a queue or exchange, a routing key or a property.
struct ShortString: ArgumentValue {
  var text: String

  init(argument: String) throws(ValueError) {
    guard argument.utf8.count <= 255 else { throw ValueError("is longer than 255 bytes, the limit of AMQP") }
    text = argument
  }

  var argumentText: String? { text.isEmpty ? nil : text }
}

/// The name of a queue. The empty name would mean a queue that the broker names.
struct QueueName: ArgumentValue {
  var text: String

  init(argument: String) throws(ValueError) {
    guard !argument.isEmpty else { throw ValueError(invalid: "queue name", "must not be empty") }
    guard !argument.holds("\n"), !argument.holds("\r") else {
      throw ValueError("contains a line break, which RabbitMQ removes from queue names")
    }
    text = try ShortString(argument: argument).text
  }

  var argumentText: String? { nil }
  static var completion: Completion { .live("queue") }
}

/// The name of a service.
struct ServiceName: ArgumentValue {
  var text: String

  init(argument: String) throws(ValueError) {
    guard ConsulAgent.isServiceName(argument) else {
      throw ConsulAgent.isSegment(argument)
        ? ValueError(invalid: "service name", "must not be empty or contain spaces, '/' or '?'")
        : ValueError(invalid: "service name")
    }
    text = argument
  }

  var argumentText: String? { nil }
  static var completion: Completion { .live("service") }
}

/// Where a secret is read from, so that none stands on a command line, where every process of the machine can see it.
enum SecretSource: ArgumentValue {
  case file(String)
  case variable(String)

  init(argument: String) throws(ValueError) {
    if let path = argument.rest(after: "@"), !path.isEmpty {
      self = .file(String(path))
    } else if let name = argument.rest(after: "env:"), !name.isEmpty {
      self = .variable(String(name))
    } else {
      throw ValueError(
        "must be '@FILE' or 'env:NAME': a secret on the command line is visible to every process", isSecret: true)
    }
  }

  var argumentText: String? { nil }

  /// The secret without the white space around it.
  func read(_ environment: [String: String]) throws(Failure) -> String {
    var bytes: ArraySlice<UInt8>
    switch self {
    case .file(let path):
      bytes = try readFile(path, what: "the secret")[...]
    case .variable(let name):
      guard let value = environment[name] else {
        throw Failure(.unsetVariable(name))
      }
      bytes = Array(value.utf8)[...]
    }
    func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }
    bytes = bytes.drop(while: isSpace)
    while let last = bytes.last, isSpace(last) { bytes.removeLast() }
    guard !bytes.isEmpty else { throw Failure(.emptySecret(shown)) }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw Failure(.secretNotText(shown))
    }
    return text
  }

  private var shown: String {
    switch self {
    case .file(let path): "@" + path
    case .variable(let name): "env:" + name
    }
  }
}

/// Exit codes, separated by commas: `4,9`, or with ranges: `64-78`.
struct ExitCodes: ArgumentValue {
  let codes: [Int32]

  init(argument: String) throws(ValueError) {
    var codes: [Int32] = []
    for part in argument.parts(between: ",") {
      let ends = part.parts(between: "-").map { Int32($0) }
      guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1],
        (1...255).contains(first), first <= last, last <= 255
      else { throw ValueError("is not a list of exit codes from 1 to 255 such as 4,9 or 64-78") }
      codes += first...last
    }
    self.codes = codes
  }

  var argumentText: String? { nil }
}
