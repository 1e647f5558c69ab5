"""The one table of protocols: numbers from bpf/types.h, and what books, families, spans, flows and the command line call them.

A protocol of exchanges has a program of its own a hook (bpf/README.md); the other rows are durations without a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidelight.agent import layout
from sidelight.agent.vocabulary import (
    KAFKA_COMMANDS,
    KAFKA_STATUSES,
    MEMCACHED_COMMANDS,
    MEMCACHED_FAILURES,
    MEMCACHED_STATUSES,
    OTHER,
    POSTGRESQL_STATUSES,
    REDIS_COMMANDS,
    REDIS_STATUSES,
    SQL_COMMANDS,
    STATUS_OTHER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A protocol whose exchanges are counted. Names by OpenTelemetry's semantic conventions, and Istio's."""

    number: int
    program: str
    """Suffix of its step's program: ingress_http1, egress_http1, sock_ops_http1."""
    title: str
    """As a person reads it."""
    name: str
    """network.protocol.name"""
    version: str = ""
    """network.protocol.version where the message does not say"""
    scheme: str = ""
    istio: str
    """request_protocol"""
    methods: tuple[str, ...]
    """By number; the first stands for every other one."""
    operation: str = ""
    """Label and attribute of an exchange's operation, in Prometheus' spelling."""

    counters: str = ""
    """Prefix of the kernel's counters of exchanges named and not (COVERAGE); empty where a name is never missing."""
    rpc: bool = False
    """Its statuses are gRPC's: 1 + code."""
    system: str = ""
    """db.system.name; empty for what is no data store."""
    statuses: tuple[str, ...] = ()
    """A data store's, by number: how a command went (agent/vocabulary.py)."""
    failures: frozenset[str] = frozenset()
    """Those of them that say it failed."""
    numbered: bool = False
    """Its failures have numbers, not names."""
    messaging: bool = False
    """Its names are those of messaging, and its operation is a topic."""
    quoted_names: bool = False
    """A double quote encloses a name in its statements, not a string."""

    def method(self, number: int) -> str:
        return self.methods[number] if number < len(self.methods) else self.methods[0]

    def answer(self, status: int) -> str:
        """The status as it is named: 404, NOT_FOUND, or WRONGTYPE; empty when none came, or none that says something."""
        if status in (0, STATUS_UNREAD, STATUS_SILENT):
            return ""
        if self.system:
            if self.numbered and status > STATUS_OTHER:
                return str(status)
            return self.statuses[status] if status < len(self.statuses) else OTHER
        return _grpc_name(status) if self.rpc else str(status)

    def fails(self, answer: str) -> bool:
        """Of a data store: does an answer of that name say that the command failed?"""
        return answer in self.failures or (self.numbered and bool(answer))

    def http_status(self, status: int) -> int:
        """What the HTTP response said; gRPC's failures come with 200. 0 for none, or one that could not be read."""
        if status in (0, STATUS_UNREAD) or self.system:
            return 0
        return 200 if self.rpc else status

    def grpc_code(self, status: int) -> str:
        """gRPC's number of the status, as Istio's grpc_response_status has it; empty where there is none."""
        return str(status - 1) if self.rpc and status not in (0, STATUS_UNREAD) else ""

    def error_type(self, status: int, *, client: bool) -> str:
        """error.type of an exchange with this status; empty when it did not fail, or cannot be told.

        A client's error is a 4xx too, and each of gRPC's codes but OK; a server's are those that are its own fault.
        """
        if status == 0:
            return "no_response"
        if status == STATUS_UNREAD:
            return ""
        if self.system:
            name = self.answer(status)
            return name if self.fails(name) else ""
        if self.rpc:
            name = _grpc_name(status)
            return name if (name != "OK" if client else name in GRPC_SERVER_ERRORS) else ""
        return str(status) if status >= (400 if client else 500) else ""


COVERAGE = ("named", "unnamed_before", "unnamed_sync", "unnamed_long")
"""How exchanges are known: wholly; or not, for what was said before the programs, what was lost, what is too long or too many."""
STATUS_UNREAD, STATUS_SILENT = layout.CONSTANTS["STATUS_UNREAD"], layout.CONSTANTS["STATUS_SILENT"]
GRPC_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip
"""By number (grpc.io, statuscodes.md)."""
GRPC_SERVER_ERRORS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""What counts as failed at a server (OpenTelemetry, semantic conventions for gRPC)."""


def _grpc_name(status: int) -> str:
    return GRPC_CODES[status - 1] if 0 < status <= len(GRPC_CODES) else str(status - 1)


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
HTTP2 = Protocol(
    number=layout.CONSTANTS["PROTOCOL_HTTP2"],
    program="http2",
    title="HTTP/2",
    counters="http2",
    name="http",
    version="2",
    scheme="http",
    istio="http",
    methods=layout.METHODS,
    operation="http_route",
)
GRPC = Protocol(
    number=layout.CONSTANTS["PROTOCOL_GRPC"],
    program="",
    title="gRPC",
    counters="grpc",
    name="http",
    version="2",
    scheme="http",
    istio="grpc",
    methods=("POST",),
    operation="rpc_method",
    rpc=True,
)

REDIS = Protocol(
    number=layout.CONSTANTS["PROTOCOL_REDIS"],
    program="redis",
    title="Redis",
    name="resp",
    istio="redis",
    methods=REDIS_COMMANDS,
    system="redis",
    statuses=REDIS_STATUSES,
    failures=frozenset(REDIS_STATUSES) - {"", "DISCARDED"},
)
MEMCACHED = Protocol(
    number=layout.CONSTANTS["PROTOCOL_MEMCACHED"],
    program="memcached",
    title="memcached",
    name="memcached",
    istio="tcp",
    methods=MEMCACHED_COMMANDS,
    system="memcached",
    statuses=MEMCACHED_STATUSES,
    failures=MEMCACHED_FAILURES,
)
POSTGRESQL = Protocol(
    number=layout.CONSTANTS["PROTOCOL_POSTGRESQL"],
    program="postgresql",
    title="PostgreSQL",
    name="postgresql",
    version="3",
    istio="postgres",
    methods=SQL_COMMANDS,
    system="postgresql",
    statuses=POSTGRESQL_STATUSES,
    failures=frozenset(POSTGRESQL_STATUSES) - {"", "ABORTED"},
    quoted_names=True,
)
MYSQL = Protocol(
    number=layout.CONSTANTS["PROTOCOL_MYSQL"],
    program="mysql",
    title="MySQL",
    name="mysql",
    istio="mysql",
    methods=SQL_COMMANDS,
    system="mysql",
    statuses=("", "", OTHER),
    failures=frozenset({OTHER}),
    numbered=True,
)
KAFKA = Protocol(
    number=layout.CONSTANTS["PROTOCOL_KAFKA"],
    program="kafka",
    title="Kafka",
    name="kafka",
    istio="kafka",
    methods=KAFKA_COMMANDS,
    operation="messaging_destination_name",
    system="kafka",
    statuses=KAFKA_STATUSES,
    failures=frozenset(KAFKA_STATUSES) - {""},
    messaging=True,
)

PROTOCOLS: dict[int, Protocol] = {
    protocol.number: protocol for protocol in (HTTP1, HTTP2, GRPC, REDIS, MEMCACHED, POSTGRESQL, MYSQL, KAFKA)
}
"""By number."""
STORES = {protocol.title: protocol for protocol in PROTOCOLS.values() if protocol.system}
"""Data stores, by title."""
DB_TRANSACTION, DB_IDLE = layout.CONSTANTS["PROTOCOL_DB_TRANSACTION"], layout.CONSTANTS["PROTOCOL_DB_IDLE"]
TRANSACTION_ROLLED_BACK = layout.CONSTANTS["TRANSACTION_ROLLED_BACK"]
"""Durations of transactions, and of their waiting for the next command."""
DNS = layout.CONSTANTS["PROTOCOL_DNS"]
TCP_RTT = layout.CONSTANTS["PROTOCOL_TCP_RTT"]
TCP_CONNECT = layout.CONSTANTS["PROTOCOL_TCP_CONNECT"]


def failed(protocol: int, status: int) -> bool:
    """Does an exchange count as failed at its server?"""
    return bool(PROTOCOLS[protocol].error_type(status, client=False))
