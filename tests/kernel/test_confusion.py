"""Which protocol is it? Thousands of beginnings, ours and foreign ones, with answers that fit and answers that do not: nothing counts
under a protocol that it is not."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections import Counter

from sidelight.agent import protocols
from tests.observed import eventually, observed

BEGINNINGS = 12_000


def kafka(key: int, version: int, correlation: int = 1) -> bytes:
    body = struct.pack(">hhih", key, version, correlation, 3) + b"app"
    return struct.pack(">i", len(body)) + body


def postgresql(code: int, rest: bytes = b"") -> bytes:
    return struct.pack(">ii", 8 + len(rest), code) + rest


TRUE: dict[str, tuple[bytes, bytes]] = {
    "HTTP/1": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
    "Redis": (b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", b"$-1\r\n"),
    "memcached": (b"get some-key\r\n", b"END\r\n"),
    "Kafka": (kafka(18, 0), struct.pack(">iihi", 10, 1, 0, 0)),
    "PostgreSQL": (
        postgresql(196608, b"user\0test\0\0") + b"Q\0\0\0\x0dselect 1\0",
        b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05IC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
    ),
}
"""What one exchange of each is. MySQL's server speaks first: its greeting is among the foreign answers."""
FOREIGN: list[bytes] = [
    b"SSH-2.0-OpenSSH_9.2p1\r\n", b"EHLO mail.example\r\n", b"HELO x\r\n", b"USER anonymous\r\n", b"CONNECT {}\r\n", b"AMQP\0\0\x09\x01",
    b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd", b"\x16\x03\x01\0\xa5\x01\0\0\xa1\x03\x03" + bytes(40), b"\x04\0\0\0\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION",
    b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0\0\0\0\0admin.$cmd\0", b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", b"\0\0\0\x2d\0\0\0\0" + bytes(37),
    b"\x00\x00\x00\x0b\x80\x01\x00\x01\0\0\0\x04ping", b"BitTorrent protocol", b"\x80\x00\0\0\0\0\0\0" + bytes(16), b"NICK bob\r\n", b"hello world\n", b"{\"id\": 1}\n",
    b"<?xml version='1.0'?>", b"ruok", b"stats.counter:1|c\n", b"\x05\x01\x00", b"\x04\x01\x00\x50\x7f\0\0\x01\0", b"RTSP/1.0 200 OK\r\n", b"*garbage*", b"*1garbage\r\n",
    b"getting on\r\n", b"set sail for home\r\n", b"\0\0\0\x08\0\x03\0\0", b"\0\0\x12\x04\0\0\0\0\0", b"1,2,3\n", b"OK\r\n", b"-1\r\n", b"$5\r\nhello\r\n",
]  # fmt: skip
ANSWERS: list[bytes] = [
    b"", b"220 mail.example ESMTP\r\n", b"SSH-2.0-Go\r\n", b"ERROR\n", b"\0" * 20, b"Q\0\0\0\x04", b"imok", b"* BYE\r\n", b"HTTP is not spoken here\r\n",
    b"\x4a\0\0\0\x0a5.5.5-10.11.6\0" + bytes(60), b"\x15\x03\x03\0\x02\x02\x28",
]  # fmt: skip


def test_nothing_counts_under_what_it_is_not() -> None:
    chance = random.Random(20)
    talks: list[tuple[str, bytes, bytes]] = []
    for number in range(BEGINNINGS):
        kind = number % 4
        if kind == 0:
            title = chance.choice(list(TRUE))
            talks.append((title, *TRUE[title]))
        elif kind == 1:
            talks.append(("", chance.choice(FOREIGN), chance.choice(ANSWERS)))
        elif kind == 2:
            talks.append(("", chance.randbytes(chance.randrange(1, 60)), chance.randbytes(chance.randrange(0, 60))))
        else:  # a true beginning's first bytes, and then something else
            first = bytearray(chance.choice(list(TRUE.values()))[0][: chance.randrange(1, 8)])
            talks.append(("", bytes(first) + chance.randbytes(20), chance.choice([*ANSWERS, chance.randbytes(30)])))

    def serve(listener: socket.socket) -> None:
        for _, said, answer in talks:
            connection, _ = listener.accept()
            got = b""
            while len(got) < len(said):
                got += connection.recv(1 << 16)
            if answer:
                connection.sendall(answer)
            connection.close()

    with observed() as watch:
        child = os.fork()
        if child == 0:  # both ends in the observed cgroup
            status = 1
            try:
                (watch.cgroup / "talks").mkdir()
                (watch.cgroup / "talks" / "cgroup.procs").write_text(str(os.getpid()))
                listener = socket.create_server(("127.0.0.1", 0), backlog=64)
                threading.Thread(target=serve, args=(listener,), daemon=True).start()
                for _, said, answer in talks:
                    with socket.create_connection(listener.getsockname()) as one:
                        one.sendall(said)
                        got = b""
                        while len(got) < len(answer) and (piece := one.recv(1 << 16)):
                            got += piece
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        eventually(
            lambda: (c := watch.source.counters())["seen_closed"] == c["seen_opened"] == 2 * BEGINNINGS,
            30,
            lambda: str(watch.source.counters())[:300],
        )
        totals = watch.drain()
        expected = Counter(title for title, _, _ in talks if title)
        for role in ("client", "server"):
            found = {
                protocols.PROTOCOLS[number].title: n for (end, number), n in totals.protocols.items() if end == role
            }
            assert found == dict(expected), role
        watch.assert_books()
