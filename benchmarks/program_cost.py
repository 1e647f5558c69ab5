"""What the kernel programs cost: ns a run and ns a request, by hook, from kernel.bpf_stats_enabled. Both ends are observed."""

from __future__ import annotations

from typing import Any

from benchmarks.load import SHORT, bench, bpf_stats, costs_between


def run(seconds: float = 3.0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with bench() as place, place.observed() as source, bpf_stats():
        for name, more, path in (
            ("keep-alive", (), "/static"),
            ("one connection a request", SHORT, "/static"),
            ("1 MB responses", (), "/files/large"),
        ):
            before = source.costs()
            _, requests = place.wrk(seconds, *more, path=path)
            between = costs_between(before, source.costs())
            total = sum(ns for ns, _ in between.values())
            runs = sum(n for _, n in between.values())
            found[name] = {
                "requests": requests,
                "ns_a_run": round(total / max(1, runs)),
                "ns_a_request_and_endpoint": round(total / max(1, requests) / 2),
                "runs_a_request_and_endpoint": round(runs / max(1, requests) / 2, 2),
                "by_hook": {hook: {"ns_a_run": round(ns / n), "runs": n} for hook, (ns, n) in between.items() if n},
            }
    return found
