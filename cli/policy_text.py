"""What `sidelight policy` prints: edges with their walks, policies in lines that can be compared, JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from sidelight.analysis.policy.check import walk_text
from sidelight.analysis.policy.evaluate import Verdict
from sidelight.analysis.policy.model import Direction

if TYPE_CHECKING:
    from sidelight.analysis.policy.check import EdgeResult, Result
    from sidelight.analysis.policy.evaluate import Step
    from sidelight.analysis.policy.model import Peer, Policy, Selector
    from sidelight.cli.policy_sources import Flows


def describe(policy: Policy) -> list[str]:
    """A policy in lines that can be compared."""
    lines = [f"pods {_selector(policy.pods)}"]
    for direction in Direction:
        rules = policy.rules(direction)
        if rules is None:
            continue
        lines.append(f"{direction}: {'nothing' if not rules else ''}".rstrip())
        for rule in rules:
            peers = ["everybody"] if rule.peers is None else [_peer(peer) for peer in rule.peers]
            ports = (
                ["every port"]
                if rule.ports is None
                else [f"{p.protocol} {p.name or p.first or 'all'}" for p in rule.ports]
            )
            lines += [f"  {rule.action} {peer} {', '.join(ports)}" for peer in sorted(peers)]
    return lines


def _selector(selector: Selector) -> str:
    parts = [f"{r.key} {r.operator} {','.join(r.values)}".strip() for r in selector.requirements]
    return " and ".join(parts) or "all"


def _peer(peer: Peer) -> str:
    if peer.networks:
        return ",".join(map(str, peer.networks)) + (
            f" but {','.join(map(str, peer.exceptions))}" if peer.exceptions else ""
        )
    where = "here" if peer.namespaces is None else f"namespaces {_selector(peer.namespaces)}"
    return f"pods {_selector(peer.pods)} of {where}" if peer.pods is not None else where


def check_json(result: Result, flows: Flows) -> dict[str, Any]:
    return {
        "cut": sum(found.cut for found in result.edges),
        "denied_yet_flowing": sum(found.denied_now for found in result.edges),
        "lost_flows": flows.lost,
        "edges": [
            {
                **found.edge.key._asdict(), **found.edge.evidence(), "now": str(found.now), "then": str(found.then),
                "cut": found.cut, "denied_yet_flowing": found.denied_now,
                "walk": steps_json(found.walk),
            }
            for found in result.edges
        ],
        "rules_that_matched_nothing": [
            {"policy": policy.title, "direction": str(direction), "rule": rule.number} for policy, direction, rule in result.dead
        ],
        "policies_without_pods": [policy.title for policy in result.selectless],
    }  # fmt: skip


def steps_json(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """A walk."""
    return [
        {
            "direction": str(s.direction),
            "tier": str(s.tier or ""),
            "policy": s.policy.title if s.policy else "",
            "rule": s.rule,
            "says": s.says,
        }
        for s in steps
    ]


MARKS = {
    "cut": ("✗", "red"),
    "unenforced": ("!", "yellow"),
    "undefined": ("?", "yellow"),
    "opened": ("+", "cyan"),
    "same": ("·", ""),
}


def print_check(result: Result, flows: Flows, then: list[Policy], show_all: bool, proposed: bool) -> None:
    """The edges that matter, each with the walk to its verdict; then what matched nothing, and the sum."""
    for found in sorted(result.edges, key=lambda found: (_kind(found) == "same", found.edge.key)):
        kind = _kind(found)
        if kind == "same" and not show_all:
            continue
        mark, colour = MARKS[kind]
        key = found.edge.key
        verdicts = f"{found.now} -> {found.then}" if proposed and found.now != found.then else str(found.then)
        click.echo(
            click.style(
                f"{mark} {key.source} -> {key.destination}:{key.port} {key.protocol}  {verdicts}{_says(found, kind)}",
                fg=colour or None,
            )
        )
        click.echo(f"    {walk_text(found.walk if kind != 'unenforced' else found.walk_now)}")
    for policy, direction, rule in result.dead:
        click.echo(f"- {policy.title}: {direction} rule {rule.number + 1} matched nothing that was seen")
    for policy in result.selectless:
        click.echo(f"- {policy.title}: selects no pod")
    seen = sum(found.edge.connections for found in result.edges)
    click.echo(
        f"checked {len(result.edges)} edges, {seen} connections, {len(then)} policies: "
        + (f"{_edges(len(result.cut))} would be cut" if result.cut else "nothing that flows would be cut")
        + (f"; {len(result.unenforced)} denied, yet flowing" if result.unenforced else "")
        + (f"; {flows.lost} flows lost" if flows.lost else "")
    )


def _edges(count: int) -> str:
    return "1 edge" if count == 1 else f"{count} edges"


def _kind(found: EdgeResult) -> str:
    if found.cut:
        return "cut"
    if found.denied_now:
        return "unenforced"
    if found.then is Verdict.UNDEFINED:
        return "undefined"
    return "opened" if found.now is Verdict.DENIED and found.then is Verdict.ALLOWED else "same"


def _says(found: EdgeResult, kind: str) -> str:
    if kind == "cut":
        return f": {found.cut} of {found.edge.connections} connections would be cut"
    if kind == "unenforced":
        return f": denied, yet {found.denied_now} connections flowed: the network does not enforce it, or they are older than the policy"
    return ""
