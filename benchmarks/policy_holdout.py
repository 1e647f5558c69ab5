"""How often policies learned for a while would have cut what came later, by the length of the while: on the test cluster, with pods that come and go.

Ten workloads; forty edges between them, the k-th used 1/k as often as the first; every three seconds a pod is replaced by another of its workload.
Learned on the time before the middle, judged on the time after it: share of connections, and edges, that the policies would have cut.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

from sidelight.analysis.policy.holdout import hold_out
from sidelight.cli.demo_cluster import observed_cluster
from sidelight.cli.policy_sources import Reader, read_cluster
from sidelight.exporter.proto import observer_pb2
from tests.cluster.cluster import SHOP_SERVER, Cluster, Pod
from tests.end_to_end.test_kubernetes import listening

WORKLOADS, EDGES = 10, 40
KNOCK = "import socket\ntry: socket.create_connection(({ip!r}, 8080), 5).close()\nexcept OSError: pass"


def run(seconds: float = 240.0, seed: int = 1) -> dict[str, Any]:
    chance = random.Random(seed)
    with observed_cluster("holdout") as place:
        _live(place.found, chance, seconds)
        place.runtime.agent.drain_now()
        objects = read_cluster(str(place.found.api.kubeconfig()))
        request = observer_pb2.GetFlowsRequest()
        request.since.FromSeconds(0)
        flows = Reader(objects).read(place.client.flows(request))
    return {
        "seconds": seconds,
        "connections": sum(seen.count for seen in flows.observations),
        "flows lost": flows.lost,
        **{
            f"learned for {row.learned_s:.0f} s": {
                "judged": row.judged, "cut": row.cut, "false-cut rate": f"{row.cut / max(1, row.judged):.2%}", "edges cut": row.edges_cut,
            }
            for row in hold_out(flows.observations, objects.cluster)
        },
    }  # fmt: skip


def _live(found: Cluster, chance: random.Random, seconds: float) -> None:
    pods = [_start(found, f"w{number}") for number in range(WORKLOADS)]
    edges = chance.sample([(a, b) for a in range(WORKLOADS) for b in range(WORKLOADS) if a != b], EDGES)
    weights = [1 / (place + 1) for place in range(EDGES)]
    end, replaced = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        source, destination = chance.choices(edges, weights)[0]
        found.run(pods[source], "python3", "-I", "-S", "-c", KNOCK.format(ip=pods[destination].ip)).wait(30)
        if time.monotonic() - replaced > 3.0:
            replaced = time.monotonic()
            place = chance.randrange(WORKLOADS)
            old, pods[place] = pods[place], _start(found, f"w{place}")
            found.delete(old)


def _start(found: Cluster, name: str) -> Pod:
    pod = found.pod("shop", name)
    found.python(pod, SHOP_SERVER, 8080, "{}", "/dev/null")
    listening(found, pod, 8080)
    return pod


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240.0)
    print(json.dumps(run(parser.parse_args().seconds), indent=1))
