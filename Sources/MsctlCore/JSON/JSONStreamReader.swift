/// What is wrong with a JSON text, and where.
public struct JSONError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Lines count from 1.
  public let line: Int
  /// Bytes of the line, counted from 1.
  public let column: Int
  /// What is wrong there.
  public let reason: String

  /// The place and the reason.
  public var description: String { "line \(line), column \(column): \(reason)" }
}

/// Reads a stream of JSON values (RFC 8259), in pieces of any size, and keeps each value's own text: only white space
/// outside strings is dropped.
///
/// Values may stand one a line, several on a line, or spread over lines. Each is handed on as soon as its last byte has
/// been seen (a number at the top level: the byte after it). A byte order mark at the start is skipped.
package struct JSONStreamReader: Sendable {
  package struct Limits: Sendable {
    /// How deep arrays and objects may nest.
    package var depth: Int
    /// The size of one value in bytes, without white space.
    package var bytes: Int

    package init(depth: Int = 1024, bytes: Int = 256 << 20) {
      self.depth = depth
      self.bytes = bytes
    }
  }

  private enum State: Sendable {
    /// Between values of the stream.
    case top
    /// As `top`, where the value before was a number or a word: the next one must stand apart from it.
    case topAfterWord
    case value
    case firstElement
    case firstKey
    case key
    case colon
    case afterValue
    case string
    case escape
    case hex
    case continuation
    case minus
    case zero
    case integer
    case point
    case fraction
    case exponent
    case exponentSign
    case exponentDigits
    case word

    var isBetweenValues: Bool { self == .top || self == .topAfterWord }
  }

  /// Where the bytes of a whole value are.
  private enum Place {
    case input(Range<Int>)
    /// In `text`: it began in earlier input, or white space was dropped.
    case text
  }

  /// From this size on a value, in bytes, is a part of the input and no copy: a small one would keep all of it in memory.
  private static let large = 1 << 16
  /// Up to this size a value is a part of a block, a copy of `blockSize` bytes of the input that it shares with the values after
  /// it: no allocation for each, and one that is kept for long keeps no more than its block.
  private static let small = 256
  private static let blockSize = 1024

  private let limits: Limits
  private let keepsWhiteSpace: Bool
  /// How many brackets are open around a value that stands for itself.
  private let outerDepth: Int
  private var state = State.top
  /// The open arrays (false) and objects (true).
  private var open: [Bool] = []
  private var stringIsKey = false
  private var hexLeft = 0
  /// The rest of `true`, `false` or `null`.
  private var wordLeft: [UInt8] = []
  /// UTF-8: how many bytes the character still needs, and the bounds of the next one (RFC 3629, section 4).
  private var utf8Left = 0
  private var utf8Bounds: ClosedRange<UInt8> = 0x80...0xBF

  /// Bytes handed in; those before `position` have been read.
  private var input: [UInt8] = []
  private var position = 0
  /// The begin of the value being read, as far as it stood in earlier input.
  private var text: [UInt8] = []
  /// A copy of the input from `blockStart` on.
  private var block: [UInt8] = []
  private var blockStart = 0
  private var atEnd = false
  private var atStart = true

  private var line = 1
  /// The offset in the whole stream at which the line begins, and at which `input` begins.
  private var lineStart = 0
  private var inputStart = 0

  /// - Parameter keepsWhiteSpace: keeps the white space inside a value too, for those who need its very bytes.
  package init(limits: Limits = Limits(), keepsWhiteSpace: Bool = false) {
    self.limits = limits
    self.keepsWhiteSpace = keepsWhiteSpace
    outerDepth = 0
  }

  /// Reads one array whose '[' has been read already, element by element: a long one is never held whole. After its ']' nothing but
  /// white space may come.
  /// - Parameter offset: how many bytes of the stream stand before the first that is handed in.
  package init(elementsAfter offset: Int) {
    limits = Limits()
    keepsWhiteSpace = false
    outerDepth = 1
    open = [false]
    state = .firstElement
    inputStart = offset
    atStart = false
  }

  /// Hands in the next piece of the stream.
  package mutating func append(_ bytes: some Collection<UInt8>) {
    inputStart += position
    if position == input.count {
      // An array is taken over as it is.
      input = Array(bytes)
    } else {
      input.removeFirst(position)
      input += bytes
    }
    position = 0
    block = []
  }

  /// Says that the stream has ended.
  package mutating func finish() {
    atEnd = true
  }

  /// Whether the stream stands between two values.
  package var isBetweenValues: Bool { state.isBetweenValues }

  /// What has not been read: the input from the byte at which the last error was found.
  package var unread: ArraySlice<UInt8> { input[position...] }

  /// The next whole value, or nil where more input is needed (after `finish`: where there are no more).
  package mutating func next() throws(JSONError) -> JSONValue? {
    if atStart { skipByteOrderMark() }
    // `scan` changes everything but the input. Taking it out costs less than counting a second reference to it.
    var input: [UInt8] = []
    swap(&input, &self.input)
    defer { swap(&input, &self.input) }
    if let place = try input.withUnsafeBufferPointer({ (bytes) throws(JSONError) in try scan(bytes) }) {
      return value(at: place, of: input)
    }
    guard atEnd, position == input.count, !atStart || input.isEmpty else { return nil }
    switch state {
    case .top, .topAfterWord:
      return nil
    case .zero where open.isEmpty, .integer where open.isEmpty, .fraction where open.isEmpty,
      .exponentDigits where open.isEmpty:
      state = .topAfterWord
      return value(at: .text, of: input)
    default:
      throw error(at: position, "the input ends inside a value")
    }
  }

  /// The text so far of a value that is not yet complete, handed out early: `next` then returns only the rest.
  /// For values that are passed on as they come, whatever their size.
  package mutating func drain() -> [UInt8] {
    let part = text
    text = []
    return part
  }

  private mutating func skipByteOrderMark() {
    let mark: [UInt8] = [0xEF, 0xBB, 0xBF]
    if input.count < mark.count, !atEnd, mark.starts(with: input) { return }
    if input.starts(with: mark) { position = mark.count }
    atStart = false
  }

  private mutating func value(at place: Place, of input: [UInt8]) -> JSONValue {
    guard case .input(let range) = place else {
      let value = JSONValue(trusted: text[...])
      text = []
      return value
    }
    if range.count >= Self.large { return JSONValue(trusted: input[range]) }
    if range.count > Self.small { return JSONValue(trusted: Array(input[range])[...]) }
    if range.lowerBound < blockStart || range.upperBound - blockStart > block.count {
      block = Array(input[range.lowerBound..<min(range.lowerBound + Self.blockSize, input.count)])
      blockStart = range.lowerBound
    }
    return JSONValue(trusted: block[range.lowerBound - blockStart..<range.upperBound - blockStart])
  }

  /// Reads on from `position` to the end of a value or of the input.
  private mutating func scan(_ bytes: UnsafeBufferPointer<UInt8>) throws(JSONError) -> Place? {
    if atStart { return nil }
    var index = position
    // Where the bytes begin that are not yet in `text`.
    var run = index
    let count = bytes.count
    // Locals, since this is the loop over every byte.
    var state = state
    defer { self.state = state }

    while index < count {
      let byte = bytes[index]
      switch state {
      case .string:
        index = endOfPlainText(bytes, from: index)
        guard index < count else { break }
        switch bytes[index] {
        case UInt8(ascii: "\""):
          index += 1
          if stringIsKey {
            state = .colon
          } else if let place = try ended(bytes[run..<index], &state) {
            return place
          }
        case UInt8(ascii: "\\"):
          state = .escape
          index += 1
        case 0x00..<0x20:
          throw fail(bytes, run, index, "a control character in a string must be written as an escape")
        default:
          guard let (left, bounds) = utf8Lead(bytes[index]) else {
            throw fail(bytes, run, index, "the text is not valid UTF-8")
          }
          utf8Left = left
          utf8Bounds = bounds
          state = .continuation
          index += 1
        }

      case .continuation:
        guard utf8Bounds.contains(byte) else { throw fail(bytes, run, index, "the text is not valid UTF-8") }
        utf8Left -= 1
        utf8Bounds = 0x80...0xBF
        if utf8Left == 0 { state = .string }
        index += 1

      case .escape:
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
          UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
          state = .string
        case UInt8(ascii: "u"):
          state = .hex
          hexLeft = 4
        default:
          throw fail(bytes, run, index, "'\\' in a string must be followed by one of \" \\ / b f n r t u")
        }
        index += 1

      case .hex:
        guard hexDigit(byte) != nil else {
          throw fail(bytes, run, index, "'\\u' must be followed by four hexadecimal digits")
        }
        hexLeft -= 1
        if hexLeft == 0 { state = .string }
        index += 1

      case .top, .topAfterWord, .value, .firstElement, .firstKey, .key, .colon, .afterValue:
        if byte <= 0x20, isWhiteSpace(byte) {
          let isDropped = !keepsWhiteSpace || state.isBetweenValues
          if isDropped { try keep(bytes[run..<index]) }
          while index < count, isWhiteSpace(bytes[index]) {
            if bytes[index] == UInt8(ascii: "\n") {
              line += 1
              lineStart = inputStart + index + 1
            }
            index += 1
          }
          if isDropped { run = index }
          if state == .topAfterWord { state = .top }
          continue
        }
        switch state {
        case .top where outerDepth > 0:
          throw fail(bytes, run, index, "expected the end after one value")
        case .colon:
          guard byte == UInt8(ascii: ":") else {
            throw fail(bytes, run, index, "expected ':' after a name, found \(shown(byte))")
          }
          state = .value
          index += 1
        case .afterValue:
          let isObject = open[open.count - 1]
          if byte == UInt8(ascii: ",") {
            state = isObject ? .key : .value
            index += 1
            if open.count == outerDepth { run = index }
          } else if byte == UInt8(ascii: isObject ? "}" : "]") {
            index += 1
            open.removeLast()
            if let place = try ended(bytes[run..<index], &state) { return place }
            if state == .top { run = index }
          } else {
            throw fail(bytes, run, index, "expected ',' or '\(isObject ? "}" : "]")', found \(shown(byte))")
          }
        case .firstKey where byte == UInt8(ascii: "}"), .firstElement where byte == UInt8(ascii: "]"):
          index += 1
          open.removeLast()
          if let place = try ended(bytes[run..<index], &state) { return place }
          if state == .top { run = index }
        case .firstKey, .key:
          guard byte == UInt8(ascii: "\"") else {
            throw fail(bytes, run, index, "expected a name in quotes, found \(shown(byte))")
          }
          stringIsKey = true
          state = .string
          index += 1
        default:
          guard let next = begin(byte, in: state) else {
            throw fail(bytes, run, index, "expected a value, found \(shown(byte))")
          }
          guard open.count <= limits.depth else { throw fail(bytes, run, index, "nested deeper than \(limits.depth)") }
          state = next
          index += 1
        }

      case .word:
        guard byte == wordLeft.last else { throw fail(bytes, run, index, "expected a value, found an unknown word") }
        wordLeft.removeLast()
        index += 1
        if wordLeft.isEmpty, let place = try ended(bytes[run..<index], &state, isWord: true) { return place }

      case .minus:
        switch byte {
        case UInt8(ascii: "0"): state = .zero
        case UInt8(ascii: "1")...UInt8(ascii: "9"): state = .integer
        default: throw fail(bytes, run, index, "expected a digit after '-', found \(shown(byte))")
        }
        index += 1
      case .zero, .integer:
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"):
          if state == .zero { throw fail(bytes, run, index, "a number must not begin with 0") }
          index += 1
          while index < count, isDigit(bytes[index]) { index += 1 }
        case UInt8(ascii: "."):
          state = .point
          index += 1
        case UInt8(ascii: "e"), UInt8(ascii: "E"):
          state = .exponent
          index += 1
        default:
          if let place = try ended(bytes[run..<index], &state, isWord: true) { return place }
        }
      case .point, .exponentSign:
        guard isDigit(byte) else { throw fail(bytes, run, index, "expected a digit in a number, found \(shown(byte))") }
        state = state == .point ? .fraction : .exponentDigits
        index += 1
      case .fraction:
        if isDigit(byte) {
          index += 1
        } else if byte == UInt8(ascii: "e") || byte == UInt8(ascii: "E") {
          state = .exponent
          index += 1
        } else if let place = try ended(bytes[run..<index], &state, isWord: true) {
          return place
        }
      case .exponent:
        switch byte {
        case UInt8(ascii: "+"), UInt8(ascii: "-"): state = .exponentSign
        case UInt8(ascii: "0")...UInt8(ascii: "9"): state = .exponentDigits
        default: throw fail(bytes, run, index, "expected a digit in an exponent, found \(shown(byte))")
        }
        index += 1
      case .exponentDigits:
        if isDigit(byte) {
          index += 1
        } else if let place = try ended(bytes[run..<index], &state, isWord: true) {
          return place
        }
      }
    }
    try keep(bytes[run..<index])
    position = index
    return nil
  }

  /// The state after the first byte of a value; nil where none begins with it.
  private mutating func begin(_ byte: UInt8, in state: State) -> State? {
    let standsApart = state != .topAfterWord
    switch byte {
    case UInt8(ascii: "{"):
      open.append(true)
      return .firstKey
    case UInt8(ascii: "["):
      open.append(false)
      return .firstElement
    case UInt8(ascii: "\""):
      stringIsKey = false
      return .string
    case UInt8(ascii: "-") where standsApart: return .minus
    case UInt8(ascii: "0") where standsApart: return .zero
    case UInt8(ascii: "1")...UInt8(ascii: "9") where standsApart: return .integer
    case UInt8(ascii: "t") where standsApart: wordLeft = Array("eur".utf8)
    case UInt8(ascii: "f") where standsApart: wordLeft = Array("esla".utf8)
    case UInt8(ascii: "n") where standsApart: wordLeft = Array("llu".utf8)
    default: return nil
    }
    return .word
  }

  /// Adds to the text of the value.
  private mutating func keep(_ run: Slice<UnsafeBufferPointer<UInt8>>) throws(JSONError) {
    guard !run.isEmpty else { return }
    guard text.count + run.count <= limits.bytes else {
      position = run.endIndex
      throw error(at: run.endIndex, "the value is larger than \(limits.bytes) bytes")
    }
    text.append(contentsOf: UnsafeBufferPointer(rebasing: run))
  }

  /// A value has ended, with these bytes.
  /// - Parameter isWord: whether it was a number or a word.
  /// - Returns: where it is, if it stands for itself and in no other.
  private mutating func ended(
    _ run: Slice<UnsafeBufferPointer<UInt8>>, _ state: inout State, isWord: Bool = false
  ) throws(JSONError) -> Place? {
    guard open.count == outerDepth else {
      // The array around the elements has ended.
      state = open.isEmpty ? .top : .afterValue
      return nil
    }
    state = outerDepth > 0 ? .afterValue : isWord ? .topAfterWord : .top
    position = run.endIndex
    if text.isEmpty, run.count <= limits.bytes { return .input(run.startIndex..<run.endIndex) }
    try keep(run)
    return .text
  }

  /// An error at `index`, with the bytes from `run` on not yet in `text`: `drain` and `unread` together are then all that has
  /// come and was not handed out.
  private mutating func fail(
    _ bytes: UnsafeBufferPointer<UInt8>, _ run: Int, _ index: Int, _ reason: String
  ) -> JSONError {
    text.append(contentsOf: bytes[min(run, index)..<index])
    position = index
    return error(at: index, reason)
  }

  private func error(at index: Int, _ reason: String) -> JSONError {
    JSONError(line: line, column: inputStart + index - lineStart + 1, reason: reason)
  }
}

/// The index of the first byte from `start` on that ends or interrupts the plain ASCII of a string.
func endOfPlainText(_ bytes: UnsafeBufferPointer<UInt8>, from start: Int) -> Int {
  let ones: UInt64 = 0x0101_0101_0101_0101
  let highBits = ones << 7
  var index = start
  let raw = UnsafeRawBufferPointer(bytes)
  // Eight bytes in a word: each difference borrows into the high bit of a byte that is too small. A borrow may spill into the
  // bytes after it, never into those before, so the first that is found is right.
  while index + 8 <= raw.count {
    let word = UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: index, as: UInt64.self))
    let quotes = word ^ ones &* 0x22
    let backslashes = word ^ ones &* 0x5C
    let controls = (word &- ones &* 0x20) & ~word
    let matches = ((quotes &- ones) & ~quotes) | ((backslashes &- ones) & ~backslashes) | controls | word
    if matches & highBits != 0 { return index + (matches & highBits).trailingZeroBitCount / 8 }
    index += 8
  }
  while index < bytes.count {
    let byte = bytes[index]
    if byte < 0x20 || byte >= 0x80 || byte == 0x22 || byte == 0x5C { break }
    index += 1
  }
  return index
}

/// How many bytes follow the first byte of a UTF-8 character, and the bounds of the second (RFC 3629, section 4).
private func utf8Lead(_ byte: UInt8) -> (left: Int, bounds: ClosedRange<UInt8>)? {
  switch byte {
  case 0xC2...0xDF: (1, 0x80...0xBF)
  case 0xE0: (2, 0xA0...0xBF)
  case 0xED: (2, 0x80...0x9F)
  case 0xE1...0xEF: (2, 0x80...0xBF)
  case 0xF0: (3, 0x90...0xBF)
  case 0xF1...0xF3: (3, 0x80...0xBF)
  case 0xF4: (3, 0x80...0x8F)
  default: nil
  }
}

func isWhiteSpace(_ byte: UInt8) -> Bool {
  byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09
}

private func isDigit(_ byte: UInt8) -> Bool {
  byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9")
}

func hexDigit(_ byte: UInt8) -> UInt8? {
  switch byte {
  case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
  case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
  case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
  default: nil
  }
}

/// A byte as an error names it.
private func shown(_ byte: UInt8) -> String {
  switch byte {
  case 0x21...0x7E: "'\(Unicode.Scalar(byte))'"
  case 0x20: "a space"
  default: "the byte 0x" + String(byte, radix: 16, uppercase: true)
  }
}
