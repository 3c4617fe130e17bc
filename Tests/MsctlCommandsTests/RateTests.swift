import Testing

@testable import MsctlCommands
@testable import MsctlCore

@Suite("The rate of consume")
struct RateTests {
  /// The broker gives a message 30 min.
  private static let longest: Duration = .seconds(600)

  @Test(
    "none of the messages that are held waits for long before it is due",
    arguments: [
      Rate(1000, per: .seconds(1)), Rate(1, per: .seconds(1)), Rate(1, per: .seconds(60)), Rate(6, per: .seconds(3600)),
      Rate(1, per: .seconds(3600)),
    ])
  func prefetch(_ rate: Rate) {
    func held(_ change: (inout Consume.Options) -> Void) -> Int {
      var options = Consume.Options()
      options.rate = rate
      change(&options)
      return options.prefetch(false)
    }
    let interval = rate.period / rate.count
    for count in [
      held { _ in }, held { $0.exec = "cat" }, held { ($0.exec, $0.parallel) = ("cat", 1000) },
      held { $0.through = "cat" },
    ] { #expect(count >= 1 && interval * (count - 1) <= Self.longest, "\(count)") }
    // As many as are asked for all the same.
    #expect(held { $0.prefetch = 500 } == 500)
    // A fast rate leaves room for all commands.
    if interval * 1000 <= Self.longest { #expect(held { ($0.exec, $0.parallel) = ("cat", 1000) } >= 1000) }
  }
}
