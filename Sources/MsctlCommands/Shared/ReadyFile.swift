import Glibc
import MsctlCore
import SystemPackage

/// The file of `--ready-file`, for the probe of a container: it is there for as long as work can be done.
final class ReadyFile {
  private let path: FilePath
  private let console: Console
  private var isFaultTold = false

  /// Removes what an earlier run has left.
  /// - Throws: where it could not be created, or is a file of somebody else's.
  init(_ path: String, _ console: Console) throws(Failure) {
    (self.path, self.console) = (FilePath(path), console)
    do {
      let status = try self.path.stat(followTargetSymlink: false)
      // An empty file is ours.
      guard status.type == .regular, status.size == 0 else { throw Failure(.foreignReadyFile(path)) }
      unlink(self.path)
    } catch let failure as Failure {
      throw failure
    } catch Errno.noSuchFileOrDirectory {
    } catch {
      throw Failure(.unwritableFile(path, reason: "\(error)"))
    }
    let folder = self.path.removingLastComponent()
    guard (folder.isEmpty ? "." : folder).withPlatformString({ access($0, W_OK | X_OK) }) == 0 else {
      throw Failure(.unwritableFile(path, reason: "\(Errno(rawValue: errno))"))
    }
  }

  deinit { if isThere { unlink(path) } }

  var isThere = false {
    didSet {
      guard isThere != oldValue else { return }
      if isThere { create() } else { unlink(path) }
    }
  }

  private func create() {
    do {
      let file = try FileDescriptor.open(
        path, .writeOnly, options: [.create, .exclusiveCreate, .closeOnExec],
        permissions: [.ownerReadWrite, .groupRead, .otherRead])
      try file.close()
    } catch {
      // Who looks for it finds nothing is ready; the work goes on.
      if !isFaultTold { console.report(Failure(.unwritableFile(path.string, reason: "\(error)"))) }
      isFaultTold = true
    }
  }
}
