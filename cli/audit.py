"""`sidelight audit`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from sidelight.cli import options
from sidelight.cli.client import connect


@click.command("audit")
@options.connection_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def audit_command(output: str, **arguments: Any) -> None:
    """Compare what was seen with what was booked, stage by stage. Status 1 where they differ.

    \b
    Examples:
      sidelight audit
    """
    with connect(arguments, own_agent=False) as client:
        answers = client.query_each("audit")
    if output == "json":
        found = [answer for _, answer in answers]
        click.echo(json.dumps(found[0] if len(found) == 1 else found, indent=2))
    else:
        for name, answer in answers:
            if len(answers) > 1:
                click.echo(name)
            for law in answer["laws"]:
                mark = "holds" if law["holds"] else f"BROKEN by {law['seen'] - law['accounted']}"
                click.echo(f"{law['law']:34} seen {law['seen']:>12}  accounted {law['accounted']:>12}  {mark}")
    sys.exit(0 if all(answer["holds"] for _, answer in answers) else 1)
