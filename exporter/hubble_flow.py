"""A flow in Hubble's form: what its CLI, UI and relay read. Pure."""

from __future__ import annotations

import uuid

from sidelight.agent import decode, layout
from sidelight.agent.attribute import source_and_destination
from sidelight.agent.flows import Flow, role_is_client
from sidelight.agent.protocols import PROTOCOLS, Protocol
from sidelight.exporter.proto import flow_pb2 as pb
from sidelight.exporter.proto import sidelight_pb2
from sidelight.identity.model import Identity, Kind
from sidelight.identity.names import address_text, is_ipv4

EVENT_TRACE, EVENT_TRACE_SOCK, EVENT_DROP, EVENT_L7 = 4, 7, 1, 129
TRACE_TO_ENDPOINT, TRACE_TO_STACK = 0, 3
KINDS = {
    decode.OPEN: "open",
    decode.CLOSE: "close",
    decode.FAIL: "fail",
    decode.REQUEST: "request",
    decode.DNS: "dns",
    decode.TLS: "tls",
}
_RESERVED = {1: "host", 2: "world", 6: "remote-node", 7: "kube-apiserver", 0: "unknown"}
_NAMESPACE = uuid.UUID("6f0f7a1e-5d0c-4a52-9d8f-1c2d3e4f5a6b")


def labels_of(identity: Identity, number: int) -> list[str]:
    """In Cilium's form: k8s:key=value, reserved:world."""
    if number in _RESERVED:
        return [f"reserved:{_RESERVED[number]}"]
    if identity.kind is Kind.POD or (identity.kind is Kind.SERVICE and identity.labels):
        labels = [f"k8s:{key}={value}" for key, value in identity.labels]
        labels.append(f"k8s:io.kubernetes.pod.namespace={identity.namespace}")
        if not any(key in ("app", "k8s-app", "app.kubernetes.io/name") for key, _ in identity.labels):
            labels.append(f"k8s:app={identity.app or identity.workload or identity.name}")
        return sorted(labels)
    return [f"{identity.kind}:app={identity.workload or identity.name}"]


def endpoint(identity: Identity, cookie: int = 0) -> pb.Endpoint:
    number = identity.numeric()
    result = pb.Endpoint(
        identity=number,
        namespace=identity.namespace,
        labels=labels_of(identity, number),
        cluster_name=identity.cluster,
    )
    if number > 255:
        result.ID = number & 0xFFFF
        if identity.kind is not Kind.SERVICE:
            result.pod_name = identity.name
        if identity.workload and identity.workload != "unknown":
            result.workloads.add(name=identity.workload, kind=identity.workload_kind)
    return result


def names_of(identity: Identity) -> list[str]:
    return [identity.name] if identity.kind is Kind.EXTERNAL else []


def hubble_flow(flow: Flow, node_name: str) -> pb.Flow:
    """All fields our data can fill."""
    event = flow.event
    kind = int(event["type"])
    client = role_is_client(event)
    source, destination = source_and_destination(flow.names, int(event["key"]["role"]))
    # One flow an exchange, in the direction it was asked for (is_reply false, which is what the UI asks for), with the
    # answer in it: type RESPONSE, unless there was none.
    reply = kind == decode.DNS or (kind == decode.REQUEST and not event["flags"] & decode.FLAG_UNANSWERED)
    verdict = pb.DROPPED if kind == decode.FAIL else pb.FORWARDED
    result = pb.Flow(
        verdict=verdict,
        node_name=node_name,
        socket_cookie=int(event["cookie"]),
        cgroup_id=int(event["key"]["cgroup_id"]),
        uuid=str(uuid.uuid5(_NAMESPACE, f"{node_name}/{flow.time_ns}/{flow.number}")),
        traffic_direction=pb.EGRESS if client else pb.INGRESS,
        Type=pb.L7 if kind in (decode.REQUEST, decode.DNS) else pb.L3_L4,
    )
    result.time.FromNanoseconds(flow.time_ns)
    result.is_reply.value = False
    local, remote = address_text(event["local"].tobytes()), address_text(event["key"]["remote"].tobytes())
    version = pb.IPv4 if is_ipv4(event["key"]["remote"].tobytes()) else pb.IPv6
    local_port, remote_port = int(event["local_port"]), int(event["remote_port"])
    near, far = (local, local_port), (remote, remote_port)
    (source_ip, source_port), (destination_ip, destination_port) = (near, far) if client else (far, near)
    result.IP.source, result.IP.destination, result.IP.ipVersion = source_ip, destination_ip, version
    if kind == decode.DNS and not event["request_seq"]:
        result.l4.UDP.source_port, result.l4.UDP.destination_port = source_port, destination_port
    else:
        result.l4.TCP.source_port, result.l4.TCP.destination_port = source_port, destination_port
    result.source.CopyFrom(endpoint(source))
    result.destination.CopyFrom(endpoint(destination))
    result.source_names.extend(names_of(source))
    result.destination_names.extend(names_of(destination))
    if flow.names.service:
        result.destination_service.name = flow.names.service.name
        result.destination_service.namespace = flow.names.service.namespace
    result.trace_observation_point = pb.TO_STACK if client else pb.TO_ENDPOINT
    result.event_type.type = (
        EVENT_L7 if kind in (decode.REQUEST, decode.DNS) else EVENT_DROP if kind == decode.FAIL else EVENT_TRACE
    )
    result.event_type.sub_type = TRACE_TO_STACK if client else TRACE_TO_ENDPOINT
    _fill_kind(result, flow, kind, reply)
    result.extensions.Pack(detail(flow, source, destination))
    return result


def _fill_kind(result: pb.Flow, flow: Flow, kind: int, reply: bool) -> None:
    event = flow.event
    if kind == decode.OPEN:
        result.l4.TCP.flags.SYN = True
        result.Summary = "TCP Flags: SYN"
    elif kind == decode.CLOSE:
        reset = "rst" in reason_of(event)
        result.l4.TCP.flags.ACK = True
        result.l4.TCP.flags.RST, result.l4.TCP.flags.FIN = reset, not reset
        result.Summary = "TCP Flags: ACK, RST" if reset else "TCP Flags: ACK, FIN"
    elif kind == decode.FAIL:
        result.l4.TCP.flags.SYN = True
        result.Summary = f"TCP Flags: SYN ({reason_of(event)})"
    elif kind == decode.TLS:
        result.l4.TCP.flags.ACK = result.l4.TCP.flags.PSH = True
        result.Summary = "TCP Flags: ACK, PSH"
    elif kind == decode.REQUEST and PROTOCOLS[int(event["reason"])].system:
        _fill_command(result, flow, reply)
    elif kind == decode.REQUEST:
        _fill_http(result, flow, reply)
    elif kind == decode.DNS and flow.dns:
        dns = result.l7.dns
        result.l7.type = pb.RESPONSE
        result.l7.latency_ns = int(event["duration_ns"])
        dns.query, dns.rcode = flow.dns.query.rstrip(".") + ".", flow.dns.rcode
        dns.ips.extend(flow.dns.addresses)
        dns.cnames.extend(flow.dns.names)
        dns.qtypes.append(flow.dns.type)
        dns.observation_source = "sidelight"
        answer = ", ".join(flow.dns.addresses) or f"rcode {flow.dns.rcode}"
        result.Summary = f'DNS Answer "{answer}" ({flow.dns.type} {dns.query})'


def _fill_http(result: pb.Flow, flow: Flow, reply: bool) -> None:
    event, text = flow.event, flow.text
    http = result.l7.http
    result.l7.type = pb.RESPONSE if reply else pb.REQUEST
    result.l7.latency_ns = int(event["duration_ns"])
    protocol = PROTOCOLS[int(event["reason"])]
    answer = protocol.answer(int(event["status"]))
    http.code = protocol.http_status(int(event["status"]))
    http.method = text.method or protocol.method(int(event["method"]))
    http.protocol = text.version or f"HTTP/{protocol.version}"
    host = text.host or result.IP.destination
    http.url = f"http://{host}{text.path or _known_path(flow, protocol)}"
    if protocol.rpc and answer:
        http.headers.add(key="grpc-status", value=protocol.grpc_code(int(event["status"])))
    if text.traceparent:
        result.trace_context.parent.trace_id = text.traceparent[3:35]
    milliseconds = int(event["duration_ns"]) / 1e6
    if reply:
        said = answer if protocol.rpc else http.code
        result.Summary = f"{http.protocol} {said} {milliseconds:.0f}ms ({http.method} {http.url})"
    else:
        result.Summary = f"{http.protocol} {http.method} {http.url} (no response)"


def _fill_command(result: pb.Flow, flow: Flow, reply: bool) -> None:
    """A data store's: Hubble has no record for it, and shows the summary."""
    event = flow.event
    protocol = PROTOCOLS[int(event["reason"])]
    status = protocol.answer(int(event["status"]))
    result.l7.type = pb.RESPONSE if reply else pb.REQUEST
    result.l7.latency_ns = int(event["duration_ns"])
    words = [protocol.title, _operation(flow, protocol), *([status] if status else [])]
    words.append(f"{int(event['duration_ns']) / 1e6:.3g}ms" if reply else "(no response)")
    result.Summary = " ".join([*words, *(["|", flow.text.statement] if flow.text.statement else [])])


def _operation(flow: Flow, protocol: Protocol | None) -> str:
    """What was asked: a route or a gRPC method where it counts under one; a data store's command, a broker's with its topic."""
    if protocol is None or not protocol.system:
        return flow.operation
    return f"{protocol.method(int(flow.event['method']))} {flow.operation}".strip()


def _known_path(flow: Flow, protocol: Protocol) -> str:
    """Where the path's text did not come again: what it counts under, a gRPC method or a route."""
    return f"/{flow.operation}" if protocol.rpc and flow.operation else flow.operation or "/"


def reason_of(event: object) -> str:
    """Why a connection failed, or how it ended."""
    reason = int(event["reason"])  # type: ignore[index]
    names = layout.FAIL_REASONS if int(event["type"]) == decode.FAIL else layout.CLOSE_REASONS_NAMES  # type: ignore[index]
    return names[reason] if reason < len(names) else "unknown"


def detail(flow: Flow, source: Identity, destination: Identity) -> sidelight_pb2.FlowDetail:
    """What Hubble's fields cannot carry."""
    event = flow.event
    segments = int(event["segments"])
    kind = int(event["type"])
    protocol = PROTOCOLS[int(event["reason"])] if kind == decode.REQUEST else None
    return sidelight_pb2.FlowDetail(
        kind=KINDS.get(kind, ""),
        reporter="source" if role_is_client(event) else "destination",
        reason=reason_of(event) if kind in (decode.CLOSE, decode.FAIL) else "",
        sent_bytes=int(event["tx_bytes"]),
        received_bytes=int(event["rx_bytes"]),
        sent_segments=segments >> 32,
        received_segments=segments & 0xFFFFFFFF,
        retransmits=int(event["retransmits"]),
        srtt_us=int(event["srtt_us"]),
        duration_ns=int(event["duration_ns"]),
        source_provenance=source.provenance,
        destination_provenance=destination.provenance,
        source_reason=source.reason,
        destination_reason=destination.reason,
        source_name=source.display,
        destination_name=destination.display,
        adopted=bool(event["flags"] & decode.FLAG_ADOPTED),
        number=flow.number,
        host=flow.text.host,
        source_container=source.container,
        destination_container=destination.container,
        operation=_operation(flow, protocol),
        protocol=protocol.title if protocol else "",
        status=protocol.answer(int(event["status"])) if protocol else "",
    )
