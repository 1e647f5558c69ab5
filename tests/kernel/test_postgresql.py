"""PostgreSQL: what the programs count beside the server's own pg_stat_statements and pg_stat_database."""

from __future__ import annotations

import asyncio
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pg8000.dbapi
import psycopg
import pytest

from sidelight.agent import protocols
from sidelight.cli.demo import free_port
from tests.observed import Observed, eventually, observed

POSTGRESQL = protocols.POSTGRESQL
BIN = max(Path("/usr/lib/postgresql").glob("*/bin"))


class Server:
    """A PostgreSQL of its own in the observed cgroup."""

    def __init__(self, watch: Observed, directory: Path) -> None:
        self.watch, self.port, self.data = watch, free_port(), directory / "data"
        user = pwd.getpwnam("postgres")
        for path in (directory, *directory.parents):
            if not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)  # the server's user has to get there
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, user.pw_uid, user.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]
        subprocess.run(
            [
                *as_user,
                str(BIN / "initdb"),
                "-D",
                str(self.data),
                "-A",
                "trust",
                "-U",
                "test",
                "-N",
                "--no-instructions",
            ],
            check=True,
            capture_output=True,
        )
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_preload_libraries": "pg_stat_statements",
            "fsync": "off",
            "autovacuum": "off",
        }
        self.process = watch.start(
            "postgresql",
            [
                *as_user,
                str(BIN / "postgres"),
                "-D",
                str(self.data),
                "-p",
                str(self.port),
                *(f"--{k}={v}" for k, v in options.items()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.answers, 30, what="PostgreSQL")
        with self.connect(autocommit=True) as own:
            own.execute("create extension pg_stat_statements")
            own.execute("create table items (id int primary key, name text)")

    @property
    def address(self) -> dict[str, object]:
        return {"host": "127.0.0.1", "port": self.port, "user": "test"}

    def answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, **more: object) -> psycopg.Connection:
        return psycopg.connect(**self.address, dbname="postgres", sslmode="disable", **more)  # type: ignore[arg-type]

    def begin(self) -> None:
        """What is counted counts from here."""
        with self.connect(autocommit=True) as own:
            own.execute("select pg_stat_statements_reset()")
        self.watch.forget()

    def calls(self) -> int:
        """Statements carried out since then. The question itself is not among them, nor the reset."""
        with self.connect(autocommit=True) as own:
            row = own.execute(
                "select sum(calls)::int from pg_stat_statements where query !~ 'pg_stat_statements'"
            ).fetchone()
        self.watch.settle()
        return int(row[0]) if row and row[0] else 0


def counted(watch: Observed, role: str = "server") -> Counter[str]:
    """`SELECT`, `SELECT 42P01`... -> statements."""
    found: Counter[str] = Counter()
    for (end, protocol, method, status, _), n in watch.drain().exchanges.items():
        if end == role and protocol == POSTGRESQL.number:
            found[f"{POSTGRESQL.method(method)} {POSTGRESQL.answer(status)}".strip()] += n
    return found


def carried_out(found: Counter[str]) -> int:
    """Statements that pg_stat_statements counts: done, not empty, and not the rest of one that has counted."""
    return sum(n for name, n in found.items() if " " not in name and name not in ("_OTHER", "CANCEL", "FETCH"))


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with observed() as watch:
        yield Server(watch, tmp_path_factory.mktemp("postgresql"))


def check(server: Server, wanted: dict[str, int] | None = None, uncounted: int = 0) -> Counter[str]:
    """The server's calls are ours, but for the one SELECT that asks for them."""
    server.watch.settle()
    before = counted(server.watch)
    assert carried_out(before) == server.calls() + uncounted, before
    assert {name: before[name] for name in wanted or {}} == (wanted or {}), before
    server.watch.drain()
    server.watch.assert_books()
    return before


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench(postgresql: Server, mode: str) -> None:
    run = [str(BIN / "pgbench"), "-h", "127.0.0.1", "-p", str(postgresql.port), "-U", "test", "postgres"]
    subprocess.run([*run, "-i", "-q"], check=True, capture_output=True)
    postgresql.begin()
    clients, transactions = 8, 100
    process = postgresql.watch.start(
        "pgbench", [*run, "-n", "-M", mode, "-c", str(clients), "-t", str(transactions)], stdout=subprocess.DEVNULL
    )
    assert process.wait(120) == 0
    n = clients * transactions
    # of BEGIN and END prepared, PostgreSQL 15 counts the first execution alone
    uncounted = 2 * n - 2 * clients if mode == "prepared" else 0
    found = check(postgresql, {"UPDATE": 3 * n, "INSERT": n, "BEGIN": n, "COMMIT": n}, uncounted)
    assert counted(postgresql.watch, "client")["UPDATE"] == 3 * n and found["SELECT"] >= n
    transactions_seen = postgresql.watch.totals.other
    assert transactions_seen[("server", protocols.DB_TRANSACTION)] == n
    assert transactions_seen[("server", protocols.DB_IDLE)] >= 6 * n, "each command but BEGIN was waited for"


def test_several_statements_errors_and_copies(postgresql: Server) -> None:
    postgresql.begin()
    with postgresql.connect(autocommit=True) as one:
        one.execute("select 1; select 2; /* three */ update items set id = id; select 'x' || repeat('y', 100000)")
        one.execute("   \n (select 1)")
        one.execute("-- nothing")
        for wrong in (
            "select nothing",
            "selec 1",
            "insert into items values (1, 'a'), (1, 'b')",
            "select 1; select 1/0; select 3",
        ):
            with pytest.raises(psycopg.Error):
                one.execute(wrong)
        with one.cursor() as cursor, cursor.copy("copy items from stdin") as copy:
            for number in range(2000):
                copy.write_row((number, "name " * 20))
        with one.cursor() as cursor, cursor.copy("copy items to stdout") as copy:
            assert sum(len(piece) for piece in copy) > 100_000
        with one.transaction():
            one.execute("delete from items where id > 10")
            with pytest.raises(psycopg.Error), one.transaction():
                one.execute("select 1/0")
        one.execute("notify channel")
    found = check(postgresql, {"COPY": 2, "SELECT 42703": 1, "_OTHER 42601": 1, "INSERT 23505": 1, "SELECT 22012": 2})
    assert found["_OTHER"] == 1, "an empty query is one"


def test_pipelines(postgresql: Server) -> None:
    """Hundreds in flight, errors in the middle: what the server passes over is said so."""
    postgresql.begin()
    with postgresql.connect(autocommit=True) as one:
        with one.pipeline():
            for number in range(100):
                one.execute("select %s::int", (number,), prepare=True)
        with pytest.raises(psycopg.Error), one.pipeline() as pipeline:
            for number in range(6):
                one.execute("select 10 / %s", (number - 3,))
            pipeline.sync()
        with one.cursor() as cursor:
            cursor.executemany("insert into items values (%s, 'many')", [(number,) for number in range(10_000, 12_000)])
        one.execute("select 1")
    found = check(postgresql, {"SELECT 22012": 1, "INSERT": 2000})
    assert found["SELECT"] == 104
    assert 1 <= found["SELECT ABORTED"] <= 2, "as many as psycopg had sent before it saw the error"
    counters = postgresql.watch.source.counters()
    assert counters["exchange_unmatched"] == 0 and counters["lost_commands_sync"] == 0


def test_asyncpg_and_pg8000(postgresql: Server) -> None:
    postgresql.begin()

    async def ask() -> None:
        one = await asyncpg.connect(**postgresql.address, database="postgres", ssl=False)  # type: ignore[arg-type]
        for number in range(50):
            assert await one.fetchval("select $1::int + 1", number) == number + 1
        await one.execute("create temporary table t (x int)")
        await one.executemany("insert into t values ($1)", [(n,) for n in range(100)])
        async with one.transaction():
            cursor = await one.cursor("select x from t")
            assert len(await cursor.fetch(30)) == 30 and len(await cursor.fetch(30)) == 30
        with pytest.raises(asyncpg.PostgresError):
            await one.fetch("select nothing from nowhere")
        await one.copy_records_to_table("t", records=[(n,) for n in range(500)])
        await one.close()

    asyncio.run(ask())
    other = pg8000.dbapi.connect(host="127.0.0.1", port=postgresql.port, user="test", database="postgres")
    cursor = other.cursor()
    for number in range(30):
        cursor.execute("select %s + 1", (number,))
        cursor.fetchall()
    other.commit()
    other.close()
    found = check(postgresql)
    assert any(name.endswith("42P01") for name in found), "a statement that was only prepared, and failed"
    assert found["FETCH"] == 1, "the second piece of a cursor"


def test_cancel_login_and_rollback(postgresql: Server) -> None:
    postgresql.begin()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**postgresql.address, dbname="nosuch", sslmode="disable")  # type: ignore[arg-type]
    with postgresql.connect() as one:
        canceller = threading.Timer(0.3, one.cancel)
        canceller.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            one.execute("select pg_sleep(20)")
        one.rollback()
        one.execute("select 1")
        time.sleep(0.2)
        one.commit()
    found = check(postgresql, {"SELECT 57014": 1, "ROLLBACK": 1, "COMMIT": 1, "CONNECT 3D000": 1, "CANCEL": 1})
    assert found["BEGIN"] == 2


def test_joined_in_the_middle(tmp_path: Path) -> None:
    """Connections and prepared statements older than the programs: counted from the first message on that proves what they speak."""
    with observed(attached=False) as watch:
        server = Server(watch, tmp_path)
        with server.connect(autocommit=True) as one:
            one.execute("select %s::int", (1,), prepare=True)
            watch.attach()
            for number in range(40):
                one.execute("select %s::int", (number,), prepare=True)
            one.execute("insert into items values (1, 'x')")
        watch.settle()
        found = counted(watch)
        assert found["SELECT"] == 40 and found["INSERT"] == 1, found


def test_the_answer_to_a_request_for_tls(postgresql: Server) -> None:
    """`N`: it goes on in clear text. The byte is no message."""
    postgresql.begin()
    with psycopg.connect(**postgresql.address, dbname="postgres", sslmode="prefer", autocommit=True) as one:  # type: ignore[arg-type]
        one.execute("select 1")
    found = check(postgresql)
    assert found["SELECT"] == 1
    with socket.create_connection(("127.0.0.1", postgresql.port)) as raw:
        raw.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
        assert raw.recv(1) == b"N"
