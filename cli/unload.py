"""`sidelight unload`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from sidelight.agent import loader
from sidelight.agent.errors import SidelightError
from sidelight.agent.settings import STATE_ROOT, StateDirectory
from sidelight.cli import options


@click.command("unload")
@options.instance_option
@options.bpffs_option
@click.option("--all", "everything", is_flag=True, help="Every instance.")
def unload_command(instance: str, bpffs: Path, everything: bool) -> None:
    """Detach the programs and remove every trace: pins, maps, state.

    \b
    Examples:
      sidelight unload
      sidelight unload --instance services
    """
    options.require_root()
    loader.check_bpffs(bpffs)
    root = bpffs / "sidelight"
    names = [instance]
    if everything:
        names = sorted({p.name for d in (root, STATE_ROOT) if d.is_dir() for p in d.iterdir() if p.is_dir()})
    for name in names:
        try:
            state = StateDirectory(STATE_ROOT, name)
        except SidelightError as error:
            raise SidelightError(f"{error}; stop it first") from None
        removed = loader.unload(name, bpffs)
        state.release()
        shutil.rmtree(STATE_ROOT / name, ignore_errors=True)
        click.echo(f"instance {name}: " + ("detached and removed" if removed else "nothing was loaded"))
