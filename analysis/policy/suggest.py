"""Policies that allow what was seen and no more, with the evidence for each rule. Pure.

Selectors are proven to match exactly the workload's pods; where they cannot, that is said and nothing is suggested. Identity is
that of the flow. Failed attempts are not turned into allowances. Nodes and host-network peers are ipBlocks: selectors do not mean
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from sidelight.analysis.policy.evaluate import Evaluator, Verdict
from sidelight.analysis.policy.model import Cluster, Direction, End, Labels, Pod, Policy, Tier, Traffic
from sidelight.analysis.policy.observed import Edge

CHURNY = (
    "pod-template-hash", "controller-revision-hash", "pod-template-generation", "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index", "job-name", "controller-uid", "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-completion-index",
)  # fmt: skip
"""Labels that the next pod of the workload will not have."""
VERSIONED = ("version", "app.kubernetes.io/version", "helm.sh/chart", "chart", "release-version")
"""Labels that the next version will not have: left out unless nothing else tells it apart."""
DNS_PORT = 53
API_PORTS = (443, 6443)
API_SERVER = "kubernetes.default.svc"
SCRAPERS = ("prometheus", "vmagent", "grafana-agent", "alloy", "otel-collector", "opentelemetry-collector")


@dataclass(frozen=True, slots=True)
class PeerOf:
    """Who a rule allows: pods (`namespace` empty: the policy's own), or a network with what it is."""

    labels: Labels = ()
    namespace: str = ""
    network: str = ""
    says: str = ""
    node: bool = False
    """The network is a node's."""


@dataclass(slots=True)
class SuggestedRule:
    """Peers that may use the same ports, and the edges it is for."""

    peers: list[PeerOf]
    ports: tuple[tuple[str, int], ...]
    edges: list[Edge] = field(default_factory=list)
    reason: str = ""
    """DNS, probes, scraping, the API server; empty: ordinary."""


@dataclass(slots=True)
class SuggestedPolicy:
    """Of one workload. `ingress` and `egress` None: nothing to say (existing policies do, or it is not wanted)."""

    namespace: str
    workload: str
    selector: Labels
    ingress: list[SuggestedRule] | None = None
    egress: list[SuggestedRule] | None = None
    notes: list[str] = field(default_factory=list)
    failed: list[Edge] = field(default_factory=list)
    """Edges on which every attempt failed: not allowed."""

    @property
    def name(self) -> str:
        return f"sidelight-{self.workload}"[:253]

    def rules(self, direction: Direction) -> list[SuggestedRule] | None:
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(slots=True)
class Suggestion:
    policies: list[SuggestedPolicy] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def suggest(
    edges: Iterable[Edge],
    cluster: Cluster,
    existing: Iterable[Policy] = (),
    namespaces: Iterable[str] = (),
    directions: Iterable[Direction] = tuple(Direction),
) -> Suggestion:
    """For the workloads of these namespaces (none: all that have pods but kube-system)."""
    edges, existing = list(edges), [policy for policy in existing if policy.tier is Tier.NAMESPACED]
    wanted = set(namespaces) or {pod.namespace for pod in cluster.pods} - {"kube-system"}
    workloads = _workloads(cluster)
    evaluator = Evaluator(existing, cluster)
    result = Suggestion()
    for (namespace, name), pods in sorted(workloads.items()):
        if namespace not in wanted:
            continue
        if all(pod.host_network for pod in pods):
            result.warnings.append(
                f"{namespace}/{name}: its pods are in the host's network, which NetworkPolicies do not reach"
            )
            continue
        selector = selector_for(pods, cluster)
        if selector is None:
            result.warnings.append(f"{namespace}/{name}: no labels select exactly its pods: give it one of its own")
            continue
        found = SuggestedPolicy(namespace, name, selector)
        for direction in directions:
            _suggest_direction(found, direction, edges, cluster, workloads, evaluator, result.warnings)
        if found.ingress is None and found.egress is None:
            continue
        _note(found)
        result.policies.append(found)
    return result


def selector_for(pods: list[Pod], cluster: Cluster) -> Labels | None:
    """The labels that all of them have and that no other pod of the namespace has all of; None when there are none."""
    common = set(pods[0].labels).intersection(*(pod.labels for pod in pods[1:]))
    lasting = {pair for pair in common if pair[0] not in CHURNY}
    mine = {(pod.namespace, pod.name) for pod in pods}
    for candidate in (lasting - {pair for pair in lasting if pair[0] in VERSIONED}, lasting):
        selected = {
            (pod.namespace, pod.name)
            for pod in cluster.pods
            if pod.namespace == pods[0].namespace and candidate <= set(pod.labels)
        }
        if candidate and selected == mine:
            return _fewest(candidate, pods, cluster)
    return None


def _fewest(candidate: set[tuple[str, str]], pods: list[Pod], cluster: Cluster) -> Labels:
    """One label is easier to read than five, if it says the same: the usual ones first."""
    others = [set(pod.labels) for pod in cluster.pods if pod.namespace == pods[0].namespace and pod not in pods]
    for key in ("app.kubernetes.io/name", "app", "k8s-app", "name", "component"):
        for pair in candidate:
            if pair[0] == key and not any(pair in labels for labels in others):
                return (pair,)
    return tuple(sorted(candidate))


def _workloads(cluster: Cluster) -> dict[tuple[str, str], list[Pod]]:
    found: dict[tuple[str, str], list[Pod]] = defaultdict(list)
    for pod in cluster.pods:
        found[pod.namespace, pod.workload].append(pod)
    return dict(found)


def _suggest_direction(
    found: SuggestedPolicy, direction: Direction, edges: list[Edge], cluster: Cluster, workloads: dict[tuple[str, str], list[Pod]],
    evaluator: Evaluator, warnings: list[str],
) -> None:  # fmt: skip
    """Rules for the traffic of one direction, less what existing policies allow."""
    mine = [pod for pod in workloads[found.namespace, found.workload] if not pod.host_network]
    isolated = all(evaluator.applying(pod, direction)[Tier.NAMESPACED] for pod in mine)
    groups: dict[tuple[PeerOf, str], dict[tuple[str, int], list[Edge]]] = {}
    for edge in edges:
        for pair in edge.pairs.values():
            near, far = pair.traffic.ends(direction)
            if near.pod is None or (near.pod.namespace, near.pod.workload) != (found.namespace, found.workload):
                continue
            if not pair.connections:
                if edge not in found.failed and not edge.connections:
                    found.failed.append(edge)
                continue
            if far.pod is not None and far.pod == near.pod:
                continue
            if far.node is not None and far.node.name == near.pod.node:
                own = f"{pair.connections} connections {direction.side} its own node (probes): always allowed"
                found.notes.append(f"port {pair.traffic.port}: {own}")
                continue
            if isolated and evaluator.side(pair.traffic, direction)[0] is Verdict.ALLOWED:
                continue
            peer = _peer(found.namespace, far, cluster, workloads, warnings)
            if peer is None:
                continue
            reason = _reason(pair.traffic, far, direction)
            ports = groups.setdefault((peer, reason), {})
            seen = ports.setdefault((pair.traffic.protocol, pair.traffic.port), [])
            if edge not in seen:
                seen.append(edge)
    if isolated and not groups:
        return
    rules = _merged(groups)
    if direction is Direction.INGRESS:
        found.ingress = rules
    else:
        found.egress = rules


def _merged(groups: dict[tuple[PeerOf, str], dict[tuple[str, int], list[Edge]]]) -> list[SuggestedRule]:
    """Peers with the same ports are one rule."""
    by_ports: dict[tuple[tuple[tuple[str, int], ...], str], SuggestedRule] = {}
    for (peer, reason), ports in groups.items():
        key = (tuple(sorted(ports)), reason)
        rule = by_ports.setdefault(key, SuggestedRule([], key[0], reason=reason))
        rule.peers.append(peer)
        for edges in ports.values():
            rule.edges += [edge for edge in edges if edge not in rule.edges]
    for rule in by_ports.values():
        rule.peers.sort(key=lambda peer: (peer.namespace, peer.labels, peer.network))
    return sorted(by_ports.values(), key=lambda rule: (rule.reason != "", rule.ports, str(rule.peers[0])))


def _peer(
    namespace: str,
    far: End,
    cluster: Cluster,
    workloads: dict[tuple[str, str], list[Pod]],
    warnings: list[str],
) -> PeerOf | None:
    pod = far.pod
    if pod is not None and not pod.host_network:
        pods = workloads.get((pod.namespace, pod.workload))
        selector = selector_for(pods, cluster) if pods else None
        if selector is None:
            # it has gone since, or cannot be told apart: by the labels it had
            lasting = tuple(p for p in pod.labels if p[0] not in CHURNY and p[0] not in VERSIONED)
            why = "cannot be told apart by labels" if pods else "has no pods now"
            text = f"{pod.title} {why}: the rule for it goes by the labels its pods had"
            if text not in warnings:
                warnings.append(text)
            if not lasting:
                return None
            selector = lasting
        return PeerOf(selector, "" if pod.namespace == namespace else pod.namespace, says=pod.title)
    if far.address is None:
        return None
    network = f"{far.address}/{far.address.max_prefixlen}"
    node = far.node or next((n for n in cluster.nodes if far.address in n.addresses), None)
    if node is not None or pod is not None:
        said = f"node {node.name}" if node else "a node"
        return PeerOf(network=network, says=said + (f", {pod.title} in its network" if pod else ""), node=True)
    return PeerOf(network=network, says=far.names[0] if far.names else "outside")


def _reason(traffic: Traffic, far: End, direction: Direction) -> str:
    if direction is Direction.EGRESS and traffic.port == DNS_PORT:
        return "DNS"
    if (
        direction is Direction.EGRESS
        and traffic.port in API_PORTS
        and (far.node is not None or API_SERVER in far.names)
    ):
        return "the API server"
    name = far.pod.workload if far.pod else ""
    if direction is Direction.INGRESS and any(name.startswith(scraper) for scraper in SCRAPERS):
        return "scraping"
    return ""


def _note(found: SuggestedPolicy) -> None:
    """What one should know before it is applied."""
    if versioned := [key for key, _ in found.selector if key in VERSIONED]:
        found.notes.append(
            f"told apart by {', '.join(versioned)}: the next version needs a policy of its own, or another label"
        )
    egress = found.egress or []
    if egress and not any(rule.reason == "DNS" for rule in egress):
        found.notes.append("no DNS was seen from it: if it resolves names, allow port 53 to the cluster's DNS")
    for direction in Direction:
        if found.rules(direction) == []:
            found.notes.append(f"no {direction} was seen: this isolates it")
