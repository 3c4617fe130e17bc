import Glibc
import MsctlCore

/// What every pipe of msctl does with JSON, and nothing else, for the bench: standard input is cut into values, and each is
/// written as a line, as `jq -c .` does it.
@main
enum JSONPipe {
  static func main() {
    var reader = JSONStreamReader()
    var piece = [UInt8](repeating: 0, count: 1 << 16)
    var output: [UInt8] = []
    var hasEnded = false
    while !hasEnded {
      let count = read(STDIN_FILENO, &piece, piece.count)
      guard count >= 0 else { exit(1) }
      hasEnded = count == 0
      if hasEnded { reader.finish() } else { reader.append(piece[..<count]) }
      do {
        while let value = try reader.next() {
          value.append(to: &output)
          output.append(0x0A)
          if output.count >= 1 << 16 { flush(&output) }
        }
      } catch {
        exit(9)
      }
    }
    flush(&output)
  }

  private static func flush(_ output: inout [UInt8]) {
    var start = 0
    while start < output.count {
      let count = output[start...].withUnsafeBytes { write(STDOUT_FILENO, $0.baseAddress, $0.count) }
      guard count > 0 else { exit(1) }
      start += count
    }
    output.removeAll(keepingCapacity: true)
  }
}
