import CommandTable
import MsctlCore

/// `msctl call`: a request to a REST service, found by name or by URL.
enum Call: Verb {
  /// A header of `--header`, checked when it is read.
  struct HeaderArgument: ArgumentValue {
    let header: HTTPHeader

    init(argument: String) throws(ValueError) {
      let parts = argument.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
      guard parts.count == 2 else { throw ValueError("is not of the form 'Name: value'") }
      let value = String(parts[1].drop { $0 == " " })
      guard let header = HTTPHeader(String(parts[0]), value) else {
        throw ValueError("is no valid header: a name is one word, and a value holds no control characters")
      }
      self.header = header
    }

    var argumentText: String? { nil }
  }

  struct Options: VerbOptions {
    var method: String?
    var target: CallTarget?
    var items: [CallItem] = []
    var data: String?
    var isForm = false
    var headers: [HeaderArgument] = []
    var basic: SecretSource?
    var bearer: SecretSource?
    var timeout: Duration?
    var connectTimeout: Duration = .seconds(10)
    var follows = false
    var fails = true
    var authorityFile: String?
    var isInsecure = false
    var asEnvelope = false
    var outputFile: String?
    var tags: [String] = []
    var datacenter: String?
    var near: String?
    var agent = AgentOptions()
    var output = OutputOptions()

    init() {}
  }

  /// Without `--timeout`, a call may take as long as bytes keep coming: a silence of this length ends it.
  static let silence: Duration = .seconds(60)

  static let command = Command<Options>(
    "call", "call a REST service, found by name or by URL",
    details: """
      TARGET is a URL, HOST:PORT/PATH (or :PORT/PATH on this machine), or NAME/PATH: the name of a service, of which one \
      passing instance is found through Consul, at random by weight. An instance that cannot be connected to is passed over \
      for the next. METHOD is an upper-case word; without it, GET, or POST where there is a body.

      ITEMs build the request: name=text (a JSON string), name:=json, name==value (query), Header:value, name=@file and \
      name:=@file (from a file), a[b][c]=text (nested), a[]=text (a list).

      The body of the answer goes to standard output, also when the status is not 2xx; then the exit code is 4 (3xx, 4xx) or \
      5 (5xx).
      """,
    flags: flags,
    operands: [
      .optional("METHOD", into: \.method, "GET, POST, PUT, PATCH, DELETE or another upper-case word") { word in
        !word.isEmpty && word.unicodeScalars.allSatisfy { ("A"..."Z").contains($0) }
      },
      .one("TARGET", into: \.target, "A URL, HOST:PORT/PATH, or NAME/PATH of a service", completion: .live("service")),
      .many("ITEM", into: \.items, "name=text, name:=json, name==query, Header:value, name=@file"),
    ],
    variables: AgentOptions.variables.lifted(to: \.agent),
    examples: [
      Example("msctl call user-service/users/42", "A service by name"),
      Example("msctl call POST order-service/orders user=42 'items:=[1,2]'", "A JSON body"),
      Example("msctl call :3000/health --envelope", "A port of this machine, with status and headers"),
    ],
    check: { options throws(ValueError) in
      let hasFields = options.items.contains { item in
        switch item {
        case .string, .json, .upload: true
        default: false
        }
      }
      let hasUpload = options.items.contains { if case .upload = $0 { true } else { false } }
      if options.data != nil, hasFields { throw ValueError("'--data' and items that make a body do not go together") }
      if options.data != nil, options.isForm { throw ValueError("'--data' and '--form' do not go together") }
      if hasUpload, !options.isForm { throw ValueError("'name@file' uploads a file, which needs '--form'") }
      if options.basic != nil, options.bearer != nil { throw ValueError("'--basic' and '--bearer' do not go together") }
      if options.outputFile != nil, options.asEnvelope {
        throw ValueError("'--output' and '--envelope' do not go together; redirect the envelope with '>'")
      }
    })

  private static let flags: [Flag<Options>] =
    [
      .value("data", "d", "BODY", into: \.data, "The body as it is; @FILE or - (standard input)")
        .details("Its Content-Type is application/json where it is JSON, else text/plain; a header item says otherwise.")
        .completed(by: .file),
      .toggle("form", "f", into: \.isForm, "Send the items as a form; name@file uploads"),
      .list("header", "H", "HEADER", into: \.headers, "A header, as 'Name: value'"),
      .value("basic", nil, "SOURCE", into: \.basic, "Basic authentication: user:password in @FILE or env:NAME"),
      .value("bearer", nil, "SOURCE", into: \.bearer, "Bearer authentication: the token in @FILE or env:NAME"),
      .toggle("follow", "L", into: \.follows, "Follow up to 10 redirects")
        .details("To another host only harmless headers are sent on, no credentials and none that you named."),
      .value("timeout", "t", "TIME", into: \.timeout, "The longest time for the whole call; 0 for no limit")
        .details("Without it, a call ends when no byte has come for 60 s."),
      .value("connect-timeout", nil, "TIME", into: \.connectTimeout, "The longest time to connect"),
      .value("cacert", nil, "FILE", into: \.authorityFile, "Authorities that may sign the server's certificate")
        .completed(by: .file),
      .toggle("insecure", "k", into: \.isInsecure, "Do not verify the server's certificate"),
    ].under("Request")
    + [
      .toggle("envelope", "e", into: \.asEnvelope, "Wrap the answer in status, headers, URL and time"),
      .value("output", "o", "FILE", into: \.outputFile, "Write the body to a file, whole or not at all")
        .completed(by: .file),
      .toggle("no-fail", nil, into: \.fails, to: false, "Exit with 0 whatever the status of the answer"),
    ].under("Answer")
    + [
      .list("tag", nil, "TAG", into: \.tags, "Only instances with this tag"),
      .value("dc", nil, "NAME", into: \.datacenter, "The datacenter"),
      .value("near", nil, "NODE", into: \.near, "Prefer instances near this node (_agent: near the agent)"),
    ].under("Service")
    + AgentOptions.flags.lifted(to: \.agent) + OutputOptions.flags.lifted(to: \.output)

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let request = try request(options, environment: environment)
    let http = try makeHTTPClient()
    guard case .service(let name, let path)? = options.target else {
      return try finish(exchange(request, http, options, console), request, options, console)
    }

    var candidates = try passingInstances(name, path, options, http)
    var attempts = 0
    while true {
      guard let place = choose(candidates, options) else { throw Failure(.nothingThere, "no instance of '\(name)'") }
      let instance = candidates.remove(at: place)
      attempts += 1
      var aimed = request
      aimed.connectTo = (instance.address, instance.port)
      aimed.url = instance.scheme + request.url.dropFirst("http".count)
      var result = try exchange(aimed, http, options, console)
      result.instance = instance
      result.attempts = attempts
      // Nothing was sent where no connection came about, so that the next instance may be asked whatever the method.
      if case .failure(let error) = result.outcome, error.kind == .unreachable, !candidates.isEmpty {
        console.note("\(instance.id) at \(instance.hostPort): \(error.reason); trying another instance")
        continue
      }
      return try finish(result, aimed, options, console)
    }
  }

  // MARK: Instances

  private static func passingInstances(
    _ name: String, _ path: String, _ options: Options, _ http: HTTPClient
  ) throws(Failure) -> [ServiceInstance] {
    var selection = ConsulAgent.Selection()
    selection.tags = options.tags
    selection.datacenter = options.datacenter
    selection.near = options.near
    let all: [ServiceInstance]
    do { all = try options.agent.agent(over: http).instances(of: name, selection) } catch {
      var failure = error
      if failure.code == .unreachable {
        failure.message = "'\(name)' is taken for a service's name: " + failure.message
        failure.hint = (failure.hint ?? "") + " A host is called as 'http://\(name)\(path)'."
      }
      throw failure
    }
    let passing = all.filter { $0.status == .passing }
    guard passing.isEmpty else { return passing }
    throw Discover.nothingPassing(name, all, orElse: "Where '\(name)' is a host, write 'http://\(name)\(path)'.")
  }

  /// By weight; with `--near`, Consul's order counts.
  private static func choose(_ candidates: [ServiceInstance], _ options: Options) -> Int? {
    if options.near != nil { return candidates.indices.first }
    var generator = SystemRandomNumberGenerator()
    let chosen = candidates.weightedRandom(using: &generator)
    return candidates.firstIndex { $0.id == chosen?.id && $0.node == chosen?.node }
  }

  // MARK: The exchange

  /// How one request went.
  private struct Exchange {
    var head: HTTPHead?
    var outcome: Result<Void, HTTPError>
    /// The body, where it is kept for an envelope.
    var body: [UInt8]
    var seconds: Double
    var instance: ServiceInstance?
    var attempts = 1
  }

  /// Makes the request; the body goes out as it arrives.
  private static func exchange(
    _ request: HTTPRequest, _ http: HTTPClient, _ options: Options, _ console: Console
  ) throws(Failure) -> Exchange {
    let started = Deadline.now
    let transfer: HTTPTransfer
    do { transfer = try http.start(request) } catch { throw error.failure(reaching: request.url) }
    var sink: ResponseSink?
    var kept: [UInt8] = []
    while true {
      do { try http.run(until: .never) } catch { throw error.failure(reaching: request.url) }
      if let head = transfer.head, sink == nil, !options.asEnvelope {
        sink = try ResponseSink(head, file: options.outputFile)
      }
      let bytes = transfer.takeBody()
      if options.asEnvelope {
        kept += bytes
        guard kept.count <= envelopeLimit else {
          http.cancel(transfer)
          throw Failure(
            .failed, "the body is larger than \(envelopeLimit >> 20) MiB, which no envelope takes",
            hint: "Write it to a file with '--output'.")
        }
      } else if !bytes.isEmpty {
        try sink?.write(bytes, console)
      }
      if let outcome = transfer.outcome {
        if case .success = outcome { try sink?.finish(console) }
        try console.flush()
        return Exchange(
          head: transfer.head, outcome: outcome, body: kept, seconds: started.secondsSince)
      }
    }
  }

  private static let envelopeLimit = 256 << 20

  /// Writes the envelope, and says how the call went.
  private static func finish(
    _ exchange: Exchange, _ request: HTTPRequest, _ options: Options, _ console: Console
  ) throws(Failure) {
    let failure = failure(of: exchange, request, options)
    if options.asEnvelope {
      console.write(value: envelope(exchange, request, failure))
      try console.flush()
    }
    if let failure { throw failure }
  }

  private static func failure(of exchange: Exchange, _ request: HTTPRequest, _ options: Options) -> Failure? {
    if case .failure(let error) = exchange.outcome {
      let place = exchange.instance.map { "\($0.service) (\($0.id) at \($0.hostPort))" } ?? request.url
      var failure = error.failure(reaching: place)
      if error.kind == .timedOut, failure.hint == nil, options.timeout == nil {
        failure.hint = "'--timeout 0' waits for ever."
      }
      if error.kind == .unreachable, exchange.attempts > 1 {
        failure.message += "; \(exchange.attempts) instances were tried"
      }
      return failure
    }
    guard let head = exchange.head else {
      return Failure(.unreachable, "the connection to \(request.url) broke: there was no answer")
    }
    guard options.fails, !(200..<300).contains(head.status) else { return nil }
    let reason = head.reason.isEmpty ? "" : " " + head.reason
    return Failure(
      head.status >= 500 ? .serverError : .clientError, "\(request.method) \(head.url) was answered \(head.status)\(reason)",
      hint: (300..<400).contains(head.status) && head.header("Location") != nil && !options.follows
        ? "It points elsewhere; '--follow' goes there." : nil)
  }

  private static func envelope(_ exchange: Exchange, _ request: HTTPRequest, _ failure: Failure?) -> JSONValue {
    var writer = JSONWriter()
    writer.object { object in
      if case .failure = exchange.outcome, let failure {
        object.key("error")
        object.object { error in
          error.field("code", failure.code.name)
          error.field("message", failure.message)
        }
      } else if let head = exchange.head {
        object.field("status", head.status)
        object.key("headers")
        object.object { headers in
          for (name, values) in head.grouped {
            if values.count == 1 { headers.field(name, values[0]) } else { headers.field(name, values) }
          }
        }
        BodyText(exchange.body, contentType: head.header("Content-Type")).write(to: &object)
      }
      object.field("url", exchange.head?.url ?? request.url)
      if let instance = exchange.instance {
        object.key("instance")
        object.object { fields in
          fields.field("id", instance.id)
          fields.field("address", instance.address)
          fields.field("port", instance.port)
        }
      }
      object.field("attempts", exchange.attempts)
      object.key("time")
      object.seconds(exchange.seconds)
    }
    return writer.value
  }
}
