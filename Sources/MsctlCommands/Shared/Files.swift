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
    throw Failure(.usage, "cannot read \(what) from '\(path)': \(error)")
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
  private let path: String
  private let target: FilePath
  /// Where the bytes are until the file is whole; nil where they go to the target at once.
  private let draft: FilePath?
  private let file: FileDescriptor
  private var isOpen = true
  private var isKept = false

  /// - Parameter path: its name, for sentences.
  init(_ path: String, _ target: FileTarget) throws(Failure) {
    do {
      switch target {
      case .descriptor(let number):
        draft = nil
        self.target = FilePath(path)
        file = try FileDescriptor(rawValue: number).duplicate()
        _ = fcntl(file.rawValue, F_SETFD, FD_CLOEXEC)
      case .stream(let name):
        draft = nil
        self.target = name
        file = try Self.openWaiting(name)
      case .file(let name, let permissions, _):
        let draft = FilePath("\(name).msctl-\(randomUUID().prefix(8))")
        self.draft = draft
        self.target = name
        file = try FileDescriptor.open(
          draft, .writeOnly, options: [.create, .exclusiveCreate, .closeOnExec],
          permissions: permissions ?? [.ownerReadWrite, .groupRead, .otherRead])
      }
    } catch let failure as Failure {
      throw failure
    } catch {
      throw Failure(.failed, "cannot write the file '\(path)': \(error)")
    }
    self.path = path
  }

  /// Opens what is no regular file, without blocking: a pipe that nobody reads yet is waited for, and a signal ends that.
  private static func openWaiting(_ target: FilePath) throws -> FileDescriptor {
    while true {
      do {
        return try FileDescriptor.open(target, .writeOnly, options: [.nonBlocking, .closeOnExec])
      } catch Errno.noSuchAddressOrDevice where isPipe(target) {
        try Signals.wait(for: nil, until: .after(.milliseconds(50)))
      }
    }
  }

  deinit {
    if isOpen { try? file.close() }
    if !isKept, let draft { unlink(draft) }
  }

  func write(_ bytes: [UInt8]) throws(Failure) {
    var rest = bytes[...]
    while !rest.isEmpty {
      do {
        // A write that blocks would outlast a signal; what a pipe has room for at all does not block.
        if draft == nil { try Signals.wait(for: file.rawValue, POLLOUT) }
        let piece = draft == nil ? rest.prefix(Int(PIPE_BUF)) : rest
        rest = rest.dropFirst(try piece.withUnsafeBytes { try file.write($0) })
      } catch Errno.wouldBlock {
        try Signals.wait(for: file.rawValue, POLLOUT)
      } catch let failure as Failure {
        throw failure
      } catch {
        throw Failure(.failed, "cannot write the file '\(path)': \(error)")
      }
    }
  }

  consuming func keep() throws(Failure) {
    isOpen = false
    // Some file systems say only now that the disk is full.
    do { try file.close() } catch { throw Failure(.failed, "cannot write the file '\(path)': \(error)") }
    guard draft.map({ rename($0, to: target) }) ?? true else {
      throw Failure(.failed, "cannot write the file '\(path)'")
    }
    isKept = true
  }
}
