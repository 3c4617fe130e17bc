import CPosix
import Synchronization

/// Random numbers of the system, drawn in blocks: a system call for each was two fifths of what publishing a message cost.
private struct RandomWords {
  /// As much as getrandom(2) gives without being interrupted: 256 bytes.
  private static let blockSize = 32
  private var words: [UInt64] = []

  /// A number that nobody else gets.
  mutating func next() -> UInt64 {
    if let word = words.popLast() { return word }
    words = [UInt64](repeating: 0, count: Self.blockSize)
    let size = words.count * MemoryLayout<UInt64>.size
    if words.withUnsafeMutableBytes({ getrandom($0.baseAddress, size, 0) }) != size {
      var generator = SystemRandomNumberGenerator()
      for place in words.indices { words[place] = generator.next() }
    }
    return words.removeLast()
  }
}

private let source = Mutex(RandomWords())

private func randomWord() -> UInt64 { source.withLock { $0.next() } }

/// A random UUID (RFC 9562, version 4) in its usual form.
package func randomUUID() -> String {
  let high = randomWord() & ~0xF000 | 0x4000
  let low = randomWord() & (1 << 62 - 1) | 1 << 63
  return String(unsafeUninitializedCapacity: 36) { text in
    var place = 0
    for digit in 0..<32 {
      // 8-4-4-4-12
      if digit == 8 || digit == 12 || digit == 16 || digit == 20 {
        text[place] = UInt8(ascii: "-")
        place += 1
      }
      text[place] = hexDigit(of: digit < 16 ? high : low, digit % 16)
      place += 1
    }
    return place
  }
}

/// - Parameter bytes: a multiple of 8.
func randomHex(bytes: Int) -> String {
  String(unsafeUninitializedCapacity: 2 * bytes) { text in
    for place in 0..<(2 * bytes) where place % 16 == 0 {
      let word = randomWord()
      for digit in 0..<16 { text[place + digit] = hexDigit(of: word, digit) }
    }
    return 2 * bytes
  }
}

/// The digit at this place, from the highest on.
private func hexDigit(of word: UInt64, _ place: Int) -> UInt8 {
  let value = UInt8(truncatingIfNeeded: word >> (60 - 4 * place)) & 15
  return value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + value - 10
}

/// Random numbers that a seed makes again, for what decides without looking at the world around it (SplitMix64,
/// https://doi.org/10.1145/2660193.2660195).
package struct SplitMix: RandomNumberGenerator, Sendable {
  private var state: UInt64

  package init(seed: UInt64) {
    state = seed
  }

  /// Seeded by the system.
  package init() {
    self.init(seed: randomWord())
  }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var word = state
    word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
    return word ^ (word >> 31)
  }
}
