"""What goes into a comparison: differences of totals, what is slow, warm-up, strata, tolerances."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.closeup import REST
from sidelight.agent.errors import ConfigError
from sidelight.analysis.comparison import MOST_STRATA, Settings, rows_of, tolerance_of
from sidelight.analysis.evidence import Tolerance
from sidelight.analysis.readings import Key, Pod, Reading, difference, merge
from tests.unit.analysis.builders import BOUNDS, PLAIN, comparison, exchanges, interval

KEY = Key("baseline", "b", "served", "http", "web GET", False)


def reading(at: float, *counts: int, epoch: str = "") -> Reading:
    return Reading(at, BOUNDS, {KEY: np.array(counts, np.int64)} if counts else {}, epoch=epoch)


def test_differences_are_integers_with_resets() -> None:
    grown = difference(reading(0, 5, 1), reading(5, 9, 1))
    assert grown.seconds == 5 and list(grown.grown[KEY]) == [4, 0] and grown.resets == 0
    again = difference(reading(0, 5, 1), reading(5, 2, 0))
    assert list(again.grown[KEY]) == [2, 0] and again.resets == 1
    assert list(difference(reading(0), reading(5, 2, 0)).grown[KEY]) == [2, 0], "a series that is new began at zero"
    assert difference(reading(0, 5, 1), reading(5)).grown == {}
    other = difference(reading(0, 5, 1, epoch="a"), reading(5, 6, 1, epoch="b"))
    assert list(other.grown[KEY]) == [6, 1] and other.resets == 1


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=10))
def test_differences_add_up(steps: list[int]) -> None:
    totals = np.cumsum(steps)
    readings = [reading(float(i), int(total)) for i, total in enumerate(totals)]
    parts = [difference(a, b).grown.get(KEY, np.zeros(1)) for a, b in pairwise(readings)]
    assert sum(int(part[0]) for part in parts) == int(totals[-1] - totals[0])


def test_merged_agents_lose_nothing() -> None:
    one, other = difference(reading(0), reading(5, 3, 1)), difference(reading(0), reading(6, 4, 0))
    merged = merge([one, other], absent=("node-3",))
    assert list(merged.grown[KEY]) == [7, 1] and merged.absent == ("node-3",) and merged.at == 6


def rows(document: object, name: str = "http.errors") -> np.ndarray:
    return next(found for metric, found in rows_of(document) if metric["name"] == name)  # type: ignore[arg-type]


def test_pods_warm_up() -> None:
    """A pod's first thirty seconds are left out, and said."""
    arms = {"baseline": {"b": exchanges(100)}, "canary": {"c": exchanges(100)}}
    found = []
    for number in range(12):
        one = interval(number, arms)
        pods = (Pod("baseline", "b", "n", 0.0), Pod("canary", "c", "n", 10.0))
        found.append(replace(one, pods=pods))
    document = comparison(found, Settings(warm_up_s=30.0))
    canary = rows(document)[rows(document)[:, 1] == 1]
    assert canary[:, 0].min() == 8, "the first interval that began 40 s in"
    assert sum(i["warming"] for i in document["intervals"]) == 800


def test_a_pod_that_appears_later_is_young() -> None:
    """Where nobody says when it began, its first exchange does; those of the first interval may be old."""
    both = {"baseline": {"b": exchanges(100)}, "canary": {"c": exchanges(100)}}
    late = {"baseline": {"b": exchanges(100)}, "canary": {"c": exchanges(100), "late": exchanges(100)}}
    found = [replace(interval(i, both if i < 4 else late), pods=()) for i in range(12)]
    document = comparison(found, Settings(warm_up_s=30.0))
    name = [pod["name"] for pod in document["pods"]].index("late")
    mine = rows(document)[rows(document)[:, 2] == name]
    assert mine[:, 0].min() == 10 and rows(document)[:, 0].min() == 0


def test_slow_is_chosen_by_what_is_not_judged() -> None:
    """By the history; without one, by the first intervals, which latency then leaves out."""
    arms = {"baseline": {"b": exchanges(100, slow=20)}, "canary": {"c": exchanges(100)}}
    document = comparison([interval(i, arms) for i in range(5)])
    assert rows(document, "http.slow")[:, 0].min() == 2, "two intervals of a hundred were needed"
    assert next(m for m in document["metrics"] if m["name"] == "http.slow")["edge_s"] == 1.0
    known = comparison([interval(i, arms) for i in range(5)], history=interval(0, {"baseline": {"": exchanges(200)}}))
    assert rows(known, "http.slow")[:, 0].min() == 0
    assert next(m for m in known["metrics"] if m["name"] == "http.slow")["edge_s"] == 0.001
    told = comparison([interval(i, arms) for i in range(5)], replace(PLAIN, slower_than_s=0.09))
    slow = next(m for m in told["metrics"] if m["name"] == "http.slow")
    assert slow["edge_s"] == 0.1 and slow["says"] == "requests slower than 100 ms"


def test_strata_are_few() -> None:
    arms = {"baseline": {"b": exchanges(10)}, "canary": {"c": exchanges(10)}}
    document = comparison([interval(i, arms, stratum=f"/{i}") for i in range(30)])
    assert len(document["strata"]) == MOST_STRATA + 1 and document["strata"][-1] == REST
    assert rows(document)[:, 4].sum() == 600, "folded, not lost"


def test_tolerances_as_written() -> None:
    assert tolerance_of("x1.5") == Tolerance(1.5, 0.0)
    assert tolerance_of("0.1pp") == Tolerance(1.0, 0.001)
    assert tolerance_of("x2+1pp") == Tolerance(2.0, 0.01)
    assert tolerance_of("5%") == Tolerance(1.0, 0.05)
    for text in ("", "x", "x0.5", "1.5", "200pp", "-1pp", "x1e9", "pp", "x1.5x2"):
        with pytest.raises(ConfigError):
            tolerance_of(text)
