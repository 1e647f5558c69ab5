"""Prometheus text and OpenMetrics from families.

prometheus_client renders a sample in about 8 us; ten thousand edges are half a million lines. So the lines of edges are made here
(docs/decisions/0004-own-exposition.md), and the tests read them back with prometheus_client's parser and promtool. The agent's own
families, which do not grow, and what a scraper asks for are the library's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from sidelight.agent import layout
from sidelight.exporter.catalog import CLASSIC_BUCKETS
from sidelight.exporter.families import Family, Labels

OWN = "self"
"""The group of the agent's own families (exporter/catalog.py)."""
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_BOUNDS = np.array(CLASSIC_BUCKETS)
_LE_SECONDS = [repr(layout.BUCKET_BOUNDS_S[i]) for i in CLASSIC_BUCKETS] + ["+Inf"]
_LE_MILLISECONDS = [repr(layout.BUCKET_BOUNDS_S[i] * 1000) for i in CLASSIC_BUCKETS] + ["+Inf"]


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A request that stands for a bucket: OpenMetrics shows its trace beside the count."""

    trace_id: str
    value: float
    at: float


Exemplars = dict[tuple[str, Labels], list[Exemplar]]


def label_text(labels: Iterable[tuple[str, str]]) -> str:
    """name="value",... with values escaped as the exposition format asks."""
    return ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels])


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def negotiated(accept: str) -> tuple[bool, str]:
    """(whether OpenMetrics is asked for, the answer's Content-Type) for an Accept header."""
    _, kind = choose_encoder(accept)
    return kind.startswith("application/openmetrics-text"), kind


def render(families: list[Family], openmetrics: bool = False, exemplars: Exemplars | None = None) -> bytes:
    """The whole exposition."""
    lines: list[str] = []
    for family in families:
        if family.metric.group != OWN:
            lines.extend(_family(family, openmetrics, exemplars or {}))
    lines.append("")
    own = CollectorRegistry()
    own.register(_Own([family for family in families if family.metric.group == OWN], openmetrics))
    encode = generate_openmetrics if openmetrics else generate_latest
    return "\n".join(lines).encode() + encode(own)  # OpenMetrics' end is in it


class _Own(Collector):
    """The agent's own families for the library's registry."""

    def __init__(self, families: list[Family], openmetrics: bool) -> None:
        self._families, self._openmetrics = families, openmetrics

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = family.metric
            names = [name for name, _ in family.labels[0]] if family.labels else []
            counter = CounterMetricFamily(metric.name, metric.help, labels=names)
            gauge = GaugeMetricFamily(metric.name, metric.help, labels=names)
            for labels, value, created in zip(family.labels, family.values, family.created, strict=True):
                texts = [text for _, text in labels]
                if metric.type == "counter":
                    # the text format has no place for the time of creation: the library would make a family of it
                    counter.add_metric(texts, value, created=created if self._openmetrics and created else None)
                else:
                    gauge.add_metric(texts, value)
            yield counter if metric.type == "counter" else gauge


def _family(family: Family, openmetrics: bool, exemplars: Exemplars) -> Iterator[str]:
    metric = family.metric
    name = metric.name
    head = name.removesuffix("_total") if openmetrics and metric.type == "counter" else name
    yield f"# HELP {head} {metric.help}"
    yield f"# TYPE {head} {metric.type}"
    if metric.type == "histogram":
        yield from _histogram(family, openmetrics, exemplars)
        return
    for labels, value, created in zip(family.labels, family.values, family.created, strict=True):
        text = f"{{{label_text(labels)}}}" if labels else ""
        yield f"{name}{text} {number(value)}"
        if openmetrics and metric.type == "counter" and created:
            yield f"{head}_created{text} {created:.3f}"


def _histogram(family: Family, openmetrics: bool, exemplars: Exemplars) -> Iterator[str]:
    name = family.metric.name
    if not family.buckets:
        return
    bounds = _LE_MILLISECONDS if family.metric.unit == "ms" else _LE_SECONDS
    sizes = family.metric.unit == "By"
    cumulative = np.cumsum(np.asarray(family.buckets), axis=1, dtype=np.uint64)
    # requests without a known start are in the count but in no bucket: they go where nothing is claimed, to +Inf
    classic = cumulative[:, _BOUNDS].tolist()
    for labels, counts, total, count, created in zip(
        family.labels, classic, family.sums, family.counts, family.created, strict=True
    ):
        text = label_text(labels)
        comma = "," if text else ""
        if sizes:
            yield f'{name}_bucket{{{text}{comma}le="+Inf"}} {count}'
        else:
            shown = exemplars.get((name, labels)) if openmetrics else None
            counts.append(count)
            if shown:
                yield from _with_exemplars(name, text + comma, bounds, counts, shown)
            else:
                prefix = f'{name}_bucket{{{text}{comma}le="'
                yield "\n".join([f'{prefix}{bound}"}} {value}' for bound, value in zip(bounds, counts, strict=True)])
        braces = f"{{{text}}}" if text else ""
        yield f"{name}_sum{braces} {number(total)}"
        yield f"{name}_count{braces} {count}"
        if openmetrics and created:
            yield f"{name}_created{braces} {created:.3f}"


def _with_exemplars(
    name: str, prefix: str, bounds: list[str], counts: list[int], exemplars: list[Exemplar]
) -> Iterator[str]:
    lower = 0.0
    for bound, value in zip(bounds, counts, strict=True):
        upper = float(bound)
        line = f'{name}_bucket{{{prefix}le="{bound}"}} {value}'
        chosen = next((e for e in reversed(exemplars) if lower < e.value <= upper), None)
        if chosen and value:
            line += f' # {{trace_id="{chosen.trace_id}"}} {chosen.value!r} {chosen.at:.3f}'
        yield line
        lower = upper
