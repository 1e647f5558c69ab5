"""What is suggested: selectors that are proven, evidence, nodes, what has gone, what exists already; and what a check says of it."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError
from sidelight.analysis.policy.check import check, walk_text
from sidelight.analysis.policy.holdout import hold_out
from sidelight.analysis.policy.model import Cluster, End, Pod, Traffic, labels_of
from sidelight.analysis.policy.objects import policy_of
from sidelight.analysis.policy.observed import MOST_PAIRS, Observation, edges_of
from sidelight.analysis.policy.render import FORMATS, manifest, suggestion_json, text
from sidelight.analysis.policy.suggest import selector_for, suggest
from tests.unit.analysis.policy.world import NAMESPACES, cluster, end, policies, traffic

CLUSTER = cluster()
PODS = [f"{n}/{p}" for n in NAMESPACES for p in "abc"]


def seen(*lines: str, at: float = 0.0, **more: Any) -> list[Observation]:
    return [Observation(traffic(CLUSTER, line), at + number, **more) for number, line in enumerate(lines)]


def parsed(suggestion: Any, form: str = "networkpolicy") -> Any:
    return [policy_of(manifest(policy, form)) for policy in suggestion.policies]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*PODS, "x/h", "node:n1", "node:n2", "world", "near"]),
            st.sampled_from([*PODS, "world", "near", "node:n2"]),
            st.sampled_from([80, 53, 8080]),
            st.sampled_from(["TCP", "UDP"]),
        ),
        min_size=1,
        max_size=15,
    )
)
@settings(max_examples=150, deadline=None)
def test_round_trip(rows: list[tuple[str, str, int, str]]) -> None:
    """Suggested and checked: nothing that was seen is cut; without any one rule its evidence is."""
    observations = seen(*(f"{a} -> {b} :{port} {protocol}" for a, b, port, protocol in rows if a != b))
    edges = edges_of(observations)
    suggestion = suggest(edges, CLUSTER)
    assert not check([], parsed(suggestion), CLUSTER, edges).cut
    for policy in suggestion.policies:
        for side in ("ingress", "egress"):
            rules = getattr(policy, side)
            for rule in rules or []:
                setattr(policy, side, [other for other in rules if other is not rule])
                assert check([], parsed(suggestion), CLUSTER, edges).cut, (policy.name, side, rule)
                setattr(policy, side, rules)


def test_selectors_are_proven() -> None:
    def pod(name: str, **labels: str) -> Pod:
        return Pod(name, "n", labels_of(labels), owner=name.split("-")[0])

    web = [
        pod("web-1", app="web", version="v1", **{"pod-template-hash": "1"}),
        pod("web-2", app="web", version="v1", **{"pod-template-hash": "2"}),
    ]
    api = [pod("api-1", app="api", tier="back")]
    found = Cluster(pods=[*web, *api])
    assert selector_for(web, found) == (("app", "web"),)
    # another workload has the same: only the version tells them apart
    canary = [pod("canary-1", app="web", version="v2")]
    found.pods += canary
    assert selector_for(web, found) == (("app", "web"), ("version", "v1"))
    # and nothing does
    found.pods.append(pod("odd-1", app="web", version="v1"))
    assert selector_for(web, found) is None
    assert any("no labels select exactly" in warning for warning in suggest([], found).warnings)


def test_failed_attempts_are_not_allowed() -> None:
    observations = seen("x/a -> y/b :80 TCP") + seen("x/a -> y/b :81 TCP", failed=True, reason="refused")
    suggestion = suggest(edges_of(observations), CLUSTER, (), ["y"])
    said = text(suggestion)
    assert "# not allowed, every attempt failed: x/a -> y/b:81 (1 attempts: refused)" in said
    ports = [p["port"] for d in yaml.safe_load_all(said) for r in d["spec"]["ingress"] for p in r["ports"]]
    assert ports == [80]


def test_nodes_and_host_network_are_blocks_and_the_own_node_is_none() -> None:
    suggestion = suggest(
        edges_of(seen("x/h -> y/b :80 TCP", "node:n2 -> y/b :80 TCP", "node:n1 -> y/a :80 TCP")), CLUSTER, (), ["y"]
    )
    b = next(policy for policy in suggestion.policies if policy.workload == "b")
    assert b.ingress is not None
    assert [peer.network for rule in b.ingress for peer in rule.peers] == ["172.18.0.1/32"]
    a = next(policy for policy in suggestion.policies if policy.workload == "a")
    assert a.ingress == [] and "port 80: 1 connections from its own node (probes): always allowed" in a.notes
    assert "# 172.18.0.1/32: node n1, x/h in its network" in text(suggestion)


def test_reasons_and_notes() -> None:
    prometheus = Pod(
        "prometheus-0", "z", labels_of({"app": "prometheus"}), (ipaddress.ip_address("10.3.0.99"),), owner="prometheus"
    )
    wide = Cluster(CLUSTER.namespaces, [*CLUSTER.pods, prometheus], CLUSTER.nodes)
    scrape = Observation(Traffic(End(prometheus.addresses[0], prometheus), end(CLUSTER, "y/b"), 9090), 0.0)
    observations = [*seen("y/b -> z/a :53 UDP", "y/b -> node:n1 :6443 TCP", "y/a -> world :443 TCP"), scrape]
    suggestion = suggest(edges_of(observations), wide, (), ["y"])
    b = next(policy for policy in suggestion.policies if policy.workload == "b")
    assert {rule.reason for rule in b.egress or ()} == {"DNS", "the API server"} and [
        r.reason for r in b.ingress or ()
    ] == ["scraping"]
    a = next(policy for policy in suggestion.policies if policy.workload == "a")
    assert any("no DNS was seen" in note for note in a.notes) and any("no ingress was seen" in note for note in a.notes)


def test_what_has_gone_goes_by_the_labels_it_had() -> None:
    gone = Pod("old-1", "z", labels_of({"app": "old", "pod-template-hash": "9"}), owner="old")
    observation = Observation(Traffic(End(ipaddress.ip_address("10.3.0.50"), gone), end(CLUSTER, "y/b"), 80), 0.0)
    suggestion = suggest(edges_of([observation]), CLUSTER, (), ["y"])
    assert any("z/old has no pods now" in warning for warning in suggestion.warnings)
    b = next(policy for policy in suggestion.policies if policy.workload == "b")
    assert b.ingress and b.ingress[0].peers[0].labels == (("app", "old"),) and b.ingress[0].peers[0].namespace == "z"


def test_only_what_is_missing() -> None:
    existing = policies("""
kind: NetworkPolicy
metadata: {name: p, namespace: y}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}
""")
    edges = edges_of(seen("x/a -> y/b :80 TCP", "z/a -> y/b :80 TCP"))
    b = next(policy for policy in suggest(edges, CLUSTER, existing, ["y"]).policies if policy.workload == "b")
    assert b.ingress is not None and [peer.namespace for rule in b.ingress for peer in rule.peers] == ["z"]


def test_manifests_of_every_kind() -> None:
    edges = edges_of(
        seen("x/a -> y/b :80 TCP", "y/b -> world :443 TCP", "node:n1 -> y/b :80 TCP", "y/b -> z/a :53 UDP")
    )
    suggestion = suggest(edges, CLUSTER, (), ["y"])
    for form in FORMATS:
        documents = list(yaml.safe_load_all(text(suggestion, form)))
        assert len(documents) == len(suggestion.policies) == 3
        assert suggestion_json(suggestion, form)["policies"][1]["manifest"] == documents[1]
    cilium = next(d for d in yaml.safe_load_all(text(suggestion, "cilium")) if d["metadata"]["name"].endswith("-b"))
    assert {
        "fromEntities": ["host", "remote-node"],
        "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}],
    } in cilium["spec"]["ingress"]
    assert any(rule.get("toCIDR") == ["198.51.100.10/32"] for rule in cilium["spec"]["egress"])
    assert not check(
        [],
        parsed(suggestion, "clusternetworkpolicy"),
        CLUSTER,
        edges_of(seen("x/a -> y/b :80 TCP", "y/b -> world :443 TCP")),
    ).cut


def test_check_groups_and_says_why() -> None:
    edges = edges_of(seen("x/a -> y/b :80 TCP", "x/a -> y/b :80 TCP", "x/b -> y/b :80 TCP"))
    then = policies("""
kind: NetworkPolicy
metadata: {name: p, namespace: y}
spec: {podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]}, {ports: [{port: 9}]}]}
---
kind: NetworkPolicy
metadata: {name: nobody, namespace: y}
spec: {podSelector: {matchLabels: {pod: none}}}
""")
    result = check([], then, CLUSTER, edges)
    (cut,) = result.cut
    assert cut.edge.key.source == "x/a" and cut.cut == 2 and "isolated by p" in walk_text(cut.walk)
    assert [(p.name, str(d), r.number) for p, d, r in result.dead] == [("p", "ingress", 1)]
    assert [policy.name for policy in result.selectless] == ["nobody"]
    assert len(check(then, then, CLUSTER, edges).unenforced) == 1 and not check(then, then, CLUSTER, edges).cut


def test_edges_add_up_and_stay_bounded() -> None:
    observations = seen("x/a -> y/b :80 TCP", "x/a -> y/b :80 TCP", bytes=10, at=5.0) + seen(
        "x/a -> y/b :80 TCP", failed=True
    )
    (edge,) = edges_of(observations)
    assert (edge.connections, edge.failed, edge.bytes, edge.first, edge.last) == (2, 1, 20, 0.0, 6.0)
    pod = CLUSTER.pods[0]
    many = [
        Observation(
            Traffic(end(CLUSTER, "y/b"), End(pod=replace(pod, labels=labels_of({"n": str(i)}), owner="a")), 80), 0.0
        )
        for i in range(MOST_PAIRS * 2)
    ]
    (edge,) = edges_of(many)
    assert len(edge.pairs) == MOST_PAIRS and edge.connections == len(many) and edge.folded == MOST_PAIRS


def test_hold_out() -> None:
    steady = [o for at in range(0, 100, 2) for o in seen("x/a -> y/b :80 TCP", at=float(at))]
    rare = seen("x/c -> y/b :80 TCP", at=90.0)
    rows = hold_out([*steady, *rare], CLUSTER)
    assert len(rows) == 3 and rows[-1].cut == 1 and rows[-1].edges_cut == 1 and rows[-1].judged == 26
    assert hold_out([], CLUSTER) == []


@pytest.mark.parametrize(
    "spec",
    [
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}", "{ingress: [{from: [{}]}]}", "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]}", "{ingress: [{ports: [{port: web, endPort: 90}]}]}",
        "{ingress: [{ports: [{port: 90, endPort: 80}]}]}", "{ingress: [{ports: [{port: 0}]}]}", "{ingress: [{ports: [{protocol: ICMP}]}]}",
        "{podSelector: {matchExpressions: [{key: a, operator: In}]}}", "{podSelector: {matchExpressions: [{key: a, operator: Near, values: [b]}]}}",
        "{podSelector: {labels: {}}}", "{policyTypes: [Sideways]}", "{ingress: 3}", "{ingress: [3]}", "{podSelector: {matchLabels: {a: 1}}}",
    ],
)  # fmt: skip
def test_what_the_api_server_would_refuse(spec: str) -> None:
    with pytest.raises(ConfigError, match="NetworkPolicy p"):
        policies(f"kind: NetworkPolicy\nmetadata: {{name: p, namespace: x}}\nspec: {spec}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "kind",
                        "metadata",
                        "name",
                        "spec",
                        "podSelector",
                        "ingress",
                        "from",
                        "ports",
                        "port",
                        "matchLabels",
                        "subject",
                        "priority",
                        "action",
                        "namespaces",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["NetworkPolicy", "AdminNetworkPolicy", "ClusterNetworkPolicy", "BaselineAdminNetworkPolicy"]),
)
@settings(max_examples=300, deadline=None)
def test_anything_is_a_policy_or_a_clear_error(spec: Any, kind: str) -> None:
    try:
        policy_of({"kind": kind, "metadata": {"name": "default"}, "spec": spec})
    except ConfigError as error:
        assert "\n" not in str(error)
