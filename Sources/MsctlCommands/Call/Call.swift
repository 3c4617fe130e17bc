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
          invalid: "header", "the name must be one word, and the value must not contain control characters",
          isSecret: true)
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
    var digest: SecretSource?
    var timeout: Duration?
    var attemptTimeout: Duration?
    var retries = 0
    var retried: [StatusSet] = []
    var sendsKey = false
    var unixSocket: String?
    var connectTimeout: Duration = .seconds(10)
    var follows = false
    var cookieJar: FileName?
    var fails = true
    var accepted: [StatusSet] = []
    var authorityFile: String?
    var isInsecure = false
    var certificateFile: String?
    var keyFile: String?
    var passphrase: SecretSource?
    var isEach = false
    var all = false
    var parallel = 1
    var continues = false
    var failedFile: FileName?
    var rate: Rate?
    var statistics: CallStatistics.Format?
    var asEnvelope = false
    var asCurl = false
    var outputFile: FileName?
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

    /// Whether '--output' names something else than standard output.
    var writesFile: Bool { outputFile.map { !$0.text.isSame(as: "-") } ?? false }

    /// Whether '--each' continues after a failed call.
    var keepsGoing: Bool { continues || failedFile != nil }

    /// Whether a response with this status is a failure.
    func isFailure(_ status: Int) -> Bool { fails && !(200..<300).contains(status) && !accepted.contain(status) }

    /// Whether each value of `--each` is the body: it is, unless it fills the target of a request without one.
    var bodyIsValue: Bool {
      guard isEach else { return false }
      guard case .template? = target else { return true }
      return method.map(Call.methodsWithBody.contains) ?? false
    }
  }

  /// The methods whose requests have a body.
  static let methodsWithBody = ["POST", "PUT", "PATCH", "QUERY"]

  static let command = Command<Options>(
    "call", "call a REST service, found by name or by URL",
    details: """
      TARGET is a URL, HOST:PORT/PATH (:PORT/PATH for this machine), or NAME/PATH: msctl looks up the service NAME in Consul \
      and picks a passing instance, at random by weight. If it cannot connect to an instance, it tries the next one, and does \
      not try the failed one again for \(ServiceDirectory.rest.shown) if there are others; '--retry' does the same for an \
      instance that fails later. METHOD is an upper-case word (default: GET, or POST with a body).

      ITEMs build the request: name=text (a JSON string), name:=json, name==value (query), Header:value, name=@file and \
      name:=@file (from a file), a[b][c]=text (nested), a[]=text (a list).

      The response body goes to standard output, even if the status is not 2xx; the exit code is then 4 (3xx, 4xx) or 5 (5xx).
      """,
    flags: flags,
    operands: [
      .optional(
        "METHOD", into: \.method, "GET, POST, PUT, PATCH, DELETE or another upper-case word",
        completion: .choices(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "QUERY"])
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
      Example(
        "jq -nc '{filter:{city:\"Ulm\",limit:9}}' | msctl call 'user-service/users{?filter*}' --each",
        "A query from an object"),
      Example(
        "seq 100 | jq -c '{id:.}' | msctl call DELETE 'user-service/users/{id}' --each --failed-to failed",
        "Keep what failed; the next try reads 'jq -c .input failed'"),
      Example(
        "seq 500 | msctl call POST :3000/orders --each --rate 100 --parallel 64 --stats=json > /dev/null",
        "Measure, 100 calls a second"),
      Example("msctl call :3000/health --envelope", "A local port, with status and headers"),
      Example("msctl call HEAD user-service/users/42 --envelope --no-fail | jq .status", "Only the status"),
      Example("msctl call :3000/health --envelope | jq .headers", "Only the headers"),
      Example("msctl call user-service/users/42 --retry 10 --retry-on 404", "Wait until it is there"),
      Example("msctl call DELETE user-service/users/42 --ok 404", "Delete it if it is there"),
      Example(
        "msctl call POST :3000/login name=Ada --cookie-jar jar && msctl call :3000/me --cookie-jar jar", "A session"),
    ],
    habits: .curl,
    check: { options throws(ValueError) in
      try options.lookUp.check()
      let hasFields = options.items.contains(where: \.isField)
      let hasUpload = options.items.contains { if case .upload = $0 { true } else { false } }
      if options.data != nil, hasFields { throw ValueError("'--data' cannot be combined with items that build a body") }
      if options.data != nil, options.isForm { throw ValueError("'--data' cannot be combined with '--form'") }
      if hasUpload, !options.isForm { throw ValueError("'name@file' requires '--form'") }
      if case .template? = options.target, !options.isEach {
        throw ValueError("a TARGET with {placeholders} requires '--each'")
      }
      if options.isEach, options.data != nil || hasFields, options.bodyIsValue {
        throw ValueError(
          "'--data' and items that build a body cannot be combined with '--each', whose values are the bodies")
      }
      if options.isEach, options.data == "-" || options.data == "@-" {
        throw ValueError("'--each' cannot be combined with '--data -': both read standard input")
      }
      if options.all {
        guard case .service? = options.target, !options.isEach else {
          throw ValueError("'--all' requires a TARGET of the form NAME/PATH and cannot be combined with '--each'")
        }
      }
      if !options.retried.isEmpty, options.retries == 0 { throw ValueError("'--retry-on' requires '--retry'") }
      if !options.accepted.isEmpty, !options.fails { throw ValueError("'--ok' cannot be combined with '--no-fail'") }
      if !options.isEach, !options.all, options.parallel != 1 {
        throw ValueError("'--parallel' requires '--each' or '--all'")
      }
      if options.rate != nil, !options.isEach, !options.all {
        throw ValueError("'--rate' requires '--each' or '--all'")
      }
      if !options.isEach, options.continues { throw ValueError("'--keep-going' requires '--each'") }
      if !options.isEach, options.failedFile != nil { throw ValueError("'--failed-to' requires '--each'") }
      if options.failedFile?.text.isSame(as: "-") == true {
        throw ValueError("'--failed-to -' cannot be combined with '--each', which writes results to standard output")
      }
      if options.cookieJar?.text.isSame(as: "-") == true {
        throw ValueError("'--cookie-jar' requires a file, not '-'")
      }
      if options.isEach || options.all, options.cookieJar != nil {
        throw ValueError("'--cookie-jar' cannot be combined with '--each' or '--all'")
      }
      if options.isEach || options.all, options.outputFile != nil {
        throw ValueError("'--output' cannot be combined with '--each' or '--all'")
      }
      if options.unixSocket != nil {
        if case .service? = options.target {
          throw ValueError(
            "'--unix-socket' requires a URL as TARGET, such as http://localhost/path")
        }
      }
      if options.asCurl, options.isEach || options.all {
        throw ValueError("'--as-curl' cannot be combined with '--each' or '--all'")
      }
      let logins = [(options.basic, "--basic"), (options.bearer, "--bearer"), (options.digest, "--digest")].filter {
        $0.0 != nil
      }
      if logins.count > 1 { throw ValueError("'\(logins[0].1)' cannot be combined with '\(logins[1].1)'") }
      if options.certificateFile == nil, options.keyFile != nil || options.passphrase != nil {
        throw ValueError("'\(options.keyFile != nil ? "--key" : "--pass")' requires '--cert'")
      }
      if options.outputFile != nil, options.asEnvelope {
        throw ValueError("'--output' cannot be combined with '--envelope'; redirect the envelope with '>'")
      }
    })

  private static let flags: [Flag<Options>] =
    [
      .value("data", "d", "BODY", into: \.data, "Send this body; @FILE, or - for standard input")
        .details(
          "The Content-Type is application/json for JSON, else text/plain; a header item overrides it."
        )
        .completed(by: .file),
      .toggle("form", "f", into: \.isForm, "Send the items as a form; name@file uploads"),
      .list("header", "H", "HEADER", into: \.headers, "Add a header, as 'Name: value'"),
      .value("basic", nil, "SOURCE", into: \.basic, "Log in with user:password from @FILE or env:NAME"),
      .value("digest", nil, "SOURCE", into: \.digest, "Like '--basic', but by Digest authentication").brief()
        .details(
          "The password is not sent; the request is sent without a login first, and again where the server asks for one."
        ),
      .value("bearer", nil, "SOURCE", into: \.bearer, "Send the bearer token from @FILE or env:NAME"),
      .toggle("follow", "L", into: \.follows, "Follow up to 10 redirects")
        .details(
          """
          A redirect to another host drops credentials and custom headers, but not an Idempotency-Key. A 307 or 308 sends the body again, even to \
          another host.
          """),
      .value("cookie-jar", nil, "FILE", into: \.cookieJar, "Send the cookies in FILE, and keep new ones there").brief()
        .completed(by: .file)
        .details(
          """
          In the format of curl and wget (Netscape's); FILE need not exist; a new one can only be read by its owner. Each cookie goes to \
          the host that set it. Without FILE, '--follow' keeps cookies until the call ends.
          """),
      .value("timeout", "t", "TIME", into: \.timeout, "Time limit for the whole call; 0 for none")
        .details(
          """
          It covers the look-up of the service, all attempts and the body; exit code 8. Without it, a call fails when no \
          byte has arrived for 60 s.
          """),
      .value("attempt-timeout", nil, "TIME", into: \.attemptTimeout, "Time limit for one attempt").brief(),
      .value("connect-timeout", nil, "TIME", into: \.connectTimeout, "Time limit to connect; 0 for none").brief(),
      .number("retry", nil, "N", in: 0...100, into: \.retries, "Retry up to N times, if safe")
        .details(
          """
          Retried with any method: attempts that sent no byte, and look-ups without a response from the Consul agent. With \
          GET, HEAD, PUT, DELETE, OPTIONS, QUERY or an Idempotency-Key also: responses that broke off or timed out, and the \
          statuses 408, 429, 502, 503 and 504. Another instance is used if there is one. Pauses are random and grow from \
          100 ms to 10 s; Retry-After is respected. '--timeout' limits all attempts together: where it ends a retry that \
          has no response yet, the response before it counts.
          """),
      .list("retry-on", nil, "STATUS", into: \.retried, "Retry these statuses too: 404, 5xx")
        .details(
          """
          With '--retry'. Several are separated by commas. The method must be one that '--retry' repeats, or have an Idempotency-Key.
          """),
      .toggle("idempotency-key", nil, into: \.sendsKey, "Send an Idempotency-Key, so a POST can be retried")
        .details("Every attempt of a call sends the same key; the next call sends another."),
      .value("unix-socket", nil, "FILE", into: \.unixSocket, "Connect to this Unix socket, not the URL's host").brief()
        .completed(by: .file),
      .value("cacert", nil, "FILE", into: \.authorityFile, "CA certificates to verify the server with")
        .completed(by: .file),
      .value("cert", nil, "FILE", into: \.certificateFile, "Client certificate, in PEM, perhaps with its key")
        .completed(by: .file)
        .details("A redirect to another host does not get it."),
      .value("key", nil, "FILE", into: \.keyFile, "Key of the client certificate, in PEM").brief()
        .completed(by: .file),
      .value("pass", nil, "SOURCE", into: \.passphrase, "Passphrase of the key, from @FILE or env:NAME").brief(),
      .toggle("insecure", "k", into: \.isInsecure, "Do not verify the server's certificate"),
    ].under("Request")
    + [
      .toggle("envelope", "e", into: \.asEnvelope, "Wrap the response in status, headers, URL and time"),
      .value("output", "o", "FILE", into: \.outputFile, "Write the body to FILE, completely or not at all")
        .details(
          """
          If the call fails, FILE is left untouched; the body of a failed response goes to standard output. With '--no-fail', \
          FILE gets any response. A pipe, a device or '-' (standard output) gets the bytes as they arrive.
          """),
      .toggle("as-curl", nil, into: \.asCurl, "Print the equivalent curl command; do not call")
        .details("Secrets are masked."),
      .list("ok", nil, "STATUS", into: \.accepted, "Count these statuses as success: 404, 4xx")
        .details(
          """
          Several are separated by commas. They are not retried, unless '--retry-on' names them. FILE of '--output' gets their \
          body.
          """),
      .toggle("no-fail", nil, into: \.fails, to: false, "Exit 0 whatever the status of the response"),
    ].under("Response")
    + [
      .toggle("each", nil, into: \.isEach, "Make a call for each JSON value on standard input")
        .details(
          """
          The value is the body, or its fields fill the {placeholders} of TARGET (RFC 6570; {?filter*} is \
          a query from an object, {/path*} a path from an array); with POST, PUT, PATCH or QUERY it does both. A missing or \
          null field is an error in a path and left out of {?...}. One line per successful call, in input order: the body (null if it is empty), or the \
          envelope. With --envelope, failed calls produce a line too.
          """),
      .number("parallel", "P", "N", in: 1...10000, into: \.parallel, "Run N calls at a time")
        .details("Each requires an open file: 'ulimit -n' limits them."),
      .toggle("keep-going", nil, into: \.continues, "Continue after a failed call"),
      .value("failed-to", nil, "FILE", into: \.failedFile, "Write each value whose call failed to FILE; continue")
        .details(
          """
          One line per value: {"input": VALUE, "error": {...}}, with the error as '--json-errors' writes it. 'jq -c .input FILE' \
          is the input of the next try. FILE is replaced at the end of the run; an interrupted run adds the values whose calls \
          had not ended, which the service may have handled, and those whose results could not be written. A pipe or a device gets each line at once.
          """),
      .toggle("all", nil, into: \.all, "Call every passing instance of the service"),
      .value("rate", nil, "N", into: \.rate, "Start at most N calls per second, evenly")
        .details(
          """
          N/m is per minute, N/h per hour. Calls start when they are due, however long others take, as long as fewer than '--parallel' are running. Latencies of \
          '--stats' count from when a call was due by the rate, whatever held up the calls before it.
          """),
      .toggle(
        "stats", attaching: "json", into: \.statistics, to: .text,
        "Print a summary to stderr: statuses, rate, latencies"
      )
      .details(
        """
        Percentiles have three digits; on a terminal, a histogram follows. '--stats=json' prints one line of JSON: \
        {"calls", "seconds", "rate", "statuses", "latency", "bytes", "retries", "late"}. Times are in seconds; late counts calls \
        that began more than 10 ms after they were due, such as where '--parallel' calls were running.
        """),
    ].under("Many calls")
    + [
      .list("tag", nil, "TAG", into: \.tags, "Use only instances with this tag"),
      .value("dc", nil, "NAME", into: \.datacenter, "Look in this datacenter").brief(),
      .value("near", nil, "NODE", into: \.near, "Prefer instances near this node (_agent: near the agent)").brief(),
    ].under("Service") + LookUpOptions.flags.lifted(to: \.lookUp)
    + AgentOptions.flags.lifted(to: \.agent) + OutputOptions.flags.lifted(to: \.output)

  static func run(_ options: Options, _ console: Console, environment: [String: String]) throws(Failure) {
    let request = try request(options, environment: environment)
    let http = try makeHTTPClient(console)
    guard let target = options.target else { throw Failure(.missingTarget) }
    if options.asCurl {
      let run = try CallRun(options, request, http, console)
      var instance: ServiceInstance?
      if case .service(let name, let path) = target {
        instance = run.choose(from: try run.instances(of: name, path: path, until: options.deadline()))
      }
      var sent = request
      if options.sendsKey { sent.addIdempotencyKey() }
      for remark in CurlCommand.remarks(sent, options) { console.note(remark) }
      console.write(line: CurlCommand.text(sent, instance, options))
      return try console.flush()
    }
    defer { tellUnreadInput(request, options, console) }
    if options.isEach || options.all {
      var calls = try CallMany(options, request, http, console)
      if options.isEach { try calls.callEach() } else { try calls.callAll(target) }
    } else {
      try callOnce(target, request, options, http, console)
    }
  }

  /// Whoever pipes a body into a request without one does not see that it is not sent. The end of the call says more than its
  /// beginning, when what writes to the pipe may not have started.
  private static func tellUnreadInput(_ request: HTTPRequest, _ options: Options, _ console: Console) {
    guard request.body == .none, !options.isEach, methodsWithBody.contains(request.method) else { return }
    if StandardInput.isUnread { console.note(.unreadInput) }
  }

  /// Makes one call; the body goes out as it arrives.
  private static func callOnce(
    _ target: CallTarget, _ request: HTTPRequest, _ options: Options, _ http: HTTPClient, _ console: Console
  ) throws(Failure) {
    let run = try CallRun(options, request, http, console)
    let call = PendingCall(1, request, run, target)
    var statistics = CallStatistics()
    // A draft of the file must not be left behind by Ctrl-C.
    let signals = options.writesFile ? Signals() : nil
    let output = console.outputReadiness
    run.loop.add(output)
    if let signals { run.loop.add(signals) }
    var progress = Progress(console)
    var received = 0
    call.start()
    var sink: ResponseSink?
    var fault: Failure?
    while true {
      for (_, result) in run.takeLookUps() { call.take(result) }
      try console.flushReady()
      // More of the body is taken once what has come is out.
      if !console.hasUnwritten, !(try sink?.isBusy() ?? false) {
        call.advance()
        // Not before there is something to write: until then, another attempt may bring another head.
        if !options.asEnvelope, let head = call.head, !call.body.isEmpty || call.isOver {
          let file = options.isFailure(head.status) ? nil : options.outputFile?.text
          if sink == nil {
            sink = try ResponseSink(head, file: file)
            if let stream = sink?.stream { run.loop.add(stream) }
          }
          received += call.body.count
          if !call.body.isEmpty { try sink?.write(call.takeBody(), console) }
          if file != nil, options.writesFile { progress.show(Self.progressText(received, head)) }
        }
        try console.flushReady()
        if call.isOver, !(try sink?.isBusy() ?? false) { break }
      }
      output.isWanted = console.hasUnwritten
      run.loop.turn(until: min(.after(.seconds(1)), call.wakeTime, run.wakeTime))
      if let number = signals?.take() {
        progress.clear()
        throw .interrupted(by: number)
      }
    }
    progress.clear()
    do {
      if call.hasResponse { try sink?.finish(console) }
    } catch {
      // A status that is a failure says more than what is wrong with its body.
      fault = error
    }
    if call.hasResponse, let jar = options.cookieJar { try CookieJar.write(call.cookies, to: jar.text) }
    // Without an instance to call there is no call to tell of.
    if call.isUnfound, let failure = call.failure { throw failure }
    if options.asEnvelope { console.write(value: call.value) }
    try console.flush()
    if let format = options.statistics {
      statistics.add(call, bytes: received + call.body.count)
      statistics.tell(console, format)
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
