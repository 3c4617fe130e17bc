import MsctlCore

extension Discover {
  /// What is written of instances, and what had to be left out of it.
  struct Rendering {
    var text: [UInt8]
    var leftOut: [String] = []

    /// The one remark on it; nil where there is nothing to remark.
    var remark: String? { Discover.remark(leftOut) }
  }

  /// What is written of instances: lines of the wanted form.
  /// - Parameters:
  ///   - services: the names of all services, where it is about all.
  ///   - resolved: the IP addresses of `hosts`.
  static func text(
    _ instances: [ServiceInstance], services: [String]?, _ options: Options, resolved: [ByteKey: [String]] = [:]
  ) -> Rendering {
    func rendering(_ lines: ([ServiceInstance]) -> [String]) -> Rendering {
      let (writable, leftOut) = writable(instances)
      return Rendering(text: lines(writable).flatMap { Array($0.utf8) + [0x0A] }, leftOut: leftOut)
    }
    switch options.format {
    case .json:
      return Rendering(
        text: instances.reduce(into: []) { text, instance in
          instance.json.append(to: &text)
          text.append(0x0A)
        })
    case .url: return rendering { $0.map(\.url) }
    case .hostport: return rendering { $0.map(\.hostPort) }
    case .env:
      return rendering { instances in
        guard let instance = instances.first else { return [] }
        let prefix = variableName(instance.service)
        return [("URL", instance.url), ("HOST", instance.address), ("PORT", String(instance.port))].map {
          "\(prefix)_\($0)=\(Shell.quoted($1))"
        }
      }
    case .table:
      let rows = instances.map {
        [
          $0.id, $0.hostPort, $0.status.rawValue, $0.node, $0.tags.joined(separator: ","),
          $0.complaints.joined(separator: "; "),
        ]
      }
      return Rendering(text: Array(table([["ID", "ADDRESS", "STATUS", "NODE", "TAGS", "CHECKS"]] + rows).utf8))
    case .nginx:
      let names = services ?? [options.service?.text].compactMap { $0 }
      return NginxFormat.rendering(
        names, instances, listen: options.listen ?? ListenAddress(), resolved: resolved)
    }
  }

  /// The names of hosts whose IP addresses are to be written.
  static func hosts(_ instances: [ServiceInstance], _ options: Options) -> Set<ByteKey> {
    guard options.format == .nginx else { return [] }
    return Set(
      instances.compactMap { if case .name(let name)? = HostAddress($0.address) { ByteKey(name) } else { nil } })
  }

  /// The instances of which an address and a port can be written, and the others by their names.
  static func writable(_ instances: [ServiceInstance]) -> (instances: [ServiceInstance], leftOut: [String]) {
    var writable: [ServiceInstance] = []
    var leftOut: [String] = []
    for instance in instances {
      if HostAddress(instance.address) == nil {
        leftOut.append("\(named(instance)) (invalid address '\(shortened(instance.address))')")
      } else if !(0...65535).contains(instance.port) {
        leftOut.append("\(named(instance)) (port \(instance.port))")
      } else {
        writable.append(instance)
      }
    }
    return (writable, leftOut)
  }

  static func remark(_ leftOut: [String]) -> String? {
    guard !leftOut.isEmpty else { return nil }
    let more = leftOut.count > 3 ? " and \(leftOut.count - 3) more" : ""
    return "left out: " + leftOut.prefix(3).joined(separator: ", ") + more
  }

  static func named(_ instance: ServiceInstance) -> String {
    "'\(shortened(instance.id))' of '\(shortened(instance.service))'"
  }

  /// A text of others in a remark.
  static func shortened(_ text: String) -> String {
    let scalars = text.unicodeScalars.prefix(80)
    return scalars.endIndex == text.endIndex ? text : String(scalars) + "..."
  }

  /// Rows in columns, each row one line.
  static func table(_ rows: [[String]]) -> String {
    // A cell may be as long as others want it, and would be paid for in each row.
    let widest = 80
    let cells = rows.map { $0.map(visibleLine) }
    let counts = cells.map { $0.map(\.unicodeScalars.count) }
    let columns = rows.first?.count ?? 0
    let widths = (0..<columns).map { column in min(widest, counts.map { $0[column] }.max() ?? 0) }
    var text = ""
    for (row, cells) in cells.enumerated() {
      var line: [UInt8] = []
      for (column, cell) in cells.enumerated() {
        line += cell.utf8
        if column < columns - 1 { line += repeatElement(0x20, count: max(0, widths[column] - counts[row][column]) + 2) }
      }
      while line.last == 0x20 { line.removeLast() }
      text += String(decoding: line, as: UTF8.self) + "\n"
    }
    return text
  }
}

/// `user-service` as the beginning of a variable's name: `USER_SERVICE`.
private func variableName(_ service: String) -> String {
  let name = service.unicodeScalars.map { scalar -> UInt8 in
    switch scalar {
    case "a"..."z": UInt8(ascii: scalar) - 0x20
    case "A"..."Z", "0"..."9": UInt8(ascii: scalar)
    default: UInt8(ascii: "_")
    }
  }
  let isDigit = name.first.map { (0x30...0x39).contains($0) } ?? false
  return (isDigit ? "_" : "") + String(decoding: name, as: UTF8.self)
}
