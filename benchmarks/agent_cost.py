"""What the agent costs: CPU and memory by request rate, by number of edges, with spans and with followers; how long it takes
to the first named flow. The clients are observed; each edge is another pod of a cluster that an API server tells of (of 100 pods for
the rates, of as many as there are edges at most for the rest: 1 MB a thousand). The
kernel programs' own time is not in these figures: see program_cost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from benchmarks.load import ADDRESS, Bench, bench
from sidelight.agent import loader
from sidelight.cli.client import Client
from sidelight.cli.demo import free_port
from sidelight.exporter.proto import observer_pb2
from tests.cluster.apiserver import ApiServer
from tests.running import SIDELIGHT, cpu_seconds, rss_mb

FOLLOWERS = 5


def run(
    seconds: float = 4.0,
    rates: tuple[int, ...] = (0, 1000, 10_000, 50_000),
    edges: tuple[int, ...] = (10, 100, 1000, 10_000),
) -> dict[str, Any]:
    with bench(server_observed=False) as place, cluster(100) as api:
        found: dict[str, Any] = {**first_flow(place, api)}
        with agent(place, *knowing(api)) as process:
            for rate in rates:
                found[f"{rate} requests/s, 100 edges"] = cell(place, process, seconds, rate, min(100, edges[-1]))
            found["the most, 100 edges"] = cell(place, process, seconds, 10**6, min(100, edges[-1]))
    with bench(server_observed=False) as place, cluster(edges[-1]) as api:
        by_edges = []
        for count in edges:
            with agent(place, *knowing(api)) as process:
                row = cell(place, process, seconds, 5000, count)
                by_edges.append((count, row["cpu_percent_of_a_core"], row["rss_mb"]))
                found[f"5000 requests/s, {count} edges"] = row
        with (
            backend() as endpoint,
            agent(place, *knowing(api), "--otlp", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as process,
        ):
            found["5000 requests/s, 100 edges, spans"] = cell(place, process, seconds, 5000, min(100, edges[-1]))
        with agent(place, *knowing(api)) as process, followers(place, FOLLOWERS):
            found[f"5000 requests/s, 100 edges, {FOLLOWERS} followers"] = cell(
                place, process, seconds, 5000, min(100, edges[-1])
            )
    if len(by_edges) > 1:
        count, cpu, memory = (np.array(column) for column in zip(*by_edges, strict=True))
        found["percent_of_a_core_a_1000_edges"] = round(float(np.polyfit(count, cpu, 1)[0]) * 1000, 2)
        found["mb_a_1000_edges"] = round(float(np.polyfit(count, memory, 1)[0]) * 1000, 2)
    return found


def cell(place: Bench, process: subprocess.Popen[bytes], seconds: float, rate: int, edges: int) -> dict[str, Any]:
    """One load, after a short one that makes the edges known."""
    load = 0.0 if rate >= 10**6 else float(rate)
    connections = max(edges, 64)
    if rate:
        place.fixed_rate(load, 1.5, connections, edges)
    cpu, start, requests = cpu_seconds(process.pid), time.monotonic(), 0.0
    if rate:
        requests = place.fixed_rate(load, seconds, connections, edges)["requests"]
    else:
        time.sleep(seconds)
    elapsed = time.monotonic() - start
    return {
        "requests_a_second": round(requests / seconds),
        "cpu_percent_of_a_core": round((cpu_seconds(process.pid) - cpu) / elapsed * 100, 2),
        "rss_mb": round(rss_mb(process.pid), 1),
    }


@contextlib.contextmanager
def cluster(pods: int) -> Iterator[ApiServer]:
    """An API server with so many pods, each a workload of its own, at the server's addresses."""
    with tempfile.TemporaryDirectory() as scratch:
        api = ApiServer(Path(scratch))
        first = IPv4Address(ADDRESS)
        for number in range(pods):
            api.put(
                "pods",
                {
                    "metadata": {"name": f"web-{number}", "namespace": "shop", "uid": f"{number:08x}-0000-4000-8000-000000000000"},
                    "spec": {"nodeName": "another", "containers": [{"name": "main"}]},
                    "status": {"phase": "Running", "podIP": str(first + number), "podIPs": [{"ip": str(first + number)}]},
                },
            )  # fmt: skip
        api.start()
        try:
            yield api
        finally:
            api.stop()


@contextlib.contextmanager
def agent(place: Bench, *more: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own on the place's cgroup, ready."""
    port = free_port()
    with spawned(place.cgroup, place.instance, port, *more, **environment) as process:
        wait_ready(port)
        yield process


def knowing(api: ApiServer) -> tuple[str, ...]:
    """Options of an agent that asks an API server, and tells all it has counted."""
    return "--kubeconfig", str(api.kubeconfig()), "--max-series", "100000"


@contextlib.contextmanager
def spawned(
    cgroup: Path, instance: str, port: int, *more: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that starts; ended and taken off behind the block."""
    command = [
        *SIDELIGHT, "agent", "--cgroup", str(cgroup), "--instance", instance, "--metrics-listen", f"127.0.0.1:{port}", *more,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        loader.unload(instance)
        shutil.rmtree(Path("/run/sidelight") / instance, ignore_errors=True)


def first_flow(place: Bench, api: ApiServer) -> dict[str, float]:
    """Seconds from the start of the process until it is ready, and until it tells of a flow with a pod's name."""
    port, ready = free_port(), 0.0
    socket = Path("/run/sidelight") / place.instance / "sidelight.sock"
    place.fixed_rate(100, 0.05, 1, 1)
    began = time.monotonic()
    with spawned(place.cgroup, place.instance, port, *knowing(api)):
        while time.monotonic() < began + 30:
            if not ready and _is_ready(port):
                ready = time.monotonic() - began
            if ready:
                place.fixed_rate(100, 0.02, 1, 1)
                with grpc.insecure_channel(f"unix:{socket}") as channel:
                    flows = Client([("bench", channel)]).flows(observer_pb2.GetFlowsRequest(number=20))
                    if any(flow.flow.destination.pod_name == "web-0" for flow in flows):
                        taken = time.monotonic() - began
                        return {"seconds_to_ready": round(ready, 2), "seconds_to_first_named_flow": round(taken, 2)}
            time.sleep(0.02)
    raise RuntimeError("no named flow")


class Backend(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """An OTLP backend that takes everything and keeps nothing."""

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            return trace_service_pb2.ExportTraceServiceResponse()
        return metrics_service_pb2.ExportMetricsServiceResponse()


@contextlib.contextmanager
def backend() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 << 20)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Backend(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Backend(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)


@contextlib.contextmanager
def followers(place: Bench, count: int) -> Iterator[None]:
    """`sidelight tail`, so many times, into nothing."""
    command = [*SIDELIGHT, "tail", "--instance", place.instance, "-o", "json"]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
        return True
    return False


def wait_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if _is_ready(port):
            return
        time.sleep(0.02)
    raise RuntimeError("the agent did not become ready")
