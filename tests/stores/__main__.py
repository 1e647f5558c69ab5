"""`python -m tests.stores [--write]`: the data stores' table of docs/exactness.md, each row from a run.

A row: a server, a client, how it asks, and whether the programs were there before its connection or came in its middle. True is what the
server itself counted of what the client asked (Kafka: what the client did, whose broker does not say).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidelight.agent.protocols import KAFKA, MEMCACHED, MYSQL, POSTGRESQL, REDIS, Protocol
from sidelight.agent.vocabulary import OTHER
from tests.kernel import test_kafka, test_memcached, test_mysql, test_postgresql, test_redis
from tests.observed import Observed, eventually, observed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exactness.md"
BEGIN, END = "<!-- written by python -m tests.stores -->", "<!-- to here, stores -->"
ASKED = 2000
SCRIPT, NODE_SCRIPT = Path(__file__).with_name("asks.py"), Path(__file__).with_name("asks.js")
NODE_MODULES = "/var/cache/sidelight/npm/node_modules"
NODE_KINDS = ("mysql2", "mysql2-prepared", "kafkajs")


@dataclass(frozen=True, slots=True)
class Row:
    store: str
    client: str
    shape: str
    attached: str
    true: int
    at_server: int
    at_client: int
    unnamed: int
    untimed: int
    lost: int

    def line(self) -> str:
        mark = "" if self.at_server == self.true else "**"
        named = "all" if not self.unnamed else f"{1 - self.unnamed / max(1, self.at_server + self.at_client):.1%}"
        return (
            f"| {self.store} | {self.client} | {self.shape} | {self.attached} | {self.true} | {mark}{self.at_server}{mark} | {self.at_client} "
            f"| {named} | {self.untimed} | {self.lost} |"
        )


def measure(
    watch: Observed, protocol: Protocol, names: set[str], row: tuple[str, str, str, str], true: int, skip: int = 0
) -> Row:
    """`names`: commands that count, without those that the client asks for itself; empty: all. `skip`: asked by the test itself."""
    watch.settle()
    sums = {"server": -skip, "client": 0}
    unnamed = 0
    for (role, number, method, _, _), n in watch.drain().exchanges.items():
        if number == protocol.number and role in sums:
            unnamed += n if protocol.method(method) in (OTHER, "EXECUTE") else 0
            if not names or protocol.method(method) in names:
                sums[role] += n
    counters = watch.source.counters()
    lost = counters["lost_exchanges"] + counters["exchange_unmatched"]
    return Row(*row, true, sums["server"], sums["client"], unnamed, counters["exchange_untimed"], lost)


def asks(
    watch: Observed, attached: str, kind: str, *arguments: object, before: Callable[[], None] = lambda: None
) -> bytes:
    """A client in the observed cgroup: it asks some, waits for a word, and asks ASKED times. `before`: called right before that word.

    Returns what it said after.
    """
    command = [*_client(kind), kind, str(ASKED), *map(str, arguments)]
    process = watch.start("client", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    if attached == "in the middle":
        assert process.stdout.readline() == b"ready\n"
        watch.attach()
    else:
        assert process.stdout.readline() == b"ready\n"
    before()
    said, _ = process.communicate(b"go\n", timeout=120)
    assert process.returncode == 0
    return said


def _client(kind: str) -> list[str]:
    """What runs it; Node finds its libraries by the environment."""
    if kind in NODE_KINDS:
        return ["env", f"NODE_PATH={NODE_MODULES}", "node", str(NODE_SCRIPT)]
    return [sys.executable, str(SCRIPT)]


def redis_benchmark(pipeline: int) -> Row:
    with observed() as watch:
        server = test_redis.Server(watch)
        command = [
            "redis-benchmark",
            "-p",
            str(server.port),
            "-c",
            "50",
            "-n",
            "20000",
            "-P",
            str(pipeline),
            "-q",
            "-t",
            "get,set,incr,lrange_100",
        ]
        assert watch.start("benchmark", command).wait(120) == 0
        names = {"GET", "SET", "INCR", "LPUSH", "LRANGE"}
        calls, _ = server.counts()
        row = ("Redis", "redis-benchmark, 50 clients", f"pipelined by {pipeline}", "before")
        return measure(watch, REDIS, names, row, sum(calls[name] for name in names))


def redis_py(attached: str) -> Row:
    with observed(attached=attached == "before") as watch:
        server = test_redis.Server(watch)
        start: dict[str, int] = {}
        asks(watch, attached, "redis", server.port, before=lambda: start.update(server.counts()[0]))
        names = {"GET", "SET"}
        calls, _ = server.counts()
        more = {name: start[name] if attached == "in the middle" else 0 for name in names}
        return measure(
            watch,
            REDIS,
            names,
            ("Redis", "redis-py", "one at a time", attached),
            sum(calls[n] - more[n] for n in names),
        )


def memcached(attached: str) -> Row:
    with observed(attached=attached == "before") as watch:
        server = test_memcached.Server(watch)
        start: dict[str, int] = {}
        asks(watch, attached, "memcached", server.port, before=lambda: start.update(server.stats()))
        stats = server.stats()
        true = sum(stats[name] - (start[name] if attached == "in the middle" else 0) for name in ("cmd_get", "cmd_set"))
        return measure(watch, MEMCACHED, {"GET", "SET"}, ("memcached", "pymemcache", "one at a time", attached), true)


def postgresql(kind: str, client: str, shape: str, attached: str = "before") -> Row:
    with observed(attached=attached == "before") as watch, tempfile.TemporaryDirectory() as scratch:
        server = test_postgresql.Server(watch, Path(scratch))
        names = {"SELECT", "INSERT", "UPDATE", "DELETE"}
        query = "select coalesce(sum(calls), 0)::int from pg_stat_statements where query ~* '^(select|insert|update|delete)' and query !~ 'pg_stat_statements'"

        def calls() -> int:
            with server.connect(autocommit=True) as own:
                row = own.execute(query).fetchone()
            return int(row[0]) if row else 0

        if kind == "pgbench":
            run = [
                str(test_postgresql.BIN / "pgbench"),
                "-h",
                "127.0.0.1",
                "-p",
                str(server.port),
                "-U",
                "test",
                "postgres",
            ]
            subprocess.run([*run, "-i", "-q"], check=True, capture_output=True)
            start = calls()
            watch.forget()
            process = watch.start(
                "pgbench", [*run, "-n", "-M", shape, "-c", "8", "-t", "100"], stdout=subprocess.DEVNULL
            )
            assert process.wait(120) == 0
            return measure(
                watch, POSTGRESQL, names, ("PostgreSQL", client, f"-M {shape}", attached), calls() - start, 1
            )
        begun: list[int] = []

        def begin() -> None:
            begun.append(calls())
            if attached == "before":
                watch.drain()
                watch.totals.exchanges.clear()

        asks(watch, attached, kind, server.port, before=begin)
        own = 1 if attached == "before" else 2
        return measure(watch, POSTGRESQL, names, ("PostgreSQL", client, shape, attached), calls() - begun[0], own)


def mysql(kind: str, client: str, shape: str, attached: str = "before", by: str = "") -> Row:
    """True by `Com_*`, or by the performance schema's own count of statements."""
    with observed(attached=attached == "before") as watch, tempfile.TemporaryDirectory() as scratch:
        server = test_mysql.Server(watch, Path(scratch))
        names = ("select", "insert", "update", "delete")

        def calls() -> int:
            if by:
                return statements(server, names)
            com = server.com()
            return sum(com[name] for name in names)

        begun: list[int] = []

        def begin() -> None:
            begun.append(calls())
            if attached == "before":
                eventually(
                    lambda: watch.source.counters()["seen_closed"] >= watch.source.counters()["seen_opened"] - 2, 20
                )
                watch.drain()
                watch.totals.exchanges.clear()

        if kind == "slap":
            begin()
            command = [
                "mariadb-slap",
                "--no-defaults",
                "-h127.0.0.1",
                f"-P{server.port}",
                "-uroot",
                "--skip-ssl",
                "-a",
                "--auto-generate-sql-load-type=mixed",
                "-c8",
                f"--number-of-queries={ASKED}",
                "--create-schema=slap",
            ]
            assert watch.start("slap", command, stdout=subprocess.DEVNULL).wait(120) == 0
        else:
            asks(watch, attached, kind, server.port, before=begin)
        row = measure(
            watch, MYSQL, {*(name.upper() for name in names), "EXECUTE"}, ("MariaDB", client, shape, attached), 0
        )
        own = 1 if by else 0  # the schema counts the first of its two questions
        return Row(**{**{f: getattr(row, f) for f in Row.__slots__}, "true": calls() - begun[0] - own})  # type: ignore[attr-defined]


def statements(server: test_mysql.Server, names: tuple[str, ...]) -> int:
    """Statements by the performance schema, this question's own left out."""
    query = "select event_name, count_star from performance_schema.events_statements_summary_global_by_event_name"
    with server.connect(database=None) as own, own.cursor() as cursor:
        cursor.execute(query)
        found = dict(cursor.fetchall())
    return sum(int(found.get(f"statement/sql/{name}", 0)) for name in names)


def kafkajs() -> Row:
    with observed() as watch:
        process, servers = test_kafka.broker(
            lambda command: watch.start("broker", command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        said = asks(watch, "before", "kafkajs", servers)
        watch.processes.stop(process)
        return measure(
            watch, KAFKA, {"Produce"}, ("Kafka", "kafkajs", "produce", "before"), json.loads(said)["Produce"]
        )


def kafka(case: str) -> Row:
    with observed() as watch:
        process, servers = test_kafka.broker(
            lambda command: watch.start("broker", command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        said = test_kafka.ask(servers, case, start=watch.start)
        watch.processes.stop(process)
        return measure(watch, KAFKA, {"Produce"}, ("Kafka", "librdkafka", case, "before"), said["Produce"])


def rows() -> list[Row]:
    found = [redis_benchmark(pipeline) for pipeline in (1, 16, 128)]
    for attached in ("before", "in the middle"):
        found.append(redis_py(attached))
        found.append(memcached(attached))
        found.append(postgresql("psycopg", "psycopg", "prepared, one at a time", attached))
        found.append(mysql("pymysql", "PyMySQL", "text", attached))
        found.append(mysql("connector", "mysql-connector", "prepared", attached))
    found += [postgresql("pgbench", "pgbench, 8 clients", mode) for mode in ("simple", "extended", "prepared")]
    found.append(postgresql("pipeline", "psycopg", "pipeline mode, 50 at once"))
    found.append(postgresql("asyncpg", "asyncpg", "prepared, one at a time"))
    found.append(postgresql("pg8000", "pg8000", "one at a time"))
    found.append(mysql("slap", "mysqlslap, 8 clients", "text"))
    found.append(mysql("pymysql", "PyMySQL, by performance_schema", "text", by="performance_schema"))
    found += [kafka(case) for case in ("produce", "idempotent", "transactions")]
    if Path(NODE_MODULES, "mysql2").is_dir():
        for attached in ("before", "in the middle"):
            found.append(mysql("mysql2", "mysql2 (Node)", "text", attached))
            found.append(mysql("mysql2-prepared", "mysql2 (Node)", "prepared", attached))
        found.append(kafkajs())
    else:
        print("without npm there are no rows of mysql2 and kafkajs", file=sys.stderr)
    return found


def main() -> None:
    table = [row.line() for row in rows()]
    print("\n".join(table))
    if "--write" in sys.argv:
        head = [
            "| store | client | how | attached | true | counted at the server | at the client | named | untimed | lost |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(before + "\n".join([BEGIN, *head, *table, END]) + after)
    print(json.dumps({"rows": len(table), "exact": sum("**" not in line for line in table)}))


if __name__ == "__main__":
    main()
