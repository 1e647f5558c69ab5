"""Sending OTLP by the SDK's own exporters: their channel, credentials, headers, compression, retry and OTEL_* variables.

They are given requests that are ready: an object a span costs three times as much (docs/decisions/0005), and ready-made histograms
have no instrument. What they keep to themselves is looked at on the way: how many spans the backend rejected, and why it refused.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from sidelight.agent.errors import ConfigError


class _Ready:
    """Before one of the SDK's exporters in the order of methods."""

    answer: Any = None
    """Of the last request that the backend took."""
    refusal: grpc.StatusCode | None = None
    """Of the last one it did not take."""

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[misc]
        call = self._client.Export  # type: ignore[has-type]

        def export(**arguments: Any) -> Any:
            try:
                self.answer = call(**arguments)
            except grpc.RpcError as error:
                self.refusal = error.code()
                raise
            return self.answer

        self._client = SimpleNamespace(Export=export)

    def _translate_data(self, data: Any) -> Any:
        return data

    def _count_data(self, data: Any) -> int:
        return 0

    def send(self, request: Any) -> bool:
        """With retries, for OTEL_EXPORTER_OTLP_TIMEOUT at most. True when the backend has it: see `answer`; else `refusal`."""
        self.answer = self.refusal = None
        self._export(request)  # type: ignore[attr-defined]
        return self.answer is not None


class SpanSender(_Ready, OTLPSpanExporter):  # type: ignore[misc]
    """Takes ExportTraceServiceRequest."""


class MetricSender(_Ready, OTLPMetricExporter):  # type: ignore[misc]
    """Takes ExportMetricsServiceRequest."""


def sender(signal: str) -> SpanSender | MetricSender | None:
    """`signal`: TRACES or METRICS; None when OTEL_<signal>_EXPORTER is none. Raises ConfigError."""
    if os.environ.get(f"OTEL_{signal}_EXPORTER") == "none":
        return None
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        text = os.environ.get(name, "")
        # the SDK takes any scheme for one without TLS
        if "://" in text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).netloc):
            raise ConfigError(f"{name} {text!r} is not a URL of http or https")
    try:
        return SpanSender() if signal == "TRACES" else MetricSender()
    except (ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_*: {error}") from None
