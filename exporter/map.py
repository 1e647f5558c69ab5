"""The service map: who talks to whom, from a snapshot. Data for the terminal, for Mermaid and Graphviz, and for the page."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np

from sidelight.agent import layout
from sidelight.agent.core import Snapshot
from sidelight.exporter.families import FamilyOptions, shown, source_destination
from sidelight.identity.model import Identity, Kind


def node_id(identity: Identity) -> str:
    version = f"@{identity.version}" if identity.version else ""
    return (f"{identity.namespace}/" if identity.namespace else "") + (identity.workload or identity.name) + version


def quantile_s(buckets: np.ndarray, q: float) -> float:
    """The q-quantile of a latency histogram in seconds, within half a bucket (9 %); 0 when it is empty."""
    total = int(buckets.sum())
    if not total:
        return 0.0
    index = int(np.searchsorted(np.cumsum(buckets), max(1, round(q * total))))
    return float(2.0 ** ((min(index, layout.LATENCY_BUCKETS - 1) - layout.BUCKET_OFFSET - 0.5) / 4))


def service_map(snapshot: Snapshot) -> dict[str, Any]:
    """Nodes and links with totals since the beginning; a reader that polls makes rates of them.

    A link seen from both ends is shown once, as the server saw it (the client's figures where no server reports).
    """
    rows = shown(snapshot, FamilyOptions(max_edges=0))
    nodes: dict[str, dict[str, Any]] = {}
    links: dict[tuple[str, str, int], dict[str, Any]] = {}

    def node(identity: Identity) -> str:
        identifier = node_id(identity)
        nodes.setdefault(
            identifier,
            {
                "id": identifier,
                "name": identity.workload or identity.name,
                "namespace": identity.namespace,
                "kind": str(identity.kind),
                "version": identity.version,
                "outside": identity.kind in (Kind.WORLD, Kind.EXTERNAL),
            },
        )
        return identifier

    def link(edge: Any) -> dict[str, Any]:
        _, source, destination = source_destination(edge)
        key = (node(source), node(destination), edge.role)
        return links.setdefault(
            key,
            {
                "source": key[0],
                "target": key[1],
                "role": edge.role,
                "service": "",
                "requests": 0,
                "errors": 0,
                "connections": 0,
                "failed": 0,
                "bytes": 0,
                "retransmits": 0,
                "buckets": np.zeros(layout.LATENCY_BUCKETS, np.uint64),
                "ports": set(),
            },
        )

    for edge, row, _ in rows.edges:
        found = link(edge)
        found["connections"] += int(row["opened"]) + int(row["adopted"])
        found["failed"] += int(row["failed"].sum())
        found["bytes"] += int(row["tx_bytes"]) + int(row["rx_bytes"])
        found["retransmits"] += int(row["retransmits"])
        found["ports"].add(edge.port)
        if edge.service:
            found["service"] = edge.service.host
    for key, row, _ in rows.latencies:
        if key.protocol != layout.HTTP1:
            continue
        found = link(key.edge)
        count = int(row["buckets"].sum()) + int(row["untimed"])
        found["requests"] += count
        found["errors"] += count if key.status == 0 or key.status >= 500 else 0
        found["buckets"] += row["buckets"]
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for (source, target, role), found in sorted(links.items(), key=lambda item: item[0][2]):
        if (source, target) in chosen and role != layout.ROLE_SERVER:
            continue
        before = chosen.get((source, target))
        if before:
            found["failed"] = max(found["failed"], before["failed"])
            found["service"] = found["service"] or before["service"]
        chosen[(source, target)] = found
    edges = []
    for found in chosen.values():
        buckets = found.pop("buckets")
        found["p50_s"], found["p99_s"] = quantile_s(buckets, 0.5), quantile_s(buckets, 0.99)
        found["ports"] = sorted(found["ports"])
        found.pop("role")
        if found["connections"] or found["requests"] or found["failed"] or found["bytes"]:
            edges.append(found)
    used = {edge["source"] for edge in edges} | {edge["target"] for edge in edges}
    return {
        "at": snapshot.at,
        "nodes": [n for n in nodes.values() if n["id"] in used],
        "edges": sorted(edges, key=lambda edge: (edge["source"], edge["target"])),
    }


def mermaid(data: dict[str, Any]) -> str:
    """A Mermaid flowchart."""
    ids = {n["id"]: f"n{i}" for i, n in enumerate(data["nodes"])}
    lines = ["flowchart LR"]
    for n in data["nodes"]:
        shape = ("([", "])") if n["outside"] else ("[", "]")
        lines.append(f'  {ids[n["id"]]}{shape[0]}"{_quiet(n["id"])}"{shape[1]}')
    lines += [f'  {ids[e["source"]]} -->|"{_edge_text(e)}"| {ids[e["target"]]}' for e in data["edges"]]
    return "\n".join(lines) + "\n"


def dot(data: dict[str, Any]) -> str:
    """A Graphviz graph."""
    lines = ["digraph sidelight {", "  rankdir=LR; node [shape=box, style=rounded];"]
    lines += [f'  "{_quiet(n["id"])}"{" [style=dashed]" if n["outside"] else ""};' for n in data["nodes"]]
    lines += [f'  "{_quiet(e["source"])}" -> "{_quiet(e["target"])}" [label="{_edge_text(e)}"];' for e in data["edges"]]
    return "\n".join([*lines, "}"]) + "\n"


def _quiet(text: str) -> str:
    return text.replace("\\", "").replace('"', "'")


def _edge_text(edge: dict[str, Any]) -> str:
    if edge["requests"]:
        errors = f", {edge['errors']} errors" if edge["errors"] else ""
        return f"{edge['requests']} requests{errors}, p99 {edge['p99_s'] * 1000:.3g} ms"
    failed = f", {edge['failed']} failed" if edge["failed"] else ""
    return f"{edge['connections']} connections{failed}"


def map_page() -> bytes:
    """The page: one file, nothing fetched but /map.json."""
    return files("sidelight.exporter").joinpath("map.html").read_bytes()
