/// Statuses of responses, by number or by class: `404`, `5xx`.
package struct StatusSet: Sendable, Equatable {
  private let ranges: [ClosedRange<Int>]

  /// - Parameter text: one or more, separated by commas.
  /// - Returns: nil where a part is neither a status from 100 to 599 nor a class.
  package init?(_ text: String) {
    var ranges: [ClosedRange<Int>] = []
    for part in text.parts(between: ",") {
      guard part.utf8.count == 3 else { return nil }
      if let digit = part.utf8.first, ("1"..."5").contains(Unicode.Scalar(digit)), part.lowercasedASCII.ends(with: "xx")
      {
        let lowest = Int(clamping: digit - 0x30) * 100
        ranges.append(lowest...lowest + 99)
      } else if let status = Int(part), (100..<600).contains(status) {
        ranges.append(status...status)
      } else {
        return nil
      }
    }
    self.ranges = ranges
  }

  package func contains(_ status: Int) -> Bool { ranges.contains { $0.contains(status) } }
}

extension [StatusSet] {
  package func contain(_ status: Int) -> Bool { contains { $0.contains(status) } }
}
