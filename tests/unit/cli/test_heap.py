"""When free pages are given back; that they are is the C library's affair."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from sidelight.cli.heap import EVERY_S, Heap


def test_it_tidies_after_a_listing_and_every_minute(monkeypatch: Any) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heap = Heap()
    trims: list[float] = []
    heap._libc = SimpleNamespace(malloc_trim=lambda _: trims.append(now[0]))  # type: ignore[assignment]
    for second, listings in ((1, 0), (2, 3), (3, 3), (4, 4), (EVERY_S, 4), (EVERY_S + 4, 4)):
        now[0] = 1000.0 + second
        heap.tidy(listings)
    assert trims == [1002.0, 1004.0, 1000.0 + EVERY_S + 4]


def test_another_c_library_is_no_reason_to_fail() -> None:
    heap = Heap()
    heap._libc = SimpleNamespace()  # type: ignore[assignment]
    heap.tidy(1)
    heap._libc = None
    heap.tidy(2)
