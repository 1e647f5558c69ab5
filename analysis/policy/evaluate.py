"""What policies say of traffic: allowed, denied, or undefined where the API leaves it open; with the walk that leads there.

Sources: networking.k8s.io/v1 types and the NetworkPolicy page of the Kubernetes documentation; the network policy API's types and
enhancement proposals. For each end that is a pod: the Admin tier by priority, then the NetworkPolicies that select it, then the
Baseline tier, then: allowed. Both ends have to allow. Always allowed: a pod to itself; its own node to it, and it to its own node.
Undefined: what two policies of one priority decide differently; host-network pods that NetworkPolicies select,
or mean as peers by labels; ipBlocks that the Service's address and the backend's do not agree on; protocols but TCP, UDP and SCTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from sidelight.analysis.policy.model import (
    NAMESPACE_LABEL,
    PROTOCOLS,
    Action,
    Address,
    Cluster,
    Direction,
    End,
    Labels,
    Peer,
    Pod,
    Policy,
    Port,
    Rule,
    Selector,
    Tier,
    Traffic,
)


class Verdict(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"
    UNDEFINED = "undefined"


class Match(StrEnum):
    YES = "yes"
    NO = "no"
    UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a walk. `policy` and `rule` (-1: none) decided it; `says` is for people."""

    direction: Direction
    tier: Tier | None
    policy: Policy | None
    rule: int
    says: str


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: Verdict
    steps: tuple[Step, ...]


class Evaluator:
    """Policies and a cluster, prepared for many questions. Answers depend on nothing but them."""

    def __init__(self, policies: Iterable[Policy], cluster: Cluster) -> None:
        self._namespaces = cluster.namespaces
        self._policies: dict[Direction, list[Policy]] = {}
        policies = sorted(policies, key=lambda p: (p.tier, p.priority, p.namespace, p.name))
        for direction in Direction:
            self._policies[direction] = [p for p in policies if p.rules(direction) is not None]
        self._selects: dict[tuple[Selector, Labels], bool] = {}
        self._mappings: dict[Labels, Mapping[str, str]] = {}
        self._applying: dict[tuple[Direction, str, Labels, bool], dict[Tier, list[Policy]]] = {}

    def decide(self, traffic: Traffic) -> Decision:
        """The verdict at both ends, egress first."""
        source, destination = traffic.source.pod, traffic.destination.pod
        if source is not None and source == destination:
            return Decision(
                Verdict.ALLOWED, (Step(Direction.EGRESS, None, None, -1, "a pod may always talk to itself"),)
            )
        steps: list[Step] = []
        verdicts = []
        for direction in Direction:
            if traffic.ends(direction)[0].pod is None:
                continue
            verdict, walk = self.side(traffic, direction)
            verdicts.append(verdict)
            steps += walk
            if verdict is Verdict.DENIED:
                return Decision(verdict, tuple(steps))
        if not verdicts:
            return Decision(Verdict.ALLOWED, (Step(Direction.EGRESS, None, None, -1, "neither end is a pod"),))
        undefined = Verdict.UNDEFINED in verdicts
        return Decision(Verdict.UNDEFINED if undefined else Verdict.ALLOWED, tuple(steps))

    def applying(self, pod: Pod, direction: Direction) -> dict[Tier, list[Policy]]:
        """The policies that select a pod, by tier, in their order."""
        key = (direction, pod.namespace, pod.labels, pod.host_network)
        found = self._applying.get(key)
        if found is None:
            found = {tier: [] for tier in Tier}
            for policy in self._policies[direction]:
                if self.selects(policy, pod):
                    found[policy.tier].append(policy)
            self._applying[key] = found
        return found

    def matching(self, traffic: Traffic) -> Iterator[tuple[Policy, Direction, Rule]]:
        """Every rule that matches it (or may), whichever decides."""
        for direction in Direction:
            pod = traffic.ends(direction)[0].pod
            if pod is None:
                continue
            for policies in self.applying(pod, direction).values():
                for policy in policies:
                    for rule in policy.rules(direction) or ():
                        if self._rule(traffic, direction, policy, rule) is not Match.NO:
                            yield policy, direction, rule

    # -- one end -------------------------------------------------------------------------------------------------

    def side(self, traffic: Traffic, direction: Direction) -> tuple[Verdict, list[Step]]:
        """The verdict at one end, which is a pod."""
        near, other = traffic.ends(direction)
        pod = near.pod
        assert pod is not None
        if not pod.host_network and _is_own_node(pod, other):
            # its kubelet's probes among it
            return Verdict.ALLOWED, [Step(direction, None, None, -1, "traffic with its own node is always allowed")]
        applying = self.applying(pod, direction)
        verdict, steps, passed = self._tiered(traffic, direction, applying[Tier.ADMIN], Tier.ADMIN)
        if passed:
            later, more = self._after_admin(traffic, direction, applying, pod)
            steps += more
            verdict = later if verdict in (None, later) else Verdict.UNDEFINED
        assert verdict is not None
        return verdict, steps

    def _after_admin(
        self, traffic: Traffic, direction: Direction, applying: dict[Tier, list[Policy]], pod: Pod
    ) -> tuple[Verdict, list[Step]]:
        if applying[Tier.NAMESPACED]:
            return self._namespaced(traffic, direction, applying[Tier.NAMESPACED], pod)
        verdict, steps, passed = self._tiered(traffic, direction, applying[Tier.BASELINE], Tier.BASELINE)
        if passed:
            steps.append(Step(direction, None, None, -1, "no policy decides: allowed"))
            verdict = Verdict.ALLOWED if verdict in (None, Verdict.ALLOWED) else Verdict.UNDEFINED
        assert verdict is not None
        return verdict, steps

    def _tiered(
        self, traffic: Traffic, direction: Direction, policies: list[Policy], tier: Tier
    ) -> tuple[Verdict | None, list[Step], bool]:
        """(what is decided here if anything is, steps, whether it may go on to the next tier).

        Of policies with one priority any may be applied: where they differ, all of what they say is possible.
        """
        possible: set[Action] = set()
        steps: list[Step] = []
        undefined = False
        for _, group in groupby(policies, key=lambda policy: policy.priority):
            here: set[Action] = set()
            certain = False
            for policy in group:
                actions, walk, sure = self._first_rules(traffic, direction, policy)
                here |= actions
                steps += walk
                certain |= sure
                undefined |= bool(actions) and not sure
            possible |= here
            if certain:
                break
        else:
            possible.add(Action.PASS)
        decided = {Verdict.ALLOWED if action is Action.ALLOW else Verdict.DENIED for action in possible - {Action.PASS}}
        passed = Action.PASS in possible
        if len(decided) > 1 or (undefined and decided):
            if len(possible) > 1:
                said = "policies of one priority differ" if not undefined else "a rule may match or not"
                steps.append(Step(direction, tier, None, -1, f"undefined: {said}"))
            return (Verdict.UNDEFINED if len(decided) > 1 else decided.pop()), steps, passed
        if decided and passed and len(possible) > 1:
            steps.append(Step(direction, tier, None, -1, "policies of one priority differ"))
        return (decided.pop() if decided else None), steps, passed

    def _first_rules(
        self, traffic: Traffic, direction: Direction, policy: Policy
    ) -> tuple[set[Action], list[Step], bool]:
        """(what the first rule that matches says, its step, whether one matches for certain).

        Rules before it that may match or not are among them.
        """
        actions: set[Action] = set()
        steps: list[Step] = []
        for rule in policy.rules(direction) or ():
            if any(peer.unknown for peer in rule.peers or ()):
                # fail closed: an Allow matches nothing, a Deny or Pass denies everything
                if rule.action is Action.ALLOW:
                    continue
                says = f"{_called(rule)} has a peer of an unknown kind: fails closed"
                steps.append(Step(direction, policy.tier, policy, rule.number, says))
                return actions | {Action.DENY}, steps, True
            match = self._rule(traffic, direction, policy, rule)
            if match is Match.NO:
                continue
            says = f"{rule.action} by {_called(rule)}" + (" (if it matches)" if match is Match.UNDEFINED else "")
            steps.append(Step(direction, policy.tier, policy, rule.number, says))
            actions.add(rule.action)
            if match is Match.YES:
                return actions, steps, True
        return actions, steps, False

    def _namespaced(
        self, traffic: Traffic, direction: Direction, policies: list[Policy], pod: Pod
    ) -> tuple[Verdict, list[Step]]:
        """NetworkPolicies: a union of allowances; who is selected by one and allowed by none is denied."""
        if pod.host_network:
            step = Step(
                direction, Tier.NAMESPACED, policies[0], -1, "undefined: it selects a pod of the host's network"
            )
            return Verdict.UNDEFINED, [step]
        if traffic.protocol not in PROTOCOLS:
            says = f"undefined: the API does not say what becomes of {traffic.protocol}"
            return Verdict.UNDEFINED, [Step(direction, Tier.NAMESPACED, policies[0], -1, says)]
        maybe: Step | None = None
        for policy in policies:
            for rule in policy.rules(direction) or ():
                match = self._rule(traffic, direction, policy, rule)
                if match is Match.YES:
                    step = Step(direction, Tier.NAMESPACED, policy, rule.number, f"Allow by {_called(rule)}")
                    return Verdict.ALLOWED, [step]
                if match is Match.UNDEFINED and maybe is None:
                    maybe = Step(
                        direction, Tier.NAMESPACED, policy, rule.number, f"undefined: {_called(rule)} may match or not"
                    )
        if maybe is not None:
            return Verdict.UNDEFINED, [maybe]
        names = ", ".join(policy.name for policy in policies[:3]) + (" …" if len(policies) > 3 else "")
        return Verdict.DENIED, [
            Step(direction, Tier.NAMESPACED, policies[0], -1, f"isolated by {names}, and no rule allows it")
        ]

    # -- matching ------------------------------------------------------------------------------------------------

    def selects(self, policy: Policy, pod: Pod) -> bool:
        """Is the pod one of the policy's subjects?"""
        if policy.namespaces is None:
            return policy.namespace == pod.namespace and self._matches(policy.pods, pod.labels)
        if pod.host_network:
            return False
        return self._matches(policy.namespaces, self._labels_of(pod.namespace)) and self._matches(
            policy.pods, pod.labels
        )

    def _rule(self, traffic: Traffic, direction: Direction, policy: Policy, rule: Rule) -> Match:
        if rule.ports is not None and not any(_port(traffic, port) for port in rule.ports):
            return Match.NO
        if rule.peers is None:
            return Match.YES
        _, other = traffic.ends(direction)
        dialled = traffic.dialled if direction is Direction.EGRESS else None
        found = Match.NO
        for peer in rule.peers:
            match = self._peer(other, dialled, policy, peer)
            if match is Match.YES:
                return match
            if match is Match.UNDEFINED:
                found = match
        return found

    def _peer(self, other: End, dialled: Address | None, policy: Policy, peer: Peer) -> Match:
        if peer.networks:
            return _network(other.address, dialled, peer)
        if peer.nodes is not None:
            node = other.node
            if node is None or (other.pod is not None and not other.pod.host_network):
                return Match.NO
            return Match.YES if self._matches(peer.nodes, node.labels) else Match.NO
        if peer.domains:
            return _domain(other, peer.domains)
        pod = other.pod
        if pod is None or peer.unknown:
            return Match.NO
        if not self._namespace(policy, peer, pod) or not self._matches(peer.pods or Selector(), pod.labels):
            return Match.NO
        if pod.host_network:
            # v1 leaves it open; the cluster-wide kinds say that such pods are none of theirs
            return Match.UNDEFINED if policy.tier is Tier.NAMESPACED else Match.NO
        return Match.YES

    def _namespace(self, policy: Policy, peer: Peer, pod: Pod) -> bool:
        if peer.namespaces is None:
            return policy.namespace == pod.namespace
        return self._matches(peer.namespaces, self._labels_of(pod.namespace))

    def _matches(self, selector: Selector, labels: Labels) -> bool:
        key = (selector, labels)
        found = self._selects.get(key)
        if found is None:
            mapping = self._mappings.get(labels)
            if mapping is None:
                mapping = self._mappings[labels] = dict(labels)
            found = self._selects[key] = selector.matches(mapping)
        return found

    def _labels_of(self, namespace: str) -> Labels:
        found = self._namespaces.get(namespace)
        return found if found is not None else ((NAMESPACE_LABEL, namespace),)


def _is_own_node(pod: Pod, other: End) -> bool:
    return other.node is not None and other.node.name == pod.node and (other.pod is None or other.pod.host_network)


def _called(rule: Rule) -> str:
    return f"rule {rule.number + 1}" + (f" ({rule.name})" if rule.name else "")


def _network(address: Address | None, dialled: Address | None, peer: Peer) -> Match:
    if address is None:
        return Match.NO
    actual = _within(address, peer)
    if dialled is not None and _within(dialled, peer) != actual:
        return Match.UNDEFINED  # before or after the rewriting: the API does not say
    return Match.YES if actual else Match.NO


def _within(address: Address, peer: Peer) -> bool:
    inside = any(address.version == net.version and address in net for net in peer.networks)
    return inside and not any(address.version == net.version and address in net for net in peer.exceptions)


def _domain(other: End, domains: tuple[str, ...]) -> Match:
    if other.pod is not None or other.node is not None:
        return Match.NO
    if not other.names:
        return Match.UNDEFINED  # which name its address was looked up by is not known
    for name in other.names:
        plain = name.rstrip(".").lower()
        for domain in domains:
            wanted = domain.rstrip(".").lower()
            if plain == wanted or (wanted.startswith("*.") and plain.endswith(wanted[1:]) and plain != wanted[2:]):
                return Match.YES
    return Match.NO


def _port(traffic: Traffic, port: Port) -> bool:
    if port.protocol and port.protocol != traffic.protocol:
        return False
    if port.name:
        pod = traffic.destination.pod
        return pod is not None and (port.name, traffic.protocol, traffic.port) in pod.ports
    return not port.first or port.first <= traffic.port <= port.last
