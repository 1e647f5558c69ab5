"""Figures as people read them."""

from __future__ import annotations

from sidelight.analysis.wording import bytes_text, duration_text


def test_durations_as_people_write_them() -> None:
    assert [duration_text(s) for s in (1.05, 0.25, 0.00093)] == ["1.05 s", "250 ms", "930 µs"]


def test_bytes() -> None:
    assert [bytes_text(n) for n in (0, 999, 1500, 2_000_000)] == ["0 B", "999 B", "1.5 kB", "2 MB"]
