import Glibc

/// Starts a thread to which no signal is delivered: they are for the threads of the program around it.
/// - Returns: the thread, to be joined or detached; nil where the system has no more.
package func startThread(_ work: @escaping @Sendable () -> Void) -> pthread_t? {
  final class Box: Sendable {
    let work: @Sendable () -> Void
    init(_ work: @escaping @Sendable () -> Void) { self.work = work }
  }
  let box = Unmanaged.passRetained(Box(work))
  // A thread begins with the mask of the one that starts it.
  var (all, old) = (sigset_t(), sigset_t())
  sigfillset(&all)
  pthread_sigmask(SIG_SETMASK, &all, &old)
  defer { pthread_sigmask(SIG_SETMASK, &old, nil) }
  var thread = pthread_t()
  let code = pthread_create(
    &thread, nil,
    { box in
      if let box { Unmanaged<Box>.fromOpaque(box).takeRetainedValue().work() }
      return nil
    }, box.toOpaque())
  guard code == 0 else {
    box.release()
    return nil
  }
  return thread
}
