import Foundation
import MsctlCore
import Support
import Testing

/// Keeps the bytes of each request, and answers all of them.
private final class RawServer {
  let port: Int
  private let folder: URL
  private let process: RunningProcess

  init() async throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("raw"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let script = """
      import os, socket, sys, threading
      listener = socket.create_server(('127.0.0.1', 0), backlog=64)
      print(listener.getsockname()[1], flush=True)
      number = 0
      while True:
        connection = listener.accept()[0]
        data = b''
        while b'\\r\\n\\r\\n' not in data:
          piece = connection.recv(65536)
          if not piece: break
          data += piece
        head, _, body = data.partition(b'\\r\\n\\r\\n')
        length = 0
        for line in head.split(b'\\r\\n')[1:]:
          name, _, value = line.partition(b':')
          if name.lower() == b'content-length': length = int(value)
        while len(body) < length:
          piece = connection.recv(65536)
          if not piece: break
          body += piece
          data += piece
        with open(sys.argv[1] + '/new', 'wb') as file: file.write(data)
        os.rename(sys.argv[1] + '/new', sys.argv[1] + '/%d' % number)
        number += 1
        connection.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}')
        connection.close()
      """
    let process = try RunningProcess("/usr/bin/env", ["python3", "-c", script, folder.path])
    self.process = process
    try await eventually("it listens") { process.out.hasSuffix("\n") }
    port = Int(process.out.dropLast()) ?? 0
  }

  deinit {
    process.signal(SIGKILL)
    try? FileManager.default.removeItem(at: folder)
  }

  /// The requests since the last time.
  func take() throws -> [[UInt8]] {
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).compactMap { Int($0) }.sorted()
    return try names.map { name in
      let file = folder.appendingPathComponent("\(name)")
      defer { try? FileManager.default.removeItem(at: file) }
      return Array(try Data(contentsOf: file))
    }
  }
}

/// A request without what is new in each: the step of the trace, the key, and the boundary of a form.
private func comparable(_ request: [UInt8], sorted: Bool) -> [String] {
  // Each byte is a scalar, so that nothing is lost.
  var text = String(String.UnicodeScalarView(request.map { Unicode.Scalar($0) }))
  if let range = text.range(of: "boundary=") {
    let boundary = String(text[range.upperBound...].prefix { $0 == "-" || $0.isLetter || $0.isNumber })
    text = text.replacingOccurrences(of: boundary, with: "BOUNDARY", options: .literal)
  }
  let end = text.range(of: "\r\n\r\n", options: .literal)?.lowerBound ?? text.endIndex
  var lines = text[..<end].components(separatedBy: "\r\n").map { line in
    for name in ["traceparent: ", "Idempotency-Key: "] where line.hasPrefix(name) { return name + "*" }
    return line
  }
  if sorted { lines = [lines[0]] + lines.dropFirst().sorted() }
  return lines + [String(text[end...])]
}

@Suite("The curl command of a call", .serialized)
struct HostileCurlTests {
  private static let pieces = hostilePieces.filter { !$0.unicodeScalars.contains("\0") }
  /// What a header may hold.
  private static let inLine = hostilePieces.filter {
    $0.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }
  }

  /// A command line of `call`, and the files that it names.
  private func commandLine(_ random: inout SplitMix, _ url: String, _ folder: String) -> [String] {
    var words = ["call"]
    if random.chance(40) { words.append(random.pick(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])) }
    words.append(
      url
        + random.pick(["/", "/a/b", "/a?q=1", "/x%20y?a[]=1&b={2}", "/é", "/a'b;c,d", "/../z"]).replacingOccurrences(
          of: "{2}", with: "2"))
    let isForm = random.chance(45)
    if isForm { words.append("--form") }
    if random.chance(20) { words += ["--retry", "2"] }
    if random.chance(20) { words.append("--idempotency-key") }
    if random.chance(20) { words += ["-H", "X-Own: " + random.hostileText(of: Self.inLine)] }
    if random.chance(10) { words.append(random.pick(["Accept:", "User-Agent:", "Content-Type:", "Accept-Encoding:"])) }
    func name() -> String {
      let text = random.hostileText(most: 2).unicodeScalars.map { scalar -> String in
        (["=", ":", "@", "\\"].contains(scalar) ? "\\" : "") + String(scalar)
      }
      return "f" + (isForm ? text.joined() : "") + "\(Int.random(in: 0..<100_000, using: &random))"
    }
    if !isForm, random.chance(40) {
      words += [
        "--data",
        random.pick([random.hostileText(most: 20), "", "@\(folder)/binary", "@\(folder)/large", "@\(folder)/text"]),
      ]
      if random.chance(50) { words.append("X-Item:" + random.hostileText(of: Self.inLine)) }
      return words
    }
    for _ in 0..<Int.random(in: 0...4, using: &random) {
      switch Int.random(in: 0..<7, using: &random) {
      case 0: words.append("X-Item\(Int.random(in: 0..<1000, using: &random)):" + random.hostileText(of: Self.inLine))
      case 1: words.append("q==" + random.hostileText())
      case 2: words.append(name() + ":=" + random.pick(["1", "[1, 2]", "{\"a\":\"é\"}", "null"]))
      case 3: words.append(name() + "=@" + folder + random.pick(["/text", isForm ? "/binary" : "/text"]))
      case 4 where isForm:
        words.append(
          name() + "@" + folder + random.pick(["/text", "/binary", "/we\"ird,na;me=x\\y.txt", "/page.HTML"]))
      default: words.append(name() + "=" + random.hostileText(most: 10))
      }
    }
    return words
  }

  @Test("sends the bytes that msctl sends, from every shell, whatever the data holds")
  func differential() async throws {
    let server = try await RawServer()
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(Services.uniqueName("curl"))
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    for (name, bytes) in [
      ("binary", Array(0...255) + Array("\r\n@".utf8)), ("text", Array("@file 'a' %s \\n é\n".utf8)),
      ("large", [UInt8](repeating: UInt8(ascii: "x"), count: 200_000)), ("we\"ird,na;me=x\\y.txt", Array("w".utf8)),
      ("page.HTML", Array("<p>".utf8)),
    ] { try Data(bytes).write(to: folder.appendingPathComponent(name)) }

    var random = SplitMix(seed: 17)
    var compared = 0
    for number in 0..<240 {
      let words = commandLine(&random, "http://127.0.0.1:\(server.port)", folder.path)
      let direct = try await RunningProcess(Tool.binary, words).end()
      let sent = try server.take()
      let curl = try await RunningProcess(Tool.binary, words + ["--as-curl"]).end()
      #expect(curl.status == (direct.status == 0 ? 0 : 2) || direct.status == 9, "\(words) \(direct.err)")
      guard direct.status == 0 else {
        #expect(sent.isEmpty)
        continue
      }
      let shell = ["sh", "bash", "dash", "zsh"][number % 4]
      // A script, since no argument is as long as a large body.
      try Data(curl.out.utf8).write(to: folder.appendingPathComponent("pasted"))
      let pasted = try await RunningProcess(
        "/usr/bin/env", [shell, folder.path + "/pasted"], environment: number % 2 == 0 ? [:] : ["LC_ALL": "C.UTF-8"]
      ).end()
      let again = try server.take()
      #expect(
        pasted.status == 0 && sent.count == 1 && again.count == 1, "\(words)\n\(curl.out.prefix(2000))\n\(pasted.err)")
      guard let one = sent.first, let other = again.first else { continue }
      // Where the form itself is in the pipe, its type stands among the other headers.
      let isPiped = curl.out.contains("Content-Disposition")
      #expect(
        comparable(one, sorted: isPiped) == comparable(other, sorted: isPiped), "\(words)\n\(curl.out.prefix(2000))")
      compared += 1
    }
    #expect(compared > 150, "\(compared)")
  }

  @Test("shows no control character, so that a terminal shows what is pasted")
  func visible() async throws {
    let output = try await Tool.run("call", "http://h/", "--data", "a\u{1B}[31m\u{9B}\u{7F}\r\tb", "--as-curl")
    #expect(
      output.out.unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) })
  }

  @Test("does not repeat a POST, and repeats what may be repeated")
  func retries() async throws {
    let server = try TestServer { _ in .status(503, "Unavailable", "") }
    for (words, count) in [
      (["POST", server.url, "a=1"], 1), ([server.url], 2), (["POST", server.url, "a=1", "--idempotency-key"], 2),
    ] {
      let before = server.requests.count
      let curl = try await RunningProcess(Tool.binary, ["call", "--retry", "1", "--as-curl"] + words).end()
      _ = try await Tool.shell(curl.out)
      #expect(server.requests.count - before == count, "\(curl.out)")
      let keys = server.requests.dropFirst(before).map { $0.header("Idempotency-Key") ?? "" }
      #expect(Set(keys).count == 1 && keys[0].isEmpty == !words.contains("--idempotency-key"))
    }
  }

  @Test("masks what looks like a secret in the members of a JSON body, and says so")
  func secretMembers() async throws {
    let output = try await Tool.run(
      "call", "http://h/", "password=hunter2", "a[api_key]:=\"hunter2\"", "a[b]=1", "pin:=[1]", "--as-curl")
    #expect(output.status == 0 && !output.out.contains("hunter2"))
    #expect(output.out.contains(#"{"password":"***","a":{"api_key":"***","b":"1"},"pin":[1]}"#), "\(output)")
    #expect(
      output.err == "msctl: the command shows '***' instead of each secret; replace it before you run the command\n")
    let data = try await Tool.run("call", "http://h/", "--data", #"{ "token" : "hunter2", "a": 1 }"#, "--as-curl")
    #expect(data.out.contains(#"{ "token" : "***", "a": 1 }"#), "\(data)")
    let plain = try await Tool.run("call", "http://h/", "a=1", "--as-curl")
    #expect(plain.status == 0 && plain.err == "")
    let wrong = try await Tool.run("call", "http://h/", "password:=hunter2")
    #expect(wrong.status == 2 && !wrong.err.contains("found") && !wrong.err.contains("hunter2"), "\(wrong)")
  }

  @Test("a password in a redirect is not shown by --verbose, whatever it holds")
  func location() async throws {
    for login in ["ada:hunter2", "ada:hunt/er2", "ada:hunt?er2", "ada:h/nt/er2#x", "ada:x@hunt/er2"] {
      let server = try TestServer { _ in
        .status(302, "Found", "", headers: ["Location: http://\(login)@h:80/x", "Link: <http://\(login)@h/y>"])
      }
      let output = try await Tool.run("call", server.url, "-v")
      #expect(output.status == 4 && output.err.contains("***@h"), "\(output)")
      #expect(!output.err.contains("hunt") && !output.err.contains("er2"), "\(login) \(output)")
    }
  }

  @Test("masks what looks like a secret, in headers, query and form")
  func secrets() async throws {
    let output = try await Tool.run(
      "call", "http://h/?api_key=hunter2&page=1", "--form", "password=hunter2", "user=ada", "X-Key:hunter2",
      "token==hunter2",
      "Ocp-Apim-Subscription-Key:hunter2", "X-JWT:hunter2", "Content-Signature:hunter2", "X-Session:hunter2",
      "--as-curl")
    #expect(output.status == 0 && !output.out.contains("hunter2"))
    #expect(output.out.contains("api_key=***&page=1&token=***") && output.out.contains("password=***&user=ada"))
  }
}
