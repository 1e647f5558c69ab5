"""A comparison (comparison.py) -> a verdict. Pure: the same document gives the same verdict.

PASS: worse by less than is tolerated, shown. FAIL: worse by more, shown. INCONCLUSIVE: neither, with why and what would settle it.
What casts doubt on the comparison itself (the baseline's own halves differ, one pod has it all, losses, nodes without an agent, no
traffic at the same time) makes a verdict inconclusive that the counts alone would give: absence of evidence is never a pass.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sidelight.analysis.binomial import p_values
from sidelight.analysis.blocks import (
    ARM,
    EVENTS,
    INTERVAL,
    POD,
    STRATUM,
    TRIALS,
    blocks_of,
    dispersions,
    evidence_along,
    path,
    without_one,
)
from sidelight.analysis.comparison import BASELINE, CANARY, rows_of
from sidelight.analysis.dispersion import FEWEST_BLOCKS
from sidelight.analysis.doubts import Doubt, Rows, alpha_each, doubts_and_notes, pods_of
from sidelight.analysis.evidence import (
    BETTER,
    WORSE,
    Floats,
    Tolerance,
    difference_interval,
    log_evidence,
    ratio_interval,
    times_needed,
)
from sidelight.analysis.verdict import FAIL, INCONCLUSIVE, ONE_POD, PASS, MetricVerdict, Verdict
from sidelight.analysis.wording import describe, round_number, span

LATELY = 6
"""Intervals whose traffic tells how long something will take."""


def judge(document: dict[str, Any]) -> Verdict:
    """Raises ConfigError for a document that is none."""
    metrics = list(rows_of(document))
    times = _times(document)
    served = _served(metrics)
    doubts, notes = doubts_and_notes(document, metrics, served, times)
    alpha = alpha_each(document)
    rate = _rate(document, served)
    found = [_judge_metric(document, metric, rows, times, alpha, rate) for metric, rows in metrics]
    notes += [f"{name} has only been seen on one side" for name in _missing(metrics)]
    _opaque(found, notes)
    verdict = _whole(found, doubts)
    result = Verdict(
        verdict,
        "",
        found,
        [doubt.text for doubt in doubts],
        notes,
        float(times[-1]) if len(times) else 0.0,
        len(times),
        int(served[served[:, ARM] == BASELINE, TRIALS].sum()),
        int(served[served[:, ARM] == CANARY, TRIALS].sum()),
        rate,
        pods_of(document, served, BASELINE),
        pods_of(document, served, CANARY),
    )
    result.sentence = _sentence(result)
    return result


def _times(document: dict[str, Any]) -> Floats:
    """Seconds from the beginning to the end of each interval."""
    return np.cumsum([float(interval["seconds"]) for interval in document["intervals"]])


def _served(metrics: Rows) -> np.ndarray:
    """Rows of exchanges, each family's once; of connections where there are none."""
    rows = [rows for metric, rows in metrics if metric["name"].endswith(".errors") and "asked." not in metric["name"]]
    rows = rows or [rows for metric, rows in metrics if metric["name"] == "tcp.resets"]
    return np.concatenate(rows) if rows else np.zeros((0, 6), np.int64)


def _rate(document: dict[str, Any], served: np.ndarray) -> float:
    """Exchanges a second of the canary, lately."""
    lately = document["intervals"][-LATELY:]
    mine = (served[:, INTERVAL] >= len(document["intervals"]) - max(1, len(lately))) & (served[:, ARM] == CANARY)
    seconds = float(sum(interval["seconds"] for interval in lately))
    return float(served[mine, TRIALS].sum()) / max(seconds, 1e-9)


def _missing(metrics: Rows) -> list[str]:
    return [str(metric["name"]) for metric, rows in metrics if len(rows) and len(set(rows[:, ARM].tolist())) == 1]


# -- a metric ------------------------------------------------------------------------------------------------------


def _judge_metric(
    document: dict[str, Any], metric: dict[str, Any], rows: np.ndarray, times: Floats, alpha: float, rate: float
) -> MetricVerdict:
    settings, intervals = document["settings"], len(times)
    tolerance = Tolerance(metric["ratio"], metric["margin"])
    n_c, k_c, n_b, k_b = _totals(rows)
    spread, counts = dispersions(rows, intervals, settings["unit"])
    blocks, ends = blocks_of(rows, intervals)
    plain, taken = path(blocks, ends, intervals, tolerance)
    evidence = log_evidence(plain, taken, tolerance.margin, spread)
    needed_worse, needed_better = -math.log(alpha), -math.log(settings["beta"])
    worse = (evidence[:, WORSE] >= needed_worse) & (counts >= FEWEST_BLOCKS)
    better = bool(intervals) and evidence[-1, BETTER] >= needed_better and counts[-1] >= FEWEST_BLOCKS
    last = float(spread[-1]) if intervals else 1.0
    low, high = difference_interval(blocks, alpha, last) if len(blocks) else (-1.0, 1.0)
    ratio_low, ratio_high = ratio_interval(blocks, alpha, last) if len(blocks) else (0.0, math.inf)
    found = MetricVerdict(
        metric["name"], metric["says"], metric["weight"], INCONCLUSIVE, n_b, k_b, n_c, k_c,
        tolerance.ratio, tolerance.margin, metric["edge_s"], tolerance.limit(k_b / n_b if n_b else 0.0),
        low, high, ratio_low, ratio_high,
        float(evidence[-1, WORSE]) / math.log(10) if intervals else 0.0,
        float(evidence[-1, BETTER]) / math.log(10) if intervals else 0.0,
        needed_worse / math.log(10), needed_better / math.log(10), last, int(counts[-1]) if intervals else 0,
    )  # fmt: skip
    values = p_values(n_c, k_c, n_b, k_b, tolerance)
    if values:
        found.p_worse, found.p_better = values
    found.top = _top(document, rows)
    if settings["single_look"] and values:
        worse = np.zeros(intervals, bool)
        if intervals:
            worse[-1] = values[0] <= alpha
        better = values[1] <= settings["beta"]
    more = math.inf
    if worse.any():
        more = _fail(document, found, rows, tolerance, worse, spread, needed_worse, times)
    elif better:
        more = _pass(document, found, rows, tolerance, spread, needed_better)
    if found.verdict == INCONCLUSIVE and not found.reasons:
        more = _too_little(found, plain, taken, settings)
    if math.isfinite(more):
        found.settles = _in_words(found, more, rate, float(times[-1]))
    return found


def _totals(rows: np.ndarray) -> tuple[int, int, int, int]:
    canary = rows[:, ARM] == CANARY
    return (
        int(rows[canary, TRIALS].sum()),
        int(rows[canary, EVENTS].sum()),
        int(rows[~canary, TRIALS].sum()),
        int(rows[~canary, EVENTS].sum()),
    )


def _fail(
    document: dict[str, Any],
    found: MetricVerdict,
    rows: np.ndarray,
    tolerance: Tolerance,
    worse: np.ndarray,
    spread: Floats,
    needed: float,
    times: Floats,
) -> float:
    """FAIL, if it stands without any one of the canary's pods: one bad pod is not a bad version.

    Returns how many more of the canary's trials would settle it otherwise, infinity where none would.
    """
    crucial, least, rest = 0, math.inf, rows
    for pod, left in without_one(rows, CANARY):
        evidence = evidence_along(left, len(times), tolerance, spread)[:, WORSE]
        if evidence[-1] < least:
            crucial, least, rest = pod, float(evidence[-1]), left
        worse = worse & (evidence >= needed)
    if worse.any():
        found.verdict = FAIL
        found.decided_at = float(times[np.flatnonzero(worse)[0]])
        return math.inf
    name = document["pods"][crucial]["name"]
    n_c, k_c, _, _ = _totals(rest)
    if n_c and k_c / n_c <= found.limit:
        mine = 1.0 - k_c / found.k_canary
        found.reasons = [f"it is worse, {ONE_POD}: {name} has {mine:.0%} of the canary's events, the others are well"]
        found.settles = f"look at {name}, or replace it: that tells a bad pod from a bad version"
        return math.inf
    found.reasons = [f"it is worse, but without the pod {name} too little is shown so far"]
    return _more_without(found, rest, tolerance, spread, WORSE, needed)


def _pass(
    document: dict[str, Any],
    found: MetricVerdict,
    rows: np.ndarray,
    tolerance: Tolerance,
    spread: Floats,
    needed: float,
) -> float:
    """PASS, if it stands without any one of the baseline's pods: a bad one there would hide a bad canary. Returns as _fail()."""
    for pod, left in without_one(rows, BASELINE):
        if evidence_along(left, len(spread), tolerance, spread)[-1, BETTER] < needed:
            name = document["pods"][pod]["name"]
            found.reasons = [f"it would pass beside the baseline's pod {name}, without it too little is shown so far"]
            return _more_without(found, left, tolerance, spread, BETTER, needed)
    found.verdict = PASS
    return math.inf


def _more_without(
    found: MetricVerdict, left: np.ndarray, tolerance: Tolerance, spread: Floats, side: int, needed: float
) -> float:
    """How many more of the canary's trials would show it by these rows alone."""
    plain, taken = path(*blocks_of(left, len(spread)), len(spread), tolerance)
    times = times_needed(plain[-1], taken[-1], tolerance.margin, float(spread[-1]), side, math.exp(-needed))
    return (times - 1.0) * found.n_canary


def _top(document: dict[str, Any], rows: np.ndarray) -> list[dict[str, Any]]:
    """The strata and pods with most events of the canary, three of each."""
    found = []
    canary = rows[rows[:, ARM] == CANARY]
    for what, column, names in (
        ("stratum", STRATUM, document["strata"]),
        ("pod", POD, [pod["name"] for pod in document["pods"]]),
    ):
        sums: dict[int, list[int]] = {}
        for place, trials, events in canary[:, (column, TRIALS, EVENTS)].tolist():
            known = sums.setdefault(place, [0, 0])
            known[0] += trials
            known[1] += events
        most = sorted(sums, key=lambda place: (-sums[place][1], place))[:3]
        found += [
            {what: names[place], "trials": sums[place][0], "events": sums[place][1]}
            for place in most
            if sums[place][1] and names[place]
        ]
    return found


def _too_little(found: MetricVerdict, plain: Floats, taken: Floats, settings: dict[str, Any]) -> float:
    """Says why neither is shown. Returns as _fail(), if it goes on like this."""
    missing = ""
    if not found.n_canary:
        missing = "no traffic to the canary"
    elif not found.n_baseline:
        missing = "no traffic to the baseline at the same time"
    elif found.blocks < FEWEST_BLOCKS:
        missing = f"{found.blocks} intervals with traffic on both sides: {FEWEST_BLOCKS} are the least"
    if missing:
        found.reasons = [missing]
        return math.inf
    side, level = (WORSE, 10**-found.needed_worse) if found.share_canary > found.limit else (BETTER, settings["beta"])
    times = times_needed(plain[-1], taken[-1], found.margin, found.dispersion, side, level)
    if found.dispersion > 2.0:
        found.reasons.append(
            f"events come in bursts: as much evidence as {1 / found.dispersion:.0%} of so many single ones would be"
        )
    if math.isfinite(times):
        found.reasons.append("too few so far")
    else:
        shares = f"{found.share_canary:.3%} against {found.share_baseline:.3%}"
        found.reasons.append(f"{shares} is so near to what is tolerated that no number of requests settles it")
    return (times - 1.0) * found.n_canary


def _in_words(found: MetricVerdict, more: float, rate: float, seconds: float) -> str:
    """So many more of the canary's trials, and how long they take."""
    more = max(1, round(more))
    # connections and segments have a rate of their own
    own = found.n_canary / seconds if seconds else 0.0
    pace = rate if found.name.endswith((".errors", ".slow", ".tail")) and "asked" not in found.name else own
    unit = {"resets": "connections", "refused": "connections", "retransmits": "segments"}.get(
        found.name.rpartition(".")[2], "requests"
    )
    when = f", {span(more / pace)} at this rate" if pace else ", and there is no traffic now"
    return f"about {round_number(more)} more {unit} to the canary{when}"


# -- the whole -----------------------------------------------------------------------------------------------------


def _whole(found: list[MetricVerdict], doubts: list[Doubt]) -> str:
    if any(metric.verdict == FAIL and metric.weight != "advisory" for metric in found):
        return INCONCLUSIVE if any(doubt.of_both for doubt in doubts) else FAIL
    required = [metric for metric in found if metric.weight == "required"]
    if doubts or not required or any(metric.verdict != PASS for metric in required):
        return INCONCLUSIVE
    return PASS


def _opaque(found: list[MetricVerdict], notes: list[str]) -> None:
    """Without a protocol that is read, connections are what there is to judge by."""
    if any(metric.weight == "required" for metric in found):
        return
    guards = [metric for metric in found if metric.weight == "guard" and metric.name.startswith("tcp.")]
    for metric in guards:
        metric.weight = "required"
    if guards:
        notes.append("no protocol of it is read: judged by its connections alone")


def _sentence(verdict: Verdict) -> str:
    """What it comes to, in one sentence."""
    if verdict.verdict == PASS:
        return "The canary is not worse than the baseline by more than is tolerated."
    if verdict.verdict == FAIL:
        bad = next(m for m in verdict.metrics if m.verdict == FAIL and m.weight != "advisory")
        return f"The canary is worse: {describe(bad)}."
    if verdict.reasons:
        return f"Nothing can be said: {verdict.reasons[0]}."
    waiting = [m for m in verdict.metrics if m.weight == "required" and m.verdict != PASS]
    if not waiting:
        return "Nothing can be said yet."
    lone = next((m for m in waiting if m.reasons and ONE_POD in m.reasons[0]), None)
    if lone is not None:
        return f"It cannot be said of the version: {lone.name}: {lone.reasons[0]}."
    first = next((m for m in waiting if m.settles), waiting[0])
    settles = f"; {first.settles} would settle it" if first.settles.startswith("about") else ""
    return f"Nothing is shown yet: {first.name}: {first.reasons[0]}{settles}."
