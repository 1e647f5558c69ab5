"""OTLP over gRPC: metrics with exact exponential histograms, and spans of sampled requests.

Batches are encoded straight into opentelemetry-proto messages: the SDK's instruments cannot take a ready-made histogram, and its
span processor costs an object a span. The SDK's exporters send them (exporter/otlp_sender.py).

Span and trace ids. A request with a traceparent belongs to its trace. Without one, the trace id is made of what both
ends see and NAT leaves alone: the sequence numbers of the request's and the response's first bytes, method and path. The
span ids are made likewise, so two agents that see one request agree: the server's span is the child of the client's. It
cannot work where the two ends do not share a TCP connection (a proxy or a TLS-terminating balancer in between).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import grpc
import numpy as np
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from sidelight import __version__
from sidelight.agent import decode, layout
from sidelight.agent.attribute import source_and_destination
from sidelight.agent.core import Agent
from sidelight.agent.errors import ConfigError
from sidelight.agent.flows import Flow, role_is_client
from sidelight.agent.protocols import PROTOCOLS
from sidelight.agent.vocabulary import OTHER
from sidelight.exporter.exposition import Exemplar, Exemplars
from sidelight.exporter.families import Collector, Family, FamilyOptions, edge_labels, http_labels
from sidelight.exporter.otlp_sender import MetricSender, SpanSender, sender
from sidelight.identity.model import Identity, Kind
from sidelight.identity.names import address_text

log = logging.getLogger("sidelight.otlp")

MAX_BATCH = 2000
MAX_EXEMPLARS = 4096
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
"""What trying again does not change."""
SCOPE = InstrumentationScope(name="sidelight", version=__version__)
_KIND_ATTRIBUTE = {
    "Deployment": "k8s.deployment.name",
    "StatefulSet": "k8s.statefulset.name",
    "DaemonSet": "k8s.daemonset.name",
    "Job": "k8s.job.name",
    "CronJob": "k8s.cronjob.name",
    "ReplicaSet": "k8s.replicaset.name",
}


def span_ids(flow: Flow) -> tuple[bytes, bytes, bytes, bytes]:
    """(trace id, the client span's id, the server span's id, the parent the application named or nothing)."""
    event, text = flow.event, flow.text
    seed = f"{int(event['request_seq'])}/{int(event['response_seq'])}/{text.method}/{text.path}".encode()
    if text.traceparent:
        trace, parent = bytes.fromhex(text.traceparent[3:35]), bytes.fromhex(text.traceparent[36:52])
    else:
        trace, parent = hashlib.blake2b(b"trace" + seed, digest_size=16).digest(), b""
    client = hashlib.blake2b(b"client" + trace + seed, digest_size=8).digest()
    server = hashlib.blake2b(b"server" + trace + seed, digest_size=8).digest()
    return trace, client, server, parent


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _number(key: str, value: int) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(int_value=value))


def resource_attributes(identity: Identity) -> list[KeyValue]:
    """Resource attributes of the workload a span is of."""
    pairs = {
        "service.name": identity.service_name or identity.workload or identity.name,
        "service.namespace": identity.namespace,
        "service.version": identity.version,
        "service.instance.id": identity.uid,
        "k8s.namespace.name": identity.namespace,
        "k8s.node.name": identity.node if identity.kind is Kind.POD else "",
        "k8s.cluster.name": identity.cluster,
        "host.name": identity.node if identity.kind is not Kind.POD else "",
    }
    if identity.kind is Kind.POD:
        pairs["k8s.pod.name"], pairs["k8s.pod.uid"] = identity.name, identity.uid
        pairs["k8s.container.name"] = identity.container if len(identity.container) < 64 else ""
        if attribute := _KIND_ATTRIBUTE.get(identity.workload_kind):
            pairs[attribute] = identity.workload
    return [_text(key, value) for key, value in pairs.items() if value]


def observed_elsewhere(identity: Identity) -> bool:
    """Will another agent, or this one, tell of the same request at that end? Pods and what this node observes."""
    return identity.kind in (Kind.POD, Kind.PROCESS, Kind.UNIT, Kind.CONTAINER)


def span_of(flow: Flow) -> tuple[Identity, trace_pb2.Span]:
    """(the workload whose span it is, the span) of a request flow."""
    event, text = flow.event, flow.text
    client = role_is_client(event)
    source, destination = source_and_destination(flow.names, int(event["key"]["role"]))
    trace, client_id, server_id, parent = span_ids(flow)
    status, duration = int(event["status"]), int(event["duration_ns"])
    protocol = PROTOCOLS[int(event["reason"])]
    method = protocol.method(int(event["method"]))
    path = text.path or "/"
    route = "" if client else flow.operation
    peer = destination if client else source
    address = text.host or (address_text(event["key"]["remote"].tobytes()) if client else destination.name)
    error = protocol.error_type(status, client=client)
    name = (method if method != "_OTHER" else "HTTP") + (f" {route}" if route else "")
    if protocol.system:
        name = " ".join([method if method != OTHER else protocol.system, *([flow.operation] if flow.operation else [])])
    elif protocol.rpc:
        name = flow.operation or path.removeprefix("/") or "grpc"
    # the client span hangs on what the application named, the server span on the client span, where somebody sends one
    parent_id = client_id if not client and observed_elsewhere(source) else parent
    span = trace_pb2.Span(
        trace_id=trace,
        span_id=client_id if client else server_id,
        parent_span_id=parent_id,
        name=name,
        kind=trace_pb2.Span.SPAN_KIND_CLIENT if client else trace_pb2.Span.SPAN_KIND_SERVER,
        start_time_unix_nano=flow.time_ns - duration,
        end_time_unix_nano=flow.time_ns,
    )
    peer_name = peer.service_name or peer.workload or peer.name
    port = int(event["key"]["port"])
    own: tuple[tuple[str, str], ...] = ()
    if protocol.messaging:
        own = (
            ("messaging.system", protocol.system),
            ("messaging.operation.name", method),
            ("messaging.destination.name", flow.operation),
        )
    elif protocol.system:
        own = (
            ("db.system.name", protocol.system),
            ("db.operation.name", method),
            ("db.query.summary", method),
            ("db.response.status_code", protocol.answer(status)),
        )
    elif protocol.rpc:
        own = (("rpc.system.name", "grpc"), ("rpc.method", name), ("rpc.status_code", protocol.answer(status)))
    if own:
        span.MergeFromString(_named_attributes((*own, ("error.type", error)), address, port, peer_name))
        if text.statement:
            _add_text(span, "db.query.text", text.statement)
    else:
        version = text.version.removeprefix("HTTP/") or protocol.version
        span.MergeFromString(
            _common_attributes(
                method, version, address, port, peer_name, protocol.http_status(status), route, error
            )
        )  # fmt: skip
        _add_text(span, "url.path", path)
        if client:
            _add_text(span, "url.full", f"http://{text.host or 'unknown'}{path}")
    if error:
        span.status.code = trace_pb2.Status.STATUS_CODE_ERROR
    return (source if client else destination), span


def _add_text(span: trace_pb2.Span, key: str, value: str) -> None:
    span.attributes.add(key=key).value.string_value = value


def _peer_attributes(address: str, port: int, peer_name: str) -> list[KeyValue]:
    return [
        _text("server.address", address),
        _number("server.port", port),
        _text("service.peer.name", peer_name),
        _text("peer.service", peer_name),
    ]


@lru_cache(maxsize=4096)
def _common_attributes(
    method: str, version: str, address: str, port: int, peer_name: str, status: int, route: str, error: str
) -> bytes:
    """The attributes that many spans share, encoded: one message a span is parsed from them instead of ten built."""
    attributes = [
        _text("http.request.method", method),
        _text("url.scheme", "http"),
        _text("network.protocol.name", "http"),
        _text("network.protocol.version", version),
        *_peer_attributes(address, port, peer_name),
    ]
    if status:
        attributes.append(_number("http.response.status_code", status))
    if route:
        attributes.append(_text("http.route", route))
    if error:
        attributes.append(_text("error.type", error))
    encoded: bytes = trace_pb2.Span(attributes=attributes).SerializeToString()
    return encoded


@lru_cache(maxsize=4096)
def _named_attributes(own: tuple[tuple[str, str], ...], address: str, port: int, peer_name: str) -> bytes:
    """Likewise, of a call, a data store's command or a request to a broker; what is empty is left out."""
    attributes = [_text(name, value) for name, value in own if value] + _peer_attributes(address, port, peer_name)
    encoded: bytes = trace_pb2.Span(attributes=attributes).SerializeToString()
    return encoded


def spans_request(flows: list[Flow]) -> tuple[trace_service_pb2.ExportTraceServiceRequest, int]:
    """One request of many spans, grouped by workload, and how many."""
    groups: dict[int, tuple[Identity, list[trace_pb2.Span]]] = {}
    for flow in flows:
        identity, span = span_of(flow)
        groups.setdefault(id(identity), (identity, []))[1].append(span)  # identities are shared: hashing one is dear
    request = trace_service_pb2.ExportTraceServiceRequest(
        resource_spans=[
            trace_pb2.ResourceSpans(
                resource=ResourceMessage(attributes=resource_attributes(identity)),
                scope_spans=[trace_pb2.ScopeSpans(scope=SCOPE, spans=spans)],
            )
            for identity, spans in groups.values()
        ]
    )
    return request, sum(len(spans) for _, spans in groups.values())


# -- metrics -------------------------------------------------------------------------------------------------------------


def exponential(buckets: np.ndarray, total: float, count: int) -> dict[str, Any]:
    """Fields of an exponential histogram data point of scale 2: the kernel's buckets are its buckets exactly."""
    used = np.flatnonzero(buckets)
    fields: dict[str, Any] = {
        "count": count,
        "sum": total,
        "scale": layout.BUCKET_SCALE,
        "zero_count": count - int(buckets.sum()),
    }
    if len(used):
        first, last = int(used[0]), int(used[-1])
        # bucket i ends at 2^((i - 80) / 4); OpenTelemetry's index k begins there: (2^(k/4), 2^((k+1)/4)]
        fields["positive"] = metrics_pb2.ExponentialHistogramDataPoint.Buckets(
            offset=first - layout.BUCKET_OFFSET - 1, bucket_counts=buckets[first : last + 1].tolist()
        )
    return fields


class Baseline:
    """What the backend has been told so far: for delta temporality, which carries what has grown since.

    A figure is taken in once the backend has taken it; what a failed export carried is in the next one.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, Any], tuple[np.ndarray, int]] = {}
        self._offered: dict[tuple[str, Any], tuple[np.ndarray, int]] = {}

    def grown(self, name: str, labels: Any, value: np.ndarray, created_ns: int, now_ns: int) -> tuple[np.ndarray, int]:
        """(growth since the last figure taken, since when); all of it when it has begun anew."""
        before, since = self._told.get((name, labels), (None, created_ns))
        self._offered[name, labels] = (value, now_ns)
        if before is None or (value < before).any():
            return value, created_ns
        return value - before, since

    def taken(self) -> None:
        """The backend has what was offered; series that are gone are forgotten."""
        self._told, self._offered = self._offered, {}

    def refused(self) -> None:
        self._offered = {}


def metrics_request(
    families: list[Family], now_ns: int, resource: list[KeyValue], baseline: Baseline | None = None
) -> Any:
    """One request of all families that have an OTLP name; cumulative, or with a baseline what has grown since it."""
    found = []
    temporality = (
        metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
        if baseline is None
        else metrics_pb2.AGGREGATION_TEMPORALITY_DELTA
    )
    for family in families:
        metric = family.metric
        if not metric.otel:
            continue
        message = metrics_pb2.Metric(name=metric.otel, unit=metric.unit, description=metric.help)
        for index, labels in enumerate(family.labels):
            attributes = [_text(name, value) for name, value in labels]
            since = int(family.created[index] * 1e9)
            if metric.type == "gauge":
                value = float(family.values[index])
                message.gauge.data_points.add(attributes=attributes, as_double=value, time_unix_nano=now_ns)
                continue
            histogram = metric.type == "histogram"
            figures = (
                np.array([*family.buckets[index], family.counts[index], family.sums[index]], np.float64)
                if histogram
                else np.array([family.values[index]], np.float64)
            )
            if baseline is not None:
                figures, since = baseline.grown(metric.otel, labels, figures, since, now_ns)
                if not figures.any():
                    continue
            times = {"start_time_unix_nano": since, "time_unix_nano": now_ns}
            if histogram:
                message.exponential_histogram.aggregation_temporality = temporality
                fields = exponential(figures[:-2].astype(np.int64), float(figures[-1]), int(figures[-2]))
                message.exponential_histogram.data_points.add(attributes=attributes, **fields, **times)
            else:
                message.sum.aggregation_temporality = temporality
                message.sum.is_monotonic = True
                message.sum.data_points.add(attributes=attributes, as_double=float(figures[0]), **times)
        found.append(message)
    return metrics_service_pb2.ExportMetricsServiceRequest(
        resource_metrics=[
            metrics_pb2.ResourceMetrics(
                resource=ResourceMessage(attributes=resource),
                scope_metrics=[metrics_pb2.ScopeMetrics(scope=SCOPE, metrics=found)],
            )
        ]
    )


def delta_wanted(environment: dict[str, str] | None = None) -> bool:
    """OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE; lowmemory is delta here. Raises ConfigError."""
    env = os.environ if environment is None else environment
    wanted = env.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative").lower()
    if wanted not in ("cumulative", "delta", "lowmemory"):
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE {wanted!r}: want cumulative, delta or lowmemory"
        )
    return wanted != "cumulative"


# -- the exporter --------------------------------------------------------------------------------------------------------


class OtlpExporter:
    """Two threads, one a signal. The ring of flows is the spans' queue: bounded, and what it overtakes is counted as lost."""

    def __init__(self, agent: Agent, options: FamilyOptions) -> None:
        self._agent, self._options = agent, options
        self._stop = threading.Event()
        self._exemplars: dict[tuple[str, Any], list[Exemplar]] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        for outcome in ("sent", "lost_queue", "lost_refused", "lost_unreachable", "rejected"):
            agent.exports[f"spans_{outcome}"] = 0
        traces, metrics = sender("TRACES"), sender("METRICS")
        delta_wanted()  # said now, not in a thread
        self._senders = [found for found in (traces, metrics) if found]
        if traces:
            self._launch("otlp-spans", self._run_spans, traces)
        if metrics:
            self._launch("otlp-metrics", self._run_metrics, metrics)

    def _launch(self, name: str, target: Callable[[Any], None], to: SpanSender | MetricSender) -> None:
        thread = threading.Thread(target=target, args=(to,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for to in self._senders:
            to.shutdown()
        for thread in self._threads:
            thread.join(timeout=3)

    def exemplars(self) -> Exemplars:
        with self._lock:
            return {key: list(values) for key, values in self._exemplars.items()}

    def _count(self, outcome: str, number: int) -> None:
        self._agent.exports[f"spans_{outcome}"] += number

    def _run_spans(self, to: SpanSender) -> None:
        ring = self._agent.flows
        position = ring.seen
        while not self._stop.is_set():
            batches, following, missed = ring.read(position, 0.5)
            self._count("lost_queue", missed)
            flows = [
                batch.flow(int(i), first + int(i))
                for first, batch in batches
                for i in np.flatnonzero(batch.events["type"] == decode.REQUEST)
                if first + i >= position
            ]
            position = following
            for start in range(0, len(flows), MAX_BATCH):
                part = flows[start : start + MAX_BATCH]
                request, number = spans_request(part)
                self._send(to, request, number)
                self._remember(part)

    def _send(self, to: SpanSender, request: Any, number: int) -> None:
        """Sends with retries; what stays unsent is counted, by whether it was refused or nobody was there."""
        if to.send(request):
            rejected = int(to.answer.partial_success.rejected_spans)
            self._count("rejected", rejected)
            self._count("sent", number - rejected)
        else:
            self._count("lost_refused" if to.refusal in _REFUSALS else "lost_unreachable", number)

    def _remember(self, flows: list[Flow]) -> None:
        """Exemplars for the latency histograms: the last few requests of each series that had a trace."""
        from sidelight.agent.books import EdgeKey, LatencyKey, metric_identity

        with self._lock:
            if len(self._exemplars) > MAX_EXEMPLARS:
                self._exemplars.clear()
            for flow in flows[-200:]:
                event, names = flow.event, flow.names
                role = int(event["key"]["role"])
                local, remote = metric_identity(names.local), metric_identity(names.remote)
                edge = EdgeKey(role, local, remote, names.service, int(event["key"]["port"]))
                key = LatencyKey(
                    edge, int(event["reason"]), int(event["method"]), int(event["status"]), int(event["operation"])
                )
                side = "client" if role == layout.ROLE_CLIENT else "server"
                series = (
                    f"http_{side}_request_duration_seconds",
                    edge_labels(edge) + http_labels(key, {key.operation: flow.operation}),
                )
                chosen = self._exemplars.setdefault(series, [])
                chosen.append(Exemplar(span_ids(flow)[0].hex(), int(event["duration_ns"]) / 1e9, flow.time_ns / 1e9))
                del chosen[:-8]

    def _run_metrics(self, to: MetricSender) -> None:
        interval = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "60000")) / 1000
        names = {"service.name": "sidelight", "host.name": self._agent.settings.node}
        if self._agent.settings.cluster:
            names["k8s.cluster.name"] = self._agent.settings.cluster
        # OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win, as with the SDK
        merged = Resource.create(names).merge(OTELResourceDetector().detect())
        resource = [_text(key, str(value)) for key, value in merged.attributes.items()]
        baseline = Baseline() if delta_wanted() else None
        while not self._stop.wait(interval):
            families = Collector(self._agent.snapshot(), self._options).collect()
            request = metrics_request(families, time.time_ns(), resource, baseline)
            accepted = to.send(request)
            # nothing is lost: the next export carries what this one did not
            if baseline:
                baseline.taken() if accepted else baseline.refused()
