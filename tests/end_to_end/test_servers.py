"""Whole agents against the servers' own counts: nginx, Python's http.server, Node, h11; at saturation, and over kill -9."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidelight.cli.demo import NGINX, Processes, _find, free_port, wait_for_port
from tests.observed import PATIENCE, eventually, read_json
from tests.running import Running, running

HTTP_SERVER = """
import http.server, signal, sys, threading
count = 0
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        global count
        with lock: count += 1
        body = b"x" * 100
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
lock = threading.Lock()
s = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H)
def end(*_):
    lock.acquire()  # whoever is not counted yet is not answered either
    open(sys.argv[2], "w").write(str(count)); import os; os._exit(0)
signal.signal(signal.SIGTERM, end)
s.serve_forever()
"""
NODE = """
const http = require('http'), fs = require('fs');
let count = 0;
const s = http.createServer((q, r) => { count++; r.end('x'.repeat(100)); });
s.listen(+process.argv[2], '127.0.0.1');
process.on('SIGTERM', () => { fs.writeFileSync(process.argv[3], String(count)); process.exit(0); });
"""


def nginx(processes: Processes, tmp_path: Path) -> int:
    port = free_port()
    text = NGINX.format(home=tmp_path, web=port, shop=1).replace(
        'location /static { return 200 "static\\n"; }',
        f'location /static {{ return 200 "static\\n"; }} location /empty {{ return 204; }} location /files {{ root {tmp_path}; }}',
    )
    (tmp_path / "files").mkdir(exist_ok=True)
    (tmp_path / "files" / "large").write_bytes(b"x" * 1_000_000)
    tmp_path.chmod(0o755)
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    (tmp_path / "nginx.conf").write_text(text)
    processes.start("nginx", [str(_find("nginx")), "-c", str(tmp_path / "nginx.conf")])
    wait_for_port(port)
    return port


def _stub(port: int, column: int) -> int:
    """nginx's own count, the connection and request that ask included: 0 connections accepted, 2 requests."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stub", timeout=5 * PATIENCE) as response:
        return int(response.read().decode().split("\n")[2].split()[column])


def stub_status(port: int) -> int:
    """Requests nginx has counted, this one included."""
    return _stub(port, 2)


def accepts(port: int) -> int:
    """Connections nginx has accepted, the one that asks included."""
    return _stub(port, 0)


def wrk(agent: Running, seconds: int, url: str, *more: str, connections: int = 16) -> int:
    import subprocess

    process = agent.processes.start(
        "wrk", ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", *more, url], stdout=subprocess.PIPE
    )
    said = process.communicate()[0].decode()
    return int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]


def served(agent: Running, reporter: str, workload: str = "nginx") -> float:
    side = {"destination": "server", "source": "client"}[reporter]
    return agent.total(f"http_{side}_request_duration_seconds_count", reporter=reporter, destination_workload=workload)


def steady(agent: Running) -> None:
    """Waits until nothing is counted any more: a server may still work on what its clients have given up."""
    last = [-1.0, -1.0]

    def still() -> bool:
        last.append(agent.total("sidelight_seen_total", item="responses"))
        time.sleep(0.3)
        return last[-1] == last[-2] == last[-3]

    eventually(still, 20, "the server is done")


@contextlib.contextmanager
def saturated(agent: Running, port: int, seconds: int) -> Iterator[None]:
    """wrk all the time, on connections that stay (`seconds` each turn) and on new ones; at the end nginx's own count must be ours."""
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            wrk(agent, seconds, f"http://127.0.0.1:{port}/static")
            wrk(agent, 1, f"http://127.0.0.1:{port}/static", "-H", "Connection: close")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    eventually(agent.answers, 30)
    agrees(agent, port)


def missed(agent: Running, theirs: int) -> str:
    """How many of the server's requests are not counted, and every loss and doubt that is."""
    found = [f"{served(agent, 'destination'):.0f} of {theirs} requests"]
    for name in ("sidelight_lost_total", "sidelight_undecided_total"):
        found += [f"{labels['reason']} {value:.0f}" for labels, value in agent.samples(name) if value]
    return ", ".join(found)


def agrees(agent: Running, port: int) -> int:
    """nginx's count, which is ours too."""
    theirs = stub_status(port)
    eventually(lambda: served(agent, "destination") >= theirs, 15, lambda: missed(agent, theirs))
    assert served(agent, "destination") == theirs
    return theirs


def test_nginx_at_saturation_and_over_kill_nine(tmp_path: Path) -> None:
    with running() as agent:
        port = nginx(agent.processes, tmp_path)
        base = f"http://127.0.0.1:{port}"
        wrk(agent, 4, f"{base}/static")
        wrk(agent, 2, f"{base}/empty")
        wrk(agent, 2, f"{base}/static", "-H", "Connection: close")
        wrk(agent, 2, f"{base}/files/large")
        # kill -9 in the middle of the load, twice (once where a start takes half a minute); the kernel goes on counting
        load = threading.Thread(target=wrk, args=(agent, 5, f"{base}/static"))
        load.start()
        for _ in range(2 if PATIENCE == 1 else 1):
            time.sleep(1.2)
            agent.kill(9)
            agent.start()
        load.join()
        theirs = stub_status(port)
        eventually(lambda: served(agent, "destination") >= theirs, 10, lambda: missed(agent, theirs))
        assert served(agent, "destination") == theirs
        # the client's side: all but those that this test itself asked from outside the cgroup
        assert served(agent, "source") == theirs - 1
        audit = agent.audit()
        assert audit["holds"], audit
        assert theirs > (200_000 if PATIENCE == 1 else 2_000)


@pytest.mark.parametrize("kind", ["http.server", "node", "h11"])
def test_other_servers(tmp_path: Path, kind: str) -> None:
    with running() as agent:
        port, report = free_port(), tmp_path / "report"
        if kind == "node":
            (tmp_path / "server.js").write_text(NODE)
            command = [str(shutil.which("node")), str(tmp_path / "server.js"), str(port), str(report)]
        elif kind == "h11":
            peer = Path(__file__).parent.parent / "peers" / "server.py"
            command = [sys.executable, "-I", str(peer), "127.0.0.1", str(port), str(report)]
        else:
            (tmp_path / "server.py").write_text(HTTP_SERVER)
            command = [sys.executable, "-I", str(tmp_path / "server.py"), str(port), str(report)]
        server = agent.processes.start("server", command)
        wait_for_port(port)
        wrk(agent, 2, f"http://127.0.0.1:{port}/len/100", connections=8)
        wrk(agent, 2, f"http://127.0.0.1:{port}/len/100", "-H", "Connection: close", connections=8)
        steady(agent)
        agent.processes.stop(server)
        raw = read_json(report)
        theirs = sum(raw["requests"].values()) if isinstance(raw, dict) else raw

        def ours() -> float:
            # what the server never read counts as not answered: wrk goes on on connections that are being closed
            samples = agent.samples("http_server_request_duration_seconds_count", reporter="destination")
            return sum(value for labels, value in samples if "error_type" not in labels)

        eventually(lambda: ours() >= theirs, 10, f"{theirs}")
        assert ours() == theirs
        assert not agent.broken_laws()
