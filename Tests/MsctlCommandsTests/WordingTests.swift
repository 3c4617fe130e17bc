import CommandTable
import Foundation
import Testing

@testable import MsctlCommands
@testable import MsctlCore

/// What users read when something fails, by cause: `wording.txt` is the one place that has it in full. Other tests look at exit
/// codes and data, or name an entry of the file (`Wording` in Support).
@Suite("Wording")
struct WordingTests {
  @Test("every failure has the text that wording.txt says")
  func wording() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("wording.txt")
    let text = Entry.all.map(\.text).joined(separator: "\n")
    if ProcessInfo.processInfo.environment["MSCTL_RECORD"] != nil {
      try Data(text.utf8).write(to: file)
      Issue.record("written: wording.txt")
      return
    }
    let found = try String(contentsOf: file, encoding: .utf8)
    for entry in Entry.all { #expect(found.contains(entry.text), "'make documents' writes it anew") }
    #expect(found == text, "'make documents' writes it anew")
  }

  @Test("no entry shows a password")
  func secrets() {
    for entry in Entry.all { #expect(!entry.text.contains("hunter2"), "\(entry.name)") }
  }

  @Test("each entry has a name of its own, and every sentence begins and ends as a fragment does")
  func form() {
    #expect(Set(Entry.all.map(\.name)).count == Entry.all.count)
    for entry in Entry.all {
      #expect(entry.message.last != "." && !entry.message.isEmpty, "\(entry.name)")
      if let hint = entry.hint?.last { #expect([".", "?"].contains(hint), "\(entry.name)") }
    }
  }
}

/// A cause as users see it.
private struct Entry {
  let name: String
  /// Nil: it is told, and the run goes on.
  let status: MsctlCommands.ExitStatus?
  let message: String
  let hint: String?

  var text: String {
    let status =
      switch status {
      case nil: "note"
      case .code(let code)?: "exit \(code)"
      case .signal(let number)?: "signal \(number)"
      }
    return "[\(name)] \(status)\n\(message)\n" + (hint.map { "  \($0)\n" } ?? "")
  }

  init(_ name: String, _ failure: Failure) {
    (self.name, status, message, hint) = (name, MsctlCommands.ExitStatus(failure), failure.message, failure.hint)
  }

  init(_ name: String, note: String) { (self.name, status, message, hint) = (name, nil, note, nil) }

  static var all: [Entry] {
    core + usage + commands + lookUps + calls + queues + published + consumed + handled + watched + registered
  }
}

/// An enum that lists a value of each of its cases. The compiler asks for a new case, which stands between two others.
private protocol Sampled {
  static func sample(after: Self?) -> Self?
  var label: String { get }
}

extension Sampled {
  /// The name of the case.
  fileprivate var label: String { Mirror(reflecting: self).children.first?.label ?? "\(self)" }

  fileprivate static var samples: [Self] {
    Array(
      sequence(state: Self?.none) { last in
        last = sample(after: last)
        return last
      })
  }

  /// The values by their names; of two of one case the second has a number.
  fileprivate static var named: [(name: String, value: Self)] {
    var counts: [String: Int] = [:]
    return samples.map { value in
      let label = value.label
      counts[label, default: 0] += 1
      let count = counts[label] ?? 1
      return (count == 1 ? label : "\(label) \(count)", value)
    }
  }
}

private let amqpError = AMQPError(kind: .broken, reason: "<reason>")
private let uri: AMQPURI = {
  var uri = AMQPURI()
  (uri.user, uri.password, uri.host) = ("user", "hunter2", "broker")
  return uri
}()
private let someAgent = ConsulAddress("http://agent:8500")
private let registration = ServiceRegistration(name: "<service>", id: "<id>", address: "", port: 80)
private let unreachable = HTTPError(kind: .unreachable, reason: "<reason>")

private let jsonError = JSONError(line: 1, column: 2, reason: "<reason>")
private let someFailure = Failure(.unreachable, .said("<failure>", hint: nil))

// MARK: the core

extension Entry {
  fileprivate static var core: [Entry] {
    Failure.Cause.named.flatMap { name, cause -> [Entry] in
      switch cause {
      case .amqp:
        AMQPError.Kind.named.map { Entry("broker \($0)", AMQPError(kind: $1, reason: "<reason>").failure(uri)) }
          + [
            Entry("broker none", Failure(.usage, cause)),
            Entry("broker denied vhost", AMQPError(kind: .denied, reason: "<reason>vhost<reason>").failure(uri)),
            Entry(
              "broker denied empty vhost", AMQPError(kind: .denied, reason: "<reason>vhost<reason>").failure(emptyVhost)
            ),
          ]
      case .http:
        HTTPError.Kind.named.map {
          Entry(
            "http \($0)", HTTPError(kind: $1, reason: "<reason>").failure(reaching: "http://user:hunter2@host/path"))
        }
      case .consul:
        someAgent.map { agent in
          ConsulError.named.flatMap { name, error -> [Entry] in
            switch error {
            case .http:
              HTTPError.Kind.named.map {
                Entry("consul http \($0)", ConsulError.http(HTTPError(kind: $1, reason: "<reason>")).failure(agent))
              }
            case .denied(_, _, let hasToken):
              ConsulError.Access.named.map {
                let words = if case .request = $1 { "<words>" } else { "" }
                let token = hasToken ? "" : " without token"
                return Entry(
                  "consul denied \($0)\(token)", ConsulError.denied($1, words, hasToken: hasToken).failure(agent))
              }
            case .unexpected:
              ConsulError.Expected.named.map {
                Entry("consul unexpected \($0)", ConsulError.unexpected(path: "<path>", $1).failure(agent))
              }
            default: [Entry("consul \(name)", error.failure(agent))]
            }
          }
        } ?? []
      case .messaging: MessagingError.named.map { Entry("messaging \($0)", $1.failure) }
      case .service: ServiceError.named.map { Entry("service \($0)", $1.failure) }
      case .definition: DefinitionError.named.map { Entry("definition \($0)", $1.failure) }
      case .spawn:
        [
          Entry("spawn nothing", SpawnError(nil, 24).failure),
          Entry("spawn not found", SpawnError("<command>", 2).failure),
          Entry("spawn", SpawnError("<command>", 13).failure),
          Entry("spawn by shell", SpawnError("<command>", nil).failure),
        ]
      case .tooLarge: [Entry(name, Failure(.badInput, cause)), Entry("\(name) response", Failure(.failed, cause))]
      case .noMemory, .noEventLoop: [Entry(name, Failure(.failed, cause))]
      case .interrupted: [Entry(name, .interrupted(by: 2))]
      case .said: []
      }
    }
  }

  private static var emptyVhost: AMQPURI {
    var uri = uri
    uri.vhost = ""
    return uri
  }
}

extension Entry {
  /// What the parser says of a command line.
  fileprivate static var usage: [Entry] {
    guard let operand = Call.command.spec.operands.first else { return [] }
    return [
      ("noCommand", UsageError.noCommand(overview: "")),
      ("unknownCommand", .unknownCommand("<word>", known: ["<words>"])),
      ("unknownCommand 2", .unknownCommand("<word>", known: ["<name>", "<other>", "<third>"])),
      ("unknownFlag", .unknownFlag("--word", known: ["--words"], command: "<verb>")),
      ("unknownFlag 2", .unknownFlag("-1", known: [], command: "<verb>")),
      ("missingValue", .missingValue("--<name>", "<value>")),
      ("valueLooksLikeFlag", .valueLooksLikeFlag("--<name>", "<value>", word: "<word>")),
      ("unexpectedValue", .unexpectedValue("--<name>", "<value>")),
      ("invalidValue", .invalidValue("--<name>", "<word>", ValueError("is not a number"))),
      ("invalidValue secret", .invalidValue("--<name>", "hunter2", ValueError("is not a number", isSecret: true))),
      ("missingOperand", .missingOperand(operand, command: "<verb>")),
      ("nothingAfterDashes", .nothingAfterDashes(command: "<verb>")),
      ("extraOperand", .extraOperand("<word>", command: "<verb>")),
    ].map { name, error in
      Entry("usage \(name)", Failure(.usage, .said(error.message, hint: error.hint(program: "msctl"))))
    }
  }
}

extension Failure.Cause: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .amqp([])
    case .amqp: .http(unreachable, target: "http://host/path")
    case .http: .consul(.late, agent: "http://agent:8500")
    case .consul: .messaging(.nacked)
    case .messaging: .service(.invalidPath)
    case .service: .definition(.noName)
    case .definition: .spawn(SpawnError(nil, 24))
    case .spawn: .tooLarge("<input>", limit: 64 << 20)
    case .tooLarge: .noMemory("<input>", size: 64 << 20)
    case .noMemory: .noEventLoop(24)
    case .noEventLoop: .interrupted
    case .interrupted: .said("<message>", hint: nil)
    case .said: nil
    }
  }
}

extension AMQPError.Kind: Sampled {
  /// With the code of a closed channel.
  fileprivate var label: String { "\(self)" }

  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .unreachable
    case .unreachable: .tls
    case .tls: .denied
    case .denied: .timedOut
    case .timedOut: .broken
    case .broken: .channelClosed(code: 403)
    case .channelClosed(code: 403): .channelClosed(code: 404)
    case .channelClosed(code: 404): .channelClosed(code: 405)
    case .channelClosed(code: 405): .channelClosed(code: 406)
    case .channelClosed: .connectionClosed(code: 320)
    case .connectionClosed(code: 320): .connectionClosed(code: 403)
    case .connectionClosed: .invalid
    case .invalid: .violation
    case .violation: .unreadableFrame
    case .unreadableFrame: .noMemory
    case .noMemory: nil
    }
  }
}

extension HTTPError.Kind: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .malformedURL
    case .malformedURL: .unreachable
    case .unreachable: .timedOut
    case .timedOut: .tls
    case .tls: .certificate
    case .certificate: .broken
    case .broken: .tooLarge
    case .tooLarge: nil
    }
  }
}

extension ConsulError: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .http(unreachable)
    case .http: .late
    case .late: .returned(status: 500, method: "<method>", path: "<path>", "<words>", isTransient: false)
    case .returned(status: 500, _, _, _, _):
      .returned(status: 429, method: "<method>", path: "<path>", "<words>", isTransient: true)
    case .returned: .leaderless("<words>")
    case .leaderless: .denied(.catalog, "", hasToken: false)
    case .denied(_, _, hasToken: false): .denied(.catalog, "", hasToken: true)
    case .denied: .unexpected(path: "<path>", .instances)
    case .unexpected: .noPort("<port>", service: "<service>", ports: [])
    case .noPort(_, _, []): .noPort("<port>", service: "<service>", ports: ["<name>", "<other>"])
    case .noPort: .climbs("..")
    case .climbs: .invalidToken
    case .invalidToken: nil
    }
  }
}

extension ConsulError.Access: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .catalog
    case .catalog: .service("<service>")
    case .service: .request(method: "<method>", path: "<path>")
    case .request: nil
    }
  }
}

extension ConsulError.Expected: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .json(jsonError)
    case .json: .instances
    case .instances: .services
    case .services: .checks
    case .checks: nil
    }
  }
}

extension MessagingError: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .returned(code: 312, "<reason>")
    case .returned: .nacked
    case .nacked: .refused(amqpError)
    case .refused: .tooLarge(limit: 16 << 20)
    case .tooLarge: .unsendable(amqpError)
    case .unsendable: .unconfirmed(within: .seconds(30), blocked: nil)
    case .unconfirmed(_, nil): .unconfirmed(within: .seconds(30), blocked: "<reason>")
    case .unconfirmed: .queueDeleted("<queue>")
    case .queueDeleted: .consumerTimeout(queue: "<queue>", "<reason>")
    case .consumerTimeout: .unacknowledged(3)
    case .unacknowledged: .ended
    case .ended: .settledBefore
    case .settledBefore: .closed
    case .closed: .invalidAddress(AMQPURIError(reason: "<reason>"))
    case .invalidAddress: nil
    }
  }
}

extension ServiceError: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .noSuchService("<service>")
    case .noSuchService: .nothingPassing("<service>")
    case .nothingPassing: .crowded(service: "<service>", parallel: 256)
    case .crowded: .noResponse(service: "<service>")
    case .noResponse: .returned(status: 404, reason: "Not Found", method: "GET", url: "http://<service>/")
    case .returned(404, _, _, _): .returned(status: 503, reason: "", method: "GET", url: "http://<service>/")
    case .returned: .notJSON(service: "<service>", jsonError)
    case .notJSON: .invalidAddress
    case .invalidAddress: .invalidName("<service>")
    case .invalidName: .invalidID("<id>")
    case .invalidID: .invalidPort(0)
    case .invalidPort: .invalidMethod("<method>")
    case .invalidMethod: .invalidPath
    case .invalidPath: .invalidHeader("<name>")
    case .invalidHeader: nil
    }
  }
}

extension DefinitionError: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .noName
    case .noName: .climbs
    case .climbs: nil
    }
  }
}

// MARK: call

extension Entry {
  fileprivate static var lookUps: [Entry] {
    guard let agent = someAgent else { return [] }
    return LookUpFailure.named.map {
      Entry("look-up \($0)", $1.failure("<service>", "<path>", isNarrowed: false, agent))
    }
      + [
        Entry(
          "look-up nothing selected",
          LookUpFailure.nothingPassing([]).failure("<service>", "<path>", isNarrowed: true, agent))
      ]
      + ServiceDirectory.Note.named.map { Entry("look-up \($0)", note: $1.text) }
      + [Entry("discover nothing passing", Discover.nothingPassing("<service>", [], isNarrowed: false))]
  }

  fileprivate static var calls: [Entry] {
    let request = HTTPRequest(method: "<method>", url: "http://user:hunter2@host/path")
    let options = Call.Options()
    func head(_ status: Int, _ lines: String = "") -> HTTPHead {
      HTTPHead(status: status, reason: "<reason>", lines: Array(lines.utf8), url: request.url)
    }
    return HTTPError.Kind.named.map { name, kind in
      let error = HTTPError(kind: kind, reason: "<reason>")
      return Entry("call \(name)", callFailure(error, instance("passing"), request, attempts: 3, options))
    } + [
      Entry("call status", callFailure(head(404), request, attempts: 1, options)),
      Entry("call status of many", callFailure(head(503), request, attempts: 3, options)),
      Entry("call redirect", callFailure(head(302, "Location: /\r\n"), request, attempts: 1, options)),
      Entry("call of a value", someFailure.ofValue(3)),
      Entry("call ended by a value", someFailure.ofValue(3).endingCalls(after: 1)),
    ] + ServiceCall.Note.named.map { Entry("call \($0)", note: $1.text(request.url)) }
  }
}

private func instance(_ status: String) -> ServiceInstance? {
  let text = """
    {"Node":{"Node":"<node>","Address":"10.0.0.1"},"Service":{"Service":"<service>","ID":"<id>","Port":80},
     "Checks":[{"Name":"<check>","Status":"\(status)","Output":""}]}
    """
  return (try? JSONValue(parsing: Array(text.utf8))).flatMap { ServiceInstance(health: $0) }
}

extension LookUpFailure: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    let critical = [instance("critical")].compactMap { $0 }
    return switch last {
    case nil: someAgent.map { .agent(ConsulError.http(unreachable).failure($0)) }
    case .agent: .nothingPassing([])
    case .nothingPassing(let all) where all.isEmpty: .nothingPassing(critical)
    case .nothingPassing(let all) where all.count == 1: .nothingPassing(critical + critical)
    case .nothingPassing: .late
    case .late: nil
    }
  }
}

extension ServiceDirectory.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    guard let agent = someAgent else { return nil }
    let failure = ConsulError.http(unreachable).failure(agent)
    return switch last {
    case nil: .retrying("<service>", failure, after: .seconds(1))
    case .retrying: .usingLastKnown("<service>", someFailure)
    case .usingLastKnown: nil
    }
  }
}

extension ServiceCall.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .trying(another: instance("passing"), CallAttempt(.failure(unreachable), hasSent: false))
    case .trying: .pausing(nil, CallAttempt(.success(503), hasSent: true), for: .seconds(1))
    case .pausing: nil
    }
  }
}

// MARK: publish

extension Entry {
  /// What brokers say of a queue.
  fileprivate static var queues: [Entry] {
    var options = BrokerOptions()
    func entry(_ name: String, _ kind: AMQPError.Kind, _ reason: String = "<reason>") -> Entry {
      Entry("queue \(name)", options.failure(AMQPError(kind: kind, reason: reason), queue: "<queue>", uri))
    }
    var entries = AMQPError.Kind.named.map { entry($0, $1) }
    entries.append(entry("consumer timeout", .channelClosed(code: 406), "<reason> timed out<reason>"))
    entries.append(entry("with other arguments", .channelClosed(code: 406), "<reason> inequivalent arg <reason>"))
    options.queueArguments = [NameValue("<name>", "<value>")]
    entries.append(entry("with invalid arguments", .channelClosed(code: 406)))
    entries.append(entry("with unknown arguments", .connectionClosed(code: 541), "<reason>arg<reason>"))
    return entries
  }

  fileprivate static var published: [Entry] {
    var options = Publish.Options()
    options.first = "<queue>"
    var message = AMQPMessage(body: [], exchange: "", routingKey: "<queue>")
    (message.number, message.properties.messageID) = (3, "<id>")
    var exchanged = message
    exchanged.exchange = "<exchange>"
    return Publisher.Cause.named.map { Entry("publish \($0)", $1.failure(options, uri, 0).failure) }
      + [
        Entry("publish broker with unconfirmed", Publisher.Cause.broker(amqpError).failure(options, uri, 3).failure),
        Entry("publish inputNotJSON", CommandError.inputNotJSON(jsonError).failure.ofMessages),
        Entry(
          "publish broker no exchange",
          Publisher.Cause.broker(AMQPError(kind: .channelClosed(code: 404), reason: "<reason>")).failure(
            options, uri, 0
          )
          .failure),
      ]
      + Publisher.Reason.named.map { Entry("message \($0)", $1.failure(of: message)) }
      + [
        Entry(
          "message returned by exchange", Publisher.Reason.returned(code: 312, text: "<reason>").failure(of: exchanged))
      ]
      + Publisher.Note.named.map { Entry("publish \($0)", note: $1.text(uri)) }
  }
}

extension Publisher.Cause: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .interrupted(2)
    case .interrupted: .input(someFailure)
    case .input: .output(someFailure)
    case .output: .driver(someFailure)
    case .driver: .broker(amqpError)
    case .broker: .unconfirmed(blocked: nil)
    case .unconfirmed(blocked: nil): .unconfirmed(blocked: "<reason>")
    case .unconfirmed: .noReply(number: 3)
    case .noReply: .unprepared(amqpError)
    case .unprepared: .unconnected(someFailure)
    case .unconnected: .repeatedBreaks(amqpError, breaks: 3, within: .seconds(60), unconfirmed: 3)
    case .repeatedBreaks: nil
    }
  }
}

extension Publisher.Reason: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .returned(code: 312, text: "<reason>")
    case .returned: .nacked
    case .nacked: .refused(amqpError)
    case .refused: .tooLarge(limit: 16 << 20)
    case .tooLarge: .unsendable(amqpError)
    case .unsendable: nil
    }
  }
}

extension Publisher.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .reconnecting(amqpError)
    case .reconnecting: .reconnected
    case .reconnected: .loginRefused(someFailure)
    case .loginRefused: .blocked(reason: "<reason>")
    case .blocked: .waiting(.seconds(90))
    case .waiting: nil
    }
  }
}

// MARK: consume

extension Entry {
  fileprivate static var consumed: [Entry] {
    let names = ConsumeNames(broker: BrokerOptions(), queue: "<queue>", uri: uri, isStream: false, start: "<offset>")
    var ofStream = names
    ofStream.isStream = true
    return Consumer.Cause.named.map { Entry("consume \($0)", $1.failure(names)) }
      + [Entry("consume rejected of stream", Consumer.Cause.rejected(3).failure(ofStream))]
      + Consumer.Note.named.map { Entry("consuming \($0)", note: $1.text(names)) }
  }
}

extension Consumer.Cause: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .interrupted(2)
    case .interrupted: .tooFew(handled: 2, of: 3)
    case .tooFew: .output(someFailure)
    case .output: .handling(someFailure)
    case .handling: .broker(amqpError)
    case .broker: .unconnected(someFailure)
    case .unconnected: .repeatedBreaks(amqpError, breaks: 3, within: .seconds(60), after: nil)
    case .repeatedBreaks(_, _, _, after: nil):
      .repeatedBreaks(amqpError, breaks: 3, within: .seconds(60), after: "<id>")
    case .repeatedBreaks: .queueDeleted
    case .queueDeleted: .consumerTimeout("<reason>")
    case .consumerTimeout: .neverEmpties
    case .neverEmpties: .spent
    case .spent: .unacknowledged(3, nil)
    case .unacknowledged(_, nil): .unacknowledged(3, amqpError)
    case .unacknowledged: .rejected(3)
    case .rejected: .noMessages
    case .noMessages: nil
    }
  }
}

extension Consumer.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .isStream
    case .isStream: .reconnecting(amqpError)
    case .reconnecting: .reconnected
    case .reconnected: .loginRefused(someFailure)
    case .loginRefused: .newQueue(exchange: "<exchange>")
    case .newQueue: .idleFilter(unprocessed: 3)
    case .idleFilter: .unacknowledged(3)
    case .unacknowledged: nil
    }
  }
}

// MARK: discover

extension Entry {
  fileprivate static var watched: [Entry] {
    guard let agent = someAgent else { return [] }
    return ConsulAgent.Note.named.map { Entry("agent \($0)", note: $1.text(agent)) }
      + HealthWatch.Note.named.map { Entry("watch \($0)", note: $1.text(agent)) }
  }
}

extension ConsulAgent.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .leaderless
    case .leaderless: nil
    }
  }
}

extension HealthWatch.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .leaderless
    case .leaderless: .leftOut("<service>", .unaddressable)
    case .leftOut(_, .unaddressable): .leftOut("<service>", .mayNotRead)
    case .leftOut(_, .mayNotRead): .leftOut("<service>", .refused(someFailure))
    case .leftOut(_, .refused): .agentAway(someFailure)
    case .agentAway: .agentBack
    case .agentBack: nil
    }
  }
}

// MARK: register

extension Entry {
  fileprivate static var registered: [Entry] {
    guard let agent = someAgent else { return [] }
    var options = Register.Options()
    options.command = ["<command>"]
    return HeldRegistration.Note.named.map { Entry("register \($0)", note: $1.text(registration, options, agent)) }
  }
}

extension HeldRegistration.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .notListening
    case .notListening: .registered
    case .registered: .registeringAgain
    case .registeringAgain: .agentAway(someFailure)
    case .agentAway: .agentBack
    case .agentBack: .deregistered
    case .deregistered: .notDeregistered(nil)
    case .notDeregistered(nil): .notDeregistered(someFailure)
    case .notDeregistered: .leftoversKilled
    case .leftoversKilled: nil
    }
  }
}

// MARK: the commands

extension Entry {
  fileprivate static var commands: [Entry] {
    CommandError.named.map { Entry($0, $1.failure) } + CommandNote.named.map { Entry("note \($0)", note: $1.text) }
  }
}

extension CommandError: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .unreadableFile("<path>", what: "the secret", reason: "<reason>")
    case .unreadableFile(_, what: "the secret", _):
      .unreadableFile("<path>", what: "the file of '<name>'", reason: "<reason>")
    case .unreadableFile: .unwritableFile("<path>", reason: "<reason>")
    case .unwritableFile: .foreignReadyFile("<path>")
    case .foreignReadyFile: .usedReadyFile("<path>")
    case .usedReadyFile: .failedFileIsOutput("<path>")
    case .failedFileIsOutput: .unreadableInput(reason: "<reason>")
    case .unreadableInput: .inputNotJSON(jsonError)
    case .inputNotJSON: .outputClosed
    case .outputClosed: .unwritableOutput(reason: "<reason>")
    case .unwritableOutput: .unsetVariable("<name>")
    case .unsetVariable: .emptySecret("@<path>")
    case .emptySecret: .secretNotText("env:<name>")
    case .secretNotText: .noPager("<command>")
    case .noPager: .httpClient(reason: "<reason>")
    case .httpClient: .unknown("<reason>")
    case .unknown: .missingTarget
    case .missingTarget: .tooFewDescriptors(parallel: 1000, wanted: 1100, limit: 1024, fits: 900)
    case .tooFewDescriptors(_, _, _, fits: .some): .tooFewDescriptors(parallel: 9, wanted: 40, limit: 20, fits: nil)
    case .tooFewDescriptors: .unfillable(reason: "<reason>")
    case .unfillable: .unsendableCredentials
    case .unsendableCredentials: .loginWithoutColon
    case .loginWithoutColon: .itemNotText("<name>")
    case .itemNotText: .itemNotJSON("<name>", jsonError)
    case .itemNotJSON: .conflictingItem(reason: "<reason>")
    case .conflictingItem: .noResponse(url: "http://user:hunter2@host/path")
    case .noResponse: .responseNotJSON(jsonError)
    case .responseNotJSON: .callsFailed(2, of: 3, .serverError)
    case .callsFailed: .unfinishedCall(.signal(2))
    case .unfinishedCall: .unwrittenResult(.signal(2))
    case .unwrittenResult: .messageNotJSON(jsonError)
    case .messageNotJSON: .notEnvelope(number: 3, reason: "<reason>")
    case .notEnvelope: .undelivered(2, of: 3)
    case .undelivered: .unpublished(1)
    case .unpublished: .emptyQueue("<queue>")
    case .emptyQueue: .unusableResumeFile("<path>", reason: "<reason>")
    case .unusableResumeFile: .notExclusive(queue: "<queue>")
    case .notExclusive: .unfitBinding(exchange: "<exchange>", type: "headers", .keyForHeaders("<name>=<value>"))
    case .unfitBinding(_, _, .keyForHeaders(let key)) where key.utf8.last != UInt8(ascii: "#"):
      .unfitBinding(exchange: "<exchange>", type: "headers", .keyForHeaders("<key>.#"))
    case .unfitBinding(_, _, .keyForHeaders): .unfitBinding(exchange: "<exchange>", type: "fanout", .keyForAll("<key>"))
    case .unfitBinding(_, _, .keyForAll): .unfitBinding(exchange: "<exchange>", type: "topic", .headersForKey)
    case .unfitBinding(_, _, .headersForKey): .unfitBinding(exchange: "<exchange>", type: "direct", .noKey)
    case .unfitBinding: .notDeadLettered(handledMessage)
    case .notDeadLettered: .replyNotEnvelope("<filter>", to: handledMessage, reason: "<reason>")
    case .replyNotEnvelope: .tooMuchOutput(limit: 1 << 30)
    case .tooMuchOutput: .unkeptOutput(folder: "<path>", reason: "<reason>")
    case .unkeptOutput: .unreadableOutput(folder: "<path>", reason: "<reason>")
    case .unreadableOutput: .invalidPort(70000, service: "<service>")
    case .invalidPort: .portInUse(80)
    case .portInUse: .noFreePort
    case .noFreePort: .manyServices(2)
    case .manyServices: .definitionNotJSON(file: "<path>", jsonError)
    case .definitionNotJSON: .notPassing(registration, after: .seconds(30), complaint: "<output>")
    case .notPassing: .ended(command: "<command>", signal: 9)
    case .ended: .exited(command: "<command>", 3)
    case .exited: .noInstance(service: "<service>", .any)
    case .noInstance(_, .any): .noInstance(service: "<service>", .warning)
    case .noInstance: .noWritableAddress(service: "<service>")
    case .noWritableAddress: .tooFewInstances(2, of: 3, service: "<service>", .passing, after: nil)
    case .tooFewInstances(_, _, _, _, after: nil):
      .tooFewInstances(2, of: 3, service: "<service>", .passing, after: .seconds(30))
    case .tooFewInstances: .changeCommandFailed("<command>", 3, again: .seconds(1))
    case .changeCommandFailed: nil
    }
  }
}

extension CommandNote: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    guard let agent = someAgent else { return nil }
    return switch last {
    case nil: .killed(command: "<command>")
    case .killed: .waitingForBroker(someFailure, upTo: .seconds(30))
    case .waitingForBroker: .declaredQueue("<queue>")
    case .declaredQueue: .managementUnusable(reason: "<reason>")
    case .managementUnusable: .lowPrefetch(9, asked: 100)
    case .lowPrefetch: .confirmed(3, unsent: 0, isInputLeft: false)
    case .confirmed(_, unsent: 0, isInputLeft: false): .confirmed(3, unsent: 0, isInputLeft: true)
    case .confirmed(_, unsent: 0, _): .confirmed(3, unsent: 2, isInputLeft: true)
    case .confirmed: .handled(3, rejected: 0)
    case .handled(_, rejected: 0): .handled(3, rejected: 1)
    case .handled: .noReplyTo(nil)
    case .noReplyTo(nil): .noReplyTo("<id>")
    case .noReplyTo: .discarding("<queue>")
    case .discarding: .requesterGone("<queue>")
    case .requesterGone: .unchangedFile("<path>")
    case .unchangedFile: .savingRest("<path>")
    case .savingRest: .restNotSaved("<path>")
    case .restNotSaved: .unreadPipe("<path>")
    case .unreadPipe: .unreadInput
    case .unreadInput: .registered(registration, agent)
    case .registered: .removed(["<id>"])
    case .removed: .notRegistered("<service>", agent)
    case .notRegistered: nil
    }
  }
}

// MARK: commands and filters of consume

extension Entry {
  fileprivate static var handled: [Entry] {
    var names = HandlerNames(command: "<command>", traits: QueueTraits(), limitIsSet: false)
    var ofStream = names
    ofStream.traits.isStream = true
    let message = handledMessage
    var spent = message
    spent.properties.headers = [AMQPField("x-delivery-count", .integer(9))]
    let exited = MessageCommands.Reason.exited(3)
    let again = MessageCommands.Verdict.requeued(attempt: 1, after: .seconds(1))
    var entries =
      MessageCommands.Reason.named.map { Entry("exec \($0)", $1.failure(of: message)) }
      + MessageCommands.Verdict.named.flatMap { name, verdict in
        [
          Entry("exec \(name)", verdict.failure(of: message, exited, names)),
          Entry("exec \(name) of stream", verdict.failure(of: message, exited, ofStream)),
          Entry("exec \(name) batch", verdict.failure(of: message, others: 2, exited, names)),
        ]
      }
      + MessageCommands.Cause.named.map { Entry("exec ended \($0)", $1.failure(names)) }
      + MessageFilter.Cause.named.map { Entry("filter \($0)", $1.failure(names)) }
      + MessageFilter.Note.named.map { name, note in
        note.failure(names).map { Entry("filter note \(name)", $0) }
          ?? Entry("filter note \(name)", note: note.text(names))
      }
      + MessageFilter.Fault.named.flatMap { name, fault in
        [false, true].map { wasKilled in
          let end = MessageFilter.End(status: 143, wasKilled: wasKilled, fault: fault)
          return Entry("filter \(name)\(wasKilled ? " killed" : "")", note: MessageFilter.Note.ended(end).text(names))
        }
      }
    for (name, fate) in [("discarded", DeadLetters.Fate.discarded), ("dead-lettered", .exchange("<exchange>"))] {
      names.fate = fate
      let verdict = MessageCommands.Verdict.rejected(attempt: 2)
      entries.append(Entry("exec \(name)", verdict.failure(of: message, exited, names)))
    }
    for isSet in [false, true] {
      names = HandlerNames(command: "<command>", traits: QueueTraits(), limitIsSet: isSet)
      names.traits.deliveryLimit = 3
      let limit = isSet ? "set limit" : "limit"
      entries.append(Entry("exec requeued \(limit)", again.failure(of: message, exited, names)))
      entries.append(Entry("exec requeued beyond \(limit)", again.failure(of: spent, exited, names)))
    }
    return entries
  }
}

private let handledMessage: AMQPMessage = {
  var message = AMQPMessage(body: [], exchange: "", routingKey: "<queue>")
  message.properties.messageID = "<id>"
  return message
}()

extension MessageCommands.Reason: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .exited(3)
    case .exited: .killed(137)
    case .killed: .doesNotFit("<reason>")
    case .doesNotFit: .output(someFailure, status: 0)
    case .output:
      .unreplied(Publisher.Reason.nacked.failure(ofReply: AMQPMessage(body: [], exchange: "", routingKey: "<queue>")))
    case .unreplied: nil
    }
  }
}

extension MessageCommands.Verdict: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .requeued(attempt: 1, after: .seconds(1))
    case .requeued: .rejected(attempt: 2)
    case .rejected: .abandoned
    case .abandoned: nil
    }
  }
}

extension MessageCommands.Cause: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .unrunnable(127)
    case .unrunnable: .stopped(handledMessage, .exited(3))
    case .stopped(_, others: 0, _): .stopped(handledMessage, others: 2, .exited(3))
    case .stopped: .output(someFailure)
    case .output: nil
    }
  }
}

extension MessageFilter.Cause: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    let end = MessageFilter.End(status: 3, wasKilled: false, fault: nil)
    func doubt(_ count: Int) -> MessageFilter.Doubt { .init(number: 1, id: "<id>", count: count) }
    return switch last {
    case nil: .tooManyLines(nil)
    case .tooManyLines(nil): .tooManyLines(doubt(0))
    case .tooManyLines(let last?): last.count == 0 ? .tooManyLines(doubt(3)) : .ended(end, unanswered: 0, nil)
    case .ended(_, unanswered: 0, _): .ended(end, unanswered: 2, nil)
    case .ended(_, _, nil): .ended(end, unanswered: 2, doubt(2))
    case .ended(_, _, let last?): last.count == 2 ? .ended(end, unanswered: 2, doubt(3)) : .notStarted(someFailure)
    case .notStarted: .unnamedLine
    case .unnamedLine: .unknownMessage
    case .unknownMessage: .sharedID("<id>")
    case .sharedID: .tooManyLeft(3, byPrefetch: false)
    case .tooManyLeft(_, byPrefetch: false): .tooManyLeft(3, byPrefetch: true)
    case .tooManyLeft: .halfLine(unanswered: 2, nil)
    case .halfLine(_, nil): .halfLine(unanswered: 2, doubt(3))
    case .halfLine: nil
    }
  }
}

extension MessageFilter.Note: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    let end = MessageFilter.End(status: 3, wasKilled: false, fault: nil)
    return switch last {
    case nil: .silent(unanswered: 2, isFull: false)
    case .silent(_, isFull: false): .silent(unanswered: 2, isFull: true)
    case .silent: .ended(end)
    case .ended: .restarting(end, unanswered: 2, in: .seconds(1))
    case .restarting: .rejected(handledMessage, attempts: 3, end)
    case .rejected: .leftOut(3)
    case .leftOut: nil
    }
  }
}

extension MessageFilter.Fault: Sampled {
  fileprivate static func sample(after last: Self?) -> Self? {
    switch last {
    case nil: .closedInput
    case .closedInput: .closedOutput
    case .closedOutput: .leftProcess
    case .leftProcess: .deaf
    case .deaf: nil
    }
  }
}
