"""Clients: those that are told how often and how many at once, in phases, and those that do one thing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.golang import built
from tests.multiplexed.servers import PEERS, Server
from tests.observed import Observed

UNARY = "/sidelight.test.Interop/Unary"
RANGE, RANGE_REQUEST = "/etcdserverpb.KV/Range", "0a0161"
"""etcd's Range of one key, `a`."""


class Asking:
    """A client that takes lines "CALLS STREAMS" and says how many were answered."""

    def __init__(self, watch: Observed, command: list[str], env: dict[str, str]) -> None:
        self._process = watch.start("client", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def ask(self, calls: int, streams: int) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{calls} {streams}\n".encode())
        self._process.stdin.flush()
        return int(self._process.stdout.readline() or 0)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


@dataclass(frozen=True, slots=True)
class Client:
    """`command` of (server, port, connections)."""

    name: str
    rpc: bool
    command: Callable[[Server, int, int], list[str]]


CLIENTS = (
    Client("Node", False, lambda server, port, n: ["node", str(PEERS / "http2_client.js"), f"http://127.0.0.1:{port}{server.path}", str(n)]),
    Client("Go", False, lambda server, port, n: [str(built("h2c")), "ask", f"http://127.0.0.1:{port}{server.path}", str(n)]),
    Client("grpcio", True, lambda server, port, n: [sys.executable, str(PEERS / "grpc_client.py"), f"127.0.0.1:{port}", "load", str(n), *((RANGE, RANGE_REQUEST) if server.name == "etcd" else ())]),
    Client("grpc-js", True, lambda server, port, n: ["node", str(PEERS / "grpc_client.js"), f"127.0.0.1:{port}", str(n)]),
    Client("grpclib", True, lambda server, port, n: [sys.executable, str(PEERS / "grpclib_peer.py"), "ask", "127.0.0.1", str(port), str(n)]),
)  # fmt: skip


def h2load(watch: Observed, server: Server, port: int, calls: int, streams: int, connections: int) -> int:
    """Requests that h2load saw answered."""
    command = [
        "h2load",
        "-n",
        str(calls),
        "-m",
        str(streams),
        "-c",
        str(connections),
        f"http://127.0.0.1:{port}{server.path}",
    ]
    said = watch.start("client", command, stdout=subprocess.PIPE).communicate()[0].decode()
    found = re.search(r"(\d+) succeeded", said)
    return int(found[1]) if found else 0


def upgrading(watch: Observed, server: Server, port: int, times: int) -> int:
    """curl asks by HTTP/1.1 to go on as HTTP/2."""
    done = 0
    for _ in range(times):
        command = [
            "curl",
            "-s",
            "--http2",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version} %{http_code}",
            f"http://127.0.0.1:{port}{server.path}",
        ]
        said = watch.start("client", command, stdout=subprocess.PIPE).communicate()[0]
        done += said == b"2 200"
    return done
