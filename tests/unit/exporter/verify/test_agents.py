"""Agents' closeups as readings: arms by selector, buckets folded exactly, agents that come and go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidelight.agent import layout
from sidelight.agent.errors import SidelightError
from sidelight.analysis.readings import Key
from sidelight.exporter.verify.agents import Agents, bounds_used, fold, reading
from sidelight.exporter.verify.arms import arms_of

ARMS = arms_of("shop/catalogue", "version=v1", "version=v2")
USED = bounds_used()


def pod(name: str, version: str, node: str = "node-1", **more: Any) -> dict[str, Any]:
    return {"name": name, "workload": "catalogue", "version": version, "node": node, "labels": {}, **more}


def row(pod: int, counts: dict[str, int], kind: str = "served", failed: bool = False) -> dict[str, Any]:
    return {"kind": kind, "pod": pod, "family": "http", "stratum": "web GET", "failed": failed, "counts": counts}


def document(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    pods = [pod("old", "v1"), pod("new", "v2"), pod("other", "v3")]
    found = {
        "id": "x",
        "at": 100.0,
        "node": "node-1",
        "lost": 0,
        "pods": pods,
        "rows": rows,
        "history": [],
        "known": [],
    }
    return json.loads(json.dumps(found | more))  # type: ignore[no-any-return]


def test_buckets_fold_exactly() -> None:
    bounds = layout.BUCKET_BOUNDS_S
    first, last = USED[0], USED[-1]
    found = fold(
        {"0": 1, str(first): 2, str(first + 1): 3, str(last): 4, str(last + 1): 5, str(layout.LATENCY_BUCKETS): 6}, USED
    )
    assert (
        found[0] == 3 and found[1] == 3 and found[-3] == 4 and found[-2] == 5 and found[-1] == 6 and found.sum() == 21
    )
    finer = bounds_used(0.3)
    assert len(finer) == len(USED) + 1 and any(abs(bounds[i] / 0.3 - 1) < 0.1 for i in finer)


def test_arms_and_pods() -> None:
    told = document(
        [row(0, {"7": 5}), row(1, {"7": 3}), row(1, {"7": 1}, failed=True), row(2, {"7": 9}), row(1, {"0": 4, "1": 1}, "ended")],
        known=[pod("new", "v2", since=50.0), pod("silent", "v2", "node-9", since=60.0)],
    )  # fmt: skip
    found = reading(told, ARMS, USED)
    assert {key.arm for key in found.totals} == {"baseline", "canary"}
    assert list(found.totals[Key("canary", "new", "ended", "http", "web GET")]) == [4, 1]
    assert {(pod.arm, pod.name, pod.node, pod.since) for pod in found.pods} == {
        ("baseline", "old", "node-1", 0.0), ("canary", "new", "node-1", 50.0), ("canary", "silent", "node-9", 60.0),
    }  # fmt: skip
    history = reading(document([], history=[row(0, {"7": 5})]), ARMS, USED, "history")
    assert [key.pod for key in history.totals] == [""] and history.pods == ()


@pytest.mark.parametrize(
    "broken", [{}, {"pods": 3}, {"rows": [row(9, {})]}, {"rows": [{}]}, {"at": "x"}, {"rows": [row(0, {"x": 1})]}]
)
def test_what_is_no_answer(broken: dict[str, Any]) -> None:
    told = document([row(0, {"7": 5})]) | broken if broken else {}
    with pytest.raises(SidelightError):
        reading(told, ARMS, USED)


class Agent:
    """One that answers what it is told to, or is away."""

    def __init__(self, *answers: dict[str, Any] | None) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, argument: str) -> dict[str, Any]:
        self.asked.append(json.loads(argument))
        answer = self.answers.pop(0)
        if answer is None:
            raise SidelightError("away")
        return answer


def test_an_agent_that_is_away_is_missed_and_loses_nothing() -> None:
    key = Key("baseline", "old", "served", "http", "web GET")
    one = Agent(*(document([row(0, {"7": n})]) for n in (5, 6, 7)))
    there = {"node": "node-2", "known": [pod("far", "v2", "node-2", since=1.0)], "id": "y"}
    other = Agent(*(document([row(0, {"7": n})], **there) if n else None for n in (1, 0, 9)))
    agents = Agents([("a", one), ("b", other)], ARMS)
    agents.start()
    (first,) = agents.take()
    assert first.grown[key].sum() == 1 and first.absent == ()
    (second,) = agents.take(last=True)
    assert second.grown[key].sum() == 1 + 8, "what it counted meanwhile comes later"
    assert one.asked[0]["fresh"] and not one.asked[1]["fresh"] and one.asked[2]["fresh"]


def test_nodes_without_an_agent_and_agents_that_begin_again() -> None:
    known = [pod("far", "v2", "node-9", since=1.0)]
    one = Agent(
        document([row(0, {"7": 5})]), document([row(0, {"7": 6})], known=known), document([row(0, {"7": 2})], id="new")
    )
    agents = Agents([("a", one)], ARMS)
    agents.start()
    assert agents.take()[0].absent == ("node-9",)
    (again,) = agents.take()
    assert again.resets == 1 and next(iter(again.grown.values())).sum() == 2
    away = Agents([("a", Agent(None, None))], ARMS)
    with pytest.raises(SidelightError, match="away"):
        away.start()
    assert away.take() == []
