import Testing

@testable import MsctlCore

@Suite("Keys of texts from outside")
struct ByteKeyTests {
  @Test("are the same only if their bytes are")
  func keys() {
    let texts = ["K", "\u{212A}", "\u{E9}", "e\u{301}", ";", "\u{37E}", "", "\0", "a"]
    #expect(Set(texts).count < texts.count, "Swift takes some for the same String")
    #expect(Set(texts.map(ByteKey.init)).count == texts.count)
    #expect(ByteKey("ab") == ByteKey("a" + "b") && ByteKey("ab").hashValue == ByteKey("a" + "b").hashValue)
    #expect(ByteKey("K") < ByteKey("\u{212A}") && !(ByteKey("K") < ByteKey("K")))
  }
}
