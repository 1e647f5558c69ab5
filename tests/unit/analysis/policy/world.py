"""A small cluster for truth tables: namespaces x, y and z with pods a, b, c each, a host-network pod, two nodes, two addresses outside.

x/a -> y/b :80 TCP          traffic, as the tables write it; `via 10.96.0.9` behind it: the Service's address that was dialled
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import yaml

from sidelight.analysis.policy.model import Cluster, End, Policy, Traffic
from sidelight.analysis.policy.objects import cluster_of, policy_of

NAMESPACES = {"x": {"team": "red", "tier": "front"}, "y": {"team": "blue"}, "z": {}}
NODES = {"n1": ("172.18.0.1", {"role": "worker"}), "n2": ("172.18.0.2", {"role": "control"})}
OUTSIDE = {"world": "198.51.100.10", "near": "198.51.100.200", "world6": "2001:db8:ff::10"}
NAMES = {"198.51.100.200": ("api.example.com",)}
_LINE = re.compile(r"^(\S+) -> (\S+) :(\d+) (\w+)(?: via (\S+))?$")


def documents() -> list[dict[str, Any]]:
    """As the API server gives them."""
    found: list[dict[str, Any]] = [
        {"kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name, labels in NAMESPACES.items()
    ]
    found += [
        {
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
        }
        for name, (ip, labels) in NODES.items()
    ]
    for i, namespace in enumerate(NAMESPACES):
        for j, pod in enumerate("abc"):
            ips = [{"ip": f"10.{i + 1}.0.{j + 1}"}, {"ip": f"fd00:{i + 1}::{j + 1}"}]
            ports = [
                {"name": "web", "containerPort": 80 if pod != "c" else 8080},
                {"name": "dns", "protocol": "UDP", "containerPort": 53},
            ]
            found.append({
                "kind": "Pod",
                "metadata": {"name": pod, "namespace": namespace, "labels": {"pod": pod, "app": "even" if pod == "b" else "odd"}},
                "spec": {"nodeName": "n1" if pod == "a" else "n2", "containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIPs": ips},
            })  # fmt: skip
    found.append({
        "kind": "Pod", "metadata": {"name": "h", "namespace": "x", "labels": {"pod": "h"}},
        "spec": {"nodeName": "n1", "hostNetwork": True}, "status": {"phase": "Running", "podIPs": [{"ip": NODES["n1"][0]}]},
    })  # fmt: skip
    return found


def cluster() -> Cluster:
    return cluster_of(documents())


def end(cluster: Cluster, name: str, six: bool = False) -> End:
    """x/a, node:n1, world, or a plain address."""
    if name.startswith("node:"):
        node = next(n for n in cluster.nodes if n.name == name[5:])
        return End(node.addresses[0], node=node)
    if "/" in name:
        namespace, _, pod = name.partition("/")
        found = next(p for p in cluster.pods if (p.namespace, p.name) == (namespace, pod))
        node = next(n for n in cluster.nodes if n.name == found.node) if found.host_network else None
        return End(found.addresses[1 if six else 0], pod=found, node=node)
    address = OUTSIDE.get(name, name)
    return End(ipaddress.ip_address(address), names=NAMES.get(address, ()))


def traffic(cluster: Cluster, line: str) -> Traffic:
    match = _LINE.match(line)
    assert match, line
    source, destination, port, protocol, dialled = match.groups()
    six = protocol.endswith("6")
    return Traffic(
        end(cluster, source, six), end(cluster, destination, six), int(port), protocol.rstrip("6"),
        ipaddress.ip_address(dialled) if dialled else None,
    )  # fmt: skip


def policies(text: str) -> list[Policy]:
    return [policy_of(document) for document in yaml.safe_load_all(text) if document]
