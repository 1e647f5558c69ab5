"""The HTTP parser in the kernel against an h11 server's own count: the adversarial corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidelight.cli.demo import free_port
from tests.observed import PATIENCE, Namespaces, Observed, eventually, observed, read_json, run


def get(path: str, method: str = "GET", headers: str = "", body: str = "") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: test.example\r\n{headers}\r\n{body}"


def post(path: str, body: str, headers: str = "") -> str:
    return get(path, "POST", f"Content-Length: {len(body)}\r\n{headers}", body)


LURE = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nGET /lure HTTP/1.1\r\nHost: x\r\n\r\n"
END = {"shutdown": True, "read": "eof"}
CHUNKED_LURE = (
    "".join(f"{len(part):x};ext=1\r\n{part}\r\n" for part in (LURE, "a", LURE * 3)) + "0\r\nTrailer: x\r\n\r\n"
)

CORPUS: dict[str, list[list[dict[str, Any]]]] = {
    "keep_alive": [[{"send": get("/len/10"), "until": "\r\n\r\n"}, {"send": get("/len/2000")}, END]],
    "http_1_0": [[{"send": "GET /len/5 HTTP/1.0\r\n\r\n"}, END]],
    "http_1_0_until_close": [[{"send": "GET /close/5000 HTTP/1.0\r\n\r\n"}, END]],
    "bare_lf": [[{"send": "GET /len/5 HTTP/1.1\nHost: x\n\n"}, END]],
    "leading_crlf": [[{"send": "\r\n" + get("/len/5")}, END]],
    "head_one_byte_a_segment": [
        [{"send": get("/len/100", headers="X-A: b\r\nCookie: " + "c" * 300 + "\r\n"), "each": 1}, END]
    ],
    "post_one_byte_a_segment": [[{"send": post("/len/10", LURE) + get("/len/1"), "each": 1}, END]],
    "head_in_threes": [[{"send": get("/chunked/4000") + get("/len/9"), "each": 3}, END]],
    "head_and_next_split": [[{"send": (get("/len/10") * 7), "each": 61}, END]],
    "head_method": [[{"send": get("/len/1000", "HEAD") + get("/len/3")}, END]],
    "no_content": [[{"send": get("/status/204") + get("/status/304") + get("/status/404")}, END]],
    "statuses": [[{"send": "".join(get(f"/status/{s}") for s in (200, 201, 301, 400, 418, 500, 503, 599))}, END]],
    "methods": [
        [{"send": "".join(get("/len/3", m) for m in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"))}, END]
    ],
    "interim": [[{"send": get("/interim") + get("/len/4")}, END]],
    "expect_continue": [
        [{"send": post("/interim", "x" * 50, "Expect: 100-continue\r\n")}, {"send": get("/len/2")}, END]
    ],
    "request_body_lure": [[{"send": post("/len/10", LURE * 20)}, {"send": get("/len/3")}, END]],
    "request_body_chunked_lure": [
        [{"send": get("/len/10", "POST", "Transfer-Encoding: chunked\r\n", CHUNKED_LURE) + get("/len/3")}, END]
    ],
    "request_body_chunked_split": [
        [
            {"send": get("/len/10", "POST", "Transfer-Encoding: chunked\r\n", CHUNKED_LURE) + get("/len/3"), "each": 5},
            END,
        ]
    ],
    "response_chunked_lure": [[{"send": get("/chunked/20000") + get("/chunked/0") + get("/len/3")}, END]],
    "response_large": [[{"send": get("/len/1000000") + get("/len/3")}, END]],
    "response_until_close": [[{"send": get("/close/30000")}, END]],
    "early_response": [
        [
            {"send": get("/early", "POST", "Content-Length: 90000\r\n") + "b" * 100},
            {"bytes": 545},
            {"send": "b" * 89900},
            {"send": get("/len/3")},
            END,
        ]
    ],
    "drop": [[{"send": get("/len/1") + get("/drop")}, END]],
    "reset": [[{"send": get("/reset")}, END]],
    "upgrade": [
        [
            {"send": get("/upgrade", headers="Upgrade: lure\r\nConnection: Upgrade\r\n")},
            {"until": "\r\n\r\n"},
            {"send": LURE * 5},
            END,
        ]
    ],
    "connect": [
        [{"send": "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"}, {"until": "\r\n\r\n"}, {"send": get("/lure") * 5}, END]
    ],
    "path_8k": [[{"send": get("/len/7/" + "p" * 8000) + get("/len/3")}, END]],
    "header_16k": [[{"send": get("/len/7", headers="Cookie: " + "c" * 16000 + "\r\n") + get("/len/3")}, END]],
    "many_headers": [
        [{"send": get("/len/7", headers="".join(f"X-{i}: {i}\r\n" for i in range(400))) + get("/len/3")}, END]
    ],
    "control_characters": [[{"send": get("/len/7/\x1b[31m%00")}, END]],
    "case_and_blanks": [
        [{"send": get("/len/5", "POST", "cOnTeNt-LeNgTh:   \t 70   \r\n", LURE[:70].ljust(70)) + get("/len/3")}, END]
    ],
    "client_aborts": [[{"send": get("/len/100"), "until": "\r\n\r\n"}, {"abort": True}]],
    "client_never_reads": [[{"send": get("/len/500000")}, {"wait": 0.3}, {"abort": True}]],
    "garbage_after_request": [
        [{"send": get("/len/3")}, {"until": "\r\n\r\n"}, {"send": "\x00\x01 garbage\r\n\r\n"}, END]
    ],
    "garbage_first": [[{"send": "GARBAGE\r\n\r\n"}, END]],
    "absolute_form": [[{"send": "GET http://test.example/len/5?a=b HTTP/1.1\r\nHost: test.example\r\n\r\n"}, END]],
}
# h11 refuses these before it has read a method; the packets do have one.
UNLIKE_THE_SERVER = {"leading_crlf": {("GET", 400): 1}, "control_characters": {("GET", 400): 1}}
for depth in (2, 3, 8, 16, 31, 32):
    CORPUS[f"pipeline_{depth}"] = [[{"send": get("/len/40"), "times": depth}, END]]
    CORPUS[f"pipeline_{depth}_split"] = [[{"send": get("/chunked/900") * depth, "each": 50}, END]]


def play(
    watch: Observed,
    tmp_path: Path,
    script: list[Any],
    host: str = "127.0.0.1",
    client_ns: str = "",
    server_ns: str = "",
) -> dict[tuple[str, int], int]:
    """Runs a script against the server; returns the server's own count by (method, status)."""
    port = 18099 if server_ns else free_port()
    report, file = tmp_path / "report", tmp_path / "script"
    file.write_text(json.dumps(script))
    server = watch.python("server", "server.py", host, port, report, netns=server_ns)
    listening = ["ss", "-Htln", f"sport = :{port}"]
    eventually(lambda: run(*(["ip", "netns", "exec", server_ns] if server_ns else []), *listening), what="server up")
    client = watch.python("client", "client.py", host, port, file, netns=client_ns)
    assert client.wait(timeout=120 * PATIENCE) == 0
    watch.processes.stop(server)
    counted = read_json(report)["requests"]
    return {(key.split()[0], int(key.split()[1])): n for key, n in sorted(counted.items())}


@pytest.mark.parametrize("case", CORPUS)
def test_corpus(shared: Observed, tmp_path: Path, case: str) -> None:
    theirs = UNLIKE_THE_SERVER.get(case) or play(shared, tmp_path, CORPUS[case])
    if case in UNLIKE_THE_SERVER:
        play(shared, tmp_path, CORPUS[case])
    totals = shared.settle()
    assert totals.requests("server") == theirs
    assert totals.requests("client") == theirs
    shared.assert_books()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_corpus_at_once(watch: Observed, veth: Namespaces, tmp_path: Path, family: str) -> None:
    script = [c for case, connections in CORPUS.items() if case not in UNLIKE_THE_SERVER for c in connections]
    host = veth.right_ip6 if family == "ipv6" else veth.right_ip
    theirs = play(watch, tmp_path, script, host, veth.left, veth.right)
    totals = watch.settle()
    assert totals.requests("server") == theirs
    assert totals.requests("client") == theirs
    watch.assert_books()


LOSS = """
table inet loss {
  chain in { type filter hook input priority 0;
    tcp dport 18099 numgen random mod 100 < 5 drop;
    tcp sport 18099 numgen random mod 100 < 5 drop; }
  chain out { type filter hook output priority 0;
    tcp dport 18099 numgen random mod 100 < 5 drop;
    tcp sport 18099 numgen random mod 100 < 5 drop; }
}
"""


@pytest.mark.parametrize("hooks", ["client", "server"])
def test_five_percent_of_segments_dropped(veth: Namespaces, tmp_path: Path, hooks: str) -> None:
    """Loss on both of a host's hooks: segments are retransmitted, come twice and out of order."""
    with observed() as watch:
        veth.nft(veth.left if hooks == "client" else veth.right, LOSS)
        cases = (
            "keep_alive",
            "head_in_threes",
            "request_body_lure",
            "response_chunked_lure",
            "response_large",
            "pipeline_8",
            "pipeline_16_split",
            "methods",
            "path_8k",
        )
        script = [connection for case in cases for connection in CORPUS[case]] * 2
        theirs = play(watch, tmp_path, script, veth.right_ip, veth.left, veth.right)
        totals = watch.settle()
        counters = watch.source.counters()
        lost = counters["lost_exchanges"]
        if counters["lost_http_sync"] == 0:
            said = {name: n for name, n in counters.items() if n}
            assert totals.requests("server") == theirs, said
            assert totals.requests("client") == theirs, said
        # what could not be put in order is counted by name, and nothing else is missing
        both = sum(totals.requests("server").values()) + sum(totals.requests("client").values())
        missing = 2 * sum(theirs.values()) - both - lost
        # a request behind one whose head was lost, in the same segment: its answer is the one that matches none
        assert 0 <= missing <= counters["exchange_unmatched"], {k: v for k, v in counters.items() if v}
        watch.assert_books()
