import CommandTable

// Options of other tools that have another name here, or need none. What the other tool means by them is in its own manual.

extension [Habit] {
  /// curl (https://curl.se/docs/manpage.html) and HTTPie (https://httpie.io/docs/cli).
  static let curl: Self = [
    Habit(["-X", "--request", "--method"], "The method is a word before the URL: 'msctl call DELETE URL'."),
    Habit(["-I", "--head"], "Write 'msctl call HEAD URL --envelope': it shows status and headers."),
    Habit(["-i", "--include", "-D", "--dump-header"], "'--envelope' shows the status and the headers with the body."),
    Habit(["-w", "--write-out"], "'--envelope' has the status, the headers and the time; choose among them with jq."),
    Habit(
      ["-u", "--user", "-a", "--auth"],
      "Use '--basic @FILE' or '--basic env:NAME' with user:password, or '--bearer' with a token: a command line can be "
        + "seen by others."),
    Habit(["--port"], "The port stands in the URL: 'msctl call :3000/path'."),
    Habit(["-m", "--max-time"], "Use '--timeout TIME', such as '--timeout 5s'."),
    Habit(["--location"], "Use '--follow'."),
    Habit(["--json"], "JSON is what ITEMs make: 'msctl call URL name=Ada age:=36'; '--data' sends a body as it is."),
    Habit(["-F", "--multipart"], "Use '--form' with 'field=value' and 'field@file'."),
    Habit(["-T", "--upload-file", "--data-binary", "--data-raw"], "Use '--data @FILE', or '--data BODY'."),
    Habit(["-G", "--get", "--data-urlencode"], "Write 'name==value' for each part of the query."),
    Habit(["-A", "--user-agent"], "Write 'User-Agent:TEXT'."),
    Habit(["-b", "--cookie"], "Write 'Cookie:name=value'."),
    Habit(
      ["-s", "--silent", "-S", "--show-error"], "Progress is shown on a terminal alone; '--quiet' leaves remarks out."),
    Habit(["--fail", "--fail-with-body"], "A status of 300 or more fails by itself; '--no-fail' turns that off."),
    Habit(["-x", "--proxy"], "Set http_proxy or https_proxy."),
    Habit(["-O", "--remote-name", "--download"], "Use '--output FILE'."),
    Habit(["--retry-max-time"], "'--timeout' counts for all attempts together."),
    Habit(["-Z"], "Use '--each' with '--parallel N'."),
    Habit(["--compressed"], "Packed responses are asked for and unpacked by themselves."),
    Habit(["-g", "--globoff"], "Only '{name}' is read, and only with '--each'."),
  ]

  /// amqp-tools (amqp-publish(1)), kcat (https://github.com/edenhill/kcat), rabbitmqadmin: the way to a broker.
  private static let brokers: Self = [
    Habit(
      ["-u", "--url", "-s", "--server", "--uri", "--host", "--port", "--vhost"], "Use '--broker URL', or set AMQP_URL."),
    Habit(
      ["--cacert", "--cert", "--key", "--ssl"],
      "Settings of TLS stand in the URL of '--broker': amqps://HOST/?cacertfile=FILE&certfile=FILE&keyfile=FILE."),
    Habit(["--user", "--username", "--password"], "Use '--broker' or AMQP_URL, with the login in the URL."),
    Habit(["-X"], "Settings of the connection stand in the URL of '--broker': amqp://HOST/VHOST?heartbeat=30."),
  ]

  static let publishing: Self =
    brokers + [
      Habit(["-r"], "Use '--routing-key KEY' with '--exchange NAME'; a QUEUE alone is the operand."),
      Habit(
        ["--body", "-d", "--data", "--payload", "-m"], "The message is the second operand: msctl publish QUEUE MESSAGE."
      ),
      Habit(["-b"], "The message is the second operand: msctl publish QUEUE MESSAGE. The broker is '--broker URL'."),
      Habit(["-t", "--topic", "--queue", "-Q"], "The queue is the first operand: msctl publish QUEUE."),
      Habit(["-p", "--persistent"], "Messages are persistent by themselves; '--transient' turns that off."),
      Habit(["-C"], "Use '--content-type TYPE'."),
      Habit(["-P"], "'msctl publish' is the producer: it needs no option for that."),
      Habit(
        ["--timeout", "--max-time"], "Use '--confirm-timeout TIME', '--reconnect-for TIME' or '--reply-timeout TIME'."),
      Habit(["--json"], "A message is JSON by itself; '--text' takes any text."),
    ]

  static let consuming: Self =
    brokers + [
      Habit(["--queue", "-t", "--topic", "-Q"], "The queue is an operand: msctl consume QUEUE."),
      Habit(["-C"], "'msctl consume' is the consumer: it needs no option for that."),
      Habit(["-c"], "Use '--count N'."),
      Habit(["--exit"], "Use '--drain': it ends once the queue is empty."),
      Habit(["-G", "--group"], "Consumers of one queue share its messages: no group is needed."),
      Habit(["-J"], "Use '--envelope'."),
      Habit(["-o"], "Use '--stream' with '--offset first', 'last', 'next' or a number."),
      Habit(["-p"], "Use '--prefetch N'."),
      Habit(["-A", "--no-ack"], "A message is acknowledged once its line is written; '--peek' puts it back."),
      Habit(["-d", "--declare"], "A queue that is not there is declared by itself; '--passive' turns that off."),
      Habit(["--timeout", "--max-time"], "Use '--for TIME' (the whole run) or '--idle TIME' (without a message)."),
      Habit(
        ["-f", "--format", "--json"],
        "Each message is a line of JSON by itself; '--envelope' has all that surrounds it."),
    ]

  /// The consul command (https://developer.hashicorp.com/consul/commands).
  static let consul: Self = [
    Habit(["--http-addr"], "Use '--consul-addr URL', or set CONSUL_HTTP_ADDR."),
    Habit(["--token", "--token-file"], "Set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE."),
    Habit(["--name", "--service"], "The name of the service is an operand."),
    Habit(["--json", "-j"], "JSON is what is written by itself."),
  ]

  static let registering: Self =
    consul + [
      Habit(
        ["--timeout", "--max-time"],
        "Use '--check-timeout TIME' for the checks; '--wait' waits for the instance to pass."),
      Habit(["--ttl"], "Use '--check ttl=TIME'."),
      Habit(["--http"], "Use '--check http=/PATH'."),
      Habit(
        ["-d", "--detach"], "Without COMMAND, 'register' returns at once; 'msctl register NAME --remove' removes it."),
    ]

  static let discovering: Self =
    consul + [
      Habit(["--datacenter"], "Use '--dc NAME'."),
      Habit(["--timeout", "--max-time"], "Use '--wait TIME'."),
      Habit(["--passing"], "Passing instances are listed by themselves; '--status' chooses others."),
    ]
}
