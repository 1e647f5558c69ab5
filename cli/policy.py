"""`sidelight policy`: network policies from what was seen, and against it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.cli import options
from sidelight.cli.policy_text import check_json, describe, print_check, steps_json
from sidelight.cli.selection import duration_s

if TYPE_CHECKING:
    from sidelight.analysis.policy.model import Direction, End, Policy
    from sidelight.analysis.policy.suggest import Suggestion
    from sidelight.cli.policy_sources import Flows, Objects
    from sidelight.exporter.proto import observer_pb2

object_options = options.chain(
    click.option("--kubeconfig", default="", metavar="FILE", help="Pods, nodes and policies of this cluster. Default: in-cluster."),
    click.option("--objects", "object_paths", multiple=True, type=click.Path(path_type=Path, exists=True), metavar="FILE",
                 help="...or of files: `kubectl get pods,ns,nodes,netpol -A -o json`; repeat for several."),
)  # fmt: skip
facts = options.chain(
    options.connection_options,
    object_options,
    click.option("--since", default="1h", show_default=True, metavar="DURATION", help="Flows of agents since then."),
    click.option("--file", "files", multiple=True, type=click.Path(path_type=Path, exists=True), metavar="FILE",
                 help="Flows of recordings (`sidelight record`) instead; repeat for several."),
    click.option("--prometheus", metavar="URL", help="Edges by workload from there instead: no addresses outside, a pod for its workload."),
)  # fmt: skip


@click.group("policy")
def policy_command() -> None:
    """Network policies: suggested from what was seen, checked against it before they bite.

    \b
    Examples:
      sidelight policy suggest shop > shop.yaml
      sidelight policy check shop.yaml
      sidelight policy check                        the cluster's own, as they are: denied, yet flowing?
      sidelight policy explain shop/web-1 shop/redis-0 6379
    """


@policy_command.command("check")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE]...")
@facts
@click.option("--replace", is_flag=True, help="The files' policies alone, without those of the cluster.")
@click.option(
    "--all", "show_all", is_flag=True, help="Every edge with its walk, not only those that change or should not be."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def check_command(paths: tuple[Path, ...], replace: bool, show_all: bool, output: str, **arguments: Any) -> None:
    """What policies in FILEs, beside those of the cluster, would do to the traffic that was seen.

    A file's policy replaces the cluster's of the same kind and name. Exit status: 0 nothing that flows would be cut, 1 something would be,
    2 usage, 3 could not look.

    \b
    Examples:
      sidelight policy check new.yaml --since 24h
      sidelight policy check --file week.flows --objects cluster.json policies/
    """
    from sidelight.analysis.policy.check import check
    from sidelight.analysis.policy.observed import edges_of

    new = _read_policies(paths)
    if paths and not new:
        raise ConfigError(f"no network policies in {', '.join(map(str, paths))}")
    objects, flows = _look(arguments)
    then = new if replace and paths else _beside(objects.policies, new)
    result = check(objects.policies, then, objects.cluster, edges_of(flows.observations))
    if output == "json":
        click.echo(json.dumps(check_json(result, flows), indent=2))
    else:
        print_check(result, flows, then, show_all, bool(paths))
    sys.exit(1 if result.cut else 0)


@policy_command.command("suggest")
@click.argument("namespaces", nargs=-1, metavar="[NAMESPACE]...")
@facts
@click.option(
    "--format",
    "form",
    type=click.Choice(["networkpolicy", "cilium", "clusternetworkpolicy"]),
    default="networkpolicy",
    show_default=True,
)
@click.option("--ingress-only", is_flag=True, help="Nothing about what they may ask of others.")
@click.option("--all-of-it", is_flag=True, help="As if there were no policies yet.")
@click.option(
    "--split", is_flag=True, help="Learn on the first half of the time, judge on the other, print the false-cut rate."
)
@click.option("--diff", is_flag=True, help="What applying it would change in the cluster, as a unified diff.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def suggest_command(
    namespaces: tuple[str, ...],
    form: str,
    ingress_only: bool,
    all_of_it: bool,
    split: bool,
    diff: bool,
    output: str,
    **arguments: Any,
) -> None:
    """Policies that allow what was seen, with the evidence of each rule, for the workloads of these namespaces (all but kube-system).

    Exit status: 0, 2 usage, 3 could not look.

    \b
    Examples:
      sidelight policy suggest shop --since 24h > shop.yaml
      sidelight policy suggest shop --split
      sidelight policy suggest shop --format cilium
    """
    from sidelight.analysis.policy.model import Direction
    from sidelight.analysis.policy.observed import edges_of
    from sidelight.analysis.policy.render import suggestion_json, text
    from sidelight.analysis.policy.suggest import suggest

    objects, flows = _look(arguments)
    unknown = set(namespaces) - {pod.namespace for pod in objects.cluster.pods}
    if unknown:
        raise ConfigError(f"no pods in {', '.join(sorted(unknown))}")
    directions = (Direction.INGRESS,) if ingress_only else tuple(Direction)
    existing = [] if all_of_it else objects.policies
    if split:
        _split(objects, flows, namespaces, directions)
        return
    suggestion = suggest(edges_of(flows.observations), objects.cluster, existing, namespaces, directions)
    suggestion.warnings[:0] = _warnings(objects, flows)
    if diff:
        click.echo(_diff(suggestion, objects, form), nl=False)
    elif output == "json":
        click.echo(json.dumps(suggestion_json(suggestion, form), indent=2))
    else:
        click.echo(text(suggestion, form), nl=False)


@policy_command.command("explain")
@click.argument("source")
@click.argument("destination")
@click.argument("port", type=click.IntRange(1, 65535))
@click.option("--protocol", type=click.Choice(["TCP", "UDP", "SCTP"]), default="TCP", show_default=True)
@click.option(
    "--policies",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="Besides the cluster's.",
)
@object_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain_command(
    source: str, destination: str, port: int, protocol: str, paths: tuple[Path, ...], output: str, **arguments: Any
) -> None:
    """What policies say of traffic that nobody has seen: NAMESPACE/POD, node:NAME or an address, at either end.

    Exit status: 0 allowed, 1 denied, 2 usage, 3 undefined, or could not look.

    \b
    Examples:
      sidelight policy explain shop/web-7d9f-abcde shop/redis-0 6379
      sidelight policy explain 198.51.100.10 shop/web-7d9f-abcde 8080 --objects cluster.json --policies new.yaml
    """
    from sidelight.analysis.policy.check import walk_text
    from sidelight.analysis.policy.evaluate import Evaluator, Verdict
    from sidelight.analysis.policy.model import Traffic

    objects = _objects(arguments)
    policies = _beside(objects.policies, _read_policies(paths))
    traffic = Traffic(_end(source, objects, destination), _end(destination, objects, source), port, protocol)
    decision = Evaluator(policies, objects.cluster).decide(traffic)
    if output == "json":
        click.echo(json.dumps({"verdict": str(decision.verdict), "walk": steps_json(decision.steps)}, indent=2))
    else:
        click.echo(f"{decision.verdict}\n    {walk_text(decision.steps)}")
    sys.exit({Verdict.ALLOWED: 0, Verdict.DENIED: 1, Verdict.UNDEFINED: 3}[decision.verdict])


def _read_policies(paths: tuple[Path, ...]) -> list[Policy]:
    from sidelight.cli.policy_sources import objects_of, read_documents

    return [policy for path in paths for policy in objects_of(read_documents(path)).policies]


def _beside(existing: list[Policy], new: list[Policy]) -> list[Policy]:
    """Both; a new one takes the place of one of its kind and name."""
    titles = {policy.title for policy in new}
    return [policy for policy in existing if policy.title not in titles] + new


def _end(text: str, objects: Objects, other: str) -> End:
    """An end as people write it; of the address family of the other, where that is an address."""
    import ipaddress

    from sidelight.analysis.policy.model import End

    if text.startswith("node:"):
        node = next((n for n in objects.cluster.nodes if n.name == text[5:]), None)
        if node is None:
            raise ConfigError(f"no node {text[5:]!r}")
        return End(node.addresses[0] if node.addresses else None, node=node)
    nodes = {address: node for node in objects.cluster.nodes for address in node.addresses}
    if "/" in text:
        pod = next((p for p in objects.cluster.pods if f"{p.namespace}/{p.name}" == text), None)
        if pod is None:
            raise ConfigError(f"no pod {text!r}")
        six = ":" in other and not other.startswith("node:")
        family = [a for a in pod.addresses if (a.version == 6) == six] or list(pod.addresses)
        found = family[0] if family else None
        return End(found, pod=pod, node=nodes.get(found) if pod.host_network and found else None)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(f"{text!r}: want NAMESPACE/POD, node:NAME or an address") from None
    owner = next((p for p in objects.cluster.pods if address in p.addresses and not p.host_network), None)
    return End(address, pod=owner, node=None if owner else nodes.get(address))


def _objects(arguments: dict[str, Any]) -> Objects:
    """Of files, or of the cluster. Exits with status 3 when there are none."""
    from sidelight.cli.policy_sources import objects_of, read_cluster, read_documents

    paths = arguments["object_paths"]
    if paths:
        found = objects_of(document for path in paths for document in read_documents(path))
    else:
        try:
            found = read_cluster(arguments["kubeconfig"])
        except SidelightError as error:
            _could_not_look(str(error))
    if not found.cluster.pods:
        _could_not_look("there are no pods among the objects")
    return found


def _look(arguments: dict[str, Any]) -> tuple[Objects, Flows]:
    """Exits with status 3 when there is nothing to see."""
    objects = _objects(arguments)
    try:
        flows = _flows(objects, arguments)
    except ConfigError:
        raise
    except SidelightError as error:
        _could_not_look(str(error))
    if not flows.observations:
        _could_not_look("no connections were seen in that time")
    return objects, flows


def _could_not_look(why: str) -> NoReturn:
    click.echo(f"sidelight: could not look: {why}", err=True)
    sys.exit(3)


def _flows(objects: Objects, arguments: dict[str, Any]) -> Flows:
    """Raises SidelightError."""
    from sidelight.cli.policy_sources import Reader, from_prometheus

    if arguments["prometheus"]:
        from sidelight.exporter.verify.prometheus import Api

        return from_prometheus(Api(arguments["prometheus"]), objects, duration_s(arguments["since"]), time.time())
    return Reader(objects).read(_responses(arguments))


def _responses(arguments: dict[str, Any]) -> Iterator[observer_pb2.GetFlowsResponse]:
    from sidelight.cli.client import connect
    from sidelight.cli.recording import read_all
    from sidelight.exporter.proto import observer_pb2

    if arguments["files"]:
        for path in arguments["files"]:
            yield from read_all(path)
        return
    request = observer_pb2.GetFlowsRequest()
    request.since.FromNanoseconds(time.time_ns() - int(duration_s(arguments["since"]) * 1e9))
    try:
        with connect(arguments, own_agent=False) as client:
            yield from client.flows(request)
    except ConfigError as error:
        raise SidelightError(str(error)) from None


def _warnings(objects: Objects, flows: Flows) -> list[str]:
    """What the window cannot know."""
    from sidelight.analysis.policy.render import moment

    first = min(seen.at for seen in flows.observations)
    last = max(seen.at for seen in flows.observations)
    found = [f"seen from {moment(first)} to {moment(last)}: what comes less often than that is not allowed"]
    if flows.lost:
        found.append(f"{flows.lost} flows were lost or held back: what only they showed is not allowed")
    silent = sorted(name for name, ran in objects.cron_jobs.items() if ran < first)
    if silent:
        found.append(f"CronJobs that did not run meanwhile: {', '.join(silent[:10])}")
    young = sorted(name for name, began in objects.began.items() if began > first)
    if young:
        found.append(f"all pods younger than the window: {', '.join(young[:10])}")
    nodes = {node.name for node in objects.cluster.nodes}
    if missing := sorted(nodes - flows.nodes):
        found.append(f"nodes without an agent that reported: {', '.join(missing[:10])}")
    return found


def _split(objects: Objects, flows: Flows, namespaces: tuple[str, ...], directions: tuple[Direction, ...]) -> None:
    from sidelight.analysis.policy.holdout import hold_out

    rows = hold_out(flows.observations, objects.cluster, namespaces, directions)
    click.echo(f"{'learned for':>12} {'judged':>8} {'cut':>8} {'false-cut rate':>15} {'edges cut':>10}")
    for row in rows:
        rate = row.cut / row.judged if row.judged else 0.0
        click.echo(f"{row.learned_s:10.0f} s {row.judged:8} {row.cut:8} {rate:15.2%} {row.edges_cut:10}")


def _diff(suggestion: Suggestion, objects: Objects, form: str) -> str:
    """Of the policies of the same names as they are in the cluster: their rules, as the model has them."""
    import difflib

    from sidelight.analysis.policy.objects import policy_of
    from sidelight.analysis.policy.render import manifest

    if form == "cilium":
        raise ConfigError("--diff knows the kinds of Kubernetes: networkpolicy or clusternetworkpolicy")
    known = {policy.title: policy for policy in objects.policies}
    lines: list[str] = []
    for suggested in suggestion.policies:
        policy = policy_of(manifest(suggested, form))
        before = describe(known[policy.title]) if policy.title in known else []
        lines += difflib.unified_diff(
            before, describe(policy), f"cluster/{policy.title}", f"suggested/{policy.title}", lineterm=""
        )
    return "".join(f"{line}\n" for line in lines) or "nothing would change\n"
