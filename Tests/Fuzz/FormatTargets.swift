import CRabbitMQ
import Glibc

@testable import CommandTable
@testable import MsctlCommands
@testable import MsctlCore

/// Bytes as a source of choices.
struct Choices {
  private var rest: ArraySlice<UInt8>

  init(_ bytes: [UInt8]) {
    rest = bytes[...]
  }

  var isEmpty: Bool { rest.isEmpty }

  mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

  mutating func bytes() -> [UInt8] {
    let count = Int(byte())
    defer { rest = rest.dropFirst(count) }
    return Array(rest.prefix(count))
  }

  mutating func text() -> String { String(decoding: bytes(), as: UTF8.self) }

  /// Text of at most 255 bytes, as a broker sends it: any bytes.
  mutating func short() -> String { bytes().withUnsafeBytes { AMQPText.text($0) } }

  mutating func number() -> UInt64 { (0..<8).reduce(0) { number, _ in number << 8 | UInt64(byte()) } }
}

/// What an agent says of a service, as every format writes it: no more lines than instances, nothing but words of a shell and
/// addresses of nginx.
func fuzzCatalogue(_ bytes: [UInt8]) {
  guard let value = try? JSONValue(parsing: bytes.dropFirst()) else { return }
  let instances = (value.kind == .array ? value.elements : [value]).compactMap { ServiceInstance(health: $0) }
  var options = Discover.Options()
  func written(_ format: Discover.Format, _ services: [String]? = nil) -> [UInt8] {
    options.format = format
    return Discover.text(instances, services: services, options, resolved: resolved(Discover.hosts(instances, options)))
      .text
  }
  // Some names have addresses, others have none.
  func resolved(_ names: Set<ByteKey>) -> [ByteKey: [String]] {
    names.reduce(into: [:]) { found, name in
      precondition(name.text.utf8.allSatisfy(isAddressByte), "a name that says more")
      found[name] = name.text.begins(with: "local") ? ["127.0.0.1", "::1"] : name.text.holds("0") ? ["10.0.0.1"] : []
    }
  }
  for format in [Discover.Format.url, .hostport] {
    let lines = written(format).split(separator: 0x0A)
    precondition(lines.count <= instances.count, "more lines than instances")
    precondition(lines.allSatisfy { $0.allSatisfy { $0 > 0x20 && $0 != 0x7F } }, "a line of more than one word")
  }
  precondition(written(.table).split(separator: 0x0A).count <= instances.count + 1, "more rows than instances")
  for line in written(.env).split(separator: 0x0A) {
    guard let equals = line.firstIndex(of: UInt8(ascii: "=")) else { preconditionFailure("no assignment") }
    precondition(shellWords(Array(line[(equals + 1)...]))?.count == 1, "not one word of a shell")
  }
  let gateway = written(.nginx, Array(Set(instances.map { ByteKey($0.service) })).map(\.text))
  for line in gateway.split(separator: 0x0A) {
    let words = line.split(separator: UInt8(ascii: " "))
    guard words.first?.elementsEqual("server".utf8) == true, words.count > 1, words[1] != [UInt8(ascii: "{")] else {
      precondition(line.allSatisfy { $0 >= 0x20 && $0 < 0x7F }, "not ASCII")
      continue
    }
    precondition(words[1].allSatisfy(isAddressByte), "an address that says more")
  }
  save(gateway, key: bytes.first ?? 0)
}

private func isAddressByte(_ byte: UInt8) -> Bool {
  (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    || ".-:[]_".utf8.contains(byte)
}

/// Keeps some outputs, which nginx itself is asked about at the end (Scripts/fuzz).
private func save(_ text: [UInt8], key: UInt8) {
  guard let folder = getenv("MSCTL_FUZZ_SAVE"), let file = fopen("\(String(cString: folder))/\(key).conf", "w") else {
    return
  }
  fwrite(text, 1, text.count, file)
  fclose(file)
}

/// A message of any bytes as an envelope and back: every property, and every header with the type that it has on the wire.
func fuzzMessage(_ bytes: [UInt8]) {
  var choices = Choices(bytes)
  var message = AMQPMessage(body: choices.bytes(), exchange: choices.short(), routingKey: choices.short())
  let set = UInt16(choices.byte()) << 8 | UInt16(choices.byte())
  let texts: [WritableKeyPath<AMQPProperties, String?>] = [
    \.contentType, \.contentEncoding, \.correlationID, \.replyTo, \.expiration, \.messageID, \.type, \.userID, \.appID,
    \.clusterID,
  ]
  for (place, text) in texts.enumerated() where set >> place & 1 == 1 {
    message.properties[keyPath: text] = choices.short()
  }
  if set >> 10 & 1 == 1 { message.properties.deliveryMode = choices.byte() }
  if set >> 11 & 1 == 1 { message.properties.priority = choices.byte() }
  if set >> 12 & 1 == 1 { message.properties.timestamp = choices.number() }
  if set >> 13 & 1 == 1 { message.properties.headers = fields(&choices, depth: 0) }
  let envelope = Envelope.write(message, redelivered: set >> 14 & 1 == 1)
  guard let value = try? JSONValue(parsing: envelope.text, keepsWhiteSpace: true) else {
    preconditionFailure("an envelope that is not JSON")
  }
  for pretty in [true, false] { _ = JSONPrinter(colours: pretty).indented(value) }
  guard let again = try? Envelope.read(value) else {
    return precondition(
      (message.properties.headers ?? []).contains { isNoNumber($0.value) }, "an envelope that is refused")
  }
  // The broker's own headers are its own.
  let brokersOwn = ["x-delivery-count", "x-acquired-count", "x-stream-offset"]
  message.properties.headers = message.properties.headers?.filter { field in
    !brokersOwn.contains { $0.isSame(as: field.name) }
  }
  precondition(again.hasProperties && again.message == message, "the message has changed")
  precondition(
    Envelope.write(again.message, redelivered: false) == Envelope.write(message, redelivered: false),
    "the text has changed")
  precondition(onTheWire(again.message) == onTheWire(message), "a type has changed")
}

/// The bytes of the headers; nil where librabbitmq refuses them, which a name of over 255 bytes may be.
private func onTheWire(_ message: AMQPMessage) -> [UInt8]? {
  var pool = AMQPPool()
  var table = pool.table(message.properties.headers ?? [])
  var buffer = [UInt8](repeating: 0, count: 1 << 17)
  return buffer.withUnsafeMutableBytes { buffer in
    var count = 0
    let status = amqp_encode_table(amqp_bytes_t(len: buffer.count, bytes: buffer.baseAddress), &table, &count)
    return status == AMQP_STATUS_OK.rawValue ? Array(buffer.prefix(count)) : nil
  }
}

/// What RabbitMQ cannot carry, and an envelope shows but does not take.
private func isNoNumber(_ value: AMQPValue) -> Bool {
  switch value {
  case .float(let number): !number.isFinite
  case .double(let number): !number.isFinite
  case .array(let values): values.contains(where: isNoNumber)
  case .table(let fields): fields.contains { isNoNumber($0.value) }
  default: false
  }
}

private func fields(_ choices: inout Choices, depth: Int) -> [AMQPField] {
  (0..<Int(choices.byte() % 5)).map { _ in AMQPField(choices.short(), value(&choices, depth: depth)) }
}

private func value(_ choices: inout Choices, depth: Int) -> AMQPValue {
  switch choices.byte() % (depth > 40 ? 17 : 19) {
  case 0: return .bool(choices.byte() % 2 == 0)
  case 1: return .timestamp(choices.number())
  case 2: return .string(choices.short())
  case 3: return .bytes(choices.bytes())
  case 4: return .decimal(scale: choices.byte(), value: Int32(truncatingIfNeeded: choices.number()))
  case 5: return .void
  case 6: return .integer(Int64(bitPattern: choices.number()))
  case 7: return .integer(Int64(Int8(bitPattern: choices.byte())))
  case 8: return .unsigned(choices.number())
  case 9: return .narrow(.int8, Int64(Int8(bitPattern: choices.byte())))
  case 10: return .narrow(.uint8, Int64(choices.byte()))
  case 11: return .narrow(.int16, Int64(Int16(truncatingIfNeeded: choices.number())))
  case 12: return .narrow(.uint16, Int64(UInt16(truncatingIfNeeded: choices.number())))
  case 13: return .narrow(.int32, Int64(Int32(truncatingIfNeeded: choices.number())))
  case 14: return .narrow(.uint32, Int64(UInt32(truncatingIfNeeded: choices.number())))
  case 15: return .float(Float(bitPattern: UInt32(truncatingIfNeeded: choices.number())))
  case 16: return .double(Double(bitPattern: choices.number()))
  case 17: return .table(fields(&choices, depth: depth + 1))
  default: return .array((0..<Int(choices.byte() % 5)).map { _ in value(&choices, depth: depth + 1) })
  }
}

/// Request items to the request, and the request to the curl command: no header holds a control character, and the command
/// is words and nothing else.
func fuzzItems(_ bytes: [UInt8]) {
  var choices = Choices(bytes)
  var words = [choices.byte() % 2 == 0 ? "POST" : "GET", "http://127.0.0.1:1/"]
  if choices.byte() % 3 == 0 { words.insert("--form", at: 0) }
  while !choices.isEmpty {
    let item = choices.text()
    // What is read from a file is not what is tried here.
    if !item.utf8.contains(UInt8(ascii: "@")), !item.utf8.contains(0) { words.append(item) }
  }
  guard case .run(let options)? = try? Call.command.parse(words) else { return }
  guard let request = try? Call.request(options, environment: [:]) else { return }
  for text in request.headers.flatMap({ [$0.name, $0.value] }) + request.leftOut {
    precondition(text.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 }, "a header that begins another one")
  }
  let line = CurlCommand.text(request, nil, options)
  precondition(shellWords(Array(line.utf8)) != nil, "not words of a shell: \(line)")
}

/// Quoting, whatever the bytes.
func fuzzShell(_ bytes: [UInt8]) {
  let text = String(decoding: bytes.filter { $0 != 0 }, as: UTF8.self)
  precondition(shellWords(Array(Shell.quoted(text).utf8)) == [Array(text.utf8)], "not the same word")
}

/// The words of a line that holds nothing but quoted and plain words, bytes that printf writes, and a pipe from commands in
/// braces; nil where there is more that a shell (POSIX, section 2.2) would act on.
func shellWords(_ line: [UInt8]) -> [[UInt8]]? {
  let opening = Array("\"$(printf '".utf8)
  let closing = Array("')\"".utf8)
  var words: [[UInt8]] = []
  var word: [UInt8]?
  var rest = line[...]
  while let byte = rest.popFirst() {
    switch byte {
    case opening[0] where rest.starts(with: opening.dropFirst()):
      rest = rest.dropFirst(opening.count - 1)
      while rest.first == UInt8(ascii: "\\") {
        let digits = rest.dropFirst().prefix(3)
        guard digits.count == 3, digits.allSatisfy({ (0x30...0x37).contains($0) }) else { return nil }
        word = (word ?? []) + [digits.reduce(0) { $0 &* 8 &+ ($1 - 0x30) }]
        rest = rest.dropFirst(4)
      }
      guard rest.starts(with: closing) else { return nil }
      rest = rest.dropFirst(closing.count)
    case UInt8(ascii: " "):
      if let done = word { words.append(done) }
      word = nil
    case UInt8(ascii: "'"):
      guard let end = rest.firstIndex(of: UInt8(ascii: "'")) else { return nil }
      word = (word ?? []) + rest[..<end]
      rest = rest[(end + 1)...]
    case UInt8(ascii: "\\"):
      guard let next = rest.popFirst(), next != 0x0A else { return nil }
      word = (word ?? []) + [next]
    case UInt8(ascii: "|") where [Array("printf".utf8), Array("{".utf8)].contains(words.first) && word == nil:
      words.append([byte])
    case UInt8(ascii: "{") where words.isEmpty && word == nil,
      UInt8(ascii: "}") where words.first == [UInt8(ascii: "{")]:
      word = (word ?? []) + [byte]
    case UInt8(ascii: ";") where words.first == [UInt8(ascii: "{")] && words.last != [UInt8(ascii: "|")]:
      if let done = word { words.append(done) }
      word = nil
    case _ where "|&;<>()$`\"*?[#~!{}\n\t\r".utf8.contains(byte): return nil
    default: word = (word ?? []) + [byte]
    }
  }
  return words + (word.map { [$0] } ?? [])
}
