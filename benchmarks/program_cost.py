"""What the kernel programs cost: ns a run, a request and a KB, by hook, from kernel.bpf_stats_enabled. Both ends are observed.
`floor`: what the same measurement says of programs that do nothing on the same hooks, in the same minute; it is mostly the
clock that is read twice a run. Medians of several rounds."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.floor import floor
from benchmarks.load import LARGE_BYTES, PORT, SHORT, Bench, bench, bpf_stats, costs_between
from sidelight.agent.source import ProgramCost

HOLDER = Path(__file__).resolve().parents[1] / "tests" / "peers" / "holder.py"

LOADS: dict[str, tuple[str, Callable[[Bench, float], float]]] = {
    "HTTP keep-alive": ("request", lambda place, seconds: place.wrk(seconds)[1]),
    "HTTP, one connection a request": ("request", lambda place, seconds: place.wrk(seconds, *SHORT)[1]),
    "HTTP, responses of 1 MB": (
        "KB",
        lambda place, seconds: place.wrk(seconds, path="/files/large")[1] * LARGE_BYTES / 1000,
    ),
    "HTTP/2, one stream a connection": ("request", lambda place, seconds: place.h2load(seconds)[1]),
    "HTTP/2, 32 streams a connection": ("request", lambda place, seconds: place.h2load(seconds, streams=32)[1]),
    "gRPC, small unary calls": ("call", lambda place, seconds: place.small_calls(seconds)),
    "gRPC, the same with grpcio": ("call", lambda place, seconds: place.calls(seconds)),
    "redis GET": ("command", lambda place, seconds: _gets(place, int(60_000 * seconds), 1)),
    "redis GET, pipelined by 16": ("command", lambda place, seconds: _gets(place, int(600_000 * seconds), 16)),
    "iperf3, one stream": ("KB", lambda place, seconds: place.iperf(seconds) * max(1, round(seconds)) / 1000),
}
"""Name -> (unit, load); a load says how many units were done."""


def run(seconds: float = 1.0, rounds: int = 5) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with bench() as place, bpf_stats():
        place.start_iperf()
        place.start_http2()
        place.start_redis()
        for name, (unit, load) in LOADS.items():
            with place.observed() as source:
                figures = [_round(source.costs, unit, partial(load, place, seconds)) for _ in range(rounds)]
            with floor(place.cgroup) as empty:
                floors = [_round(empty.costs, unit, partial(load, place, seconds)) for _ in range(rounds)]
            middle = sorted(figures, key=lambda f: float(f["ns_a_unit_and_endpoint"]))[rounds // 2]
            middle["lowest"] = min(f["ns_a_unit_and_endpoint"] for f in figures)
            middle["highest"] = max(f["ns_a_unit_and_endpoint"] for f in figures)
            middle["floor_ns_a_run"] = round(statistics.median(f["ns_a_run"] for f in floors))
            middle["floor_ns_a_unit_and_endpoint"] = round(
                statistics.median(f["ns_a_unit_and_endpoint"] for f in floors), 2
            )
            found[name] = middle
        found["1,000 idle connections"] = _idle(place, seconds)
    return found


def _gets(place: Bench, requests: int, pipeline: int) -> float:
    place.redis(requests, pipeline)
    return requests


def _round(costs: Callable[[], list[ProgramCost]], unit: str, load: Callable[[], float]) -> dict[str, Any]:
    """One load and what the programs took for it."""
    before = costs()
    done = load()
    between = costs_between(before, costs())
    total, runs = sum(ns for ns, _ in between.values()), sum(n for _, n in between.values())
    return {
        "unit": unit,
        "units": round(done),
        "ns_a_run": round(total / max(1, runs)),
        "ns_a_unit_and_endpoint": round(total / max(1, done) / 2, 2 if unit == "KB" else 0),
        "runs_a_unit_and_endpoint": round(runs / max(1, done) / 2, 3),
        "by_hook": {hook: {"ns_a_run": round(ns / n), "runs": n} for hook, (ns, n) in between.items() if n},
    }


def _idle(place: Bench, seconds: float, count: int = 1000) -> dict[str, Any]:
    """Connections that are open and silent: no program runs for them."""
    with place.observed() as source:
        holder = place.start(
            "idle", sys.executable, "-I", str(HOLDER), "connect", str(PORT), str(count), stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        time.sleep(0.2)
        before = source.costs()
        time.sleep(seconds)
        between = costs_between(before, source.costs())
        place.processes.stop(holder)
    runs = sum(n for _, n in between.values())
    return {"unit": "second", "units": seconds, "runs_a_unit_and_endpoint": round(runs / seconds / 2 / count, 3)}
