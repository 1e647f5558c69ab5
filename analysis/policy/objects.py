"""Policies, pods, namespaces and nodes from Kubernetes' JSON or YAML, with the API server's own checks. Pure.

What the API server would refuse is refused here, in one line that names the object and the field. A peer of the cluster-wide kinds
with a field that is not known is kept as such: it fails closed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec

from sidelight.agent.errors import ConfigError
from sidelight.analysis.policy.model import (
    NAMESPACE_LABEL,
    PROTOCOLS,
    Action,
    Cluster,
    Direction,
    Network,
    Node,
    Peer,
    Pod,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
    Tier,
    labels_of,
)
from sidelight.identity import objects as slim
from sidelight.identity.workloads import MetricOptions, Workloads

KINDS = ("NetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy")
_ACTIONS = {"Allow": Action.ALLOW, "Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
_CLUSTER_PEERS = {"namespaces", "pods", "nodes", "networks", "domainNames"}


def policy_of(document: dict[str, Any]) -> Policy:
    """One of KINDS. Raises ConfigError."""
    kind = document.get("kind")
    meta = document.get("metadata") if isinstance(document.get("metadata"), dict) else {}
    assert isinstance(meta, dict)
    name = meta.get("name")
    if kind not in KINDS or not isinstance(name, str) or not name:
        raise ConfigError(f"not a network policy: kind {kind!r}, name {name!r}")
    with as_the_api_has_it(document):
        spec = document.get("spec")
        if not isinstance(spec, dict):
            raise ConfigError("it has no spec")
        if kind == "NetworkPolicy":
            return _namespaced(name, namespace_of(document), spec)
        return _cluster_wide(kind, name, spec)


@contextmanager
def as_the_api_has_it(document: dict[str, Any]) -> Iterator[None]:
    """What goes wrong in reading an object is a ConfigError that names it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{_title(document)}: {error}") from None
    except (TypeError, AttributeError, KeyError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{_title(document)}: not as the API has it: {error}") from None


def _title(document: dict[str, Any]) -> str:
    meta = document.get("metadata")
    name = meta.get("name") if isinstance(meta, dict) else None
    return f"{document.get('kind')} {name or 'without a name'}"[:300]


def namespace_of(document: dict[str, Any]) -> str:
    return str(document["metadata"].get("namespace") or "default")


# -- NetworkPolicy -------------------------------------------------------------------------------------------------


def _namespaced(name: str, namespace: str, spec: dict[str, Any]) -> Policy:
    rules = _rules(spec, _namespaced_rule)
    # the API's defaults: always Ingress, Egress if there are such rules
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if rules[Direction.EGRESS] else ["Ingress"])
    if not isinstance(types, list) or set(types) - {"Ingress", "Egress"}:
        raise ConfigError(f"policyTypes {types!r}: want Ingress, Egress")
    return Policy(
        "NetworkPolicy", name, namespace, Tier.NAMESPACED, 0, selector_of(spec.get("podSelector") or {}), None,
        rules[Direction.INGRESS] if "Ingress" in types else None,
        rules[Direction.EGRESS] if "Egress" in types else None,
    )  # fmt: skip


def _namespaced_rule(number: int, rule: dict[str, Any], side: str) -> Rule:
    peers, ports = _list(rule, side), _list(rule, "ports")
    return Rule(
        Action.ALLOW,
        tuple(_namespaced_peer(peer) for peer in peers) if peers else None,
        tuple(_namespaced_port(port) for port in ports) if ports else None,
        number,
    )


def _namespaced_peer(peer: dict[str, Any]) -> Peer:
    given = {key for key, value in peer.items() if value is not None}
    if not given or given - {"podSelector", "namespaceSelector", "ipBlock"}:
        raise ConfigError(f"a peer is podSelector, namespaceSelector or ipBlock, not {sorted(given)}")
    if "ipBlock" in given:
        if len(given) > 1:
            raise ConfigError("ipBlock stands alone in a peer")
        block = peer["ipBlock"]
        network = _network(block["cidr"])
        exceptions = tuple(_network(text) for text in block.get("except") or ())
        for exception in exceptions:
            if exception.version != network.version or not exception.subnet_of(network):  # type: ignore[arg-type]
                raise ConfigError(f"except {exception} is not within {network}")
        return Peer(networks=(network,), exceptions=exceptions)
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    return Peer(
        pods=selector_of(pods) if pods is not None else Selector(),
        namespaces=selector_of(namespaces) if namespaces is not None else None,
    )


def _namespaced_port(port: dict[str, Any]) -> Port:
    protocol = port.get("protocol") or "TCP"
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r}: want TCP, UDP or SCTP")
    value, end = port.get("port"), port.get("endPort")
    if value is None or isinstance(value, str):
        if end is not None:
            raise ConfigError("endPort needs a port that is a number")
        return Port(protocol, name=value or "")
    first, last = _number(value), _number(end if end is not None else value)
    if last < first:
        raise ConfigError(f"endPort {last} is below port {first}")
    return Port(protocol, first, last)


# -- the cluster-wide kinds ----------------------------------------------------------------------------------------


def _cluster_wide(kind: str, name: str, spec: dict[str, Any]) -> Policy:
    if kind == "BaselineAdminNetworkPolicy":
        if name != "default":
            raise ConfigError("there is one, and it is called default")
        tier, priority = Tier.BASELINE, 0
    else:
        priority = spec.get("priority", -1)
        if not isinstance(priority, int) or not 0 <= priority <= 1000:
            raise ConfigError(f"priority {priority!r}: want 0 to 1000")
        if kind == "AdminNetworkPolicy":
            tier = Tier.ADMIN
        elif spec.get("tier") in ("Admin", "Baseline"):
            tier = Tier(spec["tier"])
        else:
            raise ConfigError(f"tier {spec.get('tier')!r}: want Admin or Baseline")
    subject = spec.get("subject")
    if not isinstance(subject, dict) or len(subject) != 1 or not set(subject) <= {"namespaces", "pods"}:
        raise ConfigError("subject: want namespaces or pods")
    pods, namespaces = _pods_and_namespaces(subject)
    rules = _rules(spec, partial(_cluster_rule, kind))
    for direction, found in rules.items():
        if len(found) > (100 if kind != "ClusterNetworkPolicy" else 25):
            raise ConfigError(f"{direction}: too many rules")
    return Policy(
        kind,
        name,
        "",
        tier,
        priority,
        pods,
        namespaces,
        rules[Direction.INGRESS] or None,
        rules[Direction.EGRESS] or None,
    )


def _pods_and_namespaces(peer: dict[str, Any]) -> tuple[Selector, Selector]:
    if "namespaces" in peer:
        return Selector(), selector_of(peer["namespaces"])
    found = peer["pods"]
    return selector_of(found.get("podSelector") or {}), selector_of(found.get("namespaceSelector") or {})


def _cluster_rule(kind: str, number: int, rule: dict[str, Any], side: str) -> Rule:
    action = _ACTIONS.get(rule.get("action", ""))
    words = {"ClusterNetworkPolicy": ("Accept", "Deny", "Pass"), "AdminNetworkPolicy": ("Allow", "Deny", "Pass")}
    if action is None or rule["action"] not in words.get(kind, ("Allow", "Deny")):
        raise ConfigError(f"action {rule.get('action')!r}: want {', '.join(words.get(kind, ('Allow', 'Deny')))}")
    peers = _list(rule, side)
    if not peers:
        raise ConfigError(f"rule {number + 1}: {side} has to have a peer")
    field = "protocols" if kind == "ClusterNetworkPolicy" else "ports"
    ports = _list(rule, field)
    read = _protocol if kind == "ClusterNetworkPolicy" else _admin_port
    return Rule(
        action,
        tuple(_cluster_peer(peer, side) for peer in peers),
        tuple(read(port) for port in ports) if ports else None,
        number,
        str(rule.get("name") or ""),
    )


def _cluster_peer(peer: dict[str, Any], side: str) -> Peer:
    given = {key for key, value in peer.items() if value is not None}
    known = given & (_CLUSTER_PEERS if side == "to" else {"namespaces", "pods"})
    if len(known) != 1 or known != given:
        return Peer(unknown=True)
    if "networks" in given:
        return Peer(networks=tuple(_network(text) for text in peer["networks"]))
    if "nodes" in given:
        return Peer(nodes=selector_of(peer["nodes"]))
    if "domainNames" in given:
        return Peer(domains=tuple(str(name) for name in peer["domainNames"]))
    pods, namespaces = _pods_and_namespaces(peer)
    return Peer(pods=pods, namespaces=namespaces)


def _admin_port(port: dict[str, Any]) -> Port:
    ((form, value),) = port.items()
    if form == "portNumber":
        number = _number(value["port"])
        return Port(value.get("protocol") or "TCP", number, number)
    if form == "portRange":
        return _range(value.get("protocol") or "TCP", value)
    if form == "namedPort":
        return Port(name=str(value))
    raise ConfigError(f"port {form!r}: want portNumber, portRange or namedPort")


def _protocol(protocol: dict[str, Any]) -> Port:
    ((form, value),) = protocol.items()
    if form == "destinationNamedPort":
        return Port(name=str(value))
    if form not in ("tcp", "udp", "sctp"):
        raise ConfigError(f"protocol {form!r}: want tcp, udp, sctp or destinationNamedPort")
    port = (value or {}).get("destinationPort")
    if port is None:
        return Port(form.upper())
    if "range" in port:
        return _range(form.upper(), port["range"])
    number = _number(port["number"])
    return Port(form.upper(), number, number)


def _range(protocol: str, value: dict[str, Any]) -> Port:
    first, last = _number(value["start"]), _number(value["end"])
    if last < first:
        raise ConfigError(f"range {first} to {last}")
    return Port(protocol, first, last)


# -- parts ---------------------------------------------------------------------------------------------------------


def selector_of(document: dict[str, Any]) -> Selector:
    """A LabelSelector. Raises ConfigError."""
    if not isinstance(document, dict) or set(document) - {"matchLabels", "matchExpressions"}:
        raise ConfigError(f"selector {document!r}: want matchLabels, matchExpressions")
    found = [
        Requirement(key, "In", (_text(value),)) for key, value in sorted((document.get("matchLabels") or {}).items())
    ]
    for expression in _list(document, "matchExpressions"):
        operator, values = expression.get("operator"), tuple(_text(v) for v in expression.get("values") or ())
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise ConfigError(f"operator {operator!r}: want In, NotIn, Exists or DoesNotExist")
        if (operator in ("In", "NotIn")) != bool(values):
            raise ConfigError(f"{expression.get('key')}: {operator} with values {list(values)}")
        found.append(Requirement(_text(expression["key"]), operator, values))
    return Selector(tuple(found))


def _rules(spec: dict[str, Any], read: Callable[[int, dict[str, Any], str], Rule]) -> dict[Direction, tuple[Rule, ...]]:
    """Of both directions; `read` gets a rule's number, its document, and what it calls its peers."""
    return {
        direction: tuple(read(number, rule, direction.side) for number, rule in enumerate(_list(spec, str(direction))))
        for direction in Direction
    }


def _list(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ConfigError(f"{name}: want a list of mappings")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{value!r}: want text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ConfigError(f"port {value!r}: want 1 to 65535")
    return value


def _network(text: Any) -> Network:
    try:
        if "/" not in text:
            raise ValueError("no prefix length")
        return ipaddress.ip_network(text, strict=False)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{text!r} is not a CIDR: {error}") from None


# -- the cluster ---------------------------------------------------------------------------------------------------


def cluster_of(documents: Iterable[dict[str, Any]]) -> Cluster:
    """Pods, namespaces and nodes out of any objects. Pods that have ended are left out.

    Workloads are named as agents name them, by Jobs and ReplicaSets where those are among the objects. Raises ConfigError.
    """
    documents, found = list(documents), Cluster()
    workloads = Workloads("", MetricOptions(), {})
    for document in documents:
        if document.get("kind") in ("ReplicaSet", "Job"):
            with as_the_api_has_it(document):
                owner = msgspec.convert(document, slim.OnlyMeta)
                if owner.metadata.uid:
                    workloads.put_owner(owner)
    for document in documents:
        with as_the_api_has_it(document):
            _add(found, document, workloads)
    return found


def _add(found: Cluster, document: dict[str, Any], workloads: Workloads) -> None:
    meta, kind = document.get("metadata") or {}, document.get("kind")
    labels = labels_of(meta.get("labels"))
    if kind == "Namespace":
        found.namespaces[meta["name"]] = labels_of({NAMESPACE_LABEL: meta["name"]} | dict(labels))
    elif kind == "Node":
        addresses = ((document.get("status") or {}).get("addresses")) or ()
        found.nodes.append(Node(meta["name"], labels, _addresses(a.get("address") for a in addresses)))
    elif kind == "Pod" and (document.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
        found.pods.append(_pod(document, workloads))


def _pod(document: dict[str, Any], workloads: Workloads) -> Pod:
    meta, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    ports = tuple(
        (port["name"], port.get("protocol") or "TCP", int(port["containerPort"]))
        for container in containers
        for port in container.get("ports") or ()
        if port.get("name")
    )
    name, _ = workloads.workload(msgspec.convert({"metadata": meta}, slim.Pod))
    addresses = [entry.get("ip") for entry in status.get("podIPs") or ()] or [status.get("podIP")]
    return Pod(
        meta["name"], namespace_of(document), labels_of(meta.get("labels")), _addresses(addresses), ports,
        spec.get("nodeName") or "", bool(spec.get("hostNetwork")), name,
    )  # fmt: skip


def _addresses(texts: Iterable[Any]) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_address(text))
        except ValueError:
            continue  # a host name among a node's addresses
    return tuple(found)
