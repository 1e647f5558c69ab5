"""Data stores through a real agent: Redis, memcached, PostgreSQL and MariaDB asked once each, and every way in which that is read again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_apis import otlp_backend
from tests.kernel import test_memcached, test_mysql, test_postgresql, test_redis
from tests.observed import eventually
from tests.running import Running, flows_of, running

ASK = """
import sys
kind, port = sys.argv[1], int(sys.argv[2])
if kind == "redis":
    import redis
    one = redis.Redis(port=port, lib_name=None, lib_version=None)
    for n in range(20): one.set(f"key{n}", n); one.get(f"key{n}")
    one.hset("hash", "a", 1)
    try: one.execute_command("INCR", "hash")
    except redis.ResponseError: pass
elif kind == "memcached":
    from pymemcache.client.base import Client
    one = Client(("127.0.0.1", port), default_noreply=False)
    for n in range(10): one.set(f"key{n}", b"x"); one.get(f"key{n}"); one.get(f"none{n}")
elif kind == "postgresql":
    import psycopg
    with psycopg.connect(host="127.0.0.1", port=port, user="test", dbname="postgres", sslmode="disable") as one:
        for n in range(10): one.execute("select 'secret', %s", (n,))
        one.execute("insert into items values (%s, 'secret')", (int(sys.argv[3]),))
        one.commit()
        try: one.execute("select secret from nowhere")
        except psycopg.Error: pass
        one.rollback()
else:
    import pymysql
    one = pymysql.connect(host="127.0.0.1", port=port, user="root", database="shop", autocommit=True)
    with one.cursor() as cursor:
        for n in range(10): cursor.execute("select 'secret', %s", (n,)); cursor.fetchall()
        try: cursor.execute("select secret")
        except pymysql.Error: pass
    one.close()
"""
TRUTH = {
    "redis": {"SET": 20, "GET": 20, "HSET": 1, "INCR WRONGTYPE": 1},
    "memcached": {"SET": 10, "GET": 10, "GET MISS": 10},
    "postgresql": {"BEGIN": 2, "SELECT": 10, "INSERT": 1, "COMMIT": 1, "SELECT 42P01": 1, "ROLLBACK": 1},
    "mysql": {"SELECT": 10, "SELECT 1054": 1},
}
"""What the client asks, and no server refuses but these."""


class Place:
    """An agent and the four servers."""

    def __init__(self, agent: Running, scratch: Path) -> None:
        self.agent = agent
        for name in ("postgresql", "mysql"):
            (scratch / name).mkdir()
        starter = Starter(agent)
        self.ports = {
            "redis": test_redis.Server(starter).port,  # type: ignore[arg-type]
            "memcached": test_memcached.Server(starter).port,  # type: ignore[arg-type]
            "postgresql": test_postgresql.Server(starter, scratch / "postgresql").port,  # type: ignore[arg-type]
            "mysql": test_mysql.Server(starter, scratch / "mysql").port,  # type: ignore[arg-type]
        }
        self.asked = 0

    def ask(self, kind: str) -> None:
        self.asked += 1
        command = [sys.executable, "-c", ASK, kind, str(self.ports[kind]), str(self.asked)]
        assert self.agent.processes.start(f"asks-{kind}", command).wait(60) == 0

    def commands(self, kind: str, side: str = "client") -> dict[str, int]:
        found: Counter[str] = Counter()
        for labels, value in self.agent.samples(f"db_{side}_operation_duration_seconds_count", db_system_name=kind):
            found[f"{labels['db_operation_name']} {labels.get('db_response_status_code', '')}".strip()] += int(value)
        return {name: n for name, n in found.items() if name in TRUTH[kind]}


class Starter:
    """What the servers' classes want of tests.observed.Observed."""

    def __init__(self, agent: Running) -> None:
        self.start = agent.processes.start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    metrics = [
        argument
        for group in ("http", "db", "tcp", "istio", "servicegraph", "hubble")
        for argument in ("--metrics", group)
    ]
    with running(*metrics, "--event-rate", "100000") as agent:
        found = Place(agent, tmp_path_factory.mktemp("stores"))
        for kind in found.ports:
            found.ask(kind)
        yield found


@pytest.mark.parametrize("kind", list(TRUTH))
def test_operations_at_the_client(place: Place, kind: str) -> None:
    """The client's end is the asking processes' alone: what the tests ask of the servers themselves is not observed there."""
    eventually(lambda: place.commands(kind) == TRUTH[kind], 10, lambda: place.commands(kind))
    for labels, _ in place.agent.samples("db_client_operation_duration_seconds_count", db_system_name=kind):
        status = labels.get("db_response_status_code", "")
        assert labels.get("error_type", "") == ("" if status == "MISS" else status)
    served = place.commands(kind, "server")
    assert all(served[name] >= n for name, n in TRUTH[kind].items())
    first = place.agent.total("sidelight_db_first_bytes_total", db_system_name=kind, reporter="source")
    assert first >= sum(TRUTH[kind].values())
    assert place.agent.total("sidelight_db_first_byte_seconds_total", db_system_name=kind, reporter="source") > 0


def test_transactions(place: Place) -> None:
    def seen(name: str, **labels: str) -> float:
        return place.agent.total(name, db_system_name="postgresql", reporter="source", **labels)

    eventually(lambda: seen("sidelight_db_transaction_duration_seconds_count") == 2, 10)
    assert seen("sidelight_db_transaction_duration_seconds_count", outcome="committed") == 1
    assert seen("sidelight_db_transaction_duration_seconds_count", outcome="rolled_back") == 1
    assert seen("sidelight_db_idle_in_transaction_seconds_count") >= 14, "a statement may be prepared apart"


def test_the_command_line(place: Place) -> None:
    def lines(*arguments: str) -> list[str]:
        return place.agent.cli(
            "tail", "--since", "5m", "--no-follow", "--role", "client", *arguments
        ).stdout.splitlines()

    eventually(lambda: sum(" SET " in line or " GET " in line for line in lines("--protocol", "redis")) == 40)
    [wrong] = lines("--status", "WRONGTYPE")
    assert "INCR WRONGTYPE" in wrong and f":{place.ports['redis']}" in wrong
    assert [line for line in lines("--protocol", "redis", "--failed") if "INCR" in line] == [wrong]
    assert len(lines("--protocol", "memcached", "--status", "MISS")) == 10
    assert not lines("--protocol", "memcached", "--failed")
    assert len(lines("--protocol", "postgresql", "--status", "42P01")) == 1
    assert len(lines("--protocol", "mysql", "--status", "1054")) == 1
    status = place.agent.cli("status").stdout
    for title in ("Redis", "memcached", "PostgreSQL", "MySQL"):
        assert any(line.split()[0] == title and "named" in line for line in status.splitlines() if line.strip()), status
    flows = [flow for flow in flows_of(place.agent, "--protocol", "redis") if flow["sidelight"]["operation"] == "SET"]
    assert (
        flows
        and flows[0]["l7"]["type"] == "RESPONSE"
        and "http" not in flows[0]["l7"]
        and flows[0]["Summary"].startswith("Redis SET")
    )
    assert "secret" not in place.agent.cli("tail", "--since", "5m", "--no-follow", "-o", "json").stdout
    assert not place.agent.broken_laws()


def test_the_text_of_queries_when_asked_for(tmp_path: Path) -> None:
    """Masked: no literal is in a flow."""
    with running("--event-rate", "100000", "--query-text") as agent:
        place = Place(agent, tmp_path)
        for kind in ("postgresql", "mysql"):
            place.ask(kind)

        def lines(protocol: str) -> list[str]:
            return agent.cli(
                "tail", "--since", "5m", "--no-follow", "--role", "client", "--protocol", protocol
            ).stdout.splitlines()

        eventually(
            lambda: sum("select ?, $1" in line for line in lines("postgresql")) >= 5, 10, lambda: lines("postgresql")
        )
        eventually(lambda: sum("select ?, ?" in line for line in lines("mysql")) == 10, 10, lambda: lines("mysql"))
        assert any("insert into items values ($1, ?)" in line for line in lines("postgresql"))
        assert any("select secret from nowhere 42P01" in line for line in lines("postgresql")), "a name is no literal"
        assert "'secret'" not in agent.cli("tail", "--since", "5m", "--no-follow", "-o", "json").stdout


def test_other_peoples_names(place: Place) -> None:
    """To Istio a data store is TCP, to a service graph a database, and HTTP's families have none of it."""
    assert not place.agent.samples("istio_requests_total")
    assert place.agent.total("istio_tcp_connections_opened_total") > 0
    assert place.agent.total("traces_service_graph_request_total", connection_type="database") >= 42
    assert not place.agent.samples("http_client_request_duration_seconds_count")
    assert not place.agent.samples("hubble_http_requests_total")


def test_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the conventions for databases; no text of a query."""
    with otlp_backend(monkeypatch) as (backend, _), running("--otlp", "--event-rate", "100000") as agent:
        place = Place(agent, tmp_path)
        place.ask("redis")
        place.ask("postgresql")

        def of(system: str) -> list[dict[str, str]]:
            attributes = [
                {a.key: a.value.string_value for a in span.attributes} for _, span in backend.spans if span.kind == 3
            ]
            known = {name.split()[0] for name in TRUTH.get(system, ())}
            return [
                found
                for found in attributes
                if found.get("db.system.name") == system and found["db.operation.name"] in known
            ]

        eventually(lambda: len(of("redis")) == 42 and len(of("postgresql")) == 16, 20, lambda: len(backend.spans))
        assert Counter(found["db.operation.name"] for found in of("redis")) == {
            "SET": 20,
            "GET": 20,
            "HSET": 1,
            "INCR": 1,
        }
        [wrong] = [found for found in of("redis") if found.get("error.type") == "WRONGTYPE"]
        assert (
            wrong["db.response.status_code"] == wrong["error.type"] == "WRONGTYPE"
            and wrong["db.query.summary"] == "INCR"
        )
        assert "secret" not in str(of("postgresql"))
        names = Counter(span.name for _, span in backend.spans if span.kind == 3)
        assert names["GET"] == 20 and names["INSERT"] == 1
