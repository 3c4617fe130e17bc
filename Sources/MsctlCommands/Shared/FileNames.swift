import Glibc
import MsctlCore
import SystemPackage

/// Where the bytes for a path go.
enum FileTarget {
  /// A descriptor that is open already, such as /dev/stderr or the /dev/fd/63 of `>(COMMAND)`.
  case descriptor(Int32)
  /// No regular file (a pipe, a device), which is written as the bytes come.
  case stream(FilePath)
  /// A file that is replaced whole; permissions and identity are nil where there is none yet.
  case file(FilePath, FilePermissions?, (device: DeviceID, inode: Inode)?)

  /// Without those that give a file's rights to who runs it.
  private static let permissions = FilePermissions(rawValue: 0o777)

  /// Looks where a path leads. Links are followed, also those to a file that is not there yet.
  init(_ path: String) {
    var current = FilePath(path)
    // As many links as the system follows.
    for _ in 0..<40 {
      if let number = Self.descriptor(current) {
        self = .descriptor(number)
        return
      }
      guard let status = try? current.stat(followTargetSymlink: false), status.type == .symbolicLink else { break }
      // A pipe in the /proc of another process has no name that leads to it.
      if let end = try? current.stat(), end.type != .regular, end.type != .directory { break }
      guard let next = Self.link(current) else { break }
      current = current.removingLastComponent().pushing(next)
    }
    guard let status = try? current.stat() else {
      self = .file(current, nil, nil)
      return
    }
    self =
      status.type == .regular
      ? .file(current, status.permissions.intersection(Self.permissions), (status.deviceID, status.inode))
      : .stream(current)
  }

  /// Whether it is the regular file that is standard input.
  var isInput: Bool { isFile(behind: .standardInput) }

  /// Whether it is standard output, or the regular file behind it.
  var isOutput: Bool {
    if case .descriptor(STDOUT_FILENO) = self { return true }
    return isFile(behind: .standardOutput)
  }

  private func isFile(behind descriptor: FileDescriptor) -> Bool {
    guard case .file(_, _, let identity?) = self, let status = try? descriptor.stat() else { return false }
    return identity.device == status.deviceID && identity.inode == status.inode
  }

  /// The number in /dev/fd/N and its like, where it is open. To open it again would begin at the start of a file behind it.
  private static func descriptor(_ path: FilePath) -> Int32? {
    let text = path.string
    let names = ["/dev/stdin", "/dev/stdout", "/dev/stderr"]
    if let number = names.firstIndex(where: { text.isSame(as: $0) }) { return Int32(exactly: number) }
    for folder in ["/dev/fd/", "/proc/self/fd/"] {
      guard let rest = text.rest(after: folder), let number = Int32(rest), number >= 0,
        fcntl(number, F_GETFD) >= 0
      else { continue }
      return number
    }
    return nil
  }

  // swift-system reads no links, and neither removes nor renames.

  private static func link(_ path: FilePath) -> FilePath? {
    var bytes = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
    let count = path.withPlatformString { readlink($0, &bytes, bytes.count - 1) }
    return count > 0 ? FilePath(platformString: bytes) : nil
  }
}

/// Whether a path leads to a pipe with a name.
func isPipe(_ path: FilePath) -> Bool { (try? path.stat())?.type == .fifo }

func unlink(_ path: FilePath) {
  _ = path.withPlatformString { Glibc.unlink($0) }
}

/// Makes sure that a file may be created at a path.
/// - Parameter name: what people call it.
func checkFolder(of path: FilePath, _ name: String) throws(Failure) {
  let folder = path.removingLastComponent()
  guard (folder.isEmpty ? "." : folder).withPlatformString({ access($0, W_OK | X_OK) }) == 0 else {
    throw Failure(.unwritableFile(name, reason: "\(Errno(rawValue: errno))"))
  }
}

/// - Returns: whether it was done.
func rename(_ path: FilePath, to other: FilePath) -> Bool {
  path.withPlatformString { from in other.withPlatformString { Glibc.rename(from, $0) } } == 0
}
