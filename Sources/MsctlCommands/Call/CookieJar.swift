import MsctlCore

/// A file of cookies in Netscape's format, as curl and wget have it (https://curl.se/docs/http-cookies.html).
enum CookieJar {
  /// What a line begins with that is no comment: a cookie that scripts do not see.
  private static let hidden = "#HttpOnly_"
  private static let title = "# Netscape HTTP Cookie File"
  private static let titles = [title, "# HTTP Cookie File"]

  /// - Returns: no cookies where there is no file.
  static func read(_ path: String) throws(Failure) -> [String] {
    guard case .file(let name, _, let identity) = FileTarget(path) else {
      throw Failure(.unwritableFile(path, reason: "it is not a regular file"))
    }
    // Before the call, whose cookies could not be kept.
    try checkFolder(of: name, path)
    guard identity != nil else { return [] }
    let bytes = try readFile(path, what: "the cookies")
    // Other lines would be commands to libcurl, or headers.
    let lines = bytes.split(separator: 0x0A).map { String(decoding: $0, as: UTF8.self) }
    let cookies = lines.filter { line in
      line.holds("\t") && (!line.begins(with: "#") || line.begins(with: hidden))
    }
    // What is something else would be lost when the cookies are written.
    guard !cookies.isEmpty || lines.isEmpty || titles.contains(where: lines[0].begins) else {
      throw Failure(.unwritableFile(path, reason: "it holds something else than cookies"))
    }
    return cookies
  }

  static func write(_ cookies: [String], to path: String) throws(Failure) {
    var target = FileTarget(path)
    // Cookies are as good as a login.
    if case .file(let name, nil, let identity) = target { target = .file(name, [.ownerReadWrite], identity) }
    let file = try WholeFile(path, target)
    let lines = [title, ""] + cookies
    try file.write(Array(lines.map { $0 + "\n" }.joined().utf8))
    try file.keep()
  }
}
