import CommandTable
import MsctlCore

extension Console {
  /// What a connection to a broker is to tell, with `--verbose`.
  var amqpTrace: ((String) -> Void)? { options.isVerbose ? { self.trace($0) } : nil }
}

/// How to reach RabbitMQ, and what its queues are to be like.
struct BrokerOptions: Defaulted {
  /// Time limit of one attempt to connect again, so that the next broker of the list gets its turn.
  private static let attempt: Duration = .seconds(5)

  var brokers = BrokerList()
  var passwordFile: String?
  var wait: Duration = .zero
  var isPassive = false
  var queueArguments: [NameValue] = []
  var reconnectFor: Duration = .seconds(60)

  init() {}

  static let flags: [Flag<BrokerOptions>] = [
    .value("broker", nil, "URI", into: \.brokers, "URI of the broker, or several separated by commas")
      .variable("AMQP_URL").secret().unsets(variableOf: "password-file")
      .details(
        """
        RabbitMQ's URI: amqp://USER:PASSWORD@HOST:PORT/VHOST, amqps:// for TLS, with the parameters heartbeat, \
        connection_timeout, cacertfile, certfile, keyfile, verify and auth_mechanism after '?'. Keep the password in the \
        variable or in a file: every process can see a command line. With '--broker', AMQP_PASSWORD_FILE is not used, like \
        AMQP_URL; give '--password-file' along with it.
        """),
    .value("password-file", nil, "FILE", into: \.passwordFile, "Read the password from FILE")
      .variable("AMQP_PASSWORD_FILE").completed(by: .file)
      .details(
        """
        It replaces a password in the URI. It is read at every connection, so that a password that expires (an OAuth 2 token) can be replaced. While reconnecting, a \
        refused login is tried again.
        """),
    .value("wait", nil, "TIME", into: \.wait, "Wait up to TIME for the first connection")
      .details("With 0, msctl tries once. A refused login is final, unless the password comes from a file."),
    .value("reconnect-for", nil, "TIME", into: \.reconnectFor, "Time limit for reconnecting")
      .details("With 0, msctl does not reconnect. For the first connection, use '--wait'."),
    .toggle("passive", nil, into: \.isPassive, "Require the queue to exist; do not declare it"),
    .list("queue-argument", nil, "NAME=VALUE", into: \.queueArguments, "Declare the queue with this argument")
      .details("For example x-queue-type=quorum or x-max-length=1000. Numbers and true/false are sent as such."),
  ].under("RabbitMQ")

  /// Returns where the brokers are, with the current password. A running connection keeps its own: librabbitmq (up to 0.18) has no
  /// `connection.update-secret`, so that one that expires is followed by another connection.
  func currentURIs() throws(Failure) -> [AMQPURI] {
    guard let passwordFile else { return brokers.uris }
    let text = String(decoding: try readFile(passwordFile, what: "the broker's password"), as: UTF8.self)
    // The line feed that editors end a file with is not part of it.
    let password = String(text.utf8.last == 0x0A ? text.dropLast() : text[...])
    return brokers.uris.map { uri in
      var uri = uri
      uri.password = password
      return uri
    }
  }

  /// Makes the first connection, for as long as `--wait` says: see `FirstConnection`.
  func connect(
    as verb: String, _ console: Console, _ loop: EventLoop, _ signals: Signals? = nil,
    _ setup: AMQPConnection.Setup? = nil, preparing prepare: ((AMQPConnection) -> Void)? = nil
  ) throws(Failure) -> AMQPConnection {
    let first = FirstConnection(self, as: verb, console, signals, setup, preparing: prepare)
    loop.add(first)
    defer { loop.remove(first) }
    return try loop.answer(to: first)
  }

  /// Begins another connection, after one that was lost.
  func reopen(as verb: String, _ console: Console) throws(Failure) -> AMQPOpening {
    let uris = try currentURIs().map { uri in
      var uri = uri
      uri.connectTimeout = min(uri.connectTimeout, Self.attempt)
      return uri
    }
    return AMQPOpening(anyOf: uris, name: "msctl \(verb)", trace: console.amqpTrace)
  }

  /// With what arguments a queue is declared at once; nil: it is only looked for at first.
  var declaredArguments: [AMQPField]? { isPassive || queueArguments.isEmpty ? nil : fields }

  /// Declares the queue. One that exists is taken with its own arguments, unless the command line asks for some.
  func assertQueue(_ name: String, on connection: AMQPConnection) throws(Failure) {
    do throws(AMQPError) {
      if let arguments = declaredArguments {
        _ = try connection.declareQueue(name, arguments: arguments)
        return
      }
      do throws(AMQPError) { _ = try connection.inspectQueue(name) } catch {
        try declare(name, missedWith: error, on: connection)
      }
    } catch {
      throw failure(error, queue: name, connection.uri)
    }
  }

  /// Declares a queue that was looked for in vain; the refusal has closed the channel.
  /// - Throws: the refusal itself, where it says something else than that there is no such queue, or where none may be declared.
  func declare(_ name: String, missedWith error: AMQPError, on connection: AMQPConnection) throws(AMQPError) {
    guard error.kind == .channelClosed(code: 404), !error.isTransient, !isPassive else { throw error }
    try connection.openChannel()
    _ = try connection.declareQueue(name)
  }

  private var fields: [AMQPField] { amqpFields(queueArguments) }
}

/// Arguments as they are sent: numbers and true/false as such.
func amqpFields(_ arguments: [NameValue]) -> [AMQPField] {
  arguments.map { argument in
    let value: AMQPValue =
      if let number = Int64(argument.value) {
        .integer(number)
      } else if let flag = ["true": true, "false": false][argument.value] {
        .bool(flag)
      } else {
        .string(argument.value)
      }
    return AMQPField(argument.name, value)
  }
}
