import Glibc
import MsctlCore

@testable import CommandTable
@testable import MsctlCommands

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
    return (try? Discover.text(instances, services: services, options, resolve: { _ in [:] }).text) ?? []
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
  let gateway = written(.nginx, Array(Set(instances.map(\.service))))
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

/// A message of any bytes as an envelope and back.
func fuzzMessage(_ bytes: [UInt8]) {
  var choices = Choices(bytes)
  var message = AMQPMessage(body: choices.bytes(), exchange: choices.text(), routingKey: choices.text())
  message.properties.contentType = choices.byte() % 2 == 0 ? nil : choices.text()
  message.properties.messageID = choices.byte() % 2 == 0 ? nil : choices.text()
  message.properties.timestamp = choices.byte() % 2 == 0 ? nil : choices.number()
  message.properties.priority = choices.byte()
  message.properties.headers = fields(&choices, depth: 0)
  let envelope = Envelope.write(message, redelivered: choices.byte() % 2 == 0)
  guard let value = try? JSONValue(parsing: envelope.text, keepsWhiteSpace: true) else {
    preconditionFailure("an envelope that is not JSON")
  }
  for pretty in [true, false] { _ = JSONPrinter(colours: pretty).indented(value) }
  guard let again = try? Envelope.read(value) else { return }
  precondition(again.message.body == message.body, "the body has changed")
  precondition(again.message.properties.messageID == message.properties.messageID, "the id has changed")
}

private func fields(_ choices: inout Choices, depth: Int) -> [AMQPField] {
  (0..<Int(choices.byte() % 5)).map { _ in AMQPField(choices.text(), value(&choices, depth: depth)) }
}

private func value(_ choices: inout Choices, depth: Int) -> AMQPValue {
  switch choices.byte() % (depth > 40 ? 6 : 8) {
  case 0: .bool(choices.byte() % 2 == 0)
  case 1: .timestamp(choices.number())
  case 2: .string(choices.text())
  case 3: .bytes(choices.bytes())
  case 4: .decimal(scale: choices.byte(), value: Int32(truncatingIfNeeded: choices.number()))
  case 5: .void
  case 6: .table(fields(&choices, depth: depth + 1))
  default: .array((0..<Int(choices.byte() % 5)).map { _ in value(&choices, depth: depth + 1) })
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
