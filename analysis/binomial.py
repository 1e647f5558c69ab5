"""The conditional binomial test at one look, fixed beforehand; evidence.py has the form that may be looked at all the time."""

from __future__ import annotations

import math

from sidelight.analysis.evidence import Tolerance


def upper_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) of a binomial with n trials."""
    if k <= 0:
        return 1.0
    if p <= 0.0 or k > n:
        return 0.0
    if p >= 1.0:
        return 1.0
    if k <= n * p:  # the long side: what is left of the short one
        return 1.0 - upper_tail(n - k + 1, n, 1.0 - p)
    log_p, log_q = math.log(p), math.log1p(-p)
    top = math.lgamma(n + 1)
    total = 0.0
    for i in range(k, n + 1):
        term = math.exp(top - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q)
        total += term
        if term < total * 1e-17:
            break
    return min(1.0, total)


def p_values(n_c: int, k_c: int, n_b: int, k_b: int, tolerance: Tolerance) -> tuple[float, float] | None:
    """(p of "canary's rate is at most ratio times baseline's", p of "at least"): of k_c + k_b events, how many are the canary's.

    Exact for rare events, on the safe side for others. None with a margin (there is no conditional test then), or without trials.
    """
    if tolerance.margin or not n_c or not n_b:
        return None
    share = tolerance.ratio * n_c / (tolerance.ratio * n_c + n_b)
    events = k_c + k_b
    return upper_tail(k_c, events, share), upper_tail(events - k_c, events, 1.0 - share)
