import MsctlCore

extension SplitMix {
  package mutating func pick<T>(_ choices: [T]) -> T { choices[Int.random(in: 0..<choices.count, using: &self)] }

  package mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &self) < percent }

  /// Text of pieces that mean something to somebody.
  package mutating func hostileText(of pieces: [String] = hostilePieces, most: Int = 6) -> String {
    (0..<Int.random(in: 0...most, using: &self)).map { _ in pick(pieces) }.joined()
  }
}

/// What shells, nginx, curl, URLs, headers or terminals act on.
package let hostilePieces = [
  "a", "b c", "x1", "'", "'\u{301}", "\"", "\\", "$(id)", "`id`", "$HOME", ";", "\n", "\r\n", "\t", "&", "|", "<", ">",
  "{", "}",
  "[", "]", "(", ")", "*", "?", "#", "%", "%2e", "%00", "=", ",", "@", ":", "/", "..", "~", "!", "-", "--",
  "\u{1B}[31m",
  "\u{9B}", "\u{7F}", "é", "e\u{301}", "\u{37E}", "漢", "😀", " ", "server", "listen", "127.0.0.1", "\u{2028}",
]
