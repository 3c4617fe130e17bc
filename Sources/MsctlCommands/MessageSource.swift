import MsctlCore
import SystemPackage

/// The bodies of messages: one that is given, or what standard input holds.
struct MessageSource {
  enum Kind {
    /// Each JSON value is one.
    case json
    /// Each line is one, without its line feed.
    case lines
    /// All of the input is one.
    case whole
  }

  private let kind: Kind
  private var given: [UInt8]?
  private var reader = JSONStreamReader()
  private var pending: [UInt8] = []
  /// How much of `pending` is known to hold no line feed, so that a long line is not searched again and again.
  private var searched = 0
  private var hasEnded = false
  private var failure: Failure?
  private(set) var isExhausted = false

  init(only body: [UInt8]) {
    kind = .whole
    given = body
    hasEnded = true
  }

  init(_ kind: Kind) {
    self.kind = kind
  }

  /// Reads what standard input has; `poll` has said that there is something.
  mutating func readMore() {
    do {
      let piece = try readPiece(.standardInput)
      hasEnded = piece.isEmpty
      switch kind {
      case .json:
        reader.append(piece)
        if hasEnded { reader.finish() }
      case .lines, .whole:
        pending += piece
      }
    } catch {
      failure = Failure(.badInput, "cannot read standard input: \(error)")
      hasEnded = true
    }
  }

  /// The next body that is complete; nil where more input is needed, or none is left (`isExhausted`).
  mutating func next() throws(Failure) -> [UInt8]? {
    if let failure { throw failure }
    if let body = given {
      given = nil
      isExhausted = true
      return body
    }
    let body: [UInt8]?
    switch kind {
    case .json:
      do { body = try reader.next().map { Array($0.text) } } catch {
        throw Failure(
          .badInput, "standard input is not JSON: \(error)",
          hint: "For lines of text there is '--lines', for any bytes '--raw'.")
      }
    case .lines:
      body = nextLine()
    case .whole:
      body = hasEnded && !isExhausted ? pending : nil
      if hasEnded {
        isExhausted = true
        return body
      }
    }
    if body == nil, hasEnded { isExhausted = true }
    return body
  }

  private mutating func nextLine() -> [UInt8]? {
    if let end = pending[searched...].firstIndex(of: 0x0A) {
      defer {
        pending.removeFirst(end + 1)
        searched = 0
      }
      return Array(pending[..<end])
    }
    searched = pending.count
    guard hasEnded, !pending.isEmpty else { return nil }
    defer {
      pending = []
      searched = 0
    }
    return pending
  }
}
