"""librdkafka's mock cluster as a process of its own: says where it listens, then waits."""

import sys
import time

from confluent_kafka import Producer

cluster = Producer(
    {"bootstrap.servers": "mock", "test.mock.num.brokers": sys.argv[1] if len(sys.argv) > 1 else "1", "log_level": 0}
)
brokers = cluster.list_topics(timeout=20).brokers.values()
print(",".join(f"127.0.0.1:{broker.port}" for broker in brokers), flush=True)
time.sleep(3600)
