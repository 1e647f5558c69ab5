"""The life of TCP connections, by real traffic: outcomes, reasons, bytes, roles, both families, adoption."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from sidelight.agent import bpf, decode, layout, protocols
from sidelight.agent.adopt import socket_roles
from sidelight.agent.loader import Sizes
from sidelight.cli.demo import free_port
from tests.observed import Namespaces, Observed, eventually, observed, run

CLOSE = {name: index for index, name in enumerate(layout.CLOSE_REASONS_NAMES)}
FAIL = {name: index for index, name in enumerate(layout.FAIL_REASONS)}

PEER = """
import os, socket, sys, time, struct
role, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
ops = sys.argv[4:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
if role == "server":
    l = socket.socket(family); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == "::": l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if "deferred" in ops: l.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    l.bind((host, port)); l.listen(64); s, _ = l.accept()
else:
    s = socket.socket(family); s.settimeout(30)
    try:
        s.connect((host, port))
    except OSError as e:
        sys.exit(0)
for op in ops:
    name, _, value = op.partition("=")
    if name == "send": s.sendall(b"\\x00" * int(value))
    elif name == "recv":
        left = int(value)
        while left:
            got = len(s.recv(min(left, 1 << 16)))
            if not got: break
            left -= got
    elif name == "eof":
        try:
            while s.recv(1 << 16): pass
        except ConnectionResetError: pass
    elif name == "wait": time.sleep(float(value))
    elif name == "when":
        while not os.path.exists(value): time.sleep(0.02)
    elif name == "rst": s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif name == "timeout": s.setsockopt(socket.IPPROTO_TCP, 18, int(value))
    elif name == "close": s.close(); break
s.close()
"""


INPUT = "table inet t {\nchain in {\ntype filter hook input priority 0; %s\n}\n}\n"


def peer(watch: Observed, name: str, role: str, host: str, port: int, *ops: str, netns: str = ""):  # type: ignore[no-untyped-def]
    command = ["python3", "-I", "-c", PEER, role, host, str(port), *ops]
    return watch.start(name, ["ip", "netns", "exec", netns, *command] if netns else command)


def listening(port: int, netns: str = "") -> None:
    prefix = ["ip", "netns", "exec", netns] if netns else []
    eventually(lambda: run(*prefix, "ss", "-Htln", f"sport = :{port}"), what="listening")


@pytest.mark.parametrize(
    ("server", "client", "server_reason", "client_reason"),
    [
        (["recv=1000", "send=70000", "eof"], ["send=1000", "recv=70000"], "fin_remote", "fin_local"),
        (["recv=1000", "send=70000"], ["send=1000", "recv=70000", "eof"], "fin_local", "fin_remote"),
        (["recv=1000", "send=70000", "eof"], ["send=1000", "recv=70000", "rst"], "rst_remote", "rst_local"),
        (["recv=1000", "send=70000", "rst"], ["send=1000", "recv=70000", "eof"], "rst_local", "rst_remote"),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ends_bytes_and_both_cgroups(
    shared: Observed, host: str, server: list[str], client: list[str], server_reason: str, client_reason: str
) -> None:
    port = free_port()
    one = peer(shared, "server", "server", host, port, *server)
    listening(port)
    other = peer(shared, "client", "client", host, port, *client)
    assert other.wait(30) == 0 and one.wait(30) == 0
    totals = shared.settle()
    for role, reason, sent, received in (
        ("server", server_reason, 70000, 1000),
        ("client", client_reason, 1000, 70000),
    ):
        assert totals.sum(role, "opened") == 1
        assert totals.sum(role, "closed")[CLOSE[reason]] == 1, totals.sum(role, "closed")
        assert (totals.sum(role, "tx_bytes"), totals.sum(role, "rx_bytes")) == (sent, received)
        assert totals.sum(role, "tx_segments") > 0 and totals.sum(role, "rx_segments") > 0
    assert totals.other[("client", protocols.TCP_CONNECT)] == 1
    events = decode.decode(shared.read_events()).events
    opened = [e for e in events if e["type"] == decode.OPEN and e["key"]["port"] == port]
    ids = {shared.cgroup_id("client"), shared.cgroup_id("server")}
    assert len(opened) == 2
    assert all({int(e["key"]["cgroup_id"]), int(e["key"]["peer_cgroup_id"])} == ids for e in opened)
    shared.assert_books()


def forget_handshakes(watch: Observed) -> None:
    table = bpf.open_pin(watch.source.directory / "handshakes")
    try:
        shape = bpf.map_info(table)
        for index in range(shape.entries):
            bpf.update(table, index.to_bytes(4, "little"), bytes(shape.value_bytes))
    finally:
        os.close(table)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_opening_is_counted_though_its_handshake_was_forgotten(shared: Observed, host: str, tmp_path: Path) -> None:
    """The table of handshakes is small and its writers race: the listener's own run of the last ACK tells the cgroup."""
    port, go = free_port(), tmp_path / "go"
    peer(shared, "server", "server", host, port, "deferred", "wait=30")
    listening(port)
    peer(shared, "client", "client", host, port, f"when={go}", "send=1", "wait=30")
    eventually(lambda: shared.drain().sum("client", "opened") == 1, what="the client's opening")
    forget_handshakes(shared)
    go.touch()
    eventually(lambda: shared.drain().sum("server", "opened") == 1, 5, "the server's opening")
    key = [
        e["key"]
        for e in decode.decode(shared.read_events()).events
        if e["type"] == decode.OPEN and e["key"]["port"] == port
    ]
    assert shared.cgroup_id("server") in {int(k["cgroup_id"]) for k in key}


def test_v4_mapped(shared: Observed) -> None:
    port = free_port()
    server = peer(shared, "server", "server", "::", port, "recv=10")
    listening(port)
    peer(shared, "client", "client", "127.0.0.1", port, "send=10", "eof").wait(30)
    server.wait(30)
    shared.settle()
    events = decode.decode(shared.read_events()).events
    remotes = {bytes(e["key"]["remote"]) for e in events if e["key"]["port"] == port}
    assert remotes == {b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 1])}


def test_refused(shared: Observed) -> None:
    peer(shared, "client", "client", "127.0.0.1", 1).wait(30)
    totals = shared.settle()
    assert totals.sum("client", "failed")[FAIL["refused"]] == 1
    assert totals.sum("client", "attempts") == 1
    shared.assert_books()


def test_timed_out_aborted_and_unreachable(veth: Namespaces) -> None:
    with observed() as watch:
        veth.nft(veth.right, INPUT % "tcp dport 7 drop")
        # nobody has this address: the neighbour's silence becomes an ICMP error after three seconds. (One that
        # arrives within connect() itself, as a veth can do it, is left to the application: it counts as aborted.)
        peer(watch, "a", "client", "10.213.7.99", 8, netns=veth.left).wait(30)
        totals = watch.drain()
        assert totals.sum("client", "failed")[FAIL["unreachable"]] == 1, totals.sum("client", "failed")
        quick = "import socket; s = socket.socket(); s.settimeout(0.2)\ntry: s.connect(('%s', 7))\nexcept OSError: s.close()"
        watch.start("b", ["ip", "netns", "exec", veth.left, "python3", "-c", quick % veth.right_ip]).wait(30)
        assert watch.drain().sum("client", "failed")[FAIL["aborted"]] == 1
        run("ip", "netns", "exec", veth.left, "sysctl", "-q", "net.ipv4.tcp_syn_retries=1")
        peer(watch, "c", "client", veth.right_ip, 7, netns=veth.left).wait(60)
        totals = watch.drain()
        assert totals.sum("client", "failed")[FAIL["timed_out"]] == 1, totals.sum("client", "failed")
        assert totals.sum("client", "attempts") == 3
        watch.assert_books()


def test_established_connection_times_out(veth: Namespaces) -> None:
    with observed() as watch:
        server = peer(watch, "server", "server", veth.right_ip, 18098, "recv=10", "wait=20", netns=veth.right)
        listening(18098, veth.right)
        client = peer(watch, "client", "client", veth.right_ip, 18098, "timeout=1000", "send=10", "wait=1", "send=10", "wait=4", netns=veth.left)  # fmt: skip
        eventually(lambda: watch.source.counters()["seen_opened"] == 2)
        time.sleep(0.5)
        veth.nft(veth.right, INPUT % "tcp dport 18098 drop")
        client.wait(30)
        eventually(lambda: watch.drain().sum("client", "closed")[CLOSE["timed_out"]] == 1)
        assert watch.totals.sum("client", "retransmits") >= 1
        watch.processes.stop(server)


def test_older_connections_are_adopted(tmp_path: Path) -> None:
    """A connection from before the programs: its bytes and end are counted from then on, marked as adopted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with observed() as watch:
            from sidelight.agent.loader import unload

            unload(watch.instance)  # the cgroup stays, the programs go
            client = peer(
                watch, "client", "client", "127.0.0.1", port, "send=10", f"when={tmp_path}/go", "send=100", "recv=50"
            )
            far, _ = listener.accept()
            assert far.recv(10) and client.poll() is None
            from sidelight.agent.loader import LoadRequest, Pins, run_loader
            from sidelight.agent.source import Source
            from tests.observed import OPEN_RATES

            run_loader(LoadRequest(str(watch.cgroup), watch.instance, sizes=watch.sizes))
            watch.source = Source(Pins.of(watch.instance), watch.sizes)
            watch.configure(OPEN_RATES)
            watch.source.adopt(socket_roles())
            (tmp_path / "go").touch()
            received = b""
            while len(received) < 100:
                received += far.recv(100)
            far.sendall(b"x" * 50)
            client.wait(30)
            far.close()
            eventually(lambda: watch.drain() and np.sum(watch.totals.sum("client", "closed")) == 1)
            totals = watch.totals
            assert totals.sum("client", "adopted") == 1
            assert totals.sum("client", "opened") == 0
            assert (totals.sum("client", "tx_bytes"), totals.sum("client", "rx_bytes")) == (100, 50)
            watch.assert_books()


def test_one_page_ring_and_tiny_maps_lose_nothing_uncounted(veth: Namespaces) -> None:
    with observed(sizes=Sizes(edges=16, latencies=16, ring_bytes=4096)) as watch:
        for index in range(2, 60):
            run("ip", "-n", veth.right, "addr", "add", f"10.213.7.{index + 10}/24", "dev", "eth0")
        server = "import socket\nl = socket.create_server(('', 18097), backlog=256)\nwhile True: l.accept()[0].close()"
        process = watch.start("server", ["ip", "netns", "exec", veth.right, "python3", "-c", server])
        listening(18097, veth.right)
        client = "import socket\nfor i in range(2, 60):\n  for _ in range(3): socket.create_connection(('10.213.7.%d' % (i + 10), 18097)).close()"
        assert watch.start("client", ["ip", "netns", "exec", veth.left, "python3", "-c", client]).wait(60) == 0
        totals = watch.settle()
        counters = watch.source.counters()
        assert counters["lost_event_ring_full"] > 0 and counters["lost_edge_map_full"] > 0
        assert totals.sum("overflow", "opened") > 0
        named = totals.sum("client", "opened")
        assert named + totals.sum("server", "opened") + totals.sum("overflow", "opened") == 2 * 58 * 3
        watch.assert_books(overflow=True)
        watch.processes.stop(process)
