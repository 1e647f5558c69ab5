"""Whether events come one by one, as the arithmetic of evidence.py assumes, or in bursts; and whether one pod has them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sidelight.analysis.evidence import KB, KC, NB, NC, Floats

FEWEST_BLOCKS = 6
"""Below, bursts cannot be told from a change: no verdict."""
_NOTABLE = 1.64
"""Standard deviations: an estimate beyond what single events exceed in one case of twenty is taken for bursts,"""
_CAUTION = 0.84
"""and then its upper 80 % bound is used: few blocks show little of their bursts."""


def dispersion(blocks: Floats) -> Floats:
    """How many times more the arms' difference varies from block to block than single events would make it: 1 or more.

    Blocks [..., blocks, 4]. What both arms have in common, a rate that rises in the evening, does not count. Counts that are
    divided by it are an effective sample (quasi-likelihood; McCullagh and Nelder, section 4.5).
    """
    n_c, k_c, n_b, k_b = (blocks[..., i] for i in (NC, KC, NB, KB))
    both = (n_c > 0) & (n_b > 0)
    count = both.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate_c = np.where(both, k_c, 0).sum(axis=-1) / np.where(both, n_c, 0).sum(axis=-1)
        rate_b = np.where(both, k_b, 0).sum(axis=-1) / np.where(both, n_b, 0).sum(axis=-1)
        expected = rate_c[..., None] / n_c + rate_b[..., None] / n_b
        weight = np.where(both & (expected > 0), 1.0 / expected, 0.0)
        apart = np.where(both, k_c / n_c - k_b / n_b, 0.0)
        mean = (weight * apart).sum(axis=-1) / weight.sum(axis=-1)
        found = (weight * (apart - mean[..., None]) ** 2).sum(axis=-1) / (count - 1)
    free = np.maximum(count - 1, 1)
    found = np.nan_to_num(found, nan=1.0, posinf=1.0)
    # what single events would give now and then is no burst
    spread: Floats = np.where(
        found > _quantile(free, _NOTABLE), np.maximum(1.0, found / _quantile(free, -_CAUTION)), 1.0
    )
    return spread


def _quantile(free: NDArray[np.int64], z: float) -> Floats:
    """Of a chi-squared variable over its degrees of freedom (Wilson and Hilferty)."""
    found: Floats = np.maximum(1 - 2 / (9 * free) + z * np.sqrt(2 / (9 * free)), 0.1) ** 3
    return found


def between_pods(pods: Floats) -> float:
    """How many times more the pods of an arm differ than single events would make them. Pods [n, 3]: arm, trials, events."""
    total, free = 0.0, 0
    for arm in (0, 1):
        mine = pods[(pods[:, 0] == arm) & (pods[:, 1] > 0)]
        rate = mine[:, 2].sum() / mine[:, 1].sum() if len(mine) else 0.0
        if len(mine) > 1 and rate > 0:
            total += float((((mine[:, 2] - rate * mine[:, 1]) ** 2) / (rate * mine[:, 1])).sum())
            free += len(mine) - 1
    return max(1.0, total / free) if free else 1.0
