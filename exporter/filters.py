"""Hubble's FlowFilter: compiled once into a predicate over flows. Pure.

A filter matches when every field that is set has a value that matches; a flow is wanted when a whitelist filter matches (or there
is none) and no blacklist filter does. What our data cannot answer is refused, never matched silently. Patterns are RE2: no
input makes them slow.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Iterable

import re2

from sidelight.exporter.proto import flow_pb2 as pb

Predicate = Callable[[pb.Flow], bool]
MAX_FILTERS = 256
MAX_VALUES = 1024
UNSUPPORTED = ("source_ip_xlated", "http_header", "interface", "encrypted", "experimental", "node_labels")


class FilterError(ValueError):
    """A filter that makes no sense, or asks what we cannot answer; `unsupported` tells which."""

    def __init__(self, text: str, unsupported: bool = False) -> None:
        super().__init__(text)
        self.unsupported = unsupported


def compile_filters(whitelist: Iterable[pb.FlowFilter], blacklist: Iterable[pb.FlowFilter]) -> Predicate:
    """One predicate of both lists. Raises FilterError."""
    wanted, unwanted = list(whitelist), list(blacklist)
    if len(wanted) + len(unwanted) > MAX_FILTERS:
        raise FilterError(f"more than {MAX_FILTERS} filters")
    allow = [compile_filter(item) for item in wanted]
    deny = [compile_filter(item) for item in unwanted]

    def matches(flow: pb.Flow) -> bool:
        if allow and not any(predicate(flow) for predicate in allow):
            return False
        return not any(predicate(flow) for predicate in deny)

    return matches


def compile_filter(wanted: pb.FlowFilter) -> Predicate:
    """A predicate of one filter. Raises FilterError."""
    parts: list[Predicate] = []
    for field, values in wanted.ListFields():
        if field.name in UNSUPPORTED:
            raise FilterError(f"filter on {field.name} is not supported: Sidelight does not have that data", True)
        maker = _MAKERS.get(field.name)
        if maker is None:
            raise FilterError(f"filter on {field.name} is not supported", True)
        if len(values) > MAX_VALUES:
            raise FilterError(f"more than {MAX_VALUES} values for {field.name}")
        parts.append(maker(list(values)))
    return lambda flow: all(part(flow) for part in parts)


# -- makers: values of a field -> predicate ----------------------------------------------------------------------------


def _pattern(text: str) -> re2._Regexp:
    try:
        compiled: re2._Regexp = re2.compile(text)
        return compiled
    except re2.error as error:
        raise FilterError(f"bad pattern {text!r}: {error}") from None


def _ip(get: Callable[[pb.Flow], str]) -> Callable[[list[str]], Predicate]:
    def make(values: list[str]) -> Predicate:
        try:
            networks = [ipaddress.ip_network(value, strict=False) for value in values]
        except ValueError as error:
            raise FilterError(f"bad address: {error}") from None

        def matches(flow: pb.Flow) -> bool:
            try:
                address = ipaddress.ip_address(get(flow))
            except ValueError:
                return False
            return any(address.version == network.version and address in network for network in networks)

        return matches

    return make


def _pod(get: Callable[[pb.Flow], pb.Endpoint]) -> Callable[[list[str]], Predicate]:
    """`ns/` is a whole namespace, `ns/pod` and `pod` are prefixes; without a namespace it is `default`, as in Hubble."""

    def make(values: list[str]) -> Predicate:
        wanted = []
        for value in values:
            namespace, slash, prefix = value.rpartition("/")
            if not value or value.count("/") > 1:
                raise FilterError(f"bad pod {value!r}: want [NAMESPACE/][POD]")
            wanted.append((namespace if slash else "default", prefix))

        def matches(flow: pb.Flow) -> bool:
            end = get(flow)
            if not end.pod_name and not end.namespace:
                return False
            return any(
                (namespace in ("", end.namespace)) and end.pod_name.startswith(prefix) for namespace, prefix in wanted
            )

        return matches

    return make


def _service(get: Callable[[pb.Flow], pb.Service]) -> Callable[[list[str]], Predicate]:
    def make(values: list[str]) -> Predicate:
        wanted = [value.rpartition("/") for value in values]

        def matches(flow: pb.Flow) -> bool:
            service = get(flow)
            return bool(service.name) and any(
                (service.namespace == (namespace if slash else "default") or (slash and not namespace))
                and service.name.startswith(prefix)
                for namespace, slash, prefix in wanted
            )

        return matches

    return make


def _workload(get: Callable[[pb.Flow], pb.Endpoint]) -> Callable[[list[pb.Workload]], Predicate]:
    def make(values: list[pb.Workload]) -> Predicate:
        def matches(flow: pb.Flow) -> bool:
            return any(
                (not wanted.name or wanted.name == have.name) and (not wanted.kind or wanted.kind == have.kind)
                for have in get(flow).workloads
                for wanted in values
            )

        return matches

    return make


def _fqdn(get: Callable[[pb.Flow], Iterable[str]]) -> Callable[[list[str]], Predicate]:
    def make(values: list[str]) -> Predicate:
        patterns = [value.lower().rstrip(".") for value in values]

        def matches(flow: pb.Flow) -> bool:
            return any(
                fnmatch.fnmatchcase(name.lower().rstrip("."), pattern) for name in get(flow) for pattern in patterns
            )

        return matches

    return make


_REQUIREMENT = re.compile(
    r"\s*(?:(?P<not>!)\s*(?P<absent>[^\s,()=!]+)"
    r"|(?P<set>[^\s,()=!]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)"
    r"|(?P<key>[^\s,()=!]+)\s*(?:(?P<eq>==|=|!=)\s*(?P<value>[^\s,]*))?)\s*(?:,|$)"
)


def label_selector(text: str) -> Callable[[dict[str, str]], bool]:
    """A Kubernetes label selector over labels like `k8s:app`; a key without a source matches any source. Raises FilterError."""
    requirements: list[Callable[[dict[str, str]], bool]] = []
    position = 0
    if not text.strip():
        raise FilterError("empty label selector")
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if not match or match.end() == position:
            raise FilterError(f"bad label selector {text!r}")
        position = match.end()
        requirements.append(_requirement(match))
    return lambda labels: all(requirement(labels) for requirement in requirements)


def _requirement(match: re.Match[str]) -> Callable[[dict[str, str]], bool]:
    if match["absent"]:
        absent = match["absent"]
        return lambda labels: not _label_values(labels, absent)
    if match["set"]:
        key, among = match["set"], {value.strip() for value in match["values"].split(",")}
        if match["op"] == "in":
            return lambda labels: any(value in among for value in _label_values(labels, key))
        return lambda labels: not any(value in among for value in _label_values(labels, key))
    key, value = match["key"], match["value"]
    if not match["eq"]:
        return lambda labels: bool(_label_values(labels, key))
    if match["eq"] == "!=":
        return lambda labels: value not in _label_values(labels, key)
    return lambda labels: value in _label_values(labels, key)


def _label_values(labels: dict[str, str], key: str) -> list[str]:
    if ":" in key:
        source, _, name = key.partition(":")
        if source == "any":
            return [value for have, value in labels.items() if have.partition(":")[2] == name]
        return [labels[key]] if key in labels else []
    return [value for have, value in labels.items() if have.partition(":")[2] == key]


def _labels(get: Callable[[pb.Flow], pb.Endpoint]) -> Callable[[list[str]], Predicate]:
    def make(values: list[str]) -> Predicate:
        selectors = [label_selector(value) for value in values]

        def matches(flow: pb.Flow) -> bool:
            labels = dict(label.partition("=")[::2] for label in get(flow).labels)
            return any(selector(labels) for selector in selectors)

        return matches

    return make


def _among(get: Callable[[pb.Flow], object]) -> Callable[[list[object]], Predicate]:
    def make(values: list[object]) -> Predicate:
        wanted = set(values)
        return lambda flow: get(flow) in wanted

    return make


def _port(which: str) -> Callable[[list[str]], Predicate]:
    def make(values: list[str]) -> Predicate:
        try:
            wanted = {int(value) for value in values}
        except ValueError:
            raise FilterError(f"bad port in {values}") from None

        def matches(flow: pb.Flow) -> bool:
            layer = flow.l4.WhichOneof("protocol")
            return layer in ("TCP", "UDP") and getattr(getattr(flow.l4, layer), which) in wanted

        return matches

    return make


def _status(values: list[str]) -> Predicate:
    """`404`, or `4+` for a prefix."""
    for value in values:
        if not re.fullmatch(r"\d{3}|\d{1,2}\+", value):
            raise FilterError(f"bad HTTP status {value!r}: want 404 or 4+")

    def matches(flow: pb.Flow) -> bool:
        if flow.l7.WhichOneof("record") != "http" or not flow.l7.http.code:
            return False
        code = str(flow.l7.http.code)
        return any(code.startswith(v[:-1]) if v.endswith("+") else code == v for v in values)

    return matches


def _protocol(values: list[str]) -> Predicate:
    wanted = {value.lower() for value in values}
    known = {"tcp", "udp", "icmp", "icmpv4", "icmpv6", "sctp", "http", "dns", "kafka"}
    if wanted - known:
        raise FilterError(f"unknown protocol {sorted(wanted - known)}")

    def matches(flow: pb.Flow) -> bool:
        have = {(flow.l4.WhichOneof("protocol") or "").lower(), flow.l7.WhichOneof("record") or ""}
        return bool(have & wanted)

    return matches


def _http_pattern(get: Callable[[pb.Flow], str]) -> Callable[[list[str]], Predicate]:
    def make(values: list[str]) -> Predicate:
        patterns = [_pattern(value) for value in values]
        return lambda flow: flow.l7.WhichOneof("record") == "http" and any(p.search(get(flow)) for p in patterns)

    return make


def url_path(flow: pb.Flow) -> str:
    return "/" + flow.l7.http.url.partition("://")[2].partition("/")[2].partition("?")[0]


def _dns_query(values: list[str]) -> Predicate:
    patterns = [_pattern(value) for value in values]
    return lambda flow: flow.l7.WhichOneof("record") == "dns" and any(p.search(flow.l7.dns.query) for p in patterns)


def _http_method(values: list[str]) -> Predicate:
    wanted = {value.upper() for value in values}
    return lambda flow: flow.l7.WhichOneof("record") == "http" and flow.l7.http.method.upper() in wanted


def _tcp_flags(values: list[pb.TCPFlags]) -> Predicate:
    wanted = [[field.name for field, _ in value.ListFields()] for value in values]

    def matches(flow: pb.Flow) -> bool:
        if flow.l4.WhichOneof("protocol") != "TCP":
            return False
        return any(all(getattr(flow.l4.TCP.flags, name) for name in names) for names in wanted)

    return matches


def _event_type(values: list[pb.EventTypeFilter]) -> Predicate:
    def matches(flow: pb.Flow) -> bool:
        have = flow.event_type
        return any(
            want.type == have.type and (not want.match_sub_type or want.sub_type == have.sub_type) for want in values
        )

    return matches


def _reply(values: list[bool]) -> Predicate:
    wanted = set(values)
    return lambda flow: flow.HasField("is_reply") and flow.is_reply.value in wanted


def _node(values: list[str]) -> Predicate:
    """NODE or CLUSTER/NODE with wildcards; `CLUSTER/` is any node of it."""

    def matches(flow: pb.Flow) -> bool:
        cluster, slash, node = flow.node_name.rpartition("/")
        cluster = cluster if slash else "default"
        for value in values:
            want_cluster, want_slash, want_node = value.rpartition("/")
            if want_slash and not fnmatch.fnmatchcase(cluster, want_cluster or "*"):
                continue
            if fnmatch.fnmatchcase(node, want_node or "*"):
                return True
        return False

    return matches


_MAKERS: dict[str, Callable[[list], Predicate]] = {  # type: ignore[type-arg]
    "uuid": _among(lambda flow: flow.uuid),
    "source_ip": _ip(lambda flow: flow.IP.source),
    "destination_ip": _ip(lambda flow: flow.IP.destination),
    "source_pod": _pod(lambda flow: flow.source),
    "destination_pod": _pod(lambda flow: flow.destination),
    "source_fqdn": _fqdn(lambda flow: flow.source_names),
    "destination_fqdn": _fqdn(lambda flow: flow.destination_names),
    "source_label": _labels(lambda flow: flow.source),
    "destination_label": _labels(lambda flow: flow.destination),
    "source_service": _service(lambda flow: flow.source_service),
    "destination_service": _service(lambda flow: flow.destination_service),
    "source_workload": _workload(lambda flow: flow.source),
    "destination_workload": _workload(lambda flow: flow.destination),
    "source_identity": _among(lambda flow: flow.source.identity),
    "destination_identity": _among(lambda flow: flow.destination.identity),
    "source_port": _port("source_port"),
    "destination_port": _port("destination_port"),
    "source_cluster_name": _among(lambda flow: flow.source.cluster_name),
    "destination_cluster_name": _among(lambda flow: flow.destination.cluster_name),
    "verdict": _among(lambda flow: flow.verdict),
    "drop_reason_desc": _among(lambda flow: flow.drop_reason_desc),
    "event_type": _event_type,
    "http_status_code": _status,
    "http_method": _http_method,
    "http_path": _http_pattern(url_path),
    "http_url": _http_pattern(lambda flow: flow.l7.http.url),
    "protocol": _protocol,
    "reply": _reply,
    "dns_query": _dns_query,
    "tcp_flags": _tcp_flags,
    "node_name": _node,
    "ip_version": _among(lambda flow: flow.IP.ipVersion),
    "trace_id": _among(lambda flow: flow.trace_context.parent.trace_id),
    "traffic_direction": _among(lambda flow: flow.traffic_direction),
}
