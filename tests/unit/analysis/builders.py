"""Comparisons made of plain numbers, for tests of the judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sidelight.analysis.comparison import Comparison, Settings
from sidelight.analysis.readings import Interval, Key, Pod

BOUNDS = (0.001, 0.01, 0.1, 1.0)
PLAIN = Settings(warm_up_s=0.0)


def exchanges(ok: int, failed: int = 0, slow: int = 0, place: int = 0) -> dict[bool, list[int]]:
    """Counts by whether they failed; `slow` of the good ones took 0.1 to 1 s, the others are in the bucket `place`."""
    good = [0] * (len(BOUNDS) + 2)
    good[place] += ok - slow
    good[3] += slow
    bad = [0] * (len(BOUNDS) + 2)
    bad[place] += failed
    return {False: good, True: bad}


def interval(
    number: int,
    arms: dict[str, dict[str, dict[bool, list[int]]]],
    *,
    seconds: float = 5.0,
    stratum: str = "web GET",
    **more: Any,
) -> Interval:
    """`arms`: by arm and pod what exchanges() gives."""
    grown = {
        Key(arm, pod, "served", "http", stratum, failed): np.array(counts, np.int64)
        for arm, pods in arms.items()
        for pod, by_failed in pods.items()
        for failed, counts in by_failed.items()
        if any(counts)
    }
    pods = tuple(Pod(arm, pod, "node-1") for arm, found in arms.items() for pod in found)
    told = {"lost": 0, "absent": (), "resets": 0} | more
    return Interval(seconds * (number + 1), seconds, BOUNDS, grown, pods, **told)


def comparison(
    intervals: Sequence[Interval], settings: Settings = PLAIN, history: Interval | None = None
) -> dict[str, Any]:
    """The document, as it comes back from a file."""
    found = Comparison("shop/catalogue", "version=v1", "version=v2", "a test", settings, history)
    for one in intervals:
        found.add(one)
    document: dict[str, Any] = json.loads(json.dumps(found.document()))
    return document


def steady(
    baseline: tuple[int, int],
    canary: tuple[int, int],
    count: int = 60,
    *,
    pods: int = 2,
    settings: Settings = PLAIN,
    seed: int = 1,
) -> dict[str, Any]:
    """(requests an interval, of a thousand so many fail) on both sides, dealt out to so many pods."""
    g = np.random.default_rng(seed)
    found = []
    for number in range(count):
        arms: dict[str, dict[str, dict[bool, list[int]]]] = {}
        for arm, (requests, permille) in (("baseline", baseline), ("canary", canary)):
            each = requests // pods
            arms[arm] = {}
            for pod in range(pods):
                failed = int(g.binomial(each, permille / 1000))
                arms[arm][f"{arm}-{pod}"] = exchanges(each - failed, failed)
        found.append(interval(number, arms))
    return comparison(found, settings)
