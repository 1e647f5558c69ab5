"""The APIs as their stock clients use them: Hubble's sequence of calls, an OTLP backend with the official servicer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from sidelight.agent import layout
from sidelight.agent.flows import FlowBatch, FlowRing
from sidelight.agent.settings import default_socket
from sidelight.cli.demo import free_port
from sidelight.exporter.detail import DETAIL
from sidelight.exporter.proto import flow_pb2, observer_pb2, observer_pb2_grpc, peer_pb2, peer_pb2_grpc
from sidelight.identity.model import EdgeNames, unknown
from tests.certificates import make_certificate
from tests.end_to_end.test_agent import served
from tests.golang import built
from tests.observed import eventually
from tests.running import running

# what `hubble observe` sends by default
DEFAULT_MASK = [
    "time", "source.identity", "source.namespace", "source.pod_name", "destination.identity", "destination.namespace",
    "destination.pod_name", "l4", "l7", "IP", "verdict", "is_reply", "event_type", "drop_reason_desc", "Summary", "Type",
    "traffic_direction", "trace_observation_point", "source_service", "destination_service", "node_name", "source_names",
    "destination_names", "source.labels", "destination.labels",
]  # fmt: skip


def test_the_calls_of_the_hubble_cli(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "server", "localhost", "127.0.0.1")
    client_certificate, client_key = make_certificate(tmp_path, "client", "client")
    port = free_port()
    with running(
        "--hubble-listen", f"127.0.0.1:{port}", "--tls-cert", str(certificate), "--tls-key", str(key),
        "--tls-client-ca", str(client_certificate),
    ) as agent:  # fmt: skip
        server_port = served(agent, tmp_path, "/len/10", "/status/404", "/status/500")
        credentials = grpc.ssl_channel_credentials(
            certificate.read_bytes(), client_key.read_bytes(), client_certificate.read_bytes()
        )
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(service="hubble.server.Observer"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            observer = observer_pb2_grpc.ObserverStub(channel)
            status = eventually(
                lambda: (s := observer.ServerStatus(observer_pb2.ServerStatusRequest())).num_flows >= 18 and s
            )
            assert status.max_flows >= 200_000 and status.seen_flows >= status.num_flows
            nodes = observer.GetNodes(observer_pb2.GetNodesRequest()).nodes
            assert len(nodes) == 1 and nodes[0].tls.enabled
            observer.GetNamespaces(observer_pb2.GetNamespacesRequest())
            peers = peer_pb2_grpc.PeerStub(channel).Notify(peer_pb2.NotifyRequest(), timeout=5)
            assert next(iter(peers)).type == peer_pb2.PEER_ADDED

            def flows(**more: Any) -> list[flow_pb2.Flow]:
                return [r.flow for r in observer.GetFlows(observer_pb2.GetFlowsRequest(**more))]

            last = flows(number=20, field_mask=FieldMask(paths=DEFAULT_MASK))
            assert 18 <= len(last) <= 20 and all(f.Summary and f.HasField("is_reply") for f in last)
            assert [f.time.ToNanoseconds() for f in last] == sorted(f.time.ToNanoseconds() for f in last)
            assert all(not f.uuid for f in last)
            assert len(flows(number=5)) == 5 and len(flows(number=5, first=True)) == 5
            f = flow_pb2.FlowFilter
            errors = flows(whitelist=[f(http_status_code=["5+"])])
            assert [flow.l7.http.code for flow in errors] == [500, 500]
            assert {flow.l7.http.code for flow in flows(whitelist=[f(protocol=["http"])], blacklist=[f(http_status_code=["404"])])} == {200, 500}  # fmt: skip
            served_flows = flows(whitelist=[f(destination_port=[str(server_port)], reply=[False])])
            assert len(served_flows) == 18 and all(flow.destination.identity == served_flows[0].destination.identity for flow in served_flows)  # fmt: skip
            middle = served_flows[9].time
            assert len(flows(since=middle)) + len(flows(until=middle)) >= 18
            for bad, code in (
                ({"whitelist": [f(http_path=["("])]}, grpc.StatusCode.INVALID_ARGUMENT),
                ({"whitelist": [f(http_header=[flow_pb2.HTTPHeader(key="x")])]}, grpc.StatusCode.UNIMPLEMENTED),
                ({"field_mask": FieldMask(paths=["no.such"])}, grpc.StatusCode.INVALID_ARGUMENT),
                ({"whitelist": [f()] * 10_000}, grpc.StatusCode.INVALID_ARGUMENT),
                ({"first": True, "follow": True, "number": 1}, grpc.StatusCode.INVALID_ARGUMENT),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    flows(**bad)
                assert caught.value.code() == code, bad
            with pytest.raises(grpc.RpcError) as caught:
                list(observer.GetAgentEvents(observer_pb2.GetAgentEventsRequest()))
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            following = observer.GetFlows(
                observer_pb2.GetFlowsRequest(follow=True, whitelist=[f(http_path=["^/len/77"])])
            )
            headers = dict(following.initial_metadata())
            assert headers["hubble-server-version"]
            served(agent, tmp_path, "/len/77")
            assert next(following).flow.l7.http.url.endswith("/len/77")
            following.cancel()
        wrong = grpc.ssl_channel_credentials(certificate.read_bytes(), key.read_bytes(), certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", wrong) as channel, pytest.raises(grpc.RpcError):
            observer_pb2_grpc.ObserverStub(channel).ServerStatus(observer_pb2.ServerStatusRequest(), timeout=5)
        import socket

        with socket.create_connection(("127.0.0.1", port)) as garbage:
            garbage.sendall(os.urandom(4096))
        assert agent.answers()


def test_json_of_a_client_that_does_not_know_our_types(tmp_path: Path) -> None:
    """`hubble observe -o json` and `-o jsonpb`, whose Go stops at an Any it cannot resolve."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    wanted, names = FileDescriptorSet(), ["observer/observer.proto"]
    for name in names:
        described = observer_pb2.DESCRIPTOR.pool.FindFileByName(
            observer_pb2.DESCRIPTOR.name if name == names[0] else name
        )
        names += [needed.name for needed in described.dependencies if needed.name not in names]
        copy = FileDescriptorProto()
        described.CopyToProto(copy)
        if copy.name not in [known.name for known in wanted.file]:
            wanted.file.insert(0, copy)
    (tmp_path / "types").write_bytes(wanted.SerializeToString())
    with running() as agent:
        served(agent, tmp_path, "/len/10", "/status/500")

        def responses(*metadata: tuple[str, str]) -> list[bytes]:
            with grpc.insecure_channel(f"unix:{default_socket(agent.instance)}") as channel:
                call = channel.unary_stream(
                    "/observer.Observer/GetFlows", observer_pb2.GetFlowsRequest.SerializeToString
                )
                return list(call(observer_pb2.GetFlowsRequest(number=100), metadata=metadata))

        def as_json(found: list[bytes]) -> subprocess.CompletedProcess[str]:
            framed = b"".join(len(message).to_bytes(4, "little") + message for message in found)
            done = subprocess.run([str(built("flows")), str(tmp_path / "types")], input=framed, capture_output=True, check=False)  # fmt: skip
            return subprocess.CompletedProcess([], done.returncode, done.stdout.decode(), done.stderr.decode())

        eventually(lambda: len(responses()) > 10)
        done = as_json(responses())
        assert done.returncode == 0, done.stderr
        codes = {
            json.loads(line)["flow"].get("l7", {}).get("http", {}).get("code") for line in done.stdout.splitlines()
        }
        assert {200, 500} <= codes
        # what our own client asks for, it gets; and Go stops at it: this is what the test is about
        refused = as_json(responses(DETAIL))
        assert refused.returncode and "sidelight.v1.FlowDetail" in refused.stderr
        assert "sidelight" in json.loads(agent.cli("tail", "--since", "5m", "--no-follow", "-o", "json").stdout.splitlines()[0])["flow"]  # fmt: skip


def batch(size: int) -> FlowBatch:
    events = np.zeros(size, layout.EVENT)
    names = (EdgeNames(unknown("x"), unknown("y")),)
    return FlowBatch(events, np.zeros(size, np.int64), np.zeros(size, np.uint32), names, {}, {}, events.nbytes + 1000)


def test_followers_of_a_ring_that_is_too_fast_for_them() -> None:
    """Twenty readers, one of them stalled: what each misses is told to it exactly, and memory stays within the limit."""
    ring = FlowRing(limit_bytes=2_000_000)
    counts = [[0, 0] for _ in range(20)]
    stalled = threading.Event()
    done = threading.Event()

    def follow(reader: int) -> None:
        position = 0
        if reader == 0:
            stalled.wait()
        while True:
            ended = done.is_set()
            batches, following, missed = ring.read(position, 0.05)
            counts[reader][1] += missed
            counts[reader][0] += sum(first + len(b) - max(first, position) for first, b in batches)
            position = following
            if ended and position >= ring.seen:
                return

    threads = [threading.Thread(target=follow, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        ring.append(batch(500))
        assert ring.bytes <= 2_000_000 + 500 * layout.EVENT.itemsize + 1000
    stalled.set()
    done.set()
    for thread in threads:
        thread.join(20)
    assert all(seen + missed == 100_000 for seen, missed in counts), counts
    assert counts[0][1] > 0


class Backend(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """An OTLP backend. `mode`: ok, refuse or away."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, str], Any]] = []
        self.metrics: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.mode = "ok"

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.metadata = dict(context.invocation_metadata())
        if self.mode == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            for resource in request.resource_spans:
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                self.spans += [(attributes, span) for scope in resource.scope_spans for span in scope.spans]
            return trace_service_pb2.ExportTraceServiceResponse()
        for resource in request.resource_metrics:
            for metric in resource.scope_metrics[0].metrics:
                self.metrics[metric.name] = metric
        return metrics_service_pb2.ExportMetricsServiceResponse()


@contextlib.contextmanager
def otlp_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Backend, grpc.Server]]:
    """One that agents started meanwhile send to."""
    backend, server = Backend(), grpc.server(ThreadPoolExecutor(8))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(backend, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(backend, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    try:
        yield backend, server
    finally:
        server.stop(0)


def test_otlp_spans_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
    with otlp_backend(monkeypatch) as (backend, server), running("--otlp") as agent:
        server_port = served(agent, tmp_path)
        trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
        url = f"http://127.0.0.1:{server_port}/status/500?token=x"
        agent.processes.start("curl", ["curl", "-s", "-H", f"traceparent: 00-{trace}-{parent}-01", url]).wait()
        agent.processes.start("curl", ["curl", "-s", f"http://127.0.0.1:{server_port}/len/5"]).wait()
        eventually(lambda: len(backend.spans) == 4)
        by_kind = {(span.kind, span.trace_id.hex() == trace): (attributes, span) for attributes, span in backend.spans}
        client, server_span = by_kind[(3, True)][1], by_kind[(2, True)][1]
        assert client.parent_span_id.hex() == parent
        assert server_span.parent_span_id == client.span_id
        assert {a.key: a.value.int_value for a in server_span.attributes}["http.response.status_code"] == 500
        assert server_span.status.code == 2 and "token" not in str(server_span)
        own_client, own_server = by_kind[(3, False)][1], by_kind[(2, False)][1]
        assert own_client.trace_id == own_server.trace_id and own_server.parent_span_id == own_client.span_id
        assert by_kind[(2, True)][0]["service.name"] == "server"
        assert backend.metadata["x-tenant"] == "shop"
        name = "http.server.request.duration"
        eventually(lambda: name in backend.metrics and sum(p.count for p in backend.metrics[name].exponential_histogram.data_points) == 2)  # fmt: skip
        assert agent.total("http_server_request_duration_seconds_count") == 2
        openmetrics = agent.get("/metrics", Accept="application/openmetrics-text").decode()
        assert f'trace_id="{trace}"' in openmetrics
        backend.mode = "refuse"
        agent.processes.start("curl", ["curl", "-s", f"http://127.0.0.1:{server_port}/len/5"]).wait()
        eventually(lambda: agent.total("sidelight_spans_total", outcome="lost_refused") == 2)
        assert agent.total("sidelight_spans_total", outcome="sent") == 4
        server.stop(0).wait()
        agent.processes.start("curl", ["curl", "-s", f"http://127.0.0.1:{server_port}/len/5"]).wait()
        eventually(lambda: agent.total("sidelight_spans_total", outcome="lost_unreachable") == 2, 40)
        assert not agent.broken_laws()


def test_the_agent_does_not_import_the_clients_models() -> None:
    """The agent must not import the official client's models: they cost 60 MB."""
    import subprocess

    code = "import sidelight.cli.runtime, sidelight.identity.kubernetes, sys; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
