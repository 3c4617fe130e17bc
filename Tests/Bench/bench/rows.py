"""What is measured: the rows of each family, the costs that grow, and the memory of long streams."""

import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .measure import (
    MILLISECONDS,
    SECONDS,
    Goal,
    Growth,
    Row,
    Subject,
    equals,
    has_lines,
    has_size,
    per_item,
    same_file,
    same_json,
)
from .services import ANSWER, QUEUE, ROOT, Agent, Broker, UnavailableError, other_broker

BODY = '{"id":1,"total":9.90}'
INSTANCES = range(10000, 15000)  # the ports of large-service
PIKA = ["/usr/bin/python3", f"{ROOT}/Tests/Bench/pika_peer.py"]


@dataclass
class Setting:
    """What the rows stand on."""

    folder: Path
    is_quick: bool
    tls: Path
    broker: Broker
    agent: Agent
    port: int  # of nginx, for http
    secure: int  # and for https

    def pick(self, full, quick):
        return quick if self.is_quick else full

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    def write(self, name, text):
        file = self.folder / name
        file.write_text(text)
        return file

    def orders(self, count):
        """A file with so many messages, a line each."""
        file = self.folder / f"orders.{count}.json"
        if not file.exists():
            with open(file, "w") as lines:
                lines.writelines(
                    f'{{"id":{number},"customer":"c-{number % 977}","total":{number % 500}.{number % 100:02},'
                    f'"items":[{{"sku":"s-{number % 4999}","n":{number % 7}}}]}}\n'
                    for number in range(count)
                )
        return file

    def ids(self, count):
        return self.write(f"ids.{count}", "".join(f'{{"id":{number}}}\n' for number in range(count)))


def default_of(verb, option):
    """What msctl has by default, by its own help: the C loop gets the same."""
    text = subprocess.check_output(["msctl", "help", verb], text=True)
    return re.search(option + r"\b[^-]*?[Dd]efault:?\s+(\d+)", text).group(1)


# Start-up


def start_up(setting):
    # With the agent's address set its form is checked; where a shell starts it seldom is.
    alone = partial(Subject, without=("CONSUL_HTTP_ADDR",))
    subjects = [
        alone("msctl --help", ["msctl", "--help"], goals=(Goal(0.2),)),
        alone("msctl completion bash", ["msctl", "completion", "bash"], goals=(Goal(0.2),)),
        alone("msctl --version", ["msctl", "--version"], goals=(Goal(0.25),)),
        alone("curl --version", ["curl", "--version"]),
        alone("true", ["true"]),
    ]
    yield Row("start-up", MILLISECONDS, "curl --version", setting.pick(200, 40), subjects)


# Calls and discovery


def calls(setting):
    yield one_call(setting)
    yield from one_https_call(setting)
    yield one_call_by_name(setting)
    yield discover(setting)
    yield many_instances(setting)


def one_call(setting):
    url = setting.url("users/42")
    subjects = [
        Subject("msctl call URL", ["msctl", "call", url], check=same_json, goals=(Goal(0.4),)),
        Subject("curl -s URL", ["curl", "-s", url], check=equals(ANSWER)),
        Subject("http URL", ["http", "--ignore-stdin", "--body", url], check=same_json, rounds=setting.pick(20, 5)),
    ]
    return Row("one call by URL", MILLISECONDS, "curl -s URL", setting.pick(200, 40), subjects)


def one_https_call(setting):
    """With one CA certificate, and with all of Debian's, which take longer to read than the call."""
    url = f"https://127.0.0.1:{setting.secure}/users/42"
    own = setting.tls / "ca.pem"
    bundle = setting.write("bundle.pem", Path("/etc/ssl/certs/ca-certificates.crt").read_text() + own.read_text())
    for title, file, goals in (
        ("one https call", own, (Goal(0.65),)),
        ("one https call, with Debian's CA certificates", bundle, ()),
    ):
        subjects = [
            Subject("msctl call URL", ["msctl", "call", "--cacert", file, url], check=same_json, goals=goals),
            Subject("curl -s URL", ["curl", "-s", "--cacert", file, url], check=equals(ANSWER)),
        ]
        yield Row(title, MILLISECONDS, "curl -s URL", setting.pick(100, 25), subjects)


def one_call_by_name(setting):
    health, url = setting.agent.health("user-service"), setting.url("users/42")
    other = setting.folder / "health"
    address = "$(consul catalog nodes -service=user-service | awk 'NR == 2 { print $3 }')"
    subjects = [
        Subject("msctl call NAME/path", ["msctl", "call", "user-service/users/42"], check=same_json, goals=(Goal(0.45),)),
        Subject("one curl with both URLs", ["curl", "-s", "-o", other, health, url], check=equals(ANSWER)),
        Subject("two curls", f"curl -s '{health}' >/dev/null; curl -s {url}", check=equals(ANSWER)),
        Subject(
            "consul and curl",
            f"curl -s http://{address}:{setting.port}/users/42",
            check=equals(ANSWER),
            rounds=setting.pick(30, 8),
        ),
    ]
    return Row("one call by name", MILLISECONDS, "one curl with both URLs", setting.pick(100, 25), subjects)


def discover(setting):
    subjects = [
        Subject(
            "msctl discover NAME -o url",
            ["msctl", "discover", "user-service", "-o", "url"],
            check=equals(f"http://127.0.0.1:{setting.port}\n"),
            goals=(Goal(0.42),),
        ),
        Subject("curl of the same", ["curl", "-s", setting.agent.health("user-service")]),
        Subject(
            "consul catalog nodes -service",
            ["consul", "catalog", "nodes", "-service=user-service"],
            check=has_lines(2),
            rounds=setting.pick(30, 8),
        ),
    ]
    return Row("discover one instance", MILLISECONDS, "curl of the same", setting.pick(100, 25), subjects)


def many_instances(setting):
    count = len(INSTANCES)
    health = setting.agent.health("large-service")
    subjects = [
        Subject(
            "msctl discover -o json",
            ["msctl", "discover", "large-service", "-o", "json"],
            check=has_lines(count),
            goals=(Goal(1.25),),
        ),
        Subject("curl", ["curl", "-s", health]),
        Subject("curl to jq", f"curl -s '{health}' | jq -c '.[]'", check=has_lines(count), rounds=setting.pick(10, 3)),
    ]
    return Row(f"{count:,} instances", MILLISECONDS, "curl", setting.pick(30, 8), subjects)


# Messages. A subject that sends finds its queue empty, and is to leave `count` there; one that takes finds `count` there, and
# is to write them all.


def sends(broker, lines, count):
    return {"stdin": lines, "before": broker.empty, "check": lambda _: broker.holds(count)}


def takes(broker, lines, count):
    return {"before": lambda: broker.fill(lines, count), "check": same_file(lines)}


def msctl_publish(broker):
    return ["msctl", "publish", "-q", QUEUE, "--broker", broker.url]


def msctl_consume(broker, count):
    return ["msctl", "consume", QUEUE, "--count", str(count), "--broker", broker.url]


def amqp_publish(broker, *words):
    return ["amqp-publish", "-u", broker.url, "-r", QUEUE, "-p", *words]


def loop(verb, broker, *words):
    return ["loop", verb, "127.0.0.1", broker.port, QUEUE, *words]


def messages(setting):
    yield one_publish(setting)
    yield one_consume(setting)


def one_publish(setting):
    broker, sent = setting.broker, []

    def arrived(_):
        sent.append(1)
        return broker.holds(len(sent))

    reference = "amqp-publish (not declared, not confirmed)"
    line = setting.write("one.json", BODY + "\n")
    subjects = [
        Subject("msctl publish", ["msctl", "publish", "-q", QUEUE, BODY], check=arrived, goals=(Goal(0.9),)),
        Subject(reference, amqp_publish(broker, "-b", BODY), check=arrived),
        Subject("C loop, confirmed", loop("publish", broker, "1"), stdin=line, check=arrived),
    ]
    broker.empty()
    return Row("one publish", MILLISECONDS, reference, setting.pick(100, 25), subjects)


def one_consume(setting):
    broker, line = setting.broker, setting.write("one.json", BODY + "\n")
    taking = partial(Subject, before=lambda: broker.fill(line, 1))
    subjects = [
        taking(
            "msctl consume --count 1",
            ["msctl", "consume", "-q", QUEUE, "--count", "1"],
            check=equals(BODY + "\n"),
            goals=(Goal(0.9),),
        ),
        taking("amqp-consume -c 1 cat", ["amqp-consume", "-u", broker.url, "-q", QUEUE, "-c", "1", "cat"], check=equals(BODY)),
        taking("amqp-get (no subscription)", ["amqp-get", "-u", broker.url, "-q", QUEUE], check=equals(BODY)),
        taking("C loop", loop("consume", broker, "1", "1"), check=equals(BODY + "\n")),
    ]
    return Row("one consume", MILLISECONDS, "amqp-consume -c 1 cat", setting.pick(50, 12), subjects)


# Streams of messages


def streams(setting):
    """A sentence instead of rows where there is only the one broker."""
    count = setting.pick(200_000, 20_000)
    yield many_publish(setting, setting.broker, count)
    yield many_consume(setting, setting.broker, count)
    yield consume_through(setting, count)
    try:
        with other_broker("4.3", setting.folder / "services-4.3") as newer:
            yield many_publish(setting, newer, count)
            yield many_consume(setting, newer, count)
    except UnavailableError as reason:
        yield f"Streams of messages were not measured on RabbitMQ 4.3: {reason}\n"


def stream_goals(broker, limit):
    """Goals of a stream beside the C loop. What msctl costs shows on 4.3; on 3.10 the broker takes most of the time, and
    `limit` is what that differs by from run to run."""
    return (Goal(1.0 if broker.version == "4.3" else limit), Goal(1.5, of="cpu"))


def many_publish(setting, broker, count):
    few = count // 10
    sending = partial(Subject, **sends(broker, setting.orders(count), count))
    pika = " ".join([*PIKA, "publish", broker.url, QUEUE])
    subjects = [
        sending("msctl publish", msctl_publish(broker), goals=stream_goals(broker, 1.05)),
        sending("C loop, the same window", loop("publish", broker, default_of("publish", "--window"))),
        sending("amqp-publish -l (not confirmed)", amqp_publish(broker, "-l")),
        Subject("pika with confirms (a tenth)", pika, **sends(broker, setting.orders(few), few), work=few / count, rounds=1),
    ]
    title = f"publish {count:,} JSON lines, RabbitMQ {broker.version}"
    return Row(title, per_item(count, "message"), "C loop, the same window", setting.pick(5, 2), subjects, warmup=0)


def many_consume(setting, broker, count):
    few, prefetch = count // 100, default_of("consume", "--prefetch")
    taking = partial(Subject, **takes(broker, setting.orders(count), count), is_piped=True)
    lines = setting.orders(few)
    size = lines.stat().st_size
    subjects = [
        taking("msctl consume", msctl_consume(broker, count), goals=stream_goals(broker, 1.1)),
        taking("C loop, the same prefetch", loop("consume", broker, prefetch, str(count))),
        taking("pika", [*PIKA, "consume", broker.url, QUEUE, str(count)], rounds=1),
        Subject(
            "amqp-consume ... cat (a hundredth)",
            f"amqp-consume -u {broker.url} -q {QUEUE} -p {prefetch} -c {few} cat",
            before=lambda: broker.fill(lines, few),
            # With or without the end of each line.
            check=has_size(size, size - few),
            work=few / count,
            rounds=1,
        ),
    ]
    title = f"consume {count:,}, acknowledged, to a pipe, RabbitMQ {broker.version}"
    # Not fewer rounds where there is less to do: what the broker does to so few differs more than it should.
    return Row(title, per_item(count, "message"), "C loop, the same prefetch", 5, subjects, warmup=0)


def consume_through(setting, count):
    broker = setting.broker
    taking = partial(Subject, **takes(broker, setting.orders(count), count))
    command = msctl_consume(broker, count)
    subjects = [
        taking("msctl consume --through cat", [*command, "--through", "cat"], goals=(Goal(1.4),)),
        taking("msctl consume", command),
    ]
    title = f"consume {count:,} through a filter, RabbitMQ {broker.version}"
    return Row(title, per_item(count, "message"), "msctl consume", setting.pick(5, 3), subjects, warmup=0)


# Many calls


def each_call(setting, count, parallel):
    """So many calls of `call --each`."""
    command = ["msctl", "call", setting.url("users/{id}"), "--each", "--parallel", str(parallel)]
    return Subject("msctl call --each", command, stdin=setting.ids(count), check=has_lines(count), goals=(Goal(0.95),))


def many_calls(setting):
    count = setting.pick(20_000, 4_000)
    few, url = count // 10, setting.url("users")
    urls = setting.write("urls", "".join(f'url = "{url}/{number}"\n' for number in range(count)))
    for parallel in (1, 16, 250):
        curl = ["curl", "-s", "-Z", "--parallel-max", str(parallel), "-K", urls]
        subjects = [each_call(setting, count, parallel), Subject("curl -Z", curl, check=has_lines(count))]
        if parallel == 16:
            subjects.append(
                Subject(
                    "xargs -P16 curl (a tenth)",
                    f"seq {few} | xargs -P16 -I@ curl -s {url}/@",
                    check=has_lines(few),
                    work=few / count,
                    rounds=setting.pick(2, 1),
                )
            )
        row = Row(f"{count:,} calls, {parallel} at a time", per_item(count, "call"), "curl -Z", setting.pick(7, 3), subjects)
        yield row
        row.subjects.append(most_calls(setting, count, parallel))


def most_calls(setting, count, parallel):
    """wrk knows times, not numbers, so that it cannot take turns: its rate is the limit."""
    command = ["wrk", "-t1", f"-c{parallel}", f"-d{setting.pick(10, 3)}s", setting.url("users/42")]
    text = subprocess.check_output(command, text=True)
    return Subject("wrk (the limit)", [], times=[count / float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))])


# JSON


def json(setting):
    yield json_stream(setting, setting.pick(100, 20))
    yield tiny_values(setting, setting.pick(16, 4))


def json_stream(setting, megabytes):
    text = setting.orders(10_000).read_text()
    copies = megabytes * 1_000_000 // len(text) + 1
    file = setting.write("stream.json", text * copies)
    reading = partial(Subject, stdin=file)
    subjects = [
        reading("msctl's reader and writer", ["JSONPipe"], check=same_file(file), goals=(Goal(speed=15),)),
        # jq makes 64-bit floats of numbers: 9.90 becomes 9.9, so that only the number of values is the same.
        reading("jq -c .", ["jq", "-c", "."], check=has_lines(text.count("\n") * copies), rounds=setting.pick(3, 1)),
        reading("cat (the limit)", ["cat"], check=same_file(file)),
    ]
    return Row(f"a JSON stream of {megabytes} MB", SECONDS, "jq -c .", setting.pick(7, 3), subjects)


def tiny_values(setting, megabytes):
    count = megabytes * 500_000
    reading = partial(Subject, stdin=setting.write("tiny.json", "1 " * count + "\n"), check=has_lines(count))
    subjects = [
        reading("msctl's reader and writer", ["JSONPipe"], goals=(Goal(speed=8),)),
        reading("jq -c .", ["jq", "-c", "."], rounds=setting.pick(3, 1)),
    ]
    return Row(f"{count:,} JSON values of one byte", SECONDS, "jq -c .", setting.pick(7, 3), subjects)


# Name -> title, and what yields the rows one after the other, each made when the one before has been measured. A sentence
# instead of a row says why there is none.
FAMILIES = {
    "start-up": ("Start-up", start_up),
    "calls": ("Calls and discovery", calls),
    "messages": ("One message", messages),
    "streams": ("Streams of messages", streams),
    "many-calls": ("Many calls", many_calls),
    "json": ("JSON", json),
}


# Costs that grow


def nested(size):
    """Arrays within arrays, as deep as msctl reads them (1,024), again and again."""
    value = "[" * 1000 + "1" + "]" * 1000 + "\n"
    return value * (size // len(value) + 1)


SHAPES = {
    "deep nesting": nested,
    "one huge string": lambda size: '"' + "x" * size + '"\n',
    "one huge array of numbers": lambda size: "[" + ",".join(["1.5"] * (size // 4)) + "]\n",
    "many tiny values": lambda size: "1 " * (size // 2) + "\n",
    "escapes": lambda size: '"' + "\\u00e9\\n" * (size // 8) + '"\n',
}


def published(setting, size):
    return Subject("msctl publish", msctl_publish(setting.broker), **sends(setting.broker, setting.orders(size), size))


def consumed(setting, size):
    return Subject("msctl consume", msctl_consume(setting.broker, size), **takes(setting.broker, setting.orders(size), size))


def growing(setting):
    sizes = [size * setting.pick(4, 1) for size in (2, 4, 8, 16)]
    for shape, text in SHAPES.items():

        def shaped(megabytes, text=text):
            return Subject("JSONPipe", ["JSONPipe"], stdin=setting.write(f"shape.{megabytes}.json", text(megabytes * 1_000_000)))

        yield Growth(f"JSON stream: {shape}", "s/MB", sizes, shaped, 1, "{} MB".format)
    counts = [count * setting.pick(5, 1) for count in (1000, 2000, 4000, 8000)]
    yield Growth("call --each", "µs/call", counts, partial(each_call, setting, parallel=16), 1e-6)
    counts = [count * setting.pick(4, 1) for count in (2500, 5000, 10000, 20000)]
    yield Growth("publish", "µs/message", counts, partial(published, setting), 1e-6)
    yield Growth("consume", "µs/message", counts, partial(consumed, setting), 1e-6)


# Memory over a long stream


def flooded(setting, size):
    sending = sends(setting.broker, setting.orders(size), size)
    return Subject("amqp-publish -l", amqp_publish(setting.broker, "-l"), **sending)


def long_streams(setting):
    """Peaks over a tenth of a stream and over all of it: what is flat does not grow."""
    count = setting.pick(1_000_000, 50_000)
    print(f"memory over {count:,} messages ...", file=sys.stderr, flush=True)
    for work in (published, flooded, consumed):
        pair = [work(setting, size) for size in (count // 10, count)]
        for subject in pair:
            subject.run(setting.folder)
        yield pair, count
