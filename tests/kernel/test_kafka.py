"""Kafka: librdkafka's mock cluster, and what its clients' own statistics count of each kind of request."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sidelight.agent import decode, protocols
from tests.observed import Observed, observed

KAFKA = protocols.KAFKA
PEERS = Path(__file__).parent.parent / "peers"
CASES = ("produce", "idempotent", "silent", "transactions", "consume")


def counted(watch: Observed, role: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for (end, protocol, method, _, _), n in watch.drain().exchanges.items():
        if end == role and protocol == KAFKA.number:
            found[KAFKA.method(method)] += n
    return found


def ask(servers: str, *cases: str, start: object = None) -> Counter[str]:
    """What the client says of itself, run here or in the observed cgroup."""
    command = [sys.executable, str(PEERS / "kafka_client.py"), servers, *cases]
    if start is None:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    else:
        process = start("client", command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # type: ignore[operator]
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return Counter(json.loads(said))


def broker(start: object) -> tuple[subprocess.Popen[bytes], str]:
    process = start([sys.executable, str(PEERS / "kafka_broker.py")])  # type: ignore[operator]
    assert process.stdout
    return process, process.stdout.readline().decode().strip()


@pytest.mark.parametrize("case", CASES)
def test_requests_of_each_kind_at_the_client(case: str) -> None:
    with observed() as watch:
        process, servers = broker(
            lambda command: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        try:
            said = ask(servers, case, start=watch.start)
        finally:
            process.kill()
            process.wait()
        watch.settle()
        found = counted(watch, "client")
        for name in (
            "Produce",
            "InitProducerId",
            "AddPartitionsToTxn",
            "EndTxn",
            "JoinGroup",
            "SyncGroup",
            "OffsetCommit",
        ):
            feeds = name == "Produce" and case == "consume"
            assert found[name] == said[name] or feeds, (name, found, said)
        watch.assert_books()
        counters = watch.source.counters()
        # librdkafka's broker answers what is produced with acks=0 as well, which no other one does
        assert counters["exchange_unmatched"] == (said["Produce"] if case == "silent" else 0)
        assert counters["lost_commands_sync"] == 0
        if case == "silent":
            silent = sum(
                n for (_, _, _, status, _), n in watch.totals.exchanges.items() if status == protocols.STATUS_SILENT
            )
            assert silent == said["Produce"] == 60


@pytest.mark.parametrize("case", ("produce", "transactions"))
def test_requests_of_each_kind_at_the_broker(case: str) -> None:
    with observed() as watch:
        process, servers = broker(
            lambda command: watch.start("broker", command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        said = ask(servers, case)
        watch.processes.stop(process)
        watch.settle()
        found = counted(watch, "server")
        for name in ("Produce", "AddPartitionsToTxn", "EndTxn"):
            assert found[name] == said[name], (name, found, said)
        watch.assert_books()


def test_topics_are_operations() -> None:
    with observed() as watch:
        process, servers = broker(
            lambda command: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        try:
            ask(servers, "produce", start=watch.start)
        finally:
            process.kill()
            process.wait()
        operations = decode.decode(watch.read_events()).operations
        assert "topic-produce" in operations.values()
        watch.drain()
        named = {operations.get(operation) for (_, protocol, method, _, operation), n in watch.totals.exchanges.items()
                 if protocol == KAFKA.number and KAFKA.method(method) == "Produce"}  # fmt: skip
        assert named == {"topic-produce"}
