"""Walks every stage's counters and compares: what was seen must be what was booked, plus counted losses, plus what is in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sidelight.agent.protocols import COVERAGE, DNS, PROTOCOLS

if TYPE_CHECKING:
    from sidelight.agent.core import Agent


def laws(kernel: dict[str, int], edges: np.ndarray, latencies: list[tuple[int, int, int, int]]) -> list[dict[str, Any]]:
    """Each law with both sides. `latencies`: (protocol, status, operation, count) rows; all figures since the maps were made."""

    def exchanges(*, answered: bool) -> int:
        return sum(count for kind, status, _, count in latencies if kind in PROTOCOLS and (status != 0) == answered)

    edge = {name: int(edges[name].sum()) for name in edges.dtype.names or ()}
    return [
        _law("attempts", kernel["seen_attempts"], edge["attempts"]),
        _law("connections opened", kernel["seen_opened"], edge["opened"]),
        _law("connections adopted", kernel["seen_adopted"], edge["adopted"]),
        _law("attempts failed", kernel["seen_failed"], edge["failed"]),
        _law("connections closed", kernel["seen_closed"], edge["closed"]),
        _law("requests answered", kernel["seen_responses"], exchanges(answered=True)),
        _law("requests unanswered", kernel["seen_unanswered"], exchanges(answered=False)),
        _law(
            "dns responses", kernel["seen_dns_responses"], sum(count for kind, _, _, count in latencies if kind == DNS)
        ),
        *(
            _law(
                f"{protocol.title} exchanges, named or not",
                sum(count for kind, _, _, count in latencies if kind == protocol.number),
                sum(kernel[f"{protocol.counters}_{how}"] for how in COVERAGE),
            )
            for protocol in PROTOCOLS.values()
            if protocol.counters
        ),
        _law(
            "events wanted",
            kernel["seen_events"],
            kernel["sent_events"]
            + kernel["lost_event_ring_full"]
            + kernel["lost_event_suppressed"]
            + kernel["lost_event_sampled_out"]
            + kernel["lost_event_shed"],
            slack=kernel["lost_payload_read"],
        ),
        _law(
            "operations looked for",
            kernel["seen_operations"],
            kernel["operation_named"]
            + kernel["operation_folded"]
            + kernel["operation_too_long"]
            + kernel["operation_none"]
            + kernel["lost_operation_storage"],
        ),
        _law(
            "operations booked, no more than named",
            max(0, sum(count for _, _, operation, count in latencies if operation) - kernel["operation_named"]),
            0,
        ),
        _law(
            "requests in flight, not negative",
            max(
                0,
                kernel["seen_responses"]
                + kernel["seen_unanswered"]
                + kernel["lost_exchanges"]
                - kernel["seen_requests"],
            ),
            0,
        ),
    ]


def _law(name: str, seen: int, accounted: int, slack: int = 0) -> dict[str, Any]:
    return {"law": name, "seen": seen, "accounted": accounted, "slack": slack, "holds": 0 <= seen - accounted <= slack}


def holds_between(first: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether a law can have held at one moment between two readings: both sides only grow, and under traffic neither the
    counters nor the books are read in one moment. With nothing going on both readings are one, and the law is exact."""
    if first["holds"] or last["holds"]:
        return True
    return bool(first["accounted"] <= last["seen"] and first["seen"] - last["slack"] <= last["accounted"])


def audit(agent: Agent) -> dict[str, Any]:
    """The laws now. The agent drains first, so that nothing is between the stages but what the programs did meanwhile."""
    before = agent.source.counters()
    agent.drain_now()
    snapshot = agent.snapshot()
    rows = [
        (
            key.protocol,
            key.status,
            key.operation,
            int(snapshot.latencies.values["buckets"][i].sum()) + int(snapshot.latencies.values["untimed"][i]),
        )
        for i, key in enumerate(snapshot.latencies.keys)
    ]
    early = laws(before, snapshot.edges.values, rows)
    late = laws(snapshot.kernel, snapshot.edges.values, rows)
    kept = snapshot.flows_seen + snapshot.flows_held + snapshot.malformed_events
    for found_laws in (early, late):
        found_laws.append(_law("events read", snapshot.events_read, kept))
    found = [{**last, "holds": holds_between(first, last)} for first, last in zip(early, late, strict=True)]
    return {"at": snapshot.at, "holds": all(law["holds"] for law in found), "laws": found}
