"""What was compared: intervals of counts by metric, arm, pod and stratum, and the settings they are judged by. A JSON document.

A document is all that judge() needs: kept in a file, it gives the same verdict again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sidelight.agent.closeup import REST
from sidelight.agent.errors import ConfigError
from sidelight.analysis.evidence import Tolerance
from sidelight.analysis.readings import Counts, Interval, Kind
from sidelight.analysis.wording import duration_text

FORMAT = "sidelight verify 1"
BASELINE, CANARY = 0, 1
ARMS = ("baseline", "canary")
MOST_STRATA = 12
"""The first so many that are seen are compared each by itself, the rest together."""
HISTORY = 200
"""Exchanges of the baseline that it takes to choose what "slow" is."""
_TOLERANCE = re.compile(r"^(?:x(?P<ratio>\d+(?:\.\d+)?))?(?:\+?(?P<margin>\d+(?:\.\d+)?)(?P<unit>pp|%))?$")


def tolerance_of(text: str) -> Tolerance:
    """`x1.5`, `0.1pp` or `x1.5+0.1pp`. Raises ConfigError."""
    match = _TOLERANCE.match(text.strip())
    if not match or not text.strip():
        raise ConfigError(f"{text!r} is not a tolerance: want x1.5, 0.1pp, or both as x1.5+0.1pp")
    ratio = float(match["ratio"]) if match["ratio"] else 1.0
    margin = float(match["margin"]) / 100 if match["margin"] else 0.0
    if ratio < 1.0 or ratio > 1000 or margin >= 1.0:
        raise ConfigError(f"{text!r}: a tolerance is a factor from 1 to 1000 and less than 100pp")
    return Tolerance(ratio, margin)


@dataclass(frozen=True, slots=True)
class Measure:
    """A way in which the canary can be worse. `weight`: what its verdict does to the whole's."""

    kind: Kind
    name: str
    """Behind the family: http.errors."""
    says: str
    """Which share it is: of requests failed."""
    tolerance: Tolerance
    weight: str
    """required: has to pass; guard: can fail the whole, need not pass; advisory: is only said."""
    slower: float = 0.0
    """Of measures of latency: at most this share of the baseline is slower than the edge that is chosen."""


MEASURES: tuple[Measure, ...] = (
    Measure("served", "errors", "requests failed", Tolerance(1.25, 0.001), "required"),
    Measure("served", "slow", "requests slower than {edge}", Tolerance(1.25, 0.01), "required", slower=0.10),
    Measure("served", "tail", "requests slower than {edge}", Tolerance(1.5, 0.005), "required", slower=0.01),
    Measure("asked", "errors", "requests to others failed", Tolerance(1.25, 0.001), "guard"),
    Measure("ended", "resets", "connections ended by a reset", Tolerance(1.5, 0.001), "guard"),
    Measure("dialled", "refused", "connections that failed", Tolerance(1.5, 0.001), "guard"),
    Measure("sent", "retransmits", "segments sent again", Tolerance(2.0, 0.005), "advisory"),
)
_NAMES = {"ended": "tcp", "dialled": "tcp", "sent": "tcp"}


def metric_name(measure: Measure, family: str) -> str:
    """http.errors, asked.redis.errors, tcp.resets."""
    prefix = f"asked.{family}" if measure.kind == "asked" else _NAMES.get(measure.kind, family)
    return f"{prefix}.{measure.name}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the judge goes by; all of it is in the document."""

    alpha: float = 0.05
    """Chance of a FAIL, ever, though the canary is within the tolerance: all metrics together."""
    beta: float = 0.05
    """Chance of a metric's PASS, though the canary is beyond the tolerance."""
    interval_s: float = 5.0
    for_s: float = 0.0
    """How long to look; 0: until there is a verdict."""
    warm_up_s: float = 30.0
    unit: str = "exchange"
    """exchange, or pod: then pods that differ count as so much less evidence."""
    single_look: bool = False
    expected_share: float = 0.0
    """Of the canary in the traffic, where the split is known."""
    offset_s: float = 0.0
    """The baseline is from so long before: not at the same time."""
    stratified: bool = True
    slower_than_s: float = 0.0
    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    """By metric (http.errors) or measure (errors, slow, tail, resets, refused)."""
    advisory: tuple[str, ...] = ()
    """Metrics or measures that only say what they say."""

    def tolerance(self, measure: Measure, family: str) -> Tolerance:
        name = metric_name(measure, family)
        found = self.tolerances.get(name) or self.tolerances.get(measure.name) or measure.tolerance
        return Tolerance(found.ratio, 0.0) if self.single_look else found

    def weight(self, measure: Measure, family: str) -> str:
        return "advisory" if {metric_name(measure, family), measure.name} & {*self.advisory} else measure.weight


class Comparison:
    """Takes intervals in and gives the document. `history`: baseline's exchanges before, by family, from which "slow" is chosen."""

    def __init__(
        self, target: str, baseline: str, canary: str, source: str, settings: Settings, history: Interval | None = None
    ) -> None:
        self.head = {"target": target, "baseline": baseline, "canary": canary, "source": source}
        self.settings = settings
        self._pods: dict[tuple[str, str], int] = {}
        self._about: list[dict[str, Any]] = []
        self._strata: dict[str, int] = {}
        self._edges: dict[str, dict[str, float]] = {}
        self._seen: dict[str, Counts] = {}
        self._rows: dict[str, list[list[int]]] = {}
        self._metrics: dict[str, dict[str, Any]] = {}
        self._intervals: list[dict[str, Any]] = []
        if history is not None:
            self._look_for_edges(history)

    def add(self, interval: Interval) -> None:
        """Counts of an interval; those of pods that have just started are left out."""
        number = len(self._intervals)
        self._intervals.append(
            {
                "at": round(interval.at, 3),
                "seconds": round(interval.seconds, 3),
                "lost": interval.lost,
                "absent": list(interval.absent),
                "resets": interval.resets,
                "problems": list(interval.problems),
            }
        )
        for pod in interval.pods:
            self._pod(pod.arm, pod.name, pod.node, pod.since)
        began = interval.at - interval.seconds
        edges = {family: dict(found) for family, found in self._edges.items()}
        warming = 0
        opened = [0, 0]
        for key in sorted(interval.grown):
            counts = interval.grown[key]
            if key.kind == "opened":
                opened[ARMS.index(key.arm)] += int(counts[0])
                continue
            arm, pod_number = ARMS.index(key.arm), self._pod(key.arm, key.pod, "", began)
            since = self._about[pod_number]["since"]
            if self.settings.warm_up_s and since and began < since + self.settings.warm_up_s:
                warming += int(counts.sum()) if key.kind == "served" else 0
                continue
            for measure in MEASURES:
                if measure.kind != key.kind:
                    continue
                found = self._count(measure, key.family, key.failed, counts, interval.bounds, edges)
                if found is not None:
                    self._row(measure, key.family, [number, arm, pod_number, self._stratum(key.stratum), *found], edges)
        self._intervals[-1] |= {"warming": warming, "opened": opened}
        self._look_for_edges(interval)

    def _count(
        self,
        measure: Measure,
        family: str,
        failed: bool,
        counts: Counts,
        bounds: tuple[float, ...],
        edges: dict[str, dict[str, float]],
    ) -> tuple[int, int] | None:
        """(trials, events)"""
        if measure.kind in ("ended", "dialled", "sent"):
            return int(counts[0]), int(counts[1])
        if not measure.slower:
            total = int(counts.sum())
            return total, total if failed else 0
        edge = edges.get(family, {}).get(measure.name)
        if edge is None:
            return None
        timed = counts[:-1]
        return int(timed.sum()), int(timed[bounds.index(edge) + 1 :].sum())

    def _row(self, measure: Measure, family: str, row: list[int], edges: dict[str, dict[str, float]]) -> None:
        if not row[-2]:
            return
        name = metric_name(measure, family)
        if name not in self._metrics:
            tolerance = self.settings.tolerance(measure, family)
            edge = edges.get(family, {}).get(measure.name, 0.0)
            self._metrics[name] = {
                "name": name,
                "says": measure.says.format(edge=duration_text(edge)),
                "weight": self.settings.weight(measure, family),
                "ratio": tolerance.ratio,
                "margin": tolerance.margin,
                "edge_s": edge,
            }
            self._rows[name] = []
        self._rows[name].append(row)

    def _pod(self, arm: str, name: str, node: str, since: float) -> int:
        found = self._pods.get((arm, name))
        if found is None:
            found = self._pods[arm, name] = len(self._about)
            # what is there at the first look is older than that, as far as is known
            first = len(self._intervals) <= 1
            self._about.append({"arm": arm, "name": name, "node": node, "since": 0.0 if first else since})
        about = self._about[found]
        about["node"] = about["node"] or node
        if node and since:
            about["since"] = since
        return found

    def _stratum(self, text: str) -> int:
        if not self.settings.stratified:
            text = ""
        if text not in self._strata and len(self._strata) >= MOST_STRATA:
            text = REST
        return self._strata.setdefault(text, len(self._strata))

    def _look_for_edges(self, interval: Interval) -> None:
        """Chooses what is slow for families where it is not known yet: by the baseline, and by what is not judged itself."""
        for key, counts in interval.grown.items():
            if key.kind == "served" and key.arm == "baseline" and key.family not in self._edges:
                timed = counts[:-1]
                known = self._seen.get(key.family)
                self._seen[key.family] = timed if known is None else known + timed
        for family, counts in list(self._seen.items()):
            if counts.sum() < HISTORY:
                continue
            slow = [measure for measure in MEASURES if measure.slower]
            chosen = {measure.name: _edge(counts, interval.bounds, measure.slower) for measure in slow}
            if self.settings.slower_than_s:
                chosen["slow"] = min(interval.bounds, key=lambda bound: abs(bound - self.settings.slower_than_s))
            self._edges[family] = chosen
            del self._seen[family]

    def document(self) -> dict[str, Any]:
        """JSON; judge() reads it."""
        settings = self.settings
        return {
            "format": FORMAT,
            **self.head,
            "settings": {
                "alpha": settings.alpha,
                "beta": settings.beta,
                "interval_s": settings.interval_s,
                "for_s": settings.for_s,
                "warm_up_s": settings.warm_up_s,
                "unit": settings.unit,
                "single_look": settings.single_look,
                "expected_share": settings.expected_share,
                "offset_s": settings.offset_s,
            },
            "intervals": list(self._intervals),
            "pods": [dict(pod) for pod in self._about],
            "strata": list(self._strata),
            "metrics": [{**about, "rows": list(self._rows[name])} for name, about in sorted(self._metrics.items())],
        }


def _edge(counts: Counts, bounds: tuple[float, ...], share: float) -> float:
    """The smallest bound above which there is at most that share of the counts; the largest there is, if there is none."""
    above = 1.0 - np.cumsum(counts) / counts.sum()
    return next((bound for bound, left in zip(bounds, above, strict=False) if left <= share), bounds[-1])


def rows_of(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """(metric, its rows [n, 6]: interval, arm, pod, stratum, trials, events) of a document. Raises ConfigError."""
    try:
        if document["format"] != FORMAT:
            raise ConfigError(f"not a comparison of this program: format {document['format']!r}")
        for metric in document["metrics"]:
            rows = np.array(metric["rows"], np.int64).reshape(-1, 6)
            if len(rows) and (
                rows.min() < 0
                or (rows[:, 5] > rows[:, 4]).any()
                or rows[:, 0].max() >= len(document["intervals"])
                or rows[:, 1].max() > CANARY
                or rows[:, 2].max() >= len(document["pods"])
                or rows[:, 3].max() >= len(document["strata"])
            ):
                raise ConfigError(f"{metric['name']}: its rows cannot be")
            yield metric, rows
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"not a whole comparison: {error!r}") from None
