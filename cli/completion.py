"""`sidelight completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the shell's completion script; it completes live workload names too.

    \b
    Examples:
      source <(sidelight completion bash)
      sidelight completion fish > ~/.config/fish/completions/sidelight.fish
    """
    from sidelight.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "sidelight", "_SIDELIGHT_COMPLETE").source())
