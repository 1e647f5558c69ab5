"""Verdicts: what they mean, what makes them doubtful, and that they do not depend on what they must not depend on."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError
from sidelight.analysis.comparison import Settings, tolerance_of
from sidelight.analysis.evidence import Tolerance
from sidelight.analysis.judge import judge
from tests.unit.analysis.builders import PLAIN, comparison, exchanges, interval, steady


def metric(document: dict[str, Any], name: str = "http.errors") -> Any:
    return next(m for m in judge(document).metrics if m.name == name)


def test_three_verdicts() -> None:
    worse = judge(steady((400, 1), (400, 40)))
    assert worse.verdict == "fail" and "of requests failed" in worse.sentence
    assert judge(steady((4000, 1), (4000, 1))).verdict == "pass"
    unknown = judge(steady((100, 1), (20, 1)))
    assert unknown.verdict == "inconclusive"
    first = next(m for m in unknown.metrics if m.name == "http.errors")
    assert (
        first.reasons == ["too few so far"] and first.settles.startswith("about ") and "at this rate" in first.settles
    )


def test_the_promise_of_what_settles_it_is_kept() -> None:
    """As many more as it asks for, at the same rates: enough, or nearly."""
    document = steady((400, 0), (400, 0), 10, pods=1)
    first = metric(document)
    more = int(first.settles.split()[1].replace(",", ""))
    enough = 10 + int(more / 400) + 2
    assert metric(steady((400, 0), (400, 0), enough, pods=1)).verdict == "pass"
    assert metric(steady((400, 0), (400, 0), int(0.8 * enough), pods=1)).verdict == "inconclusive"


def test_no_traffic_is_never_a_pass() -> None:
    silent = judge(steady((400, 1), (0, 0)))
    assert silent.verdict == "inconclusive" and silent.reasons == ["no traffic to the canary"]
    assert judge(steady((0, 0), (400, 0))).reasons == ["no traffic to the baseline"]
    nothing = judge(comparison([interval(0, {})]))
    assert nothing.verdict == "inconclusive" and len(nothing.reasons) == 2
    assert judge(comparison([])).verdict == "inconclusive"


def test_traffic_that_stops_midway_is_said() -> None:
    both = {"baseline": {"b": exchanges(4000)}, "canary": {"c": exchanges(4000)}}
    alone = {"baseline": {"b": exchanges(4000)}}
    document = comparison([interval(i, both if i < 30 else alone) for i in range(60)])
    verdict = judge(document)
    assert verdict.verdict == "inconclusive" and "traffic to the canary stopped 2 minutes ago" in verdict.reasons


def test_one_bad_pod_is_not_a_bad_version() -> None:
    found = []
    for number in range(60):
        canary = {f"c-{pod}": exchanges(100, 30 if pod == 1 else 0) for pod in range(3)}
        found.append(interval(number, {"baseline": {"b-0": exchanges(150), "b-1": exchanges(150)}, "canary": canary}))
    verdict = judge(comparison(found))
    assert (
        verdict.verdict == "inconclusive" and "but by one pod: c-1 has 100% of the canary's events" in verdict.sentence
    )
    # of one that is all there is, it cannot be told
    alone = judge(
        comparison(
            [interval(i, {"baseline": {"b": exchanges(300)}, "canary": {"c": exchanges(90, 30)}}) for i in range(60)]
        )
    )
    assert alone.verdict == "fail" and any("one pod" in note for note in alone.notes)


def test_a_bad_pod_of_the_baseline_hides_nothing() -> None:
    found = []
    for number in range(60):
        baseline = {"b-0": exchanges(2000, 40), "b-1": exchanges(2000)}
        found.append(
            interval(number, {"baseline": baseline, "canary": {"c-0": exchanges(2000, 10), "c-1": exchanges(2000, 10)}})
        )
    assert judge(comparison(found)).verdict != "pass"


def test_placebo() -> None:
    """Where the baseline's own halves differ, nothing is said of the canary."""
    found = []
    for number in range(60):
        baseline = {"b-0": exchanges(300, 60), "b-1": exchanges(300)}
        found.append(
            interval(number, {"baseline": baseline, "canary": {f"c-{i}": exchanges(300, 90) for i in range(3)}})
        )
    verdict = judge(comparison(found))
    assert (
        verdict.verdict == "inconclusive"
        and "http.errors differs between the baseline's own halves" in verdict.reasons[0]
    )


def test_a_burst_is_not_evidence() -> None:
    """Thirty failures at once are one event."""
    found = [
        interval(
            i,
            {
                "baseline": {"b": exchanges(500)},
                "canary": {"c": exchanges(470 if i == 30 else 500, 30 if i == 30 else 0)},
            },
        )
        for i in range(60)
    ]
    verdict = judge(comparison(found))
    errors = next(m for m in verdict.metrics if m.name == "http.errors")
    assert verdict.verdict == "inconclusive" and errors.dispersion > 10 and "bursts" in errors.reasons[0]


def test_losses_and_missing_agents() -> None:
    both = {"baseline": {"b": exchanges(4000)}, "canary": {"c": exchanges(4000)}}
    worse = {"baseline": {"b": exchanges(4000)}, "canary": {"c": exchanges(3600, 400)}}
    lossy = judge(comparison([interval(i, worse, lost=1000) for i in range(30)]))
    assert lossy.verdict == "inconclusive" and "were lost" in lossy.reasons[0]
    blind = judge(comparison([interval(i, both, absent=("node-7",)) for i in range(30)]))
    assert blind.verdict == "inconclusive" and "node-7" in blind.reasons[0]
    assert judge(comparison([interval(i, worse, absent=("node-7",)) for i in range(30)])).verdict == "fail"
    few = judge(comparison([interval(i, both, lost=1) for i in range(30)]))
    assert few.verdict == "pass" and any("were lost" in note for note in few.notes)


def test_another_mix_is_compared_kind_by_kind() -> None:
    """Simpson's: the canary gets more of the route that fails anyway, and is not worse at either."""

    def looks(stratified: bool) -> Any:
        found = []
        for number in range(60):
            good = interval(
                number, {"baseline": {"b": exchanges(800)}, "canary": {"c": exchanges(200)}}, stratum="good"
            )
            bad = interval(
                number, {"baseline": {"b": exchanges(180, 20)}, "canary": {"c": exchanges(720, 80)}}, stratum="bad"
            )
            found.append(replace(good, grown=good.grown | bad.grown))
        return judge(comparison(found, replace(PLAIN, stratified=stratified)))

    assert looks(False).verdict == "fail"
    told = looks(True)
    assert told.verdict != "fail" and any("another mix" in note for note in told.notes)


def test_requests_that_only_the_canary_gets() -> None:
    found = []
    for number in range(30):
        one = interval(number, {"baseline": {"b": exchanges(800)}}, stratum="old")
        other = interval(number, {"canary": {"c": exchanges(800, 80)}}, stratum="new")
        found.append(replace(one, grown=one.grown | other.grown))
    verdict = judge(comparison(found))
    assert verdict.verdict == "inconclusive" and "of kinds that the baseline gets too" in verdict.reasons[0]


def test_slow_ones_and_unanswered_ones() -> None:
    """Latency by shares beyond an edge; one without an answer counts as failed, and as slow if it waited for so long."""
    history = interval(0, {"baseline": {"": exchanges(1000)}})
    found = [
        interval(i, {"baseline": {"b": exchanges(400)}, "canary": {"c": exchanges(400, slow=40)}}) for i in range(30)
    ]
    verdict = judge(comparison(found, history=history))
    tail = next(m for m in verdict.metrics if m.name == "http.tail")
    assert verdict.verdict == "fail" and tail.edge_s == 0.001 and tail.k_canary == 40 * 30
    # the failed ones, if in the bucket of 0.1 to 1 s
    hanging = [interval(i, {"baseline": {"b": exchanges(400)}, "canary": {"c": exchanges(390, 10, place=0) | {True: [0, 0, 0, 10, 0, 0]}}}) for i in range(30)]  # fmt: skip
    slow = next(m for m in judge(comparison(hanging, history=history)).metrics if m.name == "http.slow")
    assert slow.k_canary == 10 * 30


def test_what_is_advisory_decides_nothing() -> None:
    document = steady((4000, 1), (4000, 40), settings=replace(PLAIN, advisory=("errors",)))
    verdict = judge(document)
    assert metric(document).verdict == "fail" and verdict.verdict == "pass"


def test_tolerances() -> None:
    loose = replace(PLAIN, tolerances={"errors": tolerance_of("x3+1pp")})
    assert judge(steady((4000, 1), (4000, 6), settings=loose)).verdict == "pass"
    assert judge(steady((4000, 1), (4000, 6))).verdict == "fail"


def test_a_single_look() -> None:
    once = replace(PLAIN, single_look=True, for_s=300.0, tolerances={"errors": Tolerance(1.0)})
    document = steady((400, 5), (400, 12), settings=once)
    found = metric(document)
    assert found.verdict == "fail" and found.p_worse is not None and found.p_worse < 0.05 / 6


def test_pods_as_the_unit() -> None:
    """Pods that differ by nature: what one request's worth of evidence was is less."""
    found = []
    for number in range(60):
        canary = {f"c-{pod}": exchanges(300 - failed, failed) for pod, failed in enumerate((6, 15, 30))}
        found.append(
            interval(
                number,
                {"baseline": {f"b-{i}": exchanges(300 - k, k) for i, k in enumerate((6, 12, 25))}, "canary": canary},
            )
        )
    by_pod = metric(comparison(found, replace(PLAIN, unit="pod")))
    assert by_pod.dispersion > 10 * metric(comparison(found)).dispersion


# -- metamorphic ---------------------------------------------------------------------------------------------------

GRAVITY = {"pass": 0, "inconclusive": 1, "fail": 2}


@given(st.integers(0, 12), st.integers(0, 40), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_more_failures_never_help(baseline: int, canary: int, more: int, seed: int) -> None:
    document = steady((2000, baseline), (2000, canary), 20, pods=1, seed=seed)
    worse = copy.deepcopy(document)
    rows = next(m["rows"] for m in worse["metrics"] if m["name"] == "http.errors")
    g = np.random.default_rng(seed)
    mine = [row for row in rows if row[1] == 1 and row[4] > row[5] + more]
    for row in g.choice(len(mine), min(len(mine), 20), replace=False):
        mine[row][5] += more
    before, after = metric(document), metric(worse)
    # failures can come in bursts, and bursts be no evidence: but never a pass where there was a fail
    assert not (before.verdict == "fail" and after.verdict == "pass")
    assert GRAVITY[after.verdict] >= GRAVITY[before.verdict] or before.verdict == "fail"


def test_nothing_depends_on_order_names_or_who_saw_it() -> None:
    document = steady((400, 3), (400, 20), pods=2)
    base = metric(document)
    shuffled = copy.deepcopy(document)
    for one in shuffled["metrics"]:
        np.random.default_rng(1).shuffle(one["rows"])
    assert metric(shuffled) == base
    renamed = copy.deepcopy(document)
    renamed["strata"] = ["another" for _ in renamed["strata"]]
    assert metric(renamed).evidence_worse == base.evidence_worse
    # an exchange seen by another agent is a row of its own
    split = copy.deepcopy(document)
    for one in split["metrics"]:
        halves = [(row, row[4] // 2, min(row[4] // 2, row[5])) for row in one["rows"]]
        first = [[*row[:4], trials, events] for row, trials, events in halves]
        second = [[*row[:4], row[4] - trials, row[5] - events] for row, trials, events in halves]
        one["rows"] = [row for row in first + second if row[4]]
    assert metric(split) == base


def test_what_is_no_comparison_is_said() -> None:
    document = steady((10, 0), (10, 0), 2)
    for spoil in (
        lambda d: d.pop("metrics"),
        lambda d: d.update(format="another"),
        lambda d: d["metrics"][0]["rows"].append([0, 0, 0, 0, 1, 2]),
        lambda d: d["metrics"][0]["rows"].append([0, 5, 0, 0, 1, 0]),
        lambda d: d["metrics"][0]["rows"].append([99, 0, 0, 0, 1, 0]),
        lambda d: d["metrics"][0]["rows"].append(["a", 0, 0, 0, 1, 0]),
    ):
        broken = copy.deepcopy(document)
        spoil(broken)
        with pytest.raises(ConfigError):
            judge(broken)


def test_settings_reach_the_document() -> None:
    document = steady((10, 0), (10, 0), 1, settings=Settings(alpha=0.01, interval_s=2.0))
    assert document["settings"]["alpha"] == 0.01 and document["settings"]["interval_s"] == 2.0
