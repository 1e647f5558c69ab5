"""Rows of a metric -> blocks of trials that both arms had at the same time, and the evidence along the way."""

from __future__ import annotations

import numpy as np

from sidelight.analysis.comparison import CANARY
from sidelight.analysis.dispersion import FEWEST_BLOCKS, between_pods, dispersion
from sidelight.analysis.evidence import Floats, Tolerance, growth, log_evidence

INTERVAL, ARM, POD, STRATUM, TRIALS, EVENTS = range(6)
"""Columns of a row (comparison.py)."""
MOST_PODS = 10
"""So many pods, those with most events, are left out one by one."""


def blocks_of(rows: np.ndarray, intervals: int, strata: bool = True) -> tuple[Floats, np.ndarray]:
    """(blocks [n, 4], interval in which each was complete [n]): trials and events of both arms at the same time, by stratum.

    Where only one arm had traffic the block goes on until both had some: by what was asked alone, never by how it went.
    """
    found: list[Floats] = []
    ends: list[np.ndarray] = []
    for stratum in np.unique(rows[:, STRATUM]) if strata else [None]:
        chosen = rows if stratum is None else rows[rows[:, STRATUM] == stratum]
        sums = np.zeros((intervals, 4))
        canary = chosen[:, ARM] == CANARY
        np.add.at(sums[:, 0], chosen[canary, INTERVAL], chosen[canary, TRIALS])
        np.add.at(sums[:, 1], chosen[canary, INTERVAL], chosen[canary, EVENTS])
        np.add.at(sums[:, 2], chosen[~canary, INTERVAL], chosen[~canary, TRIALS])
        np.add.at(sums[:, 3], chosen[~canary, INTERVAL], chosen[~canary, EVENTS])
        whole, when = _pool(sums)
        found.append(whole)
        ends.append(when)
    if not found:
        return np.zeros((0, 4)), np.zeros(0, np.int64)
    return np.concatenate(found), np.concatenate(ends)


def _pool(sums: Floats) -> tuple[Floats, np.ndarray]:
    blocks, ends = [], []
    held = np.zeros(4)
    for interval in np.flatnonzero(sums.any(axis=1)):
        held = held + sums[interval]
        if held[0] and held[2]:
            blocks.append(held)
            ends.append(int(interval))
            held = np.zeros(4)
    return np.array(blocks).reshape(-1, 4), np.array(ends, np.int64)


def path(blocks: Floats, ends: np.ndarray, intervals: int, tolerance: Tolerance) -> tuple[Floats, Floats]:
    """Sums of growth() up to each interval: [intervals, 2, steps], twice."""
    plain, taken = growth(blocks, tolerance.ratio)
    paths = []
    for part in (plain, taken):
        path = np.zeros((intervals, *part.shape[1:]))
        np.add.at(path, ends, part)
        paths.append(path.cumsum(axis=0))
    return paths[0], paths[1]


def dispersions(rows: np.ndarray, intervals: int, unit: str) -> tuple[Floats, np.ndarray]:
    """(dispersion as estimated after each interval, whole blocks by then)."""
    blocks, ends = blocks_of(rows, intervals, strata=False)
    counts = np.searchsorted(ends, np.arange(intervals), side="right")
    found = np.ones(intervals)
    for interval in range(intervals):
        if counts[interval] >= FEWEST_BLOCKS:
            new = interval == 0 or counts[interval] != counts[interval - 1]
            found[interval] = dispersion(blocks[: counts[interval]]) if new else found[interval - 1]
    if unit == "pod":
        found = np.maximum(found, between_pods(_by_pod(rows)))
    return found, counts


def _by_pod(rows: np.ndarray) -> Floats:
    """[pods, 3]: arm, trials, events."""
    pods, places = np.unique(rows[:, POD], return_inverse=True)
    found = np.zeros((len(pods), 3))
    found[places, 0] = rows[:, ARM]
    np.add.at(found[:, 1], places, rows[:, TRIALS])
    np.add.at(found[:, 2], places, rows[:, EVENTS])
    return found


def evidence_along(rows: np.ndarray, intervals: int, tolerance: Tolerance, spread: Floats) -> Floats:
    """Log evidence after each interval, [intervals, 2]."""
    plain, taken = path(*blocks_of(rows, intervals), intervals, tolerance)
    return log_evidence(plain, taken, tolerance.margin, spread)


def without_one(rows: np.ndarray, arm: int) -> list[tuple[int, np.ndarray]]:
    """Rows without each pod of an arm that has several, those with most events first."""
    mine = rows[rows[:, ARM] == arm]
    pods = np.unique(mine[:, POD])
    if len(pods) < 2:
        return []
    events = {int(pod): int(mine[mine[:, POD] == pod, EVENTS].sum()) for pod in pods}
    chosen = sorted(events, key=lambda pod: -events[pod])[:MOST_PODS]
    return [(pod, rows[rows[:, POD] != pod]) for pod in chosen if events[pod]]
