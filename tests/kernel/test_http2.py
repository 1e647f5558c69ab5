"""HTTP/2 and gRPC in the kernel: conversations of which every frame is known (tests/frames.py), at both ends, cut in any way."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidelight.agent import bpf, decode
from sidelight.agent.protocols import PROTOCOLS, STATUS_UNREAD
from sidelight.cli.demo import free_port
from tests.frames import TALKS, Talk, made
from tests.observed import OPEN_RATES, Namespaces, Observed, eventually, namespaces, observed

pytestmark = pytest.mark.skipif(not bpf.has_loop(), reason="a kernel before 5.17: HTTP/2 is not followed")


@pytest.fixture(scope="module")
def watch() -> Iterator[Observed]:
    with observed() as found:
        yield found


def play(watch: Observed, found: Talk, scratch: Path, each: int, *, host: str = "127.0.0.1", server_ns: str = "", client_ns: str = "") -> None:  # fmt: skip
    port = 18098 if server_ns else free_port()
    script = scratch / "script"
    script.write_text(json.dumps({"turns": [(who, data.hex()) for who, data in found.turns], "each": each}))
    server = watch.python("server", "talker.py", host, port, script, "server", netns=server_ns, stdout=subprocess.PIPE)
    assert server.stdout and server.stdout.readline() == b"ready\n"
    client = watch.python("client", "talker.py", host, port, script, "client", netns=client_ns)
    assert client.wait(120) == 0 and server.wait(120) == 0


def counted(watch: Observed, role: str) -> Counter[tuple[str, str, int]]:
    found: Counter[tuple[str, str, int]] = Counter()
    for (side, protocol, method, status, _), n in watch.totals.exchanges.items():
        if side == role:
            found[PROTOCOLS[protocol].title, PROTOCOLS[protocol].method(method), status] += n
    return found


def operations(watch: Observed, role: str) -> Counter[str]:
    names = decode.decode(watch.read_events()).operations
    found: Counter[str] = Counter()
    for (side, _, _, _, operation), n in watch.totals.exchanges.items():
        if side == role and operation:
            found[names.get(operation, f"#{operation}")] += n
    return found


def check(watch: Observed, found: Talk) -> None:
    for role in ("client", "server"):
        got = counted(watch, role)
        if ("HTTP/2", "GET", -1) in found.truth:  # answered or reset, whichever came first
            assert sum(got.values()) == found.truth["HTTP/2", "GET", -1], (role, got)
        else:
            assert got == found.truth, role
        assert operations(watch, role) == found.operations, role
        sent, received = found.messages if role == "client" else found.messages[::-1]
        assert (watch.totals.messages[role, "tx"], watch.totals.messages[role, "rx"]) == (sent, received), role
    watch.assert_books()


@pytest.mark.parametrize("each", [0, 1, 7])
@pytest.mark.parametrize("name", TALKS)
def test_conversations(watch: Observed, tmp_path: Path, name: str, each: int) -> None:
    found = made(name)
    if each and sum(len(data) for _, data in found.turns) > 60_000:
        pytest.skip("too long to be sent in octets")
    watch.forget()
    before = watch.source.counters()
    play(watch, found, tmp_path, each)
    watch.settle()
    check(watch, found)
    after = watch.source.counters()
    for counter in (
        "lost_http_sync",
        "http2_bad_index",
        "lost_exchanges",
        "exchange_untimed",
        "exchange_unmatched",
        "http2_not_followed",
    ):
        assert after[counter] == before[counter], counter
    assert after["seen_http2"] == before["seen_http2"] + 2


def test_bytes_and_bodies_are_whole(watch: Observed, tmp_path: Path) -> None:
    watch.forget()
    found = made("interleaved_data")
    play(watch, found, tmp_path, 0)
    totals = watch.settle()
    said = {who: sum(len(data) for side, data in found.turns if side == who) for who in ("client", "server")}
    assert int(totals.sum("server", "rx_bytes")) == int(totals.sum("client", "tx_bytes")) == said["client"]
    assert int(totals.sum("server", "tx_bytes")) == int(totals.sum("client", "rx_bytes")) == said["server"]
    assert int(totals.sum("server", "tx_body_bytes")) == 3 * 5 * 700


def test_dropped_segments(tmp_path: Path) -> None:
    """5 % of the packets are lost: counted all the same, or said to be missing."""
    with observed() as watch, namespaces() as nets:
        for netns in (nets.left, nets.right):
            nets.nft(netns, "table inet t { chain in { type filter hook input priority 0; tcp dport 18098 numgen random mod 100 < 5 drop; tcp sport 18098 numgen random mod 100 < 5 drop; }; }")  # fmt: skip
        for name in ("many_at_once", "grpc_kinds", "hundred_headers", "interleaved_data", "table_sizes"):
            found = made(name)
            watch.forget()
            before = watch.source.counters()
            lossy(watch, found, nets, tmp_path)
            watch.settle()
            after = {key: value - before[key] for key, value in watch.source.counters().items()}
            for role in ("client", "server"):
                got, true = sum(counted(watch, role).values()), sum(found.truth.values())
                lost = after["lost_exchanges"] + after["exchange_unmatched"] + after["lost_http_sync"]
                assert got == true or (got < true and lost), (name, role, got, true, after)
            watch.assert_books()


def lossy(watch: Observed, found: Talk, nets: Namespaces, scratch: Path) -> None:
    play(watch, found, scratch, 1400, host=nets.right_ip, server_ns=nets.right, client_ns=nets.left)


def test_a_joined_connection_is_counted_and_named_as_far_as_possible(tmp_path: Path) -> None:
    """The programs come in the middle: what was inserted into the tables before is unknown, what comes then is not."""
    found = Talk()
    for stream in (1, 3):
        found.call(stream, "pkg.Svc/Old", b"x")
        found.turn()
        found.reply(stream, 0, b"y")
        found.turn()
    before = len(found.turns)
    for stream in range(5, 25, 2):
        found.call(stream, "pkg.Svc/Old" if stream % 4 == 1 else "pkg.Svc/New", b"x")
        found.turn()
        found.reply(stream, 0 if stream % 4 == 1 else 5, b"y")
        found.turn()
    with observed(attached=False) as watch:
        port = free_port()
        script, wait = tmp_path / "script", tmp_path / "attached"
        turns: list[Any] = [(who, data.hex()) for who, data in found.turns]
        turns.insert(before, ("wait", str(wait)))
        script.write_text(json.dumps({"turns": turns, "each": 0}))
        server = watch.python("server", "talker.py", "127.0.0.1", port, script, "server", stdout=subprocess.PIPE)
        assert server.stdout and server.stdout.readline() == b"ready\n"
        client = watch.python("client", "talker.py", "127.0.0.1", port, script, "client")
        eventually((tmp_path / "attached.waits").exists)
        watch.attach()
        wait.touch()
        assert client.wait(60) == 0 and server.wait(60) == 0
        watch.settle()
        for role in ("client", "server"):
            assert sum(counted(watch, role).values()) == 10, role
            assert operations(watch, role) == {"pkg.Svc/New": 5}, role
        counters = watch.source.counters()
        assert counters["grpc_named"] == 10 and counters["grpc_unnamed_before"] == 10
        # the name `grpc-status` itself is in an entry of before: no status is guessed
        assert counters["grpc_status_unread"] == 20
        assert {status for _, _, _, status, _ in watch.totals.exchanges} == {STATUS_UNREAD}
        watch.assert_books()


def test_words_stay_where_heads_are_off(tmp_path: Path) -> None:
    """A path may say too much: without `head_text` no event has one."""
    for heads in (True, False):
        with observed(capture=replace(OPEN_RATES, head_text=heads)) as watch:
            play(watch, made("methods_and_statuses"), tmp_path, 0)
            watch.settle()
            texts = decode.decode(watch.read_events()).texts.values()
            assert len(texts) == 2 * 120 and sum(bool(text.path) for text in texts) == (240 if heads else 0)
