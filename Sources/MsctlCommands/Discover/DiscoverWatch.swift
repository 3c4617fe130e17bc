import MsctlCore

/// `discover --watch`: what changes, as it changes.
struct DiscoverWatch {
  private let options: Discover.Options
  private let loop: EventLoop
  private let console: Console
  private let signals = Signals(children: true)
  private let output: Readiness
  /// Nil at the end, when nobody is to be told any more.
  private var watch: ConsulWatch?
  private let command: ChangeCommand?
  /// Whether instances have changed since they were told.
  private var hasChanged = false
  /// What was told last.
  private var told: [ServiceInstance] = []
  /// The names of hosts that are being looked up for instances to be told.
  private var lookUp: (instances: [ServiceInstance], question: HostLookUp)?
  /// How often names of hosts had come to mean something else when instances were told last.
  private var resolved = 0
  /// What was left out last.
  private var lastRemark: String?

  init(
    _ options: Discover.Options, _ agent: ConsulAgent, _ loop: EventLoop, _ console: Console,
    _ environment: [String: String]
  ) {
    (self.options, self.loop, self.console) = (options, loop, console)
    output = console.outputReadiness
    watch = agent.watch(
      options.service?.text, options.selection, where: options.status.accepts, console, tellsOutages: true)
    command = options.exec.map { line in
      var variables = options.children.variables(environment)
      variables["MSCTL_SERVICE"] = options.service?.text
      return ChangeCommand(line, variables, console)
    }
    loop.add(signals)
    loop.add(output)
    if let command {
      loop.add(command)
      loop.add(HostResolver.system)
    }
  }

  mutating func run() throws(Failure) {
    var cause: Failure?
    while true {
      do throws(Failure) {
        if let number = signals.take() { throw .interrupted(by: number) }
        if cause == nil { try goOn() }
        try command?.work()
      } catch {
        if cause == nil { cause = error }
        watch = nil
        command?.finish()
      }
      if let cause, command?.isOver ?? true {
        // What was told is still written, unless a signal ends it; the cause of the end is the first one.
        if case .signal = cause.code {} else { try? console.flush() }
        throw cause
      }
      wait()
    }
  }

  /// The one wait.
  private func wait() {
    console.moveErrors()
    output.isWanted = console.hasUnwritten && watch != nil
    let own = min(watch?.wakeTime ?? .never, lookUp?.question.wakeTime ?? .never)
    loop.turn(until: min(.after(.seconds(1)), own))
  }

  /// Tells what has changed.
  /// - Throws: what ends the watch.
  private mutating func goOn() throws(Failure) {
    guard let watch else { return }
    if try watch.advance() { hasChanged = true }
    // An agent that is away at the beginning is a wrong address; one that goes away later comes back.
    if watch.instances == nil, let trouble = watch.trouble { throw trouble }
    if command != nil { tellCommand(watch) } else { try tell(watch) }
    if console.isOutputClosed { throw Failure(.outputClosed) }
  }

  // MARK: Events

  private mutating func tell(_ watch: ConsulWatch) throws(Failure) {
    // What the output has yet to take comes first, so that it is never more than one list.
    if hasChanged, !console.hasUnwritten, let instances = watch.instances {
      hasChanged = false
      tell(instances)
    }
    try console.flushReady()
  }

  /// Writes an event for each instance that has come, gone or changed since.
  private mutating func tell(_ instances: [ServiceInstance]) {
    func keyed(_ instances: [ServiceInstance]) -> [ByteKey: ServiceInstance] {
      Dictionary(instances.map { ($0.key, $0) }) { $1 }
    }
    let before = keyed(told)
    let now = keyed(instances)
    for instance in told where now[instance.key] == nil { write("removed", instance) }
    for instance in instances {
      let old = before[instance.key]
      if old == nil {
        write("added", instance)
      } else if old != instance {
        write("changed", instance)
      }
    }
    told = instances
  }

  private func write(_ event: String, _ instance: ServiceInstance) {
    var writer = JSONWriter()
    writer.object { object in
      object.field("event", event)
      for member in instance.json.members { object.field(member.name, member.value) }
    }
    console.write(value: writer.value)
  }

  // MARK: The command

  private mutating func tellCommand(_ watch: ConsulWatch) {
    let changes = HostResolver.system.changes
    if hasChanged || resolved != changes, let instances = watch.instances {
      hasChanged = false
      resolved = changes
      // A service that changes again and again is told all the same.
      let limit = lookUp?.question.wakeTime ?? .never
      lookUp = (instances, HostResolver.system.lookUp(Discover.hosts(instances, options), until: limit))
    }
    guard let (instances, question) = lookUp, let addresses = question.take() else { return }
    lookUp = nil
    let rendering = Discover.text(instances, services: watch.services, options, resolved: addresses)
    if let remark = rendering.remark, remark != lastRemark { console.note(remark) }
    lastRemark = rendering.remark
    command?.tell(rendering.text)
  }
}
