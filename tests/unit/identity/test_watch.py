"""The watch against a server that does everything an API server may do, over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidelight.identity import watch
from sidelight.identity.kubernetes import KubernetesIndex, read_access
from sidelight.identity.names import address_of
from tests.cluster.apiserver import ApiServer
from tests.observed import eventually


def pod(name: str, ip: str, uid: str = "", **meta: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop", **({"uid": uid} if uid else {}), **meta}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"podIP": ip, "podIPs": [{"ip": ip}]}}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    server.start()
    yield server
    server.stop()


def connect(api: ApiServer, tmp_path: Path, **more: Any) -> KubernetesIndex:
    index = KubernetesIndex.connect(
        kubeconfig=str(api.kubeconfig()), node="n1", cluster="c", scratch=tmp_path / "credentials", **more
    )
    index.start()
    return index


@pytest.fixture
def index(api: ApiServer, tmp_path: Path) -> Iterator[KubernetesIndex]:
    found = connect(api, tmp_path)
    yield found
    found.stop()


def owner(index: KubernetesIndex, ip: str) -> str:
    import time

    found = index.owner(address_of(ip), 0, time.time())
    return found.name if found else ""


def test_pages_then_events(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAGE", 7)
    for i in range(40):
        api.put("pods", pod(f"p{i}", f"10.0.0.{i}"))
    index = connect(api, tmp_path)
    assert index.wait_synced(10)
    assert index.counts()["pods"] == 40
    assert sum("continue=" in path for path in api.requests) >= 5
    uid = api.put("pods", pod("late", "10.0.1.1"))
    eventually(lambda: owner(index, "10.0.1.1") == "late")
    api.delete("pods", uid)
    eventually(lambda: owner(index, "10.0.1.1") == "")
    index.stop()


def test_410_relists_without_a_gap_and_tells_deletions(api: ApiServer, index: KubernetesIndex) -> None:
    stays, goes = api.put("pods", pod("stays", "10.0.0.1")), api.put("pods", pod("goes", "10.0.0.2"))
    assert stays != goes
    eventually(lambda: owner(index, "10.0.0.2") == "goes")
    api.stop()
    api.delete("pods", goes)
    api.put("pods", pod("new", "10.0.0.3"))
    api.compact()
    assert owner(index, "10.0.0.1") == "stays"  # away: names stay
    api.start()
    eventually(lambda: owner(index, "10.0.0.3") == "new", timeout_s=40)
    eventually(lambda: owner(index, "10.0.0.2") == "")
    assert owner(index, "10.0.0.1") == "stays"


def test_error_events_cut_lines_and_refusals(api: ApiServer, index: KubernetesIndex) -> None:
    assert index.wait_synced(10)
    api.faults.cut_lines = 2
    api.put("pods", pod("a", "10.0.0.1"))
    eventually(lambda: owner(index, "10.0.0.1") == "a")
    api.faults.error_events = 2
    api.faults.refuse.extend([(500, ""), (429, "1"), (503, "")])
    api.stop()
    api.start()
    api.put("pods", pod("b", "10.0.0.2"))
    eventually(lambda: owner(index, "10.0.0.2") == "b", timeout_s=40)
    assert sum(state.errors for state in index.health.values()) >= 3


def test_rotated_token(api: ApiServer, index: KubernetesIndex) -> None:
    assert index.wait_synced(10)
    api.token = "rotated"
    api.kubeconfig()
    api.stop()
    api.start()
    api.put("pods", pod("a", "10.0.0.1"))
    eventually(lambda: owner(index, "10.0.0.1") == "a", timeout_s=40)


def test_objects_that_make_no_sense_are_counted(api: ApiServer, tmp_path: Path) -> None:
    api.faults.bad_objects = 1
    api.put("pods", pod("a", "10.0.0.1"))
    index = connect(api, tmp_path)
    eventually(lambda: owner(index, "10.0.0.1") == "a")
    assert index.health["pods"].malformed == 1
    index.stop()


def test_half_open_connection(api: ApiServer, tmp_path: Path) -> None:
    import threading

    api.faults.silent = True
    access = read_access(str(api.kubeconfig()), tmp_path / "c")
    from sidelight.identity.kubernetes import HttpTransport

    stop, health = threading.Event(), watch.Health()
    resource = watch.RESOURCES[0]
    changes: list[watch.Change] = []

    def run() -> None:
        changes.extend(watch.follow(resource, HttpTransport(access, None), health, stop, idle_timeout_s=0.5))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    eventually(lambda: health.errors >= 1)
    api.faults.silent = False
    api.put("pods", pod("a", "10.0.0.1"))
    eventually(lambda: len(api.requests) > 3)
    stop.set()


def test_scope_of_one_node(api: ApiServer, tmp_path: Path) -> None:
    api.put("pods", pod("here", "10.0.0.1"))
    there = pod("there", "10.0.0.2")
    there["spec"]["nodeName"] = "n2"
    api.put("pods", there)
    index = connect(api, tmp_path, scope="node+services")
    assert index.wait_synced(10)
    assert owner(index, "10.0.0.1") == "here"
    assert owner(index, "10.0.0.2") == ""
    index.stop()
