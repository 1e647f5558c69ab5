"""The repository's test cluster with an agent on its node, for as long as a demo (or a benchmark) lasts."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidelight.agent.errors import UnsupportedFeature
from sidelight.agent.loader import cgroup2_root
from sidelight.agent.settings import AgentSettings, default_socket
from sidelight.cli.client import Client, open_channel
from sidelight.cli.demo import demo_cgroup
from sidelight.cli.runtime import Runtime, temporary_instance

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class ObservedCluster:
    """`module`: tests.cluster.cluster; `found`: the cluster it made, without pods yet."""

    module: Any
    found: Any
    runtime: Runtime
    client: Client
    scratch: Path


@contextlib.contextmanager
def observed_cluster(name: str, metrics_listen: str = "off") -> Iterator[ObservedCluster]:
    """Builds it, starts the agent, takes all of it down. Raises UnsupportedFeature away from a clone, SidelightError."""
    if not (REPOSITORY / "tests" / "cluster" / "cluster.py").exists():
        raise UnsupportedFeature("the test cluster comes with the repository: run this from a clone")
    sys.path.insert(0, str(REPOSITORY))
    module = importlib.import_module("tests.cluster.cluster")
    root = cgroup2_root()
    with (
        demo_cgroup(root) as cgroup,
        tempfile.TemporaryDirectory(prefix="sidelight-demo-") as scratch,
        module.cluster(cgroup, Path(scratch)) as found,
    ):
        settings = AgentSettings(
            cgroup=cgroup / module.NODE,
            cgroup_root=root,
            instance=temporary_instance(name),
            interval_s=0.5,
            keep_state=False,
            kubernetes=True,
            kubeconfig=str(found.api.kubeconfig()),
            node=module.NODE,
            cluster="demo",
        )
        runtime = Runtime(settings, {"metrics_listen": metrics_listen})
        runtime.start()
        client = Client([(module.NODE, open_channel(f"unix:{default_socket(settings.instance, settings.state)}", {}))])
        try:
            yield ObservedCluster(module, found, runtime, client, Path(scratch))
        finally:
            client.close()
            runtime.stop(detach=True)
            shutil.rmtree(settings.state / settings.instance, ignore_errors=True)
