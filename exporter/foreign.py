"""Families under other projects' names: Istio's standard metrics, Tempo's service graph, Hubble's. See docs/metrics.md.

All from the same rows as our own, so that the figures agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidelight.agent import layout
from sidelight.agent.books import EdgeKey, LatencyKey
from sidelight.agent.operations import operation_name
from sidelight.agent.protocols import DNS, PROTOCOLS, failed
from sidelight.exporter.families import Labels, body_field, dns_code, is_outside, source_destination
from sidelight.identity.model import Identity, Kind

if TYPE_CHECKING:
    from sidelight.exporter.families import Collector


def istio_labels(edge: EdgeKey, cluster: str) -> Labels:
    """catalog.ISTIO_LABELS but for the protocol: every one present, `unknown` where nothing is known.

    Kiali skips a series that lacks one, and rejects an unknown cluster beside a known namespace.
    """
    reporter, source, destination = source_destination(edge)
    service = edge.service

    def end(identity: Identity) -> tuple[str, str, str, str, str, str]:
        inside = bool(identity.namespace) and identity.workload not in ("", "unknown")
        workload = identity.workload if inside else "unknown"
        namespace = identity.namespace if inside else "unknown"
        where = (identity.cluster or cluster) if identity.namespace else "unknown"
        app = identity.app or (identity.workload if inside else "unknown")
        return where, workload, namespace, app, identity.version or ("latest" if inside else "unknown"), app

    s_cluster, s_workload, s_namespace, s_app, s_version, s_service = end(source)
    d_cluster, d_workload, d_namespace, d_app, d_version, d_service = end(destination)
    if service:
        host, name, namespace = service.host, service.name, service.namespace or "unknown"
        if d_cluster == "unknown" and service.namespace:
            d_cluster = cluster
    elif d_workload != "unknown":
        host, name, namespace = f"{d_service}.{d_namespace}.svc.cluster.local", d_service, d_namespace
    else:
        name = destination.workload if destination.workload not in ("", "world") else "unknown"
        host, namespace = name, "unknown"
    return (
        ("reporter", reporter),
        ("source_cluster", s_cluster),
        ("source_workload", s_workload),
        ("source_workload_namespace", s_namespace),
        ("source_app", s_app),
        ("source_version", s_version),
        ("source_canonical_service", s_service),
        ("source_canonical_revision", s_version),
        ("source_principal", "unknown"),
        ("destination_cluster", d_cluster),
        ("destination_workload", d_workload),
        ("destination_workload_namespace", d_namespace),
        ("destination_app", d_app),
        ("destination_version", d_version),
        ("destination_canonical_service", d_service),
        ("destination_canonical_revision", d_version),
        ("destination_principal", "unknown"),
        ("destination_service", host),
        ("destination_service_name", name),
        ("destination_service_namespace", namespace),
        ("response_flags", "-"),
        ("connection_security_policy", "none"),
    )


def istio(collector: Collector) -> None:
    """istio_*: `reporter` source and destination both, as sidecars would."""
    known: dict[EdgeKey, Labels] = {}
    http_edges: set[EdgeKey] = set()
    requests: dict[EdgeKey, int] = {}

    def labels_of(edge: EdgeKey) -> Labels:
        found = known.get(edge)
        if found is None:
            found = known[edge] = istio_labels(edge, collector.options.istio_cluster)
        return found

    merged: dict[tuple[EdgeKey, int, int], tuple[np.ndarray, int, int, float]] = {}
    for key, row, created in collector.requests():
        if PROTOCOLS[key.protocol].system:
            continue  # to Istio's proxies data stores are TCP
        http_edges.add(key.edge)
        at = (key.edge, key.protocol, key.status)
        buckets, total_ns, untimed, since = merged.get(at, (np.zeros(layout.LATENCY_BUCKETS, np.uint64), 0, 0, created))
        merged[at] = (
            buckets + row["buckets"], total_ns + int(row["sum_ns"]), untimed + int(row["untimed"]), min(since, created)
        )  # fmt: skip
    for (edge, protocol, status), (buckets, total_ns, untimed, created) in merged.items():
        labels = (
            *labels_of(edge),
            ("request_protocol", PROTOCOLS[protocol].istio),
            ("response_code", str(PROTOCOLS[protocol].http_status(status))),
            ("grpc_response_status", PROTOCOLS[protocol].grpc_code(status)),
        )
        count = int(buckets.sum()) + untimed
        requests[edge] = requests.get(edge, 0) + count
        collector.family("istio_requests_total").add(labels, count, created)
        collector.family("istio_request_duration_milliseconds").add_histogram(
            labels, buckets, total_ns / 1e6, count, created
        )
    for edge, row, created in collector.shown.edges:
        http = edge in http_edges
        if http:
            for what in ("request", "response"):
                collector.family(f"istio_{what}_bytes").add_histogram(
                    (*labels_of(edge), ("request_protocol", "http")),
                    np.zeros(layout.LATENCY_BUCKETS, np.uint64),
                    float(row[body_field(edge.role, what)]),
                    requests[edge],
                    created,
                )
            continue
        labels = (*labels_of(edge), ("request_protocol", "tcp"))
        client = edge.role == layout.ROLE_CLIENT
        sent = int(row["rx_bytes"] if client else row["tx_bytes"])
        received = int(row["tx_bytes"] if client else row["rx_bytes"])
        for name, value in (
            ("istio_tcp_sent_bytes_total", sent),
            ("istio_tcp_received_bytes_total", received),
            ("istio_tcp_connections_opened_total", int(row["opened"])),
            ("istio_tcp_connections_closed_total", int(row["closed"].sum())),
        ):
            if value:
                collector.family(name).add(labels, value, created)


def graph_name(identity: Identity) -> str:
    """A node of the service graph."""
    if identity.namespace:
        return f"{identity.namespace}/{identity.workload or identity.name}"
    return identity.workload or "unknown"


def _graph_counts(key: LatencyKey) -> bool:
    """Is this row the one that counts its requests? The client's, unless no agent is with the client."""
    if key.edge.role == layout.ROLE_CLIENT:
        return True
    return is_outside(key.edge.remote) or key.edge.remote.kind in (Kind.UNKNOWN, Kind.LOOPBACK)


def service_graph(collector: Collector) -> None:
    """traces_service_graph_*."""
    totals: dict[Labels, list[float]] = {}
    sides: dict[tuple[str, Labels], tuple[np.ndarray, float, int, float]] = {}
    for key, row, created in collector.requests():
        _, source, destination = source_destination(key.edge)
        virtual = "virtual_node" if is_outside(source) or is_outside(destination) else ""
        if PROTOCOLS[key.protocol].system:
            virtual = "messaging_system" if PROTOCOLS[key.protocol].messaging else "database"
        labels: Labels = (
            ("client", graph_name(source)),
            ("server", graph_name(destination)),
            ("connection_type", virtual),
        )
        count = int(row["buckets"].sum()) + int(row["untimed"])
        if _graph_counts(key):
            total = totals.setdefault(labels, [0.0, 0.0, created])
            total[0] += count
            total[1] += count if failed(key.protocol, key.status) else 0
        side = "client" if key.edge.role == layout.ROLE_CLIENT else "server"
        zero = (np.zeros(layout.LATENCY_BUCKETS, np.uint64), 0.0, 0, created)
        buckets, seconds, so_far, since = sides.get((side, labels), zero)
        sides[(side, labels)] = (
            buckets + row["buckets"], seconds + float(row["sum_ns"]) / 1e9, so_far + count, min(since, created)
        )  # fmt: skip
    for graph_edge, (asked, lost, began) in totals.items():
        collector.family("traces_service_graph_request_total").add(graph_edge, asked, began)
        collector.family("traces_service_graph_request_failed_total").add(graph_edge, lost, began)
    for (side, labels), (buckets, seconds, count, created) in sides.items():
        collector.family(f"traces_service_graph_request_{side}_seconds").add_histogram(
            labels, buckets, seconds, count, created
        )
    _span_metrics(collector)


def _span_name(key: LatencyKey, operations: dict[int, str]) -> str:
    """A call's by its method; a request's without its route, as it always was: dashboards are made of it."""
    protocol = PROTOCOLS[key.protocol]
    return (operation_name(operations, key.operation) or "grpc") if protocol.rpc else protocol.method(key.method)


def _span_metrics(collector: Collector) -> None:
    """traces_spanmetrics_*: each request once a side, by the service whose span it would be."""
    sums: dict[Labels, tuple[np.ndarray, float, int, float]] = {}
    for key, row, created in collector.requests():
        _, source, destination = source_destination(key.edge)
        client = key.edge.role == layout.ROLE_CLIENT
        error = PROTOCOLS[key.protocol].error_type(key.status, client=client)
        labels: Labels = (
            ("service", graph_name(source if client else destination)),
            ("span_name", _span_name(key, collector.snapshot.operations)),
            ("span_kind", "SPAN_KIND_CLIENT" if client else "SPAN_KIND_SERVER"),
            ("status_code", "STATUS_CODE_ERROR" if error else "STATUS_CODE_UNSET"),
        )
        count = int(row["buckets"].sum()) + int(row["untimed"])
        buckets, seconds, so_far, since = sums.get(
            labels, (np.zeros(layout.LATENCY_BUCKETS, np.uint64), 0.0, 0, created)
        )
        sums[labels] = (
            buckets + row["buckets"], seconds + float(row["sum_ns"]) / 1e9, so_far + count, min(since, created)
        )  # fmt: skip
    for labels, (buckets, seconds, count, created) in sums.items():
        collector.family("traces_spanmetrics_calls_total").add(labels, count, created)
        collector.family("traces_spanmetrics_latency").add_histogram(labels, buckets, seconds, count, created)


def hubble(collector: Collector) -> None:
    """hubble_*."""
    snapshot = collector.snapshot
    counts: dict[Labels, int] = {}
    times: dict[Labels, tuple[np.ndarray, float, int]] = {}
    for key, row, _ in collector.requests():
        side = "client" if key.edge.role == layout.ROLE_CLIENT else "server"
        protocol = PROTOCOLS[key.protocol]
        if protocol.system:
            continue
        method = protocol.method(key.method)
        count = int(row["buckets"].sum()) + int(row["untimed"])
        labels: Labels = (
            ("method", method),
            ("protocol", f"HTTP/{protocol.version}"),
            ("status", str(protocol.http_status(key.status))),
            ("reporter", side),
        )
        counts[labels] = counts.get(labels, 0) + count
        pair: Labels = (("method", method), ("reporter", side))
        buckets, seconds, so_far = times.get(pair, (np.zeros(layout.LATENCY_BUCKETS, np.uint64), 0.0, 0))
        times[pair] = (buckets + row["buckets"], seconds + float(row["sum_ns"]) / 1e9, so_far + count)
    began = snapshot.started_at
    for labels, value in counts.items():
        collector.family("hubble_http_requests_total").add(labels, value, began)
    for pair, (buckets, seconds, so_far) in times.items():
        collector.family("hubble_http_request_duration_seconds").add_histogram(pair, buckets, seconds, so_far, began)
    to_world = 0
    attempts = np.zeros(8, np.uint64)
    for edge, row, _ in collector.shown.edges:
        attempts += row["failed"]
        if edge.role == layout.ROLE_CLIENT and is_outside(edge.remote):
            to_world += int(row["opened"])
    for index, reason in enumerate(layout.FAIL_REASONS):
        collector.family("hubble_drop_total").add(
            (("reason", reason.upper()), ("protocol", "TCP")), int(attempts[index]), began
        )
    codes: dict[int, int] = {}
    for key, row, _ in collector.shown.latencies:
        if key.protocol == DNS:
            codes[key.status] = codes.get(key.status, 0) + int(row["buckets"].sum())
    for rcode, value in codes.items():
        collector.family("hubble_dns_responses_total").add((("rcode", dns_code(rcode)),), value, began)
    collector.family("hubble_dns_queries_total").add((), snapshot.kernel["seen_dns_queries"], began)
    collector.family("hubble_flows_to_world_total").add(
        (("protocol", "TCP"), ("verdict", "FORWARDED")), to_world, began
    )
    collector.family("hubble_flows_processed_total").add(
        (("type", "Trace"), ("subtype", "to-endpoint"), ("verdict", "FORWARDED")), snapshot.flows_seen, began
    )
    collector.family("hubble_lost_events_total").add(
        (("source", "PERF_EVENT_RING_BUFFER"),), snapshot.kernel["lost_event_ring_full"], began
    )
