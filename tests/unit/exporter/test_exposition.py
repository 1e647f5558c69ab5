"""The exposition read back by the official parser; budgets and totals."""

from __future__ import annotations

import time

import numpy as np
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from sidelight.agent import layout
from sidelight.agent.books import EDGE_TOTALS, LATENCY_TOTALS, EdgeKey, LatencyKey, Table
from sidelight.agent.core import Snapshot
from sidelight.agent.loader import LoadReport
from sidelight.exporter.exposition import Exemplar, render
from sidelight.exporter.families import Collector, FamilyOptions
from sidelight.exporter.otlp import exponential
from sidelight.identity.model import Identity, Kind


def snapshot(edges: int) -> Snapshot:
    now = time.time()
    table, latencies = Table(EDGE_TOTALS), Table(LATENCY_TOTALS)
    for index in range(edges):
        name = f'w"{index}\\\n'
        key = EdgeKey(
            2,
            Identity(Kind.POD, "web", workload="web", namespace="shop"),
            Identity(Kind.POD, name, workload=name),
            None,
            80,
        )
        row = table.row(key, now)
        table.values[row]["opened"] = index + 1
        table.changed_at[row] = now
        row = latencies.row(LatencyKey(key, 1, 1, 200), now)
        latencies.values[row]["buckets"][40 + index % 20] = index + 1
        latencies.values[row]["sum_ns"] = 1000
        latencies.changed_at[row] = now
    table.values, latencies.values = table.values[: len(table)], latencies.values[: len(latencies)]
    return Snapshot(
        now, now, 0, table, latencies, {c.name: 0 for c in layout.counters()}, [], 0, 0, 0, 0, {}, {}, 0, 0, 0, 0, {}, 0, 0, 0,
        LoadReport("fresh", False),
    )  # fmt: skip


def total(text: str, name: str) -> float:
    return sum(s.value for family in parse(text) for s in family.samples if s.name == name)


def test_both_formats_parse_and_agree() -> None:
    families = Collector(
        snapshot(20), FamilyOptions(groups=frozenset({"http", "tcp", "self", "istio", "servicegraph", "hubble"}))
    ).collect()
    text = render(families).decode()
    assert total(text, "http_server_request_duration_seconds_count") == sum(range(21))
    assert total(text, "sidelight_tcp_connections_opened_total") == sum(range(21))
    first = families[0]
    exemplars = {(first.metric.name, first.labels[0]): [Exemplar("ab" * 16, 0.001, time.time())]}
    openmetrics = render(families, True, exemplars).decode()
    assert len(list(parse_openmetrics(openmetrics))) > 10


def test_a_budget_folds_the_smallest_and_keeps_totals() -> None:
    families = Collector(snapshot(50), FamilyOptions(groups=frozenset({"http", "tcp", "self"}), max_edges=10)).collect()
    text = render(families).decode()
    assert total(text, "sidelight_tcp_connections_opened_total") == sum(range(51))
    assert total(text, "http_server_request_duration_seconds_count") == sum(range(51))
    assert total(text, "sidelight_series_folded") == 40
    assert text.count("sidelight_tcp_connections_opened_total{") == 11


def test_exponential_buckets_are_opentelemetrys() -> None:
    buckets = np.zeros(layout.LATENCY_BUCKETS, np.uint64)
    buckets[81] = 3  # (1 s, 2^(1/4) s]: OpenTelemetry's bucket 0 of scale 2
    point = exponential(buckets, 3.3, 3)
    assert point["positive"].offset == 0 and list(point["positive"].bucket_counts) == [3] and point["scale"] == 2
