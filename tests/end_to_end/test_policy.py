"""`sidelight policy` on the test cluster's shop: what is suggested cuts nothing, what is taken away cuts its evidence, and what is denied is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidelight.analysis.policy.objects import cluster_of
from sidelight.cli.policy_sources import PATHS
from tests.cluster.cluster import Cluster, cluster, shop
from tests.end_to_end.test_kubernetes import ask, listening
from tests.running import Running


@dataclass
class Place:
    agent: Running
    found: Cluster
    pods: dict[str, Any]
    scratch: Path

    def policy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command, *rest = arguments
        return self.agent.cli("policy", command, "--instance", self.agent.instance, "--kubeconfig", str(self.found.api.kubeconfig()), *rest, instance=False)  # fmt: skip

    def check(self, document: Any, *arguments: str) -> dict[str, Any]:
        path = self.scratch / "policies.yaml"
        path.write_text(yaml.safe_dump_all(document))
        said = self.policy("check", str(path), "-o", "json", *arguments)
        assert said.returncode in (0, 1), said.stderr
        answer: dict[str, Any] = json.loads(said.stdout)
        assert (said.returncode == 1) == bool(answer["cut"])
        return answer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    scratch = tmp_path_factory.mktemp("policy")
    agent = Running("--node-name", "node-1")
    try:
        with cluster(agent.cgroup, scratch) as found:
            agent.observed = found.cgroup / "node-1"
            agent.arguments += ("--kubeconfig", str(found.api.kubeconfig()))
            agent.start()
            pods = shop(found)
            for name in ("cart", "catalogue-v1", "catalogue-v2", "payments", "web"):
                listening(found, pods[name], 8080)
            listening(found, pods["redis"], 6379)
            found.api.put("cronjobs", {"metadata": {"name": "report", "namespace": "shop"}, "status": {}})
            ask(found, pods["load"], "10.96.0.13:80", 20)
            # an attempt that nobody answers is not to be allowed
            knock = (
                f"import socket\ntry: socket.create_connection(({pods['cart'].ip!r}, 9999), 5)\nexcept OSError: pass"
            )
            found.run(pods["load"], "python3", "-c", knock).wait(30)
            yield Place(agent, found, pods, scratch)
    finally:
        agent.close()


def suggested(place: Place, *arguments: str) -> list[dict[str, Any]]:
    said = place.policy("suggest", *arguments)
    assert said.returncode == 0, said.stderr
    return [document for document in yaml.safe_load_all(said.stdout) if document]


def test_suggest_then_check_cuts_nothing_and_every_rule_is_needed(place: Place) -> None:
    documents = suggested(place, "shop", "load")
    names = {document["metadata"]["name"] for document in documents}
    assert {
        "sidelight-web",
        "sidelight-cart",
        "sidelight-redis",
        "sidelight-catalogue",
        "sidelight-catalogue-v2",
        "sidelight-payments",
    } <= names
    whole = place.check(documents)
    assert whole["cut"] == 0 and whole["denied_yet_flowing"] == 0
    assert {(e["source"], e["destination"], e["port"]) for e in whole["edges"]} >= {
        ("load/generator", "shop/web", 8080), ("shop/web", "shop/cart", 8080), ("shop/cart", "shop/redis", 6379),
    }  # fmt: skip
    taken = 0
    for document in documents:
        for side in ("ingress", "egress"):
            for index in range(len(document["spec"].get(side) or ())):
                rules = document["spec"][side]
                document["spec"][side] = rules[:index] + rules[index + 1 :]
                assert place.check(documents)["cut"] > 0, (document["metadata"]["name"], side, index)
                document["spec"][side] = rules
                taken += 1
                if taken >= 4:
                    return


def test_selectors_match_exactly_their_workload(place: Place) -> None:
    """As the cluster's own objects have it."""
    objects = [{"kind": "Pod", **item} for item in place.found.api._objects["pods"].values()]
    pods = cluster_of(objects).pods
    for document in suggested(place, "shop"):
        wanted = document["spec"]["podSelector"]["matchLabels"]
        chosen = {pod.owner for pod in pods if pod.namespace == "shop" and wanted.items() <= dict(pod.labels).items()}
        assert chosen == {document["metadata"]["name"].removeprefix("sidelight-")}


def test_evidence_failures_and_warnings(place: Place) -> None:
    said = place.policy("suggest", "shop").stdout
    assert "# warning: seen from " in said and "CronJobs that did not run meanwhile: shop/report" in said
    assert "# load/generator -> shop/web:8080 TCP: 20 connections" in said
    assert "# not allowed, every attempt failed: load/generator -> shop/cart:9999" in said
    assert "# for DNS" in said
    document = json.loads(place.policy("suggest", "shop", "-o", "json").stdout)
    cart = next(p for p in document["policies"] if p["workload"] == "shop/cart")
    (rule,) = cart["evidence"]["ingress"]
    assert rule["edges"][0]["source"] == "shop/web" and rule["edges"][0]["connections"] == 20
    assert all(9999 not in {port["port"] for port in r["ports"]} for r in cart["manifest"]["spec"]["ingress"])


def test_formats_that_others_read(place: Place) -> None:
    cilium = suggested(place, "shop", "--format", "cilium")
    assert {document["kind"] for document in cilium} == {"CiliumNetworkPolicy"}
    wide = suggested(place, "shop", "load", "--format", "clusternetworkpolicy")
    assert place.check(wide)["cut"] == 0


def test_existing_policies_are_taken_into_account(place: Place) -> None:
    policy = {
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "cart"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
        },
    }  # fmt: skip
    uid = place.found.api.put("networkpolicies", policy)
    try:
        cart = next(d for d in suggested(place, "shop") if d["metadata"]["name"] == "sidelight-cart")
        assert cart["spec"]["policyTypes"] == ["Egress"], "its ingress is allowed already"
        said = place.policy("check")
        assert said.returncode == 0 and "nothing that flows would be cut" in said.stdout
    finally:
        place.found.api.delete("networkpolicies", uid)


def test_denied_yet_flowing_and_the_walk(place: Place) -> None:
    """The test cluster enforces nothing: a policy that denies is seen not to be."""
    uid = place.found.api.put("networkpolicies", {"metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {"matchLabels": {"app": "redis"}}}})  # fmt: skip
    try:
        said = place.policy("check")
        assert "denied, yet 20 connections flowed" in said.stdout and "isolated by closed" in said.stdout
        assert said.returncode == 0, "nothing more would be cut"
    finally:
        place.found.api.delete("networkpolicies", uid)
    cut = place.policy("check", str(_file(place, {"kind": "NetworkPolicy", "metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {"matchLabels": {"app": "redis"}}, "ingress": [{"ports": [{"port": 1}]}]}})))  # fmt: skip
    assert cut.returncode == 1 and "20 of 20 connections would be cut" in cut.stdout
    assert "ingress rule 1 matched nothing that was seen" in cut.stdout


def _file(place: Place, document: dict[str, Any]) -> Path:
    path = place.scratch / "one.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_diff_and_split(place: Place) -> None:
    said = place.policy("suggest", "shop", "--diff")
    assert said.returncode == 0 and "+++ suggested/NetworkPolicy shop/sidelight-web" in said.stdout
    split = place.policy("suggest", "shop", "--split")
    assert split.returncode == 0 and "false-cut rate" in split.stdout and len(split.stdout.splitlines()) == 4


def test_could_not_look_and_bad_usage(place: Place, tmp_path: Path) -> None:
    broken = _file(place, {"kind": "NetworkPolicy", "metadata": {"name": "x", "namespace": "shop"}, "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "nowhere"}}]}]}})  # fmt: skip
    bad = place.policy("check", str(broken))
    assert bad.returncode == 2 and "NetworkPolicy x" in bad.stderr and "CIDR" in bad.stderr
    assert place.policy("suggest", "nowhere").returncode == 2
    away = place.agent.cli("policy", "check", "--instance", "nobody-here", "--kubeconfig", str(place.found.api.kubeconfig()), instance=False)  # fmt: skip
    assert away.returncode == 3 and "could not look" in away.stderr
    assert "/apis/networking.k8s.io/v1/networkpolicies" in PATHS
