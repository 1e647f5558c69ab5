"""Time and memory of checking many policies against many edges: 1,000 policies, 10,000 pods, 100,000 edges; goals 10 s and 500 MB.

Fifty namespaces of twenty workloads with ten pods each; a policy a workload with three rules (peers of the namespace, of others, a block of
addresses), ten cluster-wide ones; every edge is a pair of pods at random, with its verdict before (no policies) and after.
"""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sidelight.analysis.policy.check import check
from sidelight.analysis.policy.model import Cluster, End, Pod, Traffic, labels_of
from sidelight.analysis.policy.objects import policy_of
from sidelight.analysis.policy.observed import Observation, edges_of

NAMESPACES, WORKLOADS = 50, 20


def world(pods: int, policies: int, edges: int, seed: int = 1) -> tuple[Cluster, list[Any], list[Observation]]:
    chance = random.Random(seed)
    cluster = Cluster(
        {f"ns{n}": labels_of({"kubernetes.io/metadata.name": f"ns{n}", "team": f"t{n % 7}"}) for n in range(NAMESPACES)}
    )
    each = max(1, pods // (NAMESPACES * WORKLOADS))
    for n in range(NAMESPACES):
        for w in range(WORKLOADS):
            labels = labels_of({"app": f"w{w}", "tier": f"tier{w % 3}", "pod-template-hash": f"{n:04x}{w:04x}"})
            for p in range(each):
                number = len(cluster.pods)
                address = ipaddress.ip_address(0x0A000000 + number)
                cluster.pods.append(
                    Pod(
                        f"w{w}-{p}",
                        f"ns{n}",
                        labels,
                        (address,),
                        (("web", "TCP", 8080),),
                        f"node{number % 200}",
                        owner=f"w{w}",
                    )
                )
    documents = [_policy(chance, number) for number in range(policies - 10)] + [_wide(number) for number in range(10)]
    seen = []
    for _ in range(edges):
        source, destination = chance.choice(cluster.pods), chance.choice(cluster.pods)
        traffic = Traffic(
            End(source.addresses[0], source),
            End(destination.addresses[0], destination),
            chance.choice((8080, 9090, 5432, 53)),
        )
        seen.append(Observation(traffic, 1.0))
    return cluster, [policy_of(document) for document in documents], seen


def _policy(chance: random.Random, number: int) -> dict[str, Any]:
    n, w = number % NAMESPACES, number // NAMESPACES % WORKLOADS
    rules = [
        {"from": [{"podSelector": {"matchLabels": {"tier": f"tier{chance.randrange(3)}"}}}], "ports": [{"port": 8080}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"team": f"t{chance.randrange(7)}"}}}], "ports": [{"port": "web"}, {"port": 9000, "endPort": 9100}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/12", "except": ["10.0.16.0/20"]}}], "ports": [{"port": 5432}]},
    ]  # fmt: skip
    return {"kind": "NetworkPolicy", "metadata": {"name": f"p{number}", "namespace": f"ns{n}"}, "spec": {"podSelector": {"matchLabels": {"app": f"w{w}"}}, "ingress": rules}}  # fmt: skip


def _wide(number: int) -> dict[str, Any]:
    return {"kind": "AdminNetworkPolicy", "metadata": {"name": f"a{number}"}, "spec": {"priority": number, "subject": {"namespaces": {"matchLabels": {"team": f"t{number % 7}"}}}, "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": f"t{(number + 1) % 7}"}}}], "ports": [{"portNumber": {"port": 9090}}]}]}}  # fmt: skip


def run(sizes: tuple[tuple[int, int, int], ...] = ((1000, 100, 10_000), (10_000, 1000, 100_000))) -> dict[str, Any]:
    """Each size in a process of its own, so that its memory is its own."""
    found: dict[str, Any] = {}
    for pods, policies, edges in sizes:
        command = [sys.executable, "-m", "benchmarks.policy_scale", str(pods), str(policies), str(edges)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent
        )
        found[f"{policies} policies, {pods} pods, {edges} edges"] = json.loads(done.stdout)
    return found


def _one(pods: int, policies: int, edges: int) -> dict[str, Any]:
    cluster, parsed, seen = world(pods, policies, edges)
    start = time.perf_counter()
    grouped = edges_of(seen)
    middle = time.perf_counter()
    result = check([], parsed, cluster, grouped)
    end = time.perf_counter()
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return {
        "edges": len(grouped),
        "group_s": round(middle - start, 2),
        "check_s": round(end - middle, 2),
        "peak_mb": peak // 1024,
        "cut": len(result.cut),
    }


if __name__ == "__main__":
    print(json.dumps(_one(*map(int, sys.argv[1:4])) if len(sys.argv) == 4 else run()))
