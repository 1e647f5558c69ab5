"""Series of a Prometheus as totals: integer differences with resets, buckets that fit, scrapes that are missing. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from sidelight.agent.errors import ConfigError
from sidelight.analysis.readings import Counts, Key, Kind

GAPS = 2.5
"""So many usual scrape intervals without a sample are a gap."""
FAMILIES = {
    "http_server_request_duration_seconds": "served",
    "rpc_server_call_duration_seconds": "served",
    "db_server_operation_duration_seconds": "served",
    "messaging_server_operation_duration_seconds": "served",
    "http_client_request_duration_seconds": "asked",
    "rpc_client_call_duration_seconds": "asked",
    "db_client_operation_duration_seconds": "asked",
    "messaging_client_operation_duration_seconds": "asked",
}
CONNECTIONS = (
    "sidelight_tcp_connections_closed_total",
    "sidelight_tcp_segments_total",
    "sidelight_tcp_retransmits_total",
    "sidelight_tcp_connections_opened_total",
    "sidelight_tcp_connections_failed_total",
)
_BADLY = ("rst_local", "rst_remote", "timed_out")
Labels = dict[str, str]
Samples = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One series: whose it is, and its samples (time, value), the first of which may be from long before."""

    arm: str
    labels: Labels
    samples: Samples

    @property
    def name(self) -> str:
        return self.labels["__name__"]


def along(samples: Samples, edges: list[float]) -> list[int]:
    """A counter's growth up to each time, from the first sample on, resets taken in: integers."""
    found, total, index = [], 0, 0
    last: float | None = None
    for edge in edges:
        while index < len(samples) and samples[index][0] <= edge:
            value = samples[index][1]
            if last is None:
                # before the first time: the base; later: born since, and all of it is new
                total += 0 if samples[index][0] <= edges[0] else int(value)
            else:
                total += int(value - last) if value >= last else int(value)
            last = value
            index += 1
        found.append(total)
    return found


def readings(
    series: list[Series], edges: list[float], offset_s: float = 0.0
) -> tuple[list[dict[Key, Counts]], tuple[float, ...], tuple[str, ...]]:
    """(totals at each time, the buckets' bounds, problems). Pure. Raises ConfigError on bounds that differ.

    With one time alone: the values themselves.
    """
    problems: set[str] = set()
    counters = _Counters(edges, offset_s)
    for one in series:
        counters.add(one, problems)
    totals, bounds = counters.totals()
    return totals, bounds, tuple(sorted(problems))


class _Counters:
    """Series by what they are of, until all buckets of a histogram are there."""

    def __init__(self, edges: list[float], offset_s: float) -> None:
        self._edges, self._offset_s = edges, offset_s
        self._histograms: dict[tuple[Key, frozenset[tuple[str, str]]], dict[str, list[int]]] = defaultdict(dict)
        self._counts: dict[tuple[Key, frozenset[tuple[str, str]]], list[int]] = {}
        self._pairs: dict[Key, list[list[int]]] = {}

    def add(self, series: Series, problems: set[str]) -> None:
        edges = [edge - self._offset_s if series.arm == "baseline" else edge for edge in self._edges]
        if len(edges) == 1:
            values = [int(value) for at, value in series.samples[-1:] if at <= edges[0]] or [0]
        else:
            values = along(series.samples, edges)
            _look_for_gaps(series, edges, problems)
        pod = series.labels.get("instance", "")
        base, _, suffix = series.name.rpartition("_")
        if base in FAMILIES:
            kind: Kind = "served" if FAMILIES[base] == "served" else "asked"
            labels = series.labels
            key = Key(series.arm, pod, kind, _family(base, labels), _stratum(kind, labels), "error_type" in labels)
            rest = frozenset((k, v) for k, v in labels.items() if k not in ("le", "__name__"))
            if suffix == "bucket":
                self._histograms[key, rest][labels["le"]] = values
            else:
                self._counts[key, rest] = values
            return
        found = _connection(series.name, series.labels)
        if found is None:
            return
        kind, places = found
        pair = self._pairs.setdefault(Key(series.arm, pod, kind), [[0] * len(edges), [0] * len(edges)])
        for place in places:
            pair[place] = [a + b for a, b in zip(pair[place], values, strict=True)]

    def totals(self) -> tuple[list[dict[Key, Counts]], tuple[float, ...]]:
        bounds: tuple[float, ...] = ()
        found: list[dict[Key, Counts]] = [{} for _ in self._edges]
        for (key, rest), buckets in self._histograms.items():
            les = sorted(buckets, key=float)
            here = tuple(float(le) for le in les if not math.isinf(float(le)))
            if bounds and here != bounds:
                raise ConfigError("the series have different buckets (agents of two versions?): they cannot be added")
            bounds = here
            cumulative = np.array([buckets[le] for le in les], np.int64)
            counts = np.diff(cumulative, axis=0, prepend=0)
            untimed = np.array(self._counts.get((key, rest), cumulative[-1])) - cumulative[-1]
            for at, totals in enumerate(found):
                row = np.append(counts[:, at], untimed[at])
                totals[key] = totals[key] + row if key in totals else row
        for key, pair in self._pairs.items():
            for at, totals in enumerate(found):
                totals[key] = np.array([pair[0][at], min(pair[0][at], pair[1][at])], np.int64)
        return found, bounds


def _look_for_gaps(series: Series, edges: list[float], problems: set[str]) -> None:
    times = [at for at, _ in series.samples if edges[0] < at <= edges[-1]]
    if len(times) > 3:
        steps = np.diff(times)
        usual = float(np.median(steps))
        if usual > 0 and float(steps.max()) > GAPS * usual + 1.0:
            who = series.labels.get("instance", "an agent")
            problems.add(f"scrapes of {who} are missing, up to {steps.max():.0f} s")


def _family(base: str, labels: Labels) -> str:
    if base.startswith("rpc_"):
        return "grpc"
    return labels.get("db_system_name") or labels.get("messaging_system") or "http"


def _stratum(kind: Kind, labels: Labels) -> str:
    """As agents name it: the other end, the method, the operation."""
    end = "source" if kind == "served" else "destination"
    namespace, workload = labels.get(f"{end}_workload_namespace", ""), labels.get(f"{end}_workload", "")
    peer = f"{namespace}/{workload}" if namespace else workload
    named = ("http_request_method", "db_operation_name", "messaging_operation_name")
    method = next((labels[name] for name in named if name in labels), "POST" if "rpc_method" in labels else "")
    called = ("http_route", "rpc_method", "messaging_destination_name")
    operation = next((labels[name] for name in called if name in labels), "")
    return " ".join(part for part in (peer, method, operation) if part)


def _connection(name: str, labels: Labels) -> tuple[Kind, tuple[int, ...]] | None:
    """(kind, which of [trials, events] the series counts into)."""
    reason = labels.get("reason", "")
    if name == CONNECTIONS[0]:
        return "ended", (0, 1) if reason in _BADLY else (0,)
    if name == CONNECTIONS[1]:
        return ("sent", (0,)) if labels.get("direction") == "transmit" else None
    if name == CONNECTIONS[2]:
        return "sent", (1,)
    if name == CONNECTIONS[3]:
        return ("dialled" if labels.get("reporter") == "source" else "opened"), (0,)
    if name == CONNECTIONS[4] and reason != "aborted":
        return "dialled", (0, 1)
    return None
