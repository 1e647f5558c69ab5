"""Agreement with scipy's exact tests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidelight.analysis.binomial import p_values, upper_tail
from sidelight.analysis.evidence import Tolerance


@given(st.integers(0, 3000), st.integers(0, 3000), st.floats(0.001, 0.999))
@settings(max_examples=400, deadline=None)
def test_tail_is_scipys(n: int, k: int, p: float) -> None:
    assert upper_tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-8, abs=1e-13)


@given(st.integers(1, 5000), st.integers(0, 60), st.integers(1, 5000), st.integers(0, 60), st.floats(1.0, 3.0))
@settings(max_examples=200, deadline=None)
def test_p_is_binomtests(n_c: int, k_c: int, n_b: int, k_b: int, ratio: float) -> None:
    share = ratio * n_c / (ratio * n_c + n_b)
    found = p_values(n_c, k_c, n_b, k_b, Tolerance(ratio))
    assert found is not None
    if k_c + k_b:
        assert found[0] == pytest.approx(stats.binomtest(k_c, k_c + k_b, share, alternative="greater").pvalue, rel=1e-7)
        assert found[1] == pytest.approx(stats.binomtest(k_c, k_c + k_b, share, alternative="less").pvalue, rel=1e-7)
    else:
        assert found == (1.0, 1.0)


def test_it_is_never_surer_than_fishers() -> None:
    for k_c, k_b in ((5, 1), (20, 4), (7, 0)):
        found = p_values(500, k_c, 500, k_b, Tolerance())
        fisher = stats.fisher_exact([[k_c, 500 - k_c], [k_b, 500 - k_b]], alternative="greater").pvalue
        assert found is not None and found[0] >= fisher * 0.99


def test_a_margin_has_no_conditional_test() -> None:
    assert p_values(10, 1, 10, 1, Tolerance(1.0, 0.001)) is None
    assert p_values(0, 0, 10, 1, Tolerance()) is None


def test_numbers_of_the_literature() -> None:
    """At a half of the traffic seven failures of the canary alone give p <= 0.01, at a tenth two do."""
    assert upper_tail(7, 7, 0.5) <= 0.01 < upper_tail(6, 6, 0.5)
    assert upper_tail(2, 2, 0.1) == pytest.approx(0.01)
