import Glibc

/// How many descriptors the process may have open (`ulimit -n`). Programs that use select(2) cannot live with more than 1024,
/// which is why the soft limit is that low; msctl can.
package enum DescriptorLimit {
  /// Raises the soft limit as far as the hard one allows, if there may be fewer. Only for a process that starts no children,
  /// which would inherit the limit.
  /// - Returns: how many there may be now.
  package static func raised(to count: Int) -> Int {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return count }
    if limit.rlim_cur < count {
      limit.rlim_cur = min(limit.rlim_max, rlim_t(clamping: count))
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
    return Int(clamping: limit.rlim_cur)
  }
}
