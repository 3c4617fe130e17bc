import Foundation
import MsctlCommands
import Testing

/// The files that are made from the command table. `make documents` writes them; this says whether they are stale.
@Suite("Man pages and completions")
struct DocumentTests {
  private static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  @Test("are what the command table says", arguments: Documents.files.map(\.path))
  func fresh(_ path: String) throws {
    let text = try #require(Documents.files.first { $0.path == path }).text
    let file = Self.root.appendingPathComponent(path)
    // Recording fails, so that nobody takes it for a test.
    if ProcessInfo.processInfo.environment["MSCTL_RECORD"] != nil {
      try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try Data(text.utf8).write(to: file)
      Issue.record("written: \(path)")
      return
    }
    let found = try String(contentsOf: file, encoding: .utf8)
    #expect(found == text, "\(path) is stale; 'make documents' writes it anew")
  }

  @Test("leave no page behind for a command that is gone")
  func noOthers() throws {
    for folder in ["man", "completions"] {
      let names = try FileManager.default.contentsOfDirectory(atPath: Self.root.appendingPathComponent(folder).path)
      #expect(Set(names.map { "\(folder)/\($0)" }) == Set(Documents.files.map(\.path).filter { $0.hasPrefix(folder) }))
    }
  }

  @Test("say of exit codes what the README says")
  func exitCodes() throws {
    let readme = try String(contentsOf: Self.root.appendingPathComponent("README.md"), encoding: .utf8)
    for row in ExitStatus.table { #expect(readme.contains("| \(row.code) | \(row.meaning) |")) }
  }

  @Test("show a literal at the beginning of a text as it must be typed")
  func literals() throws {
    for spec in AllCommands.allSpecs {
      let page = try #require(Documents.files.first { $0.path == "man/msctl-\(spec.name).1" }).text
      let texts = spec.flags.map(\.summary) + spec.operands.map(\.summary) + spec.variables.map(\.summary)
      for text in texts where text.first?.isLowercase == true {
        let first = String(text.prefix { $0 != " " }).replacingOccurrences(of: "-", with: "\\-")
        #expect(page.split(separator: "\n").contains { $0.hasPrefix(first) }, "\(spec.name): \(text)")
      }
    }
  }

  @Test(
    "use the words of the field",
    arguments: ["answer", "authorit", "one a line", "go together", "meant", "hand on"])
  func words(_ word: String) {
    for file in Documents.files where file.path.hasPrefix("man/") {
      let lines = file.text.split(separator: "\n").filter { $0.localizedStandardContains(word) }
      #expect(lines.isEmpty, "\(file.path)")
    }
  }
}
