import MsctlCore

/// What `publish` sends: the message of the command line, or one for each item of standard input.
struct MessageSource {
  enum Item {
    /// A message, and its line for `--tee`.
    case message(AMQPMessage, line: [UInt8])
    /// A value that is no message, as it came; those after it are read on.
    case unusable(Failure, line: [UInt8])
  }

  private let options: Publish.Options
  private let template: AMQPMessage
  private var given: [UInt8]?
  private var input: StandardInput?
  private var count = 0

  init(_ options: Publish.Options, _ trace: TraceContext) throws(Failure) {
    self.options = options
    template = options.properties.template(options, trace)
    guard let message = options.message else {
      input = StandardInput(
        options.byLine ? .lines : options.isRaw ? .whole : options.asEnvelope ? .exactJSON : .json)
      return
    }
    if options.isText {
      given = Array(message.utf8)
    } else {
      do { given = Array(try JSONValue(parsing: message.utf8).text) } catch {
        throw Failure(.messageNotJSON(error))
      }
    }
  }

  var isExhausted: Bool { input?.isExhausted ?? (given == nil) }
  var readsStandardInput: Bool { input != nil }

  mutating func readMore() {
    input?.readMore()
  }

  /// The next message that is complete; nil where more input is needed, or none is left (`isExhausted`).
  mutating func next() throws(Failure) -> Item? {
    if let body = given {
      given = nil
      count = 1
      return .message(completed(template, body: body), line: body)
    }
    let item: JSONOrBytes?
    do { item = try input?.next() } catch {
      throw options.asEnvelope ? error : error.ofMessages
    }
    guard let item else { return nil }
    count += 1
    guard options.asEnvelope, case .json(let value) = item else {
      return .message(completed(template, body: item.bytes), line: item.bytes)
    }
    let line = Array(value.text)
    do { return .message(try message(value), line: line) } catch {
      return .unusable(Failure(.notEnvelope(number: count, reason: error.reason)), line: line)
    }
  }

  /// The message that an envelope describes. Where it has properties, the message has those and no others, but for what
  /// options add; it goes to the envelope's own exchange, unless the command line says where to.
  private func message(_ value: JSONValue) throws(EnvelopeError) -> AMQPMessage {
    var (message, hasProperties) = try Envelope.read(value)
    if hasProperties {
      options.properties.apply(to: &message.properties)
    } else {
      message.properties = completed(template, body: []).properties
    }
    if options.queue != nil || options.exchange != nil {
      message.exchange = template.exchange
      message.routingKey =
        options.exchange != nil && options.routingKey == nil ? message.routingKey : template.routingKey
    }
    return numbered(message)
  }

  /// The template with a body, and with an id and a time of its own.
  private func completed(_ template: AMQPMessage, body: [UInt8]) -> AMQPMessage {
    var message = template
    message.body = body
    if message.properties.messageID == nil { message.properties.messageID = randomUUID() }
    message.properties.timestamp = UInt64(clamping: unixTime())
    return numbered(message)
  }

  /// The message with its place in the input, and its id with it: two messages must not share one.
  private func numbered(_ message: AMQPMessage) -> AMQPMessage {
    var message = message
    message.number = count
    message.isMandatory = !options.isOptional
    if count > 1, let id = options.properties.messageID?.text { message.properties.messageID = "\(id)-\(count)" }
    return message
  }
}
