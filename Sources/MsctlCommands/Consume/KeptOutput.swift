import CPosix
import Glibc
import MsctlCore
import SystemPackage

/// What a command has written, kept until it is known whether it succeeded: in memory, and beyond a few MiB in a file without
/// a name, which is gone with the process.
final class KeptOutput {
  /// How much a command may write, in bytes.
  static let limit = 1 << 30
  /// How much all commands that run at a time keep in memory.
  private static let memoryLimit = 8 << 20
  private static let piece = 1 << 20

  private let folder: String
  private let ownLimit: Int
  private var memory: [UInt8] = []
  private var file: FileDescriptor?
  private var count = 0
  /// How much has been handed out.
  private var position = 0

  /// - Parameters:
  ///   - folder: where the file is, if there is one.
  ///   - sharers: how many such outputs there may be at a time.
  init(in folder: String, sharers: Int) {
    self.folder = folder
    ownLimit = Self.memoryLimit / max(1, sharers)
  }

  deinit {
    try? file?.close()
  }

  func add(_ bytes: [UInt8]) throws(Failure) {
    guard count + bytes.count <= Self.limit else {
      throw Failure(.tooMuchOutput(limit: Self.limit))
    }
    count += bytes.count
    guard file != nil || count > ownLimit else { return memory += bytes }
    do {
      if file == nil {
        let file = try temporaryFile()
        self.file = file
        try file.writeAll(memory)
        memory = []
      }
      try file?.writeAll(bytes)
    } catch {
      throw Failure(.unkeptOutput(folder: folder, reason: "\(error)"))
    }
  }

  /// The next part of what was written; empty at its end.
  func next() throws(Failure) -> [UInt8] {
    let bytes = try part(from: position, Self.piece)
    guard !bytes.isEmpty || position == count else {
      throw Failure(.unreadableOutput(folder: folder, reason: "the file ends early"))
    }
    position += bytes.count
    return bytes
  }

  /// The end of what was written.
  func tail(_ most: Int) throws(Failure) -> [UInt8] { try part(from: max(0, count - most), most) }

  private func part(from start: Int, _ most: Int) throws(Failure) -> [UInt8] {
    guard let file else { return Array(memory[start..<min(memory.count, start + most)]) }
    do {
      return try [UInt8](unsafeUninitializedCapacity: most) { buffer, got in
        got = try file.read(fromAbsoluteOffset: Int64(clamping: start), into: UnsafeMutableRawBufferPointer(buffer))
      }
    } catch {
      throw Failure(.unreadableOutput(folder: folder, reason: "\(error)"))
    }
  }

  private func temporaryFile() throws -> FileDescriptor {
    var template = Array("\(folder)/msctl-XXXXXX".utf8CString)
    let descriptor = mkostemp(&template, O_CLOEXEC)
    guard descriptor >= 0 else { throw Errno(rawValue: errno) }
    Glibc.unlink(template)
    return FileDescriptor(rawValue: descriptor)
  }
}
