"""How strongly counts speak for "worse by more than is tolerated", or for "by less", however often one looks.

An arm has n trials with k events (failed ones, slow ones). Tolerated is a rate of the canary up to `ratio * baseline + margin`.
For a block of trials that both arms had at the same time, s = r*n_c / (r*n_c + n_b) being the canary's share of the events that
the ratio r alone would give, and for a multiple m of that,

    A = m / (1 - s + m*s),  B = 1 / (1 - s + m*s),  e = A^k_c * B^k_b * exp(-margin * n_c * (A - 1))

is an e-variable: its mean is at most 1 while the limit is kept (m > 1) or passed (m < 1), whatever the baseline's rate, which may
change from block to block. For 1 + x <= exp(x) gives E[A^k_c B^k_b] <= exp(n_c p_c (A-1) + n_b p_b (B-1)), and
r n_c (A-1) = n_b (1-B), so the baseline's rate cancels. With margin 0 this is the conditional binomial test: of k_c + k_b events,
the canary's share is at most s (Lindon and Malek, arXiv 2011.03567). Products over blocks and strata, and their mean over many
multiples (a mixture: the beta prior, for shares that change), keep that property. So by Ville's inequality the mixture reaches
1/alpha with a probability of at most alpha, ever: looking every second costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = np.geomspace(0.02, 8.0, 32)
"""|log m| of the mixture: from 2 % more than the limit to 3,000 times as much, and as far below."""
WORSE, BETTER = 0, 1
"""Places of the two sides in what growth() returns: evidence that the limit is passed, that it is kept."""
NC, KC, NB, KB = range(4)
"""Columns of a block: canary's trials and events, baseline's trials and events."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Tolerated is a rate of at most `ratio` times the baseline's and `margin` more (a share: 0.001 is 0.1 percentage points)."""

    ratio: float = 1.0
    margin: float = 0.0

    def limit(self, baseline: float) -> float:
        return self.ratio * baseline + self.margin


def growth(blocks: Floats, ratio: float) -> tuple[Floats, Floats]:
    """(log evidence without the margin, what each unit of margin takes off), [..., 2, len(STEPS)], for blocks [..., 4].

    Sums over blocks are the evidence of all of them: see log_evidence().
    """
    n_c, k_c, n_b, k_b = (np.asarray(blocks[..., i], np.float64)[..., None, None] for i in range(4))
    share = ratio * n_c / np.maximum(ratio * n_c + n_b, 1e-300)
    log_m = np.stack([STEPS, -STEPS])
    m = np.exp(log_m)
    log_b = -np.log1p(share * (m - 1.0))
    lone = (n_c == 0) | (n_b == 0)  # nothing to compare with
    plain = np.where(lone, 0.0, k_c * log_m + (k_c + k_b) * log_b)
    taken = np.where(lone, 0.0, n_c * (m * np.exp(log_b) - 1.0))
    return plain, taken


def log_evidence(plain: Floats, taken: Floats, margin: float, dispersion: Floats | float = 1.0) -> Floats:
    """Log of the e-values [..., 2] from sums of growth(). Dispersed counts weigh less: as if there were so many times fewer."""
    exponents = (plain - margin * taken) / np.asarray(dispersion, np.float64)[..., None, None]
    top = exponents.max(axis=-1, keepdims=True)
    found: Floats = np.log(np.exp(exponents - top).mean(axis=-1)) + top[..., 0]
    return found


def difference_interval(blocks: Floats, alpha: float, dispersion: float = 1.0) -> tuple[float, float]:
    """Bounds of canary's rate minus baseline's, from blocks [n, 4], each with an error of at most alpha, at all times."""
    plain, taken = (part.sum(axis=0) for part in growth(blocks, 1.0))
    wanted = -np.log(alpha)

    def refuted(side: int, margin: float) -> bool:
        return bool(log_evidence(plain, taken, margin, dispersion)[side] >= wanted)

    # a margin of -1 (of 1) is certainly exceeded (kept); in between the evidence falls (grows) with the margin
    low = _last(lambda margin: refuted(WORSE, margin), -1.0, 1.0)
    high = -_last(lambda margin: refuted(BETTER, -margin), -1.0, 1.0)
    return low, high


def ratio_interval(blocks: Floats, alpha: float, dispersion: float = 1.0) -> tuple[float, float]:
    """Bounds of canary's rate over baseline's, likewise; 0 and infinity where nothing is known."""
    wanted = -np.log(alpha)

    def refuted(side: int, log_ratio: float) -> bool:
        plain, taken = (part.sum(axis=0) for part in growth(blocks, float(np.exp(log_ratio))))
        return bool(log_evidence(plain, taken, 0.0, dispersion)[side] >= wanted)

    edge = 12.0
    low = _last(lambda x: refuted(WORSE, x), -edge, edge)
    high = -_last(lambda x: refuted(BETTER, -x), -edge, edge)
    return (0.0 if low <= -edge else float(np.exp(low))), (float("inf") if high >= edge else float(np.exp(high)))


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest argument for which a condition holds that holds up to some point; `low` when it never does."""
    if not holds(low):
        return low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def times_needed(plain: Floats, taken: Floats, margin: float, dispersion: float, side: int, alpha: float) -> float:
    """By how much everything seen so far has to be multiplied until the evidence is enough, if it goes on like this; inf: never."""
    wanted = -np.log(alpha)

    def lacks(log_times: float) -> bool:
        times = float(np.exp(log_times))
        return bool(log_evidence(plain * times, taken * times, margin, dispersion)[side] < wanted)

    if not lacks(0.0):
        return 1.0
    most = 14.0
    return float("inf") if lacks(most) else float(np.exp(_last(lacks, 0.0, most)))
