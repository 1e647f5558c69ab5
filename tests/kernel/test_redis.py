"""Redis: what the programs count beside the server's own `INFO commandstats`, command by command, calls and failures."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter

import pytest
import redis

from sidelight.agent import protocols
from sidelight.cli.demo import free_port
from tests.observed import Observed, eventually, observed

REDIS = protocols.REDIS


class Server:
    """A redis-server in the observed cgroup, and its own counts."""

    def __init__(self, watch: Observed, name: str = "redis", *more: str) -> None:
        self.port = free_port()
        self.clients: list[redis.Redis] = []
        command = ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        self.process = watch.start(name, [*command, *more], stdout=subprocess.DEVNULL)
        eventually(self.answers, what="redis")

    def answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.ConnectionError:
            return False

    def client(self, **more: object) -> redis.Redis:
        """Of the tests' own: not observed at its end."""
        self.clients.append(redis.Redis(port=self.port, lib_name=None, lib_version=None, **more))  # type: ignore[arg-type]
        return self.clients[-1]

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """(calls, failed and rejected calls) by command; subcommands are their command's."""
        calls: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for name, said in self.client().info("commandstats").items():
            command = name.removeprefix("cmdstat_").split("|")[0].upper()
            calls[command] += int(said["calls"]) + int(said["rejected_calls"])
            failed[command] += int(said["failed_calls"]) + int(said["rejected_calls"])
        for client in self.clients:
            client.connection_pool.disconnect()
        return calls, failed


def counted(watch: Observed, role: str) -> tuple[Counter[str], Counter[str]]:
    """(commands, failures among them) that the programs counted."""
    calls: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for (end, protocol, method, status, _), n in watch.drain().exchanges.items():
        if end == role and protocol == REDIS.number:
            calls[REDIS.method(method)] += n
            if REDIS.error_type(status, client=True) not in ("", "no_response"):
                failed[REDIS.method(method)] += n
    return calls, failed


def assert_equal(watch: Observed, server: Server) -> None:
    """The server's own counts are the programs' at the server's end, whoever asked."""
    calls, failed = server.counts()
    watch.settle()
    have, have_failed = counted(watch, "server")
    # what the server does not know it does not count: neither commands, nor subcommands, which redis-py asks for as it connects
    have["CLIENT"] -= have_failed.pop("CLIENT", 0)
    have.pop("_OTHER", 0), have_failed.pop("_OTHER", 0)
    calls["INFO"] += 1  # the question itself, which it answers before it counts it
    assert +have == +calls
    assert +have_failed == +failed
    watch.assert_books()


@pytest.mark.parametrize("pipeline", [1, 16, 128])
def test_redis_benchmark(pipeline: int) -> None:
    with observed() as watch:
        server = Server(watch)
        command = ["redis-benchmark", "-p", str(server.port), "-c", "50", "-n", "20000", "-P", str(pipeline), "-q"]
        tests = "ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset"
        assert watch.start("benchmark", [*command, "-t", tests]).wait(120) == 0
        assert_equal(watch, server)
        assert counted(watch, "client")[0]["GET"] == counted(watch, "server")[0]["GET"] >= 20000
        assert watch.source.counters()["exchange_untimed"] == 0


def test_commands_of_every_shape() -> None:
    """Nested answers, errors, transactions, scripts, blocking, subscriptions, silence: by redis-py, RESP2 and RESP3."""
    with observed() as watch:
        server = Server(watch)
        for version in (2, 3):
            client = server.client(protocol=version)
            client.set("text", "x" * 100_000)
            assert len(client.get("text")) == 100_000
            client.hset("hash", mapping={str(i): "v" * i for i in range(200)})
            client.hgetall("hash")
            client.command()
            client.xadd("stream", {"a": 1, "b": "2" * 600})
            client.xread({"stream": 0}, count=10)
            client.zadd("zset", {"a": 1.5, "b": 2})
            client.zrange("zset", 0, -1, withscores=True)
            client.config_get("*")
            client.client_list()
            for wrong in (
                ("INCR", "hash"),
                ("NOSUCH",),
                ("EVALSHA", "0" * 40, 0),
            ):
                with pytest.raises(redis.ResponseError):
                    client.execute_command(*wrong)
            assert counted(watch, "server")[0]["_OTHER"] == version - 1
            client.eval("return {1, {2, {3, {4}}}, 'x'}", 0)
            transaction = client.pipeline()
            transaction.set("a", 1).incr("a").lrange("none", 0, -1).incr("hash").get("a")
            with pytest.raises(redis.ResponseError):
                transaction.execute()
            client.close()
        assert_equal(watch, server)


def test_transactions_given_up() -> None:
    with observed() as watch:
        server = Server(watch)
        client = server.client()
        one = client.connection_pool.get_connection()

        def say(*words: object) -> object:
            one.send_command(*words)
            return one.read_response()

        say("WATCH", "w"), say("MULTI"), say("SET", "x", 1), say("SET", "y", 2)
        server.client().set("w", 1)
        assert say("EXEC") is None
        say("MULTI"), say("SET", "x", 1)
        assert say("DISCARD") == b"OK"
        say("MULTI"), say("GET", "x")
        with pytest.raises(redis.ResponseError):
            say("GET")
        with pytest.raises(redis.ResponseError):
            say("EXEC")
        say("MULTI")
        assert say("EXEC") == []
        one.disconnect()
        calls, failed = server.counts()
        watch.settle()
        have, have_failed = counted(watch, "server")
        status = Counter[str]()
        for (end, protocol, method, number, _), n in watch.totals.exchanges.items():
            if end == "server" and protocol == REDIS.number:
                status[f"{REDIS.method(method)} {REDIS.answer(number)}".strip()] += n
        assert status["SET DISCARDED"] == 3 and status["GET DISCARDED"] == 1
        assert status["GET ERR"] == 1 and status["EXEC EXECABORT"] == 1
        assert have["SET"] - 3 == calls["SET"] == 1
        assert (
            have["EXEC"] == calls["EXEC"] and have["MULTI"] == calls["MULTI"] and have_failed["EXEC"] == failed["EXEC"]
        )
        watch.assert_books()


@pytest.mark.parametrize("version", [2, 3])
def test_subscriptions(version: int) -> None:
    """Each SUBSCRIBE counts once, however many channels confirm; messages are nobody's answers."""
    with observed() as watch:
        server = Server(watch)
        listener = server.client(protocol=version)
        subscription = listener.pubsub()
        subscription.subscribe("a", "b", "c")
        subscription.psubscribe("x*", "y*")
        got: list[object] = []
        for _ in range(5):
            got.append(subscription.get_message(timeout=5))
        talker = server.client()
        for number in range(50):
            talker.publish("a", f"message {number}")
            talker.publish("xyz", "subscribe")
        for _ in range(100):
            got.append(subscription.get_message(timeout=5))
        subscription.ping()
        subscription.unsubscribe()
        subscription.punsubscribe("x*")
        for _ in range(5):
            got.append(subscription.get_message(timeout=2))
        subscription.close(), listener.close(), talker.close()
        assert_equal(watch, server)
        assert watch.source.counters()["commands_pushed"] >= 100
        assert watch.source.counters()["exchange_unmatched"] == 0


def test_silence_monitor_and_blocking() -> None:
    with observed() as watch:
        server = Server(watch)
        one = server.client().connection_pool.get_connection()
        for words in (("CLIENT", "REPLY", "OFF"), ("SET", "a", "1"), ("GET", "a"), ("CLIENT", "REPLY", "ON")):
            one.send_command(*words)
        assert one.read_response() == b"OK"
        for words in (("CLIENT", "REPLY", "SKIP"), ("SET", "a", "2"), ("GET", "a")):
            one.send_command(*words)
        assert one.read_response() == b"2"
        one.disconnect()
        with server.client().monitor() as monitor:
            waiting = threading.Thread(target=lambda: server.client().blpop(["queue"], timeout=10))
            waiting.start()
            time.sleep(0.5)
            server.client().rpush("queue", "x")
            waiting.join()
            for _ in range(2):
                monitor.next_command()
        assert_equal(watch, server)
        statuses = [status for (end, protocol, _, status, _), n in watch.totals.exchanges.items() if end == "server"]
        assert protocols.STATUS_SILENT in statuses


def inline(port: int) -> bytes:
    import socket

    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"PING\r\nset key value\r\n\r\nGET key\r\nlrange none 0 -1\r\nQUIT\r\n")
        said = b""
        while piece := one.recv(4096):
            said += piece
    return said


def test_inline_commands() -> None:
    with observed() as watch:
        server = Server(watch)
        assert inline(server.port) == b"+PONG\r\n+OK\r\n$5\r\nvalue\r\n*0\r\n+OK\r\n"
        calls, _ = server.counts()
        watch.settle()
        have, _ = counted(watch, "server")
        assert have["SET"] == calls["SET"] == 1 and have["GET"] == 1 and have["LRANGE"] == 1 and have["QUIT"] == 1
        watch.assert_books()
