"""What a span costs to make: our batches straight into opentelemetry-proto messages, and the same spans through opentelemetry-sdk."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from sidelight.agent import decode, layout
from sidelight.agent.decode import RequestText
from sidelight.agent.flows import Flow
from sidelight.agent.protocols import HTTP1
from sidelight.exporter.otlp import span_of, spans_request
from sidelight.identity.model import EdgeNames, Identity, Kind


def flows(count: int) -> list[Flow]:
    """Requests of 20 workloads, seen by their servers."""
    events = np.zeros(count, layout.EVENT)
    events["type"], events["status"], events["duration_ns"], events["method"] = decode.REQUEST, 200, 5_000_000, 1
    events["reason"] = HTTP1.number
    events["request_seq"], events["response_seq"] = np.arange(count), np.arange(count) * 7
    events["key"]["role"], events["key"]["port"] = layout.ROLE_SERVER, 8080
    pods = [
        Identity(Kind.POD, f"web-{i}", namespace="shop", workload=f"web{i}", workload_kind="Deployment", service_name=f"web{i}", uid=f"{i}", node="n1", cluster="prod")
        for i in range(20)
    ]  # fmt: skip
    return [
        Flow(i, 10**18 + i, events[i], EdgeNames(pods[i % 20], pods[(i + 1) % 20]), RequestText("GET", f"/cart/{i}", "HTTP/1.1", "web.shop"), None, "/cart/{id}")
        for i in range(count)
    ]  # fmt: skip


def run(count: int = 20_000) -> dict[str, Any]:
    made = flows(count)
    start = time.process_time()
    size = sum(len(spans_request(made[at : at + 2000])[0].SerializeToString()) for at in range(0, count, 2000))
    ours = (time.process_time() - start) / count
    sdk = _sdk(made)
    return {
        "direct": {"us_a_span": round(ours * 1e6, 1), "percent_of_a_core_at_5000_a_second": round(ours * 5000 * 100, 1), "bytes_a_span": size // count},
        "opentelemetry-sdk": {"us_a_span": round(sdk * 1e6, 1), "percent_of_a_core_at_5000_a_second": round(sdk * 5000 * 100, 1), "bytes_a_span": size // count},
    }  # fmt: skip


def _sdk(made: list[Flow]) -> float:
    """Seconds of CPU a span: the SDK's tracer and its batch encoder, with the same attributes."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

    provider = TracerProvider(resource=Resource({"service.name": "web", "k8s.pod.name": "web-1"}))
    tracer = provider.get_tracer("sidelight")
    attributes = {}
    for attribute in span_of(made[0])[1].attributes:
        value = attribute.value
        attributes[attribute.key] = value.int_value if value.HasField("int_value") else value.string_value
    start = time.process_time()
    for at in range(0, len(made), 2000):
        batch: list[ReadableSpan] = []
        for flow in made[at : at + 2000]:
            span = tracer.start_span("GET /cart/{id}", start_time=flow.time_ns - 5_000_000, attributes=dict(attributes))
            span.end(flow.time_ns)
            batch.append(span)  # type: ignore[arg-type]
        encode_spans(batch).SerializeToString()
    return (time.process_time() - start) / len(made)
