import MsctlCore
import Testing

/// Reads a whole stream, handed in as pieces of this size.
private func read(_ text: [UInt8], pieces size: Int = .max, limits: JSONStreamReader.Limits = .init()) throws
  -> [String]
{
  var reader = JSONStreamReader(limits: limits)
  var values: [String] = []
  var rest = text[...]
  while !rest.isEmpty {
    reader.append(rest.prefix(size))
    rest = rest.dropFirst(size)
    while let value = try reader.next() { values.append(value.description) }
  }
  reader.finish()
  while let value = try reader.next() { values.append(value.description) }
  return values
}

private func read(_ text: String, pieces size: Int = .max) throws -> [String] {
  try read(Array(text.utf8), pieces: size)
}

private func refusal(_ text: [UInt8], pieces size: Int = .max) -> JSONError? {
  do {
    _ = try read(text, pieces: size)
    return nil
  } catch { return error as? JSONError }
}

@Suite("The JSON stream reader")
struct JSONStreamReaderTests {
  static let accepted: [String] = [
    "1.10", "12345678901234567890", "-0", "-0.0e-0", "1E+2", "0.5", "1e5", "\"\"", "\"a\\u00e9\\n\\/\"", "true",
    "false",
    "null", "[]", "{}", "[[[]]]", #"{"a":1,"a":2,"":{}}"#, #"["\ud83d\ude00","\ud800"]"#, "\"\u{7F}\u{80}\u{10FFFF}é\"",
    #"[1,"x",null,true,{"k":[]}]"#, "[-1,0,1.5e300]",
  ]

  @Test("keeps the text of every value, in pieces of any size", arguments: accepted, [1, 2, 3, 7, Int.max])
  func keepsText(_ text: String, _ size: Int) throws {
    #expect(try read(text, pieces: size) == [text])
  }

  @Test("drops white space outside strings, and only that", arguments: [1, 5, Int.max])
  func whiteSpace(_ size: Int) throws {
    #expect(try read(" { \"a b\" :\t[ 1 ,\r\n 2 ] } ", pieces: size) == [#"{"a b":[1,2]}"#])
  }

  @Test("reads values one a line, several on a line and spread over lines")
  func streams() throws {
    #expect(try read(#"{"a":1.10}{"a":12345678901234567890}"#) == [#"{"a":1.10}"#, #"{"a":12345678901234567890}"#])
    #expect(try read("1 2\n3\n") == ["1", "2", "3"])
    #expect(try read(#""a""b"[1]2{}"#) == [#""a""#, #""b""#, "[1]", "2", "{}"])
    #expect(try read("") == [])
    #expect(try read(" \n\t") == [])
    #expect(try read([0xEF, 0xBB, 0xBF] + Array("1".utf8), pieces: 1) == ["1"])
  }

  @Test("hands a value on as soon as its last byte has come")
  func promptness() throws {
    var reader = JSONStreamReader()
    for byte in "{\"a\":[1,2]".utf8 {
      reader.append([byte])
      #expect(try reader.next() == nil)
    }
    reader.append(Array("}".utf8))
    #expect(try reader.next()?.description == #"{"a":[1,2]}"#)
    reader.append(Array("42".utf8))
    #expect(try reader.next() == nil)
    reader.append(Array("\n".utf8))
    #expect(try reader.next()?.description == "42")
  }

  /// Reads the elements of an array by themselves.
  private func elements(_ text: String, pieces size: Int) throws -> [String] {
    var reader = JSONStreamReader(elementsAfter: 1)
    var values: [String] = []
    var rest = Array(text.utf8).dropFirst()
    while !rest.isEmpty {
      reader.append(rest.prefix(size))
      rest = rest.dropFirst(size)
      while let value = try reader.next() { values.append(value.description) }
    }
    reader.finish()
    while let value = try reader.next() { values.append(value.description) }
    return values
  }

  @Test("reads an array element by element", arguments: [1, 2, 3, 7, Int.max])
  func elements(_ size: Int) throws {
    let arrays =
      Self.accepted.map { "[\($0)]" } + ["[]", "[ ] ", "[[],[[]],{}]\n", "[ 1 , {\"a\" :[ 2 ]} ,\n\"x,]\" ] "]
    for text in arrays + ["[\(Self.accepted.joined(separator: ", "))]"] {
      #expect(try elements(text, pieces: size) == JSONValue(parsing: Array(text.utf8)).elements.map(\.description))
    }
  }

  @Test(
    "refuses in the elements of an array what it refuses in the whole of it",
    arguments: [
      "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1}", "[{]", "[tru", "[01]", "[1]]", "[1] 2", "[] ,", "[\n1,\n2 x]",
    ],
    [1, 3, Int.max])
  func refusedElements(_ text: String, _ size: Int) throws {
    let whole = try #require(throws: JSONError.self) { _ = try JSONValue(parsing: Array(text.utf8)) }
    #expect(throws: whole) { _ = try elements(text, pieces: size) }
  }

  static let refused: [(text: String, error: String)] = [
    ("[1,]", "line 1, column 4: expected a value, found ']'"),
    (#"{"a":1,}"#, "line 1, column 8: expected a name in quotes, found '}'"),
    ("{a:1}", "line 1, column 2: expected a name in quotes, found 'a'"),
    ("{'a':1}", "line 1, column 2: expected a name in quotes, found '''"),
    (#"{"a" 1}"#, "line 1, column 6: expected ':' after a name, found '1'"),
    ("[1 2]", "line 1, column 4: expected ',' or ']', found '2'"),
    ("\n\n  [1}", "line 3, column 5: expected ',' or ']', found '}'"),
    ("NaN", "line 1, column 1: expected a value, found 'N'"),
    ("Infinity", "line 1, column 1: expected a value, found 'I'"),
    ("-Infinity", "line 1, column 2: expected a digit after '-', found 'I'"),
    ("+1", "line 1, column 1: expected a value, found '+'"),
    ("01", "line 1, column 2: a number must not begin with 0"),
    (".5", "line 1, column 1: expected a value, found '.'"),
    ("1.", "line 1, column 3: the input ends inside a value"),
    ("1.e5", "line 1, column 3: expected a digit in a number, found 'e'"),
    ("1e", "line 1, column 3: the input ends inside a value"),
    ("1ex", "line 1, column 3: expected a digit in an exponent, found 'x'"),
    ("-", "line 1, column 2: the input ends inside a value"),
    ("tru", "line 1, column 4: the input ends inside a value"),
    ("trux", "line 1, column 4: expected a value, found an unknown word"),
    ("truefalse", "line 1, column 5: expected a value, found 'f'"),
    ("1-2", "line 1, column 2: expected a value, found '-'"),
    ("]", "line 1, column 1: expected a value, found ']'"),
    ("[1", "line 1, column 3: the input ends inside a value"),
    ("\"abc", "line 1, column 5: the input ends inside a value"),
    ("\"a\nb\"", "line 1, column 3: a control character in a string must be written as an escape"),
    ("\"\u{0}\"", "line 1, column 2: a control character in a string must be written as an escape"),
    (#""\x""#, #"line 1, column 3: '\' in a string must be followed by one of " \ / b f n r t u"#),
    (#""\u12g4""#, #"line 1, column 6: '\u' must be followed by four hexadecimal digits"#),
    ("\u{A0}1", "line 1, column 1: expected a value, found the byte 0xC2"),
    ("// comment", "line 1, column 1: expected a value, found '/'"),
    ("[1]]", "line 1, column 4: expected a value, found ']'"),
  ]

  @Test("refuses what is not JSON with line and column, however it is cut", arguments: refused, [1, 3, Int.max])
  func refuses(_ entry: (text: String, error: String), _ size: Int) {
    #expect(refusal(Array(entry.text.utf8), pieces: size)?.description == entry.error)
  }

  @Test(
    "refuses what is not UTF-8",
    arguments: [
      [0x80], [0xC0, 0x80], [0xC1, 0xBF], [0xE0, 0x80, 0x80], [0xED, 0xA0, 0x80], [0xF0, 0x80, 0x80, 0x80],
      [0xF4, 0x90, 0x80, 0x80], [0xF5], [0xFF], [0xE2, 0x82], [0xC3, 0x28],
    ] as [[UInt8]])
  func utf8(_ bytes: [UInt8]) {
    #expect(refusal([0x22] + bytes + [0x22])?.reason == "the text is not valid UTF-8")
  }

  @Test("hands on what came before an error, and keeps what did not go well")
  func errorLater() throws {
    var reader = JSONStreamReader()
    reader.append(Array("1 {\"a\":2} oops 3".utf8))
    #expect(try reader.next()?.description == "1")
    #expect(try reader.next()?.description == #"{"a":2}"#)
    #expect(throws: JSONError.self) { _ = try reader.next() }
    #expect(String(decoding: reader.unread, as: UTF8.self) == "oops 3")
  }

  @Test("finds what ends or interrupts a string wherever it stands", arguments: 0..<24)
  func interruptions(offset: Int) throws {
    let before = String(repeating: "~", count: offset)
    for text in ["\(before)\\n \(before)", "\(before)é\(before)\u{80}", "\(before)\\\"\(before)\u{10FFFF}!"] {
      #expect(try read("\"\(text)\"") == ["\"\(text)\""])
      #expect(try JSONValue(parsing: "{\"\(text)\":\"\(text)\",\"z\":1}".utf8)["z"]?.integer == 1)
    }
    for byte in [0x00, 0x09, 0x1F, 0x80, 0xFF] as [UInt8] {
      let text = Array("\"\(before)".utf8) + [byte] + Array("\(before)\"".utf8)
      #expect(refusal(text)?.column == offset + 2)
    }
    #expect(try read("\"\(before)\" 1") == ["\"\(before)\"", "1"])
    #expect(JSONValue(string: "\(before)\u{1}\"é\(before)").description == "\"\(before)\\u0001\\\"é\(before)\"")
  }

  @Test("reads large values, which are not copied, beside small ones", arguments: [100_000, Int.max])
  func largeValues(pieces: Int) throws {
    let large = "\"" + String(repeating: "a", count: 300_000) + "\""
    #expect(
      try read("1 \(large)[\(large), 2]\(large)\n\"x\"", pieces: pieces) == [
        "1", large, "[\(large),2]", large, "\"x\"",
      ])
    #expect(throws: JSONError.self) { try read(Array(large.utf8), limits: .init(bytes: 200_000)) }
  }

  @Test("keeps values of any size as they were while it reads on", arguments: [7, 1000, 1 << 16, Int.max])
  func keptValues(pieces: Int) throws {
    let sizes = (0..<400).map { [0, 1, 3, 250, 255, 256, 257, 700, 1023, 1024, 1025][$0 * 7 % 11] }
    let texts = sizes.enumerated().map { "\"\($0)" + String(repeating: "x", count: $1) + "\"" }
    var reader = JSONStreamReader()
    var kept: [JSONValue] = []
    var rest = Array(texts.joined(separator: " ").utf8)[...]
    while !rest.isEmpty {
      reader.append(rest.prefix(pieces))
      rest = rest.dropFirst(pieces)
      while let value = try reader.next() { kept.append(value) }
    }
    #expect(kept.map(\.description) == texts)
    #expect(kept.map(\.string) == texts.map { String($0.dropFirst().dropLast()) })
  }

  @Test("bounds nesting and size")
  func limits() throws {
    let limits = JSONStreamReader.Limits(depth: 3, bytes: 10)
    #expect(try read(Array("[[[]]]".utf8), limits: limits) == ["[[[]]]"])
    #expect(throws: JSONError.self) { _ = try read(Array("[[[[]]]]".utf8), limits: limits) }
    #expect(try read(Array("[1,2,3,45]".utf8), limits: limits) == ["[1,2,3,45]"])
    #expect(throws: JSONError.self) { _ = try read(Array("[1,2,3,456]".utf8), limits: limits) }
    #expect(throws: JSONError.self) { _ = try read(Array(repeating: 0x5B, count: 100_000)) }
  }

  @Test("hands out a part of a large value early, and the rest at its end")
  func draining() throws {
    var reader = JSONStreamReader(limits: .init(bytes: 8))
    reader.append(Array("[1, 2, 3".utf8))
    #expect(try reader.next() == nil)
    var text = reader.drain()
    reader.append(Array(", 4, 5] 6 ".utf8))
    text += try #require(try reader.next()).text
    #expect(String(decoding: text, as: UTF8.self) == "[1,2,3,4,5]")
    #expect(try reader.next()?.description == "6")
  }
}

@Suite("A JSON value")
struct JSONValueTests {
  @Test("finds fields without changing them")
  func fields() throws {
    let value = try JSONValue(
      parsing: Array(#" {"a":1.10,"b":{"c":[1,"x\n",{}]},"a":2e3,"d\u0065":true,"s":"q\"}"} "#.utf8))
    #expect(value["a"]?.description == "2e3")
    #expect(value["b"]?["c"]?.elements.map(\.description) == ["1", #""x\n""#, "{}"])
    #expect(value["b"]?["c"]?.elements[1].string == "x\n")
    #expect(value["de"]?.bool == true)
    #expect(value["s"]?.string == "q\"}")
    #expect(value["missing"] == nil)
    let names = try JSONValue(
      parsing: #" { "é" : 1, "" : [ ], "\"" : { } , "\u00e9" : 2 } "#.utf8, keepsWhiteSpace: true)
    #expect(names["é"]?.integer == 2)
    #expect(names[""]?.elements.isEmpty == true)
    #expect(names[["\"", "e", ""]].map { $0?.description } == ["{ }", nil, "[ ]"])
    #expect(names.members.map(\.name) == ["é", "", "\"", "é"])
    #expect(value.members.map(\.name) == ["a", "b", "a", "de", "s"])
  }

  @Test(
    "decodes escapes",
    arguments: [
      (#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{C}\n\r\t"), (#""\u00e9\ud83d\ude00""#, "é😀"), (#""\ud83dx""#, "\u{FFFD}x"),
      (#""\ude00""#, "\u{FFFD}"), (#""""#, ""),
    ])
  func strings(_ text: String, _ string: String) throws {
    #expect(try JSONValue(parsing: text.utf8).string == string)
  }

  @Test("is one value and nothing else", arguments: ["", "1 2", "{} x"])
  func oneOnly(_ text: String) {
    #expect(throws: JSONError.self) { _ = try JSONValue(parsing: text.utf8) }
  }

  @Test("writes strings so that they read back the same")
  func writer() throws {
    let text = "\"\\/\u{0}\u{1F}\n\té😀\u{7F}"
    #expect(try JSONValue(parsing: JSONValue(string: text).text).string == text)
  }

  @Test("is laid out for people without changing its text")
  func printer() throws {
    let value = try JSONValue(parsing: #"{"a":[1.10,{}],"b":[],"c":"\u0007"}"#.utf8)
    let plain = String(decoding: JSONPrinter(colours: false).indented(value), as: UTF8.self)
    #expect(plain == "{\n  \"a\": [\n    1.10,\n    {}\n  ],\n  \"b\": [],\n  \"c\": \"\\u0007\"\n}")
    #expect(try JSONValue(parsing: plain.utf8) == value)
    let delete = JSONValue(string: "\u{9B}31m")
    #expect(String(decoding: JSONPrinter(colours: false).indented(delete), as: UTF8.self) == #""\u009b31m""#)
  }
}
