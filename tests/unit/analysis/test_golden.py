"""Cases that other judges got wrong, by the issue they were told in: what was said there, and what is said here.

The numbers are those of the issues where they have any; a point of a time series stands for an interval of a hundred requests each.
docs/verify.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sidelight.analysis.comparison import tolerance_of
from sidelight.analysis.judge import judge
from tests.unit.analysis.builders import PLAIN, comparison, exchanges, interval

REQUESTS = 100


def failures(baseline: list[int], canary: list[int], requests: int = REQUESTS) -> dict[str, Any]:
    """So many failed of each interval's requests."""
    return comparison(
        [
            interval(i, {"baseline": {"b": exchanges(requests - b, b)}, "canary": {"c": exchanges(requests - c, c)}})
            for i, (b, c) in enumerate(zip(baseline, canary, strict=True))
        ]
    )


def latencies(baseline: list[float], canary: list[float], edge: float) -> dict[str, Any]:
    """Every request of an interval took as long as the point says; slow is what takes longer than `edge`."""
    history = interval(0, {"baseline": {"": exchanges(1000)}})
    return comparison(
        [
            interval(i, {arm: {arm: exchanges(REQUESTS, slow=REQUESTS if value > edge else 0)} for arm, value in (("baseline", b), ("canary", c))})
            for i, (b, c) in enumerate(zip(baseline, canary, strict=True))
        ],
        history=history,
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    issue: str
    what: str
    said: str
    document: Callable[[], dict[str, Any]]
    ours: str
    because: str = ""


CASES = [
    Case(
        "spinnaker#6278", "7 of 10 points a hundred times slower", "Pass, whatever the factor; High from the 8th on",
        lambda: latencies([1.0] * 10, [100.0] * 7 + [1.0] * 3, 50), "fail",
    ),
    Case(
        "kayenta#780, 1", "half of the points ten times higher than any of the other's", "Pass",
        lambda: latencies([10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 17.0, 17.1, 17.2, 17.3, 17.4, 17.5, 17.6, 17.7],
                          [1.0, 100.0, 4.0, 101.0, 5.0, 102.0, 6.0, 103.0, 7.0, 104.0, 8.0, 105.0, 9.0, 106.0, 17.0], 50), "inconclusive",
        "seven of fifteen intervals, all of whose requests are slow at once, are seven events",
    ),
    Case(
        "kayenta#780, 1, longer", "the same twice more", "Pass",
        lambda: latencies([10.0] * 7 + [17.0] * 8 + [10.0] * 30, [1.0, 100.0, 4.0] * 15, 50), "fail",
    ),
    Case(
        "kayenta#780, 2", "a shift of a few per mille, far below anything that matters", "High",
        lambda: latencies([10.0] * 80, [10.02] * 80, 50), "pass", "nothing is slower than the edge",
    ),
    Case(
        "kayenta#780, 3", "most points equal, some very much higher", "Pass",
        lambda: latencies([1.0] * 30, [1.0] * 20 + [90.0, 1.0] * 5, 50), "inconclusive",
        "five events",
    ),
    Case(
        "kayenta#426", "sparse: 0 1 2 1 0 0 failures against none", "Pass",
        lambda: failures([0] * 6, [0, 1, 2, 1, 0, 0]), "inconclusive", "four failures are too few, and it says how many more requests it takes",
    ),
    Case(
        "kayenta#426, longer", "the same for two minutes", "Pass",
        lambda: failures([0] * 24, [0, 1, 2, 1, 0, 0] * 4), "fail",
    ),
    Case(
        "kayenta#799", "the baseline has no series of errors at all", "Nodata or Pass",
        lambda: failures([0] * 40, [5] * 40), "fail",
    ),
    Case(
        "kayenta#633", "+650 % and passed, too few points", "Pass",
        lambda: failures([2] * 20, [15] * 20), "fail",
    ),
    Case(
        "flagger#1035, #1353, #1689", "no traffic to the canary", "halted and rolled back",
        lambda: comparison([interval(i, {"baseline": {"b": exchanges(100)}}) for i in range(20)]), "inconclusive", "no traffic to the canary",
    ),
    Case(
        "flagger before PR #1095", "NaN: no requests in the window", "went on (NaN < 99 is false)",
        lambda: comparison([interval(i, {}) for i in range(20)]), "inconclusive", "no traffic",
    ),
    Case(
        "flagger#1011", "traffic stops midway", "advanced",
        lambda: comparison([interval(i, {"baseline": {"b": exchanges(4000)}, **({"canary": {"c": exchanges(4000)}} if i < 20 else {})}) for i in range(40)]),
        "inconclusive", "traffic to the canary stopped",
    ),
    Case(
        "flagger, min: 99", "one failure in 99 requests of a version that fails as rarely as the other", "failed check: 98.99 %",
        lambda: comparison([interval(0, {"baseline": {"b": exchanges(98, 1)}, "canary": {"c": exchanges(98, 1)}})]), "inconclusive",
    ),
    Case(
        "argo-rollouts#1466", "the query's answer is an empty vector", "index error, aborted",
        lambda: comparison([]), "inconclusive", "no traffic",
    ),
    Case(
        "argo-rollouts#4479", "no measurement worked: agents of all of the canary's nodes are away", "Successful",
        lambda: comparison([interval(i, {}, absent=("node-1",)) for i in range(10)]), "inconclusive",
    ),
    Case(
        "suna#3403", "one 5xx among 12 requests; below 20 requests a hand-made guard passes", "aborted; Pass",
        lambda: failures([0] * 6, [0, 0, 1, 0, 0, 0], requests=2), "inconclusive",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.issue for case in CASES])
def test_case(case: Case) -> None:
    verdict = judge(case.document())
    assert verdict.verdict == case.ours, (verdict.sentence, verdict.reasons)
    if case.because == "no traffic" or case.because.startswith(("no traffic", "traffic")):
        assert any(case.because in reason for reason in verdict.reasons)
    if case.issue == "kayenta#426":
        errors = next(metric for metric in verdict.metrics if metric.name == "http.errors")
        assert errors.settles.startswith("about ")


def test_a_rule_in_place_of_a_query() -> None:
    """flagger#795: people write PromQL that returns a passing value. Here one says what is tolerated, and it is printed."""
    document = failures([0] * 20, [1] * 20)
    document = comparison(
        [interval(i, {"baseline": {"b": exchanges(100)}, "canary": {"c": exchanges(99, 1)}}) for i in range(20)],
        replace(PLAIN, tolerances={"errors": tolerance_of("10pp")}),
    )
    errors = next(metric for metric in judge(document).metrics if metric.name == "http.errors")
    assert errors.limit == pytest.approx(0.1) and errors.verdict == "pass"
