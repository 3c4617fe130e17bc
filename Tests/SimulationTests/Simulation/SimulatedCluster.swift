import MsctlCore

/// What the servers of Consul know: services, checks, nodes, and an index that counts the changes of each
/// (https://developer.hashicorp.com/consul/api-docs/features/blocking, and agent/consul/state/catalog.go).
struct SimulatedCluster {
  struct Instance {
    let id: String
    let service: Int
    let node: Int
    /// Of its own check; nil: it has none.
    var check: (status: HealthStatus, index: UInt64)?
    var port: Int
    var tag: String
  }

  private struct Node {
    var status = HealthStatus.passing
    var index: UInt64 = 1
    /// Counts the addresses that it has had.
    var address = 1
  }

  /// An instance as a caller sees it.
  struct Shown {
    let text: String
    let status: HealthStatus
  }

  private(set) var services: [[Instance]]
  private var nodes = [Node(), Node()]
  private var index: UInt64 = 1
  private var catalogIndex: UInt64 = 1
  private var checksIndex: UInt64 = 1
  private var serviceIndex: [UInt64]
  private var instances = 0
  /// What changed last, and whether neither the catalog nor the checks show it.
  private(set) var told = ""
  private(set) var isHidden = false

  init(services count: Int) {
    services = [[Instance]](repeating: [], count: count)
    serviceIndex = [UInt64](repeating: 1, count: count)
  }

  // MARK: Names

  /// The second has a name that cannot be looked up, the third one that cannot stand in a URL.
  static func name(_ place: Int) -> String {
    switch place {
    case 1: "a/b"
    case 2: ".."
    default: "s\(place)"
    }
  }

  static func isUnreadable(_ place: Int) -> Bool { place == 1 || place == 2 }

  func place(of name: String) -> Int? { services.indices.first { Self.name($0) == name } }

  // MARK: Changes

  mutating func change(_ choices: Choices) {
    index += UInt64(1 + choices.pick(3))
    isHidden = false
    let place = choices.pick(services.count)
    let number = services[place].isEmpty ? nil : choices.pick(services[place].count)
    switch (choices.pick(7), number) {
    case (1, let number?): flip(place, number, choices)
    case (2, let number?): remove(place, number)
    case (3, let number?):
      services[place][number].port += 1
      touch(place, "has another port")
    case (4, let number?):
      services[place][number].tag = choices.pick(from: ["", "t", "u"])
      touch(place, "has another tag")
    case (5, _): flipNode(choices.pick(nodes.count), choices)
    case (6, _) where choices.chance(30): moveNode(choices.pick(nodes.count))
    default: add(place, choices)
    }
  }

  /// Every service has an instance.
  mutating func fill(_ choices: Choices) {
    for place in services.indices {
      index += 1
      add(place, choices)
    }
  }

  private mutating func touch(_ place: Int, _ what: String) {
    catalogIndex = index
    serviceIndex[place] = index
    told = "\(Self.name(place)) \(what), index \(index)"
  }

  private mutating func add(_ place: Int, _ choices: Choices) {
    instances += 1
    let check: (status: HealthStatus, index: UInt64)? = choices.chance(60) ? (.passing, index) : nil
    services[place].append(
      Instance(
        id: "i\(instances)", service: place, node: choices.pick(nodes.count), check: check, port: 8000, tag: ""))
    if check != nil { checksIndex = index }
    touch(place, "has a new instance")
  }

  private mutating func remove(_ place: Int, _ number: Int) {
    if services[place].remove(at: number).check != nil { checksIndex = index }
    touch(place, "has an instance less")
  }

  private mutating func flip(_ place: Int, _ number: Int, _ choices: Choices) {
    guard services[place][number].check != nil else { return touch(place, "is registered again") }
    services[place][number].check = (choices.pick(from: [.critical, .warning, .passing]), index)
    checksIndex = index
    serviceIndex[place] = index
    told = "\(Self.name(place)) flaps, index \(index)"
  }

  private mutating func flipNode(_ number: Int, _ choices: Choices) {
    nodes[number].status = choices.pick(from: [.critical, .passing])
    nodes[number].index = index
    checksIndex = index
    touchServices(ofNode: number)
    told = "node \(number) is \(nodes[number].status), index \(index)"
  }

  private mutating func moveNode(_ number: Int) {
    nodes[number].address += 1
    touchServices(ofNode: number)
    isHidden = true
    told = "node \(number) has another address, index \(index)"
  }

  private mutating func touchServices(ofNode number: Int) {
    for place in services.indices where services[place].contains(where: { $0.node == number }) {
      serviceIndex[place] = index
    }
  }

  /// A restart without data: indexes begin anew.
  mutating func forget() {
    let count = instances
    self = SimulatedCluster(services: services.count)
    instances = count
  }

  // MARK: Answers

  func index(of question: HealthWatch.Question) -> UInt64 {
    switch question {
    case .catalog: catalogIndex
    case .checks: checksIndex
    case .instances(let name): place(of: name.text).map { serviceIndex[$0] } ?? index
    case .permission: 0
    }
  }

  var listing: [(name: String, tags: [String])] {
    services.indices.filter { !services[$0].isEmpty }.map { place in
      (Self.name(place), Set(services[place].map(\.tag)).filter { !$0.isEmpty }.sorted())
    }
  }

  var checks: [ConsulAgent.CheckState] {
    var all = nodes.enumerated().map { number, node in
      ConsulAgent.CheckState(
        node: "n\(number)", service: "", instance: "", status: node.status.rawValue, index: node.index)
    }
    for instance in services.joined() {
      guard let check = instance.check else { continue }
      all.append(
        ConsulAgent.CheckState(
          node: "n\(instance.node)", service: Self.name(instance.service), instance: instance.id,
          status: check.status.rawValue, index: check.index))
    }
    return all
  }

  func instances(_ place: Int) throws(Violation) -> [ServiceInstance] {
    var list: [ServiceInstance] = []
    for one in services[place] {
      let checks = [nodes[one.node].status, one.check?.status].compactMap { $0 }
        .map { #"{"Status":"\#($0.rawValue)"}"# }.joined(separator: ",")
      let tags = one.tag.isEmpty ? "" : "\"\(one.tag)\""
      let text = """
        {"Service":{"Service":"\(Self.name(place))","ID":"\(one.id)","Port":\(one.port),"Tags":[\(tags)]},\
        "Node":{"Node":"n\(one.node)","Address":"\(address(of: one))"},"Checks":[\(checks)]}
        """
      guard let value = try? JSONValue(parsing: text.utf8), let instance = ServiceInstance(health: value) else {
        throw Violation("the world is sound", text)
      }
      list.append(instance)
    }
    return list
  }

  private func address(of instance: Instance) -> String { "10.0.\(instance.node).\(nodes[instance.node].address)" }

  func shown(_ instance: Instance) -> Shown {
    let status = max(nodes[instance.node].status, instance.check?.status ?? .passing)
    let place = "\(address(of: instance)):\(instance.port)"
    return Shown(
      text: "\(Self.name(instance.service)) \(instance.id) \(place) \(instance.tag) \(status)", status: status)
  }
}
