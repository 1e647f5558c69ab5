"""`sidelight status`."""

from __future__ import annotations

import json
from typing import Any

import click

from sidelight.analysis.wording import bytes_text, duration_text
from sidelight.cli import options
from sidelight.cli.client import connect


@click.command("status")
@options.connection_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status_command(output: str, **arguments: Any) -> None:
    """How an agent does: what it saw, lost and costs.

    \b
    Examples:
      sidelight status
      sidelight status --server node-3:4244 --tls-ca ca.crt -o json
    """
    with connect(arguments, own_agent=False) as client:
        answers = client.query_each("status")
    if output == "json":
        found = [answer for _, answer in answers]
        click.echo(json.dumps(found[0] if len(found) == 1 else found, indent=2))
        return
    for _, answer in answers:
        _print(answer)


def _print(found: dict[str, Any]) -> None:
    seen, lost = found["seen"], found["lost"]
    click.echo(f"sidelight {found['version']}, instance {found['instance']}, up {duration_text(found['uptime_s'])}")
    if found["node"]:
        click.echo(f"  node         {found['node']}" + (f" of cluster {found['cluster']}" if found["cluster"] else ""))
    click.echo(f"  observes     {found['cgroup']}" + (f" ({found['failed']})" if found["failed"] else ""))
    click.echo(
        f"  connections  {seen['seen_opened']} opened, {seen['seen_closed']} closed, {seen['seen_failed']} failed, {seen['seen_adopted']} adopted"
    )
    click.echo(
        f"  requests     {seen['seen_requests']} seen, {seen['seen_responses']} answered, {seen['seen_unanswered']} without a response"
    )
    for title in dict.fromkeys(row["protocol"] for row in found["coverage"]):
        rows = [row for row in found["coverage"] if row["protocol"] == title and row["exchanges"]]
        if rows:
            parts = (
                f"{row['exchanges']} {row['outcome']}" + (f" ({row['reason']})" if row["reason"] else "")
                for row in rows
            )
            click.echo(f"    {title:10} {', '.join(parts)}")
    click.echo(f"  flows        {found['flows_seen']} kept of {seen['seen_events']} events")
    click.echo(f"  edges        {found['edges']}, kernel maps {max(found['map_fill'].values()):.1%} full")
    click.echo(
        f"  cost         {found['cpu_s']:.1f} s of CPU, {bytes_text(found['rss_bytes'])}, shed: {found['shed'].replace('_', ' ')}"
    )
    for hook in found["bpf"]:
        if hook["runs"]:
            click.echo(f"    {hook['hook']:12} {hook['runs']} runs, {hook['run_time_ns'] / hook['runs']:.0f} ns each")
    names = ", ".join(f"{name.removeprefix('lost_')} {n}" for name, n in lost.items()) or "nothing"
    click.echo(f"  lost         {names}")
    undecided = ", ".join(f"{name.removeprefix('lost_')} {n}" for name, n in found["undecided"].items()) or "nothing"
    click.echo(f"  undecided    {undecided}")
