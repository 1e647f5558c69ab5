"""The budgets that the project holds itself to, each with its figure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A budget: where its figure is in a benchmark's result, and its limit."""

    what: str
    benchmark: str
    path: tuple[str, ...]
    limit: float
    at_most: bool = True
    unit: str = ""

    def figure(self, kept: dict[str, Any], run: str = "result") -> float | None:
        found: Any = kept.get(self.benchmark, {}).get(run)
        for name in self.path:
            found = found.get(name) if isinstance(found, dict) else None
        return None if found is None or found == "" else float(found)

    def beside(self, name: str, kept: dict[str, Any], run: str = "result") -> float | None:
        """Another figure of the same row."""
        return replace(self, path=(*self.path[:-1], name)).figure(kept, run)

    def verdict(self, kept: dict[str, Any]) -> str:
        """met, not met, or not resolved: its interval lies on both sides of the limit."""
        figure = self.figure(kept)
        if figure is None:
            return ""
        low, high = self.beside("low", kept), self.beside("high", kept)
        if low is not None and high is not None and low < self.limit < high:
            return f"not resolved: {low:g} to {high:g}"
        return "met" if (figure <= self.limit if self.at_most else figure >= self.limit) else "not met"


HTTP, SHORT, IPERF = "HTTP keep-alive", "HTTP, one connection a request", "iperf3, one stream"
GOALS = [
    Goal("kernel, keep-alive: a run", "program_cost", (HTTP, "ns_a_run"), 150, unit=" ns"),
    Goal("kernel, keep-alive: a request and endpoint", "program_cost", (HTTP, "ns_a_unit_and_endpoint"), 600, unit=" ns"),
    Goal("kernel, a connection a request: an endpoint", "program_cost", (SHORT, "ns_a_unit_and_endpoint"), 2000, unit=" ns"),
    Goal("kernel, bulk: a KB and endpoint", "program_cost", (IPERF, "ns_a_unit_and_endpoint"), 1, unit=" ns"),
    Goal("kernel, gRPC: a small call and endpoint", "program_cost", ("gRPC, small unary calls", "ns_a_unit_and_endpoint"), 1400, unit=" ns"),
    Goal("kernel, idle connections: runs a second", "program_cost", ("1,000 idle connections", "runs_a_unit_and_endpoint"), 0),
    Goal("throughput, keep-alive", "overhead", ("HTTP keep-alive, 16 connections", "ratio"), 0.97, at_most=False),
    Goal("throughput, a connection a request", "overhead", ("HTTP, a connection a request", "ratio"), 0.93, at_most=False),
    Goal("p99 at half load, added", "overhead", ("latency p99 at half load", "added_microseconds"), 20, unit=" µs"),
    Goal("agent, 100 edges, 1000 requests/s", "agent_cost", ("1000 requests/s, 100 edges", "cpu_percent_of_a_core"), 2, unit=" % of a core"),
    Goal("agent, 100 edges, 50000 requests/s", "agent_cost", ("50000 requests/s, 100 edges", "cpu_percent_of_a_core"), 2, unit=" % of a core"),
    Goal("agent's memory, 100 edges", "agent_cost", ("50000 requests/s, 100 edges", "rss_mb"), 100, unit=" MB"),
    Goal("start to first named flow", "agent_cost", ("seconds_to_first_named_flow",), 2, unit=" s"),
    Goal("spans, 5,000 a second", "span_cost", ("direct", "percent_of_a_core_at_5000_a_second"), 10, unit=" % of a core"),
    Goal("scrape of 10,000 edges", "exposition_scale", ("10000 edges", "scrape_s"), 0.5, unit=" s"),
    Goal("memory with 100,000 pods", "identity_scale", ("100000 pods", "agent_rss_mb"), 180, unit=" MB"),
    Goal("1,000 policies against 100,000 edges", "policy_scale", ("1000 policies, 10000 pods, 100000 edges", "check_s"), 10, unit=" s"),
    Goal("its memory", "policy_scale", ("1000 policies, 10000 pods, 100000 edges", "peak_mb"), 500, unit=" MB"),
    Goal("wrong names, local ends", "identity_accuracy", ("Sidelight, local end", "wrong"), 0),
    Goal("wrong names, remote ends", "identity_accuracy", ("Sidelight, remote end", "wrong"), 0),
    Goal("soak: memory an hour", "soak", ("rss_mb_an_hour",), 2, unit=" MB"),
    Goal("soak: kernel objects left", "soak", ("kernel_objects_left",), 0),
]  # fmt: skip

TRIED = """The kernel programs' goals were set on a machine whose clock is read for nothing. Here bpf_stats' own two readings are 55 ns of every run, so
the floor of empty programs alone is above the goal for bulk transfers and close to half of that for short connections. What was
tried and kept: the LRU map of handshakes became a table of small buckets (short connections 5.8 to 5.2 µs); a request's and a response's bytes are
booked with the response's latency (keep-alive 920 to 800 ns); heads are read where they are and copied only when a window is not enough;
the head is scanned sixteen bytes a turn; body segments pass without the parser; the socket's own counters are read at
intervals; callbacks of no interest return on the first comparison; an HTTP connection's state is 2 KB, not 4. Tried and
dropped: counting without atomics or not at all (no difference), leaving events out (no difference below their rate limit). What is left of a
request is, by sampling: the parser a third, looking up state and edges a third, the hooks, the clock and cache lines that wander between two
CPUs the rest; of a short connection two allocations of socket storage and fifteen runs of which five do something. The machine has phases, minutes
long, in which what two CPUs share takes half to two thirds as much again: a run can fall into either, and a second run out of the first
one's spread. Versions are therefore compared in alternating runs: against the version before these changes, 0.75 of its ns a
keep-alive request (1,061 and 1,078 then, 800 and 797 now), 0.80 a short connection, 0.65 a KB of a 1 MB response. Its stalls of milliseconds are also what the
99th percentile of the latency is made of, with programs and without: 20 µs cannot be told apart in them, the median can."""


def table(kept: dict[str, Any]) -> list[str]:
    lines = ["| goal | limit | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        figure = goal.figure(kept)
        sign = "≤" if goal.at_most else "≥"
        said = "not measured" if figure is None else f"{figure:g}{goal.unit}"
        lines.append(f"| {goal.what} | {sign} {goal.limit:g}{goal.unit} | {said} | {goal.verdict(kept)} |")
    return lines


SPREADS = {
    "ns_a_unit_and_endpoint": ("lowest", "highest"),
    "ratio": ("low", "high"),
    "added_microseconds": ("low", "high"),
}
"""Fields that tell how far a figure scattered within its run."""


def two_runs(kept: dict[str, Any]) -> list[str]:
    """Each headline figure of the last run and of the one before it on the same machine, with the spread within each."""
    lines = ["| figure | before | last | change |", "|---|---|---|---|"]
    for goal in GOALS:
        last, before = goal.figure(kept), goal.figure(kept, "before")
        if last is None or before is None:
            continue
        change = f"{(last / before - 1) * 100:+.1f} %" if before else ""
        said = [
            f"{figure:g}{goal.unit}{_spread(goal, kept, run)}" for figure, run in ((before, "before"), (last, "result"))
        ]
        lines.append(f"| {goal.what} | {said[0]} | {said[1]} | {change} |")
    return lines if len(lines) > 2 else ["No second run on this machine yet."]


def _spread(goal: Goal, kept: dict[str, Any], run: str) -> str:
    names = SPREADS.get(goal.path[-1])
    if names is None:
        return ""
    low, high = (goal.beside(name, kept, run) for name in names)
    return "" if low is None or high is None else f" ({low:g} to {high:g})"
