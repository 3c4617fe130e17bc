import MsctlCore

/// Where the body of an answer goes, piece by piece: to a file, or to standard output, one JSON value a line where it is
/// JSON. The file `-` is standard output, and the bytes stay as they are.
struct ResponseSink: ~Copyable {
  private var file: WholeFile?
  private var reader: JSONStreamReader?
  /// The JSON is wrong: what is left goes out as it came.
  private var fault: JSONError?
  /// How much has come of a value that is kept until it is whole.
  private var heldCount = 0
  private var held = HeldBytes(limit: .max)

  init(_ head: HTTPHead, file: String?) throws(Failure) {
    if let file {
      if !file.isSame(as: "-") { self.file = try WholeFile(file, FileTarget(file)) }
    } else if head.isJSON {
      reader = JSONStreamReader()
    }
  }

  /// What goes on writing to a pipe or a device in a loop.
  var stream: StreamOutput? { mutating get { file?.stream } }

  /// Whether bytes wait to be written to a pipe or a device.
  mutating func isBusy() throws(Failure) -> Bool {
    try file?.check()
    return file?.isBusy ?? false
  }

  mutating func write(_ bytes: [UInt8], _ console: Console) throws(Failure) {
    if file != nil {
      try file?.write(bytes)
    } else if reader != nil, fault == nil {
      if console.isPretty {
        heldCount += bytes.count
        try held.check(heldCount, "a value of the response")
      }
      reader?.append(bytes)
      try passOn(console)
    } else {
      console.write(text: bytes)
    }
  }

  /// The body is complete.
  /// - Note: it must not be busy.
  mutating func finish(_ console: Console) throws(Failure) {
    if let file = file.take() { try file.keep() }
    if reader != nil, fault == nil {
      reader?.finish()
      try passOn(console)
    }
    if let fault {
      try console.flush()
      throw Failure(.responseNotJSON(fault))
    }
  }

  private mutating func passOn(_ console: Console) throws(Failure) {
    do {
      while let value = try reader?.next() {
        console.write(value: value)
        heldCount = 0
        held.reset()
      }
    } catch {
      fault = error
      if let rest = reader?.drain() { console.write(text: rest) }
      if let rest = reader?.unread { console.write(text: Array(rest)) }
    }
    // A large value is passed on while it comes; people see it when it is whole, since it is laid out then.
    if !console.isPretty, fault == nil, let part = reader?.drain() { console.write(bytes: part) }
  }
}
