import Glibc

/// A JSON value as its own text: number text, key order, duplicate keys and escapes stay as they were written.
public struct JSONValue: Sendable, Hashable {
  /// What a value is.
  public enum Kind: Sendable { case object, array, string, number, bool, null }

  /// Valid JSON, without white space outside strings unless its reader was told to keep it.
  public let text: ArraySlice<UInt8>

  /// - Parameter text: bytes that are known to be one valid value without white space outside strings.
  init(trusted text: ArraySlice<UInt8>) {
    self.text = text
  }

  /// Reads bytes that hold just one value; white space around it is allowed.
  public init(parsing bytes: some Collection<UInt8>, keepsWhiteSpace: Bool = false) throws(JSONError) {
    var reader = JSONStreamReader(keepsWhiteSpace: keepsWhiteSpace)
    reader.append(bytes)
    reader.finish()
    guard let value = try reader.next() else { throw JSONError(line: 1, column: 1, reason: "expected a value") }
    let rest = reader.unread.drop(while: isWhiteSpace)
    guard rest.isEmpty else {
      let before = bytes.dropLast(rest.count)
      let lineBreaks = before.count { $0 == UInt8(ascii: "\n") }
      let column = before.reversed().prefix { $0 != UInt8(ascii: "\n") }.count + 1
      throw JSONError(line: lineBreaks + 1, column: column, reason: "expected the end after one value")
    }
    self = value
  }

  /// A JSON string that stands for `string`.
  public init(string: String) {
    var writer = JSONWriter()
    writer.string(string)
    self = writer.value
  }

  /// Appends the text. Faster than `+= value.text`, which counts a second reference.
  package func append(to bytes: inout [UInt8]) {
    text.withUnsafeBufferPointer { bytes += $0 }
  }

  /// `null`
  public static let null = JSONValue(trusted: Array("null".utf8)[...])

  /// What it is.
  public var kind: Kind {
    switch text.first {
    case UInt8(ascii: "{"): .object
    case UInt8(ascii: "["): .array
    case UInt8(ascii: "\""): .string
    case UInt8(ascii: "t"), UInt8(ascii: "f"): .bool
    case UInt8(ascii: "n"): .null
    default: .number
    }
  }

  /// The text as a `String`.
  public var description: String { String(decoding: text, as: UTF8.self) }

  /// The characters of a string, escapes decoded; nil for other kinds. Half a surrogate pair becomes U+FFFD.
  public var string: String? {
    guard kind == .string else { return nil }
    let inner = text.dropFirst().dropLast()
    return inner.contains(UInt8(ascii: "\\")) ? unescaped(inner) : String(decoding: inner, as: UTF8.self)
  }

  /// A whole number of 64 bits, written without fraction or exponent; nil for anything else.
  public var integer: Int64? {
    guard kind == .number, let number = Int64(description) else { return nil }
    return number
  }

  /// The number; nil for what is none.
  public var number: Double? {
    kind == .number ? Double(description) : nil
  }

  /// The truth value; nil for what is none.
  public var bool: Bool? {
    kind == .bool ? text.first == UInt8(ascii: "t") : nil
  }

  /// The member of an object, found without decoding the others. Of duplicate names the last one counts, as for `jq`.
  public subscript(_ name: String) -> JSONValue? {
    var name = name
    return name.withUTF8 { members(named: [UnsafeRawBufferPointer($0)])[0] }
  }

  /// The members of these names, found in one go.
  package subscript(_ names: [StaticString]) -> [JSONValue?] {
    members(named: names.map { UnsafeRawBufferPointer(start: $0.utf8Start, count: $0.utf8CodeUnitCount) })
  }

  private func members(named names: [UnsafeRawBufferPointer]) -> [JSONValue?] {
    var found = [JSONValue?](repeating: nil, count: names.count)
    forEachMember { bytes, name, isPlain, value in
      compare(bytes, name, isPlain) { name in
        var place = 0
        while place < names.count {
          if areSame(names[place], name) { found[place] = part(value) }
          place += 1
        }
      }
    }
    return found
  }

  /// What stands at these places, in their order. The text is gone over once, however deep they are.
  package subscript(_ places: JSONPlaces) -> [JSONValue?] {
    var found = [JSONValue?](repeating: nil, count: places.count)
    guard kind == .object else { return found }
    text.withUnsafeBufferPointer { bytes in
      places.names.withUnsafeBufferPointer { names in
        _ = collect(bytes, from: 0, names, places.top, into: &found)
      }
    }
    return found
  }

  /// - Returns: where the object ends that begins at `start`.
  private func collect(
    _ bytes: UnsafeBufferPointer<UInt8>, from start: Int, _ names: UnsafeBufferPointer<JSONPlaces.Name>,
    _ level: Range<Int>, into found: inout [JSONValue?]
  ) -> Int {
    Self.walk(bytes, from: start) { name, isPlain, value in
      var place = level.lowerBound
      compare(bytes, name, isPlain) { name in
        while place < level.upperBound, !areSame(names[place].name, name) { place += 1 }
      }
      guard place < level.upperBound else { return endOfValue(bytes, from: value) }
      let match = names[place]
      // Of duplicate names the last one counts.
      for slot in match.slots { found[slot] = nil }
      if !match.below.isEmpty, bytes[value] == UInt8(ascii: "{") {
        return collect(bytes, from: value, names, match.below, into: &found)
      }
      let end = endOfValue(bytes, from: value)
      if match.below.isEmpty { found[match.slots.lowerBound] = part(value..<end) }
      return end
    }
  }

  /// Hands over a member's name as it is meant.
  @inline(__always)
  private func compare(
    _ bytes: UnsafeBufferPointer<UInt8>, _ name: Range<Int>, _ isPlain: Bool, _ body: (UnsafeRawBufferPointer) -> Void
  ) {
    if isPlain {
      body(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[name]))
    } else {
      Array(unescaped(part(name).text).utf8).withUnsafeBytes { body($0) }
    }
  }

  /// The members of an object in their order, duplicates included; empty for other kinds.
  public var members: [(name: String, value: JSONValue)] {
    var list: [(name: String, value: JSONValue)] = []
    forEachMember { _, name, _, value in
      list.append((part(name.lowerBound - 1..<name.upperBound + 1).string ?? "", part(value)))
    }
    return list
  }

  /// The elements of an array; empty for other kinds.
  public var elements: [JSONValue] {
    guard kind == .array else { return [] }
    var list: [JSONValue] = []
    text.withUnsafeBufferPointer { bytes in
      var index = nextToken(bytes, from: 1)
      while index < bytes.count, bytes[index] != UInt8(ascii: "]") {
        if bytes[index] == UInt8(ascii: ",") { index = nextToken(bytes, from: index + 1) }
        let end = endOfValue(bytes, from: index)
        list.append(part(index..<end))
        index = nextToken(bytes, from: end)
      }
    }
    return list
  }

  /// Goes over the members of an object in their order.
  /// - Parameter body: gets the bytes of the object, and in them the place of a name without its quotes, whether it is plain ASCII
  ///   without escapes, and the place of its value.
  private func forEachMember(
    _ body: (_ bytes: UnsafeBufferPointer<UInt8>, _ name: Range<Int>, _ isPlain: Bool, _ value: Range<Int>) -> Void
  ) {
    guard kind == .object else { return }
    text.withUnsafeBufferPointer { bytes in
      _ = Self.walk(bytes, from: 0) { name, isPlain, start in
        let end = endOfValue(bytes, from: start)
        body(bytes, name, isPlain, start..<end)
        return end
      }
    }
  }

  /// Goes over the members of the object that begins at `start`, in their order.
  /// - Parameter body: gets the place of a name without its quotes, whether it is plain ASCII without escapes, and where its value
  ///   begins; returns where that ends.
  /// - Returns: where the object ends.
  @inline(__always)
  private static func walk(
    _ bytes: UnsafeBufferPointer<UInt8>, from start: Int,
    _ body: (_ name: Range<Int>, _ isPlain: Bool, _ value: Int) -> Int
  ) -> Int {
    var index = nextToken(bytes, from: start + 1)
    while index < bytes.count, bytes[index] != UInt8(ascii: "}") {
      if bytes[index] == UInt8(ascii: ",") { index = nextToken(bytes, from: index + 1) }
      let plainEnd = endOfPlainText(bytes, from: index + 1)
      let isPlain = bytes[plainEnd] == UInt8(ascii: "\"")
      let nameEnd = isPlain ? plainEnd : endOfString(bytes, from: index) - 1
      let value = nextToken(bytes, from: nextToken(bytes, from: nameEnd + 1) + 1)
      index = nextToken(bytes, from: body(index + 1..<nameEnd, isPlain, value))
    }
    return index + 1
  }

  /// A part of the text, by its place in the bytes of it.
  private func part(_ place: Range<Int>) -> JSONValue {
    let start = text.startIndex
    return JSONValue(trusted: text[start + place.lowerBound..<start + place.upperBound])
  }
}

/// Places in an object and in the objects within it, each a list of names.
package struct JSONPlaces: @unchecked Sendable {
  /// A name at one level. Names are static, so that they are never freed.
  struct Name {
    let name: UnsafeRawBufferPointer
    /// What stands there, or below it.
    let slots: Range<Int>
    /// The names below it; empty: it is wanted itself.
    var below: Range<Int>
  }

  let count: Int
  /// Those of one level stand together.
  private(set) var names: [Name] = []
  /// Those of the object itself.
  private(set) var top = 0..<0

  /// - Parameter paths: those that begin alike stand together, and none is the beginning of another.
  package init(_ paths: [[StaticString]]) {
    count = paths.count
    top = add(paths, from: 0, level: 0)
  }

  private mutating func add(_ paths: [[StaticString]], from first: Int, level: Int) -> Range<Int> {
    let start = names.count
    var below: [[[StaticString]]] = []
    for (offset, path) in paths.enumerated() where path.count > level {
      let name = UnsafeRawBufferPointer(start: path[level].utf8Start, count: path[level].utf8CodeUnitCount)
      if let last = names.indices.last, last >= start, areSame(names[last].name, name) {
        names[last] = Name(name: name, slots: names[last].slots.lowerBound..<first + offset + 1, below: 0..<0)
        below[last - start].append(path)
      } else {
        names.append(Name(name: name, slots: first + offset..<first + offset + 1, below: 0..<0))
        below.append([path])
      }
    }
    let level = level + 1
    let range = start..<names.count
    for place in range where below[place - start][0].count > level {
      names[place].below = add(below[place - start], from: names[place].slots.lowerBound, level: level)
    }
    return range
  }
}

/// The first place from `start` on that is not white space.
private func nextToken(_ bytes: UnsafeBufferPointer<UInt8>, from start: Int) -> Int {
  var index = start
  while index < bytes.count, isWhiteSpace(bytes[index]) { index += 1 }
  return index
}

/// The end of the value that begins at `start`. The text is valid, so only brackets and quotes need be followed.
private func endOfValue(_ bytes: UnsafeBufferPointer<UInt8>, from start: Int) -> Int {
  var index = start
  var depth = 0
  while index < bytes.count {
    switch bytes[index] {
    case UInt8(ascii: "\""):
      index = endOfString(bytes, from: index)
      if depth == 0 { return index }
    case UInt8(ascii: "{"), UInt8(ascii: "["):
      depth += 1
      index += 1
    case UInt8(ascii: "}"), UInt8(ascii: "]"):
      if depth == 0 { return index }
      depth -= 1
      index += 1
      if depth == 0 { return index }
    case UInt8(ascii: ","), UInt8(ascii: ":"), 0x20, 0x0A, 0x0D, 0x09:
      if depth == 0 { return index }
      index += 1
    default:
      index += 1
    }
  }
  return index
}

/// The index after the quote that ends the string which begins at `start`.
func endOfString(_ bytes: UnsafeBufferPointer<UInt8>, from start: Int) -> Int {
  var index = start + 1
  while true {
    index = endOfPlainText(bytes, from: index)
    switch bytes[index] {
    case UInt8(ascii: "\""): return index + 1
    case UInt8(ascii: "\\"): index += 2
    default: index += 1
    }
  }
}

private func areSame(_ one: UnsafeRawBufferPointer, _ other: UnsafeRawBufferPointer) -> Bool {
  guard one.count == other.count else { return false }
  guard let first = one.baseAddress, let second = other.baseAddress else { return true }
  return memcmp(first, second, one.count) == 0
}

private func unescaped(_ text: ArraySlice<UInt8>) -> String {
  var units: [UInt8] = []
  units.reserveCapacity(text.count)
  var index = text.startIndex

  /// The four digits after `\u`, where they stand at `index`.
  func unit() -> UInt16 {
    text[(index + 2)..<(index + 6)].reduce(0) { $0 << 4 | UInt16(hexDigit($1) ?? 0) }
  }

  while index < text.endIndex {
    guard text[index] == UInt8(ascii: "\\") else {
      units.append(text[index])
      index += 1
      continue
    }
    switch text[index + 1] {
    case UInt8(ascii: "b"): units.append(0x08)
    case UInt8(ascii: "f"): units.append(0x0C)
    case UInt8(ascii: "n"): units.append(0x0A)
    case UInt8(ascii: "r"): units.append(0x0D)
    case UInt8(ascii: "t"): units.append(0x09)
    case UInt8(ascii: "u"):
      let first = unit()
      index += 6
      var scalar = Unicode.Scalar(UInt32(clamping: first))
      if UTF16.isLeadSurrogate(first), text[index...].starts(with: Array("\\u".utf8)) {
        let second = unit()
        if UTF16.isTrailSurrogate(second) {
          scalar = Unicode.Scalar(
            0x10000 + (UInt32(clamping: first) - 0xD800) << 10 + (UInt32(clamping: second) - 0xDC00))
          index += 6
        }
      }
      units.append(contentsOf: String(scalar ?? "\u{FFFD}").utf8)
      continue
    case let other: units.append(other)
    }
    index += 2
  }
  return String(decoding: units, as: UTF8.self)
}
