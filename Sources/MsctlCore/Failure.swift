/// Why something was not done: what kind of failure it is, a sentence for people, and what to try next.
///
/// No message holds a secret: addresses are shown without their passwords.
public struct Failure: Error, Equatable, Sendable {
  public enum Code: Equatable, Sendable {
    /// Failed in a way that no other code says.
    case failed
    case usage
    /// No such service or queue, no passing instance, no message.
    case nothingThere
    /// The service answered 3xx or 4xx.
    case clientError
    /// The service answered 5xx.
    case serverError
    case unreachable
    case denied
    /// A message was returned, nacked, or not confirmed.
    case notDelivered
    case timedOut
    case badInput
    /// Who reads the output has closed it. Nobody is left to be told.
    case outputClosed
    /// A command that was run ended with this exit code.
    case command(Int32)
    case signal(Int32)
  }

  public var code: Code
  public var message: String
  /// A next step.
  public var hint: String?

  public init(_ code: Code, _ message: String, hint: String? = nil) {
    self.code = code
    self.message = message
    self.hint = hint
  }
}
