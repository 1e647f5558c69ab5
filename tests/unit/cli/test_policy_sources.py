"""Flows to observations: each connection once, backends for Services, identity as of the flow; objects from files."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from sidelight.agent.errors import ConfigError
from sidelight.analysis.policy.observed import edges_of
from sidelight.analysis.policy.suggest import suggest
from sidelight.cli.policy_sources import Objects, Reader, from_prometheus, objects_of, read_documents
from sidelight.exporter.proto import flow_pb2, observer_pb2, sidelight_pb2
from sidelight.exporter.verify.prometheus import Api
from tests.unit.analysis.policy.world import documents

SERVICE = {
    "kind": "Service", "metadata": {"name": "b", "namespace": "y"},
    "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "selector": {"pod": "b"}, "ports": [{"port": 8000, "targetPort": "web"}]},
}  # fmt: skip


def objects(*more: dict[str, Any]) -> Objects:
    return objects_of([*documents(), SERVICE, *more])


def flow(
    source: str,
    destination: str,
    port: int,
    kind: str = "open",
    reporter: str = "destination",
    node: str = "c/n2",
    **more: Any,
) -> observer_pb2.GetFlowsResponse:
    """`source` and `destination`: namespace/pod@address, or an address alone."""
    found = flow_pb2.Flow(
        node_name=node, traffic_direction=flow_pb2.INGRESS if reporter == "destination" else flow_pb2.EGRESS
    )
    for end, field, text in ((found.source, "source", source), (found.destination, "destination", destination)):
        name, _, address = text.rpartition("@")
        setattr(found.IP, field, address)
        if name:
            end.namespace, _, end.pod_name = name.partition("/")
            end.labels.extend([f"k8s:pod={end.pod_name}", f"k8s:io.kubernetes.pod.namespace={end.namespace}"])
            end.workloads.add(name=end.pod_name)
    layer = found.l4.UDP if more.pop("udp", False) else found.l4.TCP
    layer.destination_port = port
    found.time.FromSeconds(100)
    found.extensions.Pack(sidelight_pb2.FlowDetail(kind=kind, reporter=reporter, **more))
    return observer_pb2.GetFlowsResponse(flow=found)


A, B = "x/a@10.1.0.1", "y/b@10.2.0.2"


def test_the_servers_report_counts_where_there_is_one() -> None:
    both = [flow(A, B, 80), flow(A, "@10.96.0.9", 8000, reporter="source", node="c/n1")]
    found = Reader(objects()).read(both)
    (seen,) = found.observations
    assert seen.traffic.port == 80 and seen.traffic.destination.title == "y/b" and found.nodes == {"n1", "n2"}
    # the server's node has no agent: the client's own, at the backend and its port
    (alone,) = Reader(objects()).read(both[1:]).observations
    assert alone.traffic.port == 80 and alone.traffic.destination.pod and alone.traffic.destination.pod.name == "b"
    assert str(alone.traffic.dialled) == "10.96.0.9" and alone.traffic.destination.address == ipaddress.ip_address(
        "10.2.0.2"
    )


def test_the_api_server_is_what_is_behind_its_service() -> None:
    service = {"kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443, "targetPort": 6443}]}}  # fmt: skip
    behind = {"kind": "EndpointSlice", "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}}, "endpoints": [{"addresses": ["172.18.0.2"]}]}  # fmt: skip
    found = Reader(objects(service, behind)).read([flow(A, "@10.96.0.1", 443, reporter="source", node="c/n1")])
    (seen,) = found.observations
    assert seen.traffic.port == 6443 and seen.traffic.destination.node and seen.traffic.destination.node.name == "n2"
    (policy,) = [p for p in suggest(edges_of([seen]), objects().cluster, (), ["x"]).policies if p.workload == "a"]
    assert [(rule.reason, rule.peers[0].network) for rule in policy.egress or ()] == [
        ("the API server", "172.18.0.2/32")
    ]


def test_failures_ends_and_datagrams() -> None:
    found = Reader(objects()).read([
        flow(A, B, 81, "fail", "source", "c/n1", reason="refused"),
        flow(A, B, 80, "close", sent_bytes=5, received_bytes=7),
        flow(A, B, 80, "close", adopted=True),
        flow(A, "z/a@10.3.0.1", 53, "dns", "source", "c/n1", udp=True),
        flow(A, B, 80, "request"),
        observer_pb2.GetFlowsResponse(lost_events=flow_pb2.LostEvent(num_events_lost=9)),
    ])  # fmt: skip
    assert [(o.failed, o.count, o.bytes, o.traffic.protocol) for o in found.observations] == [
        (False, 0, 12, "TCP"), (False, 1, 0, "TCP"), (True, 1, 0, "TCP"), (False, 1, 0, "UDP"),
    ]  # fmt: skip
    assert found.lost == 9 and found.observations[2].reason == "refused"


def test_identity_is_that_of_the_flow() -> None:
    """A pod that has gone keeps its labels; an address that is a node's is a node; others are outside."""
    found = Reader(objects()).read(
        [flow("z/old@10.3.0.77", B, 80), flow("@172.18.0.2", B, 80), flow("@198.51.100.10", B, 80)]
    )
    old, node, outside = (seen.traffic.source for seen in found.observations)
    assert old.pod and old.pod.labels == (("pod", "old"),) and node.node and node.node.name == "n2"
    assert outside.pod is None and outside.node is None and str(outside.address) == "198.51.100.10"


class Canned(Api):
    """A Prometheus with these series: labels, value before the time, samples in it."""

    series = (
        ("y", "b", "n1", 10.0, [(100.0, 14.0), (150.0, 3.0)]),
        ("y", "b", "n2", None, [(120.0, 2.0), (180.0, 5.0)]),
        ("y", "c", "n2", 7.0, [(120.0, 7.0)]),
        ("", "", "n2", 0.0, [(120.0, 9.0)]),
        ("y", "b", "gone", 3.0, []),
    )

    def query(self, text: str, at: float) -> list[dict[str, Any]]:
        rows = []
        for namespace, workload, node, before, samples in self.series:
            labels = {
                "source_workload_namespace": "x", "source_workload": "a", "destination_workload_namespace": namespace,
                "destination_workload": workload, "server_port": "80", "node": node,
            }  # fmt: skip
            if text.startswith("last_over_time"):
                rows += [{"metric": labels, "value": [at, str(before)]}] if before is not None else []
            elif samples:
                rows.append({"metric": labels, "values": [[when, str(value)] for when, value in samples]})
        return rows


def test_connections_by_workload_from_a_prometheus() -> None:
    """Resets and births are taken in; what has no name of a workload is lost; a series without news says nothing."""
    found = from_prometheus(Canned("http://prometheus"), objects(), 110.0, 200.0)
    seen = [(o.traffic.destination.title, o.traffic.port, o.count, o.at) for o in found.observations]
    assert seen == [("y/b", 80, 4 + 3, 100.0), ("y/b", 80, 0, 150.0), ("y/b", 80, 5, 120.0), ("y/b", 80, 0, 180.0)]
    assert found.lost == 9 and found.nodes == {"n1", "n2"}


def test_what_a_cron_jobs_pod_did_is_its_cron_jobs() -> None:
    """Agents name its workload by the CronJob; so do objects, or what was seen would belong to nobody."""
    controller = {"controller": True, "uid": "1"}
    job = {"kind": "Job", "metadata": {"name": "j-29", "namespace": "x", "uid": "1", "ownerReferences": [{"kind": "CronJob", "name": "j", "uid": "2", "controller": True}]}}  # fmt: skip
    pod = {
        "kind": "Pod", "metadata": {"name": "j-29-p", "namespace": "x", "labels": {"pod": "j-29-p"}, "ownerReferences": [{"kind": "Job", "name": "j-29", **controller}]},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.9"}]},
    }  # fmt: skip
    known = objects(job, pod)
    seen = flow("x/j-29-p@10.1.0.9", B, 80)
    seen.flow.source.workloads[0].name = "j"
    suggestion = suggest(edges_of(Reader(known).read([seen]).observations), known.cluster, (), ["x"])
    (policy,) = [found for found in suggestion.policies if found.workload.startswith("j")]
    assert policy.workload == "j" and [rule.ports for rule in policy.egress or ()] == [(("TCP", 80),)]


def test_files_of_objects(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(json.dumps({"kind": "List", "items": documents()}))
    (tmp_path / "pods.yaml").write_text(
        json.dumps({"kind": "PodList", "items": [{"metadata": {"name": "late", "namespace": "x"}}]})
    )
    found = objects_of(read_documents(tmp_path))
    assert len(found.cluster.pods) == 11 and set(found.cluster.namespaces) == {"x", "y", "z"}
    for text in ("- a: [", "3", "[1, 2]", "{" * 2000):
        broken = tmp_path / "broken.yml"
        broken.write_text(text)
        with pytest.raises(ConfigError) as error:
            list(read_documents(broken))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Service", "metadata": {"name": "s"}, "spec": {"clusterIP": "nonsense", "ports": [{"port": 80}]}},
        {"kind": "Service", "metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{}]}},
        {"kind": "EndpointSlice", "metadata": {"name": "e"}, "endpoints": [{"addresses": ["nonsense"]}]},
        {"kind": "CronJob", "metadata": {}},
    ],
)
def test_what_is_malformed(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{document['kind']} .*: not as the API has it: "):
        objects(document)


def test_lists_of_what_is_none_and_times_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    for text in ("kind: List\nitems: 3\n", "kind: List\nitems: [3]\n", "kind: PodList\nitems: [a]\n"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            list(read_documents(path))
    path.write_text("kind: CronJob\nmetadata: {name: j}\nstatus: {lastScheduleTime: 2026-01-01T00:00:00Z}\n")
    assert objects_of(read_documents(path)).cron_jobs == {"default/j": 1767225600.0}


def test_jobs_that_run_now_and_then() -> None:
    job = {
        "kind": "CronJob",
        "metadata": {"name": "j", "namespace": "x"},
        "status": {"lastScheduleTime": "2026-01-01T00:00:00Z"},
    }
    never = {"kind": "CronJob", "metadata": {"name": "n", "namespace": "x"}}
    assert objects(job, never).cron_jobs == {"x/j": 1767225600.0, "x/n": 0.0}
