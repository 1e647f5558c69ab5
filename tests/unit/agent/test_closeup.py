"""A workload by pod: exact from when it is asked for, nothing before, forgotten when nobody asks."""

from __future__ import annotations

import numpy as np
import pytest

from sidelight.agent import layout
from sidelight.agent.books import Books
from sidelight.agent.closeup import FORGOTTEN_AFTER_S, MOST_OPEN, Target
from sidelight.agent.source import Generation
from tests.unit.agent.test_books import generation, resolver

UNITS = Target("", ("unit1", "unit2"))


def counts(document: dict[str, object]) -> dict[tuple[str, str, bool], int]:
    """By kind, pod and outcome."""
    pods = [pod["name"] for pod in document["pods"]]  # type: ignore[attr-defined]
    found: dict[tuple[str, str, bool], int] = {}
    for row in document["rows"]:  # type: ignore[attr-defined]
        key = (row["kind"], pods[row["pod"]], row["failed"])
        found[key] = found.get(key, 0) + sum(row["counts"].values())
    return found


def test_nothing_before_it_is_asked_for_and_everything_after() -> None:
    books = Books()
    books.book(generation(1, [(1, 5), (2, 7), (3, 9)]), resolver(), 1.0)
    closeup, opened = books.closeups.ask(UNITS, 1.5)
    assert opened and counts(closeup.document()) == {}
    closeup.remember(books.latencies, books.operations)
    history = closeup.document()["history"]
    assert sum(sum(row["counts"].values()) for row in history) == 12
    books.book(generation(2, [(1, 1), (2, 2), (3, 3)]), resolver(), 2.0)
    books.book(generation(3, [(1, 10)]), resolver(), 3.0)
    again, opened = books.closeups.ask(UNITS, 3.5)
    assert again is closeup and not opened
    found = counts(closeup.document())
    assert found["served", "unit1", False] == 11 and found["served", "unit2", False] == 2
    assert found["opened", "unit1", False] == 11 and ("served", "unit3", False) not in found


def test_failures_resets_and_segments() -> None:
    one = generation(1, [(1, 4)])
    one.latency_keys["status"] = 503
    one.edge_values["closed"][0][layout.CONSTANTS["CLOSE_FIN_REMOTE"]] = 3
    one.edge_values["closed"][0][layout.CONSTANTS["CLOSE_RST_LOCAL"]] = 1
    one.edge_values["tx_segments"], one.edge_values["retransmits"] = 20, 2
    books = Books()
    closeup, _ = books.closeups.ask(UNITS, 0.0)
    books.book(one, resolver(), 1.0)
    rows = {(row["kind"], row["failed"]): row["counts"] for row in closeup.document()["rows"]}
    assert rows["served", True] == {"7": 4}
    assert rows["ended", False] == {"0": 4, "1": 1} and rows["sent", False] == {"0": 20, "1": 2}


def test_what_it_asks_of_others() -> None:
    one = generation(1, [(1, 4)])
    for keys in (one.edge_keys, one.latency_keys["edge"]):
        keys["role"] = layout.ROLE_CLIENT
    one.latency_keys["status"] = 404
    books = Books()
    closeup, _ = books.closeups.ask(UNITS, 0.0)
    books.book(one, resolver(), 1.0)
    assert counts(closeup.document()) == {("asked", "unit1", True): 4}, "a 404 is its client's error"


def test_forgotten_and_few() -> None:
    books = Books()
    for number in range(MOST_OPEN):
        books.closeups.ask(Target("", (str(number),)), 0.0)
    with pytest.raises(ValueError, match="already"):
        books.closeups.ask(UNITS, 1.0)
    books.book(Generation(1, *(np.zeros(0, d) for d in (layout.EDGE_KEY, layout.EDGE_VALUE, layout.LATENCY_KEY, layout.LATENCY_VALUE))), resolver(), FORGOTTEN_AFTER_S + 1)  # fmt: skip
    assert len(books.closeups) == 0
