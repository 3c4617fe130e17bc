import MsctlCore

/// Why a command fails, where the core does not know of it. `Messages.swift` has the sentences.
enum CommandError {
  // MARK: input and output

  /// - Parameter what: what was to be read from the file.
  case unreadableFile(String, what: String, reason: String)
  /// - Parameter reason: nil where the system gives none.
  case unwritableFile(String, reason: String?)
  /// What `--ready-file` names is something else.
  case foreignReadyFile(String)
  /// Another msctl that runs has made it.
  case usedReadyFile(String)
  /// The file of `--failed-to` is standard output, which has another use.
  case failedFileIsOutput(String)
  case unreadableInput(reason: String)
  case inputNotJSON(JSONError)
  case outputClosed
  case unwritableOutput(reason: String)
  case unsetVariable(String)
  case emptySecret(String)
  case secretNotText(String)
  case noPager(String)
  /// libcurl could not be set up, or its sockets not be waited for.
  case httpClient(reason: String)
  /// What no other case says.
  case unknown(String)

  // MARK: call

  case missingTarget
  /// - Parameter fits: how many calls at a time the limit has room for; nil: none.
  case tooFewDescriptors(parallel: Int, wanted: Int, limit: Int, fits: Int?)
  /// A value does not fill the target's fields.
  case unfillable(reason: String)
  case unsendableCredentials
  case loginWithoutColon
  case itemNotText(String)
  case itemNotJSON(String, JSONError)
  /// The items of the body contradict each other.
  case conflictingItem(reason: String)
  /// The connection ended without a response.
  case noResponse(url: String)
  case responseNotJSON(JSONError)
  case callsFailed(Int, of: Int, Failure.Code)
  /// The run ended before it.
  case unfinishedCall(Failure.Code)
  /// A call succeeded whose result did not get out.
  case unwrittenResult(Failure.Code)

  // MARK: publish

  case messageNotJSON(JSONError)
  /// - Parameter number: the place of the value in the input.
  case notEnvelope(number: Int, reason: String)
  case undelivered(Int, of: Int)
  case unpublished(Int)

  // MARK: consume

  case emptyQueue(String)
  case unusableResumeFile(String, reason: String)
  /// A queue of this name is there, for all.
  case notExclusive(queue: String)
  case unfitBinding(exchange: String, type: String, BindingMisfit)
  /// With `--origin`: it has none.
  case notDeadLettered(AMQPMessage)
  /// - Parameter to: whose reply a line of the filter should be.
  case replyNotEnvelope(_ filter: String, to: AMQPMessage, reason: String)
  case tooMuchOutput(limit: Int)
  case unkeptOutput(folder: String, reason: String)
  case unreadableOutput(folder: String, reason: String)

  // MARK: register

  case invalidPort(Int, service: String)
  case portInUse(Int)
  case noFreePort
  case manyServices(Int)
  case definitionNotJSON(file: String, JSONError)
  case notPassing(ServiceRegistration, after: Duration, complaint: String?)
  case ended(command: String, signal: Int32)
  case exited(command: String, Int32)

  // MARK: discover

  case noInstance(service: String, Discover.Status)
  case noWritableAddress(service: String)
  case tooFewInstances(Int, of: Int, service: String, Discover.Status, after: Duration?)
  /// - Parameter again: when it runs again.
  case changeCommandFailed(String, Int32, again: Duration)
}

extension Failure {
  init(_ error: CommandError) {
    self = error.failure
  }
}

/// What a command tells while it goes on, where the core does not know of it.
enum CommandNote {
  /// A command did not end when it was asked to.
  case killed(command: String)

  // MARK: call

  /// Standard input has bytes, and a request that may have a body has none.
  case unreadInput

  // MARK: publish and consume

  case waitingForBroker(Failure, upTo: Duration)
  case declaredQueue(String)
  /// - Parameter asked: what the command line asks for.
  case managementUnusable(reason: String)
  case lowPrefetch(Int, asked: Int)
  case confirmed(Int, unsent: Int, isInputLeft: Bool)
  /// - Parameter rejected: how many of them.
  case handled(Int, rejected: Int)
  /// A message, by its id, does not say where its reply goes.
  case noReplyTo(String?)
  /// What is rejected from this queue is lost.
  case discarding(String)
  /// The queue of the reply does not exist any more.
  case requesterGone(String)
  /// The file of what was not confirmed is the input, too.
  case unchangedFile(String)
  case savingRest(String)
  case restNotSaved(String)
  /// Nobody reads the pipe that is written to.
  case unreadPipe(String)

  // MARK: register and discover

  case registered(ServiceRegistration, ConsulAddress)
  case removed([String])
  case notRegistered(String, ConsulAddress)
}

extension Console {
  func note(_ note: CommandNote) { self.note(note.text) }
}
