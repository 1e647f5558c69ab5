"""The index against a naive model, and the rules that have names."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.agent import decode, layout
from sidelight.agent.attribute import Learner
from sidelight.agent.decode import EventBatch, RequestText
from sidelight.identity import objects
from sidelight.identity.claims import CONTESTED
from sidelight.identity.index import Index
from sidelight.identity.model import Kind
from sidelight.identity.names import address_of
from sidelight.identity.resolver import Resolver


def pod(name: str, ips: list[str], uid: str = "", created: str = "", **spec: Any) -> objects.Pod:
    raw = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid or name,
            "creationTimestamp": created or None,
            **spec.pop("meta", {}),
        },
        "spec": {"nodeName": "n1", **spec},
        "status": {"podIPs": [{"ip": ip} for ip in ips]},
    }
    return msgspec.json.decode(msgspec.json.encode(raw), type=objects.Pod)


def name_at(index: Index, ip: str, at: float) -> str | None:
    found = index.owner(address_of(ip), 0, at)
    return found.name if found else None


def test_ip_reuse_is_decided_by_the_time_of_the_flow() -> None:
    index = Index(tombstone_s=100)
    index.put("pods", pod("old", ["10.0.0.1"]), 10.0)
    index.remove("pods", "old", 20.0)
    index.put("pods", pod("new", ["10.0.0.1"]), 20.5)
    assert [name_at(index, "10.0.0.1", at) for at in (15.0, 19.99, 20.6, 30.0)] == ["old", "old", "new", "new"]
    assert name_at(index, "10.0.0.1", 20.2) == "new"  # between the two: the object comes after the first packet
    index.put("pods", pod("other", ["10.0.0.9"]), 200.0)
    assert name_at(index, "10.0.0.1", 15.0) is None  # the tombstone has gone


def test_takeover_before_the_deletion_is_told() -> None:
    index = Index()
    index.put("pods", pod("old", ["10.0.0.1"]), 10.0)
    index.put("pods", pod("new", ["10.0.0.1"]), 20.0)
    index.remove("pods", "old", 25.0)
    assert name_at(index, "10.0.0.1", 15.0) == "old"
    assert name_at(index, "10.0.0.1", 24.0) == "new"


def test_host_network_never_claims_the_node() -> None:
    index = Index(node="n1")
    node = {
        "metadata": {"name": "n1", "uid": "n"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    }
    index.put("nodes", msgspec.convert(node, objects.Node), 1.0)
    index.put("pods", pod("proxy", ["192.168.0.1"], hostNetwork=True), 2.0)
    found = index.owner(address_of("192.168.0.1"), 0, 5.0)
    assert found and found.kind is Kind.NODE and found.numeric() == 1
    assert index.pod("proxy") is not None


def test_owner_chain_and_late_replicaset() -> None:
    index = Index()
    reference = [{"kind": "ReplicaSet", "name": "web-7d4b9c", "uid": "rs", "controller": True}]
    meta = {"ownerReferences": reference, "labels": {"pod-template-hash": "7d4b9c", "app": "web", "version": "v2"}}
    index.put("pods", pod("web-7d4b9c-x", ["10.0.0.1"], meta=meta), 1.0)
    found = index.pod("web-7d4b9c-x")
    assert found and (found.workload, found.workload_kind, found.version) == ("web", "Deployment", "v2")
    above = {
        "metadata": {
            "name": "web-7d4b9c",
            "uid": "rs",
            "ownerReferences": [{"kind": "Rollout", "name": "web", "uid": "d", "controller": True}],
        }
    }
    index.put("replicasets", msgspec.convert(above, objects.OnlyMeta), 2.0)
    found = index.pod("web-7d4b9c-x")
    assert found and (found.workload, found.workload_kind) == ("web", "Rollout")
    assert index.owner(address_of("10.0.0.1"), 0, 3.0) == found


def test_static_pod_by_the_kubelets_uid() -> None:
    index = Index()
    meta = {
        "annotations": {"kubernetes.io/config.hash": "abc123"},
        "ownerReferences": [{"kind": "Node", "name": "n1", "uid": "n", "controller": True}],
    }
    index.put("pods", pod("etcd-n1", ["10.0.0.1"], uid="mirror", meta=meta), 1.0)
    found = index.pod("abc123")
    assert found and found.workload == "etcd"


def test_services_dual_stack_node_ports_and_headless() -> None:
    index = Index(node="n1")
    service = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "s"},
        "spec": {"clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"port": 80, "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
    }
    index.put("services", msgspec.convert(service, objects.Service), 1.0)
    headless = {"metadata": {"name": "db", "namespace": "shop", "uid": "h"}, "spec": {"clusterIP": "None"}}
    index.put("services", msgspec.convert(headless, objects.Service), 1.0)
    node = {
        "metadata": {"name": "n2", "uid": "n"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]},
    }
    index.put("nodes", msgspec.convert(node, objects.Node), 1.0)
    for text, port in (("10.96.0.1", 80), ("fd00::1", 80), ("203.0.113.9", 80), ("192.168.0.2", 30080)):
        found = index.service(address_of(text), port, 2.0)
        assert found and found.host == "web.shop.svc.cluster.local", text
    assert index.service(address_of("192.168.0.2"), 30081, 2.0) is None
    index.remove("services", "s", 3.0)
    assert index.service(address_of("10.96.0.1"), 80, 4.0) is None


_STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "remove"]), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40
)


@given(_STEPS)
@settings(max_examples=200, deadline=None)
def test_against_a_naive_model(steps: list[tuple[str, int, int]]) -> None:
    """One event a ten seconds; the model keeps a plain list of who had which address when."""
    index = Index(tombstone_s=1e9)
    spans: list[list[Any]] = []  # [ip, uid, since, until]
    living: dict[str, str] = {}
    serial = 0
    at = 0.0
    for action, slot, number in steps:
        at += 10.0
        ip = f"10.0.0.{number}"
        known = [uid for uid, where in living.items() if uid.startswith(f"p{slot}-")]
        if action == "remove":
            for uid in known:
                index.remove("pods", uid, at)
                del living[uid]
                for span in spans:
                    if span[1] == uid and span[3] is None:
                        span[3] = at
            continue
        if known:
            continue  # a pod keeps its address
        serial += 1
        uid = f"p{slot}-{serial}"
        index.put("pods", pod(uid, [ip], uid=uid), at)
        living[uid] = ip
        for span in spans:
            if span[0] == ip and span[3] is None:
                span[3] = at
        spans.append([ip, uid, at, None])
    for moment in range(5, int(at) + 10, 10):
        for number in range(4):
            ip = f"10.0.0.{number}"
            expected = [
                uid
                for where, uid, since, until in spans
                if where == ip and since <= moment and (until is None or moment < until)
            ]
            assert name_at(index, ip, float(moment)) == (expected[-1] if expected else None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "spec",
                    "status",
                    "name",
                    "labels",
                    "podIPs",
                    "ip",
                    "uid",
                    "ownerReferences",
                    "addresses",
                    "clusterIPs",
                    "ports",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(_JSON, st.sampled_from([objects.Pod, objects.Service, objects.EndpointSlice, objects.Node, objects.OnlyMeta]))
@settings(max_examples=500, deadline=None)
def test_any_json_is_an_object_or_a_decode_error(document: Any, kind: type[Any]) -> None:
    names = {
        objects.Pod: "pods",
        objects.Service: "services",
        objects.EndpointSlice: "endpointslices",
        objects.Node: "nodes",
        objects.OnlyMeta: "jobs",
    }
    try:
        item = msgspec.json.decode(msgspec.json.encode(document), type=kind)
    except msgspec.MsgspecError:
        return
    index = Index()
    index.put(names[kind], item, 1.0)
    index.remove(names[kind], item.metadata.uid, 2.0)


def test_a_creation_time_in_the_future_keeps_nothing_for_ever() -> None:
    """Found by tests/fuzz: tombstones of its address stood before all others and were never reached."""
    index = Index(tombstone_s=10)
    for number in range(5):
        index.put("pods", pod(f"p{number}", ["10.0.0.1"], created="2999-01-01T00:00:00Z"), float(number))
    assert name_at(index, "10.0.0.1", 4.5) == "p4"
    index.put("pods", pod("other", ["10.0.0.2"]), 100.0)
    assert index.counts()["tombstones"] == 0


def test_a_host_header_names_only_what_the_cluster_does_not_know() -> None:
    """Else every pair of a pod and an address would take its place among the learnt names, of which there are so many."""
    index = Index()
    index.put("pods", pod("web", ["10.0.0.1"]), 10.0)
    resolver = Resolver(Nowhere(), lambda pids: "", index=index)
    learner = Learner(resolver)
    events = np.zeros(2, layout.EVENT)
    events["type"], events["key"]["role"], events["key"]["cgroup_id"] = decode.REQUEST, layout.ROLE_CLIENT, 7
    for event, address in zip(events, ("10.0.0.1", "192.0.2.1"), strict=True):
        event["key"]["remote"] = np.frombuffer(address_of(address), np.uint8)
    texts = {number: RequestText("GET", "/", "HTTP/1.1", "web.example") for number in range(2)}
    learner.learn(EventBatch(events, texts, {}), np.full(2, 11 * 10**9))
    assert [address for (_, address), _ in resolver.names.items()] == [address_of("192.0.2.1")]


class Nowhere:
    def path(self, cgroup_id: int) -> str | None:
        return None

    def processes(self, path: str) -> list[int]:
        return []


def endpoints(service: str, *ips: str) -> objects.EndpointSlice:
    raw = {
        "metadata": {"name": service, "namespace": "shop", "uid": f"slice-{service}", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": [ip]} for ip in ips],
    }  # fmt: skip
    return msgspec.convert(raw, objects.EndpointSlice)


def owned(name: str, ip: str, owner: str) -> objects.Pod:
    reference = [{"kind": "ReplicaSet", "name": f"{owner}-7d4b9c", "uid": f"rs-{owner}", "controller": True}]
    return pod(name, [ip], meta={"ownerReferences": reference, "labels": {"pod-template-hash": "7d4b9c"}})


def test_a_service_whose_backend_address_changed_hands_is_not_without_one_for_ever() -> None:
    """While it changed hands nobody can say; that is no answer for later."""
    index = Index()
    index.put("pods", owned("old", "10.0.0.1", "other"), 10.0)
    index.put("pods", pod("web-1", ["10.0.0.1"], created="1970-01-01T00:00:15Z"), 20.0)
    index.put("endpointslices", endpoints("web", "10.0.0.1"), 20.0)
    assert index.owner(address_of("10.0.0.1"), 0, 17.0) is CONTESTED
    service = index.service_listing(address_of("10.0.0.1"))
    assert service and index.backend(service, 17.0) is None
    found = index.backend(service, 21.0)
    assert found and found.workload == "web-1"


def test_a_service_s_backend_follows_what_is_heard_of_its_pods() -> None:
    index = Index()
    index.put("endpointslices", endpoints("web", "10.0.0.1"), 10.0)
    index.put("pods", owned("web-1", "10.0.0.1", "web"), 10.0)
    service = index.service_listing(address_of("10.0.0.1"))
    assert service
    assert index.backend(service, 11.0).workload_kind == "Deployment"  # type: ignore[union-attr]
    above = {"metadata": {"name": "web-7d4b9c", "uid": "rs-web", "ownerReferences": [{"kind": "Rollout", "name": "web", "uid": "d", "controller": True}]}}  # fmt: skip
    index.put("replicasets", msgspec.convert(above, objects.OnlyMeta), 12.0)
    assert index.backend(service, 13.0).workload_kind == "Rollout"  # type: ignore[union-attr]
