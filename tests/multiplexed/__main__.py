"""`python -m tests.multiplexed [--server NAME] [--write]`: the table of docs/exactness.md, each cell from a run.

A cell: a server, a client, streams at once, connections, and whether the programs were there before the connections or came in their
middle. True is what the server itself counted.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidelight.agent.protocols import HTTP1
from sidelight.cli.demo import free_port
from tests.multiplexed.clients import CLIENTS, Asking, Client, h2load, upgrading
from tests.multiplexed.servers import NODE_MODULES, SERVERS, Server
from tests.observed import Observed, Totals, eventually, observed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exactness.md"
BEGIN, END = "<!-- written by python -m tests.multiplexed -->", "<!-- to here -->"
SHAPES = ((1, 1), (10, 1), (100, 1), (1000, 1), (10, 64))
CALLS = 4000


@dataclass(frozen=True, slots=True)
class Cell:
    """What a run gave, at both ends together: an exchange counts once a side."""

    server: str
    client: str
    streams: int
    connections: int
    attached: str
    true: int
    at_client: int
    at_server: int
    named: int
    unread: int
    unanswered: int
    lost: int

    @property
    def counted(self) -> int:
        return self.at_client + self.at_server

    def _of(self, missing: int) -> str:
        return f"{1 - missing / self.counted:.1%}" if missing and self.counted else "all"

    def line(self) -> str:
        exact = self.counted == 2 * self.true
        share = self._of(self.counted + self.unanswered - self.named)
        return (
            f"| {self.server} | {self.client} | {self.streams} | {self.connections} | {self.attached} | {self.true} "
            f"| {'' if exact else '**'}{self.at_server}{'' if exact else '**'} | {self.at_client} | {share} | {self._of(self.unread)} | {self.unanswered} | {self.lost} |"
        )


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _settled(count: Callable[[], int]) -> None:
    """Waits until the server's own count has stood still for a second: it may have refused some, and logs late."""
    last, since = count(), time.monotonic()
    while time.monotonic() - since < 1.0:
        time.sleep(0.05)
        if (now := count()) != last:
            last, since = now, time.monotonic()


def _named(watch: Observed) -> int:
    """Exchanges of which everything is known: the kernel's own count of HTTP/2, and of HTTP/1 all."""
    counters = watch.source.counters()
    return counters["http2_named"] + counters["grpc_named"]


def _counted(watch: Observed) -> dict[str, int]:
    """Answered ones by role, and those that never were, which no server logs; without HTTP/1, by which etcd is asked for its figures."""
    found = {"client": 0, "server": 0, "unanswered": 0}
    for (role, protocol, _, status, _), n in watch.totals.exchanges.items():
        if role in found and protocol != HTTP1.number:
            found[role if status else "unanswered"] += n
    return found


def run_cell(
    server: Server, client: Client | None, streams: int, connections: int, middle: bool, scratch: Path
) -> Cell:
    """`client` None: h2load, or where there is none to be had of a shape, curl that upgrades (streams 0)."""
    env = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    with observed(attached=not middle) as watch:
        port = free_port()
        watch.start("server", server.command(scratch, port), env=env)
        eventually(lambda: _listening(port), 30, f"{server.name} listens")
        time.sleep(0.3)
        asking = Asking(watch, client.command(server, port, connections), env) if client else None
        if middle:
            assert asking
            asking.ask(400, min(streams, 10))
            time.sleep(0.3)
            watch.attach()
        if not middle:
            watch.drain()
            watch.totals = Totals()  # without what it took to see whether it listens
        before, named_before = server.count(scratch, port), _named(watch)
        if asking:
            asking.ask(CALLS, streams)
        elif streams:
            h2load(watch, server, port, CALLS, streams, connections)
        else:
            upgrading(watch, server, port, 20)
        _settled(lambda: server.count(scratch, port))
        true = server.count(scratch, port) - before
        if asking:
            asking.close()
        watch.settle(closed=server.name != "etcd")  # which has connections with itself
        counted, counters = _counted(watch), watch.source.counters()
        watch.assert_books()
        return Cell(
            server.name, client.name if client else "h2load" if streams else "curl, upgrading", streams, connections,
            "in the middle" if middle else "before", true, counted["client"], counted["server"], _named(watch) - named_before,
            counters["http2_status_unread"] + counters["grpc_status_unread"],
            counted["unanswered"],
            counters["lost_exchanges"] + counters["exchange_unmatched"],
        )  # fmt: skip


def cells(only: str, quick: bool) -> Iterator[tuple[Server, Client | None, int, int, bool]]:
    """All of them, or of one server; quick: two shapes."""
    for server in SERVERS:
        if only and server.name != only:
            continue
        fitting = [client for client in CLIENTS if client.rpc == server.rpc]
        if server.name == "etcd":
            fitting = [client for client in fitting if client.name == "grpcio"]
        elif server.rpc:
            fitting.sort(key=lambda client: client.name != server.name)
        for streams, connections in SHAPES[1:2] if quick else SHAPES:
            if not server.rpc:
                yield server, None, streams, connections, False
            for client in fitting[:1] if server.rpc else ():
                yield server, client, streams, connections, False
        for client in fitting:
            if not quick:
                yield server, client, 10, 1, False
            yield server, client, 10, 1, True
        if server.name in ("h2o", "Apache"):
            yield server, None, 0, 1, False


HEADER = (
    "| server | client | streams at once | connections | attached | true | counted at the server | at the client | named | status known | unanswered | lost |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.multiplexed")
    parser.add_argument("--server", default="", choices=["", *(server.name for server in SERVERS)])
    parser.add_argument("--quick", action="store_true", help="one shape of each")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    options = parser.parse_args()
    print(HEADER)
    found, wrong, seen = [], 0, set()
    for server, client, streams, connections, middle in cells(options.server, options.quick):
        key = (server.name, client.name if client else "", streams, connections, middle)
        if key in seen:
            continue
        seen.add(key)
        if "grpc-js" in (server.name, client.name if client else "") and not NODE_MODULES.exists():
            print(
                f"{server.name}: no {NODE_MODULES}/@grpc/grpc-js: npm install --prefix {NODE_MODULES.parent} @grpc/grpc-js",
                file=sys.stderr,
            )
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                cell = run_cell(server, client, streams, connections, middle, Path(scratch))
            except AssertionError as error:
                print(
                    f"{server.name} {client.name if client else 'h2load'} {streams} x {connections}: {error}",
                    flush=True,
                )
                wrong += 1
                continue
        found.append(cell)
        wrong += cell.counted != 2 * cell.true
        print(cell.line(), flush=True)
    if options.write:
        text = PAGE.read_text()
        before, behind = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        PAGE.write_text(f"{before}\n{HEADER}\n" + "\n".join(cell.line() for cell in found) + f"\n{behind}")
    print(f"{len(found)} cells, {wrong} not exact")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
