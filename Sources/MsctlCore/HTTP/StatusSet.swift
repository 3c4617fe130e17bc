/// Statuses of responses, by number or by class: `404`, `5xx`.
package struct StatusSet: Sendable, Equatable {
  private let ranges: [ClosedRange<Int>]

  /// - Parameter text: one or more, separated by commas.
  /// - Returns: nil where a part is neither a status from 100 to 599 nor a class.
  package init?(_ text: String) {
    var ranges: [ClosedRange<Int>] = []
    for part in text.parts(between: ",") {
      let lowest = part.lowercasedASCII.ends(with: "xx") ? part.utf8.first.map { (Int($0) - 0x30) * 100 } : Int(part)
      guard let lowest, part.utf8.count == 3, (100..<600).contains(lowest) else { return nil }
      ranges.append(lowest...(Int(part) ?? lowest + 99))
    }
    self.ranges = ranges
  }

  package func contains(_ status: Int) -> Bool { ranges.contains { $0.contains(status) } }
}

extension [StatusSet] {
  package func contain(_ status: Int) -> Bool { contains { $0.contains(status) } }
}
