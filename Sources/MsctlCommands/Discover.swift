import CommandTable
import MsctlCore

/// `msctl discover`: the instances of a service, or the services that there are.
enum Discover: Verb {
  enum Format: String, ArgumentChoice { case json, url, hostport, env, table }

  enum Status: String, ArgumentChoice {
    case passing, warning, critical, any

    func accepts(_ status: HealthStatus) -> Bool { self == .any || rawValue == status.rawValue }
  }

  struct Options: VerbOptions {
    var service: ServiceName?
    var status = Status.passing
    var isOne = false
    var tags: [String] = []
    var datacenter: String?
    var near: String?
    var filter: String?
    var format = Format.json
    var agent = AgentOptions()
    var output = OutputOptions()

    init() {}
  }

  static let command = Command<Options>(
    "discover", "find the healthy instances of a service",
    details: """
      Writes the instances of the service NAME that Consul knows, one JSON object a line; without NAME, all services. Where \
      there is none, nothing is written and the exit code is 3.
      """,
    flags: [
      .value("status", "s", "STATUS", into: \.status, "Which instances"),
      .toggle("one", "1", into: \.isOne, "One instance, at random by weight"),
      .list("tag", nil, "TAG", into: \.tags, "Only instances with this tag"),
      .value("filter", nil, "EXPR", into: \.filter, "Only what Consul's filter expression selects")
        .details("For example 'Service.Meta.version == \"2\"'."),
      .value("near", nil, "NODE", into: \.near, "Nearest to this node first (_agent: to the agent)"),
      .value("dc", nil, "NAME", into: \.datacenter, "The datacenter"),
    ].under("Selection")
      + [
        .value("output", "o", "FORMAT", into: \.format, "How instances are written")
          .details(
            """
            json: an object a line; url: http://HOST:PORT; hostport: HOST:PORT; env: shell variables of one instance, for \
            eval; table: for people.
            """)
      ].under("Output") + AgentOptions.flags.lifted(to: \.agent) + OutputOptions.flags.lifted(to: \.output),
    operands: [
      .optional(
        "NAME", into: \.service, "The service; without it, all services are listed", completion: .live("service"))
    ],
    variables: AgentOptions.variables.lifted(to: \.agent),
    examples: [
      Example("msctl discover user-service -o url", "The URLs of the passing instances"),
      Example("eval \"$(msctl discover user-service -o env)\"", "USER_SERVICE_URL, _HOST and _PORT in the shell"),
    ],
    check: { options throws(ValueError) in
      guard options.service == nil else { return }
      if ![.json, .table].contains(options.format) {
        throw ValueError("'-o \(options.format.rawValue)' shows instances, so 'discover' needs NAME: the service")
      }
      if options.isOne || !options.tags.isEmpty || options.filter != nil || options.near != nil
        || options.status != .passing
      {
        throw ValueError(
          "'--one', '--status', '--tag', '--filter' and '--near' select instances, so 'discover' needs NAME: the service"
        )
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let agent = try options.agent.agent(over: makeHTTPClient())
    guard let name = options.service?.text else { return try listServices(agent, options, console) }

    var selection = ConsulAgent.Selection()
    selection.tags = options.tags
    selection.datacenter = options.datacenter
    selection.near = options.near
    selection.filter = options.filter
    let all = try agent.instances(of: name, selection)
    var found = all.filter { options.status.accepts($0.status) }
    guard !found.isEmpty else {
      throw options.status == .passing
        ? nothingPassing(name, all, isNarrowed: selection.isNarrow)
        : Failure(
          .nothingThere,
          "no instance of '\(name)' is \(options.status == .any ? "registered" : options.status.rawValue)")
    }
    if options.isOne || options.format == .env {
      var generator = SystemRandomNumberGenerator()
      found = (options.near == nil ? found.weightedRandom(using: &generator) : found.first).map { [$0] } ?? []
    }
    try write(found, options.format, console)
    try console.flush()
  }

  /// No such service, or none of its instances passing: how many there are, and what their checks say.
  static func nothingPassing(
    _ name: String, _ all: [ServiceInstance], isNarrowed: Bool, orElse hint: String = ""
  ) -> Failure {
    guard !all.isEmpty || !isNarrowed else {
      return Failure(
        .nothingThere, "no instance of '\(name)' is what '--tag', '--filter' or '--dc' ask for",
        hint: "'msctl discover \(name) --status any -o table' shows those that there are.")
    }
    guard !all.isEmpty else {
      return Failure(
        .nothingThere, "there is no service '\(name)'",
        hint: "'msctl discover' lists the services." + (hint.isEmpty ? "" : " " + hint))
    }
    let complaint = all.lazy.flatMap(\.complaints).first.map { " (\($0))" } ?? ""
    return Failure(
      .nothingThere,
      all.count == 1
        ? "the only instance of '\(name)' is \(all[0].status.rawValue)\(complaint)"
        : "none of the \(all.count) instances of '\(name)' is passing\(complaint)",
      hint: "'msctl discover \(name) --status any -o table' shows them.")
  }

  private static func listServices(_ agent: ConsulAgent, _ options: Options, _ console: Console) throws(Failure) {
    let services = try agent.services(datacenter: options.datacenter)
    switch options.format {
    case .table:
      try write(table: [["SERVICE", "TAGS"]] + services.map { [$0.name, $0.tags.joined(separator: ",")] }, console)
    default:
      for service in services {
        var writer = JSONWriter()
        writer.object { object in
          object.field("service", service.name)
          object.field("tags", service.tags)
        }
        console.write(value: writer.value)
      }
    }
    try console.flush()
  }

  private static func write(_ instances: [ServiceInstance], _ format: Format, _ console: Console) throws(Failure) {
    switch format {
    case .json:
      for instance in instances { console.write(value: instance.json) }
    case .url:
      for instance in instances { console.write(line: instance.url) }
    case .hostport:
      for instance in instances { console.write(line: instance.hostPort) }
    case .env:
      guard let instance = instances.first else { return }
      let prefix = variableName(instance.service)
      for (name, value) in [("URL", instance.url), ("HOST", instance.address), ("PORT", String(instance.port))] {
        console.write(line: "\(prefix)_\(name)=\(shellQuoted(value))")
      }
    case .table:
      let rows = instances.map {
        [
          $0.id, $0.hostPort, $0.status.rawValue, $0.node, $0.tags.joined(separator: ","),
          $0.complaints.joined(separator: "; "),
        ]
      }
      try write(table: [["ID", "ADDRESS", "STATUS", "NODE", "TAGS", "CHECKS"]] + rows, console)
    }
  }

  private static func write(table rows: [[String]], _ console: Console) throws(Failure) {
    let columns = rows.first?.count ?? 0
    let widths = (0..<columns).map { column in rows.map { $0[column].count }.max() ?? 0 }
    for row in rows {
      let cells = row.enumerated().map { column, cell in
        column == columns - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
      }
      var line = visible(cells.joined(separator: "  "))
      while line.hasSuffix(" ") { line.removeLast() }
      console.write(line: line)
    }
  }
}

/// `user-service` as the beginning of a variable's name: `USER_SERVICE`.
private func variableName(_ service: String) -> String {
  let name = String(service.uppercased().map { $0.isASCII && ($0.isLetter || $0.isNumber) ? $0 : "_" })
  return name.first?.isNumber == true ? "_" + name : name
}

/// A word that a POSIX shell takes as it is.
func shellQuoted(_ text: String) -> String {
  let isPlain =
    !text.isEmpty
    && text.unicodeScalars.allSatisfy {
      ("a"..."z").contains($0) || ("A"..."Z").contains($0) || ("0"..."9").contains($0)
        || "-_./:@%+,".unicodeScalars.contains($0)
    }
  return isPlain
    ? text : "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
