import CommandTable
import MsctlCore

extension Console {
  /// What a connection to a broker is to tell, with `--verbose`.
  var amqpTrace: ((String) -> Void)? { options.isVerbose ? { self.trace($0) } : nil }
}

/// How to reach RabbitMQ, and what its queues are to be like.
struct BrokerOptions: Defaulted {
  var brokers = BrokerList()
  var isPassive = false
  var queueArguments: [NameValue] = []
  var reconnectFor: Duration = .seconds(60)

  init() {}

  static let flags: [Flag<BrokerOptions>] = [
    .value("broker", nil, "URI", into: \.brokers, "The broker, or several with commas between")
      .variable("AMQP_URL").secret()
      .details(
        """
        RabbitMQ's URI: amqp://USER:PASSWORD@HOST:PORT/VHOST, amqps:// for TLS, with the parameters heartbeat, \
        connection_timeout, cacertfile, certfile, keyfile, verify and auth_mechanism after '?'. A password is better kept \
        in the variable: a command line can be seen by every process.
        """),
    .value(
      "reconnect-for", nil, "TIME", into: \.reconnectFor, "How long to try to connect again when the connection broke"
    )
    .details("0 gives up at once. The first connection is not retried."),
    .toggle("passive", nil, into: \.isPassive, "The queue must exist, and is taken as it is"),
    .list("queue-argument", nil, "NAME=VALUE", into: \.queueArguments, "An argument of the queue that is asserted")
      .details("For example x-queue-type=quorum or x-max-length=1000. Numbers and true/false are sent as such."),
  ].under("RabbitMQ")

  func connect(as verb: String, _ console: Console) throws(Failure) -> AMQPConnection {
    for uri in brokers.uris { console.trace("> connect \(uri.shown)") }
    let connection = try AMQPConnection.open(anyOf: brokers.uris, name: "msctl \(verb)", trace: console.amqpTrace)
    console.trace("< connected to \(connection.uri.shown)")
    return connection
  }

  /// Makes sure of the queue.
  func assertQueue(_ name: String, on connection: AMQPConnection) throws(Failure) {
    do {
      _ = try isPassive ? connection.inspectQueue(name) : connection.declareQueue(name, arguments: fields)
    } catch {
      throw failure(error, queue: name, connection.uri)
    }
  }

  /// What went wrong with a queue, with a next step for what usually goes wrong.
  func failure(_ error: AMQPError, queue: String, _ uri: AMQPURI) -> Failure {
    var failure = error.failure(uri)
    switch error.kind {
    case .unreadableFrame:
      failure.message = "cannot read what RabbitMQ at \(uri.shown) sent for '\(queue)': \(error.reason)"
    case .channelClosed(code: 404):
      failure.message = "there is no queue '\(queue)' at \(uri.shown)"
      failure.hint = "'msctl publish' makes it; without '--passive', so does 'msctl consume'."
    case .channelClosed(code: 406) where error.reason.contains("timed out"):
      failure.code = .timedOut
      failure.message = "the broker has taken the messages of '\(queue)' back: \(error.reason)"
      failure.hint = "Handle each message in less time, or raise consumer_timeout in RabbitMQ's configuration."
    case .channelClosed(code: 406):
      failure.message = "the queue '\(queue)' exists with other arguments: \(error.reason)"
      failure.hint = "Take it as it is with '--passive', or name its arguments with '--queue-argument NAME=VALUE'."
    case .channelClosed(code: 403), .connectionClosed(code: 403):
      failure.hint = "The user '\(uri.user)' needs more rights on it (rabbitmqctl set_permissions)."
    default: break
    }
    return failure
  }

  private var fields: [AMQPField] {
    queueArguments.map { argument in
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
}
