"""What casts doubt on a comparison itself, whatever its counts say: losses, other traffic, a baseline that differs from itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidelight.analysis.blocks import ARM, INTERVAL, POD, STRATUM, TRIALS, dispersions, evidence_along
from sidelight.analysis.comparison import BASELINE, CANARY
from sidelight.analysis.dispersion import FEWEST_BLOCKS
from sidelight.analysis.evidence import WORSE, Floats, Tolerance
from sidelight.analysis.readings import Counts
from sidelight.analysis.wording import span

FEWEST_METRICS = 6
"""alpha is shared by so many metrics at least: those that come up later take nothing from the first."""
LOST_SHARE = 0.01
"""Losses beyond this share of what was compared, and nothing is shown."""
SILENT_S = 30.0
"""A canary without an exchange for so long has stopped."""
UNLIKE = 0.5
"""This share of the canary's exchanges has to be of kinds that the baseline has too."""

Rows = list[tuple[dict[str, Any], np.ndarray]]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason why nothing is shown. `of_both`: against a FAIL too, not against a PASS alone."""

    text: str
    of_both: bool = False


def alpha_each(document: dict[str, Any]) -> float:
    """The chance of a false FAIL that each metric may take (Bonferroni)."""
    failing = [metric for metric in document["metrics"] if metric["weight"] != "advisory"]
    return float(document["settings"]["alpha"]) / max(FEWEST_METRICS, len(failing))


def _opened(intervals: list[dict[str, Any]]) -> int:
    """Connections that the canary took."""
    return sum(interval.get("opened", [0, 0])[CANARY] for interval in intervals)


def _nothing(intervals: list[dict[str, Any]]) -> str:
    """A canary that answers nothing is not one that is asked nothing."""
    took = _opened(intervals)
    return f"the canary took {took} connections and has answered nothing yet" if took else "no traffic to the canary"


def pods_of(document: dict[str, Any], served: np.ndarray, arm: int) -> int:
    """How many pods of an arm had traffic."""
    return sum(1 for pod in np.unique(served[served[:, ARM] == arm, POD]) if document["pods"][int(pod)]["name"])


def doubts_and_notes(
    document: dict[str, Any], metrics: Rows, served: np.ndarray, times: Floats
) -> tuple[list[Doubt], list[str]]:
    """(what makes a verdict inconclusive, what one should know)."""
    settings, intervals = document["settings"], document["intervals"]
    doubts: list[Doubt] = []
    notes: list[str] = []
    canary, baseline = (served[served[:, ARM] == arm] for arm in (CANARY, BASELINE))
    if settings["offset_s"]:
        notes.append(f"not at the same time: the baseline is from {span(settings['offset_s'])} before")
    n_c, n_b = int(canary[:, TRIALS].sum()), int(baseline[:, TRIALS].sum())
    if not n_c:
        doubts.append(Doubt(_nothing(intervals)))
    if not n_b:
        doubts.append(Doubt("no traffic to the baseline"))
    lost = sum(interval["lost"] for interval in intervals)
    if lost > LOST_SHARE * (n_c + n_b):
        doubts.append(Doubt(f"{lost} exchanges were lost beside {n_c + n_b} compared", of_both=True))
    elif lost:
        notes.append(f"{lost} exchanges were lost on these nodes")
    absent = sorted({name for interval in intervals for name in interval["absent"]})
    if absent:
        doubts.append(Doubt(f"pods run where no agent answers: {', '.join(absent[:5])}"))
    problems = sorted({text for interval in intervals for text in interval["problems"]})
    doubts += [Doubt(text, of_both=True) for text in problems]
    if n_c and len(times):
        last = int(canary[:, INTERVAL].max())
        silent = float(times[-1] - times[last])
        usual = float(times[-1]) / max(1, len(np.unique(canary[:, INTERVAL])))
        if silent > max(SILENT_S, 3 * usual):
            hangs = _opened(intervals[last + 1 :])
            took = f", though it took {hangs} connections since" if hangs else ""
            doubts.append(Doubt(f"traffic to the canary stopped {span(silent)} ago{took}"))
    if n_c and n_b:
        _mix(document, canary, baseline, doubts, notes)
        _share(settings, canary, baseline, len(times), notes)
    resets = sum(interval["resets"] for interval in intervals)
    if resets:
        notes.append(f"{resets} counters began anew (a pod or an agent was restarted)")
    warming = sum(interval.get("warming", 0) for interval in intervals)
    if warming:
        notes.append(f"{warming} exchanges of pods in their first {settings['warm_up_s']:g} s were left out")
    if pods_of(document, served, CANARY) == 1:
        notes.append("the canary has one pod: a bad pod and a bad version look the same")
    _placebo(document, metrics, len(times), doubts, notes)
    return doubts, notes


def _mix(
    document: dict[str, Any], canary: np.ndarray, baseline: np.ndarray, doubts: list[Doubt], notes: list[str]
) -> None:
    strata = len(document["strata"])
    mine, theirs = np.zeros(strata), np.zeros(strata)
    np.add.at(mine, canary[:, STRATUM], canary[:, TRIALS])
    np.add.at(theirs, baseline[:, STRATUM], baseline[:, TRIALS])
    shared = float(mine[theirs > 0].sum() / mine.sum())
    apart = float(np.abs(mine / mine.sum() - theirs / theirs.sum()).sum() / 2)
    if shared < UNLIKE:
        text = f"only {shared:.0%} of the canary's requests are of kinds that the baseline gets too"
        doubts.append(Doubt(text, of_both=True))
    elif apart > 0.1 and strata > 1:
        notes.append(f"the canary gets another mix of requests ({apart:.0%} differ): compared kind by kind")


def _share(
    settings: dict[str, Any], canary: np.ndarray, baseline: np.ndarray, intervals: int, notes: list[str]
) -> None:
    by_interval = np.zeros((intervals, 2))
    np.add.at(by_interval[:, 0], canary[:, INTERVAL], canary[:, TRIALS])
    np.add.at(by_interval[:, 1], baseline[:, INTERVAL], baseline[:, TRIALS])
    share = by_interval[:, 0].sum() / by_interval.sum()
    expected = settings["expected_share"]
    if expected and abs(share - expected) > max(0.2 * expected, 0.005):
        notes.append(f"the canary gets {share:.1%} of the traffic, where {expected:.1%} were expected")
    half = intervals // 2
    first, second = by_interval[:half].sum(axis=0), by_interval[half:].sum(axis=0)
    if first.sum() and second.sum():
        before, after = first[0] / first.sum(), second[0] / second.sum()
        if abs(after - before) > max(0.05, 0.5 * share):
            notes.append(f"the canary's share of the traffic went from {before:.0%} to {after:.0%}")


def _placebo(
    document: dict[str, Any],
    metrics: Rows,
    intervals: int,
    doubts: list[Doubt],
    notes: list[str],
) -> None:
    """The same test between two halves of the baseline: if that fails, it is the surroundings, not the canary."""
    wanted = -math.log(alpha_each(document))
    done = 0
    for metric, rows in metrics:
        if metric["weight"] != "required":
            continue
        halves = placebo_rows(rows)
        if not len(halves):
            continue
        done += 1
        tolerance = Tolerance(metric["ratio"], metric["margin"])
        for arms in (halves, _swapped(halves)):
            spread, counts = dispersions(arms, intervals, "exchange")
            evidence = evidence_along(arms, intervals, tolerance, spread)[:, WORSE]
            if ((evidence >= wanted) & (counts >= FEWEST_BLOCKS)).any():
                text = f"{metric['name']} differs between the baseline's own halves: the surroundings, not the canary"
                doubts.append(Doubt(text, of_both=True))
                break
    if not done and metrics:
        notes.append("no placebo: too little traffic to the baseline")


def placebo_rows(rows: Counts) -> Counts:
    """The baseline's rows as two arms: its pods by turns; with one pod, every other interval against the one before."""
    baseline: Counts = rows[rows[:, ARM] == BASELINE].copy()
    pods = np.unique(baseline[:, POD])
    if len(pods) >= 2:
        baseline[:, ARM] = np.searchsorted(pods, baseline[:, POD]) % 2
        return baseline
    # in one pair the first is the canary's part, in the next the second: what rises or falls is in both
    pair, second = baseline[:, INTERVAL] // 2, baseline[:, INTERVAL] % 2
    baseline[:, ARM] = (second + pair) % 2
    baseline[:, INTERVAL] = pair * 2
    return baseline


def _swapped(rows: Counts) -> Counts:
    found: Counts = rows.copy()
    found[:, ARM] = 1 - found[:, ARM]
    return found
