"""Walks every stage's counters and compares: what was seen must be what was booked, plus counted losses, plus what is in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sidelight.agent import layout

if TYPE_CHECKING:
    from sidelight.agent.core import Agent


def laws(kernel: dict[str, int], edges: np.ndarray, latencies: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Each law with both sides. `latencies`: (protocol, status, count) rows; all figures since the maps were made."""

    def total(protocol: int, *, answered: bool | None = None) -> int:
        return sum(
            count
            for kind, status, count in latencies
            if kind == protocol and (answered is None or (status != 0) == answered)
        )

    edge = {name: int(edges[name].sum()) for name in edges.dtype.names or ()}
    return [
        _law("attempts", kernel["seen_attempts"], edge["attempts"]),
        _law("connections opened", kernel["seen_opened"], edge["opened"]),
        _law("connections adopted", kernel["seen_adopted"], edge["adopted"]),
        _law("attempts failed", kernel["seen_failed"], edge["failed"]),
        _law("connections closed", kernel["seen_closed"], edge["closed"]),
        _law("requests answered", kernel["seen_responses"], total(layout.HTTP1, answered=True)),
        _law("requests unanswered", kernel["seen_unanswered"], total(layout.HTTP1, answered=False)),
        _law("dns responses", kernel["seen_dns_responses"], total(layout.DNS)),
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
            "requests in flight, not negative",
            max(
                0,
                kernel["seen_responses"]
                + kernel["seen_unanswered"]
                + kernel["lost_http_sync_requests"]
                - kernel["seen_requests"],
            ),
            0,
        ),
    ]


def _law(name: str, seen: int, accounted: int, slack: int = 0) -> dict[str, Any]:
    return {"law": name, "seen": seen, "accounted": accounted, "holds": 0 <= seen - accounted <= slack}


def audit(agent: Agent) -> dict[str, Any]:
    """The laws now. The agent drains first, so that nothing is between the stages but what the programs did meanwhile."""
    before = agent.source.counters()
    agent.drain_now()
    snapshot = agent.snapshot()
    rows = [
        (
            key.protocol,
            key.status,
            int(snapshot.latencies.values["buckets"][i].sum()) + int(snapshot.latencies.values["untimed"][i]),
        )
        for i, key in enumerate(snapshot.latencies.keys)
    ]
    early = laws(before, snapshot.edges.values, rows)
    late = laws(snapshot.kernel, snapshot.edges.values, rows)
    kept = snapshot.flows_seen + snapshot.flows_held + snapshot.malformed_events
    for found_laws in (early, late):
        found_laws.append(_law("events read", snapshot.events_read, kept))
    found = []
    for first, last in zip(early, late, strict=True):
        # under traffic the books lie between the counters read before and after
        between = first["seen"] <= first["accounted"] <= last["seen"] and not first["law"].startswith("events")
        found.append({**last, "holds": bool(last["holds"] or first["holds"] or between)})
    return {"at": snapshot.at, "holds": all(law["holds"] for law in found), "laws": found}
