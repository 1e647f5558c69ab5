"""A workload seen from close up: totals by pod and client, for as long as somebody asks. What `sidelight verify` judges by.

The books keep workloads, since cost is to follow edges. A closeup keeps the pods of one workload besides: it is opened by the first
question, costs nothing before, and is closed when nobody has asked for a while. Its totals begin at zero when it is opened.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sidelight.agent import layout
from sidelight.agent.operations import RETIRED, operation_name
from sidelight.agent.protocols import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from sidelight.agent.books import EdgeKey, Table, _Known
    from sidelight.agent.source import Generation
    from sidelight.identity.model import Identity

MOST_OPEN = 8
FORGOTTEN_AFTER_S = 120.0
MOST_ROWS = 20_000
"""Rows beyond go under the stratum REST: exact, less finely told apart."""
REST = "the rest"
_CLOSED_BADLY = ("CLOSE_RST_LOCAL", "CLOSE_RST_REMOTE", "CLOSE_TIMED_OUT")
_GAVE_UP = layout.CONSTANTS["FAIL_ABORTED"]
"""The client did, before it was decided: no failure of the server."""


def family(protocol: Protocol) -> str:
    """What its measures are called by: http, grpc, redis."""
    return "grpc" if protocol.rpc else protocol.program if protocol.system else protocol.name


@dataclass(frozen=True, slots=True)
class Target:
    """Pods of a namespace (empty: outside Kubernetes) whose workload, app or name is one of these."""

    namespace: str
    names: tuple[str, ...]

    def has(self, identity: Identity) -> bool:
        if identity.namespace != self.namespace:
            return False
        return identity.workload in self.names or identity.app in self.names or identity.name in self.names


Row = tuple[str, int, str, str, bool]
"""(kind, pod, family, stratum, failed); kinds as in analysis/readings.py."""


@dataclass(slots=True)
class Closeup:
    target: Target
    at: float
    asked_at: float
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    pods: dict[tuple[str, str], int] = field(default_factory=dict)
    identities: list[Identity] = field(default_factory=list)
    rows: dict[Row, np.ndarray] = field(default_factory=dict)
    history: dict[Row, np.ndarray] = field(default_factory=dict)
    """What the books had of it before, without pods: by it one can tell what is slow."""

    def book(self, generation: Generation, asked: dict[bytes, _Known], operations: dict[int, str]) -> None:
        """Adds what a generation has of the target. `asked`: its edges by struct edge_key, named."""
        mine = {raw: known for raw, known in asked.items() if self._concerns(known)}
        if not mine:
            return
        size = layout.EDGE_KEY.itemsize
        for index, raw in enumerate(layout.rows_of(generation.edge_keys)):
            if raw in mine:
                self._book_edge(mine[raw], generation.edge_values[index])
        for index, raw in enumerate(layout.rows_of(generation.latency_keys)):
            known = mine.get(raw[:size])
            if known is not None:
                key, value = generation.latency_keys[index], generation.latency_values[index]
                self._book_latency(known, key, value, operations)

    def _concerns(self, known: _Known) -> bool:
        ends = known.ends
        if self.target.has(ends.local):
            return True
        return known.key.role == layout.ROLE_CLIENT and self.target.has(ends.remote)

    def _book_edge(self, known: _Known, value: np.void) -> None:
        """Connections: of the target as a server by how they ended, of others that dial it by whether they succeeded."""
        ends, role = known.ends, known.key.role
        closed, failed = value["closed"], value["failed"]
        opened = int(value["opened"])
        if role == layout.ROLE_SERVER and self.target.has(ends.local):
            pod = self._pod(ends.local)
            badly = sum(int(closed[layout.CONSTANTS[name]]) for name in _CLOSED_BADLY)
            self._add_connections("opened", pod, opened, 0)
            self._add_connections("ended", pod, int(closed.sum()), badly)
            self._add_connections("sent", pod, int(value["tx_segments"]), int(value["retransmits"]))
        elif role == layout.ROLE_CLIENT and self.target.has(ends.remote):
            missed = int(failed.sum()) - int(failed[_GAVE_UP])
            self._add_connections("dialled", self._pod(ends.remote), opened + missed, missed)

    def _book_latency(self, known: _Known, key: np.void, value: np.void, operations: dict[int, str]) -> None:
        protocol = PROTOCOLS.get(int(key["protocol"]))
        if protocol is None or not self.target.has(known.ends.local):
            return
        counts = np.append(value["buckets"], value["untimed"]).astype(np.int64)
        detail = (int(key["method"]), int(key["status"]), int(key["operation"]))
        pod = self._pod(known.ends.local)
        self._add(_exchange(protocol, known.key, detail, pod, operations), counts)

    def _pod(self, identity: Identity) -> int:
        name = (identity.name, identity.version)
        if name not in self.pods:
            self.pods[name] = len(self.identities)
            self.identities.append(identity)
        return self.pods[name]

    def _add_connections(self, kind: str, pod: int, trials: int, events: int) -> None:
        self._add((kind, pod, "", "", False), np.array([trials, events], np.int64))

    def _add(self, row: Row, counts: np.ndarray) -> None:
        if not counts.any():
            return
        if row not in self.rows and len(self.rows) >= MOST_ROWS:
            row = (*row[:3], REST, row[4])
        _accumulate(self.rows, row, counts)

    def remember(self, latencies: Table, operations: dict[int, str]) -> None:
        """Takes the books' totals of the target for its history: by workload and version, where pods are not kept."""
        for index, key in enumerate(latencies.keys):
            protocol = PROTOCOLS.get(key.protocol)
            edge = key.edge
            if protocol is None or edge.role != layout.ROLE_SERVER or not self.target.has(edge.local):
                continue
            pod = self._pod(edge.local)
            row = _exchange(protocol, edge, (key.method, key.status, key.operation), pod, operations)
            value = latencies.values[index]
            _accumulate(self.history, row, np.append(value["buckets"], value["untimed"]).astype(np.int64))

    def document(self) -> dict[str, Any]:
        """JSON; counts are sparse, by index."""
        return {
            "id": self.id,
            "opened": self.at,
            "pods": [described(identity) for identity in self.identities],
            "rows": [_sparse(row, counts) for row, counts in self.rows.items()],
            "history": [_sparse(row, counts) for row, counts in self.history.items()],
        }


def described(identity: Identity) -> dict[str, Any]:
    """A pod as JSON."""
    return {
        "name": identity.name,
        "workload": identity.workload,
        "version": identity.version,
        "node": identity.node,
        "labels": dict(identity.labels or identity.metric_labels),
    }


def _accumulate(totals: dict[Row, np.ndarray], row: Row, counts: np.ndarray) -> None:
    known = totals.get(row)
    totals[row] = counts if known is None else known + counts


def _exchange(
    protocol: Protocol, edge: EdgeKey, detail: tuple[int, int, int], pod: int, operations: dict[int, str]
) -> Row:
    """The row of an exchange. `detail`: method, status, operation."""
    method, status, operation = detail
    client = edge.role == layout.ROLE_CLIENT
    name = "" if operation == RETIRED else operation_name(operations, operation)
    stratum = " ".join(part for part in (edge.remote.display, protocol.method(method), name) if part)
    failed = bool(protocol.error_type(status, client=client))
    return ("asked" if client else "served", pod, family(protocol), stratum, failed)


def _sparse(row: Row, counts: np.ndarray) -> dict[str, Any]:
    kind, pod, family_, stratum, failed = row
    return {
        "kind": kind,
        "pod": pod,
        "family": family_,
        "stratum": stratum,
        "failed": failed,
        "counts": {str(index): int(counts[index]) for index in np.flatnonzero(counts)},
    }


class Closeups:
    """Those that are open. Called with the agent's lock."""

    def __init__(self) -> None:
        self._open: dict[Target, Closeup] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, target: Target, at: float) -> tuple[Closeup, bool]:
        """(the target's, whether it has just been opened). Raises ValueError when too many are open."""
        self.close_forgotten(at)
        found = self._open.get(target)
        if found is not None:
            found.asked_at = at
            return found, False
        if len(self._open) >= MOST_OPEN:
            raise ValueError(f"{MOST_OPEN} workloads are looked at from close up already")
        found = self._open[target] = Closeup(target, at, at)
        return found, True

    def close_forgotten(self, at: float) -> None:
        for target, closeup in list(self._open.items()):
            if at - closeup.asked_at > FORGOTTEN_AFTER_S:
                del self._open[target]

    def book(self, generation: Generation, asked: dict[bytes, _Known], operations: dict[int, str], at: float) -> None:
        if not self._open:
            return
        self.close_forgotten(at)
        for closeup in self._open.values():
            closeup.book(generation, asked, operations)
