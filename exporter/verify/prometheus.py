"""Totals from a Prometheus: raw samples, integer differences with resets. Never rate() or increase(), which extrapolate.

The series are those of docs/metrics.md. An instance is an agent, so it stands in the place of the pod: pods of one node are not
told apart. Values are taken at the boundaries of the intervals, each the last sample at or before it.
"""

from __future__ import annotations

import json
import math
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.analysis.comparison import ARMS
from sidelight.analysis.readings import Counts, Interval, Key, Kind, Pod, Reading, difference
from sidelight.exporter.verify.arms import Arms, Selector

BEFORE = "7d"
"""So long before the beginning a series' last value is looked for: series without news are dropped by agents, and come back."""
STALE_S = 300.0
SETTLED_S = 2.0
"""A sample is there so long after its time."""
GAPS = 2.5
"""So many usual scrape intervals without a sample are a gap."""
_FAMILIES = {
    "http_server_request_duration_seconds": "served",
    "rpc_server_call_duration_seconds": "served",
    "db_server_operation_duration_seconds": "served",
    "messaging_server_operation_duration_seconds": "served",
    "http_client_request_duration_seconds": "asked",
    "rpc_client_call_duration_seconds": "asked",
    "db_client_operation_duration_seconds": "asked",
    "messaging_client_operation_duration_seconds": "asked",
}
_CONNECTIONS = (
    "sidelight_tcp_connections_closed_total",
    "sidelight_tcp_segments_total",
    "sidelight_tcp_retransmits_total",
    "sidelight_tcp_connections_opened_total",
    "sidelight_tcp_connections_failed_total",
)
_LOST = "sidelight_lost_total"
_BADLY = ("rst_local", "rst_remote", "timed_out")
Labels = dict[str, str]
Samples = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Api:
    """A Prometheus' address, and what it wants to see. Raises SidelightError in its own words."""

    url: str
    token: str = ""
    ca: str = ""
    timeout_s: float = 30.0

    def query(self, text: str, at: float) -> list[dict[str, Any]]:
        """An instant query's result."""
        body = urllib.parse.urlencode({"query": text, "time": f"{at:.3f}"}).encode()
        request = urllib.request.Request(f"{self.url.rstrip('/')}/api/v1/query", data=body)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        context = ssl.create_default_context(cafile=self.ca) if self.ca else None
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s, context=context) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise SidelightError(f"{self.url}: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            raise SidelightError(f"{self.url}: {error}") from None
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise SidelightError(f"{self.url}: no answer of a Prometheus")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


def matchers(arms: Arms, selector: Selector, side: str) -> list[str]:
    """Label matchers of an arm's pods as `side`, one set by workload and one by service: either may carry the target's name."""
    common = [f'{side}_workload_namespace="{arms.namespace}"'] if arms.namespace else []
    for key, value in selector.pairs:
        label = {"version": f"{side}_canonical_revision", "workload": f"{side}_workload"}.get(key)
        common.append(f'{label or f"{side}_label_{_label(key)}"}="{value}"')
    if selector.workload:
        return [",".join(common)]
    found = [",".join([*common, f'{side}_workload="{arms.name}"'])]
    if side == "destination":
        found.append(",".join([*common, f'destination_service_name="{arms.name}"']))
    return found


def _label(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)


@dataclass(frozen=True, slots=True)
class Series:
    """One series: whose it is, and its samples (time, value), the first of which may be from long before."""

    arm: str
    labels: Labels
    samples: Samples

    @property
    def name(self) -> str:
        return self.labels["__name__"]


class Prometheus:
    """A source (trial.py): the time from `since` on, by `clock`. `offset_s`: the baseline is from so long before."""

    def __init__(
        self,
        api: Api,
        arms: Arms,
        interval_s: float,
        *,
        since: float,
        until: float = math.inf,
        offset_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._arms, self._clock = api, arms, clock
        self._interval_s, self._offset_s = interval_s, offset_s
        self._at, self._until = since, until
        self.name = f"Prometheus at {api.url}"

    def start(self) -> Interval | None:
        """The baseline's totals at the beginning: by them one can tell what is slow. Raises SidelightError."""
        start = self._at
        series = self._series(start, 0.0, arms=("baseline",))
        totals, bounds, _ = readings(series, [start])
        if not totals[0]:
            return None
        before = Reading(start, bounds, {})
        return difference(before, Reading(start, bounds, totals[0]))

    def take(self, *, last: bool = False) -> list[Interval]:
        """Whole intervals since the last time. Raises SidelightError; ConfigError when buckets differ between series."""
        end = min(self._until, self._clock() - (0.0 if last else SETTLED_S))
        found = self.intervals(self._at, end)
        self._at += self._interval_s * len(found)
        return found

    @property
    def past(self) -> bool:
        """Is there an end, and is it over?"""
        return self._until <= self._clock()

    @property
    def exhausted(self) -> bool:
        """Is all taken that was asked for?"""
        return self._at + self._interval_s > self._until

    def intervals(self, start: float, end: float) -> list[Interval]:
        """Those between two times."""
        count = int((end - start + 1e-6) // self._interval_s)
        if count < 1:
            return []
        edges = [start + self._interval_s * i for i in range(count + 1)]
        series = self._series(edges[-1], edges[-1] - start)
        totals, bounds, problems = readings(series, edges, self._offset_s)
        lost = self._lost(edges)
        pods = tuple(sorted({Pod(key.arm, key.pod) for key in totals[-1]}, key=lambda pod: (pod.arm, pod.name)))
        taken = [
            Reading(at, bounds, found, pods, missed, problems=problems)
            for at, found, missed in zip(edges, totals, lost, strict=True)
        ]
        return [difference(before, after) for before, after in pairwise(taken)]

    def _series(self, end: float, span_s: float, arms: tuple[str, ...] = ARMS) -> list[Series]:
        found: dict[tuple[str, frozenset[tuple[str, str]]], Series] = {}
        for arm in arms:
            selector = self._arms.baseline if arm == "baseline" else self._arms.canary
            until = end - (self._offset_s if arm == "baseline" else 0.0)
            for name, side, reporter in _wanted():
                for labels in matchers(self._arms, selector, side):
                    self._fetch(found, arm, f'{{__name__=~"{name}",reporter="{reporter}",{labels}}}', until, span_s)
        return list(found.values())

    def _fetch(self, found: dict[Any, Series], arm: str, selector: str, until: float, span_s: float) -> None:
        """The samples of the span, before them the last one from before it."""
        start = until - span_s
        for row in self._api.query(f"last_over_time({selector}[{BEFORE}])", start):
            _put(found, arm, row["metric"], [(start, float(row["value"][1]))])
        if span_s:
            for row in self._api.query(f"{selector}[{max(1, math.ceil(span_s))}s]", until):
                samples = [(float(at), float(value)) for at, value in row["values"] if float(at) > start]
                _put(found, arm, row["metric"], samples)

    def _lost(self, edges: list[float]) -> list[int]:
        span_s = math.ceil(edges[-1] - edges[0] + STALE_S)
        rows = self._api.query(f'{_LOST}{{reason="exchanges"}}[{span_s}s]', edges[-1])
        sums = [0] * len(edges)
        for row in rows:
            samples = [(float(at), float(value)) for at, value in row["values"]]
            for index, value in enumerate(along(samples, edges)):
                sums[index] += value
        return sums


def _wanted() -> list[tuple[str, str, str]]:
    """(regular expression of names, the target's side, reporter)."""
    served = "|".join(name for name, kind in _FAMILIES.items() if kind == "served")
    asked = "|".join(name for name, kind in _FAMILIES.items() if kind == "asked")
    mine = "|".join(_CONNECTIONS[:4])
    return [
        (f"({served})_(bucket|count)", "destination", "destination"),
        (f"({asked})_(bucket|count)", "source", "source"),
        (mine, "destination", "destination"),
        ("|".join(_CONNECTIONS[3:]), "destination", "source"),
    ]


def _put(found: dict[Any, Series], arm: str, labels: Labels, samples: Samples) -> None:
    key = (arm, frozenset(labels.items()))
    known = found.get(key)
    if known is None:
        found[key] = Series(arm, labels, samples)
        return
    latest = known.samples[-1][0]
    known.samples.extend(sample for sample in samples if sample[0] > latest)


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
        if base in _FAMILIES:
            kind: Kind = "served" if _FAMILIES[base] == "served" else "asked"
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
    if name == _CONNECTIONS[0]:
        return "ended", (0, 1) if reason in _BADLY else (0,)
    if name == _CONNECTIONS[1]:
        return ("sent", (0,)) if labels.get("direction") == "transmit" else None
    if name == _CONNECTIONS[2]:
        return "sent", (1,)
    if name == _CONNECTIONS[3]:
        return ("dialled" if labels.get("reporter") == "source" else "opened"), (0,)
    if name == _CONNECTIONS[4] and reason != "aborted":
        return "dialled", (0, 1)
    return None
