"""A snapshot -> metric families: columns of samples with their labels. Pure; Prometheus and OTLP both start here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sidelight import __version__
from sidelight.agent import layout
from sidelight.agent.books import EdgeKey, LatencyKey, Table
from sidelight.agent.core import Snapshot
from sidelight.agent.operations import RETIRED, operation_name
from sidelight.agent.protocols import (
    DB_IDLE,
    DB_TRANSACTION,
    DNS,
    PROTOCOLS,
    TCP_CONNECT,
    TCP_RTT,
    TRANSACTION_ROLLED_BACK,
)
from sidelight.exporter.catalog import BY_NAME, DEFAULT_GROUPS, Metric
from sidelight.identity.model import OVERFLOW, Identity, Kind
from sidelight.identity.resolver import PENDING

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FamilyOptions:
    """What is shown. `max_edges`: the cardinality budget, in edges; 0 means none."""

    groups: frozenset[str] = DEFAULT_GROUPS
    max_edges: int = 5000
    ttl_s: float = 900.0
    istio_cluster: str = "Kubernetes"


@dataclass(slots=True)
class Family:
    """Samples of one metric. For histograms `values` has a row of layout.LATENCY_BUCKETS counts for each label set."""

    metric: Metric
    labels: list[Labels] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    buckets: list[np.ndarray] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    created: list[float] = field(default_factory=list)

    def add(self, labels: Labels, value: float, created: float = 0.0) -> None:
        self.labels.append(labels)
        self.values.append(value)
        self.created.append(created)

    def add_histogram(self, labels: Labels, buckets: np.ndarray, total: float, count: int, created: float) -> None:
        self.labels.append(labels)
        self.buckets.append(buckets)
        self.sums.append(total)
        self.counts.append(count)
        self.created.append(created)


@dataclass(slots=True)
class Shown:
    """The rows of a snapshot that are shown: keys with totals, after TTL and budget."""

    edges: list[tuple[EdgeKey, np.void, float]]
    latencies: list[tuple[LatencyKey, np.void, float]]
    folded: int
    expired: int


def shown(snapshot: Snapshot, options: FamilyOptions) -> Shown:
    """Applies the TTL and folds the smallest edges into `other`: totals stay exact."""
    edges = snapshot.edges
    changed: dict[EdgeKey, float] = {}
    for index, key in enumerate(edges.keys):
        changed[key] = max(changed.get(key, 0.0), float(edges.changed_at[index]))
    for index, latency in enumerate(snapshot.latencies.keys):
        at = float(snapshot.latencies.changed_at[index])
        if at > changed.get(latency.edge, 0.0):
            changed[latency.edge] = at
    horizon = snapshot.at - options.ttl_s
    # what a journal brought back has no time of its own yet: shown, until the TTL counts from this start
    alive = {key for key, at in changed.items() if (at or snapshot.started_at) >= horizon and not _pending(key)}
    expired = sum(1 for key in changed if key not in alive and not _pending(key))
    folded_keys = _smallest(alive, snapshot, options.max_edges)
    edge_rows = _fold(edges.keys, edges.values, edges.created_at, alive, folded_keys, _other_edge)
    latency_rows = _fold(
        snapshot.latencies.keys,
        snapshot.latencies.values,
        snapshot.latencies.created_at,
        alive,
        folded_keys,
        _other_latency,
    )
    return Shown(edge_rows, latency_rows, len(folded_keys), expired)


def _pending(key: EdgeKey) -> bool:
    return key.local.reason == PENDING or key.remote.reason == PENDING


def _smallest(alive: set[EdgeKey], snapshot: Snapshot, budget: int) -> set[EdgeKey]:
    """The edges beyond the budget, by connections and requests ever counted."""
    if not budget or len(alive) <= budget:
        return set()
    weight = dict.fromkeys(alive, 0)
    values = snapshot.edges.values
    totals = (values["opened"] + values["attempts"] + values["adopted"]).tolist()
    for key, total in zip(snapshot.edges.keys, totals, strict=False):
        if key in weight:
            weight[key] += total
    requests = snapshot.latencies.values["buckets"].sum(axis=1).tolist()
    for latency, total in zip(snapshot.latencies.keys, requests, strict=False):
        if latency.edge in weight:
            weight[latency.edge] += total
    ordered = sorted(weight, key=lambda key: weight[key], reverse=True)
    return set(ordered[budget:])


def _other_edge(key: EdgeKey) -> EdgeKey:
    return EdgeKey(key.role, OVERFLOW, OVERFLOW, None, 0)


def _other_latency(key: LatencyKey) -> LatencyKey:
    return replace(key, edge=_other_edge(key.edge), operation=0)


def _fold(
    keys: list[Any],
    values: np.ndarray,
    created: np.ndarray,
    alive: set[EdgeKey],
    folded: set[EdgeKey],
    other: Callable[[Any], Any],
) -> list[tuple[Any, Any, float]]:
    """Rows of living keys; folded ones are summed under `other`."""
    rows = []
    sums: dict[Any, tuple[np.ndarray, float]] = {}
    for index, key in enumerate(keys):
        edge = key.edge if isinstance(key, LatencyKey) else key
        if edge in folded:
            target = other(key)
            into, at = sums.setdefault(target, (np.zeros(1, values.dtype), float(created[index])))
            for name in values.dtype.names or ():
                into[name][0] += values[name][index]
            sums[target] = (into, min(at, float(created[index])))
        elif edge in alive:
            rows.append((key, values[index], float(created[index])))
    rows += [(key, into[0], at) for key, (into, at) in sums.items()]
    return rows


def source_destination(edge: EdgeKey) -> tuple[str, Identity, Identity]:
    """(reporter, source, destination): the client is the source whoever reports."""
    if edge.role == layout.ROLE_CLIENT:
        return "source", edge.local, edge.remote
    if edge.role == layout.ROLE_SERVER:
        return "destination", edge.remote, edge.local
    return "unknown", edge.remote, edge.local


def edge_labels(edge: EdgeKey) -> Labels:
    """catalog.EDGE_LABELS without the empty ones, and the allow-listed pod labels."""
    reporter, source, destination = source_destination(edge)
    service = edge.service
    pairs = [
        ("reporter", reporter),
        ("source_cluster", source.cluster),
        ("source_workload_namespace", source.namespace),
        ("source_workload", source.workload),
        ("source_canonical_revision", source.version),
        ("destination_cluster", destination.cluster),
        ("destination_workload_namespace", destination.namespace),
        ("destination_workload", destination.workload),
        ("destination_canonical_revision", destination.version),
        ("destination_service_namespace", service.namespace if service else ""),
        ("destination_service_name", service.name if service else ""),
        ("server_port", str(edge.port) if edge.port else ""),
    ]
    pairs += [(f"source_label_{_label_name(k)}", v) for k, v in source.metric_labels]
    pairs += [(f"destination_label_{_label_name(k)}", v) for k, v in destination.metric_labels]
    return tuple(pair for pair in pairs if pair[1])


def _label_name(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)


def http_labels(key: LatencyKey, operations: dict[int, str]) -> Labels:
    """OpenTelemetry's attributes of a request."""
    protocol = PROTOCOLS[key.protocol]
    pairs = [
        ("http_request_method", protocol.method(key.method)),
        ("http_response_status_code", protocol.answer(key.status)),
        ("error_type", protocol.error_type(key.status, client=False)),
        (protocol.operation, operation_name(operations, key.operation)),
        ("network_protocol_name", protocol.name),
        ("network_protocol_version", protocol.version),
        ("url_scheme", protocol.scheme),
    ]
    return tuple(pair for pair in pairs if pair[1])


def rpc_labels(key: LatencyKey, operations: dict[int, str]) -> Labels:
    """OpenTelemetry's attributes of a call."""
    protocol = PROTOCOLS[key.protocol]
    pairs = [
        ("rpc_system_name", "grpc"),
        ("rpc_method", operation_name(operations, key.operation)),
        ("rpc_status_code", protocol.answer(key.status)),
        ("error_type", protocol.error_type(key.status, client=key.edge.role == layout.ROLE_CLIENT)),
    ]
    return tuple(pair for pair in pairs if pair[1])


def db_labels(key: LatencyKey) -> Labels:
    """OpenTelemetry's attributes of a data store's command."""
    protocol = PROTOCOLS[key.protocol]
    pairs = [
        ("db_system_name", protocol.system),
        ("db_operation_name", protocol.method(key.method)),
        ("db_response_status_code", protocol.answer(key.status)),
        ("error_type", protocol.error_type(key.status, client=key.edge.role == layout.ROLE_CLIENT)),
    ]
    return tuple(pair for pair in pairs if pair[1])


def messaging_labels(key: LatencyKey, operations: dict[int, str]) -> Labels:
    """OpenTelemetry's attributes of a request to a broker."""
    protocol = PROTOCOLS[key.protocol]
    pairs = [
        ("messaging_system", protocol.system),
        ("messaging_operation_name", protocol.method(key.method)),
        ("messaging_destination_name", operation_name(operations, key.operation)),
        ("error_type", protocol.error_type(key.status, client=key.edge.role == layout.ROLE_CLIENT)),
    ]
    return tuple(pair for pair in pairs if pair[1])


class Collector:
    """Families of a snapshot, group by group."""

    def __init__(self, snapshot: Snapshot, options: FamilyOptions) -> None:
        self.snapshot = snapshot
        self.options = options
        self.shown = shown(snapshot, options)
        self._families: dict[str, Family] = {}
        self._edge_labels: dict[EdgeKey, Labels] = {}

    def family(self, name: str) -> Family:
        found = self._families.get(name)
        if found is None:
            found = self._families[name] = Family(BY_NAME[name])
        return found

    def labels_of(self, edge: EdgeKey) -> Labels:
        found = self._edge_labels.get(edge)
        if found is None:
            found = self._edge_labels[edge] = edge_labels(edge)
        return found

    def collect(self) -> list[Family]:
        """All families of the wanted groups, in the catalogue's order."""
        from sidelight.exporter.foreign import hubble, istio, service_graph

        makers: dict[str, Callable[[Collector], None]] = {
            "http": _http,
            "rpc": _rpc,
            "db": _db,
            "tcp": _tcp,
            "dns": _dns,
            "istio": istio,
            "servicegraph": service_graph,
            "hubble": hubble,
            "self": _self,
        }
        for group in self.options.groups:
            makers[group](self)
        order = {name: index for index, name in enumerate(BY_NAME)}
        return sorted(self._families.values(), key=lambda family: order[family.metric.name])

    def requests(self) -> Iterator[tuple[LatencyKey, np.void, float]]:
        for row in self.shown.latencies:
            if row[0].protocol in PROTOCOLS:
                yield row


def _histogram(family: Family, labels: Labels, row: np.void, created: float) -> None:
    buckets = row["buckets"]
    family.add_histogram(labels, buckets, float(row["sum_ns"]) / 1e9, int(buckets.sum()) + int(row["untimed"]), created)


def body_field(role: int, what: str) -> str:
    """The field of an edge's row that has the body bytes of its requests or responses: a client sends the requests."""
    return "tx_body_bytes" if (role == layout.ROLE_CLIENT) == (what == "request") else "rx_body_bytes"


def _http(collector: Collector) -> None:
    for key, row, created in collector.requests():
        if key.operation == RETIRED or PROTOCOLS[key.protocol].rpc or PROTOCOLS[key.protocol].system:
            continue
        side = "client" if key.edge.role == layout.ROLE_CLIENT else "server"
        labels = collector.labels_of(key.edge) + http_labels(key, collector.snapshot.operations)
        _histogram(collector.family(f"http_{side}_request_duration_seconds"), labels, row, created)
    for edge, row, created in collector.shown.edges:
        side = "client" if edge.role == layout.ROLE_CLIENT else "server"
        for what in ("request", "response"):
            if value := int(row[body_field(edge.role, what)]):
                name = f"http_{side}_{what}_body_size_bytes_total"
                collector.family(name).add(collector.labels_of(edge), value, created)


def _rpc(collector: Collector) -> None:
    sums: dict[tuple[str, Labels], tuple[float, float]] = {}
    for key, row, created in collector.requests():
        if key.operation == RETIRED or not PROTOCOLS[key.protocol].rpc:
            continue
        client = key.edge.role == layout.ROLE_CLIENT
        edge, call = collector.labels_of(key.edge), rpc_labels(key, collector.snapshot.operations)
        family = collector.family(f"rpc_{'client' if client else 'server'}_call_duration_seconds")
        _histogram(family, edge + call, row, created)
        method = edge + tuple(pair for pair in call if pair[0] in ("rpc_system_name", "rpc_method"))
        for name, value, labels in (
            ("sidelight_rpc_first_response_seconds_total", float(row["first_ns"]) / 1e9, method),
            ("sidelight_rpc_first_responses_total", float(row["first_count"]), method),
            ("sidelight_rpc_messages_total", float(row["tx_messages"]), (*method, ("direction", "transmit"))),
            ("sidelight_rpc_messages_total", float(row["rx_messages"]), (*method, ("direction", "receive"))),
        ):
            if value:
                before, since = sums.get((name, labels), (0.0, created))
                sums[name, labels] = (before + value, min(since, created))
    for (name, labels), (value, created) in sums.items():
        collector.family(name).add(labels, value, created)
    for (known, operation), count in collector.snapshot.active_calls.items():
        labels = (*collector.labels_of(known), ("rpc_system_name", "grpc"))
        if operation:
            labels += (("rpc_method", operation_name(collector.snapshot.operations, operation)),)
        collector.family("sidelight_rpc_active_calls").add(labels, count)


def _db(collector: Collector) -> None:
    sums: dict[tuple[str, Labels], tuple[float, float]] = {}
    for key, row, created in collector.requests():
        if not PROTOCOLS[key.protocol].system or key.operation == RETIRED:
            continue
        side = "client" if key.edge.role == layout.ROLE_CLIENT else "server"
        if PROTOCOLS[key.protocol].messaging:
            labels = collector.labels_of(key.edge) + messaging_labels(key, collector.snapshot.operations)
            _histogram(collector.family(f"messaging_{side}_operation_duration_seconds"), labels, row, created)
            continue
        edge, command = collector.labels_of(key.edge), db_labels(key)
        _histogram(collector.family(f"db_{side}_operation_duration_seconds"), edge + command, row, created)
        name = edge + tuple(pair for pair in command if pair[0] in ("db_system_name", "db_operation_name"))
        for family, value in (
            ("sidelight_db_first_byte_seconds_total", float(row["first_ns"]) / 1e9),
            ("sidelight_db_first_bytes_total", float(row["first_count"])),
        ):
            before, since = sums.get((family, name), (0.0, created))
            sums[family, name] = (before + value, min(since, created))
    for (family, labels), (value, created) in sums.items():
        collector.family(family).add(labels, value, created)
    for key, row, created in collector.shown.latencies:
        if key.protocol in (DB_TRANSACTION, DB_IDLE) and key.method in PROTOCOLS:
            labels = (*collector.labels_of(key.edge), ("db_system_name", PROTOCOLS[key.method].system))
            if key.protocol == DB_IDLE:
                _histogram(collector.family("sidelight_db_idle_in_transaction_seconds"), labels, row, created)
            else:
                outcome = "rolled_back" if key.status == TRANSACTION_ROLLED_BACK else "committed"
                spans = collector.family("sidelight_db_transaction_duration_seconds")
                _histogram(spans, (*labels, ("outcome", outcome)), row, created)


_TCP_PLAIN = {
    "attempts": "sidelight_tcp_connection_attempts_total",
    "opened": "sidelight_tcp_connections_opened_total",
    "adopted": "sidelight_tcp_connections_adopted_total",
    "retransmits": "sidelight_tcp_retransmits_total",
}


def _tcp(collector: Collector) -> None:
    for edge, row, created in collector.shown.edges:
        labels = collector.labels_of(edge)
        for field_name, name in _TCP_PLAIN.items():
            if value := int(row[field_name]):
                collector.family(name).add(labels, value, created)
        for what in ("bytes", "segments"):
            for direction, prefix in (("transmit", "tx"), ("receive", "rx")):
                if value := int(row[f"{prefix}_{what}"]):
                    pair = (("direction", direction),)
                    collector.family(f"sidelight_tcp_{what}_total").add(labels + pair, value, created)
        if value := int(row["duration_ns"]):
            collector.family("sidelight_tcp_connection_duration_seconds_total").add(labels, value / 1e9, created)
        for index, reason in enumerate(layout.CLOSE_REASONS_NAMES):
            if value := int(row["closed"][index]):
                collector.family("sidelight_tcp_connections_closed_total").add(
                    (*labels, ("reason", reason)), value, created
                )
        for index, reason in enumerate(layout.FAIL_REASONS):
            if value := int(row["failed"][index]):
                collector.family("sidelight_tcp_connections_failed_total").add(
                    (*labels, ("reason", reason)), value, created
                )
    names = {TCP_RTT: "sidelight_tcp_rtt_seconds", TCP_CONNECT: "sidelight_tcp_connect_duration_seconds"}
    for key, row, created in collector.shown.latencies:
        if latency_name := names.get(key.protocol):
            _histogram(collector.family(latency_name), collector.labels_of(key.edge), row, created)


DNS_CODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")


def dns_code(rcode: int) -> str:
    return DNS_CODES[rcode] if rcode < len(DNS_CODES) else str(rcode)


def _dns(collector: Collector) -> None:
    for key, row, created in collector.shown.latencies:
        if key.protocol == DNS:
            labels = (*collector.labels_of(key.edge), ("dns_response_code", dns_code(key.status)))
            _histogram(collector.family("dns_lookup_duration_seconds"), labels, row, created)


_UNNAMED = {
    "unnamed_before": "said before the programs",
    "unnamed_sync": "said in what was lost",
    "unnamed_long": "too long or too many",
}


def coverage(kernel: dict[str, int], latencies: Table) -> list[tuple[str, str, str, int]]:
    """(protocol, outcome, reason, exchanges) since the maps were made: what is known of those counted, and what was lost."""
    found = []
    for protocol in PROTOCOLS.values():
        if protocol.counters:
            found.append((protocol.title, "named", "", kernel[f"{protocol.counters}_named"]))
            for name, reason in _UNNAMED.items():
                found.append((protocol.title, "unnamed", reason, kernel[f"{protocol.counters}_{name}"]))
            unread = kernel[f"{protocol.counters}_status_unread"]
            found.append((protocol.title, "status unread", "said before the programs, or in what was lost", unread))
        else:
            rows = [index for index, key in enumerate(latencies.keys) if key.protocol == protocol.number]
            if protocol.system:
                found += _commands_coverage(protocol.title, latencies, rows)
                continue
            untimed = int(latencies.values["untimed"][rows].sum())
            found.append((protocol.title, "named", "", int(latencies.values["buckets"][rows].sum())))
            found.append((protocol.title, "unnamed", _UNNAMED["unnamed_long"], untimed))
    found.append(("all", "lost", "in flight when bytes were lost", kernel["lost_exchanges"]))
    found.append(("all", "lost", "answers to what was not seen", kernel["exchange_unmatched"]))
    return found


def _commands_coverage(title: str, latencies: Table, rows: list[int]) -> list[tuple[str, str, str, int]]:
    """Of a data store: a command's name is its method. Those that nobody answers have no time, and have a name."""
    named = unknown = beyond = 0
    for index in rows:
        key = latencies.keys[index]
        timed = int(latencies.values["buckets"][index].sum())
        untimed = int(latencies.values["untimed"][index])
        if key.method:
            named += timed + untimed
        else:
            unknown += timed
            beyond += untimed
    return [
        (title, "named", "", named),
        (title, "unnamed", "no command that is known", unknown),
        (title, "unnamed", _UNNAMED["unnamed_long"], beyond),
    ]


def _self(collector: Collector) -> None:
    snapshot = collector.snapshot
    began = snapshot.started_at

    def put(name: str, value: float, *labels: tuple[str, str]) -> None:
        collector.family(name).add(tuple(labels), value, began)

    for counter in layout.counters():
        value = snapshot.kernel[counter.name]
        if counter.kind == "SEEN":
            put("sidelight_seen_total", value, ("stage", "kernel"), ("item", counter.name.removeprefix("seen_")))
        elif counter.kind == "LOST":
            put("sidelight_lost_total", value, ("stage", "kernel"), ("reason", counter.name.removeprefix("lost_")))
        else:
            put("sidelight_undecided_total", value, ("reason", counter.name.removeprefix("lost_")))
    for title, outcome, reason, value in coverage(snapshot.kernel, snapshot.latencies):
        put("sidelight_exchanges_total", value, ("protocol", title), ("outcome", outcome), ("reason", reason))
    put("sidelight_seen_total", snapshot.flows_seen, ("stage", "agent"), ("item", "flows"))
    put("sidelight_seen_total", snapshot.generation + 1, ("stage", "agent"), ("item", "generations"))
    put("sidelight_lost_total", snapshot.malformed_events, ("stage", "agent"), ("reason", "malformed_event"))
    put("sidelight_lost_total", snapshot.malformed_payloads, ("stage", "agent"), ("reason", "malformed_payload"))
    for (end, source), value in sorted(snapshot.resolutions.items()):
        put("sidelight_identity_resolutions_total", value, ("end", end), ("source", source))
    for reason, value in sorted(snapshot.unresolved.items()):
        put("sidelight_identity_unresolved_total", value, ("reason", reason or "none"))
    put("sidelight_identity_staleness_seconds", snapshot.staleness_s)
    put("sidelight_identity_names", snapshot.names)
    put("sidelight_operations", len(snapshot.operations))
    for cost in snapshot.costs:
        put("sidelight_bpf_run_time_seconds_total", cost.run_time_ns / 1e9, ("hook", cost.name))
        put("sidelight_bpf_runs_total", cost.run_count, ("hook", cost.name))
    for name, fill in (
        ("edges", snapshot.edge_fill),
        ("latencies", snapshot.latency_fill),
        ("events", snapshot.event_fill),
    ):
        put("sidelight_map_fill_ratio", fill, ("map", name))
    put("sidelight_cpu_seconds_total", snapshot.cpu_seconds)
    put("sidelight_memory_bytes", snapshot.rss_bytes)
    put("sidelight_ring_bytes", snapshot.ring_bytes)
    put("sidelight_shed_level", snapshot.level)
    put("sidelight_series_folded", collector.shown.folded)
    put("sidelight_series_expired", collector.shown.expired)
    for name, count in sorted(snapshot.extra.items()):
        if name.startswith("spans_"):
            put("sidelight_spans_total", count, ("outcome", name.removeprefix("spans_")))
    put("sidelight_build_info", 1, ("version", __version__))


def is_outside(identity: Identity) -> bool:
    return identity.kind in (Kind.WORLD, Kind.EXTERNAL)
