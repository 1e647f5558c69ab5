"""MySQL's protocol: what the programs count beside MariaDB's own `Com_*`."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mysql.connector
import pymysql
import pytest

from sidelight.agent import protocols
from sidelight.cli.demo import free_port
from tests.observed import Observed, eventually, observed

MYSQL = protocols.MYSQL


class Server:
    """A MariaDB of its own in the observed cgroup."""

    def __init__(self, watch: Observed, directory: Path) -> None:
        self.watch, self.port, self.data = watch, free_port(), directory / "data"
        user = pwd.getpwnam("mysql")
        for path in (directory, *directory.parents):
            if not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o011)  # the server's user has to get there
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, user.pw_uid, user.pw_gid)
        common = ["--no-defaults", f"--datadir={self.data}", "--user=mysql"]
        subprocess.run(
            ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            capture_output=True,
        )
        self.process = watch.start(
            "mariadb",
            [
                "mariadbd",
                *common,
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                f"--socket={self.data}/sock",
                "--skip-name-resolve",
                "--local-infile=1",
                "--skip-ssl",
                "--performance-schema",
                "--max-allowed-packet=64M",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.answers, 30, what="MariaDB")
        with self.connect(database=None) as own, own.cursor() as cursor:
            cursor.execute("create database shop")
            cursor.execute("create table shop.items (id int primary key, name longtext)")

    def answers(self) -> bool:
        try:
            self.connect(database=None).close()
        except pymysql.err.OperationalError:
            return False
        return True

    def connect(self, **more: object) -> pymysql.Connection:  # type: ignore[type-arg]
        return pymysql.connect(
            **{
                "host": "127.0.0.1",
                "port": self.port,
                "user": "root",
                "database": "shop",
                "autocommit": True,
                "local_infile": True,
                **more,
            }
        )  # type: ignore[call-overload, no-any-return]

    def com(self) -> Counter[str]:
        """The server's own counts."""
        with self.connect() as own, own.cursor() as cursor:
            cursor.execute("show global status like 'Com_%'")
            return Counter({name.removeprefix("Com_"): int(n) for name, n in cursor.fetchall() if n.isdigit()})

    def begin(self) -> None:
        """What is counted counts from here."""
        self.before = self.com()
        self.watch.forget()


def counted(watch: Observed, role: str = "server") -> Counter[str]:
    """`SELECT`, `INSERT 1062`... -> commands."""
    found: Counter[str] = Counter()
    for (end, protocol, method, status, _), n in watch.drain().exchanges.items():
        if end == role and protocol == MYSQL.number:
            found[f"{MYSQL.method(method)} {MYSQL.answer(status)}".strip()] += n
    return found


def verbs(found: Counter[str]) -> Counter[str]:
    """By verb, whether it failed or not: that is what Com_* counts."""
    total: Counter[str] = Counter()
    for name, n in found.items():
        total[name.split()[0]] += n
    return total


def check(server: Server, wanted: dict[str, int] | None = None, inside: dict[str, int] | None = None) -> Counter[str]:
    """Com_* and what was counted, verb by verb. `inside`: what procedures did, which the server counts as well."""
    server.watch.settle()
    found = counted(server.watch)
    com = server.com() - server.before - Counter(inside or {})
    ours = verbs(found)
    for verb, names in {
        "SELECT": ["select"], "INSERT": ["insert"], "UPDATE": ["update"], "DELETE": ["delete"], "COMMIT": ["commit"], "ROLLBACK": ["rollback"],
        "BEGIN": ["begin"], "CREATE": ["create_table", "create_procedure", "create_db"], "DROP": ["drop_table", "drop_procedure", "drop_db"], "LOAD": ["load"],
        "CALL": ["call_procedure"], "PREPARE": ["stmt_prepare"], "DEALLOCATE": ["stmt_close"], "FETCH": ["stmt_fetch"],
        "SEND_LONG_DATA": ["stmt_send_long_data"],
    }.items():  # fmt: skip
        assert ours[verb] == sum(com[name] for name in names), (verb, found, +com)
    assert {name: found[name] for name in wanted or {}} == (wanted or {}), found
    server.watch.settle()
    server.watch.assert_books()
    counters = server.watch.source.counters()
    assert counters["lost_commands_sync"] == counters["exchange_unmatched"] == 0
    return found


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with observed() as watch:
        yield Server(watch, tmp_path_factory.mktemp("mariadb"))


def test_mysqlslap(mariadb: Server) -> None:
    mariadb.begin()
    command = [
        "mariadb-slap",
        "--no-defaults",
        "-h127.0.0.1",
        f"-P{mariadb.port}",
        "-uroot",
        "--skip-ssl",
        "-a",
        "--auto-generate-sql-load-type=mixed",
        "-c8",
        "--number-of-queries=4000",
        "--create-schema=slap",
    ]
    process = mariadb.watch.start("slap", command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.wait(120) == 0, process.stderr and process.stderr.read()
    found = check(mariadb)
    ours = verbs(found)
    assert ours["SELECT"] + ours["INSERT"] >= 4000
    client = verbs(counted(mariadb.watch, "client"))
    assert client["INSERT"] == ours["INSERT"] and client["SELECT"] == ours["SELECT"]


def test_pymysql_results_errors_files(mariadb: Server, tmp_path: Path) -> None:
    mariadb.begin()
    rows = tmp_path / "rows.tsv"
    rows.write_text("".join(f"{number}\tname {number}\n" for number in range(5000)))
    with mariadb.connect() as one, one.cursor() as cursor:
        cursor.execute("select 1")
        cursor.execute(f"load data local infile '{rows}' into table items")
        cursor.execute("select * from items")
        assert len(cursor.fetchall()) == 5000
        cursor.execute("select repeat('x', 20000000) as big")
        assert len(cursor.fetchall()[0][0]) == 20_000_000
        cursor.execute("create procedure two() begin select 1; select 2 union select 3; end")
        cursor.execute("call two()")
        assert cursor.nextset()
        for wrong in ("select nothing", "selec 1", "insert into items values (1, 'again')"):
            with pytest.raises(pymysql.Error):
                cursor.execute(wrong)
        one.begin()
        cursor.execute("delete from items where id > 100")
        time.sleep(0.1)
        one.rollback()
        one.begin()
        cursor.execute("update items set name = 'x' where id = 1")
        one.commit()
        one.ping()
        one.select_db("shop")
        cursor.execute("select 1 where false")
    with pytest.raises(pymysql.err.OperationalError):
        mariadb.connect(password="wrong")
    found = check(
        mariadb,
        {"SELECT 1054": 1, "_OTHER 1064": 1, "INSERT 1062": 1, "CONNECT 1045": 1, "PING": 1, "INIT_DB": 1, "CALL": 1},
        {"select": 2},
    )
    assert found["LOAD"] == 1
    seen = mariadb.watch.totals.other
    assert seen[("server", protocols.DB_TRANSACTION)] == 2 and seen[("server", protocols.DB_IDLE)] == 4


def test_mysql_connector_prepared(mariadb: Server) -> None:
    mariadb.begin()
    one = mysql.connector.connect(
        host="127.0.0.1",
        port=mariadb.port,
        user="root",
        database="shop",
        use_pure=True,
        autocommit=True,
        ssl_disabled=True,
    )
    cursor = one.cursor(prepared=True)
    for number in range(50):
        cursor.execute("select id, name from items where id = %s", (number,))
        cursor.fetchall()
    cursor.execute("insert into items values (%s, %s)", (999_999, "y" * 100_000))
    with pytest.raises(mysql.connector.Error):
        cursor.execute("insert into items values (%s, %s)", (999_999, "again"))
    cursor.close()
    plain = one.cursor()
    for _ in (
        plain.execute("select 1; select 2; delete from items where id = 999999", multi=True)
        if "multi" in plain.execute.__code__.co_varnames
        else []
    ):
        pass
    one.cmd_reset_connection()
    one.close()
    found = check(mariadb)
    assert found["SELECT"] >= 50 and found["INSERT 1062"] == 1


def test_joined_in_the_middle(tmp_path: Path) -> None:
    with observed(attached=False) as watch:
        server = Server(watch, tmp_path)
        with server.connect() as one, one.cursor() as cursor:
            cursor.execute("select 1")
            watch.attach()
            for number in range(40):
                cursor.execute(f"select {number}")
                cursor.fetchall()
            with pytest.raises(pymysql.Error):
                cursor.execute("select nothing")
        watch.settle()
        found = counted(watch)
        assert found["SELECT"] == 40 and found["SELECT 1054"] == 1, found
