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
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sidelight.agent.errors import SidelightError
from sidelight.analysis.comparison import ARMS
from sidelight.analysis.readings import Interval, Pod, Reading, difference
from sidelight.exporter.verify.arms import Arms, Selector
from sidelight.exporter.verify.series import CONNECTIONS, FAMILIES, Labels, Samples, Series, along, readings

BEFORE = "7d"
"""So long before the beginning a series' last value is looked for: series without news are dropped by agents, and come back."""
STALE_S = 300.0
SETTLED_S = 2.0
"""A sample is there so long after its time."""
_LOST = "sidelight_lost_total"
SeriesKey = tuple[str, frozenset[tuple[str, str]]]
"""Arm and labels."""


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
        found: dict[SeriesKey, Series] = {}
        for arm in arms:
            selector = self._arms.baseline if arm == "baseline" else self._arms.canary
            until = end - (self._offset_s if arm == "baseline" else 0.0)
            for name, side, reporter in _wanted():
                for labels in matchers(self._arms, selector, side):
                    wanted = f'{{__name__=~"{name}",reporter="{reporter}",{labels}}}'
                    fetch(found, self._api, arm, wanted, until - span_s, until)
        return list(found.values())

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
    served = "|".join(name for name, kind in FAMILIES.items() if kind == "served")
    asked = "|".join(name for name, kind in FAMILIES.items() if kind == "asked")
    mine = "|".join(CONNECTIONS[:4])
    return [
        (f"({served})_(bucket|count)", "destination", "destination"),
        (f"({asked})_(bucket|count)", "source", "source"),
        (mine, "destination", "destination"),
        ("|".join(CONNECTIONS[3:]), "destination", "source"),
    ]


def fetch(found: dict[SeriesKey, Series], api: Api, arm: str, selector: str, start: float, end: float) -> None:
    """Adds the samples from a time to another, before them the last one from before. Raises SidelightError."""
    for row in api.query(f"last_over_time({selector}[{BEFORE}])", start):
        _put(found, arm, row["metric"], [(start, float(row["value"][1]))])
    if end > start:
        for row in api.query(f"{selector}[{max(1, math.ceil(end - start))}s]", end):
            samples = [(float(at), float(value)) for at, value in row["values"] if float(at) > start]
            _put(found, arm, row["metric"], samples)


def _put(found: dict[SeriesKey, Series], arm: str, labels: Labels, samples: Samples) -> None:
    key = (arm, frozenset(labels.items()))
    known = found.get(key)
    if known is None:
        found[key] = Series(arm, labels, samples)
        return
    latest = known.samples[-1][0]
    known.samples.extend(sample for sample in samples if sample[0] > latest)
