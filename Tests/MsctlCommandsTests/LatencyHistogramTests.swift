import Testing

@testable import MsctlCommands

@Suite("A histogram of latencies")
struct LatencyHistogramTests {
  @Test("keeps three digits of any time")
  func digits() {
    for time in [1e-6, 2e-6, 0.001, 0.002047, 0.002048, 0.0123456, 1, 1.5, 59.9, 3599, 86400] {
      var histogram = LatencyHistogram()
      histogram.add(time)
      histogram.add(1e6)
      let found = histogram.percentile(0.5)
      #expect(abs(found - time) <= max(time / 1000, 5e-7), "\(time) \(found)")
    }
  }

  @Test("has the percentiles of what it was given")
  func percentiles() {
    var histogram = LatencyHistogram()
    for number in (1...10000).reversed() { histogram.add(Double(number) / 1000) }
    for share in [0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1] {
      let wanted = share * 10
      #expect(abs(histogram.percentile(share) - wanted) <= wanted / 1000, "\(share)")
    }
    #expect(histogram.longest == 10 && histogram.count == 10000)
  }

  @Test("shows each time once, in ten lines at most")
  func chart() {
    var histogram = LatencyHistogram()
    #expect(histogram.chart == [])
    histogram.add(0)
    #expect(histogram.chart.count == 1)
    for number in 1...1000 { histogram.add(Double(number) / 500) }
    let counts = histogram.chart.compactMap { $0.split(separator: " ").last.flatMap { Int($0) } }
    #expect(counts.count == 10 && counts.reduce(0, +) == 1001)
    // What no clock says does not end it.
    for time in [-1, .infinity, 1e300] { histogram.add(time) }
    #expect(histogram.count == 1004)
  }
}
