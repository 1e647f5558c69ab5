"""Answers to sidelight.v1.Agent's questions: JSON documents from snapshots. docs/api.md describes them."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable
from typing import Any

from sidelight import __version__
from sidelight.agent import layout
from sidelight.agent.audit import audit
from sidelight.agent.closeup import Target
from sidelight.agent.core import Agent
from sidelight.agent.governor import Level
from sidelight.agent.protocols import PROTOCOLS, TCP_RTT, failed
from sidelight.exporter.families import FamilyOptions, coverage, shown, source_destination
from sidelight.exporter.map import map_views, node_id, service_map
from sidelight.identity.names import address_of


def _edges(agent: Agent, argument: str) -> dict[str, Any]:
    """Every edge with its totals and histograms, for `top` and `diff`: a client that polls makes rates of them."""
    snapshot = agent.snapshot()
    rows = shown(snapshot, FamilyOptions(max_edges=0))
    found: dict[Any, dict[str, Any]] = {}

    def entry(edge: Any) -> dict[str, Any]:
        known = found.get(edge)
        if known is None:
            reporter, source, destination = source_destination(edge)
            known = found[edge] = {
                "reporter": reporter,
                "source": node_id(source),
                "destination": node_id(destination),
                "service": edge.service.host if edge.service else "",
                "port": edge.port,
                "statuses": {},
                "errors": 0,
                "buckets": {},
                "rtt": {},
            }
        return known

    for edge, row, _ in rows.edges:
        known = entry(edge)
        for name in ("attempts", "opened", "adopted", "tx_bytes", "rx_bytes", "retransmits", "duration_ns"):
            known[name] = int(row[name])
        known["failed"] = int(row["failed"].sum())
        known["closed"] = int(row["closed"].sum())
    for key, row, _ in rows.latencies:
        known = entry(key.edge)
        sparse = {str(i): int(n) for i, n in enumerate(row["buckets"]) if n}
        if key.protocol in PROTOCOLS:
            status = PROTOCOLS[key.protocol].answer(key.status) or "0"
            asked = sum(sparse.values()) + int(row["untimed"])
            known["statuses"][status] = known["statuses"].get(status, 0) + asked
            known["errors"] += asked if failed(key.protocol, key.status) else 0
            for index, count in sparse.items():
                known["buckets"][index] = known["buckets"].get(index, 0) + count
        elif key.protocol == TCP_RTT:
            known["rtt"] = sparse
    return {"at": snapshot.at, "edges": list(found.values())}


def _status(agent: Agent, argument: str) -> dict[str, Any]:
    snapshot = agent.snapshot()
    losses = {
        c.name: snapshot.kernel[c.name] for c in layout.counters() if c.kind == "LOST" and snapshot.kernel[c.name]
    }
    return {
        "version": __version__,
        "instance": agent.settings.instance,
        "cgroup": str(agent.settings.cgroup),
        "node": agent.settings.node,
        "cluster": agent.settings.cluster,
        "uptime_s": time.time() - snapshot.started_at,
        "programs": snapshot.load.status,
        "failed": agent.failed,
        "kubernetes": agent.settings.kubernetes,
        "staleness_s": snapshot.staleness_s,
        "edges": len(snapshot.edges),
        "flows_seen": snapshot.flows_seen,
        "operations": len(snapshot.operations),
        "seen": {c.name: snapshot.kernel[c.name] for c in layout.counters() if c.kind == "SEEN"},
        "lost": losses,
        "undecided": {
            c.name: snapshot.kernel[c.name]
            for c in layout.counters()
            if c.kind == "UNDECIDED" and snapshot.kernel[c.name]
        },
        "coverage": [
            {"protocol": protocol, "outcome": outcome, "reason": reason, "exchanges": exchanges}
            for protocol, outcome, reason, exchanges in coverage(snapshot.kernel, snapshot.latencies)
        ],
        "shed": Level(snapshot.level).name.lower(),
        "cpu_s": snapshot.cpu_seconds,
        "rss_bytes": snapshot.rss_bytes,
        "first_flow_s": agent.first_flow_s,
        "map_fill": {"edges": snapshot.edge_fill, "latencies": snapshot.latency_fill, "events": snapshot.event_fill},
        "bpf": [{"hook": c.name, "run_time_ns": c.run_time_ns, "runs": c.run_count} for c in snapshot.costs],
    }


def _explain(agent: Agent, argument: str) -> dict[str, Any]:
    """`ADDRESS[ PORT][ @SECONDS]`: who it was, how that is known, and what else it could have been."""
    words = argument.split()
    if not words:
        raise ValueError("explain what? An address")
    ipaddress.ip_address(words[0])
    address = address_of(words[0])
    port = next((int(word) for word in words[1:] if word.isdigit()), 0)
    at = next((float(word[1:]) for word in words[1:] if word.startswith("@")), time.time())
    return agent.explain(address, port, at)


def _closeup(agent: Agent, argument: str) -> dict[str, Any]:
    """JSON: `namespace`, `names`, `fresh`. A workload by pod, from the first question on (agent/closeup.py)."""
    try:
        wanted = json.loads(argument)
        namespace, names, fresh = str(wanted["namespace"]), wanted["names"], bool(wanted.get("fresh"))
        if not isinstance(names, list) or not names:
            raise TypeError("names: want a list")
        target = Target(namespace, tuple(str(name) for name in names[:20]))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"closeup of what? {error}") from None
    return agent.closeup(target, fresh=fresh)


QUERIES: dict[str, Callable[[Agent, str], dict[str, Any]]] = {
    "edges": _edges,
    "map": lambda agent, _: service_map(agent.snapshot()),
    "views": lambda agent, _: map_views(agent.snapshot()),
    "status": _status,
    "explain": _explain,
    "closeup": _closeup,
    "audit": lambda agent, _: audit(agent),
}
