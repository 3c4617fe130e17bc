import Glibc
import SystemPackage

// swift-system has no calls for these.

func unlink(_ path: FilePath) {
  _ = path.withPlatformString { Glibc.unlink($0) }
}

/// - Returns: whether it was done.
func rename(_ path: FilePath, to other: FilePath) -> Bool {
  path.withPlatformString { from in other.withPlatformString { Glibc.rename(from, $0) } } == 0
}
