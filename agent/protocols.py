"""The one table of protocols: numbers from bpf/types.h, and what books, families, spans, flows and the command line call them.

A protocol of exchanges has a program of its own a hook (bpf/README.md); the other rows are durations without a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidelight.agent import layout


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol whose exchanges are counted. Names by OpenTelemetry's semantic conventions, and Istio's."""

    number: int
    program: str
    """Suffix of its step's program: ingress_http1, egress_http1, sock_ops_http1."""
    title: str
    """As a person reads it."""
    name: str
    """network.protocol.name"""
    version: str
    """network.protocol.version where the message does not say"""
    scheme: str
    istio: str
    """request_protocol"""
    methods: tuple[str, ...]
    """By number; the first stands for every other one."""
    operation: str
    """Label and attribute of an exchange's operation, in Prometheus' spelling."""

    def method(self, number: int) -> str:
        return self.methods[number] if number < len(self.methods) else self.methods[0]

    def error_type(self, status: int, *, client: bool) -> str:
        """error.type of an exchange with this status, 0 for none; empty when it did not fail.

        A client's error is a 4xx too in spans; for metrics both ends are judged alike, so that they can be compared.
        """
        if status == 0:
            return "no_response"
        return str(status) if status >= (400 if client else 500) else ""


HTTP1 = Protocol(
    number=layout.CONSTANTS["PROTOCOL_HTTP1"],
    program="http1",
    title="HTTP/1",
    name="http",
    version="1.1",
    scheme="http",
    istio="http",
    methods=layout.METHODS,
    operation="http_route",
)

PROTOCOLS: dict[int, Protocol] = {protocol.number: protocol for protocol in (HTTP1,)}
"""By number."""
DNS = layout.CONSTANTS["PROTOCOL_DNS"]
TCP_RTT = layout.CONSTANTS["PROTOCOL_TCP_RTT"]
TCP_CONNECT = layout.CONSTANTS["PROTOCOL_TCP_CONNECT"]


def failed(protocol: int, status: int) -> bool:
    """Does an exchange count as failed at its server?"""
    return bool(PROTOCOLS[protocol].error_type(status, client=False))
