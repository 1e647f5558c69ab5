"""`sidelight explain`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

from sidelight.agent.errors import ConfigError
from sidelight.analysis.explanations import explain as explain_metric
from sidelight.cli import options
from sidelight.cli.client import Client, connect
from sidelight.cli.selection import moment
from sidelight.exporter.proto import flow_pb2, observer_pb2


@click.command("explain")
@click.argument("what")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The server's port, for service addresses.")
@click.option("--at", "when", default="", metavar="TIME", help="As of then: 5m (ago), or 2024-05-01T12:00:00.")
@options.connection_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain_command(what: str, port: int, when: str, output: str, **arguments: Any) -> None:
    """Tell how an address, or a flow's ends, were named, and what else they could have been; or what a metric of `verify` is.

    \b
    Examples:
      sidelight explain 10.1.2.3
      sidelight explain 10.96.0.10 --port 53 --at 10m
      sidelight explain 6f0f7a1e-5d0c-4a52-9d8f-1c2d3e4f5a6b      a flow's uuid, from tail -o json
      sidelight explain http.tail                                 a metric of a verdict
    """
    if paragraphs := explain_metric(what):
        click.echo(
            json.dumps(paragraphs) if output == "json" else "\n\n".join(click.wrap_text(p, 100) for p in paragraphs)
        )
        return
    now = datetime.now(UTC)
    at = moment(when, now) if when else now
    with connect(arguments, own_agent=False) as client:
        if what.count("-") == 4:
            address, at, port = _address_of_flow(client, what)
        else:
            address = what
        answers = client.query_each("explain", f"{address} {port} @{at.timestamp()}")
    if output == "json":
        documents = [answer for _, answer in answers]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
        return
    for name, found in answers:
        if len(answers) > 1:
            click.echo(f"{name}:")
        _print(found, at)


def _print(found: dict[str, Any], at: datetime) -> None:
    chosen = found["chosen"]
    click.echo(f"{found['address']} at {at.isoformat(timespec='seconds')}: {chosen['name']}")
    click.echo(
        f"  a {chosen['kind']}, known by {chosen['provenance']}"
        + (f" ({chosen['reason']})" if chosen["reason"] else "")
    )
    for candidate in found["candidates"]:
        span = ""
        if "since" in candidate:
            until = candidate["until"]
            ended = f" until {datetime.fromtimestamp(until).isoformat(timespec='seconds')}" if until else ""
            span = f" since {datetime.fromtimestamp(max(0, candidate['since'])).isoformat(timespec='seconds')}{ended}"
        click.echo(f"  {'*' if candidate['valid'] else ' '} {candidate['source']:15} {candidate['name']}{span}")
    if not found["candidates"]:
        click.echo("  nothing else was known of it")


def _address_of_flow(client: Client, uuid: str) -> tuple[str, datetime, int]:
    request = observer_pb2.GetFlowsRequest(number=1, whitelist=[flow_pb2.FlowFilter(uuid=[uuid])])
    for response in client.flows(request):
        flow = response.flow
        end = flow.IP.destination if flow.traffic_direction == flow_pb2.EGRESS else flow.IP.source
        return end, flow.time.ToDatetime(UTC), flow.l4.TCP.destination_port
    raise ConfigError(f"no flow {uuid} in the agent's memory")
