import Glibc
import MsctlCommands
import MsctlCore

/// libFuzzer as a function (https://llvm.org/docs/LibFuzzer.html#using-libfuzzer-as-a-library): the package manager wants the
/// `main` to be ours.
@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
  _ count: UnsafeMutablePointer<CInt>,
  _ words: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ target: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// The targets: each takes any bytes. Nothing may crash, hang or grow without bound.
private let targets: [String: @Sendable ([UInt8]) -> Void] = [
  "readers": fuzzReaders, "catalogue": fuzzCatalogue, "message": fuzzMessage, "items": fuzzItems, "shell": fuzzShell,
  "broker": FakeBroker.fuzz, "agent": FakeAgent.fuzz,
]

private let target = targets[getenv("MSCTL_FUZZ_TARGET").map { String(cString: $0) } ?? "readers"]

@main
enum Fuzz {
  static func main() {
    guard target != nil else {
      print(targets.keys.sorted().joined(separator: "\n"))
      exit(2)
    }
    signal(SIGPIPE, SIG_IGN)
    var count = CommandLine.argc
    var words = CommandLine.unsafeArgv
    _ = runDriver(&count, &words) { start, count in
      target?(Array(UnsafeBufferPointer(start: start, count: count)))
      return 0
    }
  }
}

private let verbs = AllCommands.specs.map(\.name)

/// The readers of JSON, templates, URIs and command lines. What is taken must come out the same.
/// The first byte says how the stream is cut.
private func fuzzReaders(_ bytes: [UInt8]) {
  guard let cut = bytes.first else { return }
  let text = bytes.dropFirst()
  let whole = values(text, cut: .max, keepsWhiteSpace: false)
  precondition(values(text, cut: Int(cut % 16) + 1, keepsWhiteSpace: false) == whole, "the cut must not matter")
  for value in values(text, cut: .max, keepsWhiteSpace: true) {
    exercise(value)
  }
  for value in whole { exercise(value) }
  let string = String(decoding: text, as: UTF8.self)
  if let template = try? URITemplate(string) { _ = try? template.expanded { _ in .text(string) } }
  _ = try? AMQPURI(string)
  _ = try? AMQPURI.list(string)
  _ = ConsulAddress(string)
  _ = TraceContext(string)
  // Each line is a word; the first byte has said which command.
  let words = string.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
  AllCommands.check([verbs[Int(cut) % verbs.count]] + words)
}

private func values(_ text: ArraySlice<UInt8>, cut: Int, keepsWhiteSpace: Bool) -> [JSONValue] {
  var reader = JSONStreamReader(limits: .init(depth: 64, bytes: 1 << 16), keepsWhiteSpace: keepsWhiteSpace)
  var found: [JSONValue] = []
  var rest = text
  do {
    while !rest.isEmpty {
      reader.append(rest.prefix(cut))
      rest = rest.dropFirst(cut)
      while let value = try reader.next() { found.append(value) }
    }
    reader.finish()
    while let value = try reader.next() { found.append(value) }
  } catch {}
  return found
}

/// Looks at all of a value, as the tool does.
private func exercise(_ value: JSONValue) {
  _ = value.string
  _ = value.integer
  _ = value.number
  if let instance = ServiceInstance(health: value) { precondition(!instance.json.text.isEmpty) }
  if let all = try? ServiceRegistration.definitions(in: value) { for one in all { _ = one.json } }
  for element in value.elements { exercise(element) }
  for (name, member) in value.members {
    precondition(value[name] != nil, "a member is found by its name")
    exercise(member)
  }
  if let (message, _) = try? Envelope.read(value) {
    let again = try? Envelope.read(
      JSONValue(parsing: Envelope.write(message, redelivered: false).text, keepsWhiteSpace: true))
    precondition(again?.message == message, "an envelope comes back the same")
  }
}
