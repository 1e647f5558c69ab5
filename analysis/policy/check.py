"""Policies against what was seen: each edge's verdict now and then, what would be cut, what matches nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sidelight.analysis.policy.evaluate import Decision, Evaluator, Step, Verdict
from sidelight.analysis.policy.model import Cluster, Direction, Policy, Rule
from sidelight.analysis.policy.observed import Edge

_ORDER = {Verdict.ALLOWED: 0, Verdict.UNDEFINED: 1, Verdict.DENIED: 2}


@dataclass(slots=True)
class EdgeResult:
    """An edge with its worst verdicts now and then, and the walks there. `cut`: connections that flow now and would not then."""

    edge: Edge
    now: Verdict
    then: Verdict
    walk: tuple[Step, ...]
    walk_now: tuple[Step, ...]
    cut: int = 0
    denied_now: int = 0
    """Connections that were seen though policies deny them now: not enforced, or older than the policy."""


@dataclass(slots=True)
class Result:
    """Of all edges. `dead`: rules (of the policies then) that nothing seen matched; `selectless`: policies without pods."""

    edges: list[EdgeResult] = field(default_factory=list)
    dead: list[tuple[Policy, Direction, Rule]] = field(default_factory=list)
    selectless: list[Policy] = field(default_factory=list)

    @property
    def cut(self) -> list[EdgeResult]:
        return [found for found in self.edges if found.cut]

    @property
    def unenforced(self) -> list[EdgeResult]:
        return [found for found in self.edges if found.denied_now]

    @property
    def undefined(self) -> list[EdgeResult]:
        return [found for found in self.edges if found.then is Verdict.UNDEFINED]


def check(now: Iterable[Policy], then: Iterable[Policy], cluster: Cluster, edges: Iterable[Edge]) -> Result:
    """`now`: policies of the cluster; `then`: those that are to be. The same list: what is, as it is."""
    now, then = list(now), list(then)
    before, after = Evaluator(now, cluster), Evaluator(then, cluster)
    same = now == then
    result = Result()
    matched: set[tuple[str, Direction, int]] = set()
    for edge in edges:
        found: EdgeResult | None = None
        for pair in edge.pairs.values():
            later = after.decide(pair.traffic)
            earlier = later if same else before.decide(pair.traffic)
            matched |= {
                (policy.title, direction, rule.number) for policy, direction, rule in after.matching(pair.traffic)
            }
            found = _worse(found, edge, earlier, later)
            if pair.connections and later.verdict is Verdict.DENIED and earlier.verdict is not Verdict.DENIED:
                found.cut += pair.connections
            if pair.connections and earlier.verdict is Verdict.DENIED:
                found.denied_now += pair.connections
        if found is not None:
            result.edges.append(found)
    result.dead = [
        (policy, direction, rule)
        for policy in then
        for direction in Direction
        for rule in policy.rules(direction) or ()
        if (policy.title, direction, rule.number) not in matched
    ]
    result.selectless = [policy for policy in then if not any(after.selects(policy, pod) for pod in cluster.pods)]
    return result


def _worse(found: EdgeResult | None, edge: Edge, now: Decision, then: Decision) -> EdgeResult:
    if found is None:
        return EdgeResult(edge, now.verdict, then.verdict, then.steps, now.steps)
    if _ORDER[now.verdict] > _ORDER[found.now]:
        found.now, found.walk_now = now.verdict, now.steps
    if _ORDER[then.verdict] > _ORDER[found.then]:
        found.then, found.walk = then.verdict, then.steps
    return found


def walk_text(steps: Iterable[Step]) -> str:
    """egress: Allow by rule 1 of NetworkPolicy shop/web -> ingress: isolated by db, and no rule allows it."""
    parts = []
    for step in steps:
        of = f" of {step.policy.title}" if step.policy and step.rule >= 0 else ""
        tier = f"[{step.tier}] " if step.tier else ""
        parts.append(f"{step.direction}: {tier}{step.says}{of}")
    return " -> ".join(parts)
