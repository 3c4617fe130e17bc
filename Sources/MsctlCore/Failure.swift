/// Why something was not done: what kind of failure it is, and its cause.
///
/// `description` says it in a sentence. Nothing in it holds a secret: addresses have no passwords.
public struct Failure: Error, Equatable, Sendable {
  /// What kind of failure it is: enough to decide what to do.
  public enum Code: Equatable, Sendable {
    /// Failed in a way that no other code says.
    case failed
    /// It was called with something invalid.
    case usage
    /// No such service or queue, no passing instance, no message.
    case nothingThere
    /// The service answered 3xx or 4xx.
    case clientError
    /// The service answered 5xx.
    case serverError
    /// Could not connect.
    case unreachable
    /// Access was denied.
    case denied
    /// A message was returned, nacked, or not confirmed.
    case notDelivered
    /// It took longer than it may.
    case timedOut
    /// The data is invalid, or too large.
    case badInput
    /// Who reads the output has closed it. Nobody is left to be told.
    case outputClosed
    /// A command that was run ended with this exit code.
    case command(Int32)
    /// A signal ended it.
    case signal(Int32)
  }

  /// What happened, for programs to look at; the one list of what can.
  public indirect enum Cause: Equatable, Sendable {
    /// What brokers said, or the way to them, in the order in which they were tried. Empty: none was given.
    case amqp([BrokerError])
    /// - Parameter target: the URL, without credentials, or the name of what was called.
    case http(HTTPError, target: String)
    /// - Parameter agent: the address of Consul's agent.
    case consul(ConsulError, agent: String)
    /// Publishing or consuming has ended, or a message was not delivered.
    case messaging(MessagingError)
    /// A service was not called or registered, or its response is not what was wanted.
    case service(ServiceError)
    /// A definition of a service that cannot be registered.
    case definition(DefinitionError)
    /// A command could not be run.
    case spawn(SpawnError)
    /// Something is larger than it may be.
    case tooLarge(String, limit: Int)
    /// There is no memory for something of this size.
    case noMemory(String, size: Int)
    /// There are no more descriptors or threads for an event loop, by the error number.
    case noEventLoop(Int32)
    /// A signal ended it.
    case interrupted
    /// What a program that uses this library has to say.
    case said(String, hint: String?)
  }

  /// What a failure is about, as the sentence says it, too: for programs that read it.
  package struct Subject: Equatable, Sendable {
    /// Of the response of an HTTP server.
    package var status: Int?
    /// Which value of the input it is, from 1.
    package var index: Int?
    package var messageID: String?
  }

  /// What kind of failure it is.
  public var code: Code
  /// What happened.
  public var cause: Cause
  package var subject = Subject()

  /// A failure with a typed cause.
  public init(_ code: Code, _ cause: Cause) {
    self.code = code
    self.cause = cause
  }

  /// A failure of the program's own.
  package init(_ code: Code, _ message: String, hint: String? = nil) {
    self.init(code, .said(message, hint: hint))
  }

  /// A signal has ended it.
  package static func interrupted(by number: Int32) -> Failure { Failure(.signal(number), .interrupted) }
}
