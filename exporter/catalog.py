"""The one list of every metric: from it come the Prometheus families, the OTLP instruments, docs/metrics.md and the check of the
dashboards' queries. Names follow OpenTelemetry's semantic conventions, translated to Prometheus (dots to underscores, units as
suffixes), or are those that the tool of the group asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidelight.agent import layout

EDGE_LABELS = (
    "reporter",
    "source_cluster",
    "source_workload_namespace",
    "source_workload",
    "source_canonical_revision",
    "destination_cluster",
    "destination_workload_namespace",
    "destination_workload",
    "destination_canonical_revision",
    "destination_service_namespace",
    "destination_service_name",
    "server_port",
)
ISTIO_LABELS = (
    "reporter",
    "source_cluster",
    "source_workload",
    "source_workload_namespace",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_principal",
    "destination_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_principal",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)
HTTP_LABELS = (
    "http_request_method",
    "http_response_status_code",
    "error_type",
    "http_route",
    "network_protocol_name",
    "network_protocol_version",
    "url_scheme",
)
DB_LABELS = ("db_system_name", "db_operation_name", "db_response_status_code", "error_type")
MESSAGING_LABELS = ("messaging_system", "messaging_operation_name", "messaging_destination_name", "error_type")
RPC_LABELS = ("rpc_system_name", "rpc_method", "rpc_status_code", "error_type")


def _nearest_bounds(wanted_s: tuple[float, ...]) -> tuple[int, ...]:
    """Indexes of the kernel's bucket bounds next to the wanted ones: their counts are exact."""
    bounds = layout.BUCKET_BOUNDS_S
    return tuple(sorted({min(range(len(bounds)), key=lambda i: abs(bounds[i] / w - 1)) for w in wanted_s}))


CLASSIC_BUCKETS = _nearest_bounds(
    (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
)
"""Indexes into layout.BUCKET_BOUNDS_S: OpenTelemetry's advice for HTTP, a few smaller ones, each at the nearest exact bound."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `group` is what a user switches; `otel` its OTLP name, empty where it is not sent by OTLP."""

    name: str
    type: str
    """counter, gauge or histogram."""
    unit: str
    help: str
    labels: tuple[str, ...]
    source: str
    group: str
    otel: str = ""


def _m(name: str, type_: str, unit: str, help_: str, labels: tuple[str, ...], source: str, group: str, otel: str = "") -> Metric:  # fmt: skip
    return Metric(name, type_, unit, help_, labels, source, group, otel)


_E = EDGE_LABELS
_I = ISTIO_LABELS
CATALOG: tuple[Metric, ...] = (
    # HTTP, OpenTelemetry
    _m("http_server_request_duration_seconds", "histogram", "s", "Time from the first byte of a request to the first byte of its response, seen at the server.", _E + HTTP_LABELS, "packets", "http", "http.server.request.duration"),
    _m("http_client_request_duration_seconds", "histogram", "s", "Time from the first byte of a request to the first byte of its response, seen at the client.", _E + HTTP_LABELS, "packets", "http", "http.client.request.duration"),
    _m("http_server_request_body_size_bytes_total", "counter", "By", "Bytes of request bodies received by servers.", _E, "packets", "http", "http.server.request.body.size.total"),
    _m("http_server_response_body_size_bytes_total", "counter", "By", "Bytes of response bodies sent by servers.", _E, "packets", "http", "http.server.response.body.size.total"),
    _m("http_client_request_body_size_bytes_total", "counter", "By", "Bytes of request bodies sent by clients.", _E, "packets", "http", "http.client.request.body.size.total"),
    _m("http_client_response_body_size_bytes_total", "counter", "By", "Bytes of response bodies received by clients.", _E, "packets", "http", "http.client.response.body.size.total"),
    # RPC, OpenTelemetry
    _m("rpc_server_call_duration_seconds", "histogram", "s", "Duration of gRPC calls, to their last byte or their reset, seen at the server.", _E + RPC_LABELS, "packets", "rpc", "rpc.server.call.duration"),
    _m("rpc_client_call_duration_seconds", "histogram", "s", "Duration of gRPC calls, to their last byte or their reset, seen at the client.", _E + RPC_LABELS, "packets", "rpc", "rpc.client.call.duration"),
    _m("sidelight_rpc_messages_total", "counter", "{message}", "Messages of the calls that have ended; direction as seen by the reporter.", (*_E, "rpc_system_name", "rpc_method", "direction"), "packets", "rpc", "sidelight.rpc.messages"),
    _m("sidelight_rpc_first_response_seconds_total", "counter", "s", "Summed time from a call's first byte to its first response message.", (*_E, "rpc_system_name", "rpc_method"), "packets", "rpc", "sidelight.rpc.first_response.time"),
    _m("sidelight_rpc_first_responses_total", "counter", "{call}", "Calls that had a response message: what to divide that time by.", (*_E, "rpc_system_name", "rpc_method"), "packets", "rpc", "sidelight.rpc.first_responses"),
    _m("sidelight_rpc_active_calls", "gauge", "{call}", "gRPC calls that go on now: streams that never end are here.", (*_E, "rpc_system_name", "rpc_method"), "packets", "rpc", "sidelight.rpc.active_calls"),
    # data stores, OpenTelemetry
    _m("db_client_operation_duration_seconds", "histogram", "s", "Duration of a data store's commands, from the first byte asked to the last byte answered, seen at the client.", _E + DB_LABELS, "packets", "db", "db.client.operation.duration"),
    _m("db_server_operation_duration_seconds", "histogram", "s", "The same, seen at the data store.", _E + DB_LABELS, "packets", "db", "db.server.operation.duration"),
    _m("sidelight_db_first_byte_seconds_total", "counter", "s", "Summed time from a command's first byte to its answer's first byte.", (*_E, "db_system_name", "db_operation_name"), "packets", "db", "sidelight.db.first_byte.time"),
    _m("sidelight_db_first_bytes_total", "counter", "{operation}", "Commands of that sum: what to divide it by.", (*_E, "db_system_name", "db_operation_name"), "packets", "db", "sidelight.db.first_bytes"),
    _m("sidelight_db_transaction_duration_seconds", "histogram", "s", "Duration of transactions that were begun as such, to their commit or rollback.", (*_E, "db_system_name", "outcome"), "packets", "db", "sidelight.db.transaction.duration"),
    _m("sidelight_db_idle_in_transaction_seconds", "histogram", "s", "Time that transactions waited for their client's next command.", (*_E, "db_system_name"), "packets", "db", "sidelight.db.idle_in_transaction"),
    # messaging, OpenTelemetry
    _m("messaging_client_operation_duration_seconds", "histogram", "s", "Duration of requests to a broker, from the first byte asked to the last byte answered, seen at the client.", _E + MESSAGING_LABELS, "packets", "db", "messaging.client.operation.duration"),
    _m("messaging_server_operation_duration_seconds", "histogram", "s", "The same, seen at the broker.", _E + MESSAGING_LABELS, "packets", "db", "messaging.server.operation.duration"),
    # TCP
    _m("sidelight_tcp_connection_attempts_total", "counter", "{connection}", "Connections that a client tried to open (first SYN).", _E, "sock_ops", "tcp", "sidelight.tcp.connection.attempts"),
    _m("sidelight_tcp_connections_opened_total", "counter", "{connection}", "Connections established.", _E, "sock_ops", "tcp", "sidelight.tcp.connections.opened"),
    _m("sidelight_tcp_connections_adopted_total", "counter", "{connection}", "Connections that were there before the programs.", _E, "packets", "tcp", "sidelight.tcp.connections.adopted"),
    _m("sidelight_tcp_connections_closed_total", "counter", "{connection}", "Connections ended, by how and by which side.", (*_E, "reason"), "sock_ops", "tcp", "sidelight.tcp.connections.closed"),
    _m("sidelight_tcp_connections_failed_total", "counter", "{connection}", "Connection attempts that failed, by why.", (*_E, "reason"), "sock_ops", "tcp", "sidelight.tcp.connections.failed"),
    _m("sidelight_tcp_bytes_total", "counter", "By", "Bytes of the streams, each once, at the latest with the answer, every 256 KB and at the end; direction as seen by the reporter.", (*_E, "direction"), "packets", "tcp", "sidelight.tcp.bytes"),
    _m("sidelight_tcp_segments_total", "counter", "{segment}", "Segments the socket counted, read when it sends, at most every tenth of a second or so, and at its end; direction as seen by the reporter.", (*_E, "direction"), "tcp_sock", "tcp", "sidelight.tcp.segments"),
    _m("sidelight_tcp_retransmits_total", "counter", "{segment}", "Segments the reporter's socket sent again.", _E, "tcp_sock", "tcp", "sidelight.tcp.retransmits"),
    _m("sidelight_tcp_connection_duration_seconds_total", "counter", "s", "Summed duration of the connections that have ended.", _E, "sock_ops", "tcp", "sidelight.tcp.connection.duration.total"),
    _m("sidelight_tcp_rtt_seconds", "histogram", "s", "Smoothed round-trip time at the end of connections, and every ten seconds of long ones.", _E, "tcp_sock", "tcp", "sidelight.tcp.rtt"),
    _m("sidelight_tcp_connect_duration_seconds", "histogram", "s", "Time from a client's SYN to the connection established.", _E, "sock_ops", "tcp", "sidelight.tcp.connect.duration"),
    # DNS
    _m("dns_lookup_duration_seconds", "histogram", "s", "Time from a DNS query to its answer over UDP, seen at the client.", (*_E, "dns_response_code"), "packets", "dns", "dns.lookup.duration"),
    # Istio
    _m("istio_requests_total", "counter", "{request}", "Requests, as Istio's proxies report them.", (*_I, "response_code", "grpc_response_status"), "packets", "istio"),
    _m("istio_request_duration_milliseconds", "histogram", "ms", "Duration of requests to the first response byte.", (*_I, "response_code", "grpc_response_status"), "packets", "istio"),
    _m("istio_tcp_sent_bytes_total", "counter", "By", "Bytes sent in the direction of responses.", _I, "packets", "istio"),
    _m("istio_tcp_received_bytes_total", "counter", "By", "Bytes sent in the direction of requests.", _I, "packets", "istio"),
    _m("istio_tcp_connections_opened_total", "counter", "{connection}", "Connections opened.", _I, "sock_ops", "istio"),
    _m("istio_tcp_connections_closed_total", "counter", "{connection}", "Connections closed.", _I, "sock_ops", "istio"),
    _m("istio_request_bytes", "histogram", "By", "Request body bytes; only sum and count are known.", _I, "packets", "istio"),
    _m("istio_response_bytes", "histogram", "By", "Response body bytes; only sum and count are known.", _I, "packets", "istio"),
    # Tempo's service graph
    _m("traces_service_graph_request_total", "counter", "{request}", "Requests between two services, each counted by one reporter.", ("client", "server", "connection_type"), "packets", "servicegraph"),
    _m("traces_service_graph_request_failed_total", "counter", "{request}", "Of them those without a response or with a 5xx status.", ("client", "server", "connection_type"), "packets", "servicegraph"),
    _m("traces_service_graph_request_server_seconds", "histogram", "s", "Duration seen at the server.", ("client", "server", "connection_type"), "packets", "servicegraph"),
    _m("traces_service_graph_request_client_seconds", "histogram", "s", "Duration seen at the client.", ("client", "server", "connection_type"), "packets", "servicegraph"),
    _m("traces_spanmetrics_calls_total", "counter", "{request}", "Requests by service, as span metrics have them; all of them, not the sampled.", ("service", "span_name", "span_kind", "status_code"), "packets", "servicegraph"),
    _m("traces_spanmetrics_latency", "histogram", "s", "Duration of the same.", ("service", "span_name", "span_kind", "status_code"), "packets", "servicegraph"),
    # Hubble's names
    _m("hubble_http_requests_total", "counter", "{request}", "HTTP requests.", ("method", "protocol", "status", "reporter"), "packets", "hubble"),
    _m("hubble_http_request_duration_seconds", "histogram", "s", "Duration of HTTP requests.", ("method", "reporter"), "packets", "hubble"),
    _m("hubble_flows_processed_total", "counter", "{flow}", "Flows put into the ring of flows.", ("type", "subtype", "verdict"), "agent", "hubble"),
    _m("hubble_drop_total", "counter", "{connection}", "Connection attempts that failed.", ("reason", "protocol"), "sock_ops", "hubble"),
    _m("hubble_dns_queries_total", "counter", "{query}", "DNS queries.", (), "packets", "hubble"),
    _m("hubble_dns_responses_total", "counter", "{response}", "DNS responses.", ("rcode",), "packets", "hubble"),
    _m("hubble_flows_to_world_total", "counter", "{connection}", "Connections opened to destinations outside.", ("protocol", "verdict"), "sock_ops", "hubble"),
    _m("hubble_lost_events_total", "counter", "{event}", "Events not delivered.", ("source",), "agent", "hubble"),
    # the agent itself
    _m("sidelight_seen_total", "counter", "{item}", "What a stage saw.", ("stage", "item"), "books", "self", "sidelight.seen"),
    _m("sidelight_lost_total", "counter", "{item}", "What a stage lost, by why.", ("stage", "reason"), "books", "self", "sidelight.lost"),
    _m("sidelight_undecided_total", "counter", "{item}", "What packets alone did not decide, by what.", ("reason",), "books", "self", "sidelight.undecided"),
    _m("sidelight_exchanges_total", "counter", "{exchange}", "Coverage: exchanges counted and named, counted without a name by why, or lost by why. An exchange is one at each end that is observed.", ("protocol", "outcome", "reason"), "books", "self", "sidelight.exchanges"),
    _m("sidelight_operations", "gauge", "{operation}", "Operations (HTTP routes, gRPC methods) that count apart; what is beyond `--max-operations` counts under none, as `operation_folded` of sidelight_undecided_total.", (), "agent", "self", "sidelight.operations"),
    _m("sidelight_identity_resolutions_total", "counter", "{connection}", "Ends named, by how the name was known.", ("end", "source"), "identity", "self", "sidelight.identity.resolutions"),
    _m("sidelight_identity_unresolved_total", "counter", "{connection}", "Ends without a name, by why.", ("reason",), "identity", "self", "sidelight.identity.unresolved"),
    _m("sidelight_identity_staleness_seconds", "gauge", "s", "Time since the API server was last heard; 0 without Kubernetes.", (), "identity", "self", "sidelight.identity.staleness"),
    _m("sidelight_identity_names", "gauge", "{name}", "Names learned from DNS, SNI and Host that are remembered.", (), "identity", "self", "sidelight.identity.names"),
    _m("sidelight_bpf_run_time_seconds_total", "counter", "s", "Run time of a hook's programs; measured while kernel.bpf_stats_enabled is 1.", ("hook",), "bpf_stats", "self", "sidelight.bpf.run_time"),
    _m("sidelight_bpf_runs_total", "counter", "{run}", "Runs of a hook's programs; counted while kernel.bpf_stats_enabled is 1.", ("hook",), "bpf_stats", "self", "sidelight.bpf.runs"),
    _m("sidelight_map_fill_ratio", "gauge", "1", "How full a kernel map was at the last drain; for the ring, what waits.", ("map",), "agent", "self", "sidelight.map.fill"),
    _m("sidelight_cpu_seconds_total", "counter", "s", "CPU time of the agent process.", (), "agent", "self", "sidelight.cpu.time"),
    _m("sidelight_memory_bytes", "gauge", "By", "Resident memory of the agent process.", (), "agent", "self", "sidelight.memory"),
    _m("sidelight_ring_bytes", "gauge", "By", "Memory of the ring of flows.", (), "agent", "self", "sidelight.ring.bytes"),
    _m("sidelight_shed_level", "gauge", "1", "Detail shed by the governor: 0 nothing, 1 events, 2 heads too, 3 L7 too.", (), "agent", "self", "sidelight.shed.level"),
    _m("sidelight_series_folded", "gauge", "{series}", "Edges folded into `other` by the cardinality budget.", (), "exporter", "self", "sidelight.series.folded"),
    _m("sidelight_series_expired", "gauge", "{series}", "Edges not shown because they have been quiet for the TTL.", (), "exporter", "self", "sidelight.series.expired"),
    _m("sidelight_spans_total", "counter", "{span}", "Spans, by what became of them.", ("outcome",), "exporter", "self", "sidelight.spans"),
    _m("sidelight_build_info", "gauge", "1", "Always 1; the version is in the label.", ("version",), "agent", "self"),
)  # fmt: skip

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in CATALOG}
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(metric.group for metric in CATALOG))
DEFAULT_GROUPS: frozenset[str] = frozenset({"http", "rpc", "db", "tcp", "dns", "self"})


def markdown() -> str:
    """docs/metrics.md."""
    titles = {
        "http": "HTTP (OpenTelemetry semantic conventions)",
        "rpc": "RPC (OpenTelemetry semantic conventions)",
        "db": "Data stores and brokers (OpenTelemetry semantic conventions)",
        "tcp": "TCP",
        "dns": "DNS",
        "istio": "Istio's standard metrics, opt-in (`--metrics istio`)",
        "servicegraph": "Tempo's service graph, opt-in (`--metrics servicegraph`)",
        "hubble": "Hubble's names, opt-in (`--metrics hubble`)",
        "self": "Sidelight itself",
    }
    bounds = ", ".join(f"{layout.BUCKET_BOUNDS_S[i]:.6g}" for i in CLASSIC_BUCKETS)
    lines = [
        "# Metrics",
        "",
        "Generated from `exporter/catalog.py` by `make docs`; `make check` compares.",
        "",
        "Edge labels: " + ", ".join(f"`{label}`" for label in EDGE_LABELS) + ". Labels that do not apply are left out.",
        "`reporter` is `source` where the client's node reports and `destination` where the server's does: sum over one of them.",
        "",
        f"Classic histogram bounds, in seconds, each an exact bound of the kernel's buckets: {bounds}.",
    ]
    for group in GROUPS:
        lines += [
            "",
            f"## {titles[group]}",
            "",
            "| name | type | unit | labels | meaning | source |",
            "|---|---|---|---|---|---|",
        ]
        for metric in (m for m in CATALOG if m.group == group):
            labels = metric.labels
            own = [label for label in labels if label not in EDGE_LABELS and label not in ISTIO_LABELS]
            shared = "edge" if labels[: len(_E)] == _E else "Istio's" if labels[: len(_I)] == _I else ""
            text = ", ".join(
                ([f"({shared})"] if shared else []) + [f"`{label}`" for label in (own if shared else labels)]
            )
            lines.append(
                f"| `{metric.name}` | {metric.type} | {metric.unit} | {text} | {metric.help} | {metric.source} |"
            )
    return "\n".join(lines) + "\n"
