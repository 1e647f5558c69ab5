"""The Grafana dashboards, as Python: `python -m tests.generated` writes daemonset/dashboards/*.json from it.

Every query is in PANELS with its unit and description; tests/end_to_end/test_prometheus.py runs them all on a real Prometheus, and
tests/unit/daemonset/test_grafana.py checks their metrics and labels against exporter/catalog.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WINDOW = "$__rate_interval"
WORKLOAD_IN = (
    'destination_cluster=~"$cluster", destination_workload_namespace=~"$namespace", destination_workload=~"$workload"'
)
WORKLOAD_OUT = 'source_cluster=~"$cluster", source_workload_namespace=~"$namespace", source_workload=~"$workload"'
INSIDE = 'destination_cluster=~"$cluster", destination_workload_namespace=~"$namespace"'
WHO = "destination_workload_namespace, destination_workload"
FROM = "source_workload_namespace, source_workload"
SERVER = "http_server_request_duration_seconds"
CLIENT = "http_client_request_duration_seconds"
FAILED = 'http_response_status_code=~"5..|"'
"""5xx, and requests that were never answered: those have no status."""


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""
    table: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12


def rate(metric: str, labels: str = "", window: str = WINDOW) -> str:
    return f"rate({metric}{{{labels}}}[{window}])"


def total(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) ({rate(metric, labels)})"


def share(metric: str, labels: str, bad: str, by: str) -> str:
    """Of each group, the share with the labels `bad`; groups without any are 0, not absent."""
    return ratio(total(metric, f"{labels}, {bad}", by), total(metric, labels, by))


def ratio(part: str, whole: str) -> str:
    return f"({part} or {whole} * 0) / ({whole} > 0)"


def quantile(q: float, histogram: str, labels: str, by: str) -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) ({rate(histogram + '_bucket', labels)}))"


def named(expr: str, label: str, *parts: str) -> str:
    return f'label_join({expr}, "{label}", "/", ' + ", ".join(f'"{part}"' for part in parts) + ")"


OVERVIEW = (
    Panel("Requests", "HTTP requests a second by the workload that serves them, as its own node saw them.",
          (Query(total(f"{SERVER}_count", INSIDE, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "reqps"),
    Panel("Failed share", "Share of requests with a 5xx status or without a response, by serving workload.",
          (Query(share(f"{SERVER}_count", INSIDE, FAILED, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "percentunit"),
    Panel("Latency, median", "Time from the first byte of a request to the first byte of its response at the server; buckets are within 10 %.",
          (Query(quantile(0.5, SERVER, INSIDE, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "s"),
    Panel("Latency, 99th percentile", "As the median, for the slowest hundredth.",
          (Query(quantile(0.99, SERVER, INSIDE, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "s"),
    Panel("Connections opened", "TCP connections accepted a second, whatever they speak.",
          (Query(total("sidelight_tcp_connections_opened_total", f'reporter="destination", {INSIDE}', WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "cps"),
    Panel("Bytes", "Bytes a second on the connections of each workload, both directions, as the serving end counted them.",
          (Query(total("sidelight_tcp_bytes_total", f'reporter="destination", {INSIDE}', WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "Bps"),
    Panel("Workloads", "The golden signals side by side: requests a second, failed share, 99th percentile.",
          (Query(total(f"{SERVER}_count", INSIDE, WHO), "requests", True), Query(share(f"{SERVER}_count", INSIDE, FAILED, WHO), "failed", True),
           Query(quantile(0.99, SERVER, INSIDE, WHO), "p99", True)), "short", "table", 24),
)  # fmt: skip
WORKLOAD = (
    Panel("In, by client", "Requests a second that the workload serves, by who asks.",
          (Query(total(f"{SERVER}_count", WORKLOAD_IN, FROM), "{{source_workload_namespace}}/{{source_workload}}"),), "reqps"),
    Panel("Out, by server", "Requests a second that the workload makes, by who answers.",
          (Query(total(f"{CLIENT}_count", WORKLOAD_OUT, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "reqps"),
    Panel("In, by status", "Requests served a second by response status; an empty one is a request without a response.",
          (Query(total(f"{SERVER}_count", WORKLOAD_IN, "http_response_status_code"), "{{http_response_status_code}}"),), "reqps"),
    Panel("In, by route", "Requests served a second by HTTP route, with `--http-route` or `--fold-http-routes`; what is beyond `--max-operations` has none.",
          (Query(total(f"{SERVER}_count", f'{WORKLOAD_IN}, http_route!=""', "http_route"), "{{http_route}}"),), "reqps"),
    Panel("In, 99th percentile by route", "Latency of each HTTP route that the workload serves.",
          (Query(quantile(0.99, SERVER, f'{WORKLOAD_IN}, http_route!=""', "http_route"), "{{http_route}}"),), "s"),
    Panel("Out, failed share by server", "Of the requests it makes, the share that failed, by who should have answered.",
          (Query(share(f"{CLIENT}_count", WORKLOAD_OUT, FAILED, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "percentunit"),
    Panel("Version against version: failed share", "The versions of what the selected workloads' service runs, side by side: is the new one worse?",
          (Query(share(f"{SERVER}_count", INSIDE, FAILED, "destination_service_name, destination_canonical_revision"), "{{destination_service_name}} {{destination_canonical_revision}}"),), "percentunit"),
    Panel("Version against version: 99th percentile", "Latency of each version behind a service.",
          (Query(quantile(0.99, SERVER, INSIDE, "destination_service_name, destination_canonical_revision"), "{{destination_service_name}} {{destination_canonical_revision}}"),), "s"),
    Panel("In, latency by client", "99th percentile of what it serves, by who asks.",
          (Query(quantile(0.99, SERVER, WORKLOAD_IN, FROM), "{{source_workload_namespace}}/{{source_workload}}"),), "s"),
    Panel("Out, latency by server", "99th percentile as the workload itself waits for it, by who answers.",
          (Query(quantile(0.99, CLIENT, WORKLOAD_OUT, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "s"),
    Panel("Body bytes", "Bytes of request and response bodies of what it serves.",
          (Query(total("http_server_request_body_size_bytes_total", WORKLOAD_IN, "destination_workload"), "requests to {{destination_workload}}"),
           Query(total("http_server_response_body_size_bytes_total", WORKLOAD_IN, "destination_workload"), "responses of {{destination_workload}}")), "Bps"),
    Panel("Bytes on connections, by peer", "All bytes of the workload's outgoing connections, HTTP or not.",
          (Query(total("sidelight_tcp_bytes_total", f'reporter="source", {WORKLOAD_OUT}', f"{WHO}, direction"), "{{destination_workload}} {{direction}}"),), "Bps"),
)  # fmt: skip
CALLS, CALLS_OUT = "rpc_server_call_duration_seconds", "rpc_client_call_duration_seconds"
CALL_FAILED = 'error_type!=""'
_LIVE = f'sum by ({WHO}, rpc_method) (sidelight_rpc_active_calls{{reporter="destination", {INSIDE}}})'
GRPC = (
    Panel("Calls", "gRPC calls that have ended a second, by the workload that serves them.",
          (Query(total(f"{CALLS}_count", INSIDE, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "reqps"),
    Panel("Failed share of calls", "Calls whose status is the server's fault (UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS), or that ended without one.",
          (Query(share(f"{CALLS}_count", INSIDE, CALL_FAILED, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "percentunit"),
    Panel("Calls, by method", "Calls to the selected workload by method; those whose method is not known have none.",
          (Query(total(f"{CALLS}_count", WORKLOAD_IN, "rpc_method"), "{{rpc_method}}"),), "reqps"),
    Panel("Calls, by status", "Calls to the selected workload by how they ended; an empty status is a call that ended without one, or whose status could not be read.",
          (Query(total(f"{CALLS}_count", WORKLOAD_IN, "rpc_status_code"), "{{rpc_status_code}}"),), "reqps"),
    Panel("Duration of calls, 99th percentile", "To the end of the call: a stream lasts as long as it is open.",
          (Query(quantile(0.99, CALLS, WORKLOAD_IN, "rpc_method"), "{{rpc_method}}"),), "s"),
    Panel("Time to the first response", "Mean time from a call's beginning to its first response message.",
          (Query(f"{total('sidelight_rpc_first_response_seconds_total', WORKLOAD_IN, 'rpc_method')} / ({total('sidelight_rpc_first_responses_total', WORKLOAD_IN, 'rpc_method')} > 0)", "{{rpc_method}}"),), "s"),
    Panel("Calls that go on", "Calls that have begun and not ended: streams.", (Query(_LIVE, "{{destination_workload}} {{rpc_method}}"),), "short"),
    Panel("Messages", "Messages of the calls that have ended, as their server saw them.",
          (Query(total("sidelight_rpc_messages_total", f'reporter="destination", {WORKLOAD_IN}', "rpc_method, direction"), "{{rpc_method}} {{direction}}"),), "mps"),
    Panel("Out, failed share of calls", "Of the calls that the workload makes, the share that did not end with OK, by who should have answered.",
          (Query(share(f"{CALLS_OUT}_count", WORKLOAD_OUT, CALL_FAILED, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "percentunit"),
    Panel("Version against version: failed share of calls", "The versions behind a service, side by side.",
          (Query(share(f"{CALLS}_count", INSIDE, CALL_FAILED, "destination_service_name, destination_canonical_revision"), "{{destination_service_name}} {{destination_canonical_revision}}"),), "percentunit"),
)  # fmt: skip
COMMANDS, COMMANDS_OUT = "db_server_operation_duration_seconds", "db_client_operation_duration_seconds"
_ANSWERED = f'reporter="destination", {WORKLOAD_IN}'
STORES = (
    Panel("Commands", "Commands that a data store has answered a second, by the workload that it is.",
          (Query(total(f"{COMMANDS}_count", INSIDE, f"{WHO}, db_system_name"), "{{destination_workload_namespace}}/{{destination_workload}} {{db_system_name}}"),), "ops"),
    Panel("Failed share of commands", "Commands that ended with an error of the data store's, or without an answer.",
          (Query(share(f"{COMMANDS}_count", INSIDE, CALL_FAILED, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "percentunit"),
    Panel("Commands, by name", "Commands to the selected workload: of Redis and memcached by name, of SQL by verb.",
          (Query(total(f"{COMMANDS}_count", WORKLOAD_IN, "db_operation_name"), "{{db_operation_name}}"),), "ops"),
    Panel("Answers that say something", "By status: an error's prefix, SQLSTATE, MySQL's number; MISS, NOT_FOUND and the like are answers, no failures.",
          (Query(total(f"{COMMANDS}_count", f'{WORKLOAD_IN}, db_response_status_code!=""', "db_response_status_code"), "{{db_response_status_code}}"),), "ops"),
    Panel("Duration of commands, 99th percentile", "From the first byte asked to the last byte answered.",
          (Query(quantile(0.99, COMMANDS, WORKLOAD_IN, "db_operation_name"), "{{db_operation_name}}"),), "s"),
    Panel("Time to the first byte", "Mean time from a command's first byte to its answer's first byte: what is left of the duration is the size of the answer.",
          (Query(f"{total('sidelight_db_first_byte_seconds_total', _ANSWERED, 'db_operation_name')} / ({total('sidelight_db_first_bytes_total', _ANSWERED, 'db_operation_name')} > 0)", "{{db_operation_name}}"),), "s"),
    Panel("Out, by data store", "Commands that the selected workload asks, by who answers.",
          (Query(total(f"{COMMANDS_OUT}_count", WORKLOAD_OUT, f"{WHO}, db_system_name"), "{{destination_workload}} {{db_system_name}}"),), "ops"),
    Panel("Out, duration, 99th percentile", "The same, as the asking side sees it: with the network between.",
          (Query(quantile(0.99, COMMANDS_OUT, WORKLOAD_OUT, WHO), "{{destination_workload_namespace}}/{{destination_workload}}"),), "s"),
    Panel("Transactions", "Transactions begun as such that have ended, by how.",
          (Query(total("sidelight_db_transaction_duration_seconds_count", f'reporter="destination", {INSIDE}', f"{WHO}, outcome"), "{{destination_workload}} {{outcome}}"),), "ops"),
    Panel("Idle in transaction", "How many transactions wait for their client's next command, on average: they hold locks meanwhile.",
          (Query(total("sidelight_db_idle_in_transaction_seconds_sum", f'reporter="destination", {INSIDE}', f"{FROM}, {WHO}"), "{{source_workload}} in {{destination_workload}}"),), "short"),
)  # fmt: skip
_EDGES = f"max by ({FROM}, {WHO}) (sum by (reporter, {FROM}, {WHO}) ({rate('sidelight_tcp_bytes_total', INSIDE)}))"
_EDGE_NAMES = named(named(_EDGES, "source", *FROM.split(", ")), "target", *WHO.split(", "))
_SEEN = f"sum by ({WHO}) ({rate('sidelight_tcp_bytes_total', INSIDE)})"
_ASKS = f"sum by ({FROM}) ({rate('sidelight_tcp_bytes_total', INSIDE)})"
MAP = (
    Panel("Who talks to whom", "Every pair of workloads with traffic, HTTP or not. An edge's figure is bytes a second, a node's the bytes it handles.",
          (Query(f"sum by (id, source, target) ({named(_EDGE_NAMES, 'id', 'source', 'target')})", "edges", True),
           Query(f"sum by (id, title) ({named(named(_SEEN, 'id', *WHO.split(', ')), 'title', 'destination_workload')} or {named(named(_ASKS, 'id', *FROM.split(', ')), 'title', 'source_workload')})", "nodes", True)),
          "Bps", "nodeGraph", 24),
    Panel("Edges", "The same pairs as a table: requests a second, failed share, 99th percentile where they speak HTTP.",
          (Query(total(f"{SERVER}_count", INSIDE, f"{FROM}, {WHO}"), "requests", True),
           Query(share(f"{SERVER}_count", INSIDE, FAILED, f"{FROM}, {WHO}"), "failed", True),
           Query(quantile(0.99, SERVER, INSIDE, f"{FROM}, {WHO}"), "p99", True)), "short", "table", 24),
)  # fmt: skip
_SENT = total("sidelight_tcp_segments_total", f'{INSIDE}, direction="transmit"', WHO)
TCP = (
    Panel("Failed attempts", "Connection attempts that came to nothing, by why: refused, timed out, unreachable, reset.",
          (Query(total("sidelight_tcp_connections_failed_total", 'reporter="source", source_cluster=~"$cluster", source_workload_namespace=~"$namespace"', f"{FROM}, {WHO}, reason"), "{{source_workload}} to {{destination_workload}} {{reason}}"),), "cps"),
    Panel("Failed share of attempts", "Of the attempts of each workload, the share that failed.",
          (Query(ratio(total("sidelight_tcp_connections_failed_total", WORKLOAD_OUT, FROM), total("sidelight_tcp_connection_attempts_total", WORKLOAD_OUT, FROM)), "{{source_workload_namespace}}/{{source_workload}}"),), "percentunit"),
    Panel("How connections end", "By how and by whose doing: fin is orderly, rst is a reset.",
          (Query(total("sidelight_tcp_connections_closed_total", f'reporter="destination", {INSIDE}', "reason"), "{{reason}}"),), "cps"),
    Panel("Retransmitted share", "Of the segments each end sent, the share that was sent again.",
          (Query(ratio(total("sidelight_tcp_retransmits_total", INSIDE, WHO), _SENT), "{{destination_workload_namespace}}/{{destination_workload}}"),), "percentunit"),
    Panel("Round-trip time", "Smoothed round-trip time of the connections, median and 99th percentile, by serving workload.",
          (Query(quantile(0.5, "sidelight_tcp_rtt_seconds", INSIDE, WHO), "{{destination_workload}} median"), Query(quantile(0.99, "sidelight_tcp_rtt_seconds", INSIDE, WHO), "{{destination_workload}} p99")), "s"),
    Panel("Time to connect", "From a client's SYN to the connection established, 99th percentile.",
          (Query(quantile(0.99, "sidelight_tcp_connect_duration_seconds", WORKLOAD_OUT, f"{FROM}, {WHO}"), "{{source_workload}} to {{destination_workload}}"),), "s"),
)  # fmt: skip
_OUTSIDE = 'reporter="source", source_cluster=~"$cluster", source_workload_namespace=~"$namespace", destination_workload_namespace=""'
DNS = (
    Panel("Look-ups", "DNS answers a second by response code. NXDOMAIN is often a search list at work (resolv.conf's ndots), no failure.",
          (Query(total("dns_lookup_duration_seconds_count", 'source_cluster=~"$cluster", source_workload_namespace=~"$namespace"', "dns_response_code"), "{{dns_response_code}}"),), "ops"),
    Panel("Look-up time", "99th percentile of the time from query to answer, by who asks.",
          (Query(quantile(0.99, "dns_lookup_duration_seconds", 'source_cluster=~"$cluster", source_workload_namespace=~"$namespace"', FROM), "{{source_workload_namespace}}/{{source_workload}}"),), "s"),
    Panel("Failed look-ups", "SERVFAIL, REFUSED and the like by who asks; NXDOMAIN is left out.",
          (Query(total("dns_lookup_duration_seconds_count", 'source_cluster=~"$cluster", source_workload_namespace=~"$namespace", dns_response_code!~"NOERROR|NXDOMAIN"', f"{FROM}, dns_response_code"), "{{source_workload}} {{dns_response_code}}"),), "ops"),
    Panel("Connections to the outside", "Connections opened to what is not in the cluster; `world` unless a name is configured.",
          (Query(total("sidelight_tcp_connections_opened_total", _OUTSIDE, f"{FROM}, destination_workload"), "{{source_workload}} to {{destination_workload}}"),), "cps"),
    Panel("Bytes to the outside", "Bytes a second to and from the outside, by workload.",
          (Query(total("sidelight_tcp_bytes_total", _OUTSIDE, f"{FROM}, destination_workload, direction"), "{{source_workload}} to {{destination_workload}} {{direction}}"),), "Bps"),
    Panel("Requests to the outside", "HTTP requests to the outside by status.",
          (Query(total(f"{CLIENT}_count", _OUTSIDE, "destination_workload, http_response_status_code"), "{{destination_workload}} {{http_response_status_code}}"),), "reqps"),
)  # fmt: skip
SELF = (
    Panel("Seen", "What each stage saw a second.", (Query(total("sidelight_seen_total", "", "stage, item"), "{{stage}} {{item}}"),), "ops"),
    Panel("Lost", "What each stage lost, by why: seen is what was exported plus this. Suppressed events are not in the counters' way.",
          (Query(total("sidelight_lost_total", "", "stage, reason"), "{{stage}} {{reason}}"),), "ops"),
    Panel("Coverage", "Exchanges a second by what is known of them: named, counted without a name, or lost, by why.",
          (Query(total("sidelight_exchanges_total", "", "protocol, outcome, reason"), "{{protocol}} {{outcome}} {{reason}}"),), "ops"),
    Panel("Named, by how it was known", "Ends of connections named a second, by source.", (Query(total("sidelight_identity_resolutions_total", "", "end, source"), "{{end}} {{source}}"),), "ops"),
    Panel("Not named, by why", "Ends that are `unknown`.", (Query(total("sidelight_identity_unresolved_total", "", "reason"), "{{reason}}"),), "ops"),
    Panel("CPU", "Cores used: the agent's process, and the kernel programs while kernel.bpf_stats_enabled is 1.",
          (Query(f"sum by (instance) ({rate('sidelight_cpu_seconds_total')})", "agent {{instance}}"), Query(f"sum by (instance) ({rate('sidelight_bpf_run_time_seconds_total')})", "programs {{instance}}")), "short"),
    Panel("Nanoseconds a run", "Mean cost of one run of a hook's programs, while kernel.bpf_stats_enabled is 1.",
          (Query(f"1e9 * sum by (hook) ({rate('sidelight_bpf_run_time_seconds_total')}) / sum by (hook) ({rate('sidelight_bpf_runs_total')} > 0)", "{{hook}}"),), "ns"),
    Panel("Memory", "Resident memory of the agent, and of it the ring of flows.",
          (Query("sidelight_memory_bytes", "{{instance}}"), Query("sidelight_ring_bytes", "ring {{instance}}")), "bytes"),
    Panel("Maps", "How full the kernel's maps were at the last drain. A full one folds new edges into `other`, exactly.",
          (Query("max by (map) (sidelight_map_fill_ratio)", "{{map}}"),), "percentunit"),
    Panel("Staleness of names", "Seconds since the API server was last heard, while it does not answer.",
          (Query("max by (instance) (sidelight_identity_staleness_seconds)", "{{instance}}"),), "s"),
    Panel("Shed", "Detail given up to stay within the budgets: 1 events, 2 heads too, 3 HTTP too.", (Query("max by (instance) (sidelight_shed_level)", "{{instance}}"),), "short"),
    Panel("Series", "Edges folded into `other` by the cardinality budget, and dropped after the TTL.",
          (Query("sum(sidelight_series_folded)", "folded"), Query("sum(sidelight_series_expired)", "expired")), "short"),
    Panel("Spans", "Spans a second by what became of them.", (Query(total("sidelight_spans_total", "", "outcome"), "{{outcome}}"),), "ops"),
)  # fmt: skip

DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "overview": ("Sidelight / Overview", OVERVIEW),
    "workload": ("Sidelight / Workload", WORKLOAD),
    "grpc": ("Sidelight / gRPC", GRPC),
    "stores": ("Sidelight / Data stores", STORES),
    "service-map": ("Sidelight / Service map", MAP),
    "tcp-health": ("Sidelight / TCP health", TCP),
    "dns-external": ("Sidelight / DNS and external calls", DNS),
    "sidelight": ("Sidelight / Sidelight itself", SELF),
}


def _variable(name: str, label: str, source: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({source}, {label})", "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }


VARIABLES = [
    {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
    _variable("cluster", "destination_cluster", "sidelight_tcp_bytes_total"),
    _variable(
        "namespace", "destination_workload_namespace", 'sidelight_tcp_bytes_total{destination_cluster=~"$cluster"}'
    ),
    _variable("workload", "destination_workload", f"sidelight_tcp_bytes_total{{{INSIDE}}}"),
]


def _panel(number: int, panel: Panel, x: int, y: int, height: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "gridPos": {"h": height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": query.legend if query.table else chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": "" if query.table else query.legend,
                "instant": query.table,
                "range": not query.table,
                "format": "table" if query.table else "time_series",
            }
            for index, query in enumerate(panel.queries)
        ],
    }
    if panel.kind == "table":
        found["transformations"] = [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "renameByName": {f"Value #{q.legend}": q.legend for q in panel.queries},
                },
            },
        ]
        units = {"failed": "percentunit", "p99": "s", "requests": "reqps"}
        found["fieldConfig"]["overrides"] = [
            {
                "matcher": {"id": "byName", "options": q.legend},
                "properties": [{"id": "unit", "value": units[q.legend]}],
            }
            for q in panel.queries
        ]
    if panel.kind == "nodeGraph":
        found["transformations"] = [
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "renameByName": {f"Value #{q.legend}": "mainstat" for q in panel.queries},
                },
            }
        ]
    return found


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard in Grafana's JSON model, schema 39 (Grafana 10.4 and later)."""
    title, panels = DASHBOARDS[name]
    placed, x, y = [], 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > 24:
            x, y = 0, y + 8
        height = 16 if panel.kind == "nodeGraph" else 8
        placed.append(_panel(number, panel, x, y, height))
        x, y = (x + panel.width, y) if height == 8 else (0, y + height)
    return {
        "uid": f"sidelight-{name}",
        "title": title,
        "tags": ["sidelight"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": VARIABLES if name != "sidelight" else VARIABLES[:1]},
        "links": [
            {
                "title": "Sidelight",
                "type": "dashboards",
                "tags": ["sidelight"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": placed,
    }
