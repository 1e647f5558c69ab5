"""How often `sidelight verify` is wrong, and how soon it is right, beside what others do, on the same simulated canaries.

A/A: two equal versions, looked at every five seconds for ten minutes; a false fail is a FAIL at any look. Cells: requests a second,
share that fails, the canary's part of the traffic, and four kinds of trouble: independent requests; bursts (beta-binomial, within-interval
correlation 0.01 and 0.05); one bad pod, in either version, which fails a tenth of its requests more; a mix that drifts (two routes, one
failing ten times as often, whose part in the canary's traffic wanders). Five pods a version. FAIL as in the product: at alpha / 6, with the
default tolerance (x1.25 + 0.1 pp), and with every canary pod left out in turn. Then harder: one metric that has all of alpha, 0.05, and no
tolerance, so that the versions are exactly at the limit; with the guards, and without them (requests as if independent, pods and routes
thrown together), which shows what the guards are for.

Beside it: Fisher's exact test at every look (p < 0.05); Mann-Whitney as Kayenta's documentation has it, on a series of error rates an
interval (98 %, shift beyond a quarter of the baseline's, a baseline without errors never fails); a threshold as Flagger's (99 % success in
each minute, five failed checks in all).
"""

from __future__ import annotations

import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from scipy import stats

from sidelight.analysis.dispersion import FEWEST_BLOCKS, dispersion
from sidelight.analysis.doubts import FEWEST_METRICS
from sidelight.analysis.evidence import BETTER, WORSE, Floats, Tolerance, growth, log_evidence

LOOKS, EVERY_S = 120, 5.0
PODS = 5
ALPHA, BETA = 0.05, 0.05
DEFAULT, NONE = Tolerance(1.25, 0.001), Tolerance(1.0, 0.0)
RATES, ERRORS, SPLITS = (0.2, 2.0, 50.0, 1000.0), (0.0, 0.0001, 0.001, 0.01, 0.1), (0.01, 0.1, 0.5)
KINDS = ("independent", "bursty 0.01", "bursty 0.05", "bad pod", "drifting mix")
CHUNK = 250
"""Canaries simulated at a time."""
KAYENTA_CONFIDENCE, KAYENTA_SHIFT = 0.98, 0.25
FLAGGER_SUCCESS, FLAGGER_MISSES, FLAGGER_LOOKS = 0.99, 5, 12


def run(canaries: int = 10_000, alternatives: int = 1000, seed: int = 1) -> dict[str, Any]:
    """Every cell with so many canaries; power with so many."""
    began = time.monotonic()
    cells = false_fails(canaries, seed)
    kinds = {kind: [cell for cell in cells if cell["kind"] == kind] for kind in KINDS}
    return {
        "canaries a cell": canaries,
        "looks": LOOKS,
        "equal versions that fail, by kind of trouble": {kind: _worst(mine) for kind, mine in kinds.items()},
        "found worse, or passed, and when": power(alternatives, seed),
        "passed, though just beyond the tolerance": pass_calibration(canaries, seed),
        "cells": [[c["kind"], c["rate"], c["errors"], c["split"], c["default"], c["none"], c["bare"]] for c in cells],
        "seconds it took": round(time.monotonic() - began),
    }


def _worst(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the report: shares of false fails."""
    return {
        "cells": len(cells),
        "worst, default tolerance": f"{max(cell['default'] for cell in cells):.4f}",
        "worst, no tolerance": f"{max(cell['none'] for cell in cells):.4f}",
        "mean, no tolerance": f"{np.mean([cell['none'] for cell in cells]):.4f}",
        "worst, without the guards": f"{max(cell['bare'] for cell in cells):.4f}",
        "cells above 0.05": sum(cell["none"] > ALPHA for cell in cells),
        "without the guards": sum(cell["bare"] > ALPHA for cell in cells),
    }


# -- streams -------------------------------------------------------------------------------------------------------


def stream(
    g: np.random.Generator, canaries: int, rate: float, split: float, baseline: float, canary: float, kind: str
) -> Floats:
    """Counts [canaries, looks, pods of the canary and then of the baseline, trials and events]."""
    both = g.poisson(rate * EVERY_S, (canaries, LOOKS))
    n_c = g.binomial(both, split)
    trials = np.concatenate(
        [g.multinomial(n_c, [1 / PODS] * PODS), g.multinomial(both - n_c, [1 / PODS] * PODS)], axis=-1
    )
    chance = np.empty(trials.shape)
    chance[..., :PODS], chance[..., PODS:] = canary, baseline
    if kind.startswith("bursty"):
        chance = _bursts(g, chance, float(kind.split()[1]))
    elif kind == "bad pod":
        bad = g.integers(0, 2 * PODS, canaries)
        chance[np.arange(canaries), :, bad] = np.minimum(1.0, chance[np.arange(canaries), :, bad] + 0.1)
    elif kind == "drifting mix":
        # by strata: see two_routes()
        raise ValueError("a drifting mix has two strata")
    events = g.binomial(trials, chance)
    return np.stack([trials, events], axis=-1).astype(np.float64)


def _bursts(g: np.random.Generator, chance: Floats, rho: float) -> Floats:
    """One draw an arm and interval: its pods share it."""
    found = chance.copy()
    for place in (0, PODS):
        mean = chance[..., place]
        if not mean.any():
            continue
        scale = 1 / rho - 1
        drawn = g.beta(mean * scale, (1 - mean) * scale)
        found[..., place : place + PODS] = drawn[..., None]
    return found


def two_routes(g: np.random.Generator, canaries: int, rate: float, split: float, errors: float) -> Floats:
    """[canaries, looks, 2 routes, 4]: a mix that wanders, another one in the canary than in the baseline."""
    both = g.poisson(rate * EVERY_S, (canaries, LOOKS))
    n_c = g.binomial(both, split)
    steps = np.linspace(0, 1, LOOKS)
    mix_c, mix_b = 0.2 + 0.6 * steps, np.full(LOOKS, 0.2)
    found = np.zeros((canaries, LOOKS, 2, 4))
    for place, n, mix in ((0, n_c, mix_c), (2, both - n_c, mix_b)):
        bad = g.binomial(n, mix)
        for route, trials, chance in ((0, n - bad, errors / 3), (1, bad, min(1.0, errors * 10 / 3))):
            found[..., route, place] = trials
            found[..., route, place + 1] = g.binomial(trials, chance)
    return found


# -- judges --------------------------------------------------------------------------------------------------------


def blocks(pods: Floats, without: int = -1) -> Floats:
    """[canaries, looks, 4] of counts by pod, a pod left out."""
    kept = [pod for pod in range(2 * PODS) if pod != without]
    canary, baseline = [p for p in kept if p < PODS], [p for p in kept if p >= PODS]
    return np.concatenate([pods[..., canary, :].sum(axis=-2), pods[..., baseline, :].sum(axis=-2)], axis=-1)


def evidence(counted: Floats, tolerance: Tolerance, spread: Floats | float, side: int) -> Floats:
    """log evidence of a side [canaries, looks], of blocks [canaries, looks, 4] or strata [canaries, looks, strata, 4].

    Intervals with traffic on one side alone are pooled as the product pools them.
    """
    plain, taken = (part[..., side, :] for part in growth(pool(counted), tolerance.ratio))
    if counted.ndim == 4:
        plain, taken = plain.sum(axis=2), taken.sum(axis=2)
    sums = (part.cumsum(axis=1)[..., None, :] for part in (plain, taken))
    return log_evidence(*sums, tolerance.margin, spread)[..., 0]


def pool(counted: Floats) -> Floats:
    """Counts of intervals in which one side had nothing go to the next in which both have had something."""
    if (counted[..., 0] > 0).all() and (counted[..., 2] > 0).all():
        return counted
    found = np.zeros_like(counted)
    held = np.zeros_like(counted[:, 0])
    for look in range(counted.shape[1]):
        held = held + counted[:, look]
        whole = (held[..., 0] > 0) & (held[..., 2] > 0)
        found[:, look] = np.where(whole[..., None], held, 0.0)
        held = np.where(whole[..., None], 0.0, held)
    return found


def spreads(counted: Floats) -> tuple[Floats, Floats]:
    """(dispersion, whole blocks) at each look."""
    if counted.ndim == 4:
        counted = counted.sum(axis=2)
    pooled = pool(counted)
    whole = (pooled[..., 0] > 0).cumsum(axis=1)
    found = np.ones(counted.shape[:2])
    for look in range(FEWEST_BLOCKS - 1, LOOKS):
        found[:, look] = dispersion(pooled[:, : look + 1])
    return found, whole


def sidelight(pods: Floats, tolerance: Tolerance, *, guarded: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(look of the FAIL, look of the PASS; LOOKS where there is none) of counts by pod, or of two strata."""
    return (
        _decided(pods, tolerance, WORSE, math.log(FEWEST_METRICS / ALPHA), guarded),
        _decided(pods, tolerance, BETTER, -math.log(BETA), guarded),
    )


def _decided(pods: Floats, tolerance: Tolerance, side: int, needed: float, guarded: bool) -> np.ndarray:
    """The first look at which a side is shown: with bursts taken in, and without each pod that could have done it alone."""
    strata = pods.shape[2] == 2
    counted = pods if strata else blocks(pods)
    decided = evidence(counted, tolerance, 1.0, side) >= needed
    # whatever weakens evidence is looked at only where there is some
    chosen = np.flatnonzero(decided.any(axis=1))
    if not guarded or not len(chosen):
        return _first(decided)
    spread, whole = spreads(counted[chosen])
    shown = (evidence(counted[chosen], tolerance, spread, side) >= needed) & (whole >= FEWEST_BLOCKS)
    for pod in () if strata else range(PODS) if side == WORSE else range(PODS, 2 * PODS):
        still = np.flatnonzero(shown.any(axis=1))
        if len(still):
            left = blocks(pods[chosen[still]], pod)
            shown[still] &= evidence(left, tolerance, spread[still], side) >= needed
    decided[chosen] = shown
    return _first(decided)


def _first(decided: np.ndarray) -> np.ndarray:
    return np.where(decided.any(axis=1), decided.argmax(axis=1), LOOKS)


def fisher(counted: Floats) -> np.ndarray:
    """First look at which the one-sided test says worse at 5 %; from the hypergeometric distribution."""
    sums = counted.cumsum(axis=1)
    n_c, k_c, n_b, k_b = (sums[..., i] for i in range(4))
    p = stats.hypergeom.sf(k_c - 1, n_c + n_b, k_c + k_b, n_c)
    return _first(p < ALPHA)


def mann_whitney(counted: Floats) -> np.ndarray:
    """Kayenta's: of the series of error rates so far, at each look from the tenth on."""
    n_c, k_c, n_b, k_b = (counted[..., i] for i in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        canary, baseline = np.nan_to_num(k_c / n_c), np.nan_to_num(k_b / n_b)
    failed = np.full(len(counted), LOOKS)
    for look in range(11, LOOKS, 12):
        open_ = failed == LOOKS
        if not open_.any():
            break
        c, b = canary[open_, : look + 1], baseline[open_, : look + 1]
        means = b.mean(axis=1)
        low = _shift_bound(c, b)
        # a control mean of zero makes the ratio 1: never "high"
        high = (
            (means > 0)
            & (low > KAYENTA_SHIFT * np.abs(np.median(c - b, axis=1)).clip(1e-12))
            & (c.mean(axis=1) > means)
        )
        failed[np.flatnonzero(open_)[high]] = look
    return failed


def _shift_bound(canary: Floats, baseline: Floats) -> Floats:
    """Lower 98 % bound of the Hodges-Lehmann shift: an order statistic of all pairwise differences."""
    n, m = canary.shape[1], baseline.shape[1]
    z = stats.norm.ppf(1 - (1 - KAYENTA_CONFIDENCE) / 2)
    rank = max(0, int(n * m / 2 - z * math.sqrt(n * m * (n + m + 1) / 12)))
    apart = (canary[:, :, None] - baseline[:, None, :]).reshape(len(canary), -1)
    return np.partition(apart, rank, axis=1)[:, rank]


def threshold(counted: Floats) -> np.ndarray:
    """Flagger's: a check a minute, failed below 99 % success or without traffic; it rolls back at the fifth."""
    minutes = counted.reshape(len(counted), -1, FLAGGER_LOOKS, 4).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        success = 1 - minutes[..., 1] / minutes[..., 0]
    misses = (~(success >= FLAGGER_SUCCESS)).cumsum(axis=1)
    first = _first(misses >= FLAGGER_MISSES)
    return np.where(first == LOOKS, LOOKS, first * FLAGGER_LOOKS + FLAGGER_LOOKS - 1)


# -- tables --------------------------------------------------------------------------------------------------------


Cell = tuple[str, float, float, float, int, int]


def false_fails(canaries: int, seed: int) -> list[dict[str, Any]]:
    """All cells, on all processors."""
    cells = [
        (kind, rate, errors, split, canaries, seed)
        for kind in KINDS
        for rate in RATES
        for errors in ERRORS
        for split in SPLITS
    ]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool_:
        return list(pool_.map(false_fails_of, cells))


def false_fails_of(cell: Cell) -> dict[str, Any]:
    """A cell's shares of false fails: by the default tolerance, by none, and by none without the guards."""
    kind, rate, errors, split, canaries, seed = cell
    g = np.random.default_rng([seed, KINDS.index(kind), int(rate * 10), int(errors * 1e4), int(split * 100)])
    counts = dict.fromkeys(("default", "none", "bare"), 0)
    for start in range(0, canaries, CHUNK):
        many = min(CHUNK, canaries - start)
        drifts = kind == "drifting mix"
        pods = (
            two_routes(g, many, rate, split, errors) if drifts else stream(g, many, rate, split, errors, errors, kind)
        )
        for name, tolerance, alpha in (("default", DEFAULT, ALPHA / FEWEST_METRICS), ("none", NONE, ALPHA)):
            counts[name] += int((_decided(pods, tolerance, WORSE, -math.log(alpha), True) < LOOKS).sum())
        together = pods.sum(axis=2) if drifts else blocks(pods)
        counts["bare"] += int((_first(evidence(together, NONE, 1.0, WORSE) >= -math.log(ALPHA)) < LOOKS).sum())
    about: dict[str, Any] = {"kind": kind, "rate": rate, "errors": errors, "split": split}
    return about | {name: count / canaries for name, count in counts.items()}


ALTERNATIVES = {
    "50/s, half, 0.1 % -> 0.5 %": (50.0, 0.5, 0.001, 0.005),
    "50/s, half, 0.1 % -> 1 %": (50.0, 0.5, 0.001, 0.01),
    "50/s, half, 0 -> 1 %": (50.0, 0.5, 0.0, 0.01),
    "50/s, half, 1 % -> 2 %": (50.0, 0.5, 0.01, 0.02),
    "50/s, a tenth, 0.1 % -> 2 %": (50.0, 0.1, 0.001, 0.02),
    "2/s, half, 0 -> 5 %": (2.0, 0.5, 0.0, 0.05),
    "1000/s, half, 0.1 % -> 0.3 %": (1000.0, 0.5, 0.001, 0.003),
    "50/s, half, equal at 0.1 %": (50.0, 0.5, 0.001, 0.001),
    "1000/s, half, equal at 0.1 %": (1000.0, 0.5, 0.001, 0.001),
    "1000/s, half, equal at 0": (1000.0, 0.5, 0.0, 0.0),
    "50/s, half, equal at 2 %": (50.0, 0.5, 0.02, 0.02),
}


def power(canaries: int, seed: int) -> dict[str, Any]:
    """Share that is found worse within ten minutes, and the median time until then, by each judge, on the same streams."""
    found = {}
    for name, (rate, split, baseline, canary) in ALTERNATIVES.items():
        g = np.random.default_rng([seed, 99, len(found)])
        looks: dict[str, list[np.ndarray]] = {}
        for start in range(0, canaries, CHUNK):
            pods = stream(g, min(CHUNK, canaries - start), rate, split, baseline, canary, "independent")
            fails, passes = sidelight(pods, DEFAULT)
            counted = blocks(pods)
            for judge, first in (
                ("fail", fails), ("pass", np.where(fails < LOOKS, LOOKS, passes)), ("Fisher", fisher(counted)),
                ("Mann-Whitney", mann_whitney(counted)), ("threshold", threshold(counted)),
            ):  # fmt: skip
                looks.setdefault(judge, []).append(first)
        found[name] = {judge: _share_and_time(np.concatenate(first)) for judge, first in looks.items()}
    return found


def _share_and_time(first: np.ndarray) -> str:
    """98.2 %, 85 s"""
    decided = first[first < LOOKS]
    when = f", {(np.median(decided) + 1) * EVERY_S:.0f} s" if len(decided) else ""
    return f"{len(decided) / len(first):.1%}{when}"


def pass_calibration(canaries: int, seed: int) -> dict[str, Any]:
    """Of canaries just beyond the tolerance, how many pass at some look: at most beta."""
    found = {}
    for rate, baseline in ((50.0, 0.001), (50.0, 0.02), (1000.0, 0.0)):
        canary = DEFAULT.limit(baseline) * 1.0001
        g = np.random.default_rng([seed, 7, len(found)])
        passed = 0
        for start in range(0, canaries, CHUNK):
            pods = stream(g, min(CHUNK, canaries - start), rate, 0.5, baseline, canary, "independent")
            passed += int((sidelight(pods, DEFAULT)[1] < LOOKS).sum())
        found[f"{rate:g}/s, {baseline:.1%} -> {canary:.3%}"] = {"passed": f"{passed / canaries:.4f}"}
    return found


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=1))
