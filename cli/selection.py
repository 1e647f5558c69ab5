"""Selectors as people type them -> Hubble flow filters, plus what only we can tell (slow, failed). Pure.

web, shop/web       a workload          pod:shop/web-1   svc:shop/web   unit:nginx   dns:*.example.com
10.0.0.1, 10.0/16   an address          :8080            a server's port
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product

from sidelight.agent.errors import ConfigError
from sidelight.agent.protocols import GRPC_CODES, GRPC_SERVER_ERRORS, STORES
from sidelight.agent.wire import is_search_noise
from sidelight.exporter.detail import detail_of
from sidelight.exporter.proto import flow_pb2 as pb

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)$")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_s(text: str) -> float:
    """Seconds of `200ms`, `5m`, `1.5s`. Raises ConfigError."""
    match = _DURATION.match(text.strip())
    if not match:
        raise ConfigError(f"{text!r} is not a duration: want 200ms, 5s, 10m")
    return float(match[1]) * _UNITS[match[2]]


def moment(text: str, now: datetime) -> datetime:
    """A time: a duration before now, or ISO 8601. Raises ConfigError."""
    if _DURATION.match(text.strip()):
        return now - timedelta(seconds=duration_s(text))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a time: want 5m, or 2024-05-01T12:00:00") from None
    return at if at.tzinfo else at.astimezone(UTC)


def end_filter(selector: str, end: str) -> dict[str, object]:
    """FlowFilter fields for one end, `source` or `destination`. Raises ConfigError."""
    prefix, colon, rest = selector.partition(":")
    if selector.startswith(":"):
        if not rest.isdigit() or int(rest) > 65535:
            raise ConfigError(f"{selector!r} is not a port")
        return {f"{end}_port": [rest]}
    if colon and prefix == "pod":
        return {f"{end}_pod": [rest]}
    if colon and prefix in ("svc", "service"):
        return {f"{end}_service": [rest]}
    if colon and prefix in ("dns", "fqdn"):
        return {f"{end}_fqdn": [rest]}
    if colon and prefix in ("ns", "namespace"):
        return {f"{end}_pod": [f"{rest}/"]}
    if colon and prefix == "label":
        return {f"{end}_label": [rest]}
    if colon and prefix in ("workload", "unit", "container", "process"):
        return _workload(rest, end)
    try:
        ipaddress.ip_network(selector, strict=False)
    except ValueError:
        pass
    else:
        return {f"{end}_ip": [selector]}
    if colon:
        raise ConfigError(
            f"unknown selector {selector!r}: pod: svc: ns: dns: label: workload: unit:, an address or :PORT"
        )
    if selector in ("world", "host"):
        return {f"{end}_label": [f"reserved:{selector}"]}
    return _workload(selector, end)


def _workload(name: str, end: str) -> dict[str, object]:
    namespace, slash, workload = name.rpartition("/")
    fields: dict[str, object] = {}
    if slash and not namespace:
        raise ConfigError(f"{name!r}: want NAMESPACE/WORKLOAD")
    if slash:
        fields[f"{end}_pod"] = [f"{namespace}/"]
    if workload:
        fields[f"{end}_workload"] = [pb.Workload(name=workload)]
    if not fields:
        raise ConfigError("empty selector")
    return fields


def _either(selector: str) -> list[dict[str, object]]:
    """Either end; a port is the server's."""
    if selector.startswith(":"):
        return [end_filter(selector, "destination")]
    return [end_filter(selector, "source"), end_filter(selector, "destination")]


NAMED_STATUSES = {*GRPC_CODES, *(status for store in STORES.values() for status in store.statuses if status)}
STORE_TITLES = {store.program: title for title, store in STORES.items()}
"""What the option calls them, and what flows do."""


def is_named(status: str) -> bool:
    """gRPC's, or a data store's: a name, SQLSTATE, or MySQL's number, which has four digits or more."""
    return status.upper() in NAMED_STATUSES or (status.isdigit() and len(status) >= 4)


@dataclass(frozen=True, slots=True)
class Selection:
    """What `tail` and friends were asked for."""

    selectors: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    path: str = ""
    role: str = ""
    protocol: str = ""
    failed: bool = False
    slower_s: float = 0.0
    trace: str = ""
    negate: bool = False
    extra: dict[str, object] = field(default_factory=dict)

    def filters(self) -> list[pb.FlowFilter]:
        """Filters of which one has to match. Raises ConfigError."""
        common: dict[str, object] = dict(self.extra)
        codes = [value for value in self.status if not is_named(value)]
        if codes and len(codes) < len(self.status):
            raise ConfigError("--status: HTTP's, or gRPC's and data stores', not both at once")
        if codes:
            common["http_status_code"] = [_status(value) for value in codes]
        if self.methods:
            common["http_method"] = [method.upper() for method in self.methods]
        if self.path:
            common["http_path"] = ["^" + re.escape(self.path)]
        if self.role:
            common["traffic_direction"] = [pb.EGRESS if self.role == "client" else pb.INGRESS]
        if self.protocol and self.protocol not in STORE_TITLES:
            common["protocol"] = [self.protocol]
        if self.trace:
            common["trace_id"] = [self.trace]
        groups: list[list[dict[str, object]]] = []
        if self.selectors:
            groups.append([fields for selector in self.selectors for fields in _either(selector)])
        if self.sources:
            groups.append([end_filter(selector, "source") for selector in self.sources])
        if self.destinations:
            groups.append([end_filter(selector, "destination") for selector in self.destinations])
        found = []
        for combination in product(*groups):
            merged = dict(common)
            for fields in combination:
                if merged.keys() & fields.keys():
                    raise ConfigError("selectors contradict each other")
                merged.update(fields)
            if merged:
                found.append(pb.FlowFilter(**merged))  # type: ignore[arg-type]
        return found

    def local(self) -> Callable[[pb.Flow], bool]:
        """What the filters cannot say, decided here."""

        named = {value.upper() for value in self.status if is_named(value)}
        title = STORE_TITLES.get(self.protocol)

        def wanted(flow: pb.Flow) -> bool:
            if named and detail_of(flow).status not in named:
                return False
            if title and detail_of(flow).protocol != title:
                return False
            if self.slower_s and flow.l7.latency_ns < self.slower_s * 1e9:
                return False
            return not self.failed or is_failed(flow)

        return wanted


def is_failed(flow: pb.Flow) -> bool:
    """A failed attempt, a 5xx, a request without a response, a DNS error, a reset."""
    if flow.verdict == pb.DROPPED:
        return True
    record = flow.l7.WhichOneof("record")
    if record == "http":
        detail = detail_of(flow)
        if detail.protocol == "gRPC":
            return detail.status in ("", *(GRPC_SERVER_ERRORS if detail.reporter == "destination" else GRPC_CODES[1:]))
        return flow.l7.http.code == 0 or flow.l7.http.code >= 500
    detail = detail_of(flow)
    if detail.protocol in STORES:
        return flow.l7.type == pb.REQUEST or STORES[detail.protocol].fails(detail.status)
    if record == "dns":
        return flow.l7.dns.rcode != 0 and not is_search_noise(flow.l7.dns.query, flow.l7.dns.rcode)
    return bool(flow.l4.TCP.flags.RST)


def _status(text: str) -> str:
    """404, 4xx or 4+ in Hubble's form."""
    match = re.fullmatch(r"([1-5])xx|([1-5]\d{0,1})\+|([1-5]\d\d)", text.lower())
    if not match:
        raise ConfigError(f"{text!r} is not a status: want 404, 5xx, UNAVAILABLE or WRONGTYPE")
    return f"{match[1]}+" if match[1] else text
