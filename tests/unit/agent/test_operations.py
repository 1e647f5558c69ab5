from __future__ import annotations

import numpy as np

from sidelight.agent.operations import LOOK_EVERY_S, QUIET_S, Ages, identify, operation_name


def test_names_until_announced_and_none() -> None:
    assert (
        operation_name({}, 0) == "" and operation_name({7: "/a"}, 7) == "/a" and operation_name({}, 255) == "#000000ff"
    )
    assert identify(b"/a") != identify(b"/b") and identify(b"/a")[0] > 0


def test_only_what_is_quiet_makes_room_and_only_when_places_are_scarce() -> None:
    ages = Ages(10, frozenset({1}))
    ages.note(np.array([0, 1, 2, 3, 3]), 0.0)
    assert not ages.due(LOOK_EVERY_S)
    ages.note(np.arange(1, 10), 1.0)
    ages.note(np.array([9]), QUIET_S)
    assert ages.due(QUIET_S + 2) and not ages.due(QUIET_S + 3)
    assert sorted(ages.quiet(np.array([1, 2, 3, 9, 77]), QUIET_S + 2)) == [2, 3]
