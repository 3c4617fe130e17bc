import MsctlCore

/// The file of `--resume`: where in a stream the next run begins.
struct ResumeFile {
  private let path: String
  private let target: FileTarget
  private let queue: String

  /// Nil without a file.
  init?(_ options: Consume.Options) throws(Failure) {
    guard let path = options.resumeFile?.text, let queue = options.queue?.text else { return nil }
    (self.path, self.queue) = (path, queue)
    target = FileTarget(path)
    guard case .file(let name, _, _) = target else { throw failure("it is not a regular file") }
    // Before any message is taken.
    try checkFolder(of: name, path)
  }

  /// The offset that it has; nil where there is no file yet.
  func read() throws(Failure) -> Int64? {
    guard case .file(_, _, .some) = target else { return nil }
    let value: JSONValue
    do { value = try JSONValue(parsing: try readFile(path, what: "the place in the stream")) } catch let error
      as JSONError
    {
      throw failure("it is not JSON: \(error)")
    } catch let error as Failure { throw error } catch { throw failure("\(error)") }
    guard value.kind == .object, let queue = value["queue"]?.string, let offset = value["offset"]?.integer, offset >= 0
    else {
      throw failure("it has no 'queue' and 'offset'")
    }
    guard queue.isSame(as: self.queue) else { throw failure("it is of the stream '\(queue)'") }
    return offset
  }

  func write(_ offset: Int64) throws(Failure) {
    var writer = JSONWriter()
    writer.object { object in
      object.field("queue", queue)
      object.field("offset", offset)
    }
    let file = try WholeFile(path, target)
    try file.write(Array(writer.value.text) + [0x0A])
    try file.keep()
  }

  private func failure(_ reason: String) -> Failure { Failure(.unusableResumeFile(path, reason: reason)) }
}
