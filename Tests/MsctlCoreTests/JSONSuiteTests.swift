import MsctlCore
import Testing

/// The cases of the public JSON parsing suites, as this reader decides them: what RFC 8259 lets in, what it keeps out, and
/// what it leaves to the reader. One document each, not a stream.
@Suite("The JSON reader on the public suites' cases")
struct JSONSuiteTests {
  static let accepted: [String] = [
    // Arrays.
    "[[]   ]", "[\"\"]", "[]", "[\"a\"]", "[false]", "[null, 1, \"1\", {}]", "[null]", "[1\n]", " [1]",
    "[1,null,null,null,2]", "[2] ",
    // Numbers.
    "[123e65]", "[0e+1]", "[0e1]", "[ 4]",
    "[-0.000000000000000000000000000000000000000000000000000000000000000000000000000001]", "[20e1]",
    "[-0]", "[-123]", "[-1]", "[1E22]", "[1E-2]", "[1E+2]", "[123e45]", "[123.456e78]", "[1e-2]", "[1e+2]", "[123]",
    "[123.456789]",
    // Larger or finer than a double: text is text.
    "[0.4e00669999999999999999999999999999999999999999999]", "[-1e+9999]", "[1.5e+9999]", "[123123e100000]",
    "[-123123123123123123123123123123]",
    // Objects.
    #"{"asd":"sdf", "dfg":"fgh"}"#, #"{"asd":"sdf"}"#, #"{"a":"b","a":"c"}"#, #"{"a":"b","a":"b"}"#, "{}", #"{"":0}"#,
    #"{"foo\u0000bar": 42}"#,
    #"{ "min": -1.0e+28, "max": 1.0e+28 }"#, #"{"x":[{"id": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}], "id": "x"}"#,
    #"{"a":[]}"#,
    #"{"title":"\u041f\u043e\u043b\u0442\u043e\u0440\u0430"}"#, "{\n\"a\": \"b\"\n}",
    // Strings.
    #"["\u0060\u012a\u12AB"]"#, #"["\uD801\udc37"]"#, #"["\ud83d\ude39\ud83d\udc8d"]"#, #"["\"\\\/\b\f\n\r\t"]"#,
    #"["\\u0000"]"#, #"["\""]"#,
    "[\"a/*b*/c/*d//e\"]", #"["\\a"]"#, #"["\\n"]"#, #"["\u0012"]"#, #"["\uFFFF"]"#, "[\"asd\"]", "[ \"asd\"]",
    #"["\uDBFF\uDFFF"]"#,
    #"["new\u00A0line"]"#, "[\"\u{10FFFF}\"]", "[\"\u{FFFF}\"]", #"["\u0000"]"#, #"["\u002c"]"#, "[\"π\"]",
    "[\"\u{1BFFF}\"]", "[\"asd \"]", "\" \"",
    #"["\uD834\uDd1e"]"#, #"["\u0821"]"#, #"["\u0123"]"#, "[\"\u{2028}\"]", "[\"\u{2029}\"]",
    #"["\u0061\u30af\u30EA\u30b9"]"#, "[\"new\u{A0}line\"]",
    "[\"\u{7F}\"]", "[\"a\u{7F}a\"]", #"["\u005C"]"#, "[\"⍂㈴⍂\"]", #"["\u200B"]"#, #"["\u2064"]"#, #"["\uFDD0"]"#,
    #"["\uFFFE"]"#, #"["\u0022"]"#,
    "[\"€𝄞\"]", "[\"aa\"]",
    // Half a surrogate pair, written as an escape: kept as it is.
    #"["\uDADA"]"#, #"["\uD888\u1234"]"#, #"["\uD800\n"]"#, #"["\uDd1ea"]"#, #"["\uD800\uD800\n"]"#, #"["\ud800"]"#,
    #"["\ud800abc"]"#,
    #"["\uDd1e\uD834"]"#, #"["\uDFAA"]"#,
    // Structure.
    "false", "42", "-0.1", "null", "\"asd\"", "true", "\"\"", "[\"a\"]\n", "[true]", " [] ",
  ]

  @Test("takes what is JSON, and keeps its text", arguments: accepted)
  func accepts(_ text: String) throws {
    let value = try JSONValue(parsing: text.utf8, keepsWhiteSpace: true)
    #expect(value.description == text.trimmed)
    // Without its white space it is the same to whoever reads it.
    let compact = try JSONValue(parsing: text.utf8)
    #expect(try JSONValue(parsing: compact.text) == compact)
  }

  static let refused: [[UInt8]] =
    ([
      // Arrays.
      "[1 true]", "[\"\": 1]", "[\"\"],", "[,1]", "[1,,2]", "[\"x\",,]", "[\"x\"]]", "[\"\",]", "[\"x\"", "[x",
      "[3[4]]", "[1:2]", "[,]", "[-]",
      "[   , \"\"]", "[\"a\",\n4\n,1,", "[1,]", "[1,,]", "[\"\u{B}a\"\\f]", "[*]", "[\"\"", "[1,", "[1,\n1\n,1", "[{}",
      // Words.
      "[fals]", "[nul]", "[tru]", "[True]", "[TRUE]", "[nan]", "[NaN]", "[-NaN]", "[Infinity]", "[-Infinity]", "[Inf]",
      "undefined",
      // Numbers.
      "[++1234]", "[+1]", "[+Inf]", "[-01]", "[-1.0.]", "[-2.]", "[.-1]", "[.2e-3]", "[0.1.2]", "[0.3e+]", "[0.3e]",
      "[0.e1]", "[0E+]", "[0E]",
      "[0e+]", "[0e]", "[1.0e+]", "[1.0e-]", "[1.0e]", "[1 000.0]", "[1eE2]", "[2.e+3]", "[2.e-3]", "[2.e3]", "[9.e+]",
      "[1+2]", "[0x1]", "[0x42]",
      "[0e+-1]", "[-foo]", "[- 1]", "[-012]", "[-.123]", "[-1x]", "[1ea]", "[1.]", "[.123]", "[1.2a-3]",
      "[1.8011670033376514H-308]", "[012]", "[１]",
      // Objects.
      "[\"x\", truth]", "{[: \"x\"}", "{\"x\", null}", "{\"x\"::\"b\"}", "{🇨🇭}", "{\"a\":\"a\" 123}", "{key: 'value'}",
      "{\"a\" b}", "{:\"b\"}", "{\"a\" \"b\"}",
      "{\"a\":", "{\"a\"", "{1:1}", "{9999E9999:1}", "{null:null,null:null}", "{\"id\":0,,,,,}", "{'a':0}",
      "{\"id\":0,}", "{\"a\":\"b\"}/**/", "{\"a\":\"b\"}#",
      "{\"a\":\"b\"}//", "{\"a\":\"b\",,\"c\":\"d\"}", "{a: \"b\"}", "{\"a\":\"a", "{ \"foo\" : \"bar\", \"a\" }",
      "{\"a\":\"b\"}#{}", "{",
      // Strings.
      "[\"\\uD800\\\"]", "[\"\\uD800\\u\"]", "[\"\\uD800\\u1\"]", "[\"\\uD800\\u1x\"]", "[é]", "[\"\\x00\"]",
      "[\"\\\\\\\"]", "[\"\\\t\"]", "[\"\\🌀\"]", "[\"\\\"]",
      "[\"\\u00A\"]", "[\"\\uD834\\uDd\"]", "[\"\\uD800\\uD800\\x\"]", "[\"\\a\"]", "[\"\\uqqqq\"]", "[\\u0020\"asd\"]",
      "[\\n]", "\"", "['single quote']", "abc",
      "[\"\\", "[\"a\u{0}a\"]", "[\"new\nline\"]", "[\"\t\"]", "\"\\UA66D\"", "\"\"x",
      // Structure.
      "<.>", "[<null>]", "[1]x", "[1]]", "[\"asd]", "aå", "[True]", "1]", "{\"x\": true,", "[][]x", "]", "{}}",
      "{\"\":", "{\"a\":/*comment*/\"b\"}",
      "{\"a\": true} \"x", "['", "[,", "[{", "[\"a", "[\"a\"", "{\"a\":\"b", "{,", "{[", "{\"a", "{'a'",
      "[\"\\{[\"\\{[\"\\{[\"\\{", "é", "*",
      "{\"a\":\"b\"}#{}", "[\\u000A\"\"]", "[1", "[ false, nul", "[ true, fals", "[ false, tru", "{\"asd\":\"asd\"",
      "\u{2060}[]", "[\u{C}]", "\u{FEFF}\u{FEFF}{}", "",
      " ",
    ] as [String]).map { Array($0.utf8) }
    + [
      [0x5B, 0xFF, 0x5D], [0x5B, 0x22, 0xE0, 0xFF, 0x22, 0x5D], [0x5B, 0x22, 0xFF, 0x22, 0x5D],
      [0x5B, 0x22, 0xC0, 0xAF, 0x22, 0x5D],
      [0x5B, 0x22, 0xE6, 0x97, 0xA5, 0xD1, 0x88, 0xFA, 0x22, 0x5D], [0x5B, 0x22, 0xF0, 0x80, 0x80, 0xAF, 0x22, 0x5D],
      [0x5B, 0x22, 0xED, 0xA0, 0x80, 0x22, 0x5D], [0x5B, 0x22, 0xFC, 0x80, 0x80, 0x80, 0x80, 0xAF, 0x22, 0x5D],
      [0x5B, 0x22, 0x81, 0x22, 0x5D],
      [0x5B, 0x31, 0xE5, 0x5D], [0x5B, 0x61, 0xE5, 0x5D], [0x7B, 0x22, 0xB9, 0x22, 0x3A, 0x22, 0x30, 0x22, 0x2C, 0x7D],
      [0xE5], [0xEF, 0xBB, 0x7B, 0x7D],
      [0xFF, 0xFE, 0x5B, 0x00, 0x5D, 0x00], [0x00, 0x5B, 0x00, 0x5D], [0x31, 0x32, 0x33, 0x00],
      [0x5B, 0x31, 0x00, 0x5D],
    ]

  @Test("keeps out what is not JSON, in pieces of any size", arguments: refused, [1, Int.max])
  func refuses(_ text: [UInt8], _ size: Int) {
    var reader = JSONStreamReader()
    var count = 0
    var error: JSONError?
    var rest = text[...]
    do {
      while !rest.isEmpty {
        reader.append(rest.prefix(size))
        rest = rest.dropFirst(size)
        while try reader.next() != nil { count += 1 }
      }
      reader.finish()
      while try reader.next() != nil { count += 1 }
    } catch let found { error = found }
    // A stream may hold several values or none; one document may not.
    #expect(error != nil || count != 1, "\(String(decoding: text, as: UTF8.self))")
  }

  @Test("what goes in comes out: random values, random white space, cut anywhere")
  func properties() throws {
    let seed = UInt64.random(in: .min ... .max)
    var generator = JSONGenerator(seed)
    for _ in 0..<2000 {
      let values = (0..<Int.random(in: 1...4, using: &generator)).map { _ in generator.value(depth: 4) }
      let stream = values.map { $0.spaced }.joined(separator: "\n")
      var reader = JSONStreamReader()
      var exact = JSONStreamReader(keepsWhiteSpace: true)
      var found: [String] = []
      var foundExact: [String] = []
      var rest = Array(stream.utf8)[...]
      while !rest.isEmpty {
        let piece = rest.prefix(Int.random(in: 1...40, using: &generator))
        rest = rest.dropFirst(piece.count)
        reader.append(piece)
        exact.append(piece)
        while let value = try reader.next() { found.append(value.description) }
        while let value = try exact.next() { foundExact.append(value.description) }
      }
      reader.finish()
      exact.finish()
      while let value = try reader.next() { found.append(value.description) }
      while let value = try exact.next() { foundExact.append(value.description) }
      try #require(found == values.map(\.compact), "seed \(seed)")
      try #require(foundExact == values.map { $0.spaced.trimmed }, "seed \(seed)")
      for text in found {
        let value = try JSONValue(parsing: text.utf8)
        // The printer writes U+007F as an escape, so that it may reach a terminal.
        let printed = String(decoding: JSONPrinter(colours: false).indented(value), as: UTF8.self)
        let visible = text.split(separator: "\u{7F}", omittingEmptySubsequences: false).joined(separator: "\\u007f")
        try #require(JSONValue(parsing: printed.utf8).description == visible, "seed \(seed)")
        for (name, _) in value.members {
          try #require(value[name] == value.members.last { $0.name == name }?.value, "seed \(seed)")
        }
      }
    }
  }
}

extension String {
  fileprivate var trimmed: String {
    let isSpace: (Character) -> Bool = { $0 == " " || $0 == "\n" || $0 == "\t" || $0 == "\r" || $0 == "\r\n" }
    return String(drop(while: isSpace).reversed().drop(while: isSpace).reversed())
  }
}

/// Makes random JSON, each value with white space and without.
private struct JSONGenerator: RandomNumberGenerator {
  struct Text {
    var compact: String
    var spaced: String
  }

  private var state: UInt64

  init(_ seed: UInt64) {
    state = seed
  }

  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return state ^ (state >> 29)
  }

  mutating func value(depth: Int) -> Text {
    switch Int.random(in: 0..<(depth > 0 ? 7 : 4), using: &self) {
    case 0: return scalar(["null", "true", "false"].randomElement(using: &self) ?? "null")
    case 1: return scalar(number())
    case 2, 3: return scalar(string())
    case 4, 5: return list("{", "}", depth) { $0.member(depth: depth - 1) }
    default: return list("[", "]", depth) { $0.value(depth: depth - 1) }
    }
  }

  private mutating func member(depth: Int) -> Text {
    let name = string()
    let value = value(depth: depth)
    return Text(compact: name + ":" + value.compact, spaced: name + space() + ":" + space() + value.spaced)
  }

  private mutating func list(_ open: String, _ close: String, _ depth: Int, _ item: (inout Self) -> Text) -> Text {
    let items = (0..<Int.random(in: 0...4, using: &self)).map { _ in item(&self) }
    var spaced = open + space()
    for (index, item) in items.enumerated() { spaced += (index > 0 ? "," + space() : "") + item.spaced + space() }
    return Text(compact: open + items.map(\.compact).joined(separator: ",") + close, spaced: spaced + close)
  }

  private func scalar(_ text: String) -> Text { Text(compact: text, spaced: text) }

  private mutating func number() -> String {
    ["0", "-0", "1.10", "12345678901234567890", "-1e5", "1E+400", "0.000001", "3"].randomElement(using: &self) ?? "0"
  }

  private mutating func string() -> String {
    let parts = [
      "a", "é", "😀", "\\\"", "\\\\", "\\u00e9", "\\ud83d\\ude00", "\\n", " ", "{", "]", ",", ":",
      "0123456789abcdef0123456789", "\u{7F}",
    ]
    return "\""
      + (0..<Int.random(in: 0...6, using: &self)).map { _ in parts.randomElement(using: &self) ?? "" }.joined() + "\""
  }

  private mutating func space() -> String {
    ["", "", " ", "\n", "\t", "\r\n", "   "].randomElement(using: &self) ?? ""
  }
}
