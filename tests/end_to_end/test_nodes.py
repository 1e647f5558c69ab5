"""Two nodes with an agent each: what one knows of the other's pods, and both behind one command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sidelight.cli.demo import free_port
from sidelight.exporter.proto import peer_pb2, peer_pb2_grpc
from tests.cluster.cluster import OUTSIDE, SHOP_SERVER, Cluster, cluster
from tests.end_to_end.test_kubernetes import ask, listening
from tests.observed import eventually
from tests.running import Running, flows_of

Nodes = tuple[Running, Running, Cluster]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    first = Running("--cluster-name", "prod", "--node-name", "node-1")
    second = None
    try:
        with cluster(first.cgroup, tmp_path, nodes=2) as found:
            first.observed = found.cgroup / "node-1"
            second = Running("--cluster-name", "prod", "--node-name", "node-2", observed=found.cgroup / "node-2")
            first.arguments += ("--conntrack", found.nodes[0].netns)
            for agent in (first, second):
                agent.arguments += ("--kubeconfig", str(found.api.kubeconfig()))
                agent.start()
            yield first, second, found
    finally:
        if second:
            second.close()
        first.close()


def served(found: Cluster, *pods: Any) -> None:
    for pod in pods:
        found.python(pod, SHOP_SERVER, 8080, "{}", "/dev/null")
    for pod in pods:
        listening(found, pod, 8080)


def test_backends_on_the_other_node(nodes: Nodes) -> None:
    first, second, found = nodes
    client = found.pod("shop", "client", node=1)
    one, v1, v2 = (
        found.pod("shop", "single", node=2), found.pod("shop", "catalogue", node=2), found.pod("shop", "catalogue", version="v2", node=2),
    )  # fmt: skip
    served(found, one, v1, v2)
    found.service("shop", "single", "10.96.0.20", 80, [one], 8080)
    found.service("shop", "catalogue", "10.96.0.21", 80, [v1, v2], 8080)
    ask(found, client, "10.96.0.20:80", 5)
    ask(found, client, "10.96.0.21:80", 6)
    # the service has one workload behind it: endpoint slices say which, though not which pod
    name = "http_client_request_duration_seconds_count"
    eventually(lambda: first.total(name, destination_service_name="single", destination_workload="single", destination_workload_namespace="shop") == 5)  # fmt: skip
    eventually(lambda: first.total(name, destination_service_name="catalogue") == 6)
    # two versions, two Deployments: counters cannot tell them apart; the flows can, by connection tracking
    by_pod = [f["destination"].get("pod_name") for f in flows_of(first, "--to", "catalogue", "--protocol", "http")]
    by_pod += [f["destination"].get("pod_name") for f in flows_of(first, "--to", "catalogue-v2", "--protocol", "http")]
    assert sorted(by_pod) == sorted([v1.name] * 3 + [v2.name] * 3)
    # the servers' node knows the client by its address
    server = "http_server_request_duration_seconds_count"
    assert second.total(server, source_workload="client", source_workload_namespace="shop") == 11
    assert second.total(server, source_workload="client", destination_workload="catalogue-v2") == 3
    assert first.total(server) == 0, "each agent sees its own node's sockets alone"
    assert not first.broken_laws() and not second.broken_laws()


def test_node_ports_host_network_and_snat(nodes: Nodes) -> None:
    first, second, found = nodes
    web = found.pod("shop", "web", node=2)
    served(found, web)
    found.service("shop", "web", "10.96.0.13", 80, [web], 8080, node_port=30080)
    code = f"import http.client\nc = http.client.HTTPConnection('{found.nodes[0].ip}', 30080, timeout=10); c.request('GET', '/outside'); c.getresponse().read()"
    outside = found.processes.start("outside", ["ip", "netns", "exec", found.outside, "python3", "-c", code])
    assert outside.wait(30) == 0
    # a node port's SNAT hides the client: what is left is the node it came through, never a pod of that node
    server = "http_server_request_duration_seconds_count"
    eventually(lambda: second.total(server, destination_workload="web", source_workload="node-1") == 1)
    host = found.pod("kube-system", "agent", host_network=True, node=1)
    ask(found, host, "10.96.0.13:80", 3)
    eventually(lambda: first.total("http_client_request_duration_seconds_count", source_workload="agent", source_workload_namespace="kube-system", destination_workload="web") == 3)  # fmt: skip
    eventually(lambda: second.total(server, source_workload="node-1") == 4)
    inside = found.pod("shop", "inside", node=1)
    ask(found, inside, f"{found.nodes[1].ip}:30080", 2)
    eventually(lambda: first.total("http_client_request_duration_seconds_count", source_workload="inside") == 2)
    dialled = first.samples("http_client_request_duration_seconds_count", source_workload="inside")
    assert {labels["destination_service_name"] for labels, _ in dialled} == {"web"}, "a node's port is the service's"
    assert OUTSIDE not in second.get("/metrics").decode()


def test_both_nodes_in_one_command(nodes: Nodes) -> None:
    first, second, found = nodes
    client, web = found.pod("shop", "client", node=1), found.pod("shop", "web", node=2)
    served(found, web)
    found.service("shop", "web", "10.96.0.13", 80, [web], 8080)
    ask(found, client, "10.96.0.13:80", 10)
    eventually(lambda: second.total("http_server_request_duration_seconds_count") == 10)
    eventually(lambda: first.total("http_client_request_duration_seconds_count") == 10)
    servers = [
        a for agent in (first, second) for a in ("--server", f"unix:/run/sidelight/{agent.instance}/sidelight.sock")
    ]

    def both(*arguments: str) -> str:
        command, *rest = arguments
        done = first.cli(command, *servers, *rest, instance=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    flows = [json.loads(line) for line in both("tail", "--since", "5m", "--no-follow", "--protocol", "http", "-o", "json").splitlines()]  # fmt: skip
    assert [f["node_name"] for f in flows].count("prod/node-1") == 10 and len(flows) == 20
    times = [f["flow"]["time"] for f in flows]
    assert times == sorted(times), "merged by time"
    status = both("status")
    assert "node-1" in status and "node-2" in status
    edges = json.loads(both("map", "--output", "json"))["edges"]
    assert ("shop/client@v1", "shop/web@v1") in {(e["source"], e["target"]) for e in edges}
    # an edge seen from both ends is one edge, with the requests of one end
    assert sum(e["requests"] for e in edges if e["source"] == "shop/client@v1") == 10
    found.processes.stop_all()
    second.kill(15)
    gone = first.cli("tail", *servers, "--since", "5m", "--no-follow", "--protocol", "http", "-o", "json", instance=False)  # fmt: skip
    assert len(gone.stdout.splitlines()) == 10 and "node" in gone.stderr.lower() + gone.stdout.lower(), (
        "one node away is said"
    )


def test_a_relay_is_told_of_every_node_and_of_those_that_go(nodes: Nodes) -> None:
    """What Hubble Relay asks of one agent: the peers, each at its node's address and our port."""
    first, _, found = nodes
    first.kill(15)
    port = free_port()
    first.arguments += ("--hubble-listen", f"127.0.0.1:{port}", "--hubble-plaintext")
    first.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        told = peer_pb2_grpc.PeerStub(channel).Notify(peer_pb2.NotifyRequest())
        changes = [next(told), next(told)]
        assert {(c.name, c.address, c.type) for c in changes} == {(f"prod/{n.name}", f"{n.ip}:{port}", peer_pb2.PEER_ADDED) for n in found.nodes}  # fmt: skip
        uid = next(uid for uid, node in found.api._objects["nodes"].items() if node["metadata"]["name"] == "node-2")
        found.api.delete("nodes", uid)
        gone = next(told)
        assert (gone.name, gone.type) == ("prod/node-2", peer_pb2.PEER_DELETED)
        told.cancel()


def test_totals_go_to_a_successor_with_another_state_directory(nodes: Nodes) -> None:
    """A new pod of the DaemonSet: the old one's directory is gone, its totals are not, and nothing in between is lost."""
    first, _, found = nodes
    client, web = found.pod("shop", "client", node=1), found.pod("shop", "web", node=1)
    served(found, web)
    ask(found, client, f"{web.ip}:8080", 7)
    name = "http_server_request_duration_seconds_count"
    eventually(lambda: first.total(name) == 7)
    first.kill(15)
    shutil.rmtree(Path("/run/sidelight") / first.instance)
    ask(found, client, f"{web.ip}:8080", 5)  # nobody is there: the programs count
    first.start()
    eventually(lambda: first.total(name) == 12)
    assert first.total("sidelight_tcp_connections_opened_total", reporter="source", source_workload="client") == 12
    assert not first.broken_laws()
