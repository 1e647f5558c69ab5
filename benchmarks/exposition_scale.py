"""What a scrape of many edges costs: rendering time and size, beside prometheus_client's on the same samples."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector as ClientCollector
from prometheus_client.registry import CollectorRegistry

from sidelight.agent import layout
from sidelight.exporter.catalog import CLASSIC_BUCKETS
from sidelight.exporter.exposition import render
from sidelight.exporter.families import Collector, Family, FamilyOptions


def run(edges: tuple[int, ...] = (100, 1000, 10_000), rounds: int = 3) -> dict[str, Any]:
    """Medians of `rounds`."""
    from tests.unit.exporter.test_exposition import snapshot

    found = {}
    for count in edges:
        taken = snapshot(count)
        scrapes = []
        for _ in range(rounds):
            start = time.perf_counter()
            families = Collector(taken, FamilyOptions(max_edges=0)).collect()
            collected = time.perf_counter()
            text = render(families)
            rendered = time.perf_counter()
            scrapes.append((rendered - start, collected - start, rendered - collected))
        whole, collecting, rendering = sorted(scrapes)[rounds // 2]
        found[f"{count} edges"] = {
            "collect_s": round(collecting, 3),
            "render_s": round(rendering, 3),
            "scrape_s": round(whole, 3),
            "prometheus_client_s": round(_client(families), 3),
            "mb": round(len(text) / 1e6, 2),
        }
    return found


def _client(families: list[Family]) -> float:
    class Same(ClientCollector):
        def collect(self) -> Any:
            for family in families:
                names = sorted({name for labels in family.labels for name, _ in labels})
                if family.metric.type == "histogram":
                    histogram = HistogramMetricFamily(family.metric.name, family.metric.help, labels=names)
                    for labels, row, total in zip(family.labels, family.buckets, family.sums, strict=True):
                        cumulative = row.cumsum()
                        buckets = [(repr(layout.BUCKET_BOUNDS_S[i]), float(cumulative[i])) for i in CLASSIC_BUCKETS]
                        values = dict(labels)
                        histogram.add_metric(
                            [values.get(n, "") for n in names], [*buckets, ("+Inf", float(cumulative[-1]))], total
                        )
                    yield histogram
                else:
                    counter = CounterMetricFamily(
                        family.metric.name.removesuffix("_total"), family.metric.help, labels=names
                    )
                    for labels, value in zip(family.labels, family.values, strict=True):
                        values = dict(labels)
                        counter.add_metric([values.get(n, "") for n in names], value)
                    yield counter

    registry = CollectorRegistry()
    registry.register(Same())
    start = time.perf_counter()
    generate_latest(registry)
    return time.perf_counter() - start
