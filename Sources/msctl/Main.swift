import Glibc
import MsctlCommands
import MsctlCore

@main
enum Main {
  static func main() {
    keepStandardDescriptors()
    // A closed pipe is told by the failing write, so that what was not handed over is not acknowledged.
    signal(SIGPIPE, SIG_IGN)
    Signals.endFirstProcess()
    let words = Array(CommandLine.arguments.dropFirst())
    AllCommands.run(words, environment: environmentVariables()).leave()
  }

  /// A standard descriptor that the caller has closed must not become the number of a socket, which would then take our
  /// output. In its place stands one that cannot be read or written.
  private static func keepStandardDescriptors() {
    for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
      _ = open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY)
    }
  }

  private static func environmentVariables() -> [String: String] {
    // Room for what an environment usually has: to grow takes longer than to fill.
    var variables = [String: String](minimumCapacity: 64)
    var entry = environ
    while let text = entry.pointee {
      if let sign = strchr(text, Int32(UInt8(ascii: "="))) {
        let name = UnsafeRawBufferPointer(start: text, count: UnsafePointer(sign) - UnsafePointer(text))
        variables[String(decoding: name, as: UTF8.self)] = String(cString: sign + 1)
      }
      entry += 1
    }
    return variables
  }
}
