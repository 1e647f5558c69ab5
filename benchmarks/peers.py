"""The same load with other ways to see it, in the same minutes: Sidelight with its agent, tcpdump writing the packets' heads to
/dev/null, and one more nginx in the path as a stand-in for a sidecar proxy (a real sidecar adds one such hop at each end, and
TLS). BCC's tcplife is tried too: it needs kernel headers or BTF, and says nothing of HTTP. Medians of alternating rounds."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.agent_cost import agent
from benchmarks.load import PORT, PROXY_PORT, SHORT, Bench, bench

WAYS = ("nothing", "sidelight", "tcpdump", "a proxy hop")
TELLS = {
    "nothing": "",
    "sidelight": "requests, latencies, failures and bytes by name",
    "tcpdump": "packets, to be analysed elsewhere",
    "a proxy hop": "requests, latencies, failures of what passes it",
}


def run(rounds: int = 8, seconds: float = 1.0) -> dict[str, Any]:
    rates: dict[str, dict[str, list[float]]] = {way: {"keep_alive": [], "short": []} for way in WAYS}
    seen: list[str] = []
    with bench() as place:
        place.proxy()
        place.wrk(1)
        for number in range(rounds):
            for at in range(len(WAYS)):
                way = WAYS[(at + number) % len(WAYS)]
                port = PROXY_PORT if way == "a proxy hop" else PORT
                with _watching(place, way, seen):
                    rates[way]["keep_alive"].append(place.wrk(seconds, port=port)[0])
                    rates[way]["short"].append(place.wrk(seconds, *SHORT, port=port)[0])
    found: dict[str, Any] = {}
    for way in WAYS:
        ratios = {
            load: [a / b for a, b in zip(values, rates["nothing"][load], strict=True)]
            for load, values in rates[way].items()
        }
        found[way] = {
            "keep_alive_ratio": round(statistics.median(ratios["keep_alive"]), 3),
            "keep_alive_spread": _spread(ratios["keep_alive"]),
            "short_ratio": round(statistics.median(ratios["short"]), 3),
            "short_spread": _spread(ratios["short"]),
            "tells": TELLS[way] + (f"; {seen[-1]}" if way == "tcpdump" and seen else ""),
        }
    found["tcplife (BCC)"] = {"tells": _tcplife()}
    return found


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


@contextlib.contextmanager
def _watching(place: Bench, way: str, seen: list[str]) -> Iterator[None]:
    if way == "sidelight":
        with agent(place):
            yield
    elif way == "tcpdump":
        # only our own namespace's loopback, only our port
        command = ["ip", "netns", "exec", place.netns, "tcpdump", "-n", "-i", "lo", "-s", "256", "-w", "/dev/null", f"tcp port {PORT}"]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        time.sleep(0.5)
        try:
            yield
        finally:
            process.terminate()
            said = process.communicate()[1].decode()
            captured = [line for line in said.splitlines() if "packets captured" in line or "dropped by kernel" in line]
            seen.append(", ".join(captured))
    else:
        yield


def _tcplife() -> str:
    """What BCC's tool says here."""
    tool = shutil.which("tcplife-bpfcc", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if tool is None:
        return "not installed"
    try:
        done = subprocess.run([tool], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "loads; connections only, not measured"
    said = [line for line in done.stderr.splitlines() if "error" in line.lower() or "Failed" in line or "not" in line]
    return f"does not load here: {(said[-1] if said else 'no reason given').strip()[:100]}"
