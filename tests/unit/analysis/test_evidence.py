"""The arithmetic of evidence: that it is never too sure, against simulation and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.analysis.evidence import (
    BETTER,
    WORSE,
    Tolerance,
    difference_interval,
    growth,
    log_evidence,
    ratio_interval,
    times_needed,
)


def evidence(blocks: list[list[int]], ratio: float = 1.0, margin: float = 0.0) -> tuple[float, float]:
    plain, taken = (part.sum(axis=0) for part in growth(np.array(blocks, float), ratio))
    found = log_evidence(plain, taken, margin)
    return float(found[WORSE]), float(found[BETTER])


@pytest.mark.parametrize(
    ("rate", "tolerance", "share"),
    [(0.001, Tolerance(1.0, 0.0), 0.5), (0.2, Tolerance(1.0, 0.0), 0.1), (0.01, Tolerance(1.25, 0.001), 0.5), (0.3, Tolerance(1.5, 0.05), 0.3)],
)  # fmt: skip
def test_its_mean_is_at_most_one_at_the_limit(rate: float, tolerance: Tolerance, share: float) -> None:
    """An e-process: however long one looks. A false alarm has a chance of alpha at most (Ville)."""
    g = np.random.default_rng(7)
    runs, looks, each = 4000, 40, 400
    n_c = g.binomial(each, share, (runs, looks))
    blocks = np.stack(
        [n_c, g.binomial(n_c, tolerance.limit(rate)), each - n_c, g.binomial(each - n_c, rate)], axis=-1
    ).astype(float)
    plain, taken = growth(blocks, tolerance.ratio)
    along = log_evidence(plain.cumsum(axis=1), taken.cumsum(axis=1), tolerance.margin)
    for side in (WORSE, BETTER):
        values = np.exp(along[:, -1, side])
        error = 4 * float(values.std()) / math.sqrt(runs)
        assert values.mean() <= 1 + error
        ever = (along[..., side].max(axis=1) >= math.log(20)).mean()
        assert ever <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_baseline_without_errors_is_no_blind_spot() -> None:
    """Kayenta's hole: at half of the traffic each, seven failures of the canary alone are enough for e >= 20, whenever one looks."""
    assert evidence([[500, 6, 500, 0]])[0] < math.log(20) <= evidence([[500, 7, 500, 0]])[0]
    # where the canary gets a tenth, three are
    assert evidence([[100, 3, 900, 0]])[0] >= math.log(20)


def test_no_failures_at_all_show_something_with_a_margin() -> None:
    """To show less than 0.1 % more takes about three thousand requests when nothing fails; a mixture asks for a little more."""
    plain, taken = (part.sum(axis=0) for part in growth(np.array([[1000.0, 0, 1000, 0]]), 1.0))
    times = times_needed(plain, taken, 0.001, 1.0, BETTER, 0.05)
    assert 2995 < 1000 * times < 7000
    assert evidence([[1000, 0, 1000, 0]], margin=0.0)[1] == pytest.approx(0.0, abs=1e-9), "without one nothing is shown"


def test_one_side_alone_says_nothing() -> None:
    assert evidence([[1000, 900, 0, 0], [0, 0, 1000, 0]]) == (0.0, 0.0)


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 50), st.integers(1, 5000), st.integers(0, 50)), min_size=1, max_size=8),
    st.floats(1.0, 3.0),
    st.floats(0.0, 0.05),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_more_failures_of_the_canary_never_speak_for_it(
    rows: list[tuple[int, int, int, int]], ratio: float, margin: float
) -> None:
    blocks = [[n_c, min(k_c, n_c), n_b, min(k_b, n_b)] for n_c, k_c, n_b, k_b in rows]
    if blocks[0][1] == blocks[0][0]:
        return
    worse, better = evidence(blocks, ratio, margin)
    blocks[0][1] += 1
    assert evidence(blocks, ratio, margin)[0] >= worse - 1e-9
    assert evidence(blocks, ratio, margin)[1] <= better + 1e-9


@given(st.floats(1.0, 3.0), st.floats(0.0, 0.01), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_a_looser_tolerance_never_fails_sooner(ratio: float, margin: float, parts: int) -> None:
    blocks = [[300, 20, 700, 10]] * parts
    assert evidence(blocks, ratio + 0.1, margin)[0] <= evidence(blocks, ratio, margin)[0] + 1e-6
    assert evidence(blocks, ratio, margin + 0.001)[0] <= evidence(blocks, ratio, margin)[0] + 1e-6


def test_dispersed_counts_weigh_less() -> None:
    plain, taken = (part.sum(axis=0) for part in growth(np.array([[1000.0, 60, 1000, 10]]), 1.0))
    once, thrice = (float(log_evidence(plain, taken, 0.0, d)[WORSE]) for d in (1.0, 3.0))
    assert 0 < thrice < once / 2


def test_intervals_hold_the_truth_at_all_times() -> None:
    g = np.random.default_rng(3)
    missed_difference = missed_ratio = 0
    for _ in range(150):
        n = np.full(20, 500)
        blocks = np.stack([n, g.binomial(n, 0.03), n, g.binomial(n, 0.02)], axis=-1).astype(float)
        looks = [blocks[:count] for count in (2, 5, 20)]
        missed_difference += any(
            not low <= 0.01 <= high for low, high in (difference_interval(b, 0.025) for b in looks)
        )
        missed_ratio += any(not low <= 1.5 <= high for low, high in (ratio_interval(b, 0.025) for b in looks))
    assert missed_difference <= 15 and missed_ratio <= 15
    low, high = difference_interval(blocks, 0.025)
    assert -0.02 < low < high < 0.04


def test_swapped_arms_swap_the_interval() -> None:
    blocks = np.array([[900.0, 30, 1100, 20], [800, 25, 1200, 30]])
    low, high = ratio_interval(blocks, 0.05)
    other_low, other_high = ratio_interval(blocks[:, (2, 3, 0, 1)], 0.05)
    assert low == pytest.approx(1 / other_high, rel=1e-6) and high == pytest.approx(1 / other_low, rel=1e-6)
    low, high = difference_interval(blocks, 0.05)
    other_low, other_high = difference_interval(blocks[:, (2, 3, 0, 1)], 0.05)
    assert low == pytest.approx(-other_high, abs=1e-9) and high == pytest.approx(-other_low, abs=1e-9)
