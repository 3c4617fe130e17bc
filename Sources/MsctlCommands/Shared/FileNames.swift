import Glibc
import SystemPackage

// swift-system has no calls for these.

/// The file that a path leads to, links followed; nil where there is none.
func existingFile(_ path: String) -> (path: FilePath, isRegular: Bool, permissions: FilePermissions)? {
  var status = stat()
  guard stat(path, &status) == 0 else { return nil }
  // A pipe behind /dev/stdout has no name of its own.
  let resolved = realpath(path, nil)
  defer { free(resolved) }
  return (
    resolved.map { FilePath(platformString: $0) } ?? FilePath(path), status.st_mode & S_IFMT == S_IFREG,
    FilePermissions(rawValue: status.st_mode & 0o777)
  )
}

/// Whether a path leads to a pipe with a name.
func isPipe(_ path: FilePath) -> Bool {
  var status = stat()
  return path.withPlatformString { stat($0, &status) } == 0 && status.st_mode & S_IFMT == S_IFIFO
}

func unlink(_ path: FilePath) {
  _ = path.withPlatformString { Glibc.unlink($0) }
}

/// - Returns: whether it was done.
func rename(_ path: FilePath, to other: FilePath) -> Bool {
  path.withPlatformString { from in other.withPlatformString { Glibc.rename(from, $0) } } == 0
}
