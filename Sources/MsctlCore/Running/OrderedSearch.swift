extension RandomAccessCollection where Index == Int {
  /// Where the first element stands that does not come before what is sought, by halves; the end where all do.
  /// - Parameter comesBefore: true for the elements up to there, and for none after.
  @inline(__always)
  func firstPlace(after comesBefore: (Element) -> Bool) -> Int {
    var (low, high) = (startIndex, endIndex)
    while low < high {
      let middle = low + (high - low) / 2
      if comesBefore(self[middle]) { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
