"""A second evaluator, from the words of the specification, over the documents as they are: slow, plain, of nothing but sets and loops.

It answers with the set of all that may happen: {"allow"}, {"deny"} or both, which is undefined.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from sidelight.analysis.policy.model import End, Traffic

Possible = set[str]


def decide(documents: list[dict[str, Any]], namespaces: dict[str, dict[str, str]], traffic: Traffic) -> Possible:
    source, destination = traffic.source.pod, traffic.destination.pod
    if source is not None and source is destination:
        return {"allow"}
    ends = [("egress", traffic.source), ("ingress", traffic.destination)]
    results = [side(documents, namespaces, traffic, direction) for direction, end in ends if end.pod is not None]
    # denied when one end denies for sure; allowed when all do
    if any(result == {"deny"} for result in results):
        return {"deny"}
    if all(result == {"allow"} for result in results):
        return {"allow"}
    return {"allow", "deny"}


def side(
    documents: list[dict[str, Any]], namespaces: dict[str, dict[str, str]], traffic: Traffic, direction: str
) -> Possible:
    me, other = (
        (traffic.source, traffic.destination) if direction == "egress" else (traffic.destination, traffic.source)
    )
    pod = me.pod
    assert pod is not None
    if (
        not pod.host_network
        and other.node is not None
        and other.node.name == pod.node
        and (other.pod is None or other.pod.host_network)
    ):
        return {"allow"}
    found: Possible = set()
    goes_on = True
    admin = [
        d
        for d in documents
        if d["kind"] == "AdminNetworkPolicy" or (d["kind"] == "ClusterNetworkPolicy" and d["spec"]["tier"] == "Admin")
    ]
    ended = tier(admin, namespaces, traffic, direction, me, other)
    found |= ended - {"pass"}
    goes_on = "pass" in ended
    if goes_on:
        mine = [d for d in documents if d["kind"] == "NetworkPolicy" and d["metadata"]["namespace"] == pod.namespace
                and selects(d["spec"].get("podSelector") or {}, dict(pod.labels)) and direction in kinds(d["spec"])]  # fmt: skip
        if mine:
            found |= union(mine, namespaces, traffic, direction, other, pod)
        else:
            base = [
                d
                for d in documents
                if d["kind"] == "BaselineAdminNetworkPolicy"
                or (d["kind"] == "ClusterNetworkPolicy" and d["spec"]["tier"] == "Baseline")
            ]
            ended = tier(base, namespaces, traffic, direction, me, other)
            found |= {"allow" if e == "pass" else e for e in ended}
    return found


def kinds(spec: dict[str, Any]) -> set[str]:
    if spec.get("policyTypes"):
        return {t.lower() for t in spec["policyTypes"]}
    return {"ingress", "egress"} if spec.get("egress") else {"ingress"}


def union(
    policies: list[dict[str, Any]],
    namespaces: dict[str, dict[str, str]],
    traffic: Traffic,
    direction: str,
    other: End,
    pod: Any,
) -> Possible:
    if pod.host_network or traffic.protocol not in ("TCP", "UDP", "SCTP"):
        return {"allow", "deny"}
    found = {"deny"}
    for policy in policies:
        for rule in policy["spec"].get(direction) or []:
            ports = rule.get("ports") or []
            if ports and not any(port_matches(port, traffic) for port in ports):
                continue
            peers = rule.get("from" if direction == "ingress" else "to") or []
            if not peers:
                return {"allow"}
            for peer in peers:
                match = v1_peer(
                    peer,
                    policy["metadata"]["namespace"],
                    namespaces,
                    other,
                    traffic.dialled if direction == "egress" else None,
                )
                if match == {True}:
                    return {"allow"}
                if True in match:
                    found = {"allow", "deny"}
    return found


def v1_peer(
    peer: dict[str, Any], namespace: str, namespaces: dict[str, dict[str, str]], other: End, dialled: Any
) -> set[bool]:
    if peer.get("ipBlock"):
        if other.address is None:
            return {False}
        inside = {in_block(peer["ipBlock"], other.address)}
        if dialled is not None:
            inside.add(in_block(peer["ipBlock"], dialled))
        return inside
    if other.pod is None:
        return {False}
    if peer.get("namespaceSelector") is None:
        good = other.pod.namespace == namespace
    else:
        good = selects(peer["namespaceSelector"], namespace_labels(namespaces, other.pod.namespace))
    good = good and selects(peer.get("podSelector") or {}, dict(other.pod.labels))
    return {False, True} if good and other.pod.host_network else {good}


def namespace_labels(namespaces: dict[str, dict[str, str]], name: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name, **namespaces.get(name, {})}


def in_block(block: dict[str, Any], address: Any) -> bool:
    def within(text: str) -> bool:
        net = ipaddress.ip_network(text)
        return net.version == address.version and address in net

    return within(block["cidr"]) and not any(within(text) for text in block.get("except") or [])


def port_matches(port: dict[str, Any], traffic: Traffic) -> bool:
    if (port.get("protocol") or "TCP") != traffic.protocol:
        return False
    value = port.get("port")
    if value is None:
        return True
    if isinstance(value, str):
        pod = traffic.destination.pod
        return pod is not None and (value, traffic.protocol, traffic.port) in pod.ports
    return value <= traffic.port <= (port.get("endPort") or value)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for e in selector.get("matchExpressions") or []:
        key, operator = e["key"], e["operator"]
        if operator == "In" and not (key in labels and labels[key] in e["values"]):
            return False
        if operator == "NotIn" and key in labels and labels[key] in e["values"]:
            return False
        if operator == "Exists" and key not in labels:
            return False
        if operator == "DoesNotExist" and key in labels:
            return False
    return True


# -- cluster-wide ----------------------------------------------------------------------------------------------------


def tier(
    policies: list[dict[str, Any]],
    namespaces: dict[str, dict[str, str]],
    traffic: Traffic,
    direction: str,
    me: End,
    other: End,
) -> Possible:
    """What the tier may end in: allow, deny, pass."""
    assert me.pod is not None
    if me.pod.host_network:
        return {"pass"}
    subjects = [p for p in policies if subject(p["spec"]["subject"], namespaces, me)]
    found: Possible = set()
    for priority in sorted({p["spec"].get("priority", 0) for p in subjects}):
        decided, certain = set(), False
        for policy in [p for p in subjects if p["spec"].get("priority", 0) == priority]:
            for rule in policy["spec"].get(direction) or []:
                match = cluster_rule(rule, direction, namespaces, traffic, other)
                if match == "closed":
                    if rule["action"] in ("Allow", "Accept"):
                        continue
                    decided.add("deny")
                    certain = True
                    break
                if match != {False}:
                    decided.add({"Allow": "allow", "Accept": "allow", "Deny": "deny", "Pass": "pass"}[rule["action"]])
                    if match == {True}:
                        certain = True
                        break
        found |= decided
        if certain:
            return found
    return found | {"pass"}


def subject(subject: dict[str, Any], namespaces: dict[str, dict[str, str]], me: End) -> bool:
    assert me.pod is not None
    labels = namespace_labels(namespaces, me.pod.namespace)
    if "namespaces" in subject:
        return selects(subject["namespaces"], labels)
    pods = subject["pods"]
    return selects(pods.get("namespaceSelector") or {}, labels) and selects(
        pods.get("podSelector") or {}, dict(me.pod.labels)
    )


def cluster_rule(
    rule: dict[str, Any], direction: str, namespaces: dict[str, dict[str, str]], traffic: Traffic, other: End
) -> Any:
    peers = rule["from" if direction == "ingress" else "to"]
    known = {"namespaces", "pods"} | ({"nodes", "networks", "domainNames"} if direction == "egress" else set())
    if any(len(peer) != 1 or not set(peer) <= known for peer in peers):
        return "closed"
    ports = rule.get("ports") or rule.get("protocols") or []
    if ports and not any(cluster_port(port, traffic) for port in ports):
        return {False}
    matches = [
        cluster_peer(peer, namespaces, other, traffic.dialled if direction == "egress" else None) for peer in peers
    ]
    if {True} in matches:
        return {True}
    return {True, False} if any(True in match for match in matches) else {False}


def cluster_peer(peer: dict[str, Any], namespaces: dict[str, dict[str, str]], other: End, dialled: Any) -> set[bool]:
    if "networks" in peer:
        if other.address is None:
            return {False}
        seen = [other.address] + ([dialled] if dialled is not None else [])
        return {any(in_block({"cidr": text}, address) for text in peer["networks"]) for address in seen}
    if "nodes" in peer:
        hosted = other.node is not None and (other.pod is None or other.pod.host_network)
        return {hosted and selects(peer["nodes"], dict(other.node.labels))}  # type: ignore[union-attr]
    if "domainNames" in peer:
        if other.pod is not None or other.node is not None:
            return {False}
        if not other.names:
            return {True, False}
        return {any(domain(name, wanted) for name in other.names for wanted in peer["domainNames"])}
    if other.pod is None or other.pod.host_network:
        return {False}
    labels = namespace_labels(namespaces, other.pod.namespace)
    if "namespaces" in peer:
        return {selects(peer["namespaces"], labels)}
    pods = peer["pods"]
    return {
        selects(pods.get("namespaceSelector") or {}, labels)
        and selects(pods.get("podSelector") or {}, dict(other.pod.labels))
    }


def domain(name: str, wanted: str) -> bool:
    if wanted.startswith("*."):
        return name.endswith("." + wanted[2:])
    return name == wanted


def cluster_port(port: dict[str, Any], traffic: Traffic) -> bool:
    if "portNumber" in port:
        return (
            port["portNumber"].get("protocol", "TCP") == traffic.protocol and port["portNumber"]["port"] == traffic.port
        )
    if "portRange" in port:
        r = port["portRange"]
        return r.get("protocol", "TCP") == traffic.protocol and r["start"] <= traffic.port <= r["end"]
    name = port.get("namedPort") or port.get("destinationNamedPort")
    if name:
        pod = traffic.destination.pod
        return pod is not None and (name, traffic.protocol, traffic.port) in pod.ports
    ((protocol, attributes),) = port.items()
    if protocol.upper() != traffic.protocol:
        return False
    wanted = (attributes or {}).get("destinationPort")
    if not wanted:
        return True
    if "range" in wanted:
        return wanted["range"]["start"] <= traffic.port <= wanted["range"]["end"]
    return wanted["number"] == traffic.port
