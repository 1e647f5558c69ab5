"""Flows: events with names, kept in a ring of fixed bytes that any number of readers follow.

A reader is a position. A slow one slows nobody: when the ring has moved past it, it is told how many flows it missed. The ring
holds batches, columns of numpy and a few shared objects, never one object a flow.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from sidelight.agent import layout
from sidelight.agent.decode import NO_TEXT, RequestText
from sidelight.agent.operations import operation_name
from sidelight.identity.model import EdgeNames

DEFAULT_RING_BYTES = 64 << 20
TYPICAL_FLOW_BYTES, ENOUGH_FLOWS = 300.0, 1000


@dataclass(frozen=True, slots=True)
class DnsText:
    """A DNS exchange: the question and the answer's addresses and names."""

    query: str
    type: str
    rcode: int
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow, unpacked for a reader. `event` is a record of layout.EVENT; times are ns since the epoch."""

    number: int
    time_ns: int
    event: np.void
    names: EdgeNames
    text: RequestText
    dns: DnsText | None
    operation: str = ""


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """Flows in order of time. `names` holds each pair of ends once; `name_of` points into it."""

    events: np.ndarray
    times_ns: np.ndarray
    name_of: np.ndarray
    names: tuple[EdgeNames, ...]
    texts: dict[int, RequestText]
    dns: dict[int, DnsText]
    bytes: int
    operations: dict[int, str] = field(default_factory=dict)
    """The agent's names of operations, shared."""

    def __len__(self) -> int:
        return len(self.events)

    def flow(self, index: int, number: int) -> Flow:
        return Flow(
            number,
            int(self.times_ns[index]),
            self.events[index],
            self.names[self.name_of[index]],
            self.texts.get(index, NO_TEXT),
            self.dns.get(index),
            operation_name(self.operations, int(self.events[index]["operation"])),
        )


def select(batch: FlowBatch, chosen: np.ndarray) -> FlowBatch:
    """The flows of a batch where the mask says so."""
    places = {int(old): new for new, old in enumerate(np.flatnonzero(chosen))}
    events = batch.events[chosen]
    texts = {places[index]: text for index, text in batch.texts.items() if index in places}
    dns = {places[index]: exchange for index, exchange in batch.dns.items() if index in places}
    size = batch_bytes(events, texts, len(batch.names))
    return FlowBatch(
        events, batch.times_ns[chosen], batch.name_of[chosen], batch.names, texts, dns, size, batch.operations
    )


def batch_bytes(events: np.ndarray, texts: dict[int, RequestText], names: int) -> int:
    """What a batch costs in memory, estimated upwards: columns, strings with their objects, names."""
    strings = sum(len(text.path) + len(text.host) + len(text.traceparent) for text in texts.values())
    return int(events.nbytes) + 12 * len(events) + 240 * len(texts) + strings + 200 * names + 512


class FlowRing:
    """Thread-safe. Appended by the pipeline, followed by the API's threads and the span exporter."""

    def __init__(self, limit_bytes: int = DEFAULT_RING_BYTES) -> None:
        self._limit = limit_bytes
        self._batches: deque[tuple[int, FlowBatch]] = deque()
        self._bytes = 0
        self._next = 0
        self._arrived = threading.Condition()
        self.closed = False

    def append(self, batch: FlowBatch) -> None:
        """Adds a batch and drops the oldest ones beyond the limit."""
        if not len(batch):
            return
        with self._arrived:
            self._batches.append((self._next, batch))
            self._next += len(batch)
            self._bytes += batch.bytes
            while self._bytes > self._limit and len(self._batches) > 1:
                self._bytes -= self._batches.popleft()[1].bytes
            self._arrived.notify_all()

    def close(self) -> None:
        with self._arrived:
            self.closed = True
            self._arrived.notify_all()

    @property
    def seen(self) -> int:
        """Flows ever appended: also the number of the next one."""
        return self._next

    @property
    def oldest(self) -> int:
        with self._arrived:
            return self._batches[0][0] if self._batches else self._next

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def capacity(self) -> int:
        """Flows the ring holds when full: judged by what is in it, once that is enough to judge by."""
        with self._arrived:
            held = self._next - (self._batches[0][0] if self._batches else self._next)
            each = self._bytes / held if held >= ENOUGH_FLOWS else TYPICAL_FLOW_BYTES
        return max(held, int(self._limit / each))

    def read(self, position: int, timeout_s: float = 0.0) -> tuple[list[tuple[int, FlowBatch]], int, int]:
        """(batches from `position` on with the number of their first flow, next position, flows missed).

        A batch may begin before `position`: skip its first flows. Waits up to `timeout_s` when there is nothing new.
        """
        with self._arrived:
            if position >= self._next and timeout_s > 0 and not self.closed:
                self._arrived.wait(timeout_s)
            oldest = self._batches[0][0] if self._batches else self._next
            missed = max(0, oldest - position)
            found = []
            for first, batch in reversed(self._batches):
                if first + len(batch) <= position:
                    break
                found.append((first, batch))
            return found[::-1], self._next, missed


def role_is_client(event: np.void) -> bool:
    return int(event["key"]["role"]) == layout.ROLE_CLIENT
