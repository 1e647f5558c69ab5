"""The service map: who talks to whom, from a snapshot. Data for the terminal, for Mermaid and Graphviz, and for the page."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np

from sidelight.agent import layout
from sidelight.agent.core import Snapshot
from sidelight.agent.protocols import PROTOCOLS, failed
from sidelight.exporter.families import FamilyOptions, shown, source_destination
from sidelight.identity.model import Identity, Kind

_SUMS = ("requests", "errors", "connections", "failed", "bytes", "retransmits")


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


def map_views(snapshot: Snapshot) -> dict[str, Any]:
    """Nodes, and links by the end that reports them, with totals since the beginning. JSON; merged by merge_views()."""
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
                **dict.fromkeys(_SUMS, 0),
                "buckets": {},
                "ports": [],
            },
        )

    for edge, row, _ in rows.edges:
        found = link(edge)
        found["connections"] += int(row["opened"]) + int(row["adopted"])
        found["failed"] += int(row["failed"].sum())
        found["bytes"] += int(row["tx_bytes"]) + int(row["rx_bytes"])
        found["retransmits"] += int(row["retransmits"])
        if edge.port not in found["ports"]:
            found["ports"].append(edge.port)
        if edge.service:
            found["service"] = edge.service.host
    for key, row, _ in rows.latencies:
        if key.protocol not in PROTOCOLS:
            continue
        found = link(key.edge)
        count = int(row["buckets"].sum()) + int(row["untimed"])
        found["requests"] += count
        found["errors"] += count if failed(key.protocol, key.status) else 0
        for index in np.flatnonzero(row["buckets"]):
            found["buckets"][str(index)] = found["buckets"].get(str(index), 0) + int(row["buckets"][index])
    return {"at": snapshot.at, "nodes": list(nodes.values()), "views": list(links.values())}


def merge_views(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """One map of one or several agents' views; a reader that polls makes rates of its totals.

    A link is seen from its client's node and from its server's. Each end's views are added up, the fuller of the two is shown:
    the other one's node may have no agent. `bytes`, `retransmits` and latencies are of the end that is shown.
    """
    nodes = {node["id"]: node for document in documents for node in document["nodes"]}
    sums: dict[tuple[str, str, int], dict[str, Any]] = {}
    for view in (view for document in documents for view in document["views"]):
        key = (view["source"], view["target"], view["role"])
        known = sums.get(key)
        if known is None:
            sums[key] = {**view, "buckets": dict(view["buckets"]), "ports": list(view["ports"])}
            continue
        for name in _SUMS:
            known[name] += view[name]
        for index, count in view["buckets"].items():
            known["buckets"][index] = known["buckets"].get(index, 0) + count
        known["ports"] = sorted({*known["ports"], *view["ports"]})
        known["service"] = known["service"] or view["service"]
    links: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (source, target, _), view in sorted(sums.items(), key=lambda item: -item[0][2]):  # the server's first
        links.setdefault((source, target), []).append(view)
    edges = []
    for ends in links.values():
        fuller = max(ends, key=lambda view: (view["requests"], view["connections"]))
        row = np.zeros(layout.LATENCY_BUCKETS, np.int64)
        for index, count in fuller["buckets"].items():
            row[int(index)] = count
        edge = {name: value for name, value in fuller.items() if name not in ("buckets", "role")}
        edge |= {
            "failed": max(view["failed"] for view in ends),
            "service": next((view["service"] for view in ends if view["service"]), ""),
            "p50_s": quantile_s(row, 0.5),
            "p99_s": quantile_s(row, 0.99),
            "ports": sorted(fuller["ports"]),
        }
        if edge["connections"] or edge["requests"] or edge["failed"] or edge["bytes"]:
            edges.append(edge)
    used = {edge["source"] for edge in edges} | {edge["target"] for edge in edges}
    return {
        "at": max((document["at"] for document in documents), default=0.0),
        "nodes": [node for node in nodes.values() if node["id"] in used],
        "edges": sorted(edges, key=lambda edge: (edge["source"], edge["target"])),
    }


def service_map(snapshot: Snapshot) -> dict[str, Any]:
    """The map of one agent."""
    return merge_views([map_views(snapshot)])


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
