from __future__ import annotations

import numpy as np
import pytest

from sidelight.analysis.dispersion import between_pods, dispersion


def test_single_events_are_not_dispersed_and_bursts_are() -> None:
    g = np.random.default_rng(2)
    n = np.full((200, 60), 500)
    single = np.stack([n, g.binomial(n, 0.02), n, g.binomial(n, 0.02)], axis=-1).astype(float)
    assert np.median(dispersion(single)) == 1.0 and (dispersion(single) > 1).mean() < 0.15
    rho = 0.05
    chance = g.beta(0.02 * (1 / rho - 1), 0.98 * (1 / rho - 1), (200, 60))
    bursts = np.stack([n, g.binomial(n, chance), n, g.binomial(n, 0.02)], axis=-1).astype(float)
    # variance grows by 1 + (n - 1) rho in one of two arms
    assert np.median(dispersion(bursts)) == pytest.approx(13, rel=0.5)


def test_what_both_arms_have_in_common_does_not_count() -> None:
    g = np.random.default_rng(2)
    n = np.full((100, 60), 500)
    tide = 0.02 + 0.018 * np.sin(np.linspace(0, 6, 60))
    blocks = np.stack([n, g.binomial(n, tide), n, g.binomial(n, tide)], axis=-1).astype(float)
    assert np.median(dispersion(blocks)) < 1.3


def test_a_burst_among_rare_failures_is_one() -> None:
    blocks = np.zeros((60, 4))
    blocks[:, (0, 2)] = 1000
    blocks[30, 1] = 12
    assert dispersion(blocks) > 8
    spread = np.zeros((60, 4))
    spread[:, (0, 2)] = 1000
    spread[::5, 1] = 1
    assert dispersion(spread) == 1.0


def test_no_events_and_one_sided_blocks() -> None:
    assert dispersion(np.array([[10.0, 0, 10, 0]] * 8)) == 1.0
    assert dispersion(np.array([[10.0, 1, 0, 0], [0, 0, 10, 1]])) == 1.0


def test_between_pods() -> None:
    alike = np.array([[0.0, 1000, 10], [0, 1000, 11], [1, 1000, 10], [1, 1000, 9]])
    apart = np.array([[0.0, 1000, 10], [0, 1000, 100], [1, 1000, 10], [1, 1000, 9]])
    assert between_pods(alike) == 1.0 and between_pods(apart) > 20
    assert between_pods(np.array([[0.0, 1000, 10], [1, 1000, 90]])) == 1.0, "one pod each cannot differ"
