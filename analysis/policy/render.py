"""Suggested policies as manifests: NetworkPolicy v1, Cilium's, ClusterNetworkPolicy; YAML with the evidence as comments. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import yaml

from sidelight.analysis.policy.model import NAMESPACE_LABEL, Direction, Labels
from sidelight.analysis.policy.suggest import PeerOf, SuggestedPolicy, SuggestedRule, Suggestion
from sidelight.analysis.wording import bytes_text

FORMATS = ("networkpolicy", "cilium", "clusternetworkpolicy")
PRIORITY = 500
"""Of ClusterNetworkPolicies: one for all, since each has its own subjects."""


def manifest(policy: SuggestedPolicy, form: str = "networkpolicy") -> dict[str, Any]:
    """One policy as `kubectl apply` takes it."""
    return {"networkpolicy": _network_policy, "cilium": _cilium, "clusternetworkpolicy": _cluster}[form](policy)


def _network_policy(policy: SuggestedPolicy) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": {"matchLabels": dict(policy.selector)}, "policyTypes": []}
    for direction, rules in _directions(policy):
        spec["policyTypes"].append(direction.capitalize())
        spec[str(direction)] = [
            {
                direction.side: [_v1_peer(peer) for peer in rule.peers],
                "ports": [{"protocol": p, "port": n} for p, n in rule.ports],
            }
            for rule in rules
        ]
    metadata = {"name": policy.name, "namespace": policy.namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _directions(policy: SuggestedPolicy) -> Iterator[tuple[Direction, list[SuggestedRule]]]:
    """Those it has something to say of, in the manifests' order."""
    for direction in (Direction.INGRESS, Direction.EGRESS):
        rules = policy.rules(direction)
        if rules is not None:
            yield direction, rules


def _v1_peer(peer: PeerOf) -> dict[str, Any]:
    if peer.network:
        return {"ipBlock": {"cidr": peer.network}}
    found: dict[str, Any] = {"podSelector": {"matchLabels": dict(peer.labels)}}
    if peer.namespace:
        found["namespaceSelector"] = {"matchLabels": {NAMESPACE_LABEL: peer.namespace}}
    return found


def _cilium(policy: SuggestedPolicy) -> dict[str, Any]:
    spec: dict[str, Any] = {"endpointSelector": {"matchLabels": dict(policy.selector)}}
    for direction, rules in _directions(policy):
        # an empty rule: nothing is allowed, and the direction is isolated
        spec[str(direction)] = [
            found for rule in rules for found in _cilium_rules(rule, policy.namespace, direction.side)
        ] or [{}]
    metadata = {"name": policy.name, "namespace": policy.namespace}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}


def _cilium_rules(rule: SuggestedRule, namespace: str, side: str) -> list[dict[str, Any]]:
    """One for pods and one for networks: within a rule Cilium demands both."""
    ports = [{"ports": [{"port": str(number), "protocol": protocol} for protocol, number in rule.ports]}]
    pods = [
        {"matchLabels": {**dict(peer.labels), "k8s:io.kubernetes.pod.namespace": peer.namespace or namespace}}
        for peer in rule.peers
        if not peer.network
    ]
    networks = [peer.network for peer in rule.peers if peer.network and not peer.node]
    nodes = any(peer.node for peer in rule.peers)
    found: list[dict[str, Any]] = []
    if pods:
        found.append({f"{side}Endpoints": pods, "toPorts": ports})
    if networks:
        found.append({f"{side}CIDR": networks, "toPorts": ports})
    if nodes:
        # Cilium gives nodes an identity: a CIDR does not match them
        found.append({f"{side}Entities": ["host", "remote-node"], "toPorts": ports})
    return found


def _cluster(policy: SuggestedPolicy) -> dict[str, Any]:
    """Accept what was seen, then deny the rest: its tier has no isolation of its own."""
    subject = _pods(policy.namespace, policy.selector)
    spec: dict[str, Any] = {"tier": "Admin", "priority": PRIORITY, "subject": subject}
    for direction, rules in _directions(policy):
        found = [
            {
                "action": "Accept",
                direction.side: peers,
                "protocols": [{p.lower(): {"destinationPort": {"number": n}}} for p, n in rule.ports],
            }
            for rule in rules
            if (peers := _cluster_peers(rule, policy.namespace, direction))
        ]
        everything: list[dict[str, Any]] = [{"namespaces": {}}]
        if direction is Direction.EGRESS:
            everything.append({"networks": ["0.0.0.0/0", "::/0"]})
        spec[str(direction)] = [*found, {"action": "Deny", direction.side: everything}]
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": f"{policy.namespace}-{policy.name}"},
        "spec": spec,
    }


def _cluster_peers(rule: SuggestedRule, namespace: str, direction: Direction) -> list[dict[str, Any]]:
    """Ingress peers of this kind are pods alone: networks are no part of it."""
    found: list[dict[str, Any]] = [
        _pods(peer.namespace or namespace, peer.labels) for peer in rule.peers if not peer.network
    ]
    networks = [peer.network for peer in rule.peers if peer.network]
    return found + ([{"networks": networks}] if networks and direction is Direction.EGRESS else [])


def _pods(namespace: str, labels: Labels) -> dict[str, Any]:
    namespaces = {"matchLabels": {NAMESPACE_LABEL: namespace}}
    return {"pods": {"namespaceSelector": namespaces, "podSelector": {"matchLabels": dict(labels)}}}


# -- YAML with comments ----------------------------------------------------------------------------------------------


def text(suggestion: Suggestion, form: str = "networkpolicy") -> str:
    """A file for `kubectl apply -f`: warnings first, each rule below its evidence."""
    lines = [f"# warning: {warning}" for warning in suggestion.warnings]
    for policy in suggestion.policies:
        lines += ["---", *_policy_text(policy, form)]
    return "\n".join(lines) + "\n"


def _policy_text(policy: SuggestedPolicy, form: str) -> list[str]:
    document = manifest(policy, form)
    lines = [f"# {policy.namespace}/{policy.workload}"]
    lines += [f"# note: {note}" for note in policy.notes]
    lines += [
        f"# not allowed, every attempt failed: {edge.key.source} -> {edge.key.destination}:{edge.key.port} "
        f"({edge.failed} attempts: {', '.join(sorted(edge.reasons)) or 'failed'})"
        for edge in policy.failed
    ]
    spec = document.pop("spec")
    lines += [*_dump(document), "spec:"]
    directions = {str(direction): policy.rules(direction) for direction in Direction}
    for key, value in spec.items():
        rules = directions.get(key)
        if not rules or len(rules) > len(value):
            lines += ["  " + line for line in _dump({key: value})]
            continue
        lines.append(f"  {key}:")
        for index, rule in enumerate(value):
            # of kinds that need more rules than there are, the last ones have no evidence of their own
            lines += [f"    # {line}" for line in (_evidence(rules[index]) if index < len(rules) else [])]
            dumped = _dump([rule])
            lines += ["    " + line for line in dumped]
    return lines


def _dump(value: Any) -> list[str]:
    return str(yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=1000)).rstrip("\n").splitlines()


def _evidence(rule: SuggestedRule) -> list[str]:
    lines = [f"for {rule.reason}"] if rule.reason else []
    for edge in rule.edges:
        known = ", ".join(sorted({"/".join(how) for how in edge.known if any(how)}))
        failed = f", {edge.failed} failed" if edge.failed else ""
        key = edge.key
        counts = f"{edge.connections} connections{failed}, {bytes_text(edge.bytes)}, {moment(edge.first)} to {moment(edge.last)}"
        names = f"; names by {known}" if known else ""
        lines.append(f"{key.source} -> {key.destination}:{key.port} {key.protocol}: {counts}{names}")
    lines += [f"{peer.network}: {peer.says}" for peer in rule.peers if peer.network]
    return lines


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def suggestion_json(suggestion: Suggestion, form: str) -> dict[str, Any]:
    """Manifests with the evidence of each rule beside them."""
    return {
        "warnings": suggestion.warnings,
        "policies": [
            {
                "workload": f"{policy.namespace}/{policy.workload}",
                "manifest": manifest(policy, form),
                "notes": policy.notes,
                "evidence": {
                    str(direction): [
                        {
                            "reason": rule.reason,
                            "edges": [{**edge.key._asdict(), **edge.evidence()} for edge in rule.edges],
                        }
                        for rule in policy.rules(direction) or ()
                    ]
                    for direction in Direction
                },
                "failed": [{**edge.key._asdict(), **edge.evidence()} for edge in policy.failed],
            }
            for policy in suggestion.policies
        ],
    }
