"""`sidelight demo --policy`: from the shop's traffic to policies, what they would cut, and what is denied, yet flows."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from sidelight.agent.errors import SidelightError, UnsupportedFeature
from sidelight.agent.loader import cgroup2_root
from sidelight.agent.settings import AgentSettings, default_socket
from sidelight.analysis.policy.check import Result, check
from sidelight.analysis.policy.model import Policy
from sidelight.analysis.policy.objects import policy_of
from sidelight.analysis.policy.observed import Edge, edges_of
from sidelight.analysis.policy.render import manifest, text
from sidelight.analysis.policy.suggest import Suggestion, suggest
from sidelight.cli.client import Client, open_channel
from sidelight.cli.demo import demo_cgroup
from sidelight.cli.demo_kubernetes import REPOSITORY
from sidelight.cli.policy import print_check
from sidelight.cli.policy_sources import Flows, Objects, Reader, read_cluster
from sidelight.exporter.proto import observer_pb2

ASK = (
    "import http.client, time\n"
    "end = time.time() + {seconds}\n"
    "while time.time() < end:\n"
    "  c = http.client.HTTPConnection('10.96.0.13', 80, timeout=10)\n"
    "  c.request('GET', '/shop'); c.getresponse().read(); c.close(); time.sleep(0.1)\n"
)


def run(seconds: float) -> None:
    """Raises SidelightError when what was suggested would cut something, or what was taken away would not."""
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
            instance=temporary_instance("policy"),
            interval_s=0.5,
            keep_state=False,
            kubernetes=True,
            kubeconfig=str(found.api.kubeconfig()),
            node=test_cluster.NODE,
            cluster="demo",
        )
        runtime = Runtime(settings)
        runtime.start()
        try:
            pods = test_cluster.shop(found)
            time.sleep(1.0)
            click.echo(f"The shop is open for {seconds:g} seconds …")
            found.run(pods["load"], "python3", "-c", ASK.format(seconds=seconds)).wait()
            runtime.agent.drain_now()
            client = Client([("demo", open_channel(f"unix:{default_socket(settings.instance, settings.state)}", {}))])
            try:
                _walk(client, found)
            finally:
                client.close()
        finally:
            runtime.stop(detach=True)
            shutil.rmtree(settings.state / settings.instance, ignore_errors=True)


def _walk(client: Client, found: Any) -> None:
    kubeconfig = str(found.api.kubeconfig())
    objects = read_cluster(kubeconfig)
    request = observer_pb2.GetFlowsRequest()
    request.since.FromSeconds(0)
    flows = Reader(objects).read(client.flows(request))
    edges = edges_of(flows.observations)
    suggestion = suggest(edges, objects.cluster, objects.policies, ("shop",))
    _heading("1. sidelight policy suggest shop: what was seen, and no more")
    only = Suggestion(
        [policy for policy in suggestion.policies if policy.workload in ("cart", "web")], suggestion.warnings
    )
    click.echo(text(only), nl=False)
    click.echo(f"# … and {len(suggestion.policies) - len(only.policies)} more")
    documents = [manifest(policy) for policy in suggestion.policies]
    _heading("2. sidelight policy check: all of them, against the same traffic")
    whole = _check(objects, [policy_of(document) for document in documents], edges, flows)
    _heading("3. the same without cart's ingress rule for web")
    cart = next(document for document in documents if document["metadata"]["name"] == "sidelight-cart")
    cart["spec"]["ingress"] = []
    less = _check(objects, [policy_of(document) for document in documents], edges, flows)
    _heading("4. a policy in the cluster that nobody enforces: denied, yet flowing")
    found.api.put("networkpolicies", {"metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {"matchLabels": {"app": "redis"}}}})  # fmt: skip
    now = read_cluster(kubeconfig)
    result = check(now.policies, now.policies, now.cluster, edges)
    print_check(result, flows, now.policies, show_all=False, proposed=False)
    if whole.cut or not less.cut or not result.unenforced:
        raise SidelightError("the walk did not come out as it has to")


def _check(objects: Objects, policies: list[Policy], edges: list[Edge], flows: Flows) -> Result:
    result = check(objects.policies, policies, objects.cluster, edges)
    print_check(result, flows, policies, show_all=False, proposed=True)
    return result


def _heading(words: str) -> None:
    click.echo(f"\n{click.style(words, bold=True)}\n")
