import Glibc
import MsctlCore
import SystemPackage

/// The largest file that is read into memory, in bytes.
private let fileLimit = 1 << 30

/// Reads a whole file; `-` is standard input.
func readFile(_ path: String, what: String) throws(Failure) -> [UInt8] {
  do {
    guard path != "-" else { return try readAll(.standardInput, "standard input") }
    let file = try FileDescriptor.open(FilePath(path), .readOnly, options: .closeOnExec)
    return try file.closeAfter { try readAll(file, "'\(path)'") }
  } catch let failure as Failure {
    throw failure
  } catch {
    throw Failure(.unreadableFile(path, what: what, reason: "\(error)"))
  }
}

/// Checks that a file can be read, where something else will read it later.
func checkReadable(_ path: String, what: String) throws(Failure) {
  do { try FileDescriptor.open(FilePath(path), .readOnly, options: .closeOnExec).close() } catch {
    throw Failure(.unreadableFile(path, what: what, reason: "\(error)"))
  }
}

private func readAll(_ file: FileDescriptor, _ name: String) throws -> [UInt8] {
  var bytes: [UInt8] = []
  var held = HeldBytes(limit: fileLimit)
  while true {
    guard let piece = try readPiece(file) else {
      try Signals.wait(for: file.rawValue)
      continue
    }
    if piece.isEmpty { return bytes }
    try held.check(bytes.count + piece.count, name)
    bytes += piece
  }
}

/// What a read brings, at most 64 KiB; nothing at the end.
/// - Returns: nil where there is nothing yet, and the file does not block.
func readPiece(_ file: FileDescriptor) throws -> [UInt8]? {
  do {
    return try [UInt8](unsafeUninitializedCapacity: 64 << 10) { buffer, count in
      count = try file.read(into: UnsafeMutableRawBufferPointer(buffer))
    }
  } catch Errno.wouldBlock {
    return nil
  }
}

/// A file that appears under its name only when it is whole. What is no regular file (a device, a pipe, an open descriptor) is
/// written to as the bytes come, and a link stays one: its target is replaced.
struct WholeFile: ~Copyable {
  private enum Place {
    /// Where the bytes are until the file is whole. To write there is not waited for: a regular file takes everything at once.
    case draft(FilePath, FileDescriptor, target: FilePath)
    case stream(StreamOutput)
  }

  private let path: String
  private let place: Place
  private var isOpen = true
  private var isKept = false

  /// - Parameter path: its name, for sentences.
  init(_ path: String, _ target: FileTarget) throws(Failure) {
    do {
      switch target {
      case .descriptor(let number):
        let file = try FileDescriptor(rawValue: number).duplicate()
        _ = fcntl(file.rawValue, F_SETFD, FD_CLOEXEC)
        place = .stream(StreamOutput(file))
      case .stream(let name):
        place = .stream(try StreamOutput(opening: name))
      case .file(let name, let permissions, _):
        let draft = FilePath("\(name).msctl-\(randomUUID().prefix(8))")
        draft.withPlatformString { DraftFiles.add($0) }
        do {
          let file = try FileDescriptor.open(
            draft, .writeOnly, options: [.create, .exclusiveCreate, .closeOnExec],
            permissions: permissions ?? [.ownerReadWrite, .groupRead, .otherRead])
          place = .draft(draft, file, target: name)
        } catch {
          draft.withPlatformString { DraftFiles.remove($0) }
          throw error
        }
      }
    } catch {
      throw Self.failure(path, error)
    }
    self.path = path
  }

  deinit {
    guard case .draft(let draft, let file, _) = place else { return }
    if isOpen { try? file.close() }
    if !isKept { unlink(draft) }
    draft.withPlatformString { DraftFiles.remove($0) }
  }

  /// What goes on writing in a loop; nil where nothing is waited for.
  var stream: StreamOutput? { if case .stream(let stream) = place { stream } else { nil } }

  /// Whether bytes wait to be written.
  var isBusy: Bool { stream?.isBusy ?? false }

  func write(_ bytes: [UInt8]) throws(Failure) {
    switch place {
    case .draft(_, let file, _): do { try file.writeAll(bytes) } catch { throw Self.failure(path, error) }
    case .stream(let stream):
      stream.write(bytes)
      try check()
    }
  }

  /// - Throws: why nothing can be written any more.
  func check() throws(Failure) {
    if let error = stream?.error { throw Self.failure(path, error) }
  }

  /// Waits until all is written, for who must not go on before. A signal that is caught ends it.
  func flush(until deadline: Deadline = .never) throws(Failure) {
    guard let stream else { return }
    try Signals.wait(for: stream, until: deadline) { stream.isBusy }
    try check()
  }

  /// All is written: see `isBusy`.
  consuming func keep() throws(Failure) {
    isOpen = false
    guard case .draft(let draft, let file, let target) = place else { return }
    // Some file systems say only now that the disk is full.
    do { try file.close() } catch { throw Self.failure(path, error) }
    guard rename(draft, to: target) else { throw Failure(.unwritableFile(path, reason: nil)) }
    isKept = true
  }

  private static func failure(_ path: String, _ error: any Error) -> Failure {
    Failure(.unwritableFile(path, reason: "\(error)"))
  }
}

/// What is no regular file: written to as it takes bytes, while others go on.
final class StreamOutput: LoopMember {
  /// How often it is tried to open a pipe: nothing tells that somebody reads it now.
  private static let pause: Duration = .milliseconds(50)
  /// How long nobody may read a pipe before that is told.
  private static let patience: Duration = .seconds(1)

  private let path: FilePath?
  private let begin = Deadline.now
  /// Is told once that nobody reads the pipe, which is waited for.
  var onUnread: (() -> Void)?
  /// Nil as long as nobody reads the pipe.
  private var file: FileDescriptor?
  private var pending: [UInt8] = []
  /// Why nothing can be written any more.
  private(set) var error: (any Error)?

  init(_ file: FileDescriptor) { (self.file, path) = (file, nil) }

  init(opening path: FilePath) throws {
    self.path = path
    file = try open(path)
  }

  deinit { try? file?.close() }

  /// Whether it takes no more for now: bytes wait, or nobody reads the pipe.
  var isBusy: Bool { error == nil && (file == nil || !pending.isEmpty) }

  func write(_ bytes: [UInt8]) {
    pending += bytes
    proceed()
  }

  var wakeTime: Deadline { isBusy && file == nil ? .after(Self.pause) : .never }

  func addInterests(to polls: inout PollSet) { if isBusy, let file { polls.add(file.rawValue, for: POLLOUT) } }

  func proceed() {
    guard isBusy else { return }
    do {
      if file == nil, let path { file = try open(path) }
      guard let file else {
        if (begin + Self.patience).isPast { onUnread.take()?() }
        return
      }
      var rest = pending[...]
      defer { pending = Array(rest) }
      // An open descriptor may block, but not for what a pipe has room for at all.
      while !rest.isEmpty, PollSet.isReady(file.rawValue, for: POLLOUT) {
        rest = rest.dropFirst(try rest.prefix(Int(PIPE_BUF)).withUnsafeBytes { try file.write($0) })
      }
    } catch Errno.wouldBlock {} catch { self.error = error }
  }

  private func open(_ path: FilePath) throws -> FileDescriptor? {
    do {
      return try FileDescriptor.open(path, .writeOnly, options: [.nonBlocking, .closeOnExec])
    } catch Errno.noSuchAddressOrDevice where isPipe(path) {
      return nil
    }
  }
}
