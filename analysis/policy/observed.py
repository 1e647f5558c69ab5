"""What was seen, for policies: connections between ends, by edge. An edge is workload (or outside address) to workload and port."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from sidelight.analysis.policy.model import End, Traffic

MOST_PAIRS = 64
"""Kinds of pods (by labels) and addresses that an edge keeps apart; more are counted with one that is known."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One flow. `failed`: an attempt that failed. `count` connections (or exchanges) at once. Times are seconds since the epoch."""

    traffic: Traffic
    at: float
    failed: bool = False
    count: int = 1
    bytes: int = 0
    known: tuple[str, str] = ("", "")
    """How the names of both ends were known."""
    reason: str = ""
    """Why it failed."""


class EdgeKey(NamedTuple):
    source: str
    destination: str
    port: int
    protocol: str


@dataclass(slots=True)
class Pair:
    """Traffic of one kind of pods on either end."""

    traffic: Traffic
    connections: int = 0
    failed: int = 0


@dataclass(slots=True)
class Edge:
    """All that was seen of one. `failed` attempts are no connections."""

    key: EdgeKey
    connections: int = 0
    failed: int = 0
    bytes: int = 0
    first: float = 0.0
    last: float = 0.0
    pairs: dict[tuple[object, ...], Pair] = field(default_factory=dict)
    known: set[tuple[str, str]] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    """Names of pods, or addresses."""
    destinations: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    folded: int = 0

    def evidence(self) -> dict[str, object]:
        """As JSON."""
        return {
            "connections": self.connections, "failed": self.failed, "bytes": self.bytes, "first": self.first, "last": self.last,
            "sources": sorted(self.sources)[:10], "destinations": sorted(self.destinations)[:10],
            "known": sorted("/".join(how) for how in self.known), "failures": sorted(self.reasons),
        }  # fmt: skip


def edges_of(observations: Iterable[Observation]) -> list[Edge]:
    """Edges in the order of their names."""
    found: dict[EdgeKey, Edge] = {}
    for seen in observations:
        traffic = seen.traffic
        key = EdgeKey(title(traffic.source), title(traffic.destination), traffic.port, traffic.protocol)
        edge = found.get(key)
        if edge is None:
            edge = found[key] = Edge(key, first=seen.at, last=seen.at)
        edge.first, edge.last = min(edge.first, seen.at), max(edge.last, seen.at)
        edge.bytes += seen.bytes
        edge.connections += 0 if seen.failed else seen.count
        edge.failed += seen.count if seen.failed else 0
        if seen.failed and seen.reason:
            edge.reasons.add(seen.reason)
        edge.known.add(seen.known)
        for ends, end in ((edge.sources, traffic.source), (edge.destinations, traffic.destination)):
            if len(ends) < MOST_PAIRS:
                ends.add(end.pod.name if end.pod else title(end))
        pair = _pair(edge, traffic)
        pair.connections += 0 if seen.failed else seen.count
        pair.failed += seen.count if seen.failed else 0
    return [found[key] for key in sorted(found)]


def _pair(edge: Edge, traffic: Traffic) -> Pair:
    key = (_kind(traffic.source), _kind(traffic.destination), traffic.dialled)
    found = edge.pairs.get(key)
    if found is None:
        if len(edge.pairs) >= MOST_PAIRS:
            edge.folded += 1
            return next(iter(edge.pairs.values()))
        found = edge.pairs[key] = Pair(traffic)
    return found


def _kind(end: End) -> object:
    """What policies can tell apart of it."""
    pod = end.pod
    if pod is None:
        return end.address, end.node.name if end.node else ""
    return pod.namespace, pod.labels, pod.host_network, pod.node, pod.ports, pod.addresses


def title(end: End) -> str:
    """How it is called in an edge: each outside address for itself."""
    if end.pod is None and end.node is None and end.address is not None:
        return f"{end.names[0]} ({end.address})" if end.names else str(end.address)
    return end.title
