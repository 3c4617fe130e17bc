import MsctlCore
import SystemPackage

/// Reads a whole file; `-` is standard input.
func readFile(_ path: String, what: String) throws(Failure) -> [UInt8] {
  do {
    guard path != "-" else { return try readAll(.standardInput) }
    let file = try FileDescriptor.open(FilePath(path), .readOnly)
    return try file.closeAfter { try readAll(file) }
  } catch {
    throw Failure(.usage, "cannot read \(what) from '\(path)': \(error)")
  }
}

private func readAll(_ file: FileDescriptor) throws -> [UInt8] {
  var bytes: [UInt8] = []
  while true {
    let piece = try readPiece(file)
    if piece.isEmpty { return bytes }
    bytes += piece
  }
}

/// What a read brings, at most 64 KiB; nothing at the end.
func readPiece(_ file: FileDescriptor) throws -> [UInt8] {
  try [UInt8](unsafeUninitializedCapacity: 64 << 10) { buffer, count in
    count = try file.read(into: UnsafeMutableRawBufferPointer(buffer))
  }
}

/// A file of messages that failed, one envelope a line; empty where none did.
struct AppendedFile: ~Copyable {
  private let path: String
  private let file: FileDescriptor

  init(_ path: String) throws(Failure) {
    self.path = path
    do {
      file = try FileDescriptor.open(
        FilePath(path), .writeOnly, options: [.create, .truncate],
        permissions: [.ownerReadWrite, .groupRead, .otherRead])
    } catch {
      throw Failure(.failed, "cannot write the file '\(path)': \(error)")
    }
  }

  deinit {
    try? file.close()
  }

  func add(_ message: AMQPMessage) throws(Failure) {
    do { try file.writeAll(Envelope.write(message, redelivered: false).text + [0x0A]) } catch {
      throw Failure(.failed, "cannot write the file '\(path)': \(error)")
    }
  }
}

/// A file that appears under its name only when it is whole.
struct WholeFile: ~Copyable {
  private let path: FilePath
  private let draft: FilePath
  private let file: FileDescriptor
  private var isKept = false

  init(_ path: String) throws(Failure) {
    let target = FilePath(path)
    let draft = FilePath(path + ".msctl-\(randomUUID().prefix(8))")
    do {
      file = try FileDescriptor.open(
        draft, .writeOnly, options: [.create, .exclusiveCreate],
        permissions: [.ownerReadWrite, .groupRead, .otherRead])
    } catch {
      throw Failure(.failed, "cannot write the file '\(path)': \(error)")
    }
    self.path = target
    self.draft = draft
  }

  deinit {
    try? file.close()
    if !isKept { unlink(draft) }
  }

  func write(_ bytes: [UInt8]) throws(Failure) {
    do { try file.writeAll(bytes) } catch { throw Failure(.failed, "cannot write the file '\(path)': \(error)") }
  }

  consuming func keep() throws(Failure) {
    guard rename(draft, to: path) else { throw Failure(.failed, "cannot write the file '\(path)'") }
    isKept = true
  }
}
