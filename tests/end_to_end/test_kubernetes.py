"""The shop in a test cluster: every edge under the names a Kubernetes user would use, and what the API server's absence does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import CGROUP_SHAPES, SHOP_SERVER, Cluster, Pod, cluster, shop
from tests.observed import PATIENCE, eventually, run
from tests.running import Running, flows_of


def ask(found: Cluster, source: Pod, target: str, times: int) -> None:
    code = f"import http.client\nfor i in range({times}):\n  c = http.client.HTTPConnection({target!r}, timeout={10 * PATIENCE}); c.request('GET', '/'); c.getresponse().read(); c.close()"  # fmt: skip
    assert found.run(source, "python3", "-c", code).wait(60 * PATIENCE) == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Running, Cluster]]:
    agent = Running("--node-name", "node-1", "--cluster-name", "prod", "--metrics", "http", "--metrics", "tcp", "--metrics", "dns", "--metrics", "istio", "--metrics", "servicegraph")  # fmt: skip
    try:
        with cluster(agent.cgroup, tmp_path) as found:
            agent.observed = found.cgroup / "node-1"  # the host outside is not ours to see
            agent.arguments += ("--kubeconfig", str(found.api.kubeconfig()))
            agent.start()
            yield agent, found
    finally:
        agent.close()


def listening(found: Cluster, pod: Pod, port: int) -> None:
    eventually(lambda: run("ip", "netns", "exec", pod.netns, "ss", "-Htln", f"sport = :{port}"))


def test_the_shop_by_name(place: tuple[Running, Cluster], tmp_path: Path) -> None:
    agent, found = place
    pods = shop(found)
    for name in ("cart", "catalogue-v1", "catalogue-v2", "web"):
        listening(found, pods[name], 8080)
    listening(found, pods["redis"], 6379)
    ask(found, pods["load"], "10.96.0.13:80", 20)

    def served(workload: str, **more: str) -> float:
        return agent.total(
            "http_server_request_duration_seconds_count",
            destination_workload=workload, destination_workload_namespace="shop", **more,
        )  # fmt: skip

    eventually(lambda: served("web") == 20)
    assert served("web", source_workload="generator", source_workload_namespace="load") == 20
    assert served("cart", source_workload="web", destination_service_name="cart") == 20
    assert served("catalogue") + served("catalogue-v2") == 20
    assert served("catalogue-v2", destination_canonical_revision="v2", http_response_status_code="500") == 1
    # the client dialled the service; the backend that answered is known too
    client = agent.samples("http_client_request_duration_seconds_count", source_workload="web", destination_service_name="catalogue")  # fmt: skip
    assert {labels["destination_workload"] for labels, _ in client} == {"catalogue", "catalogue-v2"}
    assert agent.total("sidelight_tcp_connections_opened_total", reporter="source", source_workload="cart", destination_workload="redis", destination_service_name="redis") == 20  # fmt: skip
    istio = agent.samples("istio_requests_total", reporter="destination", destination_service="cart.shop.svc.cluster.local")  # fmt: skip
    assert sum(value for _, value in istio) == 20 and istio[0][0]["destination_cluster"] == "prod"
    assert agent.total("traces_service_graph_request_total", client="shop/web", server="shop/cart") == 20
    flows = [json.loads(line)["flow"] for line in agent.cli("tail", "shop/web", "--since", "1m", "--no-follow", "-o", "json").stdout.splitlines()]  # fmt: skip
    pod_names = {flow["destination"].get("pod_name") for flow in flows}
    assert pods["cart"].name in pod_names and pods["web"].name in pod_names
    assert not agent.broken_laws()
    for name in ("web", "cart"):
        count = tmp_path / f"{name}.count"
        assert not count.exists()
    found.processes.stop_all()
    assert int((tmp_path / "web.count").read_text()) == 20


def test_a_pod_named_late_and_an_absent_api_server(place: tuple[Running, Cluster]) -> None:
    agent, found = place
    pods = shop(found)
    listening(found, pods["web"], 8080)
    late = found.pod("load", "late", announce=False)
    ask(found, late, "10.96.0.12:80", 3)
    found.announce(late)
    eventually(lambda: agent.total("http_client_request_duration_seconds_count", source_workload="late") == 3)
    found.api.stop()
    ask(found, pods["load"], "10.96.0.12:80", 4)
    eventually(lambda: agent.total("http_client_request_duration_seconds_count", source_workload="generator") == 4)
    found.api.compact()
    found.api.start()
    unknown = agent.total("http_client_request_duration_seconds_count", source_workload="unknown")
    assert unknown == 0
    assert not agent.broken_laws()


def test_every_shape_of_cgroup_names_its_pod_and_container(place: tuple[Running, Cluster]) -> None:
    agent, found = place
    server = found.pod("shop", "server")
    found.python(server, SHOP_SERVER, 8080, "{}", "/dev/null")
    listening(found, server, 8080)
    for shape in CGROUP_SHAPES:
        ask(found, found.pod("shapes", shape, shape=shape), f"{server.ip}:8080", 2)
    static = found.pod("kube-system", "etcd", static=True)
    ask(found, static, f"{server.ip}:8080", 3)
    debugged = found.pod("shapes", "debugged")
    shell = found.ephemeral_container(debugged, "debugger")
    code = f"import http.client; c = http.client.HTTPConnection('{server.ip}', 8080); c.request('GET', '/debug'); c.getresponse().read()"
    assert found.run(debugged, "python3", "-c", code, scope=shell).wait(30) == 0

    def asked(workload: str, namespace: str = "shapes") -> float:
        return agent.total("http_client_request_duration_seconds_count", source_workload=workload, source_workload_namespace=namespace, destination_workload="server")  # fmt: skip

    eventually(lambda: asked("debugged") == 1)
    assert {shape: asked(shape) for shape in CGROUP_SHAPES} == dict.fromkeys(CGROUP_SHAPES, 2)
    assert asked("etcd", "kube-system") == 3
    containers = [f["sidelight"]["source_container"] for f in flows_of(agent, "shapes/debugged", "--path", "/debug")]
    assert containers and set(containers) == {"debugger"}
    assert not agent.broken_laws()


def test_an_external_name_and_search_lists(place: tuple[Running, Cluster]) -> None:
    agent, found = place
    pods = shop(found)
    for name in ("payments", "web"):
        listening(found, pods[name], 8080)
    ask(found, pods["load"], "payments.shop:80", 5)
    eventually(lambda: agent.total("http_client_request_duration_seconds_count", source_workload="payments") == 5)
    edge = {"source_workload": "payments", "destination_service_name": "bank", "destination_service_namespace": "shop"}
    assert agent.total("http_client_request_duration_seconds_count", destination_workload="api.bank.example", **edge) == 5  # fmt: skip
    noise = [f for f in flows_of(agent, "--protocol", "dns") if f["l7"]["dns"].get("rcode")]
    assert noise, "the search list was tried: payments.shop is payments.shop.load.svc.cluster.local first"
    assert all(flow["l7"]["dns"]["query"].endswith("cluster.local.") for flow in noise)
    assert not [f for f in flows_of(agent, "--failed") if "dns" in f.get("l7", {})], "and it is nobody's failure"
    dns = agent.total("dns_lookup_duration_seconds_count", source_workload="generator", destination_service_name="kube-dns")  # fmt: skip
    assert dns >= 5
    found.processes.stop_all()
    assert int((found.scratch / "bank.count").read_text()) == 5


def test_rolling_update_namespace_deletion_and_reuse_of_the_address(place: tuple[Running, Cluster]) -> None:
    """Each flow keeps the name of its time, whoever has the address now."""
    agent, found = place
    server = found.pod("shop", "server")
    found.python(server, SHOP_SERVER, 8080, "{}", "/dev/null")
    listening(found, server, 8080)
    for generation in ("v1", "v2", "v3"):
        pod = found.pod("doomed", "client", version=generation, ip="10.214.1.200")
        ask(found, pod, f"{server.ip}:8080", 4)
        found.delete(pod)
    for generation in ("v1", "v2", "v3"):
        eventually(lambda v=generation: agent.total("http_server_request_duration_seconds_count", source_canonical_revision=v, source_workload_namespace="doomed") == 4)  # type: ignore[misc] # fmt: skip
    explained = json.loads(agent.cli("explain", "10.214.1.200", "-o", "json").stdout)
    assert len([c for c in explained["candidates"] if c["source"] == "pod-ip"]) == 3, "all three are remembered"
    assert not [c for c in explained["candidates"] if c["source"] == "pod-ip" and c["valid"]], "and none owns it now"
    assert not agent.broken_laws()
