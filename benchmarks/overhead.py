"""Throughput observed over not observed: alternating runs, the median of the pairs' ratios and its bootstrap interval."""

from __future__ import annotations

from typing import Any

from benchmarks.load import SHORT, bench, interval


def run(pairs: int = 12, seconds: float = 1.0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with bench() as place:
        place.wrk(seconds)
        for name, more in (("keep-alive", ()), ("one connection a request", SHORT)):
            ratios = []
            for pair in range(pairs):
                rates = {}
                for watched in (True, False) if pair % 2 else (False, True):
                    if watched:
                        with place.observed():
                            rates[True] = place.wrk(seconds, *more)[0]
                    else:
                        rates[False] = place.wrk(seconds, *more)[0]
                ratios.append(rates[True] / rates[False])
            median, low, high = interval(ratios)
            found[name] = {"ratio": round(median, 3), "low": round(low, 3), "high": round(high, 3), "pairs": pairs}
    return found
