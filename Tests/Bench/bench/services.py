"""What is measured on: brokers, an agent, and an nginx that answers."""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path

import pika

ROOT = Path(__file__).resolve().parents[3]
QUEUE = "bench"
ANSWER = json.dumps({"id": 42, "name": "Ada Lovelace", "tags": ["a", "b"], "note": "x" * 200}) + "\n"


class Broker:
    """A broker, and the queue of it that the rows share."""

    def __init__(self, url, version):
        self.url = url
        self.port = str(urllib.parse.urlparse(url).port)
        self.version = version
        self.connection = None

    def channel(self):
        if self.connection is None or not self.connection.is_open:
            self.connection = pika.BlockingConnection(pika.URLParameters(self.url + "/%2f?heartbeat=0"))
        return self.connection.channel()

    def empty(self):
        channel = self.channel()
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True)
        channel.close()

    def count(self):
        channel = self.channel()
        count = channel.queue_declare(QUEUE, passive=True).method.message_count
        channel.close()
        return count

    def holds(self, count):
        """Waits until the queue has so many: who does not wait for confirms ends before they are all there."""
        end = time.monotonic() + 60
        while self.count() != count:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def fill(self, file, count):
        self.empty()
        with open(file) as lines:
            subprocess.run(["loop", "publish", "127.0.0.1", self.port, QUEUE, "2000"], stdin=lines, check=True)
        if not self.holds(count):
            raise SystemExit(f"bench: the queue did not get its {count} messages")


class UnavailableError(Exception):
    """Why there is no such broker."""


@contextlib.contextmanager
def other_broker(version, folder):
    """A broker of another version, with services of its own, for as long as the block runs."""
    script = ROOT / "Scripts/services"
    try:
        for words in (["available", version], ["start", folder]):
            done = subprocess.run(
                [script, *words], env={**os.environ, "RABBITMQ": version}, stderr=subprocess.PIPE, text=True, check=False
            )
            if done.returncode != 0:
                raise UnavailableError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        yield Broker(re.search(r"AMQP_URL=(\S+)", (folder / "env").read_text()).group(1), version)
    finally:
        subprocess.run([script, "stop", folder], check=False)


class Agent:
    """The Consul agent, where the rows find their instances."""

    def __init__(self, url):
        self.url = url
        self.address = urllib.parse.urlparse(url)

    def health(self, name):
        """What lists the passing instances of a service."""
        return f"{self.url}/v1/health/service/{name}?passing"

    def put(self, target, *values):
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port)
        for value in values:
            connection.request("PUT", target, json.dumps(value))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise SystemExit(f"bench: the agent refused {target}: {body}")

    def register(self, name, port):
        self.put("/v1/agent/service/register", {"Name": name, "Address": "127.0.0.1", "Port": port})

    def register_many(self, name, ports):
        """In the catalog, 64 operations at a time (PUT /v1/txn)."""
        operations = [{"Node": {"Verb": "set", "Node": {"Node": "bench", "Address": "127.0.0.1"}}}]
        operations += [
            {
                "Service": {
                    "Verb": "set",
                    "Node": "bench",
                    "Service": {
                        "ID": f"{name}-{number}",
                        "Service": name,
                        "Address": "127.0.0.1",
                        "Port": port,
                        "Tags": ["v1", "primary"],
                        "Meta": {"version": "1.2.3"},
                    },
                }
            }
            for number, port in enumerate(ports)
        ]
        self.put("/v1/txn", *(operations[start : start + 64] for start in range(0, len(operations), 64)))


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def nginx(folder, tls):
    """Answers every path with ANSWER, for as long as the block runs: on two ports, for http and https."""
    port, secure = free_ports(2)
    (folder / "answer.json").write_text(ANSWER)
    temporary = "".join(f"{kind}_temp_path {folder}/nginx;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;"
        "events { worker_connections 1024; }"
        f"http {{ access_log off; keepalive_requests 10000000; {temporary}"
        f"ssl_certificate {tls}/cert.pem; ssl_certificate_key {tls}/key.pem;"
        f"server {{ listen 127.0.0.1:{port}; listen 127.0.0.1:{secure} ssl; root {folder};"
        " location / { default_type application/json;"
        " rewrite ^ /answer.json break; } } }"
    )
    with subprocess.Popen(["nginx", "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL) as server:
        try:
            await_answer(port)
            yield port, secure
        finally:
            server.terminate()


def await_answer(port):
    for _ in range(100):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/x")
            if connection.getresponse().read().decode() == ANSWER:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit("bench: nginx did not start")
