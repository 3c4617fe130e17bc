import Glibc
import MsctlCore
import SystemPackage

/// Standard input as a stream of items: JSON values, lines, or all of it. Read only when `poll` says that there is something,
/// so that a loop can wait for other things beside it.
struct StandardInput {
  enum Kind {
    /// Each JSON value is an item.
    case json
    /// As `json`, with the white space inside each value kept.
    case exactJSON
    /// Each line is an item, without its line feed.
    case lines
    /// All of the input is one item.
    case whole
  }

  /// The largest item, in bytes.
  private static let limit = 256 << 20

  private let kind: Kind
  private var reader: JSONStreamReader
  private var pending: [UInt8] = []
  /// The place in `pending` from which on it has not been handed out, and the one up to which it holds no line feed.
  private var start = 0
  private var searched = 0
  private var hasEnded = false
  /// How much has been read of the item that is not complete.
  private var heldCount = 0
  private var held: HeldBytes
  private var failure: Failure?
  /// Whether everything has been handed out.
  private(set) var isExhausted = false

  init(_ kind: Kind) {
    self.kind = kind
    reader = JSONStreamReader(keepsWhiteSpace: kind == .exactJSON)
    // The reader of JSON has a limit of its own, which does not count white space.
    held = HeldBytes(limit: kind == .lines || kind == .whole ? Self.limit : .max)
  }

  /// Whether it is a file or a pipe that has bytes which nobody has read.
  static var isUnread: Bool {
    var status = stat()
    guard fstat(STDIN_FILENO, &status) == 0 else { return false }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return lseek(STDIN_FILENO, 0, SEEK_CUR) < status.st_size
    case S_IFIFO:
      var count: Int32 = 0
      return ioctl(STDIN_FILENO, UInt(FIONREAD), &count) == 0 && count > 0
    default: return false
    }
  }

  /// Reads what is there; `poll` has said that there is something. It may be gone again, where others read it, too, and
  /// standard input does not block.
  mutating func readMore() {
    do {
      guard let piece = try readPiece(.standardInput) else { return }
      hasEnded = piece.isEmpty
      heldCount += piece.count
      let name = itemName + " of standard input"
      try held.check(heldCount, name)
      switch kind {
      case .json, .exactJSON:
        reader.append(piece)
        if hasEnded { reader.finish() }
      case .lines, .whole:
        pending.removeFirst(start)
        searched -= start
        start = 0
        pending += piece
      }
    } catch {
      failure = error as? Failure ?? Failure(.unreadableInput(reason: "\(error)"))
      hasEnded = true
    }
  }

  private var itemName: String {
    switch kind {
    case .json, .exactJSON: "a value"
    case .lines: "a line"
    case .whole: "the message"
    }
  }

  /// The next item that is complete; nil where more input is needed, or none is left (`isExhausted`).
  mutating func next() throws(Failure) -> JSONOrBytes? {
    if let failure { throw failure }
    let item: JSONOrBytes?
    switch kind {
    case .json, .exactJSON:
      do { item = try reader.next().map { .json($0) } } catch {
        throw Failure(.inputNotJSON(error))
      }
    case .lines:
      item = nextLine().map { .bytes($0) }
    case .whole:
      item = hasEnded && !isExhausted ? .bytes(pending) : nil
      if hasEnded { isExhausted = true }
      return item
    }
    if item == nil, hasEnded { isExhausted = true }
    if item != nil || kind != .lines && reader.isBetweenValues {
      // What stands behind the item is less than a piece.
      heldCount = 0
      held.reset()
    }
    return item
  }

  private mutating func nextLine() -> [UInt8]? {
    if let end = pending[searched...].firstIndex(of: 0x0A) {
      defer {
        start = end + 1
        searched = start
      }
      return Array(pending[start..<end])
    }
    searched = pending.count
    guard hasEnded, start < pending.count else { return nil }
    defer { start = pending.count }
    return Array(pending[start...])
  }
}

/// An item of the input.
enum JSONOrBytes {
  case json(JSONValue)
  case bytes([UInt8])

  /// The bytes as they are sent.
  var bytes: [UInt8] {
    switch self {
    case .json(let value): Array(value.text)
    case .bytes(let bytes): bytes
    }
  }
}
