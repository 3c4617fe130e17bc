import Foundation

/// The texts that users read, as `Tests/MsctlCommandsTests/wording.txt` has them. Tests name an entry, so that no other place
/// holds the words.
private enum Wording {
  static let entries: [String: String] = {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appendingPathComponent("MsctlCommandsTests/wording.txt")
    let text = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
    var entries: [String: String] = [:]
    for entry in text.components(separatedBy: "\n[").map({ $0.trimmingPrefix("[") }) {
      guard let nameEnd = entry.firstIndex(of: "]"), let lineEnd = entry.firstIndex(of: "\n") else { continue }
      entries[String(entry[..<nameEnd])] = entry[lineEnd...].trimmingCharacters(in: .newlines)
    }
    return entries
  }()

  /// What stands in an entry for what differs from run to run: a pattern for it, and one for what may stand there.
  private static let samples: [(pattern: String, meaning: String)] = [
    (#"<[a-z]+>"#, ".*?"), (#"(amqp|http)://[^ '\n]*"#, "[^ \n]+"),
    (#"\b[0-9]+ (ms|s|min|h)\b"#, "[0-9.]+ (ms|s|min|h)"),
    (#"\b[0-9]+ (message|value|call|instance|attempt)s?\b"#, "[0-9]+ $1s?"), (#"\b[0-9]+\b"#, "[0-9]+"),
    (#"\n  "#, "\n +"),
  ]

  static func pattern(_ name: String, _ values: [String: String], hint: Bool = true) -> String {
    guard let entry = entries[name].map({ hint ? $0[...] : $0.prefix { $0 != "\n" } }) else {
      // False would pass for the answer of a test that expects not to find it.
      fatalError("no entry '\(name)' in wording.txt")
    }
    var pattern = ""
    var rest = entry
    func quoted(_ text: some StringProtocol) -> String { NSRegularExpression.escapedPattern(for: String(text)) }
    while true {
      let found = samples.compactMap { sample in
        rest.range(of: sample.pattern, options: .regularExpression).map { (sample, $0) }
      }.min { $0.1.lowerBound < $1.1.lowerBound }
      guard let (sample, range) = found else { return pattern + quoted(rest) }
      let text = String(rest[range])
      var meaning = text.replacingOccurrences(of: sample.pattern, with: sample.meaning, options: .regularExpression)
      if let value = values[text.trimmingCharacters(in: ["<", ">"])] { meaning = quoted(value) }
      if let number = text.split(separator: " ").first, let value = values[String(number)],
        number.allSatisfy(\.isNumber)
      {
        meaning = meaning.replacingOccurrences(of: "[0-9]+", with: value)
      }
      pattern += quoted(rest[..<range.lowerBound]) + meaning
      rest = rest[range.upperBound...]
    }
  }
}

extension String {
  /// Whether it has the text of an entry of `wording.txt`.
  /// - Parameters:
  ///   - values: what must stand in the place of a sample: of `<name>`, by that name, or of a number, by that number. Without
  ///   one, anything may.
  ///   - hint: whether its hint is included.
  package func shows(_ name: String, _ values: [String: String] = [:], hint: Bool = true) -> Bool {
    has(Wording.pattern(name, values, hint: hint))
  }

  /// Whether it has the texts of these entries, in their order, and nothing else.
  package func showsOnly(_ names: String..., with values: [String: String] = [:]) -> Bool {
    has("^" + names.map { "msctl: " + Wording.pattern($0, values) + "\n" }.joined() + "$")
  }

  private func has(_ pattern: String) -> Bool { range(of: pattern, options: .regularExpression) != nil }
}
