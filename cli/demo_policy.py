"""`sidelight demo --policy`: from the shop's traffic to policies, what they would cut, and what is denied, yet flows."""

from __future__ import annotations

import time
from typing import Any

import click

from sidelight.agent.errors import SidelightError
from sidelight.analysis.policy.check import Result, check
from sidelight.analysis.policy.model import Policy
from sidelight.analysis.policy.objects import policy_of
from sidelight.analysis.policy.observed import Edge, edges_of
from sidelight.analysis.policy.render import manifest, text
from sidelight.analysis.policy.suggest import Suggestion, suggest
from sidelight.cli.client import Client
from sidelight.cli.demo_cluster import observed_cluster
from sidelight.cli.demo_kubernetes import SHOPPING
from sidelight.cli.policy_sources import Flows, Objects, Reader, read_cluster
from sidelight.cli.policy_text import print_check
from sidelight.exporter.proto import observer_pb2


def run(seconds: float) -> None:
    """Raises SidelightError when what was suggested would cut something, or what was taken away would not."""
    with observed_cluster("policy") as place:
        pods = place.module.shop(place.found)
        time.sleep(1.0)
        click.echo(f"The shop is open for {seconds:g} seconds …")
        place.found.run(pods["load"], "python3", "-c", SHOPPING.format(seconds=seconds)).wait()
        place.runtime.agent.drain_now()
        _walk(place.client, place.found)


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
