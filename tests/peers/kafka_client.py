"""A Kafka client by librdkafka: `kafka_client.py SERVERS CASE...`; says as JSON how many requests of each kind its own statistics count."""

import json
import sys
import time
from collections import Counter

from confluent_kafka import Consumer, Producer

servers, cases = sys.argv[1], sys.argv[2:]
counts = Counter()


def client(kind, **more):
    """One whose last statistics are added to the counts when it is closed."""
    last = {}

    def said(text):
        last.clear()
        for broker in json.loads(text)["brokers"].values():
            for name, n in broker["req"].items():
                last[name] = last.get(name, 0) + n

    made = kind({"bootstrap.servers": servers, "statistics.interval.ms": 50, "stats_cb": said, "log_level": 0, **more})
    return made, last


def close(made, last):
    for _ in range(8):
        made.poll(0.05)
        time.sleep(0.03)
    counts.update(last)


for case in cases:
    topic = f"topic-{case}"
    if case == "produce":
        one, last = client(Producer, **{"linger.ms": 0})
        for n in range(100):
            one.produce(topic, b"x" * 100, key=str(n))
            one.flush()
    elif case == "idempotent":
        one, last = client(Producer, **{"enable.idempotence": True, "linger.ms": 1})
        for n in range(500):
            one.produce(topic, f"message {n}".encode())
        one.flush()
    elif case == "silent":
        one, last = client(Producer, **{"acks": 0, "linger.ms": 0})
        for _ in range(60):
            one.produce(topic, b"nobody answers")
            one.flush()
    elif case == "transactions":
        one, last = client(Producer, **{"transactional.id": "t"})
        one.init_transactions(20)
        for n in range(3):
            one.begin_transaction()
            one.produce(topic, b"x")
            one.commit_transaction(20) if n != 1 else one.abort_transaction(20)
    elif case == "consume":
        feeder = Producer({"bootstrap.servers": servers, "log_level": 0})
        for n in range(100):
            feeder.produce(topic, f"message {n}".encode())
        feeder.flush()
        one, last = client(
            Consumer,
            **{"group.id": "g", "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50, "enable.auto.commit": False},
        )
        one.subscribe([topic])
        got = 0
        while got < 100:
            message = one.poll(10)
            got += message is not None and message.error() is None
        one.commit(asynchronous=False)
        close(one, last)
        one.close()
        continue
    close(one, last)
    one.flush() if hasattr(one, "flush") else None
print(json.dumps(counts))
