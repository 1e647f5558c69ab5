"""`sidelight map`."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from sidelight.analysis.wording import bytes_text, duration_text
from sidelight.cli import options
from sidelight.cli.client import connect
from sidelight.exporter.map import dot, mermaid


@click.command("map")
@options.connection_options
@options.cgroup_option
@click.option(
    "--output", "-o", type=click.Choice(["tree", "mermaid", "dot", "json"]), default="tree", show_default=True
)
@click.option("--seconds", default=5.0, help="Without an agent: how long to look first.", show_default=True)
def map_command(output: str, seconds: float, **arguments: Any) -> None:
    """Who talks to whom: the service map.

    \b
    Examples:
      sidelight map
      sidelight map -o mermaid > map.mmd
      sidelight map -o dot | dot -Tsvg > map.svg
    """
    with connect(arguments) as client:
        found = client.query("map")
        if not found["edges"]:
            time.sleep(seconds)
            found = client.query("map")
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    elif output == "mermaid":
        click.echo(mermaid(found), nl=False)
    elif output == "dot":
        click.echo(dot(found), nl=False)
    else:
        _tree(found)


def _tree(found: dict[str, Any]) -> None:
    by_source: dict[str, list[dict[str, Any]]] = {}
    for edge in found["edges"]:
        by_source.setdefault(edge["source"], []).append(edge)
    if not by_source:
        click.echo("nothing has talked yet")
    for source, edges in sorted(by_source.items()):
        click.echo(click.style(source, bold=True))
        for edge in sorted(edges, key=lambda e: -(e["requests"] or e["connections"])):
            port = f":{edge['ports'][0]}" if edge["ports"] and edge["ports"][0] else ""
            if edge["requests"]:
                text = f"{edge['requests']} requests, p50 {duration_text(edge['p50_s'])}, p99 {duration_text(edge['p99_s'])}"
                if edge["errors"]:
                    text += click.style(f", {edge['errors']} errors", fg="red")
            else:
                text = f"{edge['connections']} connections, {bytes_text(edge['bytes'])}"
            if edge["failed"]:
                text += click.style(f", {edge['failed']} failed", fg="red")
            service = f" (svc {edge['service']})" if edge["service"] else ""
            click.echo(f"  -> {edge['target']}{port}{service}  {text}")
