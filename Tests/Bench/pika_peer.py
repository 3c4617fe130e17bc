"""The same work with pika (https://pika.readthedocs.io), as its own examples do it: a blocking connection.

pika_peer.py publish URL QUEUE < LINES     each line a persistent message, confirmed before the next is sent
pika_peer.py consume URL QUEUE COUNT       each body a line, acknowledged one by one
"""
import sys

import pika


def publish(channel, queue):
    channel.confirm_delivery()
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
    for line in sys.stdin.buffer:
        channel.basic_publish("", queue, line.rstrip(b"\n"), properties, mandatory=True)


def consume(channel, queue, count):
    channel.basic_qos(prefetch_count=256)
    for number, (method, _, body) in enumerate(channel.consume(queue), 1):
        sys.stdout.buffer.write(body + b"\n")
        channel.basic_ack(method.delivery_tag)
        if number == count:
            break
    sys.stdout.buffer.flush()
    channel.cancel()


connection = pika.BlockingConnection(pika.URLParameters(sys.argv[2] + "/%2f"))
if sys.argv[1] == "publish":
    publish(connection.channel(), sys.argv[3])
else:
    consume(connection.channel(), sys.argv[3], int(sys.argv[4]))
connection.close()
