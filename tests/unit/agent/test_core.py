"""The order of a drain, and its pace."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.core import AFTER_SILENCE, READ_AT_FILL, Agent, next_pause


def test_events_are_read_between_the_maps_and_the_books(monkeypatch: Any) -> None:
    """A DNS answer that came before a connection was counted names it in the books, however long the pipeline was away."""
    steps: list[str] = []

    def step(name: str) -> Any:
        return lambda *_: steps.append(name)

    agent = Agent.__new__(Agent)
    agent.source = SimpleNamespace(check_attached=step("attached"), drain=step("maps"), clear=step("clear"))  # type: ignore[assignment]
    agent.books = SimpleNamespace(book=step("books"))  # type: ignore[assignment]
    agent.resolver = agent.ready = SimpleNamespace(set=step("ready"))  # type: ignore[assignment]
    agent._lock = threading.Lock()
    agent._drains = agent._drains_begun = 0
    agent.failed = ""
    monkeypatch.setattr(Agent, "poll_events", step("events"))
    monkeypatch.setattr(Agent, "_make_room", step("room"))
    agent.drain()
    assert steps == ["attached", "maps", "events", "books", "clear", "room", "ready"]


def test_what_waits_for_a_name_is_published_behind_the_last_events(monkeypatch: Any) -> None:
    steps: list[str] = []
    agent = Agent.__new__(Agent)
    agent._stop = threading.Event()
    agent._stop.set()
    agent.settings = SimpleNamespace(poll_s=0.2)  # type: ignore[assignment]
    for name in ("poll_events", "drain", "_release_held"):
        monkeypatch.setattr(Agent, name, lambda *_, name=name, **__: steps.append(name))
    agent._run()
    assert steps[-1] == "_release_held" and "drain" in steps


@given(st.floats(1e-3, 1e3))
def test_the_ring_is_read_at_a_quarter_whatever_the_rate(rings_a_second: float) -> None:
    """As far as the longest pause, and the shortest, allow."""
    pause = 0.2
    for _ in range(10):
        pause = next_pause(pause, pause * rings_a_second, 0.2)
    assert pause in (0.2, 0.01) or abs(pause * rings_a_second - READ_AT_FILL) < 1e-6
    assert (pause == 0.2) == (0.2 * rings_a_second <= READ_AT_FILL + 1e-9)
    assert next_pause(pause, 0.0, 0.2) == 0.2 * AFTER_SILENCE
