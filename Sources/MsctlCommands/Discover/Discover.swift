import CommandTable
import MsctlCore

/// `msctl discover`: the instances of a service, or the services that there are.
enum Discover: Verb {
  enum Format: String, ArgumentChoice { case json, url, hostport, env, table, nginx }

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
    var wait: Duration?
    var minimum = 1
    var watches = false
    var exec: String?
    var listen: ListenAddress?
    var lookUp = LookUpOptions()
    var children = ChildEnvironment()
    var agent = AgentOptions()
    var output = OutputOptions()

    init() {}

    var selection: ConsulAgent.Selection {
      lookUp.narrow(ConsulAgent.Selection(tags: tags, datacenter: datacenter, near: near, filter: filter))
    }

    /// Whether it is about instances, if need be of all services.
    var isAboutInstances: Bool { service != nil || watches || format == .nginx }
  }

  /// How long `--wait` waits for the agent's first answer, at least.
  private static let firstAnswerPatience: Duration = .seconds(1)

  static let command = Command<Options>(
    "discover", "find the healthy instances of a service",
    details: """
      Prints the instances of the service NAME, one JSON object per line; without NAME, all services. If there is no such \
      instance, it prints nothing and exits 3.

      With '--watch' it keeps running and prints an added, changed or removed event per instance, starting with an added event \
      for each that exists. '--exec' runs COMMAND instead, at the start and after each change, with all instances on its \
      standard input in the format of '--output'. If the agent restarts, msctl reconnects.
      """,
    flags: [
      .value("status", "s", "STATUS", into: \.status, "Select instances with this status"),
      .toggle("one", "1", into: \.isOne, "Pick one instance, at random by weight"),
      .list("tag", nil, "TAG", into: \.tags, "Use only instances with this tag"),
      .value("filter", nil, "EXPR", into: \.filter, "Use only instances that match this Consul filter")
        .details("For example 'Service.Meta.version == \"2\"'."),
      .value("near", nil, "NODE", into: \.near, "Sort by distance from this node (_agent: from the agent)"),
      .value("dc", nil, "NAME", into: \.datacenter, "Look in this datacenter"),
    ].under("Selection") + LookUpOptions.flags.lifted(to: \.lookUp)
      + [
        .value("output", "o", "FORMAT", into: \.format, "Print instances in this format")
          .details(
            """
            json: one object per line; url: http://HOST:PORT; hostport: HOST:PORT; env: shell variables of one instance, \
            for eval; table: for people; nginx: an upstream per service and a server that maps /NAME/path to /path of the \
            service NAME (include it inside nginx's http block). An instance whose address or port cannot be written is \
            left out with a note. nginx gets host names as their IP addresses.
            """),
        .value("listen", nil, "[HOST:]PORT", into: \.listen, "With -o nginx, listen on this address and port")
          .details("HOST is an IP address, localhost or * (all addresses). Default: \(ListenAddress.standard)."),
      ].under("Output")
      + [
        .value("wait", "w", "TIME", into: \.wait, "Wait up to TIME until there are enough instances"),
        .number("min", nil, "N", in: 1...Int.max, into: \.minimum, "Require at least N instances"),
        .toggle("watch", nil, into: \.watches, "Keep running; print an added, changed or removed event per instance"),
        .value("exec", nil, "COMMAND", into: \.exec, "With --watch, run COMMAND after each change")
          .details(
            """
            It runs once nothing has changed for 200 ms, never twice at the same time, and again after a pause if it fails. \
            When msctl is interrupted, a running COMMAND has 5 s to finish; then it gets SIGTERM, and after 10 s SIGKILL. \
            \(ChildEnvironment.note)
            """),
      ].under("Waiting") + ChildEnvironment.flags.lifted(to: \.children).under("Waiting")
      + AgentOptions.flags.lifted(to: \.agent) + OutputOptions.flags.lifted(to: \.output),
    operands: [
      .optional(
        "NAME", into: \.service, "Service to find (default: list all services)", completion: .live("service"))
    ],
    variables: AgentOptions.variables.lifted(to: \.agent),
    examples: [
      Example("msctl discover user-service -o url", "The URLs of the passing instances"),
      Example("msctl discover user-service --wait 30s --min 2", "Wait until two instances are passing"),
      Example(
        "msctl discover --watch -o nginx --exec 'cat > /etc/nginx/conf.d/services.conf && nginx -s reload'",
        "A gateway in front of all services"),
      Example("eval \"$(msctl discover user-service -o env)\"", "USER_SERVICE_URL, _HOST and _PORT in the shell"),
    ],
    habits: .discovering,
    check: { options throws(ValueError) in
      try options.lookUp.check()
      if options.exec != nil, !options.watches { throw ValueError("'--exec' requires '--watch'") }
      if options.watches, options.exec == nil, options.format != .json {
        throw ValueError("'--watch' writes events as JSON; '-o \(options.format.rawValue)' requires '--exec'")
      }
      if options.watches, options.isOne || options.wait != nil || options.minimum != 1 {
        throw ValueError("'--watch' cannot be combined with '--one', '--wait' or '--min'")
      }
      if options.children.isClean, options.exec == nil { throw ValueError("'--clean-env' requires '--exec'") }
      if options.listen != nil, options.format != .nginx { throw ValueError("'--listen' requires '-o nginx'") }
      if options.service == nil, options.wait != nil || options.minimum != 1 {
        throw ValueError("'--wait' and '--min' require NAME")
      }
      // Consul lists the services of this cluster alone.
      if options.service == nil, options.lookUp.peer != nil { throw ValueError("'--peer' requires NAME") }
      guard !options.isAboutInstances else { return }
      if ![.json, .table].contains(options.format) {
        throw ValueError("'-o \(options.format.rawValue)' requires NAME")
      }
      if options.isOne || !options.tags.isEmpty || options.filter != nil || options.near != nil
        || options.status != .passing || options.lookUp.portName != nil
      {
        throw ValueError(
          "'--one', '--status', '--tag', '--filter', '--near' and '--port-name' require NAME"
        )
      }
    })

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let http = try makeHTTPClient(console)
    let loop = EventLoop(http)
    let agent = try options.agent.agent(over: http, console, options.lookUp)
    if options.watches {
      var watch = DiscoverWatch(options, agent, loop, console, environment)
      return try watch.run()
    }
    guard let name = options.service?.text else {
      guard options.format == .nginx else { return try listServices(agent, loop, options, console) }
      let watch = agent.watch(nil, options.selection, where: options.status.accepts, console)
      while try !watch.advance() {
        if let trouble = watch.trouble { throw trouble }
        loop.turn(until: watch.wakeTime)
      }
      try write(watch.instances ?? [], services: watch.services, loop, options, console)
      return
    }
    if let wait = options.wait { try waitForInstances(of: name, for: wait, options, agent, loop, console) }

    let all = try loop.answer(to: agent.beginInstances(of: name, options.selection))
    var found = all.filter { options.status.accepts($0.status) }
    guard !found.isEmpty else {
      throw options.status == .passing
        ? nothingPassing(name, all, isNarrowed: options.selection.isNarrow)
        : Failure(.noInstance(service: name, options.status))
    }
    if [.url, .hostport, .env].contains(options.format) {
      let (writable, leftOut) = writable(found)
      if let remark = remark(leftOut) { console.note(remark) }
      guard !writable.isEmpty else {
        throw Failure(.noWritableAddress(service: name))
      }
      found = writable
    }
    guard found.count >= options.minimum else { throw tooFew(name, found.count, options) }
    if options.isOne || options.format == .env {
      var generator = SystemRandomNumberGenerator()
      found = (options.near == nil ? found.weightedRandom(using: &generator) : found.first).map { [$0] } ?? []
    }
    switch options.format {
    case .json:
      for instance in found {
        console.write(value: instance.json)
        if console.bufferedBytes > 64 << 10 { try console.flush() }
      }
      try console.flush()
    default:
      try write(found, services: nil, loop, options, console)
    }
  }

  private static func write(
    _ instances: [ServiceInstance], services: [String]?, _ loop: EventLoop, _ options: Options, _ console: Console
  ) throws(Failure) {
    let hosts = hosts(instances, options)
    var resolved: [ByteKey: [String]] = [:]
    if !hosts.isEmpty {
      loop.add(HostResolver.system)
      resolved = try loop.answer(to: HostResolver.system.lookUp(hosts))
    }
    let rendering = text(instances, services: services, options, resolved: resolved)
    if let remark = rendering.remark { console.note(remark) }
    console.write(text: rendering.text)
    try console.flush()
  }

  /// Waits until there are enough instances. An agent that is away may come yet.
  private static func waitForInstances(
    of name: String, for time: Duration, _ options: Options, _ agent: ConsulAgent, _ loop: EventLoop, _ console: Console
  ) throws(Failure) {
    let deadline = Deadline.after(time)
    // Whatever the time: what is passing now must have been seen, from an agent that answers.
    let firstAnswer = Deadline.after(max(time, firstAnswerPatience))
    let watch = agent.watch(name, options.selection, where: options.status.accepts, console)
    while true {
      _ = try watch.advance()
      let count = watch.instances?.count ?? 0
      if count >= options.minimum { return }
      if deadline.isPast, watch.instances != nil || watch.trouble != nil || firstAnswer.isPast {
        if watch.instances == nil, watch.trouble == nil {
          throw ConsulError.late.failure(agent.address)
        }
        throw watch.trouble ?? tooFew(name, count, options, after: time)
      }
      loop.turn(until: min(deadline.isPast ? firstAnswer : deadline, watch.wakeTime))
    }
  }

  private static func tooFew(
    _ name: String, _ count: Int, _ options: Options, after time: Duration? = nil
  ) -> Failure {
    Failure(.tooFewInstances(count, of: options.minimum, service: name, options.status, after: time))
  }

  private static func listServices(
    _ agent: ConsulAgent, _ loop: EventLoop, _ options: Options, _ console: Console
  ) throws(Failure) {
    let services = try loop.answer(to: agent.beginServices(options.selection))
    switch options.format {
    case .table:
      let rows = services.map { [$0.name, $0.tags.joined(separator: ",")] }
      console.write(text: Array(table([["SERVICE", "TAGS"]] + rows).utf8))
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
}
