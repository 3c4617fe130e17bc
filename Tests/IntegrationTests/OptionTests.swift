import Foundation
import MsctlCommands
import Testing

/// Which test exercises which option: one that fails where the option does nothing. `Scripts/options` shows that, by running each
/// test with a msctl that takes the option out of its command line.
@Suite("Every option")
struct OptionTests {
  /// By verb and option, the suite and function of the test.
  static let tests: [String: String] = [
    "call --data": "CallTests/requests",
    "call --form": "CallTests/requests",
    "call --header": "CallTests/requests",
    "call --basic": "CallTests/credentials",
    "call --bearer": "CallTests/credentials",
    "call --digest": "DigestTests/challenge",
    "call --cert": "TLSTests/callers",
    "call --key": "TLSTests/callers",
    "call --pass": "TLSTests/callers",
    "call --follow": "CallTests/redirects",
    "call --cookie-jar": "CookieTests/jar",
    "call --timeout": "CallTests/deadlineOverRedirects",
    "call --attempt-timeout": "ServiceTests/stopped",
    "call --connect-timeout": "OptionEffectTests/connectTimeout",
    "call --retry": "ServiceTests/anotherInstance",
    "call --retry-on": "StatusTests/until",
    "call --ok": "StatusTests/accepted",
    "call --idempotency-key": "ServiceTests/idempotency",
    "call --unix-socket": "WatchTests/unixSocket",
    "call --cacert": "ServiceTests/overTLS",
    "call --insecure": "ServiceTests/overTLS",
    "call --envelope": "CallTests/envelope",
    "call --output": "CallTests/outputFile",
    "call --as-curl": "ShellTests/dryRuns",
    "call --no-fail": "CallTests/statuses",
    "call --each": "CallEachTests/order",
    "call --parallel": "CallEachTests/order",
    "call --keep-going": "CallEachTests/failures",
    "call --failed-to": "FailedCallTests/retry",
    "call --all": "CallEachTests/service",
    "call --stats": "CallEachTests/order",
    "call --rate": "CallRateTests/rate",
    "call --tag": "OptionEffectTests/instances",
    "call --dc": "OptionEffectTests/instances",
    "call --near": "OptionEffectTests/lookUp",
    "call --peer": "OptionEffectTests/lookUp",
    "call --port-name": "HostileAgentTests/namedPorts",
    "call --stale": "OptionEffectTests/lookUp",
    "call --consistent": "HostileAgentTests/noLeader",
    "call --help": "SharedOptionTests/help",
    "call --verbose": "SharedOptionTests/verbose",
    "call --json-errors": "SharedOptionTests/jsonErrors",
    "call --color": "SharedOptionTests/colour",
    "call --quiet": "SharedOptionTests/quiet",
    "call --consul-addr": "SharedOptionTests/agent",
    "call --consul-token-file": "SharedOptionTests/agent",
    "call --partition": "SharedOptionTests/agent",
    "publish --text": "MessageTests/kinds",
    "publish --lines": "MessageTests/kinds",
    "publish --raw": "MessageTests/kinds",
    "publish --envelope": "EnvelopeTests/roundTrip",
    "publish --content-type": "OptionEffectTests/properties",
    "publish --content-encoding": "OptionEffectTests/properties",
    "publish --header": "OptionEffectTests/properties",
    "publish --priority": "OptionEffectTests/properties",
    "publish --correlation-id": "OptionEffectTests/properties",
    "publish --reply-to": "OptionEffectTests/properties",
    "publish --ttl": "OptionEffectTests/properties",
    "publish --message-id": "OptionEffectTests/properties",
    "publish --type": "OptionEffectTests/properties",
    "publish --user-id": "OptionEffectTests/properties",
    "publish --app-id": "OptionEffectTests/properties",
    "publish --transient": "OptionEffectTests/properties",
    "publish --exchange": "MessageTests/returned",
    "publish --exchange-type": "OptionEffectTests/exchangeType",
    "publish --routing-key": "MessageTests/returned",
    "publish --no-mandatory": "OptionEffectTests/exchangeType",
    "publish --rate": "OptionEffectTests/rate",
    "publish --speed": "OptionEffectTests/rate",
    "publish --window": "OptionEffectTests/window",
    "publish --confirm-timeout": "OptionEffectTests/window",
    "publish --tee": "PublishStageTests/tee",
    "publish --failed-to": "PublishStageTests/failedTo",
    "publish --dry-run": "ShellTests/dryRuns",
    "publish --reply": "PublishStageTests/reply",
    "publish --reply-timeout": "PublishStageTests/reply",
    "publish --reconnect-for": "PublishLossTests/brokenFlight",
    "publish --passive": "OptionEffectTests/passiveAndRaw",
    "publish --queue-argument": "MessageTests/otherArguments",
    "publish --help": "SharedOptionTests/help",
    "publish --verbose": "SharedOptionTests/verbose",
    "publish --json-errors": "SharedOptionTests/jsonErrors",
    "publish --color": "SharedOptionTests/colour",
    "publish --quiet": "SharedOptionTests/quiet",
    "publish --broker": "SharedOptionTests/broker",
    "publish --password-file": "SharedOptionTests/broker",
    "publish --wait": "SharedOptionTests/wait",
    "consume --count": "MessageTests/stream",
    "consume --idle": "MessageTests/ends",
    "consume --drain": "MessageTests/ends",
    "consume --require": "MessageTests/ends",
    "consume --envelope": "EnvelopeTests/roundTrip",
    "consume --origin": "RedriveTests/origin",
    "consume --raw": "OptionEffectTests/passiveAndRaw",
    "consume --null": "ConsumeSourceTests/raw",
    "consume --exec": "ConsumeSourceTests/exec",
    "consume --parallel": "ConsumeSourceTests/parallelCount",
    "consume --batch": "BatchTests/ends",
    "consume --batch-time": "BatchTests/late",
    "consume --on-error": "ConsumeSourceTests/onError",
    "consume --reject-exit": "ReplyTests/rejectExit",
    "consume --reply": "ReplyTests/commands",
    "consume --through": "ConsumeSourceTests/through",
    "consume --restart": "ConsumeSourceTests/restart",
    "consume --max-attempts": "ConsumeSourceTests/attempts",
    "consume --clean-env": "ChildEnvironmentTests/cleanEnvironment",
    "consume --peek": "MessageTests/peek",
    "consume --exchange": "ConsumeSourceTests/exchange",
    "consume --bind": "ConsumeSourceTests/exchange",
    "consume --bind-argument": "QueueBindingTests/headers",
    "consume --exclusive": "QueueBindingTests/exclusive",
    "consume --expires": "QueueBindingTests/expires",
    "consume --sample": "LookingTests/sample",
    "consume --stat": "LookingTests/stat",
    "consume --resume": "StreamPlaceTests/resume",
    "consume --stream": "ConsumeSourceTests/stream",
    "consume --consumer-argument": "OptionEffectTests/consumerArgument",
    "consume --offset": "ConsumeSourceTests/stream",
    "consume --rate": "OptionEffectTests/rate",
    "consume --prefetch": "HostileBrokerTests/prefetch",
    "consume --ready-file": "ReadyFileTests/consumer",
    "consume --reconnect-for": "OptionEffectTests/noReconnection",
    "consume --passive": "OptionEffectTests/passiveAndRaw",
    "consume --queue-argument": "DeliveryLimitTests/attemptsLeft",
    "consume --for": "MessageTests/ends",
    "consume --help": "SharedOptionTests/help",
    "consume --verbose": "SharedOptionTests/verbose",
    "consume --json-errors": "SharedOptionTests/jsonErrors",
    "consume --color": "SharedOptionTests/colour",
    "consume --quiet": "SharedOptionTests/quiet",
    "consume --broker": "SharedOptionTests/broker",
    "consume --password-file": "SharedOptionTests/broker",
    "consume --wait": "SharedOptionTests/wait",
    "register --port": "RegistryTests/thereAndBack",
    "register --address": "RegistryTests/thereAndBack",
    "register --id": "RegistryTests/statuses",
    "register --tag": "RegistryTests/thereAndBack",
    "register --meta": "RegistryTests/thereAndBack",
    "register --weight": "OptionEffectTests/instances",
    "register --file": "HeldServiceTests/definition",
    "register --remove": "RegistryTests/thereAndBack",
    "register --dry-run": "ShellTests/dryRuns",
    "register --wait": "HeldServiceTests/wait",
    "register --drain": "WatchTests/gateway",
    "register --ready-file": "ReadyFileTests/service",
    "register --check": "RegistryTests/statuses",
    "register --interval": "OptionEffectTests/checkTimes",
    "register --check-timeout": "OptionEffectTests/checkTimes",
    "register --deregister-after": "OptionEffectTests/checkTimes",
    "register --help": "SharedOptionTests/help",
    "register --verbose": "SharedOptionTests/verbose",
    "register --json-errors": "SharedOptionTests/jsonErrors",
    "register --color": "SharedOptionTests/colour",
    "register --quiet": "SharedOptionTests/quiet",
    "register --consul-addr": "SharedOptionTests/agent",
    "register --consul-token-file": "SharedOptionTests/agent",
    "register --partition": "SharedOptionTests/agent",
    "discover --status": "RegistryTests/statuses",
    "discover --one": "RegistryTests/statuses",
    "discover --tag": "RegistryTests/selection",
    "discover --filter": "RegistryTests/selection",
    "discover --near": "OptionEffectTests/lookUp",
    "discover --dc": "RegistryTests/selection",
    "discover --peer": "HostileAgentTests/writes",
    "discover --port-name": "HostileAgentTests/namedPorts",
    "discover --stale": "HostileAgentTests/noLeader",
    "discover --consistent": "HostileAgentTests/noLeader",
    "discover --output": "RegistryTests/thereAndBack",
    "discover --listen": "HostileCatalogueTests/remark",
    "discover --wait": "WatchTests/wait",
    "discover --min": "WatchTests/wait",
    "discover --watch": "WatchTests/events",
    "discover --exec": "WatchTests/command",
    "discover --clean-env": "ChildEnvironmentTests/cleanEnvironment",
    "discover --help": "SharedOptionTests/help",
    "discover --verbose": "SharedOptionTests/verbose",
    "discover --json-errors": "SharedOptionTests/jsonErrors",
    "discover --color": "SharedOptionTests/colour",
    "discover --quiet": "SharedOptionTests/quiet",
    "discover --consul-addr": "SharedOptionTests/agent",
    "discover --consul-token-file": "SharedOptionTests/agent",
    "discover --partition": "SharedOptionTests/agent",
    "completion --list": "HostileCompletionTests/queues",
    "completion --help": "SharedOptionTests/help",
    "completion --verbose": "SharedOptionTests/verbose",
    "completion --json-errors": "SharedOptionTests/jsonErrors",
    "completion --consul-addr": "SharedOptionTests/agent",
    "completion --consul-token-file": "SharedOptionTests/agent",
    "completion --partition": "SharedOptionTests/agent",
    "completion --broker": "SharedOptionTests/broker",
  ]

  /// Options of a group that have nothing to act on in one of the verbs that share it.
  static let withoutEffect = [
    "completion --color": "it writes no JSON",
    "completion --quiet": "it writes no summary",
  ]

  @Test("of the tables has a test or a reason, and no other has")
  func complete() {
    let options = AllCommands.allSpecs.flatMap { spec in spec.flags.map { "\(spec.name) --\($0.long)" } }
    #expect(Set(options).subtracting(Self.tests.keys).subtracting(Self.withoutEffect.keys) == [])
    #expect(Set(Self.tests.keys).union(Self.withoutEffect.keys).subtracting(options) == [])
    #expect(Set(Self.tests.keys).intersection(Self.withoutEffect.keys) == [])
  }

  @Test("stands in the test that is named for it, beside its verb")
  func named() throws {
    let bodies = try Self.bodies()
    for spec in AllCommands.allSpecs {
      for flag in spec.flags {
        guard let test = Self.tests["\(spec.name) --\(flag.long)"] else { continue }
        let body = try #require(bodies[test], "there is no test \(test)")
        let names = ["--\(flag.long)"] + (flag.short.map { ["-\($0)"] } ?? [])
        // The name by itself: '--wait' is not in "--waiting".
        let isUsed = try names.contains { try body.contains(Regex("[^\\w-]\($0)(?![\\w-])")) }
        #expect(isUsed, "\(test) does not use \(spec.name) --\(flag.long)")
        #expect(body.contains("\"\(spec.name)\"") || body.contains("msctl \(spec.name)"), "\(test): \(spec.name)")
      }
    }
  }

  /// The text of each test of this target, its arguments included, by suite and function.
  private static func bodies() throws -> [String: String] {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    var bodies: [String: String] = [:]
    for file in try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil) {
      guard file.pathExtension == "swift" else { continue }
      let text = try String(contentsOf: file, encoding: .utf8)
      for part in text.components(separatedBy: "\n@Suite").dropFirst() {
        guard let suite = part.firstMatch(of: #/\nstruct (\w+)/#) else { continue }
        for test in part.components(separatedBy: "\n  @Test").dropFirst() {
          guard let name = test.firstMatch(of: #/\n  func (\w+)/#) else { continue }
          bodies["\(suite.1)/\(name.1)"] = test
        }
      }
    }
    return bodies
  }
}
