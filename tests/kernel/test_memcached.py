"""memcached: what the programs count beside the server's own `stats`."""

from __future__ import annotations

import socket
import subprocess
from collections import Counter

import pytest
from pymemcache.client.base import Client

from sidelight.agent import protocols
from sidelight.cli.demo import free_port
from tests.observed import Observed, eventually, observed

MEMCACHED = protocols.MEMCACHED


class Server:
    def __init__(self, watch: Observed) -> None:
        self.port = free_port()
        watch.start(
            "memcached",
            ["memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0"],
            stdout=subprocess.DEVNULL,
        )
        eventually(self.answers, what="memcached")

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def stats(self) -> dict[str, int]:
        """Whole numbers of `stats`."""
        client = Client(("127.0.0.1", self.port))
        found = {name.decode(): value for name, value in client.stats().items()}
        client.close()
        return {name: int(value) for name, value in found.items() if isinstance(value, int)}

    def say(self, text: bytes, until: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port)) as one:
            one.sendall(text)
            said = b""
            while not said.endswith(until):
                piece = one.recv(1 << 16)
                assert piece, said
                said += piece
        return said


def counted(watch: Observed) -> Counter[str]:
    """`GET`, `GET MISS`... -> commands, at the server's end."""
    found: Counter[str] = Counter()
    watch.settle()
    for (end, protocol, method, status, _), n in watch.drain().exchanges.items():
        if end == "server" and protocol == MEMCACHED.number:
            found[f"{MEMCACHED.method(method)} {MEMCACHED.answer(status)}".strip()] += n
    return found


@pytest.fixture
def watched() -> object:
    with observed() as watch:
        yield watch, Server(watch)


def test_commands_beside_the_servers_own(watched: tuple[Observed, Server]) -> None:
    watch, server = watched
    client = Client(("127.0.0.1", server.port), default_noreply=False)
    for number in range(300):
        client.set(f"key{number}", b"x" * (number * 37))
        assert client.get(f"key{number}") == b"x" * (number * 37)
    for number in range(50):
        assert client.get(f"none{number}") is None
    client.set("k" * 250, b"long key")
    client.get("k" * 250)
    client.set("n", b"1")
    client.incr("n", 5), client.decr("n", 1), client.incr("none", 1)
    client.touch("n", 10), client.touch("none", 10)
    client.delete("n"), client.delete("none")
    client.add("key1", b"no"), client.append("key1", b"!"), client.prepend("key1", b"?"), client.replace("none", b"")
    _, token = client.gets("key2")
    client.cas("key2", b"new", token), client.cas("key2", b"old", token)
    client.set("big", b"x" * 500_000)
    client.get("big")
    with pytest.raises(Exception, match="too large"):
        client.set("toobig", b"x" * 2_000_000)
    client.version()
    client.close()
    quiet = Client(("127.0.0.1", server.port), default_noreply=True)
    for number in range(40):
        quiet.set(f"quiet{number}", b"y")
    quiet.get("quiet39")
    quiet.close()
    stats, have = server.stats(), counted(watch)
    gets = {name: n for name, n in have.items() if name.split()[0] in ("GET", "GETS")}
    assert sum(gets.values()) == stats["cmd_get"] and have["GET MISS"] == stats["get_misses"] == 50
    sets = sum(
        n for name, n in have.items() if name.split()[0] in ("SET", "ADD", "APPEND", "PREPEND", "REPLACE", "CAS")
    )
    assert sets == stats["cmd_set"] + have["SET SERVER_ERROR"]
    assert have["TOUCH"] == stats["touch_hits"] == 1 and have["TOUCH NOT_FOUND"] == stats["touch_misses"] == 1
    assert have["DELETE"] == stats["delete_hits"] and have["DELETE NOT_FOUND"] == stats["delete_misses"]
    assert have["CAS"] == stats["cas_hits"] == 1 and have["CAS EXISTS"] == stats["cas_badval"] == 1
    assert have["INCR"] == stats["incr_hits"] and have["INCR NOT_FOUND"] == stats["incr_misses"]
    assert have["VERSION"] == 1 and "_OTHER" not in have
    watch.assert_books()


def test_pipelines_and_meta_commands(watched: tuple[Observed, Server]) -> None:
    watch, server = watched
    server.say(
        b"".join(b"set k%d 0 0 3\r\nabc\r\nget k%d\r\n" % (n, n) for n in range(60)) + b"quit_not\r\n", b"ERROR\r\n"
    )
    server.say(b"ms a 5\r\nhello\r\nmg a v\r\nmg none v\r\nma n\r\nmd a\r\nmn\r\n", b"MN\r\n")
    server.say(b"ms b 2 T60\r\nhi\r\nmg b v q\r\nmg none v q\r\nmg none2 v q\r\nmn\r\n", b"MN\r\n")
    server.say(b"get k1 k2 nothing k3\r\nstats settings\r\n", b"END\r\n")
    stats, have = server.stats(), counted(watch)
    assert have["SET"] == 60 and have["GET"] == 61 and stats["cmd_get"] == 60 + 4 + 5
    assert have["MS"] == 2 and have["MG"] == 1 + 3 and have["MG MISS"] == 1 and have["MN"] == 2
    assert have["_OTHER ERROR"] == 1
    assert watch.source.counters()["commands_pushed"] == 1, "one quiet question had an answer"
    watch.assert_books()
