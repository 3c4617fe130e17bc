import CRabbitMQ
import Glibc

/// Connecting, logging in, and making the channel what it is to be.
extension AMQPConnection {
  /// Connects, logs in and opens the channel.
  /// - Parameter name: shown in RabbitMQ's list of connections.
  package static func open(_ uri: AMQPURI, name: String) throws(AMQPError) -> AMQPConnection {
    let connection = try open(uri, name: name, Setup(), trace: nil)
    if let error = connection.setup.error { throw error }
    return connection
  }

  private static func open(
    _ uri: AMQPURI, name: String, _ setup: Setup, trace: ((String) -> Void)?
  ) throws(AMQPError) -> AMQPConnection {
    guard let state = amqp_new_connection() else { throw AMQPError(kind: .broken, reason: "out of memory") }
    let connection = AMQPConnection(uri, state, trace)
    try connection.connect()
    try connection.logIn(name: name, setup)
    return connection
  }

  /// As `open`, over a socket that is connected already: for tests, whose broker is the other end of a pair.
  static func open(over descriptor: Int32, name: String) throws(AMQPError) -> AMQPConnection {
    guard let state = amqp_new_connection() else { throw AMQPError(kind: .broken, reason: "out of memory") }
    let connection = AMQPConnection(AMQPURI(), state, nil)
    guard let socket = amqp_tcp_socket_new(state) else { throw AMQPError(kind: .broken, reason: "out of memory") }
    amqp_tcp_socket_set_sockfd(socket, descriptor)
    try connection.logIn(name: name, Setup())
    if let error = connection.setup.error { throw error }
    return connection
  }

  /// Connects to the first broker of the list that lets us in.
  /// - Parameters:
  ///   - setup: what the channel is to be; whether it is, `setup` of the connection says, where anything was asked for.
  ///   - trace: is told each method that is sent, and each that comes without being asked for.
  package static func open(
    anyOf uris: [AMQPURI], name: String, _ setup: Setup? = nil, trace: ((String) -> Void)? = nil
  ) throws(Failure) -> AMQPConnection {
    var errors: [BrokerError] = []
    for uri in uris {
      do throws(AMQPError) {
        let connection = try open(uri, name: name, setup ?? Setup(), trace: trace)
        if setup == nil, let error = connection.setup.error { throw error }
        return connection
      } catch { errors.append(BrokerError(error, of: uri)) }
    }
    // They may fail in different ways; the first is the one that was wanted.
    throw Failure(errors.first.map { $0.error.failure($0.uri).code } ?? .usage, .amqp(errors))
  }

  private func connect() throws(AMQPError) {
    let socket = uri.usesTLS ? amqp_ssl_socket_new(state) : amqp_tcp_socket_new(state)
    guard let socket else { throw AMQPError(kind: .broken, reason: "out of memory") }
    if uri.usesTLS { try configureTLS(socket) }
    let deadline = Deadline.after(uri.connectTimeout)
    var timeout = uri.connectTimeout.timeval
    let status = amqp_socket_open_noblock(socket, uri.host, Int32(clamping: uri.port), &timeout)
    guard status == AMQP_STATUS_OK.rawValue else {
      let isTLS = (-0x2FF...(-0x200)).contains(status)
      let cause = status == AMQP_STATUS_SOCKET_ERROR.rawValue ? connectError(uri.host, uri.port, until: deadline) : nil
      throw AMQPError(kind: isTLS ? .tls : .unreachable, reason: cause ?? statusText(status))
    }
    // A child that inherited it would keep the connection open.
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
  }

  /// librabbitmq 0.11 sets no minimum version, and takes CA certificates from a file only.
  private func configureTLS(_ socket: OpaquePointer) throws(AMQPError) {
    func check(_ status: Int32, _ what: String) throws(AMQPError) {
      guard status == AMQP_STATUS_OK.rawValue else {
        throw AMQPError(kind: .tls, reason: "\(what): \(statusText(status))")
      }
    }
    try check(amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST), "TLS 1.2")
    amqp_ssl_socket_set_verify_peer(socket, uri.verifiesPeer ? 1 : 0)
    let address = numericAddress(uri.host)
    amqp_ssl_socket_set_verify_hostname(socket, uri.verifiesPeer && address == nil ? 1 : 0)
    if uri.verifiesPeer, let address, msctl_expect_address(socket, address) != 1 {
      throw AMQPError(kind: .tls, reason: "cannot verify a certificate for the address \(address)")
    }
    if uri.verifiesPeer || uri.authorityFile != nil {
      let trusted = uri.authorityFile.map { SystemCertificates(file: $0) } ?? SystemCertificates.found
      guard let trusted else { throw AMQPError(kind: .tls, reason: SystemCertificates.missing) }
      guard msctl_trust(socket, trusted.file, trusted.folder) == 1 else {
        throw AMQPError(
          kind: .tls, reason: "cannot read CA certificates from '\(trusted.file ?? trusted.folder ?? "")'")
      }
    }
    if let certificate = uri.certificateFile {
      // One file may hold both.
      try check(
        amqp_ssl_socket_set_key(socket, certificate, uri.keyFile ?? certificate), "certificate in '\(certificate)'")
    }
  }

  /// Logs in. librabbitmq's own login, as every call of it that waits for a reply, keeps whatever else comes meanwhile without
  /// bound; and it announces almost no capabilities, without which the broker never says that it blocks us or that a queue is
  /// gone (https://www.rabbitmq.com/docs/consumer-cancel, https://www.rabbitmq.com/docs/connection-blocked).
  private func logIn(name: String, _ setup: Setup) throws(AMQPError) {
    let deadline = Deadline.after(uri.connectTimeout)
    do { try shakeHands(name, setup, until: deadline) } catch {
      switch error.kind {
      case .connectionClosed(let code) where [403, 530].contains(code):
        throw AMQPError(kind: .denied, reason: error.reason)
      case .connectionClosed: throw error
      case _ where self.setup.isSent:
        // The message may have got through.
        self.setup.error = error
      case .timedOut:
        throw dead(.timedOut, "no AMQP handshake within \(uri.connectTimeout.shown)")
      case .broken, .unreadableFrame, .violation:
        throw dead(.unreachable, "the server does not speak AMQP 0-9-1 (\(error.reason))")
      default: throw error
      }
    }
    guard self.setup.error == nil else { return }
    do { try readReplies(to: setup) } catch { self.setup.error = error }
  }

  /// AMQP 0-9-1, section 2.2.4. What the channel is to be is sent along with `connection.open`.
  private func shakeHands(_ name: String, _ setup: Setup, until deadline: Deadline) throws(AMQPError) {
    try check(status: amqp_send_header(state))
    let start = try reply(MSCTL_CONNECTION_START, as: amqp_connection_start_t.self, on: 0, until: deadline)
    guard start.version_major == 0, start.version_minor == 9 else {
      throw dead(.unreachable, "it speaks AMQP \(start.version_major)-\(start.version_minor), not 0-9-1")
    }
    serverProperties = AMQPField.list(start.server_properties)
    let mechanism = uri.mechanism == .plain ? "PLAIN" : "EXTERNAL"
    guard String(start.mechanisms).utf8.split(separator: 0x20).contains(where: { $0.elementsEqual(mechanism.utf8) })
    else {
      throw dead(.denied, "it does not offer the authentication mechanism \(mechanism)")
    }
    let capabilities = [
      "consumer_cancel_notify", "connection.blocked", "basic.nack", "publisher_confirms",
      "authentication_failure_close",
    ]
    let response =
      uri.mechanism == .plain ? [0] + Array(uri.user.utf8) + [0] + Array(uri.password.utf8) : Array(uri.user.utf8)
    try send(
      MSCTL_CONNECTION_START_OK,
      amqp_connection_start_ok_t(
        client_properties: pool.table([
          AMQPField("product", .string("msctl")),
          AMQPField("version", .string(Version.msctl)),
          AMQPField("connection_name", .string(name)),
          AMQPField("capabilities", .table(capabilities.map { AMQPField($0, .bool(true)) })),
        ]), mechanism: pool.bytes(mechanism), response: response.withUnsafeBytes { pool.bytes($0) },
        locale: pool.bytes("en_US")), on: 0)

    let tune = try reply(MSCTL_CONNECTION_TUNE, as: amqp_connection_tune_t.self, on: 0, until: deadline)
    // 0 stands for no limit; 4096 is what every peer must take (section 4.2.3).
    if tune.frame_max != 0 { frameMax = min(frameMax, max(4096, Int(clamping: tune.frame_max))) }
    let heartbeat = tune.heartbeat == 0 ? uri.heartbeat : min(uri.heartbeat, Int(clamping: tune.heartbeat))
    try check(
      status: amqp_tune_connection(state, 1, Int32(clamping: frameMax + Self.headerRoom), Int32(clamping: heartbeat)))
    holdBack()
    try send(
      MSCTL_CONNECTION_TUNE_OK,
      amqp_connection_tune_ok_t(
        channel_max: 1, frame_max: UInt32(clamping: frameMax), heartbeat: UInt16(clamping: heartbeat)), on: 0)
    try send(
      MSCTL_CONNECTION_OPEN,
      amqp_connection_open_t(virtual_host: pool.bytes(uri.vhost), capabilities: amqp_bytes_t(), insist: 1), on: 0)
    // Where sending fails, the broker's reply may say why.
    do { try send(setup) } catch { self.setup.error = error }
    _ = try reply(MSCTL_CONNECTION_OPEN_OK, as: amqp_connection_open_ok_t.self, on: 0, until: deadline)
  }

  private func send(_ setup: Setup) throws(AMQPError) {
    try sendOpenChannel()
    if let exchange = setup.exchange { try sendDeclareExchange(exchange) }
    if let queue = setup.queue { try sendDeclare(queue, isPassive: setup.arguments == nil, setup.arguments ?? []) }
    // Where returns are counted, the prefetch depends on the queue.
    if let consumer = setup.consumer, consumer.isAutomatic || !countsReturns {
      self.setup.hasConsumer = true
      if let prefetch = consumer.prefetch { try sendPrefetch(prefetch) }
      try sendConsume(consumer.queue, isAutomatic: consumer.isAutomatic, consumer.arguments)
    }
    if setup.selectsConfirms { try sendSelectConfirms() }
    guard let message = setup.message else { return }
    do { try publish(message) } catch {
      guard error.kind == .invalid else { throw error }
      return
    }
    self.setup.isSent = true
  }

  private func readReplies(to setup: Setup) throws(AMQPError) {
    try awaitChannel()
    if setup.exchange != nil { try awaitDeclareExchange() }
    if setup.queue != nil {
      _ = try awaitDeclare()
      self.setup.hasQueue = true
    }
    if let consumer = setup.consumer, self.setup.hasConsumer {
      if consumer.prefetch != nil { try awaitPrefetch() }
      self.setup.consumer = try awaitConsume()
    }
    if setup.selectsConfirms { try awaitSelectConfirms() }
  }

  /// Opens the channel; also anew, where the broker has closed it over a method of ours. Consumers, confirms and unacknowledged
  /// messages of the old one are gone.
  package func openChannel() throws(AMQPError) {
    forgetChannel()
    try sendOpenChannel()
    try awaitChannel()
  }

  func forgetChannel() {
    setup = SetupResult()
    bounds = AMQPBounds()
    events = []
    putBy = 0
    partial = nil
    replies = []
  }

  func sendOpenChannel() throws(AMQPError) {
    try send(MSCTL_CHANNEL_OPEN, amqp_channel_open_t(out_of_band: amqp_bytes_t()))
  }

  func awaitChannel() throws(AMQPError) {
    _ = try reply(MSCTL_CHANNEL_OPEN_OK, as: amqp_channel_open_ok_t.self)
  }
}

/// Why no connection comes about, in the system's words, which librabbitmq keeps to itself. Only asked after it has failed.
private func connectError(_ host: String, _ port: Int, until deadline: Deadline) -> String? {
  guard let cause = tryConnect(host, port, until: deadline), cause != 0 else { return nil }
  return String(cString: strerror(cause)).lowercasedASCII
}

/// The address that a host's name is, as OpenSSL reads one; nil where it is no address. Also for `127.1` and the like.
private func numericAddress(_ host: String) -> String? {
  var hints = addrinfo()
  hints.ai_flags = AI_NUMERICHOST
  hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
  var found: UnsafeMutablePointer<addrinfo>?
  guard getaddrinfo(host, nil, &hints, &found) == 0, let address = found?.pointee else { return nil }
  defer { freeaddrinfo(found) }
  var text = [CChar](repeating: 0, count: 256)
  guard
    getnameinfo(address.ai_addr, address.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0
  else { return nil }
  // The interface of a link-local address is no part of a certificate.
  let bytes = text.prefix { $0 != 0 && $0 != 0x25 }.map { UInt8(bitPattern: $0) }
  return String(decoding: bytes, as: UTF8.self)
}
