import MsctlCore
import Testing

@Suite("Text from outside")
struct ByteTextTests {
  @Test("a combining mark or an equivalent character does not hide or imitate syntax")
  func marks() {
    let quoted = "a'\u{301}b"
    #expect(quoted.holds("'") && quoted.cut(at: "'").map { $0.before == "a" } == true)
    #expect(quoted.parts(between: "'").map { Array($0.utf8) } == [[0x61], [0xCC, 0x81, 0x62]])
    #expect("\u{37E}".holds(";") == false && "K".isSame(as: "\u{212A}") == false)
    #expect("amqp://\u{301}host".begins(with: "amqp://") && "x=\u{301}".rest(after: "x=") == "\u{301}")
    #expect("é".isSame(as: "e\u{301}") == false)
  }

  @Test("parts keep empty ones, the last place counts from the end, and case is ASCII's")
  func parts() {
    #expect(",a,,b".parts(between: ",") == ["", "a", "", "b"])
    #expect("".parts(between: ",") == [""] && "a".cut(at: ",") == nil)
    #expect("a:b:c".cut(atLast: ":").map { [$0.before, $0.after] } == ["a:b", "c"])
    #expect("X-\u{130}K".lowercasedASCII == "x-\u{130}k" && "abc".ends(with: "bc") && !"c".ends(with: "bc"))
    #expect("it is down".holds(text: "is d") && !"iis".holds(text: "iss"))
  }
}
