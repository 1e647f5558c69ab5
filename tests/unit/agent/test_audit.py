"""A law that cannot break is none: every counter of either side, moved by one, breaks one."""

from __future__ import annotations

import numpy as np
import pytest

from sidelight.agent import layout
from sidelight.agent.audit import holds_between, laws
from sidelight.agent.protocols import DNS, GRPC, HTTP1, HTTP2

SEEN = {
    "seen_attempts": 12, "seen_opened": 9, "seen_adopted": 2, "seen_failed": 3, "seen_closed": 8,
    "seen_requests": 41, "seen_responses": 36, "seen_unanswered": 4, "seen_dns_responses": 6,
    "seen_events": 100, "sent_events": 60, "lost_event_ring_full": 10, "lost_event_suppressed": 20,
    "lost_event_sampled_out": 7, "lost_event_shed": 3,
    "http2_named": 2, "http2_unnamed_before": 1, "http2_unnamed_sync": 1, "http2_unnamed_long": 1,
    "grpc_named": 3, "grpc_unnamed_before": 1, "grpc_unnamed_sync": 1, "grpc_unnamed_long": 1,
    "seen_operations": 10, "operation_named": 5, "operation_folded": 2, "operation_too_long": 1, "operation_none": 1, "lost_operation_storage": 1,
}  # fmt: skip
H = HTTP1.number
LATENCIES = [(H, 200, 0, 15), (H, 200, 77, 5), (H, 503, 0, 5), (H, 0, 0, 4), (DNS, 0, 0, 5), (DNS, 3, 0, 1)]
LATENCIES += [(HTTP2.number, 200, 0, 5), (GRPC.number, 1, 0, 4), (GRPC.number, 15, 0, 2)]


def kernel(**changed: int) -> dict[str, int]:
    return {counter.name: 0 for counter in layout.counters()} | SEEN | changed


def edges() -> np.ndarray:
    """Two edges that share what was seen."""
    found = np.zeros(2, layout.EDGE_VALUE)
    for name, parts in (("attempts", (10, 2)), ("opened", (9, 0)), ("adopted", (0, 2))):
        found[name] = parts
    found["failed"][:, 1] = (1, 2)
    found["closed"][:, 3] = (8, 0)
    return found


def broken(found: list[dict[str, object]]) -> list[object]:
    return [law["law"] for law in found if not law["holds"]]


def test_balanced_books_hold() -> None:
    assert broken(laws(kernel(), edges(), LATENCIES)) == []


@pytest.mark.parametrize("counter", [name for name in SEEN if name != "seen_requests"])
def test_one_more_seen_than_booked_breaks_a_law(counter: str) -> None:
    assert broken(laws(kernel(**{counter: SEEN[counter] + 1}), edges(), LATENCIES))


@pytest.mark.parametrize("field", ["attempts", "opened", "adopted", "failed", "closed"])
def test_one_more_booked_than_seen_breaks_a_law(field: str) -> None:
    values = edges()
    values[field][1] += 1 if values[field].ndim == 1 else np.eye(values[field].shape[1], dtype=np.uint64)[0]
    assert broken(laws(kernel(), values, LATENCIES))


@pytest.mark.parametrize("row", range(len(LATENCIES)))
def test_one_latency_too_many_breaks_a_law(row: int) -> None:
    more = [(*key, count + (index == row)) for index, (*key, count) in enumerate(LATENCIES)]
    assert broken(laws(kernel(), edges(), more))


def test_answers_without_requests_break_the_last_law() -> None:
    assert broken(laws(kernel(seen_requests=39), edges(), LATENCIES)) == ["requests in flight, not negative"]


def test_counters_read_while_they_grow() -> None:
    """Two readings of a law: it is broken only if it held at no moment between them."""

    def reading(seen: int, accounted: int) -> dict[str, object]:
        return {"law": "", "seen": seen, "accounted": accounted, "slack": 0, "holds": seen == accounted}

    assert holds_between(reading(10, 11), reading(12, 13))
    assert holds_between(reading(10, 9), reading(12, 11))
    assert not holds_between(reading(10, 11), reading(10, 11))
    assert not holds_between(reading(10, 7), reading(12, 9))
    assert not holds_between(reading(10, 13), reading(12, 14))
