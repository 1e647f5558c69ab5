"""The commands on files: verdicts and exit statuses of traffic nobody has seen; nothing to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sidelight.agent.errors import ConfigError
from sidelight.cli.policy import check_command, explain_command
from sidelight.cli.policy_text import describe
from tests.unit.analysis.policy.world import documents, policies

CLOSED = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "closed", "namespace": "y"},
    "spec": {"podSelector": {"matchLabels": {"pod": "b"}}},
}
HOSTS = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "hosts", "namespace": "x"},
    "spec": {"podSelector": {"matchLabels": {"pod": "h"}}},
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "objects.json").write_text(json.dumps({"kind": "List", "items": [*documents(), HOSTS]}))
    (tmp_path / "new.json").write_text(json.dumps(CLOSED))
    return str(tmp_path / "objects.json"), str(tmp_path / "new.json")


def explain(files: tuple[str, str], *arguments: str, new: bool = True) -> Any:
    options = ["--objects", files[0], *(("--policies", files[1]) if new else ())]
    return CliRunner().invoke(explain_command, [*arguments, *options])


def test_traffic_that_nobody_has_seen(files: tuple[str, str]) -> None:
    denied = explain(files, "x/a", "y/b", "80")
    assert denied.exit_code == 1 and denied.output.startswith("denied\n") and "isolated by closed" in denied.output
    assert explain(files, "x/a", "y/b", "80", new=False).exit_code == 0
    assert explain(files, "y/a", "x/h", "80").exit_code == 3, "undefined"
    assert explain(files, "node:n2", "y/b", "80").exit_code == 0, "its own node"
    assert (
        explain(files, "198.51.100.10", "y/b", "80").exit_code
        == explain(files, "2001:db8::1", "y/b", "80").exit_code
        == 1
    )
    assert explain(files, "10.1.0.1", "y/b", "80", "--protocol", "UDP").exit_code == 1, "an address that is a pod's"
    document = json.loads(explain(files, "x/a", "y/b", "80", "-o", "json").output)
    assert document["verdict"] == "denied" and document["walk"][-1]["policy"] == "NetworkPolicy y/closed"


@pytest.mark.parametrize("ends", [("x/none", "y/b"), ("x/a", "node:none"), ("somebody", "y/b")])
def test_who_is_not_there(files: tuple[str, str], ends: tuple[str, str]) -> None:
    assert isinstance(explain(files, *ends, "80").exception, ConfigError)


def test_nothing_to_look_at(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('{"kind": "List", "items": []}')
    (tmp_path / "new.json").write_text(json.dumps(CLOSED))
    found = CliRunner().invoke(check_command, ["--objects", str(tmp_path / "empty.json")])
    assert found.exit_code == 3 and "could not look" in found.output
    none = CliRunner().invoke(check_command, [str(tmp_path / "empty.json"), "--objects", str(tmp_path / "empty.json")])
    assert isinstance(none.exception, ConfigError)


def test_policies_in_lines() -> None:
    (policy,) = policies("""
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {namespaceSelector: {}}], ports: [{port: 80}]}]
""")
    assert describe(policy) == [
        "pods app In web", "egress: nothing", "ingress:", "  Allow 10.0.0.0/8 but 10.1.0.0/16 TCP 80", "  Allow pods all of namespaces all TCP 80",
    ]  # fmt: skip
