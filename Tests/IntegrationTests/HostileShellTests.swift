import Foundation
import MsctlCore
import Support
import Testing

@testable import MsctlCommands

@Suite("Words for a shell", .serialized)
struct HostileShellTests {
  private static let shells = ["sh", "bash", "dash", "zsh"]

  /// Runs a script in a shell, and gives the bytes that it writes.
  private func output(_ shell: String, _ script: String, locale: String) async throws -> [UInt8] {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("words"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try Data(script.utf8).write(to: folder.appendingPathComponent("script"))
    let process = try RunningProcess(
      "/usr/bin/env", [shell, folder.path + "/script"], environment: ["LC_ALL": locale])
    let output = try await process.end()
    #expect(output.err == "", "\(shell)")
    return Array(try Data(contentsOf: URL(fileURLWithPath: process.outputPath)))
  }

  @Test("any bytes come back the same from sh, bash, dash and zsh", arguments: ["C", "C.UTF-8"])
  func quoting(_ locale: String) async throws {
    var random = SplitMix(seed: 13)
    var words: [[UInt8]] = [
      [], Array("'".utf8), Array("'\u{301}; touch canary".utf8), Array("\n".utf8), [0xFF], [0x81, 0x88],
    ]
    for _ in 0..<300 { words.append(Array(random.hostileText(most: 12).utf8)) }
    for _ in 0..<300 {
      words.append((0..<Int.random(in: 0...40, using: &random)).map { _ in UInt8.random(in: 1...255, using: &random) })
    }
    words.append(Array(1...255))
    let script = words.map { "printf '%s\\0' \(Shell.quoted($0))\n" }.joined()
    #expect(script.unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) })
    let expected: [UInt8] = words.reduce(into: []) { $0 += $1 + [0] }
    for shell in Self.shells { #expect(try await output(shell, script, locale: locale) == expected, "\(shell)") }
  }

  @Test("any bytes, NUL as well, come out of the printf that is written for them", arguments: ["C", "C.UTF-8"])
  func printing(_ locale: String) async throws {
    var random = SplitMix(seed: 14)
    var texts: [[UInt8]] = [Array(0...255), Array("-n %s %% \\n".utf8), Array("--".utf8)]
    for _ in 0..<300 {
      texts.append((0..<Int.random(in: 0...60, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) })
    }
    let script = texts.map { Shell.printing($0) + "\n" }.joined()
    for shell in Self.shells {
      #expect(try await output(shell, script, locale: locale) == Array(texts.joined()), "\(shell)")
    }
  }

  @Test("eval of -o env runs nothing of an address, and gives it back as it is")
  func env() async throws {
    try await withService { service in
      for (index, address) in ["a'\u{301}; touch canary #", "$(touch canary)", "10.0.0.1"].enumerated() {
        let body = try JSONSerialization.data(
          withJSONObject: ["Name": service, "ID": "\(service)-\(index)", "Address": address, "Port": 80])
        _ = try await RunningProcess(
          "/usr/bin/curl",
          [
            "-sSf", "-X", "PUT", "-d", String(decoding: body, as: UTF8.self),
            Services.consul + "/v1/agent/service/register",
          ]
        ).end()
      }
      let name = service.uppercased().replacingOccurrences(of: "-", with: "_")
      for shell in Self.shells {
        let output = try await RunningProcess(
          "/usr/bin/env",
          [
            shell, "-c",
            "cd $HOME; eval \"$(\(Tool.binary) discover \(service) -o env)\"; ls; printf '%s\\n' \"$\(name)_URL\"",
          ]
        ).end()
        #expect(output.out.split(separator: "\n").last == "http://10.0.0.1:80" && !output.out.contains("canary"))
        #expect(
          output.err.hasPrefix("msctl: left out: '\(service)-0' of '\(service)' (invalid address 'a'\u{301}; touch"))
        #expect(output.err.utf8.count { $0 == 0x0A } == 1)
      }
      let only = try await Tool.run("discover", service, "-o", "url", "--filter", "Service.Address != \"10.0.0.1\"")
      #expect(only.status == 3 && only.out == "")
    }
  }
}
