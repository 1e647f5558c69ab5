"""The evaluator against a naive second one, over generated policies of all kinds; and what must hold of any."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.analysis.policy.evaluate import Evaluator, Verdict
from sidelight.analysis.policy.objects import policy_of
from tests.unit.analysis.policy import naive
from tests.unit.analysis.policy.world import NAMESPACES, cluster, traffic

CLUSTER = cluster()
ENDS = [*(f"{n}/{p}" for n in NAMESPACES for p in "abc"), "x/h", "node:n1", "node:n2", "world", "near"]
_SETS = {
    frozenset({"allow"}): Verdict.ALLOWED,
    frozenset({"deny"}): Verdict.DENIED,
    frozenset({"allow", "deny"}): Verdict.UNDEFINED,
}

LABELS = st.sampled_from(
    [
        ("pod", "a"),
        ("pod", "b"),
        ("pod", "h"),
        ("app", "odd"),
        ("app", "even"),
        ("team", "red"),
        ("team", "blue"),
        ("none", "x"),
    ]
)


@st.composite
def selector(draw: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        key, value = draw(LABELS)
        found["matchLabels"] = {key: value}
    if draw(st.integers(0, 3)) == 0:
        key, value = draw(LABELS)
        operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
        found["matchExpressions"] = [
            {"key": key, "operator": operator} | ({"values": [value]} if operator.endswith("In") else {})
        ]
    return found


CIDRS = [
    "10.1.0.0/16",
    "10.2.0.0/24",
    "198.51.100.0/24",
    "0.0.0.0/0",
    "172.18.0.0/24",
    "10.96.0.0/16",
    "::/0",
    "fd00:1::/32",
]
INSIDE = {
    "10.1.0.0/16": "10.1.0.2/32",
    "198.51.100.0/24": "198.51.100.128/25",
    "0.0.0.0/0": "10.0.0.0/8",
    "::/0": "fd00::/16",
}


@st.composite
def v1_peer(draw: Any) -> dict[str, Any]:
    if draw(st.integers(0, 2)) == 0:
        cidr = draw(st.sampled_from(CIDRS))
        inside = [INSIDE[cidr]] if cidr in INSIDE and draw(st.booleans()) else []
        return {"ipBlock": {"cidr": cidr, **({"except": inside} if inside else {})}}
    form = draw(st.integers(1, 3))
    return {
        **({"podSelector": draw(selector())} if form & 1 else {}),
        **({"namespaceSelector": draw(selector())} if form & 2 else {}),
    }


@st.composite
def v1_port(draw: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"protocol": draw(st.sampled_from(["TCP", "UDP"]))} if draw(st.booleans()) else {}
    form = draw(st.integers(0, 3))
    if form == 1:
        found["port"] = draw(st.sampled_from([80, 53, 8080]))
    elif form == 2:
        found["port"] = draw(st.sampled_from(["web", "dns", "nothing"]))
    elif form == 3:
        found |= {"port": 79, "endPort": draw(st.sampled_from([79, 80, 9000]))}
    return found


@st.composite
def network_policy(draw: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": draw(selector())}
    for direction, side in (("ingress", "from"), ("egress", "to")):
        if draw(st.booleans()):
            spec[direction] = [
                {
                    **({side: draw(st.lists(v1_peer(), max_size=2))} if draw(st.booleans()) else {}),
                    **({"ports": draw(st.lists(v1_port(), max_size=2))} if draw(st.booleans()) else {}),
                }
                for _ in range(draw(st.integers(0, 2)))
            ]
    types = draw(st.sampled_from([None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]]))
    if types:
        spec["policyTypes"] = types
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": f"p{draw(st.integers(0, 99))}", "namespace": draw(st.sampled_from(list(NAMESPACES)))},
        "spec": spec,
    }


@st.composite
def cluster_peer(draw: Any, egress: bool) -> dict[str, Any]:
    form = draw(st.integers(0, 9 if egress else 5))
    if form == 0:
        return {"colour": "red"}
    if form <= 2:
        return {"namespaces": draw(selector())}
    if form <= 5:
        return {"pods": {"namespaceSelector": draw(selector()), "podSelector": draw(selector())}}
    if form == 6:
        return {"nodes": draw(selector())}
    if form == 7:
        return {"domainNames": draw(st.sampled_from([["api.example.com"], ["*.example.com"], ["example.com"]]))}
    return {"networks": draw(st.lists(st.sampled_from(CIDRS), min_size=1, max_size=2))}


@st.composite
def cluster_policy(draw: Any) -> dict[str, Any]:
    kind = draw(
        st.sampled_from(
            ["AdminNetworkPolicy", "ClusterNetworkPolicy", "ClusterNetworkPolicy", "BaselineAdminNetworkPolicy"]
        )
    )
    ours = kind == "ClusterNetworkPolicy"
    actions = ["Accept", "Deny", "Pass"] if ours else ["Allow", "Deny"] + ([] if kind.startswith("Base") else ["Pass"])
    subject = (
        {"namespaces": draw(selector())}
        if draw(st.booleans())
        else {"pods": {"namespaceSelector": draw(selector()), "podSelector": draw(selector())}}
    )
    spec: dict[str, Any] = {"subject": subject}
    if not kind.startswith("Base"):
        spec["priority"] = draw(st.integers(0, 2))
    if ours:
        spec["tier"] = draw(st.sampled_from(["Admin", "Baseline"]))
    for direction, side in (("ingress", "from"), ("egress", "to")):
        rules = []
        for _ in range(draw(st.integers(0, 2))):
            rule: dict[str, Any] = {
                "action": draw(st.sampled_from(actions)),
                side: draw(st.lists(cluster_peer(direction == "egress"), min_size=1, max_size=2)),
            }
            form = draw(st.integers(0, 3))
            if form == 1:
                rule["protocols" if ours else "ports"] = [
                    {"tcp": {"destinationPort": {"number": 80}}}
                    if ours
                    else {"portNumber": {"protocol": "TCP", "port": 80}}
                ]
            elif form == 2:
                rule["protocols" if ours else "ports"] = [
                    {"udp": {"destinationPort": {"range": {"start": 50, "end": 60}}}}
                    if ours
                    else {"portRange": {"protocol": "UDP", "start": 50, "end": 60}}
                ]
            elif form == 3:
                rule["protocols" if ours else "ports"] = [
                    {"destinationNamedPort": "web"} if ours else {"namedPort": "web"}
                ]
            rules.append(rule)
        if rules:
            spec[direction] = rules
    return {
        "kind": kind,
        "metadata": {"name": "default" if kind.startswith("Base") else f"c{draw(st.integers(0, 99))}"},
        "spec": spec,
    }


SOME = st.lists(st.one_of(network_policy(), network_policy(), cluster_policy()), max_size=6)
LINES = st.builds(
    lambda source, destination, port, protocol, via: f"{source} -> {destination} :{port} {protocol}" + (f" via {via}" if via else ""),
    st.sampled_from(ENDS), st.sampled_from(ENDS), st.sampled_from([53, 79, 80, 8080]), st.sampled_from(["TCP", "UDP", "TCP6"]),
    st.sampled_from(["", "", "", "10.96.0.9"]),
)  # fmt: skip


def said(documents: list[dict[str, Any]], line: str) -> Verdict:
    return Evaluator([policy_of(d) for d in documents], CLUSTER).decide(traffic(CLUSTER, line)).verdict


def six(line: str) -> bool:
    """Not every end has an IPv6 address."""
    return "TCP6" in line and any(name in line for name in ("h", "node", "world", "near", "via"))


@given(SOME, st.lists(LINES, min_size=1, max_size=12))
@settings(max_examples=600, deadline=None)
def test_both_say_the_same(documents: list[dict[str, Any]], lines: list[str]) -> None:
    evaluator = Evaluator([policy_of(document) for document in documents], CLUSTER)
    for line in lines:
        if six(line):
            continue
        found = traffic(CLUSTER, line)
        decision = evaluator.decide(found)
        if found.source.pod is None and found.destination.pod is None:
            assert decision.verdict is Verdict.ALLOWED
            continue
        assert decision.verdict is _SETS[frozenset(naive.decide(documents, NAMESPACES, found))], (line, decision.steps)
        assert decision.steps or not documents


@given(SOME, LINES, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_order_is_of_no_consequence(documents: list[dict[str, Any]], line: str, chance: random.Random) -> None:
    if six(line):
        return
    shuffled = documents[:]
    chance.shuffle(shuffled)
    assert said(documents, line) is said(shuffled, line)


@given(st.lists(network_policy(), min_size=1, max_size=4), network_policy(), LINES)
@settings(max_examples=300, deadline=None)
def test_one_more_allowance_cuts_nothing_of_isolated_pods(
    documents: list[dict[str, Any]], more: dict[str, Any], line: str
) -> None:
    """Of pods that are isolated in that direction already."""
    if six(line):
        return
    found = traffic(CLUSTER, line)
    before = Evaluator([policy_of(d) for d in documents], CLUSTER)
    after = Evaluator([policy_of(d) for d in [*documents, more]], CLUSTER)
    from sidelight.analysis.policy.model import Direction, Tier

    ends = ((Direction.EGRESS, found.source.pod), (Direction.INGRESS, found.destination.pod))
    for direction, pod in ends:
        if (
            pod
            and after.applying(pod, direction)[Tier.NAMESPACED]
            and not before.applying(pod, direction)[Tier.NAMESPACED]
        ):
            return
    if before.decide(found).verdict is Verdict.ALLOWED:
        assert after.decide(found).verdict is Verdict.ALLOWED
