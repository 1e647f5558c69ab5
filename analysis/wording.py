"""Figures and verdicts in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidelight.analysis.verdict import MetricVerdict


def duration_text(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns" if seconds else "0 ms"


def bytes_text(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return ""


def round_number(number: float) -> str:
    """Two digits are enough: 2,300."""
    if number < 100:
        return f"{number:.0f}"
    digits = math.floor(math.log10(number)) - 1
    return f"{round(number / 10**digits) * 10**digits:,}"


def span(seconds: float) -> str:
    """14 minutes, 3 hours."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"


def describe(metric: MetricVerdict) -> str:
    """1.20 % failed, where the baseline has 0.11 % and 0.24 % would be tolerated."""
    tolerated = f"the baseline has {percent(metric.share_baseline)} and {percent(metric.limit)} would be tolerated"
    return f"{percent(metric.share_canary)} of {metric.says}, where {tolerated}"


def percent(share: float) -> str:
    """Three digits, so that 0.0012 is not 0.0 %."""
    value = share * 100
    if value == 0:
        return "0 %"
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 100 else 0
    return f"{value:.{min(decimals, 4)}f} %"
