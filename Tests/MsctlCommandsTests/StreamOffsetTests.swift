import MsctlCore
import Testing

@testable import MsctlCommands

@Suite("Where in a stream to begin")
struct StreamOffsetTests {
  /// The expected seconds are those of `date -u -d TEXT +%s`.
  @Test(
    "A date of RFC 3339 is read",
    arguments: [
      ("1970-01-01T00:00:00Z", 0), ("2026-01-31T09:30:00Z", 1_769_851_800), ("2026-01-31t09:30:00.25z", 1_769_851_800),
      ("2026-01-31T09:30:00+01:00", 1_769_848_200), ("2026-01-31 09:30:00-05:30", 1_769_871_600),
      ("2024-02-29T23:59:60Z", 1_709_251_200),
    ] as [(String, Int64)])
  func dates(_ text: String, _ seconds: Int64) throws {
    #expect(secondsSince1970(text) == seconds)
    #expect(try StreamOffset(argument: text) == .timestamp(UInt64(seconds)))
  }

  @Test(
    "What is no date is none",
    arguments: [
      "", "2026-", "2026-01-31", "2026-01-31T09:30Z", "2026-01-31T09:30:00", "2026-13-01T00:00:00Z",
      "2026-02-30T00:00:00Z",
      "2026-01-31T24:00:00Z", "2026-01-31T09:30:00.Z", "2026-01-31T09:30:00+1:00", "2026-01-31T09:30:00Zx", "-1m2",
      "--5m",
      "2026-01-31T09:30:00\u{301}Z", "@", "-", "five",
    ])
  func others(_ text: String) throws {
    #expect(secondsSince1970(text) == nil)
    #expect(throws: (any Error).self) { try StreamOffset(argument: text) }
  }

  @Test("-TIME is so long ago")
  func ago() throws {
    let before = UInt64(clamping: unixTime())
    let offset = try StreamOffset(argument: "-5m")
    let after = UInt64(clamping: unixTime())
    guard case .timestamp(let seconds) = offset else { return #expect(Bool(false), "\(offset)") }
    #expect((before - 300...after - 300).contains(seconds))
  }

  @Test("first, last, next, numbers and @SECONDS are taken")
  func words() throws {
    #expect(try StreamOffset(argument: "last").value == .string("last"))
    #expect(try StreamOffset(argument: "7").value == .integer(7))
    #expect(try StreamOffset(argument: "@7").value == .timestamp(7))
  }
}
