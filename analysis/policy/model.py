"""Policies of all kinds in one form, and the cluster they are about. Frozen values; objects.py reads them from Kubernetes' JSON.

Kinds: NetworkPolicy (networking.k8s.io/v1), AdminNetworkPolicy and BaselineAdminNetworkPolicy (policy.networking.k8s.io/v1alpha1),
ClusterNetworkPolicy (v1alpha2, v1beta1). Tiers in their order: Admin, NetworkPolicy, Baseline.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Labels = tuple[tuple[str, str], ...]
"""Sorted, so that equal sets are equal."""
PROTOCOLS = ("TCP", "UDP", "SCTP")
"""Those that the API knows."""
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
"""Every namespace has it, set by the API server: its name."""


class Tier(StrEnum):
    ADMIN = "Admin"
    NAMESPACED = "NetworkPolicy"
    BASELINE = "Baseline"


class Action(StrEnum):
    ALLOW = "Allow"
    DENY = "Deny"
    PASS = "Pass"


class Direction(StrEnum):
    EGRESS = "egress"
    INGRESS = "ingress"

    @property
    def side(self) -> str:
        """What a rule calls its peers."""
        return "from" if self is Direction.INGRESS else "to"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of a selector's matchExpressions."""

    key: str
    operator: str
    """In, NotIn, Exists or DoesNotExist."""
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.operator == "Exists":
            return self.key in labels
        if self.operator == "DoesNotExist":
            return self.key not in labels
        if self.operator == "In":
            return labels.get(self.key) in self.values and self.key in labels
        # NotIn matches what has no such label
        return self.key not in labels or labels[self.key] not in self.values


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector: all of its requirements hold. Without any it matches everything; that there is none at all is None."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a rule is about; one of the forms, or `unknown`: a field that this program does not know (then it fails closed).

    `pods` and `namespaces`: selectors, both have to match; `namespaces` None: the policy's own. `nodes`: of the cluster's nodes.
    `networks` without `exceptions`: CIDRs. `domains`: names, `*.` before them for what is below.
    """

    pods: Selector | None = None
    namespaces: Selector | None = None
    nodes: Selector | None = None
    networks: tuple[Network, ...] = ()
    exceptions: tuple[Network, ...] = ()
    domains: tuple[str, ...] = ()
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """`protocol` empty: any. First and last number 0: all of the protocol. `name`: a port of the destination pod by its name."""

    protocol: str = ""
    first: int = 0
    last: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """`peers` None: everybody; empty: nobody. `ports` None: all ports. `number` is its place in the policy, from 0."""

    action: Action
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None
    number: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """`ingress` and `egress` None: it has nothing to say of that direction; without rules it isolates (NetworkPolicy)."""

    kind: str
    name: str
    namespace: str
    tier: Tier
    priority: int
    pods: Selector
    namespaces: Selector | None
    """Of its subjects; None: its own namespace."""
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None

    @property
    def title(self) -> str:
        """NetworkPolicy shop/web."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class Pod:
    """`ports`: (name, protocol, number) of its containers. `owner`: the workload, as people call it."""

    name: str
    namespace: str
    labels: Labels = ()
    addresses: tuple[Address, ...] = ()
    ports: tuple[tuple[str, str, int], ...] = ()
    node: str = ""
    host_network: bool = False
    owner: str = ""

    @property
    def workload(self) -> str:
        return self.owner or self.name

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.workload}"


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    labels: Labels = ()
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """One end of traffic: a pod, a node (or something in its network), or an address outside, whose DNS names are `names`."""

    address: Address | None = None
    pod: Pod | None = None
    node: Node | None = None
    names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        if self.pod:
            return self.pod.title
        if self.node:
            return f"node {self.node.name}"
        return self.names[0] if self.names else str(self.address or "unknown")


@dataclass(frozen=True, slots=True)
class Traffic:
    """A connection (or datagrams) from one end to a port of the other, after DNAT. `dialled`: the Service's address before it."""

    source: End
    destination: End
    port: int
    protocol: str = "TCP"
    dialled: Address | None = None

    def ends(self, direction: Direction) -> tuple[End, End]:
        """(the end whose policies of that direction count, the other)."""
        if direction is Direction.EGRESS:
            return self.source, self.destination
        return self.destination, self.source


@dataclass(slots=True)
class Cluster:
    """Namespaces' labels by name, pods, nodes."""

    namespaces: dict[str, Labels] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


def labels_of(found: Mapping[str, str] | None) -> Labels:
    return tuple(sorted((found or {}).items()))
