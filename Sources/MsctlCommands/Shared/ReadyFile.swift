import Glibc
import MsctlCore
import SystemPackage

/// The file of `--ready-file`, for the probe of a container: it is there for as long as work can be done. It has a line that says
/// whose it is, and is locked by who made it, so that nobody takes away that of another one.
final class ReadyFile {
  private static let mark: [UInt8] = Array("msctl is ready\n".utf8)

  private let path: FilePath
  private let console: Console
  private var isFaultTold = false
  /// Open, and locked with that, for as long as it is there.
  private var file: FileDescriptor?

  /// Removes what an earlier run has left.
  /// - Throws: where it could not be created, or is a file of somebody else's.
  init(_ path: String, _ console: Console) throws(Failure) {
    (self.path, self.console) = (FilePath(path), console)
    try removeLeftover()
    try checkFolder(of: self.path, path)
  }

  deinit { remove() }

  var isThere = false {
    didSet {
      guard isThere != oldValue else { return }
      if isThere { create() } else { remove() }
    }
  }

  private func removeLeftover() throws(Failure) {
    do {
      // A pipe that is opened would wait, and a link may lead anywhere.
      guard try path.stat(followTargetSymlink: false).type == .regular else {
        throw Failure(.foreignReadyFile(path.string))
      }
      let file = try FileDescriptor.open(path, .readOnly, options: [.closeOnExec, .noFollow, .nonBlocking])
      let isOurs = try file.closeAfter {
        guard Self.lock(file) else { throw Failure(.usedReadyFile(path.string)) }
        return try readPiece(file) == Self.mark
      }
      guard isOurs else { throw Failure(.foreignReadyFile(path.string)) }
      unlink(path)
    } catch let failure as Failure {
      throw failure
    } catch Errno.noSuchFileOrDirectory {
    } catch {
      throw Failure(.unwritableFile(path.string, reason: "\(error)"))
    }
  }

  /// It appears under its name only when it is whole, and ours: one that is killed meanwhile leaves no file that its next run would
  /// take for somebody else's.
  private func create() {
    let draft = FilePath("\(path).msctl-\(randomUUID().prefix(8))")
    do {
      let file = try FileDescriptor.open(
        draft, .writeOnly, options: [.create, .exclusiveCreate, .closeOnExec],
        permissions: [.ownerReadWrite, .groupRead, .otherRead])
      do {
        try file.writeAll(Self.mark)
        _ = Self.lock(file)
        if (try? path.stat(followTargetSymlink: false)) != nil { throw Errno.fileExists }
        // Unlike a link, that works on every file system.
        guard rename(draft, to: path) else { throw Errno(rawValue: errno) }
      } catch {
        unlink(draft)
        try? file.close()
        throw error
      }
      self.file = file
    } catch {
      // Who looks for it finds nothing is ready; the work goes on.
      if !isFaultTold { console.report(Failure(.unwritableFile(path.string, reason: "\(error)"))) }
      isFaultTold = true
    }
  }

  private func remove() {
    guard let file = file.take() else { return }
    // Another one may stand in its place by now.
    if let own = try? file.stat(), let there = try? path.stat(followTargetSymlink: false),
      own.inode == there.inode, own.deviceID == there.deviceID
    {
      unlink(path)
    }
    try? file.close()
  }

  /// - Returns: false where another process has it locked. Some file systems know no locks.
  private static func lock(_ file: FileDescriptor) -> Bool {
    flock(file.rawValue, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK
  }
}
