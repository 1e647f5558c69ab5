"""Throughput and latency, observed over not observed. Both ends of every connection are observed, on one machine that has
nothing else to do: the worst case. Runs alternate in changing order; a figure is the median of the pairs' ratios (or
differences) with its 95 % bootstrap interval. `floor`: the same with programs that do nothing on the same hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.load import SHORT, Bench, Switch, bench, interval

FIXED_RATE = 0.5
"""Share of the most that one run reaches, for the latencies."""


def run(pairs: int = 20, seconds: float = 1.0) -> dict[str, Any]:
    with bench() as place:
        place.start_redis()
        place.start_iperf()
        place.start_http2()
        scale = seconds if seconds < 1 else 1.0
        loads: dict[str, tuple[Callable[[], float], bool]] = {
            "HTTP keep-alive, 16 connections": (lambda: place.wrk(seconds)[0], True),
            "HTTP keep-alive, 1 connection": (lambda: place.wrk(seconds, connections=1)[0], False),
            "HTTP keep-alive, 256 connections": (lambda: place.wrk(seconds, connections=256)[0], False),
            "HTTP, a connection a request": (lambda: place.wrk(seconds, *SHORT)[0], True),
            "redis GET, 16 connections": (lambda: place.redis(int(80_000 * scale)), True),
            "redis GET, pipelined by 16": (lambda: place.redis(int(600_000 * scale), 16), True),
            "HTTP/2, one stream a connection": (lambda: place.h2load(seconds)[0], True),
            "HTTP/2, 32 streams a connection": (lambda: place.h2load(seconds, streams=32)[0], False),
            "gRPC, small unary calls": (lambda: place.small_calls(seconds), True),
            "iperf3, one stream": (lambda: place.iperf(seconds), True),
        }
        found: dict[str, Any] = {}
        with place.switch() as switch:
            place.wrk(1)
            for name, (load, with_floor) in loads.items():
                found[name] = _ratios(switch, load, pairs, with_floor)
            found |= _latencies(place, switch, pairs, seconds)
    return found


def _ratios(switch: Switch, load: Callable[[], float], pairs: int, with_floor: bool) -> dict[str, Any]:
    kinds = ["nothing", "observed", "empty"] if with_floor else ["nothing", "observed"]
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    for pair in range(pairs):
        rates = {}
        for at in range(len(kinds)):
            kind = kinds[(at + pair) % len(kinds)]
            with switch.attached(kind):
                rates[kind] = load()
        for kind in kinds:
            ratios[kind].append(rates[kind] / rates["nothing"])
    median, low, high = interval(ratios["observed"])
    row: dict[str, Any] = {"ratio": round(median, 3), "low": round(low, 3), "high": round(high, 3), "pairs": pairs}
    row["floor"] = round(interval(ratios["empty"])[0], 3) if with_floor else ""
    return row


def _latencies(place: Bench, switch: Switch, pairs: int, seconds: float) -> dict[str, Any]:
    """At half the rate that the machine reaches: open loop, so that waiting counts (benchmarks/openloop.c)."""
    most = place.fixed_rate(0, seconds)
    rate = FIXED_RATE * most["requests"] / seconds
    names = ("p50_us", "p99_us", "p999_us")
    differences: dict[str, list[float]] = {name: [] for name in names}
    plain: dict[str, list[float]] = {name: [] for name in names}
    for pair in range(pairs):
        said = {}
        for kind in ("observed", "nothing") if pair % 2 else ("nothing", "observed"):
            with switch.attached(kind):
                said[kind] = place.fixed_rate(rate, seconds)
        for name in names:
            differences[name].append(said["observed"][name] - said["nothing"][name])
            plain[name].append(said["nothing"][name])
    found = {}
    for name in names:
        median, low, high = interval(differences[name])
        found[f"latency {name.removesuffix('_us')} at half load"] = {
            "requests_a_second": round(rate),
            "microseconds_unobserved": round(interval(plain[name])[0], 1),
            "added_microseconds": round(median, 1),
            "low": round(low, 1),
            "high": round(high, 1),
            "pairs": pairs,
        }
    return found
