"""Verdicts, of a metric and of the whole: what judge.py gives and everybody else reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
ONE_POD = "but by one pod"


@dataclass(slots=True)
class MetricVerdict:
    """Counts, rates with their interval, evidence and verdict of one metric. Rates are shares of trials."""

    name: str
    says: str
    weight: str
    verdict: str
    n_baseline: int
    k_baseline: int
    n_canary: int
    k_canary: int
    ratio: float
    margin: float
    edge_s: float
    limit: float
    """The rate that would be tolerated, going by the baseline's so far."""
    low: float
    """Bounds of canary's rate minus baseline's, each wrong with a chance of at most alpha of the metric, whenever one looks."""
    high: float
    ratio_low: float
    ratio_high: float
    evidence_worse: float
    """log10 of the e-value for "beyond the tolerance"; it fails at `needed_worse`."""
    evidence_better: float
    needed_worse: float
    needed_better: float
    dispersion: float
    blocks: int
    decided_at: float = 0.0
    """Seconds since the beginning when it failed, 0 if it did not."""
    reasons: list[str] = field(default_factory=list)
    settles: str = ""
    p_worse: float | None = None
    p_better: float | None = None
    top: list[dict[str, Any]] = field(default_factory=list)
    """Strata and pods with most of the canary's events."""

    @property
    def share_baseline(self) -> float:
        return self.k_baseline / self.n_baseline if self.n_baseline else 0.0

    @property
    def share_canary(self) -> float:
        return self.k_canary / self.n_canary if self.n_canary else 0.0


@dataclass(slots=True)
class Verdict:
    """The whole. `reasons`: doubts about the comparison itself; `notes`: what one should know and what decides nothing."""

    verdict: str
    sentence: str
    metrics: list[MetricVerdict]
    reasons: list[str]
    notes: list[str]
    seconds: float
    looks: int
    n_baseline: int
    n_canary: int
    rate_canary: float
    """Exchanges a second, lately."""
    pods_baseline: int
    pods_canary: int
