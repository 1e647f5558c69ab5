"""Objects as the API has them: workloads by the names that agents give them; what is malformed is an error that names it."""

from __future__ import annotations

from typing import Any

import pytest

from sidelight.agent.errors import ConfigError
from sidelight.analysis.policy.objects import cluster_of


def pod(name: str, kind: str, owner: str, **labels: str) -> dict[str, Any]:
    references = [{"kind": kind, "name": owner, "uid": f"uid of {owner}", "controller": True}]
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels, "ownerReferences": references}}


@pytest.mark.parametrize(
    ("document", "workload"),
    [
        (pod("web-5d-x", "ReplicaSet", "web-5d", **{"pod-template-hash": "5d"}), "web"),
        (pod("lone-set-x", "ReplicaSet", "lone-set"), "lone-set"),
        (pod("etcd-n1", "Node", "n1"), "etcd"),
        (pod("backup-28391-x", "Job", "backup-28391"), "backup"),
        (pod("once-x", "Job", "once"), "once"),
        (pod("db-0", "StatefulSet", "db"), "db"),
        ({"kind": "Pod", "metadata": {"name": "bare"}}, "bare"),
    ],
)
def test_workloads_are_named_as_agents_name_them(document: dict[str, Any], workload: str) -> None:
    owner = [{"kind": "CronJob", "name": "backup", "uid": "cron", "controller": True}]
    job = {"kind": "Job", "metadata": {"name": "backup-28391", "uid": "uid of backup-28391", "ownerReferences": owner}}
    (found,) = cluster_of([document, job]).pods
    assert found.workload == workload


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Pod"},
        {"kind": "Pod", "metadata": {}},
        {"kind": "Pod", "metadata": {"name": "p", "labels": [1]}},
        {"kind": "Pod", "metadata": {"name": "p", "ownerReferences": 3}},
        {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "http"}]}]}},
        {"kind": "Namespace", "metadata": []},
        {"kind": "Node", "metadata": {"name": "n"}, "status": {"addresses": [1]}},
        {"kind": "Job", "metadata": {"uid": 1}},
    ],
)
def test_what_is_malformed(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{document['kind']} .*: not as the API has it: "):
        cluster_of([document])
