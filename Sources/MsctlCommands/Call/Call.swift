import CommandTable
import MsctlCore

/// `msctl call`: a request to a REST service, found by name or by URL.
enum Call: Verb {
  /// A header of `--header`, checked when it is read.
  struct HeaderArgument: ArgumentValue {
    let header: HTTPHeader

    init(argument: String) throws(ValueError) {
      guard let (name, rest) = argument.cut(at: ":") else {
        throw ValueError("is not of the form 'Name: value'", isSecret: true)
      }
      let start = rest.utf8.firstIndex { $0 != UInt8(ascii: " ") } ?? rest.endIndex
      guard let header = HTTPHeader(String(name), String(rest[start...])) else {
        throw ValueError(
          "is no valid header: a name is one word, and a value holds no control characters", isSecret: true)
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
    var attemptTimeout: Duration?
    var retries = 0
    var sendsKey = false
    var unixSocket: String?
    var connectTimeout: Duration = .seconds(10)
    var follows = false
    var fails = true
    var authorityFile: String?
    var isInsecure = false
    var isEach = false
    var all = false
    var parallel = 1
    var keepsGoing = false
    var showsStatistics = false
    var asEnvelope = false
    var asCurl = false
    var outputFile: String?
    var tags: [String] = []
    var datacenter: String?
    var near: String?
    var lookUp = LookUpOptions()
    var agent = AgentOptions()
    var output = OutputOptions()

    init() {}

    /// Which instances of a service may be called.
    var selection: ConsulAgent.Selection {
      lookUp.narrow(ConsulAgent.Selection(tags: tags, datacenter: datacenter, near: near))
    }

    /// The end of a call that begins now, look-up and all attempts included. A time of zero is no limit at all.
    func deadline() -> Deadline {
      timeout.flatMap { $0 == .zero ? nil : .after($0) } ?? .never
    }

    /// Whether a response with this status is a failure.
    func isFailure(_ status: Int) -> Bool { fails && !(200..<300).contains(status) }

    /// Whether each value of `--each` is the body: it is, unless it fills the target of a request without one.
    var bodyIsValue: Bool {
      guard isEach else { return false }
      guard case .template? = target else { return true }
      return ["POST", "PUT", "PATCH"].contains(method)
    }
  }

  /// Without `--timeout`, a call may take as long as bytes keep coming: a silence of this length ends it.
  static let silence: Duration = .seconds(60)

  static let command = Command<Options>(
    "call", "call a REST service, found by name or by URL",
    details: """
      TARGET is a URL, HOST:PORT/PATH (or :PORT/PATH on this machine), or NAME/PATH: the name of a service, of which one \
      passing instance is found through Consul, at random by weight. An instance that cannot be connected to is passed over \
      for the next, and left alone for a while; '--retry' does the same for one that fails later. METHOD is an upper-case \
      word; without it, GET, or POST where there is a body.

      ITEMs build the request: name=text (a JSON string), name:=json, name==value (query), Header:value, name=@file and \
      name:=@file (from a file), a[b][c]=text (nested), a[]=text (a list).

      The body of the answer goes to standard output, also when the status is not 2xx; then the exit code is 4 (3xx, 4xx) or \
      5 (5xx).
      """,
    flags: flags,
    operands: [
      .optional(
        "METHOD", into: \.method, "GET, POST, PUT, PATCH, DELETE or another upper-case word",
        completion: .choices(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
      ) { word in
        !word.isEmpty && word.unicodeScalars.allSatisfy { ("A"..."Z").contains($0) }
      },
      .one("TARGET", into: \.target, "A URL, HOST:PORT/PATH, or NAME/PATH of a service", completion: .live("service")),
      .many("ITEM", into: \.items, "name=text, name:=json, name==query, Header:value, name=@file"),
    ],
    variables: AgentOptions.variables.lifted(to: \.agent),
    examples: [
      Example("msctl call user-service/users/42", "A service by name"),
      Example("msctl call POST order-service/orders user=42 'items:=[1,2]'", "A JSON body"),
      Example("seq 100 | jq -c '{id:.}' | msctl call 'user-service/users/{id}' --each --parallel 8", "A hundred calls"),
      Example("msctl call :3000/health --envelope", "A port of this machine, with status and headers"),
    ],
    check: { options throws(ValueError) in
      try options.lookUp.check()
      let hasFields = options.items.contains(where: \.isField)
      let hasUpload = options.items.contains { if case .upload = $0 { true } else { false } }
      if options.data != nil, hasFields { throw ValueError("'--data' and items that make a body do not go together") }
      if options.data != nil, options.isForm { throw ValueError("'--data' and '--form' do not go together") }
      if hasUpload, !options.isForm { throw ValueError("'name@file' uploads a file, which needs '--form'") }
      if case .template? = options.target, !options.isEach {
        throw ValueError("TARGET has {placeholders}, which '--each' fills from standard input")
      }
      if options.isEach, options.data != nil || hasFields, options.bodyIsValue {
        throw ValueError("with '--each' the value is the body, so '--data' and items that make a body have no place")
      }
      if options.isEach, options.data == "-" || options.data == "@-" {
        throw ValueError("'--each' and '--data -' both read standard input")
      }
      if options.all {
        guard case .service? = options.target, !options.isEach else {
          throw ValueError("'--all' calls every instance of a service: TARGET must be its NAME/path, without '--each'")
        }
      }
      if !options.isEach, !options.all, options.parallel != 1 {
        throw ValueError("'--parallel' needs '--each' or '--all'")
      }
      if !options.isEach, options.keepsGoing { throw ValueError("'--keep-going' needs '--each'") }
      if options.isEach || options.all, options.outputFile != nil {
        throw ValueError("'--output' takes the answer of one call")
      }
      if options.unixSocket != nil {
        if case .service? = options.target {
          throw ValueError(
            "'--unix-socket' says where to connect, so TARGET must be a URL such as http://localhost/path")
        }
      }
      if options.asCurl, options.isEach || options.all {
        throw ValueError("'--as-curl' writes one command: it does not go together with '--each' or '--all'")
      }
      if options.basic != nil, options.bearer != nil { throw ValueError("'--basic' and '--bearer' do not go together") }
      if options.outputFile != nil, options.asEnvelope {
        throw ValueError("'--output' and '--envelope' do not go together; redirect the envelope with '>'")
      }
    })

  private static let flags: [Flag<Options>] =
    [
      .value("data", "d", "BODY", into: \.data, "The body as it is; @FILE or - (standard input)")
        .details(
          "Its Content-Type is application/json where it is JSON, else text/plain; a header item says otherwise."
        )
        .completed(by: .file),
      .toggle("form", "f", into: \.isForm, "Send the items as a form; name@file uploads"),
      .list("header", "H", "HEADER", into: \.headers, "A header, as 'Name: value'"),
      .value("basic", nil, "SOURCE", into: \.basic, "Basic authentication: user:password in @FILE or env:NAME"),
      .value("bearer", nil, "SOURCE", into: \.bearer, "Bearer authentication: the token in @FILE or env:NAME"),
      .toggle("follow", "L", into: \.follows, "Follow up to 10 redirects")
        .details(
          """
          To another host only harmless headers are sent on, no credentials and none that you named. A 307 or 308 sends the \
          body again, to another host too.
          """),
      .value("timeout", "t", "TIME", into: \.timeout, "Time limit for the whole call; 0 for none")
        .details(
          """
          It covers the look-up of the service, all attempts and the body; exit code 8. Without it, a call ends when no byte \
          has arrived for 60 s.
          """),
      .value("attempt-timeout", nil, "TIME", into: \.attemptTimeout, "Time limit for one attempt"),
      .value("connect-timeout", nil, "TIME", into: \.connectTimeout, "Time limit to connect; 0 for none"),
      .number("retry", nil, "N", in: 0...100, into: \.retries, "Retry what is safe to retry, up to N times")
        .details(
          """
          Retried with any method: attempts of which no byte was sent, and look-ups that the Consul agent did not answer. With \
          GET, HEAD, PUT, DELETE, OPTIONS or an Idempotency-Key also: responses that broke off or took too long, and the \
          statuses 408, 429, 502, 503 and 504. Another instance is taken if there is one. Pauses are random and grow from \
          100 ms to 10 s; Retry-After is respected. '--timeout' limits all attempts together.
          """),
      .toggle("idempotency-key", nil, into: \.sendsKey, "Send an Idempotency-Key: a POST is safe to retry")
        .details("The same key goes with every attempt of a call, another one with the next call."),
      .value("unix-socket", nil, "FILE", into: \.unixSocket, "Connect to this socket, whatever the URL says")
        .completed(by: .file),
      .value("cacert", nil, "FILE", into: \.authorityFile, "Authorities that may sign the server's certificate")
        .completed(by: .file),
      .toggle("insecure", "k", into: \.isInsecure, "Do not verify the server's certificate"),
    ].under("Request")
    + [
      .toggle("envelope", "e", into: \.asEnvelope, "Wrap the answer in status, headers, URL and time"),
      .value("output", "o", "FILE", into: \.outputFile, "Write the body to a file, whole or not at all")
        .completed(by: .file)
        .details(
          """
          If the call fails, FILE is left untouched; the body of a failed response goes to standard output. With '--no-fail' \
          every response counts.
          """),
      .toggle("as-curl", nil, into: \.asCurl, "Write the curl command that would do it, and do not call")
        .details("Secrets are masked in it."),
      .toggle("no-fail", nil, into: \.fails, to: false, "Exit with 0 whatever the status of the answer"),
    ].under("Answer")
    + [
      .toggle("each", nil, into: \.isEach, "Make a call for each JSON value on standard input")
        .details(
          """
          The value is the body, or its fields fill the {placeholders} of TARGET (RFC 6570, level 1 to 3); with POST, PUT \
          or PATCH it does both. One line for each, in the order of the input: the body, null where it is empty, or the \
          envelope. A call that fails writes nothing but its envelope.
          """),
      .number("parallel", "P", "N", in: 1...512, into: \.parallel, "Make N calls at a time"),
      .toggle("keep-going", nil, into: \.keepsGoing, "Go on after a call that failed"),
      .toggle("all", nil, into: \.all, "Call every passing instance of the service"),
      .toggle("stats", nil, into: \.showsStatistics, "Sum up on standard error: statuses, rate, latencies"),
    ].under("Many calls")
    + [
      .list("tag", nil, "TAG", into: \.tags, "Only instances with this tag"),
      .value("dc", nil, "NAME", into: \.datacenter, "The datacenter"),
      .value("near", nil, "NODE", into: \.near, "Prefer instances near this node (_agent: near the agent)"),
    ].under("Service") + LookUpOptions.flags.lifted(to: \.lookUp)
    + AgentOptions.flags.lifted(to: \.agent) + OutputOptions.flags.lifted(to: \.output)

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let request = try request(options, environment: environment)
    let http = try makeHTTPClient(console)
    guard let target = options.target else { throw Failure(.usage, "there is no TARGET") }
    if options.asCurl {
      let directory = try ServiceDirectory(options, over: http, console)
      var instance: ServiceInstance?
      if case .service(let name, let path) = target {
        var candidates = try directory.instances(of: name, path: path, until: options.deadline())
        instance = directory.choose(from: &candidates)
      }
      var sent = request
      if options.sendsKey { sent.addIdempotencyKey() }
      if let remark = CurlCommand.remark(sent) { console.note(remark) }
      console.write(line: CurlCommand.text(sent, instance, options))
      return try console.flush()
    }
    if options.isEach || options.all {
      var calls = try CallMany(options, request, http, console)
      if options.isEach { try calls.callEach() } else { try calls.callAll(target) }
    } else {
      try callOnce(target, request, options, http, console)
    }
  }

  /// Makes one call; the body goes out as it arrives.
  private static func callOnce(
    _ target: CallTarget, _ request: HTTPRequest, _ options: Options, _ http: HTTPClient, _ console: Console
  ) throws(Failure) {
    let deadline = options.deadline()
    let directory = try ServiceDirectory(options, over: http, console)
    let call: PendingCall
    if case .service(let name, let path) = target {
      let candidates = try directory.instances(of: name, path: path, until: deadline)
      call = PendingCall(1, request, options, until: deadline, service: target, candidates: candidates)
    } else {
      call = PendingCall(1, request, options, until: deadline)
    }
    // A draft of the file must not be left behind by Ctrl-C.
    let signals = options.outputFile == nil ? nil : Signals()
    var progress = Progress(console)
    var received = 0
    call.start(http, directory)
    var sink: ResponseSink?
    var fault: Failure?
    while true {
      call.advance(http, directory, console)
      // Not before there is something to write: until then, another attempt may bring another head.
      if !options.asEnvelope, let head = call.head, !call.body.isEmpty || call.outcome != nil {
        let file = options.isFailure(head.status) ? nil : options.outputFile
        if sink == nil { sink = try ResponseSink(head, file: file) }
        received += call.body.count
        if !call.body.isEmpty { try sink?.write(call.takeBody(), console) }
        if file != nil { progress.show(Self.progressText(received, head)) }
      }
      if call.outcome != nil { break }
      do {
        let isSignalled = try http.run(until: min(.after(.seconds(1)), call.wakeTime), orReading: signals?.descriptor)
        if isSignalled, let number = signals?.take() { throw Failure(.signal(number), "interrupted") }
      } catch let error as HTTPError {
        throw error.failure(reaching: request.url)
      } catch let failure as Failure {
        progress.clear()
        throw failure
      } catch {
        throw Failure(.failed, "\(error)")
      }
    }
    progress.clear()
    do {
      if case .success? = call.outcome { try sink?.finish(console) }
    } catch {
      // A status that is a failure says more than what is wrong with its body.
      fault = error
    }
    if options.asEnvelope { console.write(value: call.value) }
    try console.flush()
    if options.showsStatistics {
      var statistics = CallStatistics()
      statistics.add(call)
      console.note(statistics.summary)
    }
    if let failure = call.failure ?? fault { throw failure }
  }

  /// `12.5 MiB of 40.0 MiB`, with a bar where the length is known.
  private static func progressText(_ received: Int, _ head: HTTPHead) -> String {
    func size(_ bytes: Int) -> String { "\(Double(bytes >> 10) / 1024) ".prefix(6) + " MiB" }
    guard let total = head.header("Content-Length").flatMap({ Int($0) }), total > 0,
      head.header("Content-Encoding") == nil
    else { return size(received) }
    let filled = min(30, 30 * received / total)
    return "[" + String(repeating: "=", count: filled) + String(repeating: " ", count: 30 - filled) + "] "
      + "\(size(received)) of \(size(total))"
  }
}
