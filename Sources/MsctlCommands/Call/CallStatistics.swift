import CommandTable
import Glibc
import MsctlCore

/// What `--stats` says in the end.
struct CallStatistics {
  enum Format: String, ArgumentChoice {
    case text, json
  }

  private let started = Deadline.now
  private var statuses: [(name: String, count: Int)] = []
  private var latencies = LatencyHistogram()
  private var bytes = 0
  private var retries = 0
  private var late = 0

  /// - Parameter bytes: the size of the response's body.
  mutating func add(_ call: PendingCall, bytes: Int) {
    // A value that fits no call, or a service without an instance, is no call.
    guard call.attempts > 0 else { return }
    let name = if call.hasResponse, let head = call.head { String(head.status) } else { "no response" }
    if let place = statuses.firstIndex(where: { $0.name == name }) {
      statuses[place].count += 1
    } else {
      statuses.append((name, 1))
    }
    latencies.add(call.delay + call.seconds)
    self.bytes += bytes
    retries += call.retries
    if call.delay > Double(Pace.slack.milliseconds) / 1000 { late += 1 }
  }

  func tell(_ console: Console, _ format: Format) {
    let seconds = max(started.secondsSince, 1e-6)
    if format == .json {
      var writer = JSONWriter()
      writer.object { write(seconds, to: &$0) }
      return console.tell(writer.value)
    }
    console.summarize(text(seconds)) { write(seconds, to: &$0) }
    if latencies.count > 1 { console.chart(latencies.chart) }
  }

  private var sortedStatuses: [(name: String, count: Int)] { statuses.sorted { $0.name < $1.name } }

  private var percentiles: [(name: String, latency: Double)] {
    [
      ("50%", latencies.percentile(0.5)), ("90%", latencies.percentile(0.9)), ("99%", latencies.percentile(0.99)),
      ("99.9%", latencies.percentile(0.999)), ("longest", latencies.longest),
    ]
  }

  private func text(_ seconds: Double) -> String {
    guard latencies.count > 0 else { return "0 calls" }
    func list(_ words: [String]) -> String { words.joined(separator: ", ") }
    var text =
      "\(counted(latencies.count, "call")) in \(shortened(seconds)) s (\(shortened(Double(latencies.count) / seconds))/s): "
      + list(sortedStatuses.map { "\($0.count) \($0.name)" }) + "; latency in ms: "
      + list(percentiles.map { "\($0.name) \(shortened($0.latency * 1000))" }) + "; \(counted(bytes, "byte"))"
    if retries > 0 { text += ", \(retries) \(retries == 1 ? "retry" : "retries")" }
    if late > 0 { text += "; \(late) began late" }
    return text
  }

  private func write(_ seconds: Double, to object: inout JSONWriter) {
    object.field("calls", latencies.count)
    guard latencies.count > 0 else { return }
    object.key("seconds")
    object.seconds(seconds)
    object.key("rate")
    object.seconds(Double(latencies.count) / seconds)
    object.key("statuses")
    object.object { object in for (name, count) in sortedStatuses { object.field(name, count) } }
    object.key("latency")
    object.object { object in
      for (name, latency) in percentiles {
        object.key(name)
        object.seconds(latency)
      }
    }
    object.field("bytes", bytes)
    object.field("retries", retries)
    object.field("late", late)
  }
}

/// Times as counts in steps that grow with the time, so that each keeps three digits and any number of them needs the same memory, as
/// in HdrHistogram (http://hdrhistogram.org). In microseconds.
struct LatencyHistogram {
  /// Below 2 to this power each microsecond has a count of its own; above, each time that has so many leading bits.
  private static let digits = 11
  private static let longestTime = 1e12

  private var counts: [Int] = []
  private(set) var count = 0
  private(set) var longest = 0.0

  mutating func add(_ seconds: Double) {
    let time = Int(exactly: min(max(0, seconds * 1e6), Self.longestTime).rounded()) ?? 0
    let place = Self.place(of: time)
    while counts.count <= place { counts += Array(repeating: 0, count: max(1, counts.count)) }
    counts[place] += 1
    count += 1
    longest = max(longest, seconds)
  }

  /// The time within which this share of all was.
  func percentile(_ share: Double) -> Double {
    var left = Int(exactly: (Double(count) * share).rounded(.up)) ?? count
    for (place, count) in counts.enumerated() {
      left -= count
      if left <= 0 { return min(longest, Self.time(at: place)) }
    }
    return longest
  }

  /// Ten lines at most, from the shortest to the longest, each as wide as it has times.
  var chart: [String] {
    let filled = counts.indices.filter { counts[$0] > 0 }
    guard let first = filled.first, let last = filled.last else { return [] }
    let (start, end) = (max(1e-6, Self.time(at: first)), max(1e-6, Self.time(at: last)))
    let rows = first == last ? 1 : 10
    let step = pow(end / start, 1 / Double(rows))
    var sums = [Int](repeating: 0, count: rows)
    for place in filled {
      let row =
        step > 1 ? Int(exactly: (log(max(1e-6, Self.time(at: place)) / start) / log(step)).rounded(.down)) ?? 0 : 0
      sums[min(max(0, row), rows - 1)] += counts[place]
    }
    let most = max(1, sums.max() ?? 1)
    return sums.indices.map { row in
      let time = "\(shortened(start * pow(step, Double(row + 1)) * 1000)) ms"
      let bar = String(repeating: "=", count: 40 * sums[row] / most)
      return "  <= " + String(repeating: " ", count: max(0, 11 - time.utf8.count)) + time + "  \(bar) \(sums[row])"
    }
  }

  private static func place(of time: Int) -> Int {
    let shift = max(0, Int.bitWidth - time.leadingZeroBitCount - digits)
    return shift << (digits - 1) + (time >> shift)
  }

  /// The middle of the times that are counted at a place, in seconds.
  private static func time(at place: Int) -> Double {
    let shift = max(0, place >> (digits - 1) - 1)
    let leading = place - shift << (digits - 1)
    return (Double(leading << shift) + Double(1 << shift - 1) / 2) / 1e6
  }
}

/// Three digits, more or less.
private func shortened(_ number: Double) -> String {
  let factor = number < 10 ? 100.0 : 10.0
  return String((number * factor).rounded() / factor)
}
