"""`sidelight demo --kubernetes`: the test cluster's shop, observed by an agent with the cluster's names. Needs the repository."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

from sidelight.agent.errors import UnsupportedFeature
from sidelight.agent.loader import cgroup2_root
from sidelight.agent.settings import AgentSettings, default_socket
from sidelight.cli.client import Client, open_channel
from sidelight.cli.demo import _print_flows, demo_cgroup
from sidelight.cli.map import _tree

REPOSITORY = Path(__file__).resolve().parent.parent


def run(seconds: float, metrics_listen: str, lines: int, output: str) -> None:
    """Builds the cluster, runs the shop, shows flows and the map, takes it all down."""
    if not (REPOSITORY / "tests" / "cluster" / "cluster.py").exists():
        raise UnsupportedFeature("the test cluster comes with the repository: run this from a clone")
    sys.path.insert(0, str(REPOSITORY))
    test_cluster = importlib.import_module("tests.cluster.cluster")
    from sidelight.cli.runtime import Runtime, temporary_instance

    root = cgroup2_root()
    with (
        demo_cgroup(root) as cgroup,
        tempfile.TemporaryDirectory(prefix="sidelight-demo-") as scratch,
        test_cluster.cluster(cgroup, Path(scratch)) as found,
    ):
        settings = AgentSettings(
            cgroup=cgroup / test_cluster.NODE,
            cgroup_root=root,
            instance=temporary_instance("demo"),
            interval_s=0.5,
            keep_state=False,
            kubernetes=True,
            kubeconfig=str(found.api.kubeconfig()),
            node=test_cluster.NODE,
            cluster="demo",
        )
        runtime = Runtime(settings, {"metrics_listen": metrics_listen})
        runtime.start()
        try:
            pods = test_cluster.shop(found)
            time.sleep(1.0)
            channel = open_channel(f"unix:{default_socket(settings.instance, settings.state)}", {})
            client = Client([("demo", channel)])
            threading.Thread(target=_print_flows, args=(client, lines, output), daemon=True).start()
            ask = (
                "import http.client, time\n"
                f"end = time.time() + {seconds}\n"
                "while time.time() < end:\n"
                "  c = http.client.HTTPConnection('10.96.0.13', 80, timeout=10)\n"
                "  c.request('GET', '/shop?user=42'); c.getresponse().read(); c.close(); time.sleep(0.1)\n"
            )
            load: subprocess.Popen[bytes] = found.run(pods["load"], "python3", "-c", ask)
            load.wait()
            runtime.agent.drain_now()
            time.sleep(0.3)
            runtime.agent.drain_now()
            click.echo("\nThe service map:")
            _tree(client.query("map"))
            audit = client.query("audit")
            click.echo("books: " + ("all laws hold" if audit["holds"] else "BROKEN"))
            client.close()
        finally:
            runtime.stop(detach=True)
            shutil.rmtree(settings.state / settings.instance, ignore_errors=True)
