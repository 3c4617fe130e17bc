import CommandTable
import MsctlCore

extension Consume {
  /// What no single option can see: those that cannot be combined, and those that need another one.
  static let check: @Sendable (Options) throws(ValueError) -> Void = { options throws(ValueError) in
    if options.isStream, options.isExclusive || options.expires != nil {
      throw ValueError("'--exclusive' and '--expires' cannot be combined with '--stream'")
    }
    if options.resumeFile?.text == "-" { throw ValueError("'--resume' requires a file") }
    if options.exchange == nil, options.queue == nil {
      throw ValueError("'consume' requires QUEUE, or '--exchange NAME' with '--bind KEY'")
    }
    if options.exchange == nil, !options.bindings.isEmpty || !options.bindArguments.isEmpty {
      throw ValueError("'--bind' and '--bind-argument' require '--exchange'")
    }
    if options.isExclusive || options.expires != nil, options.exchange == nil || options.queue == nil {
      throw ValueError("'--exclusive' and '--expires' require QUEUE and '--exchange'")
    }
    if options.isExclusive, options.broker.isPassive || options.drains || options.peeks {
      throw ValueError(
        "'--exclusive' declares a new queue and cannot be combined with '--passive', '--drain' or '--peek'")
    }
    if let expires = options.expires, expires < .milliseconds(1) {
      throw ValueError("'--expires' must be at least 1ms")
    }
    if options.expires != nil, options.broker.isPassive {
      throw ValueError("'--expires' declares the queue and cannot be combined with '--passive'")
    }
    if options.peeks, options.drains || options.idle != nil || options.time != nil {
      throw ValueError("'--peek' cannot be combined with '--drain', '--idle' or '--for'")
    }
    if options.drains || options.peeks, options.exchange != nil, options.queue == nil {
      throw ValueError("'--drain' and '--peek' require QUEUE: a temporary queue is empty at first")
    }
    if options.peeks, options.exchange != nil {
      throw ValueError("'--peek' cannot be combined with '--exchange', which binds QUEUE to it for good")
    }
    if options.exec != nil, options.through != nil {
      throw ValueError("'--exec' cannot be combined with '--through'")
    }
    if options.peeks, options.readyFile != nil { throw ValueError("'--peek' cannot be combined with '--ready-file'") }
    if options.peeks, options.exec != nil || options.through != nil {
      throw ValueError("'--peek' cannot be combined with '--exec' or '--through'")
    }
    if options.exec == nil, options.parallel != 1 || options.onError != .requeue || options.rejectedExits != nil {
      throw ValueError("'--parallel', '--on-error' and '--reject-exit' require '--exec'")
    }
    if options.batch != nil || options.batchTime != nil, options.exec == nil || options.batch == nil {
      throw ValueError("'--batch' requires '--exec', and '--batch-time' requires '--batch'")
    }
    if options.batch != nil, options.replies { throw ValueError("'--batch' cannot be combined with '--reply'") }
    if let batch = options.batch, batch > options.prefetch ?? .max {
      throw ValueError("'--prefetch' must be at least '--batch'")
    }
    if let batch = options.batch, batch * options.parallel + Consumer.waitingRoom > Consumer.mostHeld {
      throw ValueError(
        "'--batch' times '--parallel' must be at most \(Consumer.mostHeld - Consumer.waitingRoom)")
    }
    if options.replies, options.exec == nil, options.through == nil {
      throw ValueError("'--reply' requires '--exec' or '--through'")
    }
    if options.maxAttempts != nil, options.exec == nil, !options.restarts {
      throw ValueError("'--max-attempts' requires '--exec', or '--through' with '--restart'")
    }
    if options.maxAttempts != nil, options.onError != .requeue {
      throw ValueError(
        "'--max-attempts' cannot be combined with '--on-error \(options.onError.rawValue)', which allows one attempt")
    }
    if options.maxAttempts != nil, options.handling == .filter(chooses: true) {
      throw ValueError(
        "'--max-attempts' cannot be combined with '--through' and '--envelope': which message the filter fails on is unknown"
      )
    }
    if options.children.isClean, options.exec == nil, options.through == nil {
      throw ValueError("'--clean-env' requires '--exec' or '--through'")
    }
    if options.restarts, options.through == nil { throw ValueError("'--restart' requires '--through'") }
    if options.format.isRaw, options.exec != nil || options.through != nil {
      throw ValueError("'--raw' and '-0' cannot be combined with '--exec' or '--through'")
    }
    if options.format.isRaw, options.format.asEnvelope {
      throw ValueError("'--raw' cannot be combined with '--envelope'")
    }
    if options.restoresOrigin, !options.format.asEnvelope, options.exec == nil {
      throw ValueError("'--origin' requires '--envelope' or '--exec'")
    }
    if options.resumeFile != nil, !options.isStream || options.queue == nil {
      throw ValueError("'--resume' requires QUEUE and '--stream'")
    }
    if options.sample > 1, !options.isStream, options.exchange == nil || options.queue != nil && !options.isExclusive {
      throw ValueError(
        "'--sample' requires '--stream', or '--exchange' without a lasting QUEUE: it would take all messages out of it"
      )
    }
    if options.sample > 1, options.peeks { throw ValueError("'--sample' cannot be combined with '--peek'") }
    if options.showsState, options.queue == nil || options.takesMessages {
      throw ValueError("'--stat' requires QUEUE, takes no message and cannot be combined with options for messages")
    }
    if options.offset != nil, !options.isStream { throw ValueError("'--offset' requires '--stream'") }
    if let argument = options.consumerArguments.first(where: { $0.name.isSame(as: "x-stream-offset") }) {
      throw ValueError("'--consumer-argument \(argument.name)' would hide '--offset'; use that")
    }
    if options.isStream, options.drains || options.peeks {
      throw ValueError(
        "'--drain' and '--peek' cannot be combined with '--stream'; '--idle 1s' reads a stream to its end")
    }
  }
}
