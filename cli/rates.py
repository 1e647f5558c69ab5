"""Differences of two answers to the question `edges`: rates, errors, quantiles. Pure; for `top` and `diff`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sidelight.agent import layout
from sidelight.exporter.map import quantile_s

Key = tuple[str, str, str, str, int]


@dataclass(frozen=True, slots=True)
class EdgeRate:
    """An edge over an interval; durations in seconds, `rate` in requests (or connections, where there are none) a second."""

    key: Key
    rate: float
    requests: int
    errors: int
    opened: int
    failed: int
    sent_bytes: int
    received_bytes: int
    retransmits: int
    p50_s: float
    p99_s: float
    rtt_s: float

    @property
    def error_share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


def key_of(edge: dict[str, Any]) -> Key:
    return edge["reporter"], edge["source"], edge["destination"], edge["service"], edge["port"]


_COUNTS = (
    "attempts",
    "opened",
    "adopted",
    "tx_bytes",
    "rx_bytes",
    "retransmits",
    "duration_ns",
    "failed",
    "closed",
    "errors",
)


def merge_edges(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """One document of several agents': edges of the same ends and reporter are added up."""
    if len(documents) == 1:
        return documents[0]
    found: dict[Key, dict[str, Any]] = {}
    for edge in (edge for document in documents for edge in document["edges"]):
        known = found.setdefault(
            key_of(edge), {**edge, **dict.fromkeys(_COUNTS, 0), "statuses": {}, "buckets": {}, "rtt": {}}
        )
        for name in _COUNTS:
            known[name] += edge.get(name, 0)
        for name in ("statuses", "buckets", "rtt"):
            for key, count in edge[name].items():
                known[name][key] = known[name].get(key, 0) + count
    return {"at": max((document["at"] for document in documents), default=0.0), "edges": list(found.values())}


def histogram(sparse: dict[str, int]) -> np.ndarray:
    """A row of layout.LATENCY_BUCKETS counts."""
    row = np.zeros(layout.LATENCY_BUCKETS, np.int64)
    for index, count in sparse.items():
        row[int(index)] = count
    return row


def rates(before: dict[str, Any], after: dict[str, Any]) -> list[EdgeRate]:
    """What happened between two answers; with an empty `before`, since the beginning."""
    seconds = max(after["at"] - before.get("at", after["at"] - 1.0), 1e-3)
    old = {key_of(edge): edge for edge in before.get("edges", [])}
    return [_rate(edge, old.get(key_of(edge), {}), seconds) for edge in after["edges"]]


def _rate(edge: dict[str, Any], old: dict[str, Any], seconds: float) -> EdgeRate:
    def grown(name: str) -> int:
        return max(0, int(edge.get(name, 0)) - int(old.get(name, 0)))

    statuses = {s: n - old.get("statuses", {}).get(s, 0) for s, n in edge["statuses"].items()}
    requests = sum(statuses.values())
    errors = grown("errors")
    if "errors" not in edge:  # an agent of before, or its recording: HTTP alone
        errors = sum(n for status, n in statuses.items() if status == "0" or status >= "500")
    buckets = histogram(edge["buckets"]) - histogram(old.get("buckets", {}))
    rtt = histogram(edge["rtt"]) - histogram(old.get("rtt", {}))
    if not rtt.any():
        rtt = histogram(edge["rtt"])
    connections = grown("opened") + grown("adopted")
    return EdgeRate(
        key_of(edge),
        (requests or connections) / seconds,
        requests,
        errors,
        connections,
        grown("failed"),
        grown("tx_bytes"),
        grown("rx_bytes"),
        grown("retransmits"),
        quantile_s(buckets, 0.5),
        quantile_s(buckets, 0.99),
        quantile_s(rtt, 0.5),
    )


def active(rate: EdgeRate) -> bool:
    return bool(rate.requests or rate.opened or rate.failed or rate.sent_bytes or rate.received_bytes)
