"""Flows as lines: compact, wide, JSON (ours and Hubble's), with colour on a terminal. Pure."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click
from google.protobuf import descriptor_pool, json_format

from sidelight.agent.protocols import GRPC_SERVER_ERRORS, STORES
from sidelight.analysis.wording import bytes_text, duration_text
from sidelight.exporter.detail import detail_of
from sidelight.exporter.families import dns_code
from sidelight.exporter.proto import flow_pb2 as pb
from sidelight.exporter.proto import observer_pb2, sidelight_pb2

_COLOURS = {"2": "green", "3": "cyan", "4": "yellow", "5": "red", "0": "red"}


def _end(flow: pb.Flow, which: str, detail: sidelight_pb2.FlowDetail, wide: bool) -> str:
    end = getattr(flow, which)
    name = getattr(detail, f"{which}_name")
    if not name:
        name = f"{end.namespace}/{end.pod_name}" if end.pod_name else getattr(flow.IP, which)
    if wide and end.pod_name and end.namespace:
        name = f"{end.namespace}/{end.pod_name}"
    port = flow.l4.TCP.destination_port or flow.l4.UDP.destination_port
    if which == "destination" and port:
        name += f":{port}"
    return str(name)


def what(flow: pb.Flow, detail: sidelight_pb2.FlowDetail) -> tuple[str, str]:
    """(text, colour) of what happened."""
    record = flow.l7.WhichOneof("record")
    if record == "http":
        http = flow.l7.http
        path = "/" + http.url.partition("://")[2].partition("/")[2]
        if detail.protocol == "gRPC":
            text = f"gRPC {path.removeprefix('/')} {detail.status or '---'} {duration_text(flow.l7.latency_ns / 1e9)}"
            good = "2" if detail.status == "OK" else "5" if detail.status in ("", *GRPC_SERVER_ERRORS) else "4"
            return text + ("" if detail.status else " no status"), _COLOURS[good]
        status = str(http.code) if http.code else "---"
        text = f"{http.method} {path} {status} {duration_text(flow.l7.latency_ns / 1e9)}"
        return text + ("" if http.code else " no response"), _COLOURS.get(str(http.code)[0], "")
    if record == "dns":
        dns = flow.l7.dns
        answer = ", ".join(dns.ips[:3]) or (dns_code(dns.rcode) if dns.rcode else "empty")
        return (
            f"DNS {' '.join(dns.qtypes)} {dns.query} {answer} {duration_text(flow.l7.latency_ns / 1e9)}",
            "red" if dns.rcode else "blue",
        )
    kind = detail.kind
    seconds = duration_text(detail.duration_ns / 1e9)
    if detail.protocol in STORES:
        unanswered = flow.l7.type == pb.REQUEST
        said = "no response" if unanswered else detail.status
        failed = unanswered or STORES[detail.protocol].fails(detail.status)
        statement = flow.Summary.partition(" | ")[2]
        return f"{statement or detail.operation} {said + ' ' if said else ''}{seconds}", "red" if failed else "green"
    if kind == "open":
        return (
            "adopted" if detail.adopted else f"open in {seconds}" if detail.reporter == "source" else "accepted"
        ), ""
    if kind == "fail":
        return f"FAILED {detail.reason.replace('_', ' ')} after {seconds}", "red"
    if kind == "close":
        text = (
            f"closed {detail.reason.replace('_', ' ')} after {seconds}, "
            f"{bytes_text(detail.sent_bytes)} out, {bytes_text(detail.received_bytes)} in"
        )
        if detail.retransmits:
            text += f", {detail.retransmits} retransmitted"
        return text, "yellow" if "rst" in detail.reason or "timed" in detail.reason else "bright_black"
    if kind == "tls":
        return "TLS ClientHello", "blue"
    return flow.Summary, ""


def line(response: observer_pb2.GetFlowsResponse, style: str, *, width: int = 0, node: bool = False) -> str:
    """One flow as one line."""
    flow = response.flow
    if style in ("json", "jsonpb"):
        return json_line(response, style)
    detail = detail_of(flow)
    at = datetime.fromtimestamp(flow.time.seconds + flow.time.nanos / 1e9)
    stamp = at.strftime("%H:%M:%S.%f")[:-3] if style == "compact" else at.isoformat(timespec="milliseconds")
    wide = style == "wide"
    text, colour = what(flow, detail)
    arrow = "->" if detail.reporter != "destination" else "=>"
    source, destination = _end(flow, "source", detail, wide), _end(flow, "destination", detail, wide)
    service = flow.destination_service
    if service.name and service.name not in destination:
        destination += f" (svc {service.name})"
    parts = [
        stamp,
        *([flow.node_name] if node else []),
        source,
        arrow,
        destination,
        click.style(text, fg=colour or None),
    ]
    if wide:
        parts.append(
            click.style(
                f"[{flow.IP.source}:{flow.l4.TCP.source_port or flow.l4.UDP.source_port} {flow.IP.destination}"
                f" by {detail.source_provenance or '?'}/{detail.destination_provenance or '?'}"
                + (f" rtt {duration_text(detail.srtt_us / 1e6)}" if detail.srtt_us else "")
                + (f" trace {flow.trace_context.parent.trace_id}" if flow.trace_context.parent.trace_id else "")
                + "]",
                fg="bright_black",
            )
        )
    joined = " ".join(parts)
    if width and len(click.unstyle(joined)) > width:
        joined = _cut(joined, width)
    return joined


def _cut(text: str, width: int) -> str:
    """Cuts at `width` visible characters, colour codes not counted."""
    plain = click.unstyle(text)
    if plain == text:
        return text[: width - 1] + "…"
    out, visible, index = [], 0, 0
    while index < len(text) and visible < width - 1:
        if text[index] == "\x1b":
            end = text.index("m", index) + 1
            out.append(text[index:end])
            index = end
            continue
        out.append(text[index])
        visible += 1
        index += 1
    return "".join(out) + "…\x1b[0m"


def json_line(response: Any, style: str) -> str:
    """`jsonpb`: as the wire has it, {"flow": ...}. `json`: the same, with Sidelight's detail unpacked as `sidelight`."""
    document = json_format.MessageToDict(
        response, preserving_proto_field_name=True, descriptor_pool=descriptor_pool.Default()
    )
    if style == "json" and "flow" in document:
        extensions = document["flow"].pop("extensions", None)
        if extensions:
            extensions.pop("@type", None)
            document["flow"]["sidelight"] = extensions
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))
