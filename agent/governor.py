"""Keeps the observer within its budget: sheds detail in a fixed order, and takes it back with hysteresis.

Order: events, then the copying of heads, then L7. The counters of connections are never shed.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from sidelight.agent.settings import CaptureSettings

SHED_AFTER = 3
"""Judgements in a row over the budget before a step down."""
RESTORE_AFTER = 30
RESTORE_BELOW = 0.7
"""Share of the budget that counts as well within it."""


class Level(IntEnum):
    """What is shed; each level includes those before it."""

    NOTHING_SHED = 0
    EVENTS_SHED = 1
    HEADS_SHED = 2
    L7_SHED = 3

    def apply(self, capture: CaptureSettings) -> CaptureSettings:
        return replace(
            capture,
            events=capture.events and self < Level.EVENTS_SHED,
            head_text=capture.head_text and self < Level.HEADS_SHED,
            query_text=capture.query_text and self < Level.HEADS_SHED,
            l7=capture.l7 and self < Level.L7_SHED,
        )


class Governor:
    """Pure but for its own memory: time and measurements are passed in. A budget of 0 means none."""

    def __init__(self, cpu_budget: float = 0.0, memory_budget: int = 0) -> None:
        """`cpu_budget`: cores; `memory_budget`: bytes of RSS."""
        self.cpu_budget = cpu_budget
        self.memory_budget = memory_budget
        self.level = Level.NOTHING_SHED
        self.load = 0.0
        """Use over budget, the worse of CPU and memory, at the last judgement."""
        self._last: tuple[float, float] | None = None
        self._over = self._under = 0

    def judge(self, now_s: float, cpu_s: float, rss_bytes: int) -> Level | None:
        """The new level if it changed. `cpu_s`: CPU time used so far, the kernel programs' included."""
        last, self._last = self._last, (now_s, cpu_s)
        if last is None or now_s <= last[0]:
            return None
        shares = [0.0]
        if self.cpu_budget:
            shares.append((cpu_s - last[1]) / (now_s - last[0]) / self.cpu_budget)
        if self.memory_budget:
            shares.append(rss_bytes / self.memory_budget)
        self.load = max(shares)
        self._over = self._over + 1 if self.load > 1.0 else 0
        self._under = self._under + 1 if self.load < RESTORE_BELOW else 0
        if self._over >= SHED_AFTER and self.level < Level.L7_SHED:
            self._over = 0
            self.level = Level(self.level + 1)
            return self.level
        if self._under >= RESTORE_AFTER and self.level > Level.NOTHING_SHED:
            self._under = 0
            self.level = Level(self.level - 1)
            return self.level
        return None
