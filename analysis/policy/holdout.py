"""How well policies that were learned on some time fit the time after it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sidelight.analysis.policy.check import check
from sidelight.analysis.policy.model import Cluster, Direction
from sidelight.analysis.policy.objects import policy_of
from sidelight.analysis.policy.observed import Observation, edges_of
from sidelight.analysis.policy.render import manifest
from sidelight.analysis.policy.suggest import suggest

PARTS = (0.125, 0.25, 0.5)
"""Of the time before the half that is judged: windows of several lengths, all ending where it begins."""


@dataclass(frozen=True, slots=True)
class Row:
    """`judged` connections of the second half, of which policies learned for `learned_s` would have cut `cut`."""

    learned_s: float
    judged: int
    cut: int
    edges_cut: int


def hold_out(
    observations: Iterable[Observation],
    cluster: Cluster,
    namespaces: Iterable[str] = (),
    directions: Iterable[Direction] = tuple(Direction),
) -> list[Row]:
    """A row for each length of window, the longest last."""
    seen = sorted(observations, key=lambda one: one.at)
    if not seen:
        return []
    begin, end = seen[0].at, seen[-1].at
    middle = (begin + end) / 2
    later = edges_of(one for one in seen if one.at >= middle)
    judged = sum(edge.connections for edge in later)
    rows = []
    for part in PARTS:
        start = middle - part * (end - begin)
        suggestion = suggest(edges_of(o for o in seen if start <= o.at < middle), cluster, (), namespaces, directions)
        policies = [policy_of(manifest(policy)) for policy in suggestion.policies]
        result = check([], policies, cluster, later)
        rows.append(Row(middle - start, judged, sum(found.cut for found in result.edges), len(result.cut)))
    return rows
