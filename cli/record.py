"""`sidelight record`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from sidelight.agent.errors import SidelightError
from sidelight.cli import options
from sidelight.cli.client import connect
from sidelight.cli.recording import FlowWriter
from sidelight.cli.selection import Selection
from sidelight.exporter.proto import observer_pb2


@click.command("record")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("selectors", nargs=-1)
@options.connection_options
@options.cgroup_option
@click.option("--seconds", default=0.0, help="Stop after this time. Default: at Ctrl-C.", show_default=False)
@click.option("--failed", is_flag=True, help="Failures only.")
@click.option("--everything", is_flag=True, help="Begin with what the agent still has in memory.")
def record_command(
    file: Path, selectors: tuple[str, ...], seconds: float, failed: bool, everything: bool, **arguments: Any
) -> None:
    """Write flows to FILE; appends to a recording that is there. Read it with `sidelight tail --file FILE`.

    \b
    Examples:
      sidelight record incident.flows
      sidelight record incident.flows shop/web --failed --seconds 60
      sidelight tail --file incident.flows -o jsonpb
    """
    selection = Selection(selectors=selectors, failed=failed)
    wanted = selection.local()
    request = observer_pb2.GetFlowsRequest(follow=True, whitelist=selection.filters())
    if everything:
        request.since.FromSeconds(0)
    if seconds:
        request.until.FromNanoseconds(time.time_ns() + int(seconds * 1e9))
    writer = FlowWriter(file)
    try:
        try:
            with connect(arguments) as client, client.until_interrupted():
                for response in client.flows(request):
                    if response.HasField("lost_events") or wanted(response.flow):
                        writer.add(response)
        except KeyboardInterrupt:
            click.echo("", err=True)
        finally:
            writer.close()
    except OSError as error:
        raise SidelightError(
            f"cannot write {file}: {error.strerror or error}; {writer.written} flows are safe"
        ) from None
    click.echo(f"{writer.written} flows in {file}", err=True)
