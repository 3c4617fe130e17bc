import MsctlCore

/// `discover --watch`: what changes, as it changes.
struct DiscoverWatch {
  private let options: Discover.Options
  private let loop: EventLoop
  private let console: Console
  private let watch: HealthWatch
  private let signals = Signals(children: true)
  private var command: ChangeCommand?
  /// What was told last.
  private var told: [ServiceInstance] = []
  private var isInTrouble = false
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
    self.options = options
    self.loop = loop
    loop.add(signals)
    if options.exec != nil { loop.add(HostResolver.system) }
    self.console = console
    watch = HealthWatch(agent, service: options.service?.text, options.selection, where: options.status.accepts)
    command = options.exec.map { line in
      var variables = options.children.variables(environment)
      variables["MSCTL_SERVICE"] = options.service?.text
      return ChangeCommand(line, variables, console)
    }
  }

  mutating func run() throws(Failure) {
    do { try watchOn() } catch {
      command?.finish()
      throw error
    }
  }

  private mutating func watchOn() throws(Failure) {
    while true {
      let isResolved = command != nil && resolved != HostResolver.system.changes
      if try watch.advance() || isResolved, let instances = watch.instances {
        if command == nil {
          tell(instances)
        } else {
          resolved = HostResolver.system.changes
          lookUp = (instances, HostResolver.system.lookUp(Discover.hosts(instances, options)))
        }
      }
      if let (instances, question) = lookUp, let addresses = question.take() {
        lookUp = nil
        tellCommand(instances, addresses)
      }
      try tellTrouble()
      try command?.work()
      try console.flush()
      if console.isOutputClosed { throw Failure(.outputClosed) }
      let end = min(
        .after(.seconds(1)), watch.wakeTime, command?.wakeTime ?? .never, lookUp?.question.wakeTime ?? .never)
      loop.turn(until: end)
      if let number = signals.take() {
        throw .interrupted(by: number)
      }
    }
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

  private mutating func tellCommand(_ instances: [ServiceInstance], _ addresses: [ByteKey: [String]]) {
    let rendering = Discover.text(instances, services: watch.services, options, resolved: addresses)
    if let remark = rendering.remark, remark != lastRemark { console.note(remark) }
    lastRemark = rendering.remark
    command?.tell(rendering.text)
  }

  private func write(_ event: String, _ instance: ServiceInstance) {
    var writer = JSONWriter()
    writer.object { object in
      object.field("event", event)
      for member in instance.json.members { object.field(member.name, member.value) }
    }
    console.write(value: writer.value)
  }

  /// An agent that is away at the beginning is a wrong address; one that goes away later comes back.
  private mutating func tellTrouble() throws(Failure) {
    if let trouble = watch.trouble {
      if watch.instances == nil { throw trouble }
      if !isInTrouble { console.note(.agentAway(trouble)) }
    } else if isInTrouble {
      console.note(.agentBack)
    }
    isInTrouble = watch.trouble != nil
  }
}
